//! A cluster, its nodes, a user, and an operator that can be killed between any two calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::events::Event;
use serde_json::{Value, json};
use umbra_crds::{DeviceGrant, ImagingNode, ImagingOperation, MasterVolume, SetGroup, VolumeSet};
use umbra_facade::{ClientError, Fence};
use umbra_operator::cluster::{Cluster, ClusterError, Key, Kind};
use umbra_operator::nodes::{Change, NodeAddress, Nodes};
use umbra_operator::reconcile::{Reconciled, reconcile};
use umbra_platform::Platform;
use umbra_platform::call::{Answer, Outcome, Scope};
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::id::RequestId;
use umbra_platform::status::{SetStatus, Status};
use umbra_platform::value::ByteCount;

use crate::cluster::Objects;
use crate::controllers;

pub(crate) const NAMESPACE: &str = "prod";
/// Rounds in which everything must come to rest.
const ROUNDS_MAX: u32 = 100;
const NEVER: u64 = u64::MAX;

/// When the operator is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Before this call is made.
    Before(u64),
    /// When this call has been made, and its answer is lost.
    After(u64),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) objects: Objects,
    nodes: BTreeMap<String, Arc<Fake>>,
    /// The highest fence that each node has seen.
    fences: Mutex<BTreeMap<String, Fence>>,
    /// Nodes that do not answer.
    silent: AtomicBool,
    clock: AtomicI64,
    calls: AtomicU64,
    kill_before: AtomicU64,
    kill_after: AtomicU64,
    dead: AtomicBool,
    /// Whether the controllers of Kubernetes run.
    controlled: bool,
    /// Volumes that were wiped because they were reclaimed.
    wiped: Mutex<Vec<String>>,
}

impl Bench {
    /// A cluster with the nodes `a` and `b`, each with the devices `d0` to `d7`, all of which are granted.
    pub(crate) fn new() -> Self {
        let mut nodes = BTreeMap::new();
        for node in ["a", "b"] {
            let fake = Fake::new();
            for at in 0..12 {
                let size = ByteCount(if at % 3 == 0 { 1 << 20 } else { 64 << 20 });
                fake.add_device(&device(at), FakeDevice::disk(size, &format!("{node}{at}")));
            }
            nodes.insert(node.to_owned(), fake);
        }
        let bench = Self::over(nodes);
        bench.furnish();
        bench
    }

    /// The same, with the controllers of Kubernetes.
    pub(crate) fn with_controllers() -> Self {
        let mut bench = Self::new();
        bench.controlled = true;
        bench.objects.protect();
        bench
    }

    /// The controllers have their turn.
    pub(crate) fn controllers(&self) {
        if self.controlled {
            let wiped = controllers::run(&self.objects);
            self.wiped.lock().expect("no test goes on after a panic").extend(wiped);
        }
    }

    pub(crate) fn wiped_volumes(&self) -> Vec<String> {
        self.wiped.lock().expect("no test goes on after a panic").clone()
    }

    fn over(nodes: BTreeMap<String, Arc<Fake>>) -> Self {
        Self {
            objects: Objects::default(),
            nodes,
            fences: Mutex::default(),
            silent: AtomicBool::new(false),
            clock: AtomicI64::new(1_800_000_000),
            calls: AtomicU64::new(0),
            kill_before: AtomicU64::new(NEVER),
            kill_after: AtomicU64::new(NEVER),
            dead: AtomicBool::new(false),
            controlled: false,
            wiped: Mutex::default(),
        }
    }

    /// The same nodes under a cluster that has lost everything.
    pub(crate) fn wiped(&self) -> Self {
        let bench = Self::over(self.nodes.clone());
        bench.furnish();
        bench
    }

