//! The outside of this crate, as a small trait: once the kernel, once a table in memory in which every effect can be the
//! last of the process.

use crate::handle::VolumeHandle;
use crate::path::PlacePath;
use crate::record::{Now, Record};
use crate::refusal::Refusal;
use std::path::{Path, PathBuf};
use umbra_identity::{Contents, DeviceNumber};
use umbra_platform::value::DevicePath;

/// What a path leads to; of a mount, to its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// Nothing.
    Absent,
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// This block device.
    Block(DeviceNumber),
    /// Something else, or it cannot be looked at.
    Other,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The block device of the file system, where it has one.
    pub device: Option<DeviceNumber>,
    /// The type of the file system.
    pub kind: String,
    /// Nobody can write through it.
    pub read_only: bool,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path, with links on its way followed.
    pub path: PlacePath,
    /// What it leads to.
    pub node: Node,
    /// Mounts upon it, the lowest first.
    pub mounts: Vec<Mounted>,
}

/// A presented device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device's own name, not a link to it.
    pub path: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// Its size in bytes.
    pub size: u64,
}

/// A file system to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type, as the kernel calls it.
    pub kind: &'static str,
    /// Nobody may write.
    pub read_only: bool,
    /// Options.
    pub options: Vec<String>,
}

/// A change of the machine. Each has happened or has not; nothing is half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A directory for a mount.
    MakeDirectory(PlacePath),
    /// An empty file for the bind of a device.
    MakeFile(PlacePath),
    /// A file system.
    Mount {
        /// The device.
        device: PathBuf,
        /// How.
        file_system: FileSystem,
        /// Where.
        at: PlacePath,
    },
    /// The same again, elsewhere.
    Bind {
        /// A directory or a device.
        from: PathBuf,
        /// Where.
        at: PlacePath,
    },
    /// A mount takes no writes any more.
    ForbidWrites(PlacePath),
    /// The topmost mount goes; never one that is in use.
    Unmount(PlacePath),
    /// The empty directory or file goes.
    Remove(PlacePath),
}

/// One step of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The ledger says this of the volume from now on.
    Keep(Record),
    /// The machine changes.
    Act(Effect),
}

/// Bytes and inodes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that are free.
    pub bytes_free: u64,
    /// Bytes that are left for those who are not root.
    pub bytes_available: u64,
    /// Inodes in all and free; of a device none.
    pub inodes: Option<(u64, u64)>,
}

/// The kernel's mounts and files, and the folder of the ledger.
pub trait World: Send + Sync + 'static {
    /// The moment.
    ///
    /// # Errors
    /// If the kernel does not say.
    fn now(&self) -> Result<Now, Refusal>;

    /// What is at a path.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn place(&self, path: &PlacePath) -> Result<Place, Refusal>;

    /// The block device at a path; none if there is none, or an empty one.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn device(&self, path: &DevicePath) -> Result<Option<Device>, Refusal>;

    /// What lies on a device. One that hangs holds up the thread.
    fn contents(&self, device: &Device) -> Contents;

    /// How full the file system at a path is.
    ///
    /// # Errors
    /// If the kernel does not say.
    fn usage(&self, path: &Path) -> Result<Usage, Refusal>;

    /// Changes the machine.
    ///
    /// # Errors
    /// If the kernel refuses; nothing has changed then.
    fn act(&self, effect: &Effect) -> Result<(), Refusal>;

    /// What is kept of a volume.
    ///
    /// # Errors
    /// If it cannot be read.
    fn kept(&self, volume: VolumeHandle) -> Result<Option<Record>, Refusal>;

    /// Keeps this of a volume: durable when this returns. What is empty is not kept.
    ///
    /// # Errors
    /// If it cannot be written; what was kept before is kept.
    fn keep(&self, volume: VolumeHandle, record: &Record) -> Result<(), Refusal>;

    /// The volumes of which something is kept.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn volumes(&self) -> Result<Vec<VolumeHandle>, Refusal>;
}
