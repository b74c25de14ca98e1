//! What a refusal is in the words of the platform API, and what it means for a start.

use crate::obstacle::{Kind, Obstacle, platform_role};
use crate::words::{device_identity, device_path};
use crate::world::LookError;
use std::path::Path;
use umbra_identity::{Holder, Refusal, Role, SignatureId, Used};
use umbra_platform::PlatformError;
use umbra_platform::error::ObjectKind;
use umbra_platform::status::WaitReason;
use umbra_platform::value::{ByteCount, Detail, DevicePath, Signatures};

/// The refusal of the device at a path.
pub(crate) fn refused(refusal: &Refusal, asked: &Path) -> Obstacle {
    let device = device_path(asked);
    let error = error(refusal, asked, device);
    let (kind, reason) = match refusal {
        // It may come, or be let go, by itself.
        Refusal::Absent { .. } | Refusal::NotThere { .. } | Refusal::Ambiguous { .. } => {
            (Kind::Passing, WaitReason::NotThere)
        }
        Refusal::InUse { .. } => (Kind::Passing, WaitReason::InUse),
        Refusal::ReadOnly { .. } | Refusal::Unread { .. } => (Kind::Passing, WaitReason::IoError),
        Refusal::Shrunk { .. } => (Kind::Mistaken, WaitReason::Shrunk),
        _ => (Kind::Mistaken, WaitReason::Foreign),
    };
    Obstacle::new(kind, reason, error)
}

fn error(refusal: &Refusal, asked: &Path, device: DevicePath) -> PlatformError {
    match refusal {
        Refusal::Absent { path, .. } => Obstacle::from(LookError::NotThere(path.clone())).error,
        Refusal::NotThere { .. } | Refusal::Ambiguous { .. } => {
            PlatformError::NotFound { kind: ObjectKind::Device, name: refusal.to_string().into() }
        }
        Refusal::Swapped { wanted, device: found, difference }
        | Refusal::Overwritten { wanted, device: found, difference } => PlatformError::Foreign {
            device,
            expected: wanted.to_string().into(),
            found: format!("{found}: {difference}").into(),
        },
        Refusal::NotAMaster { .. } => PlatformError::Foreign {
            device,
            expected: "a master".into(),
            found: "a volume of an Umbra set".into(),
        },
        Refusal::Shrunk { wanted, found, .. } => PlatformError::SizeChanged {
            device,
            expected: ByteCount(wanted.size()),
            found: ByteCount(*found),
        },
        Refusal::OtherNode { node, .. } => {
            PlatformError::SessionOpen { device, node: node.to_string().into() }
        }
        Refusal::WeakIdentity { .. } => {
            PlatformError::IdentityWeak { device, identity: device_identity(None, asked) }
        }
        Refusal::NameTaken { owner } => {
            PlatformError::AlreadyExists { kind: ObjectKind::Master, name: owner.name.as_str().into() }
        }
        Refusal::Presented { presented, owner, .. } => {
            PlatformError::PresentedDevice { device, presented: format!("{presented}, {owner}").into() }
        }
        Refusal::Unattributed { presented, .. } => {
            PlatformError::PresentedDevice { device, presented: presented.as_str().into() }
        }
        Refusal::AlreadyUsed { has, owner, recorded, .. } => PlatformError::SameDeviceAs {
            device,
            known_as: device_path(recorded),
            role: platform_role(*has),
            owner: owner.to_string().into(),
        },
        Refusal::VolumeOfSet { has, owner, .. } => PlatformError::AlreadyInRole {
            device,
            role: platform_role(*has),
            owner: owner.to_string().into(),
        },
        Refusal::InUse { used, .. } => in_use(used, device),
        other => unfit(other, device),
    }
}

/// It is nobody's, and still cannot be used as it is.
fn unfit(refusal: &Refusal, device: DevicePath) -> PlatformError {
    match refusal {
        Refusal::ReadOnly { role, .. } => {
            PlatformError::ReadOnlyDevice { device, role: platform_role(*role) }
        }
        Refusal::BlockTooLarge { block, allowed, .. } => PlatformError::BlockSizeMismatch {
            device,
            block: ByteCount(u64::from(*block)),
            allowed: ByteCount(u64::from(*allowed)),
        },
        Refusal::TooSmall { role, actual, needed, .. } => {
            let (actual, needed) = (ByteCount(*actual), ByteCount(*needed));
            match role {
                Role::Bitmap => PlatformError::BitmapTooSmall { bitmap: device, actual, needed },
                Role::Shadow | Role::Master => {
                    PlatformError::ShadowTooSmall { shadow: device, actual, needed }
                }
            }
        }
        Refusal::Unread { why, .. } => {
            PlatformError::Io { device, operation: "read".into(), detail: why.as_str().into() }
        }
        Refusal::NeedsWipe { role, found, .. } => has_signature(refusal, *role, found, device),
        other => PlatformError::BadArgument {
            argument: "wipe-signature".into(),
            problem: Detail::from(other.to_string()),
        },
    }
}

fn in_use(used: &[Used], device: DevicePath) -> PlatformError {
    let mount = used.iter().find_map(|used| match &used.by {
        Holder::Mounted { at, .. } => Some(at.to_string_lossy().into_owned()),
        _ => None,
    });
    match mount {
        Some(mount_point) => PlatformError::Mounted { device, mount_point: mount_point.as_str().into() },
        None => {
            let by: Vec<String> = used.iter().map(ToString::to_string).collect();
            PlatformError::VolumeInUse { device, holder: by.join("; ").into() }
        }
    }
}

fn has_signature(refusal: &Refusal, role: Role, found: &[SignatureId], device: DevicePath) -> PlatformError {
    let signatures = found.iter().filter_map(|id| id.to_string().parse().ok()).collect();
    match Signatures::new(signatures) {
        Ok(signatures) => PlatformError::HasSignature { device, role: platform_role(role), signatures },
        // Nothing is there, and something was confirmed.
        Err(_) => PlatformError::BadArgument {
            argument: "wipe-signature".into(),
            problem: Detail::from(refusal.to_string()),
        },
    }
}
