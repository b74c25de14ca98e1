//! The volume and the claim through which pods use what Umbra presents: made by the operator, bound to each other before
//! anybody can come between.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec, Pod,
    VolumeNodeAffinity, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use umbra_crds::{ClaimName, MasterVolume, MasterVolumeStatus, NodeName, Publish, User, VolumeSetStatus};

use crate::cluster::{Cluster, ClusterError, Key, Kind};

/// The CSI driver.
pub(crate) const DRIVER: &str = "imaging.umbra.dev";
/// The label of a node in its topology.
const TOPOLOGY: &str = "topology.imaging.umbra.dev/node";
/// Whose volume or claim it is: the UID of the object it was made for.
const MADE_FOR: &str = "imaging.umbra.dev/made-for";
/// The attribute by which the node knows whether an image may be written, and its value where it may.
const SHADOW_ACCESS: (&str, &str) = ("imaging.umbra.dev/shadow-access", "ReadWrite");
/// Users that a status names.
const USERS_MAX: usize = 16;

/// The PersistentVolume of a master, once its identifier is on record.
pub fn volume_of_master(status: &MasterVolumeStatus) -> Option<String> {
    status.master_id.map(|id| format!("umbra-m-{id}"))
}

/// The claim through which pods use a master: its own, or the one that is taken over.
pub fn claim_of_master(master: &MasterVolume) -> Option<&ClaimName> {
    let own = master.spec.publish.as_ref().map(|publish| &publish.claim_name);
    own.or_else(|| master.spec.source.pvc.as_ref().map(|claim| &claim.claim_name))
}

/// The PersistentVolume of a set's shadow, once its identifier is on record.
pub fn volume_of_set(status: &VolumeSetStatus) -> Option<String> {
    status.set_id.map(|id| format!("umbra-s-{id}"))
}

/// What is to be published, for whom.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// UID of the object.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Name of the PersistentVolume.
    pub volume_name: &'a str,
    /// The handle by which the node knows what to present: `m/<master>` or `s/<set>`.
    pub handle: &'a str,
    /// The node.
    pub node: &'a NodeName,
    /// Bytes.
    pub size: u64,
    /// How.
    pub publish: &'a Publish,
    /// It is an image that may be written. Without this the node lets nobody write an image, whatever the claim says.
    pub is_writable_image: bool,
}

/// How far a publication is.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The volume of that name.
    pub volume: Option<PersistentVolume>,
    /// The claim of that name.
    pub claim: Option<PersistentVolumeClaim>,
    /// Pods that use the claim and have not ended.
    pub users: Vec<User>,
}

/// What is to be done next about a publication.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Makes the volume.
    CreateVolume(Box<PersistentVolume>),
    /// Makes the claim.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Takes the claim away.
    DeleteClaim(Box<PersistentVolumeClaim>),
    /// Takes the volume away.
    DeleteVolume(Box<PersistentVolume>),
}

/// What is still there of a publication that is to go.
#[derive(Debug, Clone, PartialEq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Something that is to be taken away.
    Step(Step),
    /// Something whose deletion has begun.
    Going(String),
}

impl Left {
    /// What is to be taken away now.
    pub fn step(self) -> Option<Step> {
        match self {
            Self::Step(step) => Some(step),
            Self::Nothing | Self::Going(_) => None,
        }
    }
}

impl Step {
    /// Does it. What is there, or gone, already is as good.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn carry_out(self, cluster: &impl Cluster) -> Result<(), ClusterError> {
        let done = match self {
            Self::CreateVolume(volume) => cluster.create(&*volume).await.map(drop),
            Self::CreateClaim(claim) => cluster.create(&*claim).await.map(drop),
            Self::DeleteClaim(claim) => cluster.delete(&*claim).await,
            Self::DeleteVolume(volume) => cluster.delete(&*volume).await,
        };
        match done {
            Err(ClusterError::Exists { .. } | ClusterError::Missing { .. }) => Ok(()),
            other => other,
        }
    }
}

