//! A claim that is taken over: the volume it was bound to, what is written on that to put the claim back, and the volume that
//! takes its place.
//!
//! ```text
//!   claim C ──bound── raw volume R ── device          before, and after the release
//!
//!                     raw volume R ── device          Retain, finalizer, whose it is, and the record of C
//!   claim C' ─bound── volume P ────── Umbra ── device
//! ```
//!
//! Everything that putting back needs is on R, an object of the whole cluster that no tenant can change. Where R says nothing
//! that can be read, no claim is deleted and none is made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Namespace, Node, PersistentVolume, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use umbra_crds::raw_volume::{HOSTNAME, NotRaw, RawVolume, TAKEN_BY, is_bound};
use umbra_crds::{MasterVolume, NodeName};

use crate::access::{Device, NoAccess};
use crate::cluster::{Cluster, ClusterError, Key};
use crate::publish::{self, DRIVER, is_made_for};

/// Keeps the raw volume until the claim is back on it, or nobody wants that any more.
const FINALIZER: &str = "imaging.umbra.dev/raw";
/// The annotation with the record.
const RECORD: &str = "imaging.umbra.dev/taken-claim";
/// What the cluster writes on a claim by itself, and writes again on another.
const OF_CLUSTER: [&str; 2] = ["pv.kubernetes.io/", "volume.kubernetes.io/"];
/// The same, by their whole names.
const OF_TOOLS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "volume.beta.kubernetes.io/storage-provisioner"];

/// The reclaim policy that keeps a volume whatever becomes of its claim.
const RETAIN: &str = "Retain";

/// What is needed to put a claim and its volume back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Namespace and name of the MasterVolume, for people.
    master: String,
    namespace: String,
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
    spec: PersistentVolumeClaimSpec,
    reclaim_policy: String,
}

impl Record {
    /// Of a claim and of the volume that it is bound to.
    fn of(master: &MasterVolume, claim: &PersistentVolumeClaim, raw: &PersistentVolume) -> Self {
        let is_own =
            |key: &str| !OF_CLUSTER.iter().any(|prefix| key.starts_with(prefix)) && !OF_TOOLS.contains(&key);
        let mut annotations = claim.annotations().clone();
        annotations.retain(|key, _| is_own(key));
        let mut owner_references = claim.owner_references().to_vec();
        // A StatefulSet that deletes the claims of pods that it has scaled away makes the pod their owner. It does so anew,
        // and until then a claim of a pod that has gone would be collected.
        owner_references.retain(|owner| owner.kind != "Pod");
        let policy = raw.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.clone());
        Self {
            master: Key::of(master).to_string(),
            namespace: claim.namespace().unwrap_or_default(),
            name: claim.name_any(),
            labels: claim.labels().clone(),
            annotations,
            owner_references,
            spec: claim.spec.clone().unwrap_or_default(),
            reclaim_policy: policy.unwrap_or_else(|| RETAIN.to_owned()),
        }
    }

    /// What a volume says of the claim that was taken from it.
    pub(crate) fn read(volume: &PersistentVolume, master: &MasterVolume) -> Result<Self, String> {
        let name = volume.name_any();
        let text = volume.annotations().get(RECORD);
        let text = text.ok_or_else(|| format!("PersistentVolume {name} has lost its annotation {RECORD}"))?;
        let record: Self = serde_json::from_str(text).map_err(|error| {
            format!("the annotation {RECORD} of PersistentVolume {name} cannot be read: {error}")
        })?;
        let claim = master.spec.source.pvc.as_ref().map(|claim| claim.claim_name.as_str());
        if Some(record.name.as_str()) != claim
            || Some(record.namespace.as_str()) != master.metadata.namespace.as_deref()
        {
            return Err(format!(
                "the annotation {RECORD} of PersistentVolume {name} is of claim {}/{}, and not of the one that was taken over",
                record.namespace, record.name
            ));
        }
        Ok(record)
    }

    /// The claim, for this volume.
    pub fn claim(&self, volume: &str) -> PersistentVolumeClaim {
        let spec = PersistentVolumeClaimSpec { volume_name: Some(volume.to_owned()), ..self.spec.clone() };
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some(self.annotations.clone()),
                owner_references: Some(self.owner_references.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            status: None,
        }
    }

    /// Whether somebody is on record who owns the claim.
    pub fn has_owners(&self) -> bool {
        !self.owner_references.is_empty()
    }
}

