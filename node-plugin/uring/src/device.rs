//! A device or file, opened once and claimed on that very descriptor (E6).
//!
//! A block device is claimed by `O_EXCL`, a file by `flock`. Either claim belongs to the open file
//! description, which every request in flight holds: it falls when the last of them has landed, also
//! when the process that sent them is long gone. That is true only of I/O through *this* description, so
//! a [`Device`] is the only opener, never opens its path again, and cannot be cloned. POSIX locks
//! (`F_SETLK`) go with the process and would prove nothing.

use crate::fingerprint::{Fingerprint, fingerprint};
use crate::limits::CLAIM_RETRY;
use crate::write_cache::WriteCacheWatch;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use umbra_identity::gather::claimants;
use umbra_identity::{BlockDir, DeviceNumber, Identity, Used};
use umbra_store::Capabilities;

/// Alignment assumed for direct I/O on files where the kernel does not tell.
const FILE_BLOCK_SAFE: u32 = 4096;

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads only. Claims the device all the same.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// Why a device was not opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else has claimed it.
    #[error("{} is in use: {}", path.display(), describe(holders))]
    InUse {
        /// The device.
        path: PathBuf,
        /// Those that could be found; may be empty.
        holders: Vec<Used>,
    },
    /// A directory, a character device, a socket.
    #[error("{} is a {found}; name a block device or a regular file", path.display())]
    NotABlockDeviceOrFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// It refuses writes.
    #[error("{} is read-only; make it writable (blockdev --setrw, or remount its file system) or name another", path.display())]
    ReadOnly {
        /// The device.
        path: PathBuf,
    },
    /// There is nothing, or a node without a device behind it.
    #[error("there is no device or file {}; check the name, and that the device is attached", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Not for us.
    #[error("no permission to open {}; run as root, in a container with access to that device", path.display())]
    Permission {
        /// The path.
        path: PathBuf,
    },
    /// Its file system has no direct I/O.
    #[error("the file system of {} has no direct I/O; put the file on another, such as ext4 or xfs", path.display())]
    NoDirectIo {
        /// The path.
        path: PathBuf,
    },
    /// Zero bytes, or less than a block.
    #[error("{} is empty; give it a size, or attach its medium", path.display())]
    Empty {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{action} {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Whether somebody holds the claim: worth another attempt.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse { .. })
    }
}

fn describe(holders: &[Used]) -> String {
    if holders.is_empty() {
        return "another process has claimed it, or it is mounted in another mount namespace; stop that, \
                and wait for the last writes of a process that ended"
            .to_owned();
    }
    holders.iter().map(Used::to_string).collect::<Vec<_>>().join("; ")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    Block(DeviceNumber),
    File,
}

/// An open, claimed block device or file, with direct I/O. Dropping it gives up the claim, which falls
/// once all I/O through it has landed.
pub struct Device {
    file: OwnedFd,
    path: PathBuf,
    role: Role,
    backing: Backing,
    capabilities: Capabilities,
}

impl Device {
    /// Opens and claims `path`, or fails at once.
    ///
    /// # Errors
    /// [`OpenError`]; the message says what to do.
    pub fn open(path: &Path, role: Role) -> Result<Self, OpenError> {
        let opened = Self::try_open(path, role);
        opened.map_err(|error| with_holders(error, path))
    }

    /// As [`open`](Self::open), but waits while somebody else holds the claim: for at most `deadline`, or
    /// for ever. Recovery takes masters without a deadline: the old server's last write has to land, however
    /// long that takes. Blocks the thread. Who wants to report the wait loops over `open`.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::InUse`] after the deadline only.
    pub fn open_claimed(path: &Path, role: Role, deadline: Option<Duration>) -> Result<Self, OpenError> {
        let start = Instant::now();
        loop {
            match Self::try_open(path, role) {
                Err(error) if error.is_in_use() && deadline.is_none_or(|limit| start.elapsed() < limit) => {
                    thread::sleep(CLAIM_RETRY);
                }
                opened => return opened.map_err(|error| with_holders(error, path)),
            }
        }
    }

