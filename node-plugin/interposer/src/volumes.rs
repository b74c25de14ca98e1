//! Opening, claiming, preparing and recovering volumes, before a reactor serves them.
//!
//! All of this blocks and runs on threads of its own, with rings of its own; the claimed descriptors then move
//! to the reactor. A claim proves that whatever an earlier process had in flight has landed (E6), so nothing is
//! read before it is held.

use crate::reactor::{ReadySet, SetVolumes};
use std::path::Path;
use std::time::Duration;
use umbra_engine::{Geometry, Id128, SetImage, SetIndex};
use umbra_format::{SetIdentity, Superblock};
use umbra_platform::PlatformError;
use umbra_platform::id::{SetId, SetRef};
use umbra_platform::status::Role as VolumeRole;
use umbra_platform::value::{ByteCount, Detail, DevicePath};
use umbra_store::{
    Blocking, Ended, Known, RecoverError, Session, SetConfig, SetDevices, SetOptions, StoreError,
    prepare_set, read_superblock, recover_set,
};
use umbra_uring::{Device, Holder, OpenError, Owner, Ring, RingConfig, Role, StoreLimits, UringStore};
use uuid::Uuid;

/// How long a shadow or bitmap volume is waited for when its set starts (E6).
pub(crate) const CLAIM_DEADLINE: Duration = Duration::from_secs(5);

/// A path for messages; what cannot be one is shown as the root.
pub(crate) fn device_path(path: &Path) -> DevicePath {
    path.to_string_lossy().parse().unwrap_or_else(|_| "/".parse().expect("the root is a path"))
}

/// Why a volume cannot be opened, in the words of the platform API.
pub(crate) fn open_refusal(path: &Path, role: VolumeRole, error: &OpenError) -> PlatformError {
    let device = device_path(path);
    match error {
        OpenError::InUse { holders, .. } => {
            for holder in holders {
                if let Holder::Mounted { at } = holder {
                    return PlatformError::Mounted {
                        device,
                        mount_point: at.to_string_lossy().as_ref().into(),
                    };
                }
            }
            PlatformError::VolumeInUse { device, holder: holder_text(holders) }
        }
        OpenError::NotABlockDeviceOrFile { found, .. } => {
            PlatformError::NotAVolume { device, found: Detail::from(*found) }
        }
        OpenError::ReadOnly { .. } => PlatformError::ReadOnlyDevice { device, role },
        OpenError::NotFound { .. } => PlatformError::NotFound {
            kind: umbra_platform::error::ObjectKind::Device,
            name: path.to_string_lossy().as_ref().into(),
        },
        other => PlatformError::Io { device, operation: "open".into(), detail: other.to_string().into() },
    }
}

/// Who has a device, without its name: the refusal says that.
fn holder_text(holders: &[Holder]) -> Detail {
    if holders.is_empty() {
        return "another process has claimed it, or it is mounted in another mount namespace".into();
    }
    holders.iter().map(Holder::to_string).collect::<Vec<_>>().join("; ").into()
}

/// Opens and claims a volume.
///
/// # Errors
/// The platform's word for what is in the way.
pub(crate) fn open(
    path: &Path,
    role: VolumeRole,
    deadline: Option<Duration>,
) -> Result<Device, PlatformError> {
    Device::open_claimed(path, Role::ReadWrite, deadline).map_err(|error| open_refusal(path, role, &error))
}

/// Runs blocking work on two claimed volumes in a store of their own, and gives them back.
fn with_volumes<T>(
    volumes: SetVolumes,
    work: impl FnOnce(&mut UringStore, SetDevices) -> T,
) -> Result<(T, SetVolumes), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let ring = Ring::shared(RingConfig::default()).map_err(|error| text(&error))?;
    let limits = StoreLimits { devices: 2, ..StoreLimits::default() };
    let mut store = UringStore::new(ring, Owner::new(1), limits);
    let shadow = store.add_device(volumes.shadow).map_err(|error| text(&error))?;
    let bitmap = store.add_device(volumes.bitmap).map_err(|error| text(&error))?;
    let result = work(&mut store, SetDevices { shadow, bitmap });
    let shadow = store.remove_device(shadow).map_err(|error| text(&error))?;
    let bitmap = store.remove_device(bitmap).map_err(|error| text(&error))?;
    Ok((result, SetVolumes { shadow, bitmap }))
}

