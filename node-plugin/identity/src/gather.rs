//! Looking at a machine: which block devices there are, what stands on what, and who uses which.
//!
//! [`Machine::look`] reads `/sys` and `/proc` once; [`Machine::facts`] then puts together what concerns one device.
//! Everything may change while we look. What may not be overlooked is looked at with the claim of the device
//! held: then nobody mounts it, swaps to it or builds on it any more, and whoever had it open before is seen.
//!
//! What no file of the kernel shows, and only a refused claim tells: the devices of ZFS pools and of targets
//! (iSCSI, NVMe over fabrics), external journals, and mounts in a mount namespace that no process lives in. What
//! nothing shows at all: a device that is registered in an io_uring, without descriptor, claim and mapping.

mod names;
mod processes;
mod stack;
#[cfg(test)]
mod tests;
mod users;

use crate::content::{Content, Contents};
use crate::facts::{Blind, DeviceFacts, DeviceKey, Holder, Layer, Used};
use crate::hardware::Identity;
use crate::sysfs::{BlockDir, DeviceNumber, Roots};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use stack::Stack;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;
use umbra_store::Capabilities;

/// How to look.
#[derive(Clone, Debug)]
pub struct Look {
    roots: Roots,
    openers: bool,
    except: Option<u32>,
    contents: bool,
    key_of: fn(&Path) -> io::Result<Option<DeviceKey>>,
}

impl Default for Look {
    fn default() -> Self {
        Self { roots: Roots::default(), openers: false, except: None, contents: false, key_of }
    }
}

impl Look {
    /// With other roots.
    #[must_use]
    pub fn with_roots(mut self, roots: Roots) -> Self {
        self.roots = roots;
        self
    }

    /// Also looks at the descriptors and mappings of every process: some milliseconds, more on a busy machine.
    #[must_use]
    pub fn with_openers(mut self) -> Self {
        self.openers = true;
        self
    }

    /// Leaves out the descriptors of one process, our own. Its mappings are still looked at.
    #[must_use]
    pub fn except_descriptors_of(mut self, pid: u32) -> Self {
        self.except = Some(pid);
        self
    }

    /// Also reads what lies on a device whose facts are asked for. A device that hangs holds up the thread.
    #[must_use]
    pub fn with_contents(mut self) -> Self {
        self.contents = true;
        self
    }
}