impl Published {
    /// Looks at volume, claim and pods.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn look(
        cluster: &impl Cluster,
        namespace: &str,
        volume_name: Option<&str>,
        claim_name: Option<&str>,
    ) -> Result<Self, ClusterError> {
        let volume: Option<PersistentVolume> = match volume_name {
            Some(name) => cluster.get(&Key::cluster(name)).await?,
            None => None,
        };
        // The claim that the volume was made for counts, also where another is asked for by now, or none.
        let claim_of_volume = volume.as_ref().and_then(claim_of).map(str::to_owned);
        let (mut claim, mut users) = (None, Vec::new());
        if let Some(name) = claim_of_volume.as_deref().or(claim_name) {
            claim = cluster.get(&Key::namespaced(namespace, name)).await?;
            users = users_of(&cluster.list::<Pod>(Some(namespace)).await?, name);
        }
        Ok(Self { volume, claim, users })
    }

    /// What is missing.
    ///
    /// # Errors
    /// What is in the way, for people.
    pub fn missing(&self, what: &Publication<'_>) -> Result<Option<Step>, String> {
        match &self.volume {
            None => return Ok(Some(Step::CreateVolume(Box::new(volume(what))))),
            Some(found) if !is_made_for(found, what.uid) => {
                return Err(format!("PersistentVolume {} was not made for this object", what.volume_name));
            }
            // It is of another claim, or of other ways to use it. Nothing of that can be changed.
            Some(found) if !is_like(found, &volume(what)) => return Ok(self.left(what.uid).step()),
            // A volume is bound to one claim for ever.
            Some(found) if self.claim.is_none() && was_bound(found) => return Ok(self.left(what.uid).step()),
            Some(_) => {}
        }
        match &self.claim {
            None => Ok(Some(Step::CreateClaim(Box::new(claim(what))))),
            Some(found) if !is_made_for(found, what.uid) => Err(format!(
                "claim {} exists and was not made for this object: remove it, or publish under another name",
                what.publish.claim_name
            )),
            Some(_) => Ok(None),
        }
    }

    /// What of it is to be taken away next: first the claim, which waits for its pods by itself.
    pub fn left(&self, uid: &str) -> Left {
        let claim = self.claim.as_ref().filter(|claim| is_made_for(*claim, uid));
        let volume = self.volume.as_ref().filter(|volume| is_made_for(*volume, uid));
        match (claim, volume) {
            (Some(claim), _) if is_going(claim) => Left::Going(format!("claim {}", claim.name_any())),
            (Some(claim), _) => Left::Step(Step::DeleteClaim(Box::new(claim.clone()))),
            (None, Some(volume)) if is_going(volume) => {
                Left::Going(format!("PersistentVolume {}", volume.name_any()))
            }
            (None, Some(volume)) => Left::Step(Step::DeleteVolume(Box::new(volume.clone()))),
            (None, None) => Left::Nothing,
        }
    }

    /// The users by name, for people.
    pub fn user_names(&self) -> String {
        let names: Vec<String> =
            self.users.iter().map(|user| format!("{} {}", user.kind.to_lowercase(), user.name)).collect();
        names.join(", ")
    }
}

/// Whether an object was made for the one with this UID.
pub(crate) fn is_made_for<K: Kind>(object: &K, uid: &str) -> bool {
    object.labels().get(MADE_FOR).is_some_and(|owner| owner == uid)
}

/// Whether an object was made for any.
pub(crate) fn is_made<K: Kind>(object: &K) -> bool {
    object.labels().contains_key(MADE_FOR)
}

/// The name of the claim that a volume is for.
fn claim_of(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.claim_ref.as_ref()?.name.as_deref()
}

/// Whether a claim was ever bound to the volume.
fn was_bound(volume: &PersistentVolume) -> bool {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.is_some_and(|claim| claim.uid.is_some())
}

/// Whether a volume is used as the other would be.
fn is_like(found: &PersistentVolume, wanted: &PersistentVolume) -> bool {
    let of = |volume: &PersistentVolume| {
        let spec = volume.spec.clone().unwrap_or_default();
        let csi = spec.csi.unwrap_or_default();
        let ways = (
            csi.volume_handle,
            csi.read_only.unwrap_or_default(),
            csi.fs_type.unwrap_or_default(),
            csi.volume_attributes.unwrap_or_default(),
        );
        (
            ways,
            spec.storage_class_name,
            spec.volume_mode,
            spec.mount_options.unwrap_or_default(),
            spec.access_modes,
        )
    };
    claim_of(found) == claim_of(wanted) && of(found) == of(wanted)
}

