//! What lies on a device, and whether and how it is mounted. Nothing is ever formatted.

use crate::refusal::Refusal;
use crate::request::Access;
use crate::volume::Volume;
use crate::world::{Device, FileSystem};
use umbra_identity::Contents;

/// File systems that are mounted, as identity and the kernel call them.
const MOUNTED: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "btrfs"];
/// Of one family: each is mounted where another was asked for.
const EXT: [&str; 3] = ["ext2", "ext3", "ext4"];
/// What knows its members by a UUID, and takes a copy for the original. XFS does too, and is told not to.
const KNOWN_BY_UUID: [&str; 5] = ["btrfs", "lvm2_member", "linux_raid_member", "bcachefs", "zfs_member"];
/// What may be left of what a disk was before it got a file system, and is in nobody's way.
const PARTITION_TABLES: [&str; 2] = ["dos", "gpt"];

/// The kinds of what was found, and its text.
fn found<'a>(volume: &Volume, device: &Device, contents: &'a Contents) -> Result<Vec<&'a str>, Refusal> {
    match contents {
        Contents::Read(content) => Ok(content.signatures.iter().map(|found| found.id.kind()).collect()),
        unread => Err(Refusal::Unreadable {
            volume: volume.handle,
            device: device.path.display().to_string().into(),
            problem: unread.to_string().into(),
        }),
    }
}

/// Refuses an image beside its original, where the kernel would take one for the other.
pub(crate) fn refuse_twins(volume: &Volume, device: &Device, contents: &Contents) -> Result<(), Refusal> {
    let Some(master) = volume.twin else { return Ok(()) };
    match found(volume, device, contents)?.into_iter().find(|kind| KNOWN_BY_UUID.contains(kind)) {
        None => Ok(()),
        Some(kind) => Err(Refusal::Twin {
            volume: volume.handle,
            device: device.path.display().to_string().into(),
            found: kind.into(),
            master: master.to_string().into(),
        }),
    }
}

/// How the file system on a device is mounted.
pub(crate) fn file_system(
    volume: &Volume,
    device: &Device,
    contents: &Contents,
    access: (Option<&str>, &[String]),
    read_only: bool,
) -> Result<FileSystem, Refusal> {
    let (wanted, options) = access;
    refuse_twins(volume, device, contents)?;
    let mut kinds = found(volume, device, contents)?;
    kinds.retain(|kind| !PARTITION_TABLES.contains(kind));
    let [kind] = kinds[..] else { return Err(not_mountable(volume, device, contents)) };
    let Some(kind) = MOUNTED.into_iter().find(|mounted| *mounted == kind) else {
        return Err(not_mountable(volume, device, contents));
    };
    let is_as_asked =
        wanted.is_none_or(|wanted| wanted == kind || EXT.contains(&wanted) && EXT.contains(&kind));
    if !is_as_asked {
        return Err(Refusal::OtherFileSystem {
            volume: volume.handle,
            device: device.path.display().to_string().into(),
            found: kind.into(),
            wanted: wanted.unwrap_or_default().into(),
        });
    }
    let mut options: Vec<String> = options.iter().filter(|option| !decides_writes(option)).cloned().collect();
    if kind == "xfs" && volume.twin.is_some() && !options.iter().any(|option| option == NO_UUID) {
        options.push(NO_UUID.into());
    }
    Ok(FileSystem { kind, read_only, options })
}

/// XFS: mounted although a file system of the same UUID may be.
const NO_UUID: &str = "nouuid";

/// Whether an option says what `read_only` says.
fn decides_writes(option: &str) -> bool {
    ["ro", "rw"].contains(&option)
}

/// Whether the options of a request ask for a mount that takes no writes.
pub(crate) fn asks_for_no_writes(access: &Access) -> bool {
    match access {
        Access::FileSystem { options, .. } => {
            options.iter().rfind(|option| decides_writes(option)).is_some_and(|last| last == "ro")
        }
        Access::Block => false,
    }
}

fn not_mountable(volume: &Volume, device: &Device, contents: &Contents) -> Refusal {
    let device = device.path.display().to_string().into();
    Refusal::NotMountable { volume: volume.handle, device, found: contents.to_string().into() }
}
