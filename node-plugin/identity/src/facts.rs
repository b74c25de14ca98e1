//! What there is to know of a device, as plain data: gathered from a machine, or made up by a simulator.

use crate::content::Contents;
use crate::hardware::{DeviceKind, Identity};
use crate::sysfs::DeviceNumber;
use std::fmt;
use std::path::{Path, PathBuf};
use umbra_store::Capabilities;

/// What makes two names the same thing at one moment: the number of a device, the inode of a file. Numbers are
/// given to other devices later; a key is never recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKey {
    /// A block device.
    Block(DeviceNumber),
    /// A regular file.
    File {
        /// The device, or the anonymous number, of its file system.
        on: DeviceNumber,
        /// Its inode.
        inode: u64,
    },
}

/// A device below or above another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer {
    /// Which.
    pub key: DeviceKey,
    /// The kernel's name of it, that of device-mapper if it has one, or the path of a file.
    pub name: String,
    /// Whether it is a partition: nobody put that on its disk.
    pub partition: bool,
}

/// Who uses a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A file system on it is mounted.
    Mounted {
        /// Where, as the mount namespace names it.
        at: PathBuf,
        /// A process that lives in another mount namespace than ours and sees the mount there.
        by: Option<u32>,
    },
    /// It is one of several devices of a mounted file system, such as btrfs.
    Member {
        /// Kind and UUID of the file system.
        of: String,
    },
    /// It is swapped to.
    Swap,
    /// Another block device is made of it: device-mapper, md, bcache, loop.
    Stacked {
        /// The upper device's name: that of device-mapper if it has one, else the kernel's.
        name: String,
    },
    /// A process has it open.
    Opened {
        /// Which.
        pid: u32,
        /// Its name; empty if it could not be read.
        command: String,
        /// Whether it may write.
        writes: bool,
    },
    /// A process has pages of it mapped; the descriptor may be closed.
    Mapped {
        /// Which.
        pid: u32,
        /// Its name; empty if it could not be read.
        command: String,
        /// Whether its stores reach the device.
        writes: bool,
    },
    /// A process has locked the file.
    Locked {
        /// Who took the lock. It may be gone while its last writes are still on their way.
        pid: u32,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at, by: None } => write!(f, "mounted at {}; unmount it", at.display()),
            Self::Mounted { at, by: Some(pid) } => {
                write!(
                    f,
                    "mounted at {} in the mount namespace of process {pid}; unmount it there",
                    at.display()
                )
            }
            Self::Member { of } => write!(f, "a device of the mounted file system {of}; unmount that"),
            Self::Swap => f.write_str("used as swap; run swapoff"),
            Self::Stacked { name } => {
                write!(f, "part of the device {name}; stop that device or use it instead")
            }
            Self::Opened { pid, command, writes } => {
                let for_what = if *writes { "open for writing" } else { "open" };
                write!(f, "{for_what} in process {pid}{}; stop that", Command(command))
            }
            Self::Mapped { pid, command, .. } => {
                write!(f, "mapped into process {pid}{}; stop that", Command(command))
            }
            Self::Locked { pid } => {
                write!(f, "locked by process {pid}; stop it and wait for its last writes")
            }
        }
    }
}

/// The name of a process in parentheses, or nothing.
struct Command<'a>(&'a str);

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// One use of a device, straight or through something on top of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    /// By whom.
    pub by: Holder,
    /// The partition, disk or upper device that is used; none: the device itself.
    pub through: Option<String>,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.through {
            Some(through) => write!(f, "{through} is {}", self.by),
            None => write!(f, "it is {}", self.by),
        }
    }
}

/// Something that could not be looked at. Whoever needs a proof that nobody is there does not have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blind {
    /// What, as a path or in words.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be looked at: {}", self.what, self.why)
    }
}

