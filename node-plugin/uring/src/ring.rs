//! One io_uring that several users on one thread share: stores, a ublk queue, polled descriptors.
//!
//! ```text
//!  UringStore ─┐                                     ┌─ by completion.owner() ─> store.on_completion
//!  ublk queue ─┴─ push ─> SQ (full: overflow) ─> kernel ─> CQ ─ drain_completions ─> queue.on_cqe
//! ```
//!
//! # Who may be believed
//! A store takes a completion for the kernel's word that a buffer is its own again. So a [`RingCompletion`] is made
//! from an entry of a completion queue and from nothing else, is used up by the store that it is given to, and
//! names its ring; a tag belongs to one user of a ring at a time; and a slot of the file table is used again only
//! when no entry that names it can still be submitted.
//!
//! The ring belongs to the thread that made it (`SINGLE_ISSUER`; an `Rc` cannot leave it). Entries are
//! given to the kernel in the order of their pushes. Linked entries (`IOSQE_IO_LINK`) are not supported:
//! a full submission queue may part them.

use crate::limits::RingConfig;
use crate::owner::Owner;
use io_uring::squeue::{Entry, SubmissionQueue};
use io_uring::{IoUring, types};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;

/// A ring as its users hold it. Borrow it only for the length of one call.
pub type SharedRing = Rc<RefCell<Ring>>;

/// Tells the rings of a process apart; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingId(u64);

impl RingId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The kernel's word that an entry of a ring has ended. Nobody else can make one, and it can be used once.
#[derive(Debug, PartialEq, Eq)]
pub struct RingCompletion {
    ring: RingId,
    user_data: u64,
    result: i32,
}

impl RingCompletion {
    /// Whose entry it was.
    pub fn owner(&self) -> Owner {
        Owner::of(self.user_data)
    }

    /// The entry's user data.
    pub fn user_data(&self) -> u64 {
        self.user_data
    }

    /// The operation's result, a negative errno on failure.
    pub fn result(&self) -> i32 {
        self.result
    }

    pub(crate) fn ring(&self) -> RingId {
        self.ring
    }
}

/// Slot of an empty entry of the fixed file table.
const NO_FILE: RawFd = -1;

/// A slot of a ring's fixed file table that holds a file, until it is [given back](Ring::unregister_file). Dropping it
/// leaves the file in the table for as long as there is the ring.
#[derive(Debug, PartialEq, Eq)]
pub struct FixedFile {
    ring: RingId,
    slot: u32,
}

impl FixedFile {
    /// As the `io-uring` crate wants it.
    pub fn entry(&self) -> types::Fixed {
        types::Fixed(self.slot)
    }

    /// The slot's number.
    pub fn index(&self) -> u32 {
        self.slot
    }
}

