//! Which volumes of claims can be taken over: a device of one node, by a name that stays with it.
//!
//! Decided from the PersistentVolume alone, here once: by the operator before it takes a claim over, and by whoever asks
//! beforehand whether it would.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim};
use thiserror::Error;

use crate::conditions::TakenOverReason;
use crate::values::{DeviceId, Size};

/// The label by which a volume says that it was taken over: the UID of the MasterVolume.
pub const TAKEN_BY: &str = "imaging.umbra.dev/taken-by";
/// The label that nodes are told apart by in local volumes.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// How pods see a volume where nothing is said.
const FILE_SYSTEM: &str = "Filesystem";

/// A volume that can be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawVolume {
    /// The device.
    pub device: DeviceId,
    /// The value of the label [`HOSTNAME`] of its node.
    pub hostname: String,
}

/// Why a volume cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotRaw {
    /// It is Umbra's.
    #[error(
        "PersistentVolume {volume} is Umbra's already: name the claim of a volume that Umbra does not present"
    )]
    Umbras {
        /// The volume.
        volume: String,
    },
    /// It is of another type.
    #[error(
        "PersistentVolume {volume} is not of type local: copy the data to one that is, on a device of a node, or use \
         source.device with a DeviceGrant"
    )]
    NotLocal {
        /// The volume.
        volume: String,
    },
    /// It is a directory, or a link that lies in one.
    #[error(
        "PersistentVolume {volume} is the path {path}, a directory or a link in one: only a whole device can be taken over. \
         Copy the data to a volume whose local.path names a device below /dev/disk/by-id, by-partuuid, by-path or \
         /dev/mapper; where the path is only another name of a device, use source.device with a DeviceGrant"
    )]
    Directory {
        /// The volume.
        volume: String,
        /// Its path.
        path: String,
    },
    /// It is a device by a name that the next start may give to another.
    #[error(
        "PersistentVolume {volume} names its device {path}, which can be another device after a restart: make one whose \
         local.path is its name below /dev/disk/by-id, by-partuuid, by-path or /dev/mapper, or use source.device with a \
         DeviceGrant"
    )]
    MovingName {
        /// The volume.
        volume: String,
        /// Its path.
        path: String,
    },
    /// It does not say which node it is on.
    #[error(
        "PersistentVolume {volume} does not say which one node it is on: its nodeAffinity must require kubernetes.io/hostname In one name"
    )]
    NoNode {
        /// The volume.
        volume: String,
    },
}

impl NotRaw {
    /// The reason in the condition that says whether a claim was taken over.
    #[must_use]
    pub fn reason(&self) -> TakenOverReason {
        match self {
            Self::Umbras { .. } => TakenOverReason::VolumeTaken,
            Self::Directory { .. } => TakenOverReason::DirectoryVolume,
            Self::NotLocal { .. } | Self::MovingName { .. } | Self::NoNode { .. } => {
                TakenOverReason::NotLocalVolume
            }
        }
    }
}

impl RawVolume {
    /// The device behind a volume.
    ///
    /// # Errors
    /// Where it cannot be taken over.
    pub fn of(volume: &PersistentVolume) -> Result<Self, NotRaw> {
        let name = || volume.metadata.name.clone().unwrap_or_default();
        let spec = volume.spec.as_ref();
        if spec.and_then(|spec| spec.csi.as_ref()).is_some_and(|csi| csi.driver == crate::GROUP) {
            return Err(NotRaw::Umbras { volume: name() });
        }
        let local = spec.and_then(|spec| spec.local.as_ref());
        let Some(local) = local else { return Err(NotRaw::NotLocal { volume: name() }) };
        let path = local.path.clone();
        let device = match DeviceId::parse(&path) {
            Ok(device) => device,
            Err(_) if path.starts_with("/dev/") => {
                return Err(NotRaw::MovingName { volume: name(), path });
            }
            Err(_) => return Err(NotRaw::Directory { volume: name(), path }),
        };
        let hostname = hostname(volume).ok_or_else(|| NotRaw::NoNode { volume: name() })?;
        Ok(Self { device, hostname })
    }
}

/// The one host that a volume is on.
fn hostname(volume: &PersistentVolume) -> Option<String> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    // Several terms are alternatives.
    let [term] = &affinity.node_selector_terms[..] else { return None };
    let is_one = |requirement: &NodeSelectorRequirement| {
        let values = requirement.values.as_deref().unwrap_or_default();
        (requirement.key == HOSTNAME && requirement.operator == "In" && values.len() == 1)
            .then(|| values[0].clone())
    };
    term.match_expressions.iter().flatten().find_map(is_one)
}

