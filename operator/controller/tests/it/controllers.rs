//! The controllers of Kubernetes that claims and volumes meet: what protects them while they are used, what binds them, and a
//! provisioner that wipes what is reclaimed.

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
    PersistentVolumeStatus, Pod,
};
use kube::ResourceExt;
use umbra_crds::raw_volume::unfit;
use umbra_operator::cluster::Key;

use crate::cluster::Objects;

/// What a claim says once it was bound.
const BOUND: &str = "pv.kubernetes.io/bind-completed";
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// One look of each controller at everything. Returns the volumes that were wiped.
pub(crate) fn run(objects: &Objects) -> Vec<String> {
    for claim in objects.list::<PersistentVolumeClaim>(None) {
        bind(objects, claim);
    }
    let mut wiped = Vec::new();
    for volume in objects.list::<PersistentVolume>(None) {
        wiped.extend(reclaim(objects, volume));
    }
    for claim in objects.list::<PersistentVolumeClaim>(None) {
        let is_free = claim.metadata.deletion_timestamp.is_some() && !is_used(objects, &claim);
        release(objects, claim, CLAIM_PROTECTION, is_free);
    }
    for volume in objects.list::<PersistentVolume>(None) {
        let is_free = volume.metadata.deletion_timestamp.is_some() && phase(&volume) != Some("Bound");
        release(objects, volume, VOLUME_PROTECTION, is_free);
    }
    wiped
}

fn release<K: umbra_operator::cluster::Kind>(
    objects: &Objects,
    mut object: K,
    finalizer: &str,
    is_free: bool,
) {
    if is_free && object.finalizers().iter().any(|found| found == finalizer) {
        object.finalizers_mut().retain(|found| found != finalizer);
        objects.replace(&object, false).expect("nobody else writes");
    }
}

fn phase(volume: &PersistentVolume) -> Option<&str> {
    volume.status.as_ref()?.phase.as_deref()
}

/// A pod uses a claim from when it is on a node until it has ended.
fn is_used(objects: &Objects, claim: &PersistentVolumeClaim) -> bool {
    let pods = objects.list::<Pod>(claim.namespace().as_deref());
    pods.iter().any(|pod| {
        let is_running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        is_running
            && volumes
                .filter_map(|volume| volume.persistent_volume_claim.as_ref())
                .any(|used| used.claim_name == claim.name_any())
    })
}

fn reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn waits_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    reference(volume).is_some_and(|reference| {
        reference.namespace == claim.namespace()
            && reference.name == claim.metadata.name
            && (reference.uid.is_none() || reference.uid == claim.uid())
    })
}

fn bind(objects: &Objects, mut claim: PersistentVolumeClaim) {
    let was_bound = claim.annotations().contains_key(BOUND);
    let named = claim.spec.clone().and_then(|spec| spec.volume_name);
    let mut volumes = objects.list::<PersistentVolume>(None).into_iter();
    let found = match &named {
        Some(name) => volumes.find(|volume| volume.name_any() == *name),
        None => volumes.find(|volume| {
            volume.metadata.deletion_timestamp.is_none()
                && waits_for(volume, &claim)
                && unfit(&claim, volume).is_none()
        }),
    };
    let phase = match (was_bound, found) {
        (true, Some(volume)) if reference(&volume).is_some_and(|reference| reference.uid == claim.uid()) => {
            "Bound"
        }
        (true, _) => "Lost",
        (false, Some(mut volume)) if waits_for(&volume, &claim) => {
            let spec = volume.spec.as_mut().expect("it has one");
            let reference = spec.claim_ref.get_or_insert_default();
            reference.uid = claim.uid();
            reference.resource_version = claim.resource_version();
            objects.replace(&volume, false).expect("nobody else writes");
            claim.annotations_mut().insert(BOUND.to_owned(), "yes".to_owned());
            claim.spec.as_mut().expect("it has one").volume_name = Some(volume.name_any());
            claim = objects.replace(&claim, false).expect("nobody else writes");
            "Bound"
        }
        (false, _) => "Pending",
    };
    claim.status = Some(PersistentVolumeClaimStatus {
        phase: Some(phase.to_owned()),
        ..PersistentVolumeClaimStatus::default()
    });
    objects.replace(&claim, true).expect("nobody else writes");
}

/// Says how a volume stands, and reclaims it. Returns its name if it was wiped.
fn reclaim(objects: &Objects, mut volume: PersistentVolume) -> Option<String> {
    let uid = reference(&volume).and_then(|reference| reference.uid.clone());
    let claim = reference(&volume).and_then(|reference| {
        let key = Key::namespaced(reference.namespace.as_deref()?, reference.name.as_deref()?);
        objects.get::<PersistentVolumeClaim>(&key)
    });
    let phase = match uid {
        None => "Available",
        Some(uid) if claim.is_some_and(|claim| claim.uid().as_ref() == Some(&uid)) => "Bound",
        Some(_) => "Released",
    };
    let status =
        PersistentVolumeStatus { phase: Some(phase.to_owned()), ..PersistentVolumeStatus::default() };
    volume.status = Some(status);
    volume = objects.replace(&volume, true).expect("nobody else writes");
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    (phase == "Released" && policy == Some("Delete")).then(|| volume.name_any())
}