/// Flushes a claimed device: what a killed process left in its cache becomes durable before it is believed (E8).
///
/// # Errors
/// What the device says.
pub(crate) fn flush(device: Device) -> Result<Device, String> {
    let ring = Ring::shared(RingConfig::default()).map_err(|error| error.to_string())?;
    let limits = StoreLimits { devices: 1, ..StoreLimits::default() };
    let mut store = UringStore::new(ring, Owner::new(1), limits);
    let slot = store.add_device(device).map_err(|error| error.to_string())?;
    let flushed: Result<(), StoreError> = Blocking::new(&mut store).flush(slot);
    flushed.map_err(|error| error.to_string())?;
    store.remove_device(slot).map_err(|error| error.to_string())
}

/// Reads the superblock of a bitmap volume that nobody serves, changing nothing. The claim shows that whatever
/// an earlier process had in flight has landed, the flush makes that durable: decisions are built on it.
///
/// # Errors
/// A text that says why it cannot be read.
pub(crate) fn peek(bitmap: &Path) -> Result<Superblock, String> {
    let device = open(bitmap, VolumeRole::Bitmap, Some(CLAIM_DEADLINE)).map_err(|error| error.to_string())?;
    let ring = Ring::shared(RingConfig::default()).map_err(|error| error.to_string())?;
    let limits = StoreLimits { devices: 1, ..StoreLimits::default() };
    let mut store = UringStore::new(ring, Owner::new(1), limits);
    let slot = store.add_device(device).map_err(|error| error.to_string())?;
    Blocking::new(&mut store).flush(slot).map_err(|error: StoreError| error.to_string())?;
    let superblock = read_superblock(&mut store, slot).map_err(|error| error.to_string())?;
    // Out of the ring first: the claim falls with the descriptor, not when the ring is torn down.
    drop(store.remove_device(slot).map_err(|error| error.to_string())?);
    Ok(superblock)
}

/// What an enable has to know about the master.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MasterShape {
    /// Size and chunks.
    pub geometry: Geometry,
    /// Logical block in bytes.
    pub logical_block: u32,
}

/// Refuses volumes that cannot carry a set of this master (E17).
///
/// # Errors
/// The platform's word for the first misfit.
pub(crate) fn check_fit(volumes: &SetVolumes, master: &MasterShape) -> Result<(), PlatformError> {
    let (shadow, bitmap) = (volumes.shadow.capabilities(), volumes.bitmap.capabilities());
    let block = |device: &Device, block: u32, allowed: u64| PlatformError::BlockSizeMismatch {
        device: device_path(device.path()),
        block: ByteCount(u64::from(block)),
        allowed: ByteCount(allowed),
    };
    if shadow.logical_block > master.logical_block {
        return Err(block(&volumes.shadow, shadow.logical_block, u64::from(master.logical_block)));
    }
    if bitmap.logical_block > 4096 {
        return Err(block(&volumes.bitmap, bitmap.logical_block, 4096));
    }
    if shadow.size < master.geometry.master_bytes() {
        return Err(PlatformError::ShadowTooSmall {
            shadow: device_path(volumes.shadow.path()),
            actual: ByteCount(shadow.size),
            needed: ByteCount(master.geometry.master_bytes()),
        });
    }
    let needed = umbra_format::Layout::standard(master.geometry).total_bytes();
    if bitmap.size < needed {
        return Err(PlatformError::BitmapTooSmall {
            bitmap: device_path(volumes.bitmap.path()),
            actual: ByteCount(bitmap.size),
            needed: ByteCount(needed),
        });
    }
    Ok(())
}