/// The volume that a claim is, or was, taken from.
#[derive(Debug, Clone, PartialEq)]
pub enum Original {
    /// Nothing is taken. The volume that the claim is bound to, if there is one.
    Untouched(Option<Box<PersistentVolume>>),
    /// It is retained, and says what was taken from it.
    Taken {
        /// The volume.
        volume: Box<PersistentVolume>,
        /// What it says, or why that cannot be read.
        record: Result<Box<Record>, String>,
    },
}

/// What is known of a claim that is to be taken over, beside the claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Takeover {
    /// The volume it was bound to.
    pub original: Original,
    /// What that is, or why it cannot be taken over; none where there is no volume.
    pub raw: Option<Result<RawVolume, NotRaw>>,
    /// The node that it is on, or why nobody knows.
    pub node: Result<NodeName, String>,
    /// In a namespace that is going no claim can be made.
    pub namespace_ends: bool,
}

impl Takeover {
    /// Looks at the volume of a claim, its node and its namespace.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn look(
        cluster: &impl Cluster,
        master: &MasterVolume,
        claim: Option<&PersistentVolumeClaim>,
    ) -> Result<Self, ClusterError> {
        let original = original(cluster, master, claim).await?;
        let volume = match &original {
            Original::Untouched(volume) => volume.as_deref(),
            Original::Taken { volume, .. } => Some(&**volume),
        };
        let raw = volume.map(RawVolume::of);
        let node = match &raw {
            Some(Ok(raw)) => node_of(&cluster.list::<Node>(None).await?, &raw.hostname),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("there is no volume that says which node it is on".to_owned()),
        };
        let namespace_ends = if master.metadata.deletion_timestamp.is_some() {
            let key = Key::cluster(&master.namespace().unwrap_or_default());
            cluster.get::<Namespace>(&key).await?.as_ref().is_some_and(publish::is_going)
        } else {
            false
        };
        Ok(Self { original, raw, node, namespace_ends })
    }

    /// The device, as far as it is known.
    ///
    /// # Errors
    /// Why it is not.
    pub fn device(&self) -> Result<Device, NoAccess> {
        let not_usable = |problem: String| NoAccess::NotUsable(problem);
        match &self.raw {
            Some(Ok(raw)) => {
                let node = self.node.clone().map_err(not_usable)?;
                let path = raw.device.as_str().parse();
                let path = path.map_err(|error| not_usable(format!("device {}: {error}", raw.device)))?;
                Ok(Device { node, path, wipe: None })
            }
            Some(Err(error)) => Err(not_usable(error.to_string())),
            None => Err(not_usable("there is no volume that names the device".to_owned())),
        }
    }

    /// The volume that is retained.
    pub fn taken(&self) -> Option<&PersistentVolume> {
        match &self.original {
            Original::Taken { volume, .. } => Some(volume),
            Original::Untouched(_) => None,
        }
    }
}

async fn original(
    cluster: &impl Cluster,
    master: &MasterVolume,
    claim: Option<&PersistentVolumeClaim>,
) -> Result<Original, ClusterError> {
    let uid = master.uid().unwrap_or_default();
    let is_taken = |volume: &PersistentVolume| volume.labels().get(TAKEN_BY) == Some(&uid);
    let taken = |volume: PersistentVolume| {
        let record = Record::read(&volume, master).map(Box::new);
        Original::Taken { volume: Box::new(volume), record }
    };
    // The status only says where to look first.
    if let Some(name) = master.status.as_ref().and_then(|status| status.original_pv_name.as_ref())
        && let Some(volume) = cluster.get::<PersistentVolume>(&Key::cluster(name.as_str())).await?
        && is_taken(&volume)
    {
        return Ok(taken(volume));
    }
    let mut volumes = cluster.list::<PersistentVolume>(None).await?;
    if let Some(at) = volumes.iter().position(is_taken) {
        return Ok(taken(volumes.swap_remove(at)));
    }
    let named = claim.and_then(volume_of);
    Ok(Original::Untouched(
        volumes.into_iter().find(|volume| volume.metadata.name.as_deref() == named).map(Box::new),
    ))
}

