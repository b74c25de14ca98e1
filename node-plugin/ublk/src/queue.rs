//! One queue of a device, as a state machine between the caller's ring and the caller's requests.
//!
//! The queue never touches a ring. Commands that are to be submitted wait in a list of its own (one per
//! tag at most, so it is bounded and never grows) until the caller passes a submission queue; completions
//! that carry the queue's [`RingSlot`] come back through [`Queue::on_cqe`].
//!
//! ```text
//! start_fetch ─┐                                       ┌─> QueueEvent::Request ─> caller
//!              v                                       │                            │
//!           waiting ── push_waiting ──> caller's ring ── on_cqe                     │
//!              ^                                       └─> Aborted, Failed, Refused │
//!              └──────────────────────── complete ──────────────────────────────────┘
//! ```
//!
//! # When to leave
//! [`Queue::may_leave`]: the kernel has ended at least one tag and no request is in hand. Waiting for all
//! tags to end can take for ever, since a tag that was completed while the device was being quiesced never
//! gets its end.

mod map;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::descriptor::{BadDescriptor, Decoded, Limits, Op, decode};
use crate::device::CharDevice;
use crate::tag::{TagState, TagTable};
use crate::uapi::{IO_COMMIT_AND_FETCH_REQ, IO_FETCH_REQ, IoCmd, QUEUE_DEPTH_MAX, USER_COPY_BYTES_MAX};
use crate::{DeviceId, Errno, Error, SECTOR_BYTES, Tag, TagCounts};

use map::DescriptorMap;

/// Which of the queues on a ring a completion belongs to. Chosen by the caller; each queue on a ring needs
/// its own.
///
/// Completions of queues have the top bit of `user_data` set. Everything below `1 << 63` is the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingSlot(u16);

const UBLK_USER_DATA: u64 = 1 << 63;
const SLOT_SHIFT: u32 = 16;
const LOW_16: u64 = 0xffff;

impl RingSlot {
    /// The slot with this number.
    #[must_use]
    pub const fn new(number: u16) -> RingSlot {
        RingSlot(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The slot whose queue must be given a completion, or none if it is the caller's own.
    #[must_use]
    pub const fn of(user_data: u64) -> Option<RingSlot> {
        if user_data & UBLK_USER_DATA == 0 {
            return None;
        }
        let number = ((user_data >> SLOT_SHIFT) & LOW_16) as u16;
        Some(RingSlot(number))
    }

    const fn user_data(self, tag: Tag) -> u64 {
        UBLK_USER_DATA | (self.0 as u64) << SLOT_SHIFT | tag.get() as u64
    }

    const fn tag(user_data: u64) -> Tag {
        let number = (user_data & LOW_16) as u16;
        Tag::new(number)
    }
}

/// How the ring refers to the device's character node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFile {
    /// By file descriptor. Only for rings that carry no I/O of the backing device.
    Descriptor,
    /// By its index among the ring's registered files. The registration keeps the node open until the
    /// ring's last I/O has landed, so the kernel itself holds up a recovery until then.
    Fixed(u32),
}

/// A command of a queue, ready for a ring. It holds no pointer, so submitting it is always sound.
#[derive(Clone)]
pub struct UblkSqe(squeue::Entry);

impl UblkSqe {
    /// The entry, for callers that submit through their own layer. It must be submitted by the thread
    /// that serves the queue, once, with its `user_data` unchanged.
    #[must_use]
    pub fn into_entry(self) -> squeue::Entry {
        self.0
    }

    /// What its completion will carry.
    #[must_use]
    pub fn user_data(&self) -> u64 {
        self.0.get_user_data()
    }
}

impl fmt::Debug for UblkSqe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UblkSqe").field("user_data", &format_args!("{:#x}", self.user_data())).finish()
    }
}

/// Takes commands of a queue for submission.
pub trait SqePush {
    /// Takes the entry, or gives it back if there is no room now.
    ///
    /// # Errors
    /// The entry, unchanged.
    fn push_ublk(&mut self, entry: UblkSqe) -> Result<(), UblkSqe>;
}