/// Why there are no facts about a path. A path without anything is no error, it is "not there".
#[derive(Debug, Error)]
pub enum GatherError {
    /// It is no block device and no regular file.
    #[error("{} is neither a block device nor a regular file; name one of these", .0.display())]
    NotAVolume(PathBuf),
    /// The kernel does not say.
    #[error("{what} cannot be read; umbra-io needs the host's /sys, /proc and /dev")]
    Unreadable {
        /// What.
        what: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A machine at one moment.
#[derive(Clone, Debug)]
pub struct Machine {
    look: Look,
    stack: Stack,
    uses: Vec<(DeviceKey, Holder)>,
    blind: Vec<Blind>,
}

impl Machine {
    /// Looks. `files` are the regular files whose users are of interest; devices always are.
    ///
    /// # Errors
    /// If `/sys` or `/proc` as a whole cannot be read.
    pub fn look(look: &Look, files: &[&Path]) -> Result<Self, GatherError> {
        let mut blind = Vec::new();
        let stack = Stack::read(look, &mut blind)?;
        let mut uses = users::read(look, &stack, &mut blind)?;
        if look.openers {
            let asked = files.iter().filter_map(|path| (look.key_of)(path).ok().flatten());
            let wanted: BTreeSet<DeviceKey> = asked.chain(stack.files()).collect();
            uses.extend(processes::read(look, &wanted, &mut blind)?);
        }
        uses.sort();
        uses.dedup();
        blind.sort();
        blind.dedup();
        Ok(Self { look: look.clone(), stack, uses, blind })
    }

    /// The facts about what is at a path; none if there is nothing.
    ///
    /// # Errors
    /// [`GatherError`].
    pub fn facts(&self, path: &Path) -> Result<Option<DeviceFacts>, GatherError> {
        let unreadable = |source| GatherError::Unreadable { what: path.to_owned(), source };
        let key = match (self.look.key_of)(path) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(GatherError::NotAVolume(path.to_owned())),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        match key {
            DeviceKey::Block(number) => Ok(self.device(number, path.to_owned())),
            DeviceKey::File { .. } => self.file(key, path).map(Some).map_err(unreadable),
        }
    }

    /// The facts about every block device: where a device that is known by its identity went. Empty loop devices
    /// and drives without a medium are left out.
    pub fn devices(&self) -> Vec<DeviceFacts> {
        let node = |number: DeviceNumber| {
            let name = self.stack.kernel_name(number)?;
            self.device(number, self.look.roots.dev.join(name))
        };
        self.stack.numbers().filter_map(node).filter(|facts| facts.capabilities.size > 0).collect()
    }

    /// The names by which devices stay known: those below `/dev/disk/by-id`, `by-partuuid`, `by-path` and `/dev/mapper`,
    /// less those that are read from the content and would go with a copy of it. A device that has none is left out.
    ///
    /// # Errors
    /// [`GatherError::Unreadable`].
    pub fn names(&self) -> Result<BTreeMap<DeviceKey, Vec<PathBuf>>, GatherError> {
        let unreadable = |source| GatherError::Unreadable { what: self.look.roots.dev.clone(), source };
        names::read(&self.look).map_err(unreadable)
    }

    /// What is at a path now; none where there is nothing that could be a volume.
    pub fn key(&self, path: &Path) -> Option<DeviceKey> {
        (self.look.key_of)(path).ok().flatten()
    }

    /// The number of the block device with this name of the kernel.
    pub fn number_of(&self, kernel_name: &str) -> Option<DeviceNumber> {
        self.stack.number_of(kernel_name)
    }

    fn device(&self, number: DeviceNumber, path: PathBuf) -> Option<DeviceFacts> {
        let dir = self.stack.dir(number)?;
        let size = dir.size();
        let key = DeviceKey::Block(number);
        let capabilities = dir.capabilities(size, false);
        let contents = self.contents(&path, capabilities.size);
        Some(DeviceFacts {
            path,
            key,
            name: self.stack.kernel_name(number)?.to_owned(),
            diskseq: dir.diskseq(),
            identity: Identity::of_device_in(&self.look.roots, number, size),
            capabilities,
            contents,
            below: self.stack.below(key),
            above: self.stack.above(key),
            used: self.used(key),
            blind: self.blind.clone(),
        })
    }

    fn file(&self, key: DeviceKey, path: &Path) -> io::Result<DeviceFacts> {
        let size = fs::metadata(path)?.len();
        let name = fs::canonicalize(path)?.to_string_lossy().into_owned();
        let DeviceKey::File { on, .. } = key else { unreachable!("the caller looked") };
        let mut used = self.used(key);
        let mut blind = self.blind.clone();
        used.extend(users::lockers(&self.look, key, &mut blind).into_iter().map(straight));
        let disk = DeviceKey::Block(on);
        let mut below: Vec<Layer> = self.stack.layer(disk).into_iter().collect();
        below.extend(self.stack.below(disk));
        Ok(DeviceFacts {
            path: path.to_owned(),
            key,
            name,
            diskseq: None,
            identity: Identity::of_file(size),
            capabilities: file_capabilities(size),
            contents: self.contents(path, size),
            below,
            above: self.stack.above(key),
            used,
            blind,
        })
    }

    fn contents(&self, path: &Path, size: u64) -> Contents {
        if self.look.contents { Self::read_contents(path, size) } else { Contents::Unasked }
    }

    /// Reads what lies on a device or file of `size` bytes. One that hangs holds up the thread.
    pub fn read_contents(path: &Path, size: u64) -> Contents {
        let read = |file: File| Content::read(size, |at, buffer: &mut [u8]| file.read_exact_at(buffer, at));
        match open_to_read(path).and_then(read) {
            Ok(content) => Contents::Read(Box::new(content)),
            Err(error) => Contents::Unread { why: error.to_string() },
        }
    }

    /// Who uses a device: straight, through what stands on it, and, of a partition, through its whole disk. Not its
    /// sibling partitions, and not what it stands on otherwise: that is used by the device itself.
    fn used(&self, key: DeviceKey) -> Vec<Used> {
        let mut used: Vec<Used> = self.uses_of(key).map(straight).collect();
        for upper in self.stack.above(key) {
            let through = |by| Used { by, through: Some(upper.name.clone()) };
            used.extend(self.uses_of(upper.key).map(through));
        }
        if let Some(disk) = self.stack.disk_of(key) {
            let through = |by| Used { by, through: Some(disk.name.clone()) };
            used.extend(self.uses_of(disk.key).map(through));
        }
        used.sort();
        used.dedup();
        used
    }

    fn uses_of(&self, key: DeviceKey) -> impl Iterator<Item = Holder> {
        let direct = self.uses.iter().filter(move |(used, _)| *used == key).map(|(_, by)| by.clone());
        let stacked = self.stack.straight_above(key).into_iter().filter(|upper| !upper.partition);
        direct.chain(stacked.map(|upper| Holder::Stacked { name: upper.name }))
    }
}

fn straight(by: Holder) -> Used {
    Used { by, through: None }
}

/// There is nothing, or a node without a device.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    [Errno::NOENT, Errno::NOTDIR, Errno::NXIO, Errno::NODEV]
        .iter()
        .any(|absent| errno == Some(absent.raw_os_error()))
}

/// What makes a name the thing that it is; none for what cannot be a volume. Neither a network file system that
/// hangs nor an automount is woken for it.
fn key_of(path: &Path) -> io::Result<Option<DeviceKey>> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE | StatxFlags::INO)?;
    let number = |major, minor| DeviceNumber { major, minor };
    Ok(match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::BlockDevice => Some(DeviceKey::Block(number(stat.stx_rdev_major, stat.stx_rdev_minor))),
        FileType::RegularFile => {
            Some(DeviceKey::File { on: number(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
        }
        _ => None,
    })
}

/// Past the page cache if it can be: another name of the device, or a partition, has a cache of its own.
fn open_to_read(path: &Path) -> io::Result<File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a small flag");
    let opened = OpenOptions::new().read(true).custom_flags(direct).open(path);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(path),
        opened => opened,
    }
}

/// Whatever its file system can do, asked when it is opened; what is needed here is the size.
fn file_capabilities(size: u64) -> Capabilities {
    Capabilities {
        size: size - size % 512,
        logical_block: 512,
        physical_block: 4096,
        optimal_io: 0,
        volatile_cache: true,
        fua: false,
        rotational: false,
        discard: true,
        write_zeroes: true,
        read_only: false,
    }
}

/// The holders of a device or file that keep a claim from being had.
pub fn claimants(path: &Path) -> Vec<Used> {
    let facts = Machine::look(&Look::default(), &[path]).and_then(|machine| machine.facts(path));
    facts.ok().flatten().map(|facts| facts.used).unwrap_or_default()
}

/// A directory's entries; those of a directory that is not there are none.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The directory of a block device in the list of what it is made of, as a number.
fn number_in(dir: &Path) -> Option<DeviceNumber> {
    DeviceNumber::parse(&crate::sysfs::text(dir, "dev")?)
}

impl BlockDir {
    fn size(&self) -> u64 {
        self.number("size").unwrap_or(0).saturating_mul(512)
    }

    fn number(&self, file: &str) -> Option<u64> {
        crate::sysfs::text(&self.dir, file).and_then(|text| text.parse().ok())
    }
}