fn node_of(nodes: &[Node], hostname: &str) -> Result<NodeName, String> {
    let named: Vec<String> = nodes
        .iter()
        .filter(|node| node.labels().get(HOSTNAME).is_some_and(|label| label == hostname))
        .map(ResourceExt::name_any)
        .collect();
    match &named[..] {
        [name] => Ok(NodeName::new(name.as_str())),
        [] => Err(format!("no Node has the label {HOSTNAME}={hostname}")),
        several => Err(format!("several Nodes have the label {HOSTNAME}={hostname}: {}", several.join(", "))),
    }
}

/// The volume that a claim names.
pub fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The UID of the claim that a volume is bound to, or was.
pub fn bound_to(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref()
}

/// For whom a volume was taken over, for people.
pub fn taker(volume: &PersistentVolume) -> Option<String> {
    let uid = volume.labels().get(TAKEN_BY)?;
    let record = volume.annotations().get(RECORD).and_then(|text| serde_json::from_str::<Record>(text).ok());
    Some(record.map_or_else(
        || format!("the MasterVolume with UID {uid}"),
        |record| format!("MasterVolume {}", record.master),
    ))
}

/// Whose the claim is at present.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Holder<'a> {
    /// There is no claim of the name.
    Nobody,
    /// It is the raw volume's.
    Raw(&'a PersistentVolumeClaim),
    /// It is that of the volume that Umbra made, or is about to be.
    Umbra(&'a PersistentVolumeClaim),
    /// It names no volume yet: somebody has made it anew.
    Open(&'a PersistentVolumeClaim),
    /// It is that of another volume.
    Other(&'a PersistentVolumeClaim),
}

impl<'a> Holder<'a> {
    /// Decides from the claim, the raw volume, and the name of the volume that Umbra makes.
    pub fn of(
        claim: Option<&'a PersistentVolumeClaim>,
        raw: Option<&PersistentVolume>,
        own: Option<&str>,
    ) -> Self {
        let Some(claim) = claim else { return Self::Nobody };
        let Some(named) = volume_of(claim) else { return Self::Open(claim) };
        // A volume waits for a claim, or is that of one.
        let is_for = |raw: &PersistentVolume| {
            bound_to(raw).is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid))
        };
        if own == Some(named) {
            Self::Umbra(claim)
        } else if raw.is_some_and(|raw| raw.name_any() == named && is_for(raw)) {
            Self::Raw(claim)
        } else {
            Self::Other(claim)
        }
    }

    /// Whether pods use the claim's data through Umbra.
    pub fn is_bound_to(self, own: Option<&PersistentVolume>) -> bool {
        matches!((self, own), (Self::Umbra(claim), Some(own)) if is_bound(claim, own))
    }
}

/// The raw volume with everything on it that putting back needs, and kept whatever becomes of its claim.
pub fn retained(
    raw: &PersistentVolume,
    claim: &PersistentVolumeClaim,
    master: &MasterVolume,
) -> Result<PersistentVolume, serde_json::Error> {
    let record = serde_json::to_string(&Record::of(master, claim, raw))?;
    let mut volume = raw.clone();
    volume.labels_mut().insert(TAKEN_BY.to_owned(), master.uid().unwrap_or_default());
    volume.annotations_mut().insert(RECORD.to_owned(), record);
    volume.finalizers_mut().push(FINALIZER.to_owned());
    policy(&mut volume, RETAIN);
    Ok(volume)
}

/// The raw volume with nobody on record who owns the claim.
pub fn disowned(raw: &PersistentVolume, record: &Record) -> Result<PersistentVolume, serde_json::Error> {
    let mut volume = raw.clone();
    let record = serde_json::to_string(&Record { owner_references: Vec::new(), ..record.clone() })?;
    volume.annotations_mut().insert(RECORD.to_owned(), record);
    Ok(volume)
}

/// The raw volume as it waits for its claim, whoever makes it.
pub fn freed(raw: &PersistentVolume, record: &Record) -> PersistentVolume {
    let mut volume = raw.clone();
    if let Some(spec) = &mut volume.spec {
        spec.claim_ref = Some(publish::any_claim(&record.namespace, &record.name));
    }
    volume
}

/// The raw volume without anything of Umbra's; retained.
pub fn unmarked(raw: &PersistentVolume) -> PersistentVolume {
    let mut volume = raw.clone();
    volume.labels_mut().remove(TAKEN_BY);
    volume.annotations_mut().remove(RECORD);
    volume.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
    volume
}

/// The raw volume as it was.
pub fn restored(raw: &PersistentVolume, record: &Record) -> PersistentVolume {
    let mut volume = unmarked(raw);
    policy(&mut volume, &record.reclaim_policy);
    volume
}

fn policy(volume: &mut PersistentVolume, policy: &str) {
    if let Some(spec) = &mut volume.spec {
        spec.persistent_volume_reclaim_policy = Some(policy.to_owned());
    }
}

/// The volume that takes the raw one's place.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// UID of the MasterVolume.
    pub uid: &'a str,
    /// The claim's namespace.
    pub namespace: &'a str,
    /// The claim's name.
    pub claim_name: &'a str,
    /// Name of the volume.
    pub volume_name: &'a str,
    /// The handle by which the node knows what to present.
    pub handle: &'a str,
    /// The node.
    pub node: &'a NodeName,
}