impl SqePush for squeue::SubmissionQueue<'_, squeue::Entry> {
    fn push_ublk(&mut self, entry: UblkSqe) -> Result<(), UblkSqe> {
        // SAFETY: a queue's commands carry no address (their payload lies within the entry), so there is
        // nothing that would have to outlive the submission.
        let pushed = unsafe { self.push(&entry.0) };
        pushed.map_err(|_full| entry)
    }
}

/// Collects entries without limit, for callers that forward them.
impl SqePush for Vec<UblkSqe> {
    fn push_ublk(&mut self, entry: UblkSqe) -> Result<(), UblkSqe> {
        self.push(entry);
        Ok(())
    }
}

/// What a queue is made from.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// Number of the queue in its device.
    pub queue: u16,
    /// Depth of the device's queues, as [`DeviceInfo`](crate::DeviceInfo) has it.
    pub depth: u16,
    /// Largest read or write in bytes, as [`DeviceInfo`](crate::DeviceInfo) has it.
    pub max_io_bytes: u32,
    /// Size of the device. Requests beyond it are refused.
    pub capacity_sectors: u64,
    /// How the ring refers to the device.
    pub file: RingFile,
    /// The queue's number on its ring.
    pub slot: RingSlot,
}

/// A request of a client. It must be given back with [`Queue::complete`]; until then the client waits.
///
/// # Panics
/// When dropped without having been given back, since the client would wait for ever (unless the thread
/// is unwinding anyway). A server that leaves with requests in hand says so with [`Queue::abandon`], or
/// just exits: the next server gets them again.
#[must_use = "the client waits until this request is completed"]
pub struct Request {
    device: DeviceId,
    queue: u16,
    slot: RingSlot,
    tag: Tag,
    what: Decoded,
    given_back: bool,
}

impl Request {
    /// Its slot in the queue. At any time at most one request of a queue has this tag.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// What is asked for.
    #[must_use]
    pub fn op(&self) -> Op {
        self.what.op
    }

    /// The write must be durable when it is completed.
    #[must_use]
    pub fn fua(&self) -> bool {
        self.what.fua
    }

    /// First sector. 0 for a flush.
    #[must_use]
    pub fn start_sector(&self) -> u64 {
        self.what.start_sector
    }

    /// Number of sectors. 0 for a flush.
    #[must_use]
    pub fn sectors(&self) -> u32 {
        self.what.sectors
    }

    /// Bytes of data to copy: 0 for everything but reads and writes.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        // A data request is at most 32 MiB (checked when it was decoded).
        if self.what.op.has_data() { self.what.sectors * SECTOR_BYTES } else { 0 }
    }

    /// The device that it is for.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The queue that it came from.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Where that queue is on its ring.
    #[must_use]
    pub fn slot(&self) -> RingSlot {
        self.slot
    }

    fn give_back(mut self) {
        self.given_back = true;
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decoded { op, fua, start_sector, sectors } = self.what;
        write!(
            f,
            "Request(device {} queue {} tag {}: {op:?} fua {fua} sectors {start_sector} + {sectors})",
            self.device, self.queue, self.tag
        )
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        assert!(self.given_back || std::thread::panicking(), "{self:?} dropped without an answer");
    }
}

/// What a completion meant.
#[derive(Debug)]
#[must_use = "a request that is not completed hangs its client"]
pub enum QueueEvent {
    /// A client asks for something.
    Request(Request),
    /// The kernel sent something that no device of ours offers; it was answered already.
    Refused {
        /// The request's tag.
        tag: Tag,
        /// What was wrong with it.
        reason: BadDescriptor,
    },
    /// The kernel ended the tag: the device is being stopped or quiesced. See [`Queue::may_leave`].
    Aborted {
        /// The tag.
        tag: Tag,
    },
    /// The kernel refused the tag's command. It will not carry requests any more; a request that it
    /// carried may never be answered. The device needs a recovery.
    Failed {
        /// The tag.
        tag: Tag,
        /// What the kernel said; a positive number it should not have said is EIO.
        errno: Errno,
    },
}

