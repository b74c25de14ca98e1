//! Devices: their numbers, nodes and states, and the character node that carries a device's queues.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::uapi::{
    DEV_ID_AUTO, DEV_STATE_DEAD, DEV_STATE_FAIL_IO, DEV_STATE_LIVE, DEV_STATE_QUIESCED, DevInfo,
    USER_COPY_BYTES_MAX, user_copy_position,
};
use crate::{Error, Features, Request, Tag, Target};

/// Between two looks for a node.
const NODE_POLL_INTERVAL: Duration = Duration::from_micros(100);

const CLASS_FOLDER: &str = "/sys/class/ublk-char";
const DEV_FOLDER: &str = "/dev";

/// Number of a ublk device: N in `/dev/ublkbN`. A new device may get the number of a deleted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(u32);

impl DeviceId {
    /// The device with this number.
    ///
    /// # Panics
    /// With `u32::MAX`, which the driver reads as "any".
    #[must_use]
    pub const fn new(number: u32) -> DeviceId {
        assert!(number != DEV_ID_AUTO, "the highest number stands for any device");
        DeviceId(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose a device is: a number of its maker's choice that the driver keeps with the device until it is deleted, and
/// makes nothing of. It tells our devices from those of others that have a number we once had, and from those of
/// another node's or boot's: derive it from everything that the device is *of*.
///
/// It is no secret and no proof against malice: whoever may make ublk devices can give one any tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerTag(NonZeroU64);

impl OwnerTag {
    /// The tag with this number; none for 0, which is what devices of other programs have.
    #[must_use]
    pub const fn new(number: u64) -> Option<OwnerTag> {
        match NonZeroU64::new(number) {
            Some(number) => Some(OwnerTag(number)),
            None => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for OwnerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a new device is to be like. Cannot be changed afterwards, not by a recovery either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its number; none for the first free one.
    pub id: Option<DeviceId>,
    /// Number of queues; the driver reduces it to the number of CPUs.
    pub queues: u16,
    /// Requests in flight per queue, at most 4096.
    pub depth: u16,
    /// Largest read or write in bytes, at most 32 MiB; the driver rounds it down to whole pages.
    pub max_io_bytes: u32,
    /// Whose it is.
    pub owner_tag: Option<OwnerTag>,
}

impl Default for DeviceSpec {
    /// One queue of 128 requests of at most 512 KiB.
    fn default() -> DeviceSpec {
        DeviceSpec { id: None, queues: 1, depth: 128, max_io_bytes: 512 << 10, owner_tag: None }
    }
}

impl DeviceSpec {
    pub(crate) fn to_wire(self, pid: i32) -> DevInfo {
        DevInfo {
            nr_hw_queues: self.queues,
            queue_depth: self.depth,
            max_io_buf_bytes: self.max_io_bytes,
            dev_id: self.id.map_or(DEV_ID_AUTO, DeviceId::get),
            server_pid: pid,
            flags: Features::ASKED.bits(),
            server_flags: self.owner_tag.map_or(0, OwnerTag::get),
            ..DevInfo::default()
        }
    }

    pub(crate) fn target(self) -> Target {
        self.id.map_or(Target::AnyDevice, Target::Device)
    }
}

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// Added and not started, or stopped: there is no `/dev/ublkbN`.
    Dead,
    /// Started. Its server may have died a moment ago.
    Live,
    /// Its server is gone and I/O waits: recover it, or stop it, which fails that I/O.
    Quiesced,
    /// Its server is gone and I/O fails.
    FailIo,
    /// Something that this version does not know.
    Unknown(u16),
}

impl DeviceState {
    fn from_wire(state: u16) -> DeviceState {
        match state {
            DEV_STATE_DEAD => DeviceState::Dead,
            DEV_STATE_LIVE => DeviceState::Live,
            DEV_STATE_QUIESCED => DeviceState::Quiesced,
            DEV_STATE_FAIL_IO => DeviceState::FailIo,
            other => DeviceState::Unknown(other),
        }
    }
}

/// The driver's view of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub id: DeviceId,
    /// Number of queues.
    pub queues: u16,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Largest read or write in bytes.
    pub max_io_bytes: u32,
    /// What it is doing.
    pub state: DeviceState,
    /// The server that started or recovered it last, in the host's pid namespace; none before the first
    /// start and after a stop. It may be dead, and its number may by now be another process's.
    pub server_pid: Option<u32>,
    /// What the driver granted.
    pub features: Features,
    /// Whose it is, as its maker said; none if that said nothing.
    pub owner_tag: Option<OwnerTag>,
}

impl DeviceInfo {
    pub(crate) fn from_wire(wire: &DevInfo) -> DeviceInfo {
        DeviceInfo {
            id: DeviceId(wire.dev_id),
            queues: wire.nr_hw_queues,
            depth: wire.queue_depth,
            max_io_bytes: wire.max_io_buf_bytes,
            state: DeviceState::from_wire(wire.state),
            server_pid: u32::try_from(wire.server_pid).ok().filter(|pid| *pid != 0),
            features: Features::from_bits(wire.flags),
            owner_tag: OwnerTag::new(wire.server_flags),
        }
    }
}

/// Path of the block device that clients open.
#[must_use]
pub fn block_path(device: DeviceId) -> PathBuf {
    PathBuf::from(format!("{DEV_FOLDER}/ublkb{device}"))
}

/// Path of the character device that the server opens.
#[must_use]
pub fn char_path(device: DeviceId) -> PathBuf {
    PathBuf::from(format!("{DEV_FOLDER}/ublkc{device}"))
}

/// A device's block node, checked to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockNode {
    /// Its path.
    pub path: PathBuf,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Waits until a started device's block node is there.
///
/// # Errors
/// If it is not there after `patience`, or if something else stands in its place (a plain file that
/// somebody wrote before the device came would silently take its data).
pub fn wait_for_block_node(device: DeviceId, patience: Duration) -> Result<BlockNode, Error> {
    let path = block_path(device);
    let metadata = poll_until(patience, || fs::metadata(&path).ok()).ok_or_else(|| Error::NodeMissing {
        device,
        path: path.clone(),
        waited: patience,
    })?;
    if !metadata.file_type().is_block_device() {
        return Err(Error::NotABlockDevice { device, path });
    }
    let rdev = metadata.rdev();
    Ok(BlockNode { path, major: libc::major(rdev), minor: libc::minor(rdev) })
}

fn poll_until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() >= patience {
            return None;
        }
        std::thread::sleep(NODE_POLL_INTERVAL);
    }
}

/// Numbers of the devices that exist, ascending. A device may be gone by the time it is asked about.
///
/// # Errors
/// If neither the driver's class nor `/dev` can be read.
pub fn existing_ids() -> Result<Vec<DeviceId>, Error> {
    let class = Path::new(CLASS_FOLDER);
    let (folder, listing) = match fs::read_dir(class) {
        Ok(listing) => (class, Ok(listing)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (Path::new(DEV_FOLDER), fs::read_dir(DEV_FOLDER))
        }
        Err(error) => (class, Err(error)),
    };
    let failed = |source| Error::ListDevices { path: folder.to_owned(), source };
    let mut ids = Vec::new();
    for entry in listing.map_err(failed)? {
        ids.extend(entry.map_err(failed)?.file_name().to_str().and_then(id_of_char_name));
    }
    ids.sort_unstable();
    Ok(ids)
}

fn id_of_char_name(name: &str) -> Option<DeviceId> {
    let digits = name.strip_prefix("ublkc")?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|number| plain && *number != DEV_ID_AUTO)?;
    Some(DeviceId(number))
}