/// Whether the deletion of an object has begun.
pub(crate) fn is_going<K: Kind>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

pub(crate) fn meta(uid: &str, name: &str, namespace: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: namespace.map(str::to_owned),
        labels: Some([(MADE_FOR.to_owned(), uid.to_owned())].into()),
        ..ObjectMeta::default()
    }
}

/// Where Umbra's volumes can be used: on the node that presents the device.
pub(crate) fn on_node(node: &NodeName) -> VolumeNodeAffinity {
    let on_node = NodeSelectorRequirement {
        key: TOPOLOGY.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.as_str().to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![on_node]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// The claim of this name, whoever makes it: without a UID a volume waits for it.
pub(crate) fn any_claim(namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

fn access_modes(read_only: bool) -> Vec<String> {
    vec![if read_only { "ReadOnlyMany" } else { "ReadWriteOnce" }.to_owned()]
}

/// The volume, for that claim only and on that node only.
fn volume(what: &Publication<'_>) -> PersistentVolume {
    let publish = what.publish;
    PersistentVolume {
        metadata: meta(what.uid, what.volume_name, None),
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(access_modes(publish.read_only)),
            capacity: Some([("storage".to_owned(), Quantity(what.size.to_string()))].into()),
            claim_ref: Some(any_claim(what.namespace, publish.claim_name.as_str())),
            csi: Some(CSIPersistentVolumeSource {
                driver: DRIVER.to_owned(),
                volume_handle: what.handle.to_owned(),
                fs_type: publish.fs_type.as_ref().map(|fs| fs.as_str().to_owned()),
                read_only: Some(publish.read_only),
                volume_attributes: what
                    .is_writable_image
                    .then(|| [(SHADOW_ACCESS.0.to_owned(), SHADOW_ACCESS.1.to_owned())].into()),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: (!publish.mount_options.is_empty()).then(|| publish.mount_options.clone()),
            node_affinity: Some(on_node(what.node)),
            // What it presents is there whatever becomes of the claim.
            persistent_volume_reclaim_policy: Some("Retain".to_owned()),
            storage_class_name: Some(publish.storage_class_name.as_str().to_owned()),
            volume_mode: Some(publish.volume_mode.as_str().to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// The claim, bound to that volume.
fn claim(what: &Publication<'_>) -> PersistentVolumeClaim {
    let publish = what.publish;
    let mut metadata = meta(what.uid, publish.claim_name.as_str(), Some(what.namespace));
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &publish.labels {
        labels.entry(key.clone()).or_insert_with(|| value.as_str().to_owned());
    }
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes(publish.read_only)),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(what.size.to_string()))].into()),
                limits: None,
            }),
            storage_class_name: Some(publish.storage_class_name.as_str().to_owned()),
            volume_mode: Some(publish.volume_mode.as_str().to_owned()),
            volume_name: Some(what.volume_name.to_owned()),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The pods that use a claim, as long as they may have it open.
fn users_of(pods: &[Pod], claim: &str) -> Vec<User> {
    let mut users: Vec<User> = pods
        .iter()
        .filter(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        })
        .filter_map(|pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            let source = claims.find(|source| source.claim_name == claim)?;
            Some(User {
                kind: "Pod".to_owned(),
                namespace: pod.namespace().unwrap_or_default(),
                name: pod.name_any(),
                read_only: source.read_only.unwrap_or_default(),
            })
        })
        .collect();
    users.sort_by(|a, b| a.name.cmp(&b.name));
    users.truncate(USERS_MAX);
    users
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_that_have_ended_use_nothing() {
        let pod = |name: &str, phase: &str, claim: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "prod"}, "spec": {"containers": [],
                "volumes": [{"name": "x", "emptyDir": {}}, {"name": "data", "persistentVolumeClaim": {"claimName": claim}}]},
                "status": {"phase": phase}}))
            .unwrap()
        };
        let pods = [
            pod("b", "Running", "data"),
            pod("a", "Pending", "data"),
            pod("done", "Succeeded", "data"),
            pod("failed", "Failed", "data"),
            pod("other", "Running", "data2"),
        ];
        let names: Vec<String> = users_of(&pods, "data").into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
