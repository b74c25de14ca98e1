//! The calls of the kubelet, checked once: what comes from here needs no second look at its fields.

use crate::handle::VolumeHandle;
use crate::mode::AccessMode;
use crate::path::PlacePath;
use crate::record::Pod;
use crate::refusal::Refusal;
use crate::wire::csi;
use csi::volume_capability::{AccessType, MountVolume};
use std::collections::HashMap;
use umbra_platform::id::SetId;

/// Attribute of a PersistentVolume of a set: `ReadWrite` lets pods write the image.
pub const SHADOW_ACCESS: &str = "imaging.umbra.dev/shadow-access";
/// Attributes by which the kubelet says whose the volume is, where the CSIDriver has `podInfoOnMount`.
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
/// Longest text of a mount option, and most of them.
const OPTION_BYTES_MAX: usize = 1024;
const OPTIONS_MAX: usize = 64;

/// How a pod gets the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a directory.
    FileSystem {
        /// The type that it must have, if one was named.
        kind: Option<String>,
        /// Options of the mount.
        options: Vec<String>,
    },
    /// As a device.
    Block,
}

/// NodeStageVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The volume.
    pub volume: VolumeHandle,
    /// Where.
    pub at: PlacePath,
    /// As what.
    pub access: Access,
    /// For whom.
    pub mode: AccessMode,
    /// Of a shadow: pods may write it.
    pub is_writable_shadow: bool,
}

impl Stage {
    /// The set whose image is mounted for nobody but readers: a file system that was in use at the cut recovers its journal
    /// then, and writes for that.
    pub(crate) fn recovers(&self) -> Option<SetId> {
        match (self.volume, &self.access) {
            (VolumeHandle::Shadow(set), Access::FileSystem { .. }) if !self.is_writable_shadow => Some(set),
            _ => None,
        }
    }
}

/// NodePublishVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// What it was staged as, and where.
    pub stage: Stage,
    /// Where the pod gets it.
    pub at: PlacePath,
    /// This pod only reads.
    pub is_read_only: bool,
    /// The pod, where the kubelet says so.
    pub pod: Option<Pod>,
}

/// NodeUnstageVolume and NodeUnpublishVolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// The volume.
    pub volume: VolumeHandle,
    /// Where it is left.
    pub at: PlacePath,
}

/// Where a call speaks of a volume that cannot be one of ours.
fn volume(id: &str) -> Result<VolumeHandle, Refusal> {
    id.parse().map_err(|_| Refusal::NoSuchVolume { volume: id.into() })
}

/// A field that must be there.
fn present(field: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() { Err(Refusal::bad_request(field, "missing")) } else { Ok(()) }
}

fn place(field: &str, text: &str) -> Result<PlacePath, Refusal> {
    text.parse().map_err(|error| Refusal::bad_request(field, error))
}

fn capability(capability: Option<csi::VolumeCapability>) -> Result<(Access, AccessMode), Refusal> {
    let missing = |field: &str| Refusal::bad_request(field, "missing");
    let capability = capability.ok_or_else(|| missing("volume_capability"))?;
    let mode = capability.access_mode.ok_or_else(|| missing("volume_capability.access_mode"))?.mode;
    let mode = AccessMode::from_wire(mode).ok_or_else(|| {
        Refusal::bad_request("volume_capability.access_mode", format!("mode {mode} is not known here"))
    })?;
    let access = match capability.access_type.ok_or_else(|| missing("volume_capability.access_type"))? {
        AccessType::Block(_) => Access::Block,
        AccessType::Mount(mount) => file_system(mount)?,
    };
    Ok((access, mode))
}

fn file_system(mount: MountVolume) -> Result<Access, Refusal> {
    if !mount.volume_mount_group.is_empty() {
        let problem = "VOLUME_MOUNT_GROUP is no capability of this driver";
        return Err(Refusal::bad_request("volume_capability.mount.volume_mount_group", problem));
    }
    let is_usable = |option: &String| {
        !option.is_empty() && option.len() <= OPTION_BYTES_MAX && !option.contains(['\0', '\n'])
    };
    if mount.mount_flags.len() > OPTIONS_MAX || !mount.mount_flags.iter().all(is_usable) {
        let problem = "too many mount options, or one that is empty, too long or holds a control character";
        return Err(Refusal::bad_request("volume_capability.mount.mount_flags", problem));
    }
    let kind = Some(mount.fs_type).filter(|kind| !kind.is_empty());
    Ok(Access::FileSystem { kind, options: mount.mount_flags })
}