impl Replacement<'_> {
    /// The volume: used as the raw one is, by whatever claim has the name.
    pub fn of(&self, raw: &PersistentVolume) -> PersistentVolume {
        let raw = raw.spec.clone().unwrap_or_default();
        PersistentVolume {
            metadata: publish::meta(self.uid, self.volume_name, None),
            spec: Some(PersistentVolumeSpec {
                access_modes: raw.access_modes,
                capacity: raw.capacity,
                claim_ref: Some(publish::any_claim(self.namespace, self.claim_name)),
                csi: Some(CSIPersistentVolumeSource {
                    driver: DRIVER.to_owned(),
                    volume_handle: self.handle.to_owned(),
                    fs_type: raw.local.and_then(|local| local.fs_type),
                    ..CSIPersistentVolumeSource::default()
                }),
                mount_options: raw.mount_options,
                node_affinity: Some(publish::on_node(self.node)),
                // What it presents is there whatever becomes of the claim.
                persistent_volume_reclaim_policy: Some(RETAIN.to_owned()),
                storage_class_name: raw.storage_class_name,
                volume_mode: raw.volume_mode,
                ..PersistentVolumeSpec::default()
            }),
            status: None,
        }
    }
}

/// Whether a claim or its volume is of a publication of Umbra's.
pub fn is_umbras(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    publish::is_made(claim)
        || publish::is_made(volume)
        || volume.finalizers().iter().any(|one| one == FINALIZER)
}