/// One queue. See the module's text.
#[derive(Debug)]
pub struct Queue {
    /// Before `device`: the mapping must go before the node is closed.
    descriptors: DescriptorMap,
    device: Arc<CharDevice>,
    queue: u16,
    file: RingFile,
    slot: RingSlot,
    limits: Limits,
    tags: TagTable,
    waiting: VecDeque<UblkSqe>,
    strays: u64,
}

impl Queue {
    /// Maps the queue's descriptors.
    ///
    /// Call it, and everything else of the queue, on the thread that owns the ring.
    ///
    /// # Errors
    /// [`Error::BadQueue`] for numbers that no device can have; [`Error::MapDescriptors`] if they are not
    /// this device's.
    pub fn new(device: Arc<CharDevice>, config: &QueueConfig) -> Result<Queue, Error> {
        check(device.device(), config)?;
        let descriptors = DescriptorMap::new(&device, config.queue, config.depth).map_err(|source| {
            Error::MapDescriptors {
                device: device.device(),
                queue: config.queue,
                depth: config.depth,
                source,
            }
        })?;
        Ok(Self::with_descriptors(device, config, descriptors))
    }

    fn with_descriptors(device: Arc<CharDevice>, config: &QueueConfig, descriptors: DescriptorMap) -> Queue {
        Queue {
            descriptors,
            device,
            queue: config.queue,
            file: config.file,
            slot: config.slot,
            limits: Limits {
                capacity_sectors: config.capacity_sectors,
                data_sectors_max: config.max_io_bytes / SECTOR_BYTES,
            },
            tags: TagTable::new(config.depth),
            waiting: VecDeque::with_capacity(usize::from(config.depth)),
            strays: 0,
        }
    }

    /// Offers every tag to the kernel. The commands wait until [`Queue::push_waiting`]; after that the ring
    /// must be *entered* with a wait for completions (`submit_and_wait`), because on newer kernels a plain
    /// submit leaves deferred work, and START_DEV waiting for it.
    ///
    /// # Panics
    /// If called twice.
    pub fn start_fetch(&mut self) {
        for tag in self.tags.all() {
            self.arm(tag, IO_FETCH_REQ, 0);
        }
    }

    /// Moves commands that wait into a submission queue, as many as fit. Returns how many are left: then
    /// submit, and call again. Entries become visible to the kernel when `sq` is dropped or synced.
    pub fn push_waiting(&mut self, sq: &mut impl SqePush) -> usize {
        while let Some(entry) = self.waiting.pop_front() {
            if let Err(entry) = sq.push_ublk(entry) {
                self.waiting.push_front(entry);
                break;
            }
        }
        self.waiting.len()
    }

    /// Commands that wait for [`Queue::push_waiting`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a completion. None if it is not this queue's ([`RingSlot::of`] routes), or answers no command
    /// of it, which only a confused kernel sends; such strays are counted.
    pub fn on_cqe(&mut self, user_data: u64, result: i32) -> Option<QueueEvent> {
        if RingSlot::of(user_data) != Some(self.slot) {
            return None;
        }
        let tag = RingSlot::tag(user_data);
        if self.tags.state(tag) != Some(TagState::Armed) {
            self.strays += 1;
            return None;
        }
        match result {
            0 => Some(self.receive(tag)),
            _ => {
                self.tags.transition(tag, TagState::Dead);
                match Errno::from_result(result).err().unwrap_or(Errno::EIO) {
                    Errno::ENODEV => Some(QueueEvent::Aborted { tag }),
                    errno => Some(QueueEvent::Failed { tag, errno }),
                }
            }
        }
    }

    fn receive(&mut self, tag: Tag) -> QueueEvent {
        self.tags.transition(tag, TagState::Busy);
        match decode(self.descriptors.read(tag), self.limits) {
            Ok(what) => QueueEvent::Request(Request {
                device: self.device.device(),
                queue: self.queue,
                slot: self.slot,
                tag,
                what,
                given_back: false,
            }),
            Err(reason) => {
                self.arm(tag, IO_COMMIT_AND_FETCH_REQ, -reason.errno().raw());
                QueueEvent::Refused { tag, reason }
            }
        }
    }