    fn furnish(&self) {
        self.make::<Namespace>(&json!({"metadata": {"name": NAMESPACE}}));
        for node in self.nodes.keys() {
            self.make::<Node>(&json!({"metadata": {"name": node, "labels": {"pool": "yes",
                "kubernetes.io/hostname": format!("host-{node}")}}}));
            self.make::<ImagingNode>(
                &json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingNode",
                "metadata": {"name": node}, "spec": {}, "status": {"endpoint": format!("{node}:9751")}}),
            );
        }
        self.make::<DeviceGrant>(&json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "DeviceGrant",
            "metadata": {"name": "all"}, "spec": {"nodeSelector": {"matchLabels": {"pool": "yes"}},
            "devices": [{"idPattern": "/dev/disk/by-id/*"}], "roles": ["Master", "Shadow", "Bitmap"],
            "namespaces": [NAMESPACE]}}));
    }

    pub(crate) fn make<K: Kind>(&self, object: &Value) -> K {
        let object: K = serde_json::from_value(object.clone()).expect("an object");
        self.objects.create(&object).expect("it is new")
    }

    /// An object of the namespace.
    pub(crate) fn object<K: Kind>(&self, name: &str) -> Option<K> {
        self.objects.get(&Key::namespaced(NAMESPACE, name))
    }

    pub(crate) fn remove<K: Kind>(&self, name: &str) {
        self.objects.delete::<K>(&Key::namespaced(NAMESPACE, name)).expect("it is there");
    }

    /// Somebody changes the spec of an object.
    pub(crate) fn edit<K: Kind>(&self, name: &str, change: impl Fn(&mut Value)) {
        let key = Key::namespaced(NAMESPACE, name);
        let mut value =
            serde_json::to_value(self.objects.get::<K>(&key).expect("it is there")).expect("an object");
        change(&mut value["spec"]);
        let object: K = serde_json::from_value(value).expect("an object");
        self.objects.replace(&object, false).expect("nobody else writes");
    }

    /// Somebody who may write a status writes one.
    pub(crate) fn forge<K: Kind>(&self, name: &str, status: &Value) {
        let mut value =
            serde_json::to_value(self.object::<K>(name).expect("it is there")).expect("an object");
        value["status"] = status.clone();
        let object: K = serde_json::from_value(value).expect("an object");
        self.objects.replace(&object, true).expect("nobody else writes");
    }

    /// Somebody keeps an object from going, or lets it go.
    pub(crate) fn hold<K: Kind>(&self, name: &str, held: bool) {
        let mut object = self.object::<K>(name).expect("it is there");
        object.meta_mut().finalizers = held.then(|| vec![controllers::CLAIM_PROTECTION.to_owned()]);
        self.objects.replace(&object, false).expect("nobody else writes");
    }

    pub(crate) fn fake(&self, node: &str) -> &Arc<Fake> {
        &self.nodes[node]
    }

    /// A master on device `at` of a node, published as `NAME-data`.
    pub(crate) fn master(&self, name: &str, node: &str, at: usize) {
        self.make::<MasterVolume>(&json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "MasterVolume",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"source": {"device": source(node, at)}, "publish": {"claimName": format!("{name}-data")}}}));
    }

    /// A set on devices `at` and `at + 1` of a node, published as `NAME-image`.
    pub(crate) fn set(&self, name: &str, master: &str, mode: &str, node: &str, at: usize) {
        self.make::<VolumeSet>(&set(name, master, mode, node, at));
    }

    pub(crate) fn group(&self, name: &str, members: &[&str]) {
        let members: Vec<Value> = members.iter().map(|name| json!({"name": name})).collect();
        self.make::<SetGroup>(&json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "SetGroup",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"volumeSets": members}}));
    }

    pub(crate) fn operation(&self, name: &str, spec: &Value) {
        self.make::<ImagingOperation>(
            &json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingOperation",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}),
        );
    }

    pub(crate) fn pod(&self, name: &str, claim: &str) {
        self.make::<Pod>(
            &json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"containers": [],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]},
            "status": {"phase": "Running"}}),
        );
    }

    /// The nodes answer nothing, or answer again.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.clock.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Kills the operator at a call, once.
    pub(crate) fn kill(&self, kill: Kill) {
        match kill {
            Kill::Before(call) => self.kill_before.store(call, Ordering::SeqCst),
            Kill::After(call) => self.kill_after.store(call, Ordering::SeqCst),
        }
    }

    /// Another operator takes the place of one that was killed.
    pub(crate) fn revive(&self) {
        self.kill_before.store(NEVER, Ordering::SeqCst);
        self.kill_after.store(NEVER, Ordering::SeqCst);
        self.dead.store(false, Ordering::SeqCst);
    }

    /// Calls that operators have made so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Operators run, each until it is killed, until nothing changes any more.
    pub(crate) async fn settle(&self) {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            let before = self.trace().await;
            self.round().await;
            self.controllers();
            self.pass(1);
            for fake in self.nodes.values() {
                fake.copy_some(100_000);
            }
            let is_quiet = self.trace().await == before && !self.dead.swap(false, Ordering::SeqCst);
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == 2 {
                return;
            }
        }
        panic!("nothing comes to rest: {:#?}", self.objects.events());
    }

    async fn trace(&self) -> (u64, Vec<Status>) {
        (self.objects.version(), self.statuses().await)
    }

    async fn statuses(&self) -> Vec<Status> {
        let mut all = Vec::new();
        for fake in self.nodes.values() {
            all.push(fake.status(Scope::All).await.expect("it answers"));
        }
        all
    }

    /// One look at every object.
    pub(crate) async fn round(&self) {
        self.reconcile_all::<MasterVolume>().await;
        self.reconcile_all::<VolumeSet>().await;
        self.reconcile_all::<SetGroup>().await;
        self.reconcile_all::<ImagingOperation>().await;
    }

    /// One look at every object of a kind.
    pub(crate) async fn reconcile_all<K: Reconciled>(&self) {
        for key in self.objects.keys::<K>() {
            let clock = || Time(Timestamp::from_second(self.clock.load(Ordering::SeqCst)).expect("a time"));
            let ended = reconcile::<K>(self, &key, clock).await;
            let is_dead = self.dead.load(Ordering::SeqCst);
            let is_race = matches!(ended, Err(ClusterError::Changed { .. } | ClusterError::Missing { .. }));
            assert!(ended.is_ok() || is_dead || is_race, "{key}: {ended:?}");
        }
    }

    /// A call of the operator is made; false: it is dead.
    fn begin(&self) -> bool {
        if self.dead.load(Ordering::SeqCst) {
            return false;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.kill_before.load(Ordering::SeqCst) == number {
            self.dead.store(true, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// A call has been made; false: its answer is lost with the operator.
    fn end(&self) -> bool {
        if self.kill_after.load(Ordering::SeqCst) == self.calls() - 1 {
            self.dead.store(true, Ordering::SeqCst);
            return false;
        }
        true
    }

    fn ask<T>(&self, call: impl FnOnce(&Objects) -> Result<T, ClusterError>) -> Result<T, ClusterError> {
        let lost = || ClusterError::Silent { object: "all".into(), problem: "the operator is dead".into() };
        if !self.begin() {
            return Err(lost());
        }
        let answer = call(&self.objects);
        if self.end() { answer } else { Err(lost()) }
    }

    async fn ask_node<T>(
        &self,
        node: &NodeAddress,
        call: impl AsyncFnOnce(&Fake) -> Result<T, umbra_platform::PlatformError>,
    ) -> Result<T, ClientError> {
        let lost = || ClientError::NotReachable {
            node: node.name.as_str().parse().expect("a name"),
            address: node.endpoint.clone(),
            problem: "connection refused".into(),
        };
        if !self.begin() || self.silent.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let answer = call(&self.nodes[node.name.as_str()]).await;
        if self.end() { answer.map_err(ClientError::Refused) } else { Err(lost()) }
    }

    /// A condition of an object: its status and reason.
    pub(crate) fn condition<K: Reconciled>(&self, name: &str, about: &str) -> Option<String> {
        let object = self.object::<K>(name)?;
        let found = object.conditions().iter().find(|condition| condition.type_ == about)?;
        Some(format!("{}/{}", found.status, found.reason))
    }

    /// The message of a condition.
    pub(crate) fn message<K: Reconciled>(&self, name: &str, about: &str) -> String {
        let object = self.object::<K>(name).expect("it is there");
        let found = object.conditions().iter().find(|condition| condition.type_ == about);
        found.map(|condition| condition.message.clone()).unwrap_or_default()
    }

    /// A set on its node.
    pub(crate) async fn there(&self, name: &str) -> Option<SetStatus> {
        let statuses = self.statuses().await;
        statuses.into_iter().flat_map(|status| status.sets).find(|set| set.name.name.as_str() == name)
    }

    pub(crate) async fn epoch(&self, name: &str) -> u64 {
        self.there(name).await.expect("it is there").epoch.0
    }

    /// The cut that a set holds, as its object says.
    pub(crate) fn cut_of(&self, set: &str) -> String {
        let status = self.object::<VolumeSet>(set).expect("it is there").status.expect("it has one");
        status.image.expect("it has one").cut_id.to_string()
    }

    /// What people see of everything, without what differs from run to run.
    pub(crate) async fn picture(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.show::<MasterVolume>(&mut lines);
        self.show::<VolumeSet>(&mut lines);
        self.show::<SetGroup>(&mut lines);
        self.show::<ImagingOperation>(&mut lines);
        for claim in self.objects.list::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(None) {
            lines.push(format!("claim {}", claim.name_any()));
        }
        let volumes = self.objects.list::<k8s_openapi::api::core::v1::PersistentVolume>(None);
        lines.push(format!("{} volumes", volumes.len()));
        for status in self.statuses().await {
            for master in status.masters {
                lines.push(format!("on a node: master {} {:?}", master.name, master.state));
            }
            for set in status.sets {
                lines.push(format!("on a node: set {} {} {:?}", set.name, set.epoch, set.state));
            }
        }
        lines
    }

    fn show<K: Reconciled>(&self, lines: &mut Vec<String>) {
        for object in self.objects.list::<K>(None) {
            let mut conditions: Vec<String> = object
                .conditions()
                .iter()
                .map(|one| format!("{}={}/{}", one.type_, one.status, one.reason))
                .collect();
            conditions.sort();
            let deleted = object.meta().deletion_timestamp.is_some();
            lines.push(format!("{} {} {} {deleted}", K::kind(&()), object.name_any(), conditions.join(" ")));
        }
    }
}

pub(crate) fn device(at: usize) -> String {
    format!("/dev/disk/by-id/d{at}")
}

fn source(node: &str, at: usize) -> Value {
    json!({"grantRef": {"name": "all"}, "nodeName": node, "id": device(at)})
}

/// The manifest of a set.
pub(crate) fn set(name: &str, master: &str, mode: &str, node: &str, at: usize) -> Value {
    json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "VolumeSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"masterRef": {"name": master}, "mode": mode, "chunkSize": "64Ki",
            "shadow": {"source": {"device": source(node, at)},
                "publish": {"claimName": format!("{name}-image"), "readOnly": true}},
            "bitmap": {"source": {"device": source(node, at + 1)}}}})
}