/// The open character node of a device: its queues' descriptors and its requests' bytes.
///
/// The kernel lets one process open it once, so all queues of a device share one (in an `Arc`). As long
/// as it, a descriptor mapping or a ring's fixed file keeps it open, the device counts as served, and
/// neither recovery nor deletion gets on.
#[derive(Debug)]
pub struct CharDevice {
    device: DeviceId,
    file: File,
}

impl CharDevice {
    /// Opens the node of a device that was added or whose recovery has begun, waiting for the node to
    /// appear.
    ///
    /// # Errors
    /// [`Error::NodeMissing`] after `patience`; [`Error::OpenDevice`] at once for anything else, with
    /// EBUSY if another server has it.
    pub fn open(device: DeviceId, patience: Duration) -> Result<CharDevice, Error> {
        let path = char_path(device);
        let look = || match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            outcome => Some(outcome),
        };
        match poll_until(patience, look) {
            Some(Ok(file)) => Ok(CharDevice { device, file }),
            Some(Err(source)) => Err(Error::OpenDevice { device, path, source }),
            None => Err(Error::NodeMissing { device, path, waited: patience }),
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Reads bytes of a write request, from `offset` bytes into it. Any thread may do it.
    ///
    /// # Errors
    /// If the kernel gives fewer bytes. The buffer's content is then undefined.
    ///
    /// # Panics
    /// If the range lies outside the request: the kernel would cut it short silently.
    pub fn read_data(&self, request: &Request, offset: u32, into: &mut [u8]) -> Result<(), Error> {
        let position = self.position(request, offset, into.len());
        self.file.read_exact_at(into, position).map_err(|source| self.copy_failed(request.tag(), source))
    }

    /// Writes bytes of a read request's answer, from `offset` bytes into it. Any thread may do it.
    ///
    /// # Errors
    /// If the kernel takes fewer bytes.
    ///
    /// # Panics
    /// If the range lies outside the request.
    pub fn write_data(&self, request: &Request, offset: u32, from: &[u8]) -> Result<(), Error> {
        let position = self.position(request, offset, from.len());
        self.file.write_all_at(from, position).map_err(|source| self.copy_failed(request.tag(), source))
    }

    fn position(&self, request: &Request, offset: u32, len: usize) -> u64 {
        assert_eq!(request.device(), self.device, "a request of another device");
        let end = u64::from(offset).saturating_add(len as u64);
        assert!(end <= u64::from(request.bytes()), "bytes up to {end} of {request:?}");
        assert!(request.bytes() <= USER_COPY_BYTES_MAX, "larger than a tag's window");
        user_copy_position(request.queue(), request.tag().get(), offset)
    }

    fn copy_failed(&self, tag: Tag, source: io::Error) -> Error {
        Error::UserCopy { device: self.device, tag, source }
    }
}

#[cfg(test)]
impl CharDevice {
    pub(crate) fn for_test(device: DeviceId, file: File) -> CharDevice {
        CharDevice { device, file }
    }