/// What went wrong with a ring.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RingError {
    /// It cannot be made. `host_supports_io_uring` knows the reasons that people can do something about.
    #[error("make an io_uring of {entries} entries")]
    Create {
        /// Submission entries asked for.
        entries: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// No fixed file table.
    #[error("register a table of {slots} files; the limit on open files may be below that")]
    FileTable {
        /// Slots asked for.
        slots: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Every slot of the fixed file table is taken.
    #[error("all {slots} slots of the ring's file table are taken")]
    FileTableFull {
        /// Slots of the table.
        slots: u32,
    },
    /// A slot cannot be set.
    #[error("set slot {slot} of the ring's file table")]
    UpdateFile {
        /// The slot.
        slot: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The bound on kernel workers cannot be set.
    #[error("set the number of io_uring workers")]
    Workers(#[source] io::Error),
    /// `io_uring_enter` failed for good; the ring is of no use any more.
    #[error("enter the ring")]
    Enter(#[source] io::Error),
}

/// Neither the submission queue nor the overflow has room. Drain completions, then push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the ring and its overflow are full")]
pub struct RingFull;

/// How often the ring came to its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Entries that had to wait in the overflow.
    pub overflowed: u64,
    /// Pushes refused because the overflow was full too.
    pub refused: u64,
    /// Submissions that the kernel put off (`EAGAIN`, `EBUSY`, `ENOMEM`).
    pub put_off: u64,
}

/// Owner of one io_uring.
pub struct Ring {
    io: IoUring,
    overflow: VecDeque<Entry>,
    overflow_max: usize,
    // Taken from the completion queue on behalf of one user, and another's.
    ready: Vec<RingCompletion>,
    id: RingId,
    /// A bit for each tag that a user has.
    owners: u128,
    files_free: Vec<u32>,
    /// Emptied, but an entry that was not submitted may name them: it must not meet another's file there.
    files_retired: Vec<u32>,
    files_max: u32,
    serial: u32,
    stats: RingStats,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// As the kernel answers; see [`host_supports_io_uring`](crate::host_supports_io_uring).
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        let io = build(config)?;
        io.submitter()
            .register_files_sparse(config.files)
            .map_err(|source| RingError::FileTable { slots: config.files, source })?;
        // The second number, for workers of unbounded operations, stays as it is.
        io.submitter()
            .register_iowq_max_workers(&mut [config.blocking_workers, 0])
            .map_err(RingError::Workers)?;
        Ok(Self {
            overflow: VecDeque::with_capacity(config.overflow),
            overflow_max: config.overflow,
            ready: Vec::with_capacity(io.params().cq_entries() as usize),
            id: RingId::next(),
            owners: 0,
            files_free: (0..config.files).rev().collect(),
            files_retired: Vec::new(),
            files_max: config.files,
            serial: 0,
            stats: RingStats::default(),
            io,
        })
    }

    /// As [`new`](Self::new), in the handle that stores want.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(config: RingConfig) -> Result<SharedRing, RingError> {
        Ok(Rc::new(RefCell::new(Self::new(config)?)))
    }

    /// Puts `entry` into the submission queue. A full queue is given to the kernel first; if that does not
    /// help, the entry waits in the overflow, in order.
    ///
    /// # Errors
    /// [`RingFull`] when the overflow is full too: the entry was not taken.
    ///
    /// # Safety
    /// Memory that the entry points to must be valid, and be left alone, until the completion with its
    /// user data has been drained; if the ring is dropped before that, for ever. File descriptors in it
    /// must be open until then, or be slots of this ring's file table. The tag in its user data must not be that
    /// of a store, which would believe the completion.
    pub unsafe fn push(&mut self, entry: &Entry) -> Result<(), RingFull> {
        if self.overflow.is_empty() {
            if self.put(entry) {
                return Ok(());
            }
            // A failure is not lost: the entry goes to the overflow, and whoever waits next meets it again.
            let _ = self.enter(0, None);
            if self.put(entry) {
                return Ok(());
            }
        }
        if self.overflow.len() == self.overflow_max {
            self.stats.refused += 1;
            return Err(RingFull);
        }
        self.overflow.push_back(entry.clone());
        self.stats.overflowed += 1;
        Ok(())
    }

    /// Lends the submission queue to somebody who makes entries of his own, such as a ublk queue; pushing
    /// into it is as unsafe as [`push`](Self::push) and is his business. Entries that wait in the overflow
    /// keep their turn: the queue is lent only when there are none, and `None` is returned otherwise.
    pub fn with_submission<R>(&mut self, lend: impl FnOnce(&mut SubmissionQueue<'_>) -> R) -> Option<R> {
        self.refill();
        self.overflow.is_empty().then(|| lend(&mut self.io.submission()))
    }

    /// Gives everything pushed to the kernel, then waits for `min` completions, for at most `timeout` if
    /// there is one. Does not wait while completions are there to be drained. A signal or the kernel's
    /// want of memory ends the wait early, without an error.
    ///
    /// # Errors
    /// [`RingError::Enter`].
    pub fn submit_and_wait(&mut self, min: usize, timeout: Option<Duration>) -> Result<(), RingError> {
        let want = if self.ready.is_empty() { min } else { 0 };
        self.enter_all(want, timeout)
    }

    /// Takes all completions there are, of every owner. Does not enter the kernel.
    pub fn drain_completions(&mut self, out: &mut Vec<RingCompletion>) {
        out.append(&mut self.ready);
        out.extend(completions(&mut self.io, self.id));
    }

    /// Takes the completions of `owner` and keeps the others for their owners. Does not enter the kernel.
    pub fn drain_owner(&mut self, owner: Owner, out: &mut Vec<RingCompletion>) {
        self.ready.extend(completions(&mut self.io, self.id));
        out.extend(self.ready.extract_if(.., |completion| completion.owner() == owner));
    }

    /// Puts `file` into a free slot of the table. The slot holds a reference of its own: the file stays
    /// open, and claimed, until the slot is emptied and the operations on it have ended.
    ///
    /// # Errors
    /// [`RingError::FileTableFull`], [`RingError::UpdateFile`].
    pub fn register_file(&mut self, file: BorrowedFd<'_>) -> Result<FixedFile, RingError> {
        self.reuse_retired();
        let slot = *self.files_free.last().ok_or(RingError::FileTableFull { slots: self.files_max })?;
        self.set_file(slot, file.as_raw_fd())?;
        self.files_free.pop();
        Ok(FixedFile { ring: self.id, slot })
    }

    /// Empties a slot. Entries that name it and were not submitted fail. Kernels before 6.13 may keep the file until
    /// operations that were given to this ring earlier have ended, also those on other files: a hung device holds up
    /// the claims of all devices of its ring.
    ///
    /// # Errors
    /// [`RingError::UpdateFile`]; the file then stays in the table for as long as there is the ring.
    ///
    /// # Panics
    /// If the slot is of another ring.
    pub fn unregister_file(&mut self, file: FixedFile) -> Result<(), RingError> {
        assert_eq!(file.ring, self.id, "a file of another ring");
        self.set_file(file.slot, NO_FILE)?;
        self.files_retired.push(file.slot);
        self.reuse_retired();
        Ok(())
    }

    fn reuse_retired(&mut self) {
        if self.overflow.is_empty() && self.io.submission().is_empty() {
            self.files_free.append(&mut self.files_retired);
        }
    }

    /// How often the ring came to its bounds.
    pub fn stats(&self) -> RingStats {
        self.stats
    }

    /// Waits for a completion that is not yet in `ready`; what is there may be others'.
    pub(crate) fn wait_for_more(&mut self, timeout: Duration) -> Result<(), RingError> {
        self.enter_all(1, Some(timeout))
    }

    pub(crate) fn id(&self) -> RingId {
        self.id
    }

    /// Gives a tag to one user; false if another has it.
    pub(crate) fn take_owner(&mut self, owner: Owner) -> bool {
        let bit = 1_u128 << owner.tag();
        let is_free = self.owners & bit == 0;
        self.owners |= bit;
        is_free
    }

    /// Takes a tag back from a user of whom no completion can come any more.
    pub(crate) fn return_owner(&mut self, owner: Owner) {
        self.owners &= !(1_u128 << owner.tag());
    }

    /// Tells operations apart that used the same place of a slab, also across stores.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    fn set_file(&mut self, slot: u32, file: RawFd) -> Result<(), RingError> {
        let updated = self.io.submitter().register_files_update(slot, &[file]);
        updated.map(drop).map_err(|source| RingError::UpdateFile { slot, source })
    }

    fn put(&mut self, entry: &Entry) -> bool {
        // SAFETY: whoever gave us the entry, through `push`, promised that its memory outlives it.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }

    /// Moves what fits from the overflow into the submission queue; says whether that was anything.
    fn refill(&mut self) -> bool {
        let before = self.overflow.len();
        while let Some(entry) = self.overflow.pop_front() {
            if !self.put(&entry) {
                self.overflow.push_front(entry);
                break;
            }
        }
        self.overflow.len() < before
    }

    fn enter_all(&mut self, want: usize, timeout: Option<Duration>) -> Result<(), RingError> {
        self.refill();
        while !self.overflow.is_empty() {
            self.enter(0, None)?;
            if !self.refill() {
                break;
            }
        }
        if want == 0 && !self.has_work_for_kernel() {
            return Ok(());
        }
        self.enter(want, timeout)
    }

    fn has_work_for_kernel(&mut self) -> bool {
        let queue = self.io.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> Result<(), RingError> {
        let submitter = self.io.submitter();
        let entered = match timeout {
            None => submitter.submit_and_wait(want),
            Some(timeout) => {
                let timespec = types::Timespec::from(timeout);
                submitter.submit_with_args(want, &types::SubmitArgs::new().timespec(&timespec))
            }
        };
        let Err(error) = entered else { return Ok(()) };
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // The kernel took nothing; the entries are still queued, and completions make room.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                self.stats.put_off += 1;
                Ok(())
            }
            _ => Err(RingError::Enter(error)),
        }
    }
}

fn completions(io: &mut IoUring, ring: RingId) -> impl Iterator<Item = RingCompletion> + '_ {
    io.completion().map(move |cqe| RingCompletion { ring, user_data: cqe.user_data(), result: cqe.result() })
}

/// Becomes readable when there are completions to be drained, if the ring was made to be
/// [polled](RingConfig::polled).
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("overflow", &self.overflow.len())
            .field("ready", &self.ready.len())
            .field("files_free", &self.files_free.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// The cheapest way of completion that serves the ring's use and that the kernel knows: run when the
/// thread enters this ring (6.1), at its next return from any wait in the kernel (5.19, single issuer 6.0),
/// by interrupting it.
fn build(config: RingConfig) -> Result<IoUring, RingError> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    let mut cooperative = IoUring::builder();
    cooperative.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    let mut plain = IoUring::builder();
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    // Deferred completions do not wake who polls the descriptor: seen on 6.18, poll(2) slept through them.
    let first = usize::from(config.polled);
    for builder in &mut [&mut deferred, &mut cooperative, &mut plain][first..] {
        match builder.dontfork().setup_clamp().setup_cqsize(config.completions).build(config.entries) {
            Ok(io) => return Ok(io),
            Err(error) => last = error,
        }
        // Only an unknown flag is worth another attempt.
        if last.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(RingError::Create { entries: config.entries, source: last })
}