impl Cluster for Bench {
    async fn get<K: Kind>(&self, key: &Key) -> Result<Option<K>, ClusterError> {
        // Others have their turn before each call.
        tokio::task::yield_now().await;
        self.ask(|objects| Ok(objects.get(key)))
    }

    async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClusterError> {
        self.ask(|objects| Ok(objects.list(namespace)))
    }

    async fn list_where<K: Kind>(
        &self,
        namespace: &str,
        field: &'static str,
        value: &str,
    ) -> Result<Vec<K>, ClusterError> {
        self.ask(|objects| Ok(objects.list_where(namespace, field, value)))
    }

    async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        tokio::task::yield_now().await;
        self.ask(|objects| objects.create(object))
    }

    async fn replace<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        tokio::task::yield_now().await;
        self.ask(|objects| objects.replace(object, false))
    }

    async fn replace_status<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        tokio::task::yield_now().await;
        self.ask(|objects| objects.replace(object, true))
    }

    async fn replace_approval(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        self.ask(|objects| objects.approve(request))
    }

    async fn delete<K: Kind>(&self, object: &K) -> Result<(), ClusterError> {
        self.ask(|objects| match objects.get::<K>(&Key::of(object)) {
            Some(there) if there.uid() != object.uid() => {
                Err(ClusterError::Changed { object: Key::of(object).to_string() })
            }
            _ => objects.delete::<K>(&Key::of(object)),
        })
    }

    async fn announce(&self, about: ObjectReference, event: Event) {
        let about = format!("{} {}", about.kind.unwrap_or_default(), about.name.unwrap_or_default());
        self.objects.announce(&about, &event);
    }
}