    pub(crate) fn file_for_test(&self) -> &File {
        &self.file
    }
}

impl AsFd for CharDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for CharDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_char_nodes_of_the_driver_are_listed() {
        let table = [
            ("ublkc0", Some(0)),
            ("ublkc17", Some(17)),
            ("ublkb0", None),
            ("ublkc", None),
            ("ublkc-1", None),
            ("ublkc+1", None),
            ("ublkc1p1", None),
            ("ublkc4294967295", None),
            ("ublk-control", None),
        ];
        for (name, id) in table {
            assert_eq!(id_of_char_name(name).map(DeviceId::get), id, "{name}");
        }
    }

    #[test]
    fn a_new_device_asks_for_the_flags_and_for_any_number_by_default() {
        let wire = DeviceSpec::default().to_wire(42);
        assert_eq!(wire.flags, 0x400d8);
        assert_eq!(wire.dev_id, u32::MAX);
        assert_eq!((wire.nr_hw_queues, wire.queue_depth, wire.server_pid), (1, 128, 42));
        assert_eq!(DeviceSpec::default().target(), Target::AnyDevice);
    }

    #[test]
    fn the_owners_tag_travels_where_the_driver_keeps_it_and_comes_back() {
        let tag = OwnerTag::new(0x1234_5678_9abc_def0);
        let wire = DeviceSpec { owner_tag: tag, ..DeviceSpec::default() }.to_wire(42);
        assert_eq!(wire.server_flags, 0x1234_5678_9abc_def0);
        assert_eq!(DeviceInfo::from_wire(&wire).owner_tag, tag);
        assert_eq!(DeviceInfo::from_wire(&DeviceSpec::default().to_wire(42)).owner_tag, None);
        assert_eq!(OwnerTag::new(0), None);
        assert_eq!(tag.map(|tag| tag.to_string()).as_deref(), Some("123456789abcdef0"));
    }

    #[test]
    fn every_state_of_the_driver_is_known_and_others_are_kept() {
        let states = [0, 1, 2, 3, 9].map(DeviceState::from_wire);
        assert_eq!(
            states,
            [
                DeviceState::Dead,
                DeviceState::Live,
                DeviceState::Quiesced,
                DeviceState::FailIo,
                DeviceState::Unknown(9)
            ]
        );
    }

    #[test]
    fn a_device_that_nobody_serves_has_no_pid() {
        for (raw, pid) in [(-1, None), (0, None), (4242, Some(4242))] {
            let info = DeviceInfo::from_wire(&DevInfo { server_pid: raw, ..DevInfo::default() });
            assert_eq!(info.server_pid, pid, "{raw}");
        }
    }

    #[test]
    fn waiting_for_a_node_ends() {
        let device = DeviceId::new(4_000_000);
        let error = wait_for_block_node(device, Duration::from_millis(2)).expect_err("no such device");
        assert!(matches!(error, Error::NodeMissing { .. }), "{error}");
        let error = CharDevice::open(device, Duration::ZERO).expect_err("no such device");
        assert!(error.to_string().contains("/dev/ublkc4000000"), "{error}");
    }
}