/// Umbra's volume, if it is this master's.
pub fn own<'a>(volume: Option<&'a PersistentVolume>, uid: &str) -> Option<&'a PersistentVolume> {
    volume.filter(|volume| is_made_for(*volume, uid))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn master() -> MasterVolume {
        serde_json::from_value(json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "MasterVolume",
            "metadata": {"name": "pg", "namespace": "prod", "uid": "m-1"},
            "spec": {"source": {"pvc": {"claimName": "data"}}}}))
        .unwrap()
    }

    fn claim() -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "prod", "uid": "c-1",
            "labels": {"app": "pg"}, "annotations": {"team": "db", "pv.kubernetes.io/bind-completed": "yes",
            "volume.kubernetes.io/selected-node": "a", "volume.beta.kubernetes.io/storage-class": "local",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "pg-0", "uid": "p"},
                {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "name": "pg", "uid": "o"}]},
            "spec": {"volumeName": "raw", "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap()
    }

    fn raw() -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": "raw", "finalizers": ["kubernetes.io/pv-protection"]},
            "spec": {"local": {"path": "/dev/disk/by-id/d0", "fsType": "ext4"}, "storageClassName": "local",
                "persistentVolumeReclaimPolicy": "Delete", "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
                "claimRef": {"namespace": "prod", "name": "data", "uid": "c-1", "resourceVersion": "7"}}}),
        )
        .unwrap()
    }

    #[test]
    fn what_is_on_record_puts_the_claim_back_as_its_owner_made_it() {
        let taken = retained(&raw(), &claim(), &master()).unwrap();
        let spec = taken.spec.as_ref().unwrap();
        assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
        assert_eq!(taken.finalizers(), ["kubernetes.io/pv-protection", FINALIZER]);
        let record = Record::read(&taken, &master()).unwrap();
        let back = record.claim("raw");
        let keys: Vec<&str> = back.annotations().keys().map(String::as_str).collect();
        assert_eq!(keys, ["team", "volume.beta.kubernetes.io/storage-class"]);
        assert_eq!(back.labels(), claim().labels());
        let owners: Vec<&str> = back.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
        assert_eq!(owners, ["Cluster"]);
        assert_eq!(back.spec, claim().spec);
        assert_eq!(record.claim("p").spec.unwrap().volume_name.as_deref(), Some("p"));
        let nobody = Record::read(&disowned(&taken, &record).unwrap(), &master()).unwrap();
        assert!(record.has_owners() && !nobody.has_owners());
        assert_eq!(bound_to(&freed(&taken, &record)), None);
        assert_eq!(
            restored(&taken, &record),
            PersistentVolume {
                metadata: ObjectMeta {
                    labels: Some(BTreeMap::new()),
                    annotations: Some(BTreeMap::new()),
                    ..raw().metadata
                },
                ..raw()
            }
        );
        assert_eq!(taker(&taken).as_deref(), Some("MasterVolume prod/pg"));
    }

    #[test]
    fn a_record_that_was_changed_is_not_believed() {
        let taken = retained(&raw(), &claim(), &master()).unwrap();
        let with = |text: Option<&str>| {
            let mut volume = taken.clone();
            volume.annotations_mut().remove(RECORD);
            volume.annotations_mut().extend(text.map(|text| (RECORD.to_owned(), text.to_owned())));
            Record::read(&volume, &master()).unwrap_err()
        };
        assert!(with(None).contains("has lost"));
        assert!(with(Some("{}")).contains("cannot be read"));
        let other = taken.annotations()[RECORD].replace("\"name\":\"data\"", "\"name\":\"other\"");
        assert!(with(Some(&other)).contains("prod/other"));
    }

    #[test]
    fn the_volume_in_its_place_is_used_as_the_raw_one_was() {
        let node = NodeName::new("a");
        let what = Replacement {
            uid: "m-1",
            namespace: "prod",
            claim_name: "data",
            volume_name: "p",
            handle: "m/1",
            node: &node,
        };
        let spec = what.of(&raw()).spec.unwrap();
        let before = raw().spec.unwrap();
        assert_eq!(spec.capacity, before.capacity);
        assert_eq!(spec.access_modes, before.access_modes);
        assert_eq!(spec.storage_class_name, before.storage_class_name);
        assert_eq!(spec.mount_options, before.mount_options);
        assert_eq!(spec.csi.unwrap().fs_type.as_deref(), Some("ext4"));
        let waits_for = spec.claim_ref.unwrap();
        assert_eq!((waits_for.name.as_deref(), waits_for.uid), (Some("data"), None));
    }

    #[test]
    fn a_claim_is_of_one_volume() {
        let raw = raw();
        let named = |volume: Option<&str>, uid: &str| {
            let mut claim = claim();
            claim.metadata.uid = Some(uid.to_owned());
            claim.spec.as_mut().unwrap().volume_name = volume.map(str::to_owned);
            claim
        };
        let is = |claim: &PersistentVolumeClaim| match Holder::of(Some(claim), Some(&raw), Some("p")) {
            Holder::Nobody => "nobody",
            Holder::Raw(_) => "raw",
            Holder::Umbra(_) => "umbra",
            Holder::Open(_) => "open",
            Holder::Other(_) => "other",
        };
        assert_eq!(is(&named(Some("raw"), "c-1")), "raw");
        assert_eq!(is(&named(Some("raw"), "c-2")), "other");
        assert_eq!(is(&named(Some("p"), "c-2")), "umbra");
        assert_eq!(is(&named(None, "c-2")), "open");
        assert_eq!(is(&named(Some(""), "c-2")), "open");
        assert_eq!(is(&named(Some("else"), "c-2")), "other");
        assert_eq!(Holder::of(None, Some(&raw), Some("p")), Holder::Nobody);
    }

    #[test]
    fn a_host_is_one_node_or_none() {
        let node = |name: &str, host: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {HOSTNAME: host}}})).unwrap()
        };
        let nodes = [node("a", "host-a"), node("b", "host-b"), node("c", "host-b")];
        assert_eq!(node_of(&nodes, "host-a"), Ok(NodeName::new("a")));
        assert!(node_of(&nodes, "host-b").unwrap_err().contains("b, c"));
        assert!(node_of(&nodes, "host-c").is_err());
    }
}
