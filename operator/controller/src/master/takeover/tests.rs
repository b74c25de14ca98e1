//! Every place where a takeover and its way back can stand, and what is done next there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use umbra_crds::raw_volume::RawVolume;
use umbra_crds::{MasterVolume, NodeName, User};
use umbra_platform::PlatformError;
use umbra_platform::call::Outcome;
use umbra_platform::id::{DeviceIdentity, IdentityKind, MasterId};
use umbra_platform::status::{MasterCounters, Status};
use umbra_platform::value::{ByteCount, QueueDepth};
use uuid::Uuid;

use super::*;
use crate::master::plan;
use crate::nodes::{Attempt, NodeAddress, NodeView, request};
use crate::publish::Published;

const DEVICE: &str = "/dev/disk/by-id/d0";
const MASTER: Uuid = Uuid::from_u128(7);

fn own_name() -> String {
    format!("umbra-m-{MASTER}")
}

fn claim(uid: &str, volume: Option<&str>, phase: &str) -> PersistentVolumeClaim {
    let spec = json!({"volumeName": volume, "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "prod", "uid": uid,
        "finalizers": ["kubernetes.io/pvc-protection"],
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "s"}]},
        "spec": spec, "status": {"phase": phase}}))
    .unwrap()
}

fn volume(name: &str, bound: Option<&str>, source: &Value) -> PersistentVolume {
    let mut spec = json!({"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Delete",
        "claimRef": {"namespace": "prod", "name": "data", "uid": bound},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-a"]}]}]}}});
    spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn raw() -> PersistentVolume {
    volume("raw", Some("c-1"), &json!({"local": {"path": DEVICE}}))
}

fn own(bound: Option<&str>) -> PersistentVolume {
    let source = json!({"csi": {"driver": "imaging.umbra.dev", "volumeHandle": format!("m/{MASTER}")}});
    let mut volume = volume(&own_name(), bound, &source);
    volume.labels_mut().insert("imaging.umbra.dev/made-for".to_owned(), "m-1".to_owned());
    volume
}

fn going<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().deletion_timestamp = Some(Time(Timestamp::from_second(1).unwrap()));
    object
}

/// What is changed of a world in which a claim is bound to its raw volume, and nobody has begun with anything.
#[derive(Clone)]
struct Scene {
    view: View,
    taken: bool,
}

impl Scene {
    fn new() -> Self {
        let master: MasterVolume = serde_json::from_value(json!({"apiVersion": "imaging.umbra.dev/v1alpha1",
            "kind": "MasterVolume", "metadata": {"name": "pg", "namespace": "prod", "uid": "m-1", "generation": 1,
                "finalizers": ["imaging.umbra.dev/master"]},
            "spec": {"source": {"pvc": {"claimName": "data"}}, "takeover": {"policy": "WhenFree"}}}))
        .unwrap();
        let address = NodeAddress { name: NodeName::new("a"), endpoint: "a:1".to_owned() };
        let attempt = |text: &str| Attempt { request: request(text), before: 0, outcome: Outcome::NotSeen };
        let view = View {
            master,
            now: Time(Timestamp::from_second(10).unwrap()),
            device: Err(crate::access::NoAccess::NotUsable("nothing".to_owned())),
            node: Some(NodeView::Answers { address, status: Status::default() }),
            sets: Vec::new(),
            published: Published {
                volume: None,
                claim: Some(claim("c-1", Some("raw"), "Bound")),
                users: Vec::new(),
            },
            takeover: None,
            attach: Some(attempt("attach")),
            detach: Some(attempt("detach")),
        };
        Self { view, taken: false }.volume(raw())
    }

    /// The raw volume.
    fn volume(mut self, volume: PersistentVolume) -> Self {
        let volume_of = RawVolume::of(&volume);
        let original = if self.taken {
            let taken =
                takeover::retained(&volume, &claim("c-1", Some("raw"), "Bound"), &self.view.master).unwrap();
            let record = Record::read(&taken, &self.view.master).map(Box::new);
            Original::Taken { volume: Box::new(taken), record }
        } else {
            Original::Untouched(Some(Box::new(volume)))
        };
        let node = Ok(NodeName::new("a"));
        let takeover = Takeover { original, raw: Some(volume_of), node, namespace_ends: false };
        self.view.device = takeover.device();
        self.view.takeover = Some(takeover);
        self
    }

    fn taken(mut self) -> Self {
        self.taken = true;
        self.volume(raw())
    }

    /// The node presents the device.
    fn presented(mut self) -> Self {
        let status = self.view.master.status.get_or_insert_default();
        status.master_id = Some(umbra_crds::MasterId::new(MASTER));
        status.node_name = Some(NodeName::new("a"));
        let master = MasterStatus {
            id: MasterId(MASTER),
            name: "prod.pg".parse().unwrap(),
            state: MasterState::Serving,
            device: DEVICE.parse().unwrap(),
            identity: DeviceIdentity::new(IdentityKind::Serial, "s").unwrap(),
            presented: "/dev/umbra/by-id/7".parse().unwrap(),
            size: ByteCount(1 << 30),
            block: ByteCount(512),
            ublk: None,
            queue_depth: QueueDepth::new(128).unwrap(),
            sets: Vec::new(),
            counters: MasterCounters::default(),
        };
        if let Some(NodeView::Answers { status, .. }) = &mut self.view.node {
            status.masters = vec![master];
        }
        self
    }

    fn known(mut self) -> Self {
        self.view.master.status.get_or_insert_default().master_id = Some(umbra_crds::MasterId::new(MASTER));
        self
    }

    fn claim(mut self, claim: Option<PersistentVolumeClaim>) -> Self {
        self.view.published.claim = claim;
        self
    }

    fn own(mut self, volume: PersistentVolume) -> Self {
        self.view.published.volume = Some(volume);
        self
    }

    fn pod(mut self) -> Self {
        let (kind, namespace, name) = ("Pod".to_owned(), "prod".to_owned(), "db".to_owned());
        self.view.published.users.push(User { kind, namespace, name, read_only: false });
        self
    }

    fn unreadable(mut self) -> Self {
        if let Some(Takeover { original: Original::Taken { record, .. }, .. }) = &mut self.view.takeover {
            *record = Err("it cannot be read".to_owned());
        }
        self
    }

    fn change(mut self, change: impl FnOnce(&mut View)) -> Self {
        change(&mut self.view);
        self
    }

    fn deleted(self) -> Self {
        self.change(|view| view.master = going(view.master.clone()))
    }

    /// What is said of the takeover, and what is done.
    fn next(&self) -> String {
        self.after(None)
    }

    fn after(&self, refused: Option<&ClientError>) -> String {
        let plan = plan::plan(&self.view, refused);
        let conditions = &plan.object.status.unwrap().conditions;
        let of = |about: &str| {
            conditions.iter().find(|found| found.type_ == about).map(|found| found.reason.clone())
        };
        let does = match plan.effect {
            None => "nothing".to_owned(),
            Some(Effect::Publish(step)) => match step {
                Step::CreateVolume(volume) => format!("creates {}", volume.name_any()),
                Step::CreateClaim(claim) => format!("creates claim of {}", volume_of(&claim).unwrap()),
                Step::DeleteClaim(claim) => format!("deletes claim {}", claim.uid().unwrap()),
                Step::DeleteVolume(volume) => format!("deletes {}", volume.name_any()),
            },
            Some(Effect::Raw(volume)) => {
                let spec = volume.spec.clone().unwrap();
                let mark = if volume.labels().is_empty() { "free" } else { "marked" };
                let policy = spec.persistent_volume_reclaim_policy.unwrap();
                format!(
                    "writes {} {policy} {mark} {}",
                    volume.name_any(),
                    bound_to(&volume).unwrap_or("open")
                )
            }
            Some(Effect::Attach(..)) => "attaches".to_owned(),
            Some(Effect::Detach(..)) => "detaches".to_owned(),
            Some(Effect::AddFinalizer) => "holds".to_owned(),
            Some(Effect::RemoveFinalizer) => "lets go".to_owned(),
        };
        format!("{}: {does}", of("TakenOver").unwrap_or_default())
    }

    /// The message about the takeover.
    fn message(&self) -> String {
        let conditions = plan::plan(&self.view, None).object.status.unwrap().conditions;
        conditions.into_iter().find(|found| found.type_ == "TakenOver").unwrap().message
    }

    fn step(&self) -> TakeoverStep {
        plan::plan(&self.view, None).object.status.unwrap().takeover_step.unwrap()
    }
}

fn swapped() -> Scene {
    Scene::new().taken().presented().own(own(Some("c-2"))).claim(Some(claim(
        "c-2",
        Some(&own_name()),
        "Bound",
    )))
}

#[test]
fn the_way_there() {
    let begun = Scene::new();
    assert_eq!(begun.next(), "Preparing: writes raw Retain marked c-1");
    let retained = begun.clone().taken();
    assert_eq!((retained.next(), retained.step()), ("Preparing: attaches".into(), TakeoverStep::Retained));
    let used = retained.clone().pod();
    assert_eq!((used.next(), used.step()), ("WaitingForPods: nothing".into(), TakeoverStep::WaitingForPods));
    assert!(used.message().contains("pod db"));
    let presented = retained.presented();
    assert_eq!(presented.next(), format!("Preparing: creates {}", own_name()));
    assert_eq!(presented.step(), TakeoverStep::DeviceStarted);
    let prepared = presented.own(own(None));
    assert_eq!(
        (prepared.next(), prepared.step()),
        ("Preparing: deletes claim c-1".into(), TakeoverStep::VolumeCreated)
    );
    // Pods that came meanwhile cannot start, and keep the claim: it is deleted all the same, or they would for ever.
    assert_eq!(prepared.clone().pod().next(), "Preparing: deletes claim c-1");
    let held = prepared.clone().claim(Some(going(claim("c-1", Some("raw"), "Bound"))));
    assert_eq!(held.next(), "WaitingForPods: nothing");
    assert!(held.message().contains("pvc-protection"));
    assert!(held.pod().message().contains("pod db"));
    let free = prepared.clone().claim(None);
    assert_eq!(free.next(), format!("PVCRecreated: creates claim of {}", own_name()));
    let open = prepared.clone().claim(Some(claim("c-2", None, "Pending")));
    assert_eq!(open.next(), "PVCRecreated: nothing");
    let named = prepared.claim(Some(claim("c-2", Some(&own_name()), "Pending")));
    assert_eq!(named.next(), "PVCRecreated: nothing");
    assert_eq!((swapped().next(), swapped().step()), ("Done: nothing".into(), TakeoverStep::ClaimSwapped));
}

#[test]
fn what_cannot_be_taken_over_is_left_alone() {
    let refused = |scene: Scene| {
        let next = scene.next();
        assert!(next.ends_with(": nothing"), "{next}");
        assert_eq!(scene.step(), TakeoverStep::Preflight);
        next.replace(": nothing", "")
    };
    let with = |source: Value| Scene::new().volume(volume("raw", Some("c-1"), &source));
    assert_eq!(refused(with(json!({"local": {"path": "/mnt/one"}}))), "DirectoryVolume");
    assert_eq!(refused(with(json!({"local": {"path": "/dev/sdb"}}))), "NotLocalVolume");
    assert_eq!(refused(with(json!({"hostPath": {"path": "/x"}}))), "NotLocalVolume");
    assert_eq!(
        refused(with(json!({"csi": {"driver": "imaging.umbra.dev", "volumeHandle": "m/1"}}))),
        "VolumeTaken"
    );
    assert_eq!(refused(Scene::new().claim(None)), "ClaimUnbound");
    assert_eq!(refused(Scene::new().claim(Some(claim("c-1", None, "Pending")))), "ClaimUnbound");
    assert_eq!(refused(Scene::new().claim(Some(claim("c-2", Some("raw"), "Bound")))), "ClaimUnbound");
    assert_eq!(refused(Scene::new().claim(Some(going(claim("c-1", Some("raw"), "Bound"))))), "ClaimUnbound");
    let of_other = {
        let mut volume = raw();
        volume.labels_mut().insert("imaging.umbra.dev/taken-by".to_owned(), "m-2".to_owned());
        Scene::new().volume(volume)
    };
    assert!(of_other.message().contains("m-2"));
    assert_eq!(refused(of_other), "VolumeTaken");
    let nowhere = Scene::new().change(|view| {
        view.takeover.as_mut().unwrap().node = Err("no Node".to_owned());
    });
    assert_eq!(refused(nowhere), "NotLocalVolume");
    for policy in [None, Some(umbra_crds::Takeover { policy: TakeoverPolicy::Manual })] {
        let waits = Scene::new().change(|view| view.master.spec.takeover = policy);
        assert!(waits.message().contains("kubectl umbra takeover data --name pg -n prod"));
        assert_eq!(refused(waits), "WaitingForApproval");
    }
}

#[test]
fn approval_that_is_taken_back_stops_it_until_the_claim_goes() {
    let unapproved = |scene: Scene| scene.change(|view| view.master.spec.takeover = None).next();
    assert_eq!(unapproved(Scene::new().taken()), "WaitingForApproval: nothing");
    let prepared = Scene::new().taken().presented().own(own(None));
    assert_eq!(unapproved(prepared.clone()), "WaitingForApproval: nothing");
    let free = unapproved(prepared.claim(None));
    assert_eq!(free, format!("PVCRecreated: creates claim of {}", own_name()));
    assert_eq!(unapproved(swapped()), "Done: nothing");
}

#[test]
fn a_device_that_is_in_use_is_waited_for_in_the_nodes_words() {
    let refused = ClientError::Refused(PlatformError::Mounted {
        device: DEVICE.parse().unwrap(),
        mount_point: "/srv".into(),
    });
    assert_eq!(Scene::new().taken().after(Some(&refused)), "WaitingForPods: nothing");
    let silent = Scene::new().taken().change(|view| {
        view.node = Some(NodeView::Silent { problem: "node a is silent".to_owned() });
    });
    assert_eq!((silent.next(), silent.message()), ("Preparing: nothing".into(), "node a is silent".into()));
}

#[test]
fn claims_that_others_make_or_let_go() {
    let prepared = || Scene::new().taken().presented();
    // Its owner has let it go while it was waited for pods: an owner that is gone would have the next one collected.
    assert_eq!(Scene::new().taken().claim(None).pod().next(), "Preparing: attaches");
    assert_eq!(prepared().claim(None).next(), "Preparing: writes raw Retain marked c-1");
    // A claim that is bound to something else, or asks for more than there is.
    let other = prepared().own(own(None)).claim(Some(claim("c-2", Some("else"), "Bound")));
    assert_eq!(other.next(), "ClaimTaken: nothing");
    assert!(other.message().contains("else"));
    let mut large = claim("c-2", None, "Pending");
    large.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteMany".to_owned()]);
    assert_eq!(prepared().own(own(None)).claim(Some(large)).next(), "ClaimTaken: nothing");
    // Umbra's volume was of a claim that is gone: first nobody owns what comes, then it is made anew.
    let lost = prepared().own(own(Some("c-2"))).claim(None);
    assert_eq!(lost.next(), "Preparing: writes raw Retain marked c-1");
    let next = prepared().own(own(Some("c-2"))).claim(Some(claim("c-3", None, "Pending")));
    assert_eq!(next.next(), format!("PVCRecreated: deletes {}", own_name()));
    let mut foreign = own(None);
    foreign.labels_mut().clear();
    assert_eq!(prepared().own(foreign).next(), "ClaimTaken: nothing");
}

#[test]
fn without_a_record_no_claim_is_touched() {
    let prepared = Scene::new().taken().presented().own(own(None));
    for scene in [
        Scene::new().taken(),
        prepared.clone(),
        prepared.clone().claim(None),
        prepared.claim(Some(claim("c-2", None, "Pending"))),
    ] {
        assert_eq!(scene.unreadable().next(), "RecordUnreadable: nothing");
    }
    let served = swapped().unreadable();
    assert_eq!(served.next(), "RecordUnreadable: nothing");
    let ready = plan::plan(&served.view, None).object.status.unwrap().conditions;
    assert!(ready.iter().any(|found| found.type_ == "Ready" && found.reason == "Live"));
    // The raw volume itself is gone.
    let gone = swapped().change(|view| view.takeover.as_mut().unwrap().original = Original::Untouched(None));
    assert_eq!(gone.next(), "RecordUnreadable: nothing");
    assert_eq!(gone.deleted().next(), "RecordUnreadable: nothing");
    assert_eq!(swapped().unreadable().deleted().next(), "RecordUnreadable: nothing");
    let lost = || Scene::new().taken().known().claim(None).unreadable().deleted();
    assert_eq!(lost().next(), "Returning: nothing");
    let kept = lost().change(|view| view.master.spec.deletion_policy = DeletionPolicy::Keep);
    assert_eq!(kept.next(), "Returning: writes raw Retain free c-1");
    let going_raw = Scene::new().taken().change(|view| {
        if let Some(Takeover { original: Original::Taken { volume, .. }, .. }) = &mut view.takeover {
            **volume = going((**volume).clone());
        }
    });
    assert_eq!(going_raw.next(), "RecordUnreadable: nothing");
}

#[test]
fn the_way_back() {
    assert_eq!(swapped().pod().deleted().next(), "Done: nothing");
    let under_sets = swapped().change(|view| view.sets = vec!["nightly".to_owned()]).deleted();
    assert_eq!(under_sets.next(), "Done: nothing");
    assert_eq!(swapped().deleted().next(), "Done: deletes claim c-2");
    let held = swapped().claim(Some(going(claim("c-2", Some(&own_name()), "Bound")))).deleted();
    assert_eq!(held.next(), "Done: nothing");
    let without_claim = swapped().claim(None).deleted();
    assert_eq!(without_claim.next(), format!("Returning: deletes {}", own_name()));
    assert_eq!(swapped().claim(None).own(going(own(Some("c-2")))).deleted().next(), "Returning: nothing");
    let presented = Scene::new().taken().presented().claim(None).deleted();
    assert_eq!(presented.next(), "Returning: detaches");
    let free = || Scene::new().taken().known().claim(None).deleted();
    assert_eq!(free().next(), "Returning: writes raw Retain marked open");
    let opened = |scene: Scene| {
        scene.change(|view| {
            if let Some(Takeover { original: Original::Taken { volume, record }, .. }) = &mut view.takeover {
                **volume = takeover::freed(volume, record.as_ref().unwrap());
            }
        })
    };
    assert_eq!(opened(free()).next(), "Returning: creates claim of raw");
    // Who makes the claim again is faster, and says no volume.
    let open = || free().claim(Some(claim("c-3", None, "Pending")));
    assert_eq!(open().next(), "Returning: writes raw Retain marked open");
    assert_eq!(opened(open()).next(), "Returning: nothing");
    assert_eq!(opened(free()).claim(Some(claim("c-3", Some("raw"), "Pending"))).next(), "Returning: nothing");
    let bound = Scene::new().taken().known().deleted();
    assert_eq!(bound.next(), "Returning: writes raw Delete free c-1");
    let done = Scene::new().known().deleted();
    assert_eq!(done.next(), "Returning: lets go");
    let other = free().claim(Some(claim("c-3", Some("else"), "Bound")));
    assert_eq!(other.next(), "Returning: nothing");
}

#[test]
fn the_way_back_begins_wherever_the_way_there_was_left() {
    assert_eq!(Scene::new().deleted().next(), "Returning: lets go");
    // Pods on the raw volume need not stop for a release.
    assert_eq!(Scene::new().taken().pod().deleted().next(), "Returning: writes raw Delete free c-1");
    assert_eq!(Scene::new().taken().presented().pod().deleted().next(), "Returning: detaches");
    let prepared = || Scene::new().taken().presented().own(own(None));
    assert_eq!(prepared().deleted().next(), format!("Returning: deletes {}", own_name()));
    let half = || Scene::new().taken().known().claim(Some(going(claim("c-1", Some("raw"), "Bound"))));
    assert_eq!(half().deleted().next(), "Returning: nothing");
}

#[test]
fn what_is_kept_is_let_go_as_it_is() {
    let keep =
        |scene: Scene| scene.change(|view| view.master.spec.deletion_policy = DeletionPolicy::Keep).deleted();
    assert_eq!(
        keep(Scene::new().taken().known().claim(None)).next(),
        "Returning: writes raw Retain free c-1"
    );
    // What was never taken is given back whatever is wished.
    assert_eq!(keep(Scene::new().taken()).next(), "Returning: writes raw Delete free c-1");
    let ends = Scene::new().taken().known().claim(None).deleted();
    let ends = ends.change(|view| view.takeover.as_mut().unwrap().namespace_ends = true);
    assert_eq!(ends.next(), "Returning: writes raw Retain free c-1");
}