/// Formats the bitmap volume of a new set.
///
/// # Errors
/// The platform's word; a volume of a set that was not disabled is refused.
pub(crate) fn prepare(
    index: SetIndex,
    volumes: SetVolumes,
    identity: SetIdentity,
    options: SetOptions,
) -> Result<ReadySet, PlatformError> {
    let bitmap = device_path(volumes.bitmap.path());
    let shadow = device_path(volumes.shadow.path());
    let io = |detail: String| PlatformError::Io {
        device: bitmap.clone(),
        operation: "preparation of the set".into(),
        detail: detail.into(),
    };
    let work = |store: &mut UringStore, devices| prepare_set(store, devices, identity, options, false);
    let (prepared, volumes) = with_volumes(volumes, work).map_err(io)?;
    let (config, image) = prepared.map_err(|error| recover_refusal(&shadow, &bitmap, error))?;
    Ok(ReadySet { index, config, image, volumes })
}

/// Recovers a set from its bitmap volume. `committed` says what became of a cut that the set is in doubt about.
///
/// # Errors
/// The platform's word for what is wrong; then the volumes are let go.
pub(crate) fn recover(
    index: SetIndex,
    volumes: SetVolumes,
    session: Session,
    ended: Option<Ended>,
    committed: impl FnOnce(Id128) -> Result<bool, String>,
    options: SetOptions,
) -> Result<ReadySet, PlatformError> {
    let bitmap = device_path(volumes.bitmap.path());
    let shadow = device_path(volumes.shadow.path());
    let io = |detail: String| PlatformError::Io {
        device: bitmap.clone(),
        operation: "recovery of the set".into(),
        detail: detail.into(),
    };
    let work = |store: &mut UringStore, devices: SetDevices| {
        // What cannot be read here is for the recovery to report.
        let doubt = read_superblock(store, devices.bitmap).ok().and_then(|superblock| superblock.doubt);
        let commit = doubt.map(|doubt| committed(doubt.then.cut)).transpose()?.unwrap_or(false);
        Ok(recover_set(store, devices, session, Known { ended, commit }, options))
    };
    let (recovered, volumes) = with_volumes(volumes, work).map_err(io)?;
    let recovered: Result<(SetConfig, SetImage), RecoverError> = recovered.map_err(io)?;
    let (config, image) = recovered.map_err(|error| recover_refusal(&shadow, &bitmap, error))?;
    Ok(ReadySet { index, config, image, volumes })
}

fn recover_refusal(shadow: &DevicePath, bitmap: &DevicePath, error: RecoverError) -> PlatformError {
    let detail = Detail::from(error.to_string());
    let bitmap = bitmap.clone();
    match error {
        RecoverError::Device { volume, .. } => {
            let device = if volume == "shadow" { shadow.clone() } else { bitmap };
            PlatformError::Io { device, operation: "recovery of the set".into(), detail }
        }
        RecoverError::Foreign | RecoverError::TwoSets { .. } | RecoverError::InUse { .. } => {
            PlatformError::BitmapForeign { bitmap, found: detail }
        }
        RecoverError::BitmapTooSmall { have, need } => {
            PlatformError::BitmapTooSmall { bitmap, actual: ByteCount(have), needed: ByteCount(need) }
        }
        RecoverError::ShadowTooSmall { have, need } => PlatformError::ShadowTooSmall {
            shadow: shadow.clone(),
            actual: ByteCount(have),
            needed: ByteCount(need),
        },
        RecoverError::ForeignSession { node, .. } => {
            PlatformError::SessionOpen { device: bitmap, node: node.to_string().into() }
        }
        RecoverError::MasterIncomplete(set) => {
            let set = SetRef::Id(SetId(Uuid::from_bytes(set.0)));
            PlatformError::MasterIncomplete { set, detail }
        }
        RecoverError::Swapped { .. } => PlatformError::VolumeInUse { device: shadow.clone(), holder: detail },
        _ => PlatformError::BitmapDamaged { bitmap, detail },
    }
}