/// Everything about one device, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceFacts {
    /// The path that was asked about; for a device that was found in a list, its node.
    pub path: PathBuf,
    /// Which it is.
    pub key: DeviceKey,
    /// The kernel's name, such as `sda1`; of a file, its path without symbolic links.
    pub name: String,
    /// Counts the disks of this boot: another disk under the same number has another one.
    pub diskseq: Option<u64>,
    /// What it is recognised by.
    pub identity: Identity,
    /// Size, blocks and cache.
    pub capabilities: Capabilities,
    /// What lies on it.
    pub contents: Contents,
    /// Everything that it stands on, down to the disks: the disk of a partition, what device-mapper and md are made
    /// of, the file behind a loop device, the file system's device below a file.
    pub below: Vec<Layer>,
    /// Everything that stands on it, up to the top: partitions, device-mapper, md, loop devices.
    pub above: Vec<Layer>,
    /// Who uses it, its disk or partitions, or anything above it.
    pub used: Vec<Used>,
    /// What could not be looked at.
    pub blind: Vec<Blind>,
}

impl DeviceFacts {
    /// An unused, empty disk with 512-byte blocks and a serial number that is its name.
    pub fn disk(name: &str, number: DeviceNumber, size: u64) -> Self {
        Self {
            path: Path::new("/dev").join(name),
            key: DeviceKey::Block(number),
            name: name.to_owned(),
            diskseq: None,
            identity: Identity {
                kind: DeviceKind::Disk,
                wwid: None,
                serial: Some(name.to_owned()),
                partuuid: None,
                upper_uuid: None,
                partition: None,
                size,
                strong: true,
            },
            capabilities: Capabilities {
                size,
                logical_block: 512,
                physical_block: 512,
                optimal_io: 0,
                volatile_cache: true,
                fua: false,
                rotational: false,
                discard: true,
                write_zeroes: true,
                read_only: false,
            },
            contents: Contents::default(),
            below: Vec::new(),
            above: Vec::new(),
            used: Vec::new(),
            blind: Vec::new(),
        }
    }

    /// The same with this serial number; without one its identity is weak.
    #[must_use]
    pub fn with_serial(mut self, serial: Option<&str>) -> Self {
        self.identity.serial = serial.map(str::to_owned);
        self.identity.strong = serial.is_some();
        self
    }

    /// The same with this content.
    #[must_use]
    pub fn with_contents(mut self, contents: Contents) -> Self {
        self.contents = contents;
        self
    }

    /// The same, used.
    #[must_use]
    pub fn used_by(mut self, by: Holder) -> Self {
        self.used.push(Used { by, through: None });
        self
    }

    /// The same, standing on `lower`. The other direction is the caller's to add.
    #[must_use]
    pub fn standing_on(mut self, lower: &Self) -> Self {
        self.below.push(lower.layer());
        self.below.extend(lower.below.iter().cloned());
        self
    }

    /// This device as a layer of another one.
    pub fn layer(&self) -> Layer {
        Layer { key: self.key, name: self.name.clone(), partition: self.identity.partition.is_some() }
    }

    /// The device's number; none for a file.
    pub fn number(&self) -> Option<DeviceNumber> {
        match self.key {
            DeviceKey::Block(number) => Some(number),
            DeviceKey::File { .. } => None,
        }
    }

    /// Whether it is presented by a ublk server.
    pub fn is_ublk(&self) -> bool {
        self.identity.kind == DeviceKind::Ublk
    }

    /// Whether it is `key` or stands on it.
    pub fn stands_on(&self, key: DeviceKey) -> bool {
        self.key == key || self.below.iter().any(|layer| layer.key == key)
    }

    /// Whether a write to one may change the other: the same device, a partition and its disk, one on top of the
    /// other, or two names of one disk. Two partitions of a disk do not overlap, nor do two volumes of a group.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.stands_on(other.key) || other.stands_on(self.key) || self.same_hardware(other)
    }

    /// Whether both are known by the same unique name: one disk on two paths, or copies that nobody can tell
    /// apart.
    fn same_hardware(&self, other: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (self.identity.stable_id(), other.identity.stable_id()) else {
            return false;
        };
        let whole = |of: &Self| of.identity.partition.is_none();
        // A path of a disk, and a partition that was found on another path of it.
        let disks = || (whole(self) || whole(other)) && self.identity.disk_id() == other.identity.disk_id();
        ours == theirs || self.identity.disk_id().is_some() && disks()
    }
}

impl fmt::Display for DeviceFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; {})", self.path.display(), self.identity, self.contents)
    }
}