/// Whether a claim and a volume are bound to each other, and to nothing else.
#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let names = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_back = reference.and_then(|reference| reference.uid.as_ref()) == claim.metadata.uid.as_ref();
    bound && names == volume.metadata.name.as_ref() && is_back && claim.metadata.uid.is_some()
}

/// What of a claim that names no volume keeps it from being bound to this one, which waits for a claim of its name.
#[must_use]
pub fn unfit(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let (wants, has) = (claim.spec.as_ref()?, volume.spec.as_ref()?);
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| FILE_SYSTEM.to_owned());
    if mode(&wants.volume_mode) != mode(&has.volume_mode) {
        return Some(format!("volumeMode {}", mode(&wants.volume_mode)));
    }
    let modes = has.access_modes.as_deref().unwrap_or_default();
    if let Some(other) = wants.access_modes.iter().flatten().find(|mode| !modes.contains(mode)) {
        return Some(format!("access mode {other}"));
    }
    let request = wants.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    let capacity = has.capacity.as_ref()?.get("storage")?;
    // What this cannot read is left to the binder.
    let (wanted, there) = (Size::new(&request.0).bytes().ok()?, Size::new(&capacity.0).bytes().ok()?);
    (wanted > there).then(|| format!("{} of storage, more than {}", request.0, capacity.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(path: &str, affinity: &Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "raw-1"}, "spec": {"local": {"path": path},
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": affinity}}}))
        .unwrap()
    }

    fn on(hosts: &[&str]) -> Value {
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"},
            {"key": HOSTNAME, "operator": "In", "values": hosts}]}]})
    }

    #[test]
    fn a_device_of_one_node_can_be_taken_over() {
        let found = RawVolume::of(&volume("/dev/disk/by-id/nvme-S1", &on(&["node-a"]))).unwrap();
        assert_eq!((found.device.as_str(), found.hostname.as_str()), ("/dev/disk/by-id/nvme-S1", "node-a"));
    }

    #[test]
    fn what_cannot_be_taken_over_is_refused_with_the_reason() {
        let reason = |path: &str, affinity: &Value| {
            RawVolume::of(&volume(path, affinity)).map_err(|error| error.reason()).unwrap_err()
        };
        let here = on(&["node-a"]);
        assert_eq!(reason("/mnt/disks/one", &here), TakenOverReason::DirectoryVolume);
        assert_eq!(reason("/dev", &here), TakenOverReason::DirectoryVolume);
        for moving in ["/dev/sdb", "/dev/disk/by-uuid/1", "/dev/disk/by-id/../sdb", "/dev/mapper/control"] {
            assert_eq!(reason(moving, &here), TakenOverReason::NotLocalVolume, "{moving}");
        }
        let device = "/dev/disk/by-id/nvme-S1";
        let twice =
            json!({"nodeSelectorTerms": [here["nodeSelectorTerms"][0], here["nodeSelectorTerms"][0]]});
        for nowhere in [on(&[]), on(&["node-a", "node-b"]), json!({"nodeSelectorTerms": []}), twice] {
            assert_eq!(reason(device, &nowhere), TakenOverReason::NotLocalVolume, "{nowhere}");
        }
        let of_type = |source: Value| {
            let mut spec = json!({"nodeAffinity": {"required": here}});
            spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            let volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
            RawVolume::of(&volume).unwrap_err().reason()
        };
        assert_eq!(of_type(json!({"hostPath": {"path": device}})), TakenOverReason::NotLocalVolume);
        assert_eq!(
            of_type(json!({"csi": {"driver": "other", "volumeHandle": "v"}})),
            TakenOverReason::NotLocalVolume
        );
        assert_eq!(
            of_type(json!({"csi": {"driver": "imaging.umbra.dev", "volumeHandle": "m/1"}})),
            TakenOverReason::VolumeTaken
        );
    }

    #[test]
    fn a_claim_that_asks_for_more_than_the_volume_has_is_not_bound_to_it() {
        let volume = volume("/dev/disk/by-id/nvme-S1", &on(&["node-a"]));
        let asks = |spec: Value| {
            let claim = serde_json::from_value(json!({"metadata": {"name": "data"}, "spec": spec})).unwrap();
            unfit(&claim, &volume)
        };
        let storage = |size: &str| json!({"requests": {"storage": size}});
        assert_eq!(asks(json!({"accessModes": ["ReadWriteOnce"], "resources": storage("10Gi")})), None);
        assert!(asks(json!({"resources": storage("11Gi")})).unwrap().contains("11Gi"));
        assert!(asks(json!({"accessModes": ["ReadWriteMany"]})).unwrap().contains("ReadWriteMany"));
        assert!(asks(json!({"volumeMode": "Block"})).unwrap().contains("Block"));
    }
}