    fn try_open(path: &Path, role: Role) -> Result<Self, OpenError> {
        // Looked at before opening: to open a FIFO or a terminal has effects.
        let before = rustix::fs::stat(path).map_err(|errno| open_error(path, errno))?;
        require_kind(path, FileType::from_raw_mode(before.st_mode))?;
        let access = match role {
            Role::ReadOnly => OFlags::RDONLY,
            Role::ReadWrite => OFlags::RDWR,
        };
        // O_EXCL claims a block device, and means nothing for an existing file.
        let flags = access | OFlags::EXCL | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| open_error(path, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| io_error(path, "look at", errno))?;
        // Another file may have got the name in between.
        let kind = require_kind(path, FileType::from_raw_mode(stat.st_mode))?;
        let backing = match kind {
            FileType::BlockDevice => Backing::Block(DeviceNumber::from_raw(stat.st_rdev)),
            _ => {
                lock(path, &file)?;
                Backing::File
            }
        };
        let capabilities = read_capabilities(path, &file, role, backing)?;
        if role == Role::ReadWrite && capabilities.read_only {
            return Err(OpenError::ReadOnly { path: path.to_owned() });
        }
        if capabilities.size == 0 {
            return Err(OpenError::Empty { path: path.to_owned() });
        }
        Ok(Self { file, path: path.to_owned(), role, backing, capabilities })
    }

    /// What it is and can do, as read when it was opened or last refreshed.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Reads the capabilities again: size and write cache may change while a device is open. What cannot
    /// be read stays as it was.
    pub fn refresh(&mut self) {
        if let Ok(capabilities) = read_capabilities(&self.path, &self.file, self.role, self.backing) {
            self.capabilities = capabilities;
        }
    }

    /// Tells later whether it has a volatile write cache; to be asked elsewhere than on the thread that has the device.
    pub fn write_cache_watch(&self) -> WriteCacheWatch {
        match self.backing {
            Backing::Block(number) => WriteCacheWatch::of_device(number),
            Backing::File => WriteCacheWatch::of_file(),
        }
    }

    /// What it is recognised by.
    pub fn identity(&self) -> Identity {
        match self.backing {
            Backing::Block(number) => Identity::of_device(number, self.capabilities.size),
            Backing::File => Identity::of_file(self.capabilities.size),
        }
    }

    /// What takes a sample of its content: 2 MiB and 64 single blocks are read. It may run elsewhere than where the device
    /// is, and holds the claim until it has ended or is dropped.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated; later, of the first read that fails.
    pub fn sampling(&self) -> io::Result<impl FnOnce() -> io::Result<Fingerprint> + Send + 'static> {
        let (file, size) = (self.file.try_clone()?, self.capabilities.size);
        Ok(move || fingerprint(size, |offset, buffer| read_exact_at(&file, offset, buffer)))
    }

    /// Fills `buffer` from `offset`, blocking. For direct I/O: offset, length and address are multiples of
    /// the logical block.
    ///
    /// # Errors
    /// The device's; `UnexpectedEof` past its end.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, offset, buffer)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was opened for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The device's number; none for a file.
    pub fn number(&self) -> Option<DeviceNumber> {
        match self.backing {
            Backing::Block(number) => Some(number),
            Backing::File => None,
        }
    }

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        matches!(self.backing, Backing::Block(_))
    }

    /// The descriptor that holds the claim. Duplicates share the claim; opening the path again does not.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read_exact_at(file: &OwnedFd, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => done += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("path", &self.path)
            .field("role", &self.role)
            .field("backing", &self.backing)
            .field("size", &self.capabilities.size)
            .finish_non_exhaustive()
    }
}