fn is_writable_shadow(context: &HashMap<String, String>) -> Result<bool, Refusal> {
    match context.get(SHADOW_ACCESS).map(String::as_str) {
        None | Some("ReadOnly") => Ok(false),
        Some("ReadWrite") => Ok(true),
        Some(other) => {
            let problem = format!("{SHADOW_ACCESS} is {other:.32?}, and not ReadOnly or ReadWrite");
            Err(Refusal::bad_request("volume_context", problem))
        }
    }
}

impl TryFrom<csi::NodeStageVolumeRequest> for Stage {
    type Error = Refusal;

    fn try_from(request: csi::NodeStageVolumeRequest) -> Result<Self, Refusal> {
        present("volume_id", &request.volume_id)?;
        present("staging_target_path", &request.staging_target_path)?;
        let (access, mode) = capability(request.volume_capability)?;
        Ok(Self {
            volume: volume(&request.volume_id)?,
            at: place("staging_target_path", &request.staging_target_path)?,
            access,
            mode,
            is_writable_shadow: is_writable_shadow(&request.volume_context)?,
        })
    }
}

impl TryFrom<csi::NodePublishVolumeRequest> for Publish {
    type Error = Refusal;

    fn try_from(request: csi::NodePublishVolumeRequest) -> Result<Self, Refusal> {
        present("volume_id", &request.volume_id)?;
        present("target_path", &request.target_path)?;
        let (access, mode) = capability(request.volume_capability)?;
        present("staging_target_path", &request.staging_target_path)?;
        let stage = Stage {
            volume: volume(&request.volume_id)?,
            at: place("staging_target_path", &request.staging_target_path)?,
            access,
            mode,
            is_writable_shadow: is_writable_shadow(&request.volume_context)?,
        };
        let at = place("target_path", &request.target_path)?;
        if at == stage.at {
            return Err(Refusal::bad_request("target_path", "the same as staging_target_path"));
        }
        let said = |key| request.volume_context.get(key).cloned();
        let pod = match (said(POD_NAMESPACE), said(POD_NAME), said(POD_UID)) {
            (Some(namespace), Some(name), Some(uid)) => Some(Pod { namespace, name, uid }),
            _ => None,
        };
        Ok(Self { stage, at, is_read_only: request.readonly, pod })
    }
}

impl TryFrom<csi::NodeUnstageVolumeRequest> for Leave {
    type Error = Refusal;

    fn try_from(request: csi::NodeUnstageVolumeRequest) -> Result<Self, Refusal> {
        present("volume_id", &request.volume_id)?;
        let at = place("staging_target_path", &request.staging_target_path)?;
        Ok(Self { volume: volume(&request.volume_id)?, at })
    }
}

impl TryFrom<csi::NodeUnpublishVolumeRequest> for Leave {
    type Error = Refusal;

    fn try_from(request: csi::NodeUnpublishVolumeRequest) -> Result<Self, Refusal> {
        present("volume_id", &request.volume_id)?;
        let at = place("target_path", &request.target_path)?;
        Ok(Self { volume: volume(&request.volume_id)?, at })
    }
}

/// The volume and the path of a NodeGetVolumeStats: a path that cannot be a place is one at which the volume is not.
pub(crate) fn stats(request: &csi::NodeGetVolumeStatsRequest) -> Result<(VolumeHandle, PlacePath), Refusal> {
    present("volume_id", &request.volume_id)?;
    present("volume_path", &request.volume_path)?;
    let volume = volume(&request.volume_id)?;
    let not_there = |_| Refusal::NotThere { volume, path: request.volume_path.as_str().into() };
    Ok((volume, request.volume_path.parse().map_err(not_there)?))
}