    /// Answers a request and offers its tag to the kernel again, with the next [`Queue::push_waiting`].
    ///
    /// `Ok` means all of it: data of a read must have been written with [`Queue::write_data`], and there is
    /// no partial success, which the kernel would answer by sending the rest again (or, for nothing at all,
    /// the same request without end).
    ///
    /// # Panics
    /// With a request of another queue.
    pub fn complete(&mut self, request: Request, outcome: Result<(), Errno>) {
        self.assert_own(&request);
        let result = match outcome {
            Ok(()) => i32::try_from(request.bytes()).expect("a request has at most 32 MiB"),
            Err(errno) => -errno.raw(),
        };
        self.arm(request.tag, IO_COMMIT_AND_FETCH_REQ, result);
        request.give_back();
    }

    /// Gives up a request without an answer, for a server that is about to exit: the kernel gives the
    /// request to the next server. An error instead would reach the client.
    ///
    /// # Panics
    /// With a request of another queue.
    pub fn abandon(&mut self, request: Request) {
        self.assert_own(&request);
        self.tags.transition(request.tag, TagState::Dead);
        request.give_back();
    }

    fn assert_own(&self, request: &Request) {
        let own = request.device == self.device.device() && request.queue == self.queue;
        assert!(own, "{request:?} given to queue {} of device {}", self.queue, self.device.device());
    }

    /// Reads bytes of a write request. See [`CharDevice::read_data`].
    ///
    /// # Errors
    /// As there.
    pub fn read_data(&self, request: &Request, offset: u32, into: &mut [u8]) -> Result<(), Error> {
        self.device.read_data(request, offset, into)
    }

    /// Writes bytes of a read request's answer. See [`CharDevice::write_data`].
    ///
    /// # Errors
    /// As there.
    pub fn write_data(&self, request: &Request, offset: u32, from: &[u8]) -> Result<(), Error> {
        self.device.write_data(request, offset, from)
    }

    /// True once the kernel has ended a tag and no request is in hand nor answer unsent: nothing more will
    /// come, and the server should drop queue and ring. See the module's text.
    #[must_use]
    pub fn may_leave(&self) -> bool {
        let counts = self.tags.counts();
        counts.dead > 0 && counts.busy == 0 && self.waiting.is_empty()
    }

    /// Tags by state.
    #[must_use]
    pub fn tag_counts(&self) -> TagCounts {
        self.tags.counts()
    }

    /// Completions that carried this queue's slot and answered none of its commands.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<CharDevice> {
        &self.device
    }

    /// The queue's number on its ring.
    #[must_use]
    pub fn slot(&self) -> RingSlot {
        self.slot
    }

    fn arm(&mut self, tag: Tag, opcode: u32, result: i32) {
        self.tags.transition(tag, TagState::Armed);
        let entry = self.entry(tag, opcode, result);
        self.waiting.push_back(entry);
    }

    /// The one place that builds commands; automatic buffer registration would set `addr` here.
    fn entry(&self, tag: Tag, opcode: u32, result: i32) -> UblkSqe {
        let payload = bytemuck::cast(IoCmd { q_id: self.queue, tag: tag.get(), result, addr: 0 });
        let built = match self.file {
            RingFile::Descriptor => {
                opcode::UringCmd16::new(types::Fd(self.device.as_raw_fd()), opcode).cmd(payload).build()
            }
            RingFile::Fixed(index) => {
                opcode::UringCmd16::new(types::Fixed(index), opcode).cmd(payload).build()
            }
        };
        UblkSqe(built.user_data(self.slot.user_data(tag)))
    }
}

fn check(device: DeviceId, config: &QueueConfig) -> Result<(), Error> {
    let &QueueConfig { queue, depth, max_io_bytes, .. } = config;
    let reason = if depth == 0 || depth > QUEUE_DEPTH_MAX {
        "the depth must be 1 to 4096"
    } else if !(SECTOR_BYTES..=USER_COPY_BYTES_MAX).contains(&max_io_bytes) {
        "a request must be 512 bytes to 32 MiB"
    } else {
        return Ok(());
    };
    Err(Error::BadQueue { device, queue, depth, max_io_bytes, reason })
}

#[cfg(test)]
mod tests;