fn require_kind(path: &Path, kind: FileType) -> Result<FileType, OpenError> {
    let found = match kind {
        FileType::BlockDevice | FileType::RegularFile => return Ok(kind),
        FileType::Directory => "directory",
        FileType::CharacterDevice => "character device",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::Symlink | FileType::Unknown => "thing of unknown kind",
    };
    Err(OpenError::NotABlockDeviceOrFile { path: path.to_owned(), found })
}

fn lock(path: &Path, file: &OwnedFd) -> Result<(), OpenError> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(path)),
            Err(errno) => return Err(io_error(path, "lock", errno)),
        }
    }
}

fn in_use(path: &Path) -> OpenError {
    OpenError::InUse { path: path.to_owned(), holders: Vec::new() }
}

fn io_error(path: &Path, action: &'static str, errno: Errno) -> OpenError {
    OpenError::Io { path: path.to_owned(), action, source: errno.into() }
}

fn open_error(path: &Path, errno: Errno) -> OpenError {
    let path_buf = || path.to_owned();
    match errno {
        Errno::BUSY => in_use(path),
        // ENXIO, ENODEV: a node without a device. ENOMEDIUM: a drive without a medium.
        Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM => {
            OpenError::NotFound { path: path_buf() }
        }
        Errno::ROFS => OpenError::ReadOnly { path: path_buf() },
        Errno::ACCESS | Errno::PERM if device_is_read_only(path) => OpenError::ReadOnly { path: path_buf() },
        Errno::ACCESS | Errno::PERM => OpenError::Permission { path: path_buf() },
        // The other flags are valid for every file system.
        Errno::INVAL => OpenError::NoDirectIo { path: path_buf() },
        errno => io_error(path, "open", errno),
    }
}

/// Drivers answer an attempt to write to a read-only device with `EACCES` or `EPERM` as well.
fn device_is_read_only(path: &Path) -> bool {
    let Ok(stat) = rustix::fs::stat(path) else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice
        && BlockDir::of(DeviceNumber::from_raw(stat.st_rdev)).is_ok_and(|block| block.is_read_only())
}

/// Looks for the holders once, when the answer is final, and not at every attempt.
fn with_holders(error: OpenError, path: &Path) -> OpenError {
    match error {
        OpenError::InUse { .. } => OpenError::InUse { path: path.to_owned(), holders: claimants(path) },
        error => error,
    }
}

fn read_capabilities(
    path: &Path,
    file: &OwnedFd,
    role: Role,
    backing: Backing,
) -> Result<Capabilities, OpenError> {
    let size = rustix::fs::seek(file, SeekFrom::End(0)).map_err(|errno| io_error(path, "measure", errno))?;
    let read_only = role == Role::ReadOnly;
    match backing {
        Backing::Block(number) => {
            let block = BlockDir::of(number).map_err(|source| OpenError::Io {
                path: path.to_owned(),
                action: "find in sysfs",
                source,
            })?;
            Ok(block.capabilities(size, read_only))
        }
        Backing::File => file_capabilities(path, file, size, read_only),
    }
}

fn file_capabilities(
    path: &Path,
    file: &OwnedFd,
    size: u64,
    read_only: bool,
) -> Result<Capabilities, OpenError> {
    let wanted = StatxFlags::DIOALIGN | StatxFlags::BASIC_STATS;
    let statx = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)
        .map_err(|errno| io_error(path, "look at", errno))?;
    let logical_block = if !StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::DIOALIGN) {
        FILE_BLOCK_SAFE
    } else if statx.stx_dio_offset_align == 0 {
        return Err(OpenError::NoDirectIo { path: path.to_owned() });
    } else {
        statx.stx_dio_offset_align.max(512)
    };
    Ok(Capabilities {
        size: size - size % u64::from(logical_block),
        logical_block,
        physical_block: statx.stx_blksize.max(logical_block),
        // A file is durable only after fdatasync, whatever disk is below (E13).
        optimal_io: 0,
        volatile_cache: true,
        fua: false,
        rotational: false,
        // Nearly every file system has both; where not, the store falls back at the first use.
        discard: true,
        write_zeroes: true,
        read_only,
    })
}