impl Nodes for Bench {
    async fn status(&self, node: &NodeAddress, scope: Scope) -> Result<Status, ClientError> {
        self.ask_node(node, async |fake| fake.status(scope).await).await
    }

    async fn query_op(&self, node: &NodeAddress, request: RequestId) -> Result<Outcome, ClientError> {
        self.ask_node(node, async |fake| fake.outcome(request).await).await
    }

    async fn highest_fence(&self, node: &NodeAddress) -> Result<Option<Fence>, ClientError> {
        let seen = {
            let fences = self.fences.lock().expect("no test goes on after a panic");
            fences.get(node.name.as_str()).copied()
        };
        self.ask_node(node, async |_| Ok(seen)).await
    }

    async fn fence(&self, node: &NodeAddress, fence: Fence) -> Result<(), ClientError> {
        let learn = async |_: &Fake| {
            let mut fences = self.fences.lock().expect("no test goes on after a panic");
            let seen = fences.entry(node.name.as_str().to_owned()).or_insert(fence);
            *seen = fence.max(*seen);
            Ok(())
        };
        self.ask_node(node, learn).await
    }

    async fn change(&self, node: &NodeAddress, change: Change) -> Result<Answer, ClientError> {
        let carry_out = async |fake: &Fake| match change {
            Change::Attach(call) => fake.attach_master(call).await.map(Answer::Attached),
            Change::Detach(call) => fake.detach_master(call).await.map(Answer::Done),
            Change::Enable(call) => fake.enable_set(call).await.map(Answer::Enabled),
            Change::Disable(call) => fake.disable_set(call).await.map(Answer::Done),
            Change::Copy(call) => fake.copy(call).await.map(Answer::Copied),
            Change::Abort(call) => fake.abort(call).await.map(Answer::Done),
            Change::Limits(call) => fake.set_copy_limits(call).await.map(Answer::Done),
            Change::Reset(call) => fake.reset(call).await.map(Answer::Reset),
        };
        self.ask_node(node, carry_out).await
    }
}
