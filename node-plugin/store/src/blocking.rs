//! Batches of operations on an asynchronous store, run to their end or up to a deadline: for formatting, recovery
//! and tools, before anything serves.
//!
//! What has to be in order is a batch of its own; what has not goes together. Each operation has the deadline of its
//! device from its submission. One that misses it is *abandoned*: its memory stays with the store, and it may still
//! land, so that the device must stay claimed, and be used for nothing, until it has (E6).

use crate::block_store::{BlockStore, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token};
use crate::buf::{AlignedBuf, IoBuf};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use umbra_engine::ByteRange;
use umbra_format::BLOCK_BYTES;

/// Bytes of a piece of a scan.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes in flight before no more are submitted: a journal ring of the usual size and what is read beside it.
const BYTES_IN_FLIGHT: usize = 8 << 20;
/// Operations in flight, below what a store refuses.
const OPS_IN_FLIGHT: usize = 128;
/// Operations that are written with FUA each, where a flush would be one more step.
const FUA_OPS_MAX: usize = 8;
/// How long to wait at a time where nothing has a deadline.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Tokens are never used twice: what lands late is not taken for something else.
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1 << 32);

/// One operation of a batch.
#[derive(Debug)]
pub struct Job {
    /// Where.
    pub device: DeviceSlot,
    /// What.
    pub kind: StoreOpKind,
    /// The bytes to write or the place to read into.
    pub buf: Option<IoBuf>,
}

impl Job {
    /// Reads `range`.
    pub fn read(device: DeviceSlot, range: ByteRange) -> Self {
        let len = usize::try_from(range.len).expect("pieces fit in memory");
        let buf = Some(IoBuf::whole(AlignedBuf::zeroed(len)));
        Self { device, kind: StoreOpKind::Read { offset: range.start }, buf }
    }

    /// Writes a buffer.
    pub fn write(device: DeviceSlot, offset: u64, buf: AlignedBuf) -> Self {
        Self { device, kind: StoreOpKind::Write { offset, fua: false }, buf: Some(IoBuf::whole(buf)) }
    }

    /// Makes everything written durable.
    pub fn flush(device: DeviceSlot) -> Self {
        Self { device, kind: StoreOpKind::Flush, buf: None }
    }

    fn bytes(&self) -> usize {
        self.buf.as_ref().map_or(0, |buf| buf.range.len())
    }
}

/// Why a batch did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// A device refused; nothing is in flight any more.
    #[error("{source}")]
    Device {
        /// Which.
        device: DeviceSlot,
        /// What it said.
        source: StoreError,
    },
    /// A device did not answer in time.
    #[error("no answer within {deadline:?}; {} operations are abandoned", abandoned.len())]
    Hung {
        /// Which.
        device: DeviceSlot,
        /// Its deadline.
        deadline: Duration,
        /// Everything that is still in flight.
        abandoned: Abandoned,
    },
}

/// Operations that nobody waits for any more and that may still land. Their devices stay claimed, and are used for
/// nothing, until they have: an old write would land over a newer one (E6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a device with abandoned operations must stay claimed until they have landed"]
pub struct Abandoned(Vec<(Token, DeviceSlot)>);

impl Abandoned {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether everything has landed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many on one device.
    pub fn on(&self, device: DeviceSlot) -> usize {
        self.0.iter().filter(|(_, of)| *of == device).count()
    }

    /// Waits, at most `timeout`, until they have landed; whether they have. `store` is the one that they were
    /// submitted to, and used for nothing else meanwhile.
    pub fn land<S: BlockStore>(&mut self, store: &mut S, timeout: Duration) -> bool {
        let until = store.now().checked_add(timeout);
        let mut done = Vec::new();
        while !self.0.is_empty() {
            let left = until.map_or(WAIT_MAX, |until| until.saturating_duration_since(store.now()));
            store.wait(left, &mut done);
            if done.is_empty() && until.is_some_and(|until| until <= store.now()) {
                return false;
            }
            self.forget(&done);
            done.clear();
        }
        true
    }

    fn forget(&mut self, done: &[Completion]) {
        self.0.retain(|(token, _)| done.iter().all(|completion| completion.token != *token));
    }
}

/// An operation of a batch that was submitted and not handed on.
#[derive(Debug)]
struct Flying {
    token: Token,
    device: DeviceSlot,
    bytes: usize,
    until: Option<Instant>,
    ended: Option<(Result<(), StoreError>, Option<IoBuf>)>,
}

/// Runs operations of a store to their end, or up to their deadline.
#[derive(Debug)]
pub struct Blocking<'a, S> {
    store: &'a mut S,
    deadline: Duration,
    deadlines: Vec<(DeviceSlot, Duration)>,
    done: Vec<Completion>,
    abandoned: Abandoned,
}

impl<'a, S: BlockStore> Blocking<'a, S> {
    /// Borrows a store that has nothing in flight. No operation takes longer than `deadline`.
    pub fn new(store: &'a mut S, deadline: Duration) -> Self {
        Self { store, deadline, deadlines: Vec::new(), done: Vec::new(), abandoned: Abandoned::default() }
    }

    /// A device with a deadline of its own.
    #[must_use]
    pub fn with_deadline(mut self, device: DeviceSlot, deadline: Duration) -> Self {
        self.deadlines.push((device, deadline));
        self
    }

    /// The store.
    pub fn store(&self) -> &S {
        self.store
    }

    fn deadline_of(&self, device: DeviceSlot) -> Duration {
        let own = self.deadlines.iter().find(|(of, _)| *of == device);
        own.map_or(self.deadline, |(_, deadline)| *deadline)
    }

    fn submit(&mut self, job: Job) -> Flying {
        let token = Token(NEXT_TOKEN.fetch_add(1, Ordering::Relaxed));
        let (device, bytes) = (job.device, job.bytes());
        let until = self.store.now().checked_add(self.deadline_of(device));
        self.store.submit(StoreOp { token, device, kind: job.kind, buf: job.buf });
        Flying { token, device, bytes, until, ended: None }
    }

    /// Runs operations that need no order among each other, as many at a time as memory allows, and hands their
    /// buffers on in the order of the batch.
    ///
    /// # Errors
    /// [`BatchError`]; a device that hangs before any that refuses. Nothing is in flight but what that names.
    pub fn run(
        &mut self,
        jobs: impl IntoIterator<Item = Job>,
        mut each: impl FnMut(usize, Option<IoBuf>),
    ) -> Result<(), BatchError> {
        let mut jobs = jobs.into_iter();
        let mut window: VecDeque<Flying> = VecDeque::new();
        let (mut bytes, mut number) = (0, 0);
        let mut failed: Option<BatchError> = None;
        loop {
            while failed.is_none()
                && window.len() < OPS_IN_FLIGHT
                && bytes < BYTES_IN_FLIGHT
                && let Some(job) = jobs.next()
            {
                bytes += job.bytes();
                let flying = self.submit(job);
                window.push_back(flying);
            }
            let Some(first) = window.front_mut() else { break };
            if let Some((result, buf)) = first.ended.take() {
                let (device, len) = (first.device, first.bytes);
                window.pop_front();
                bytes -= len;
                match result {
                    Ok(()) if failed.is_none() => each(number, buf),
                    Ok(()) => {}
                    Err(source) => failed = failed.or(Some(BatchError::Device { device, source })),
                }
                number += 1;
                continue;
            }
            self.wait(&mut window);
        }
        match self.abandoned.0.first() {
            None => failed.map_or(Ok(()), Err),
            Some((_, device)) => Err(BatchError::Hung {
                device: *device,
                deadline: self.deadline_of(*device),
                abandoned: self.abandoned.clone(),
            }),
        }
    }

    /// Waits for the next operation that ends, or gives up those whose deadline has passed.
    fn wait(&mut self, window: &mut VecDeque<Flying>) {
        let now = self.store.now();
        let next = window.iter().filter(|op| op.ended.is_none()).filter_map(|op| op.until).min();
        let left = next.map_or(WAIT_MAX, |until| until.saturating_duration_since(now));
        self.store.wait(left, &mut self.done);
        self.abandoned.forget(&self.done);
        for completion in self.done.drain(..) {
            // Of those that are not awaited any more only the memory comes back.
            if let Some(op) = window.iter_mut().find(|op| op.token == completion.token && op.ended.is_none())
            {
                op.ended = Some((completion.result, completion.buf));
            }
        }
        let now = self.store.now();
        for op in window.iter_mut().filter(|op| op.ended.is_none()) {
            if op.until.is_some_and(|until| until <= now) {
                self.abandoned.0.push((op.token, op.device));
                op.ended = Some((Err(StoreError::Hung), None));
            }
        }
    }

    fn run_one(&mut self, job: Job) -> Result<Option<IoBuf>, BatchError> {
        let mut done = None;
        self.run([job], |_, buf| done = buf)?;
        Ok(done)
    }

    /// Reads one metadata block.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn read_block(&mut self, device: DeviceSlot, offset: u64) -> Result<[u8; BLOCK_BYTES], BatchError> {
        let done = self.run_one(Job::read(device, ByteRange::new(offset, BLOCK_BYTES as u64)))?;
        Ok(block_of(done.as_ref()))
    }

    /// Reads a range in pieces of 1 MiB, several at a time, handing each piece on with its offset, in order.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn scan(
        &mut self,
        device: DeviceSlot,
        range: ByteRange,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), BatchError> {
        let mut offsets = pieces(range).map(|piece| piece.start);
        self.run(pieces(range).map(|piece| Job::read(device, piece)), |_, buf| {
            if let (Some(at), Some(buf)) = (offsets.next(), buf) {
                each(at, buf.bytes());
            }
        })
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`BatchError`]; a failed flush is a failed device.
    pub fn flush(&mut self, device: DeviceSlot) -> Result<(), BatchError> {
        self.run([Job::flush(device)], |_, _| ())
    }

    /// Writes a batch to one device and makes it durable, in as few steps as the device needs for that: none more
    /// where a completed write is durable, none more for a few writes with FUA, else a flush.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn write_durably(
        &mut self,
        device: DeviceSlot,
        count: usize,
        writes: impl IntoIterator<Item = (u64, AlignedBuf)>,
    ) -> Result<(), BatchError> {
        let capabilities = self.store.capabilities(device);
        let fua = capabilities.volatile_cache && capabilities.fua && count <= FUA_OPS_MAX;
        let job = |(offset, buf): (u64, AlignedBuf)| Job {
            device,
            kind: StoreOpKind::Write { offset, fua },
            buf: Some(IoBuf::whole(buf)),
        };
        self.run(writes.into_iter().map(job), |_, _| ())?;
        if capabilities.volatile_cache && !fua { self.flush(device) } else { Ok(()) }
    }
}

/// A range in pieces that are read at a time.
pub(crate) fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> + Clone {
    let size = usize::try_from(PIECE_BYTES).expect("1 MiB");
    let piece = move |at| ByteRange::new(at, (range.end() - at).min(PIECE_BYTES));
    (range.start..range.end()).step_by(size).map(piece)
}

/// The block that a read of one has brought.
pub(crate) fn block_of(buf: Option<&IoBuf>) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block.copy_from_slice(buf.expect("a read hands its buffer back").bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{Cache, Faults, Fill, SimWorld, Timing};

    const SIZE: u64 = (21 << 20) + 4096;

    fn numbered(offset: u64, sector: &mut [u8]) {
        sector[..8].copy_from_slice(&offset.to_le_bytes());
    }

    #[test]
    fn a_scan_hands_on_every_byte_in_order_whatever_the_device_answers_first() {
        for seed in 0..20 {
            let world = SimWorld::new(seed, Timing { effect: 9, completion: 9, slow: 200, late: u64::MAX });
            let device = world.add_device("scanned", SIZE, Cache::Volatile, Fill::Each(numbered));
            let mut store = world.claim();
            let range = ByteRange::new(4096, SIZE - 4096);
            let (mut next, mut expected) = (range.start, Vec::new());
            let scanned = Blocking::new(&mut store, Duration::MAX).scan(device, range, |at, bytes| {
                assert_eq!(at, next);
                next += bytes.len() as u64;
                expected.extend_from_slice(&bytes[..8]);
            });
            assert_eq!((scanned, next), (Ok(()), range.end()));
            for (piece, first) in expected.chunks(8).enumerate() {
                let offset = range.start + piece as u64 * PIECE_BYTES;
                let mut sector = [0; 512];
                world.peek(device, offset, &mut sector);
                assert_eq!(first, &sector[..8], "piece {piece}");
            }
        }
    }

    #[test]
    fn a_scan_that_fails_leaves_nothing_in_flight() {
        for seed in 0..20 {
            let world = SimWorld::new(seed, Timing { effect: 9, completion: 9, slow: 200, late: u64::MAX });
            let device = world.add_device("scanned", SIZE, Cache::Volatile, Fill::Each(numbered));
            world.set_faults(device, Faults { read: 200, write: 0, flush: 0, drop_cache: false, hang: 0 });
            let mut store = world.claim();
            let mut handed = 0;
            let scanned = Blocking::new(&mut store, Duration::MAX).scan(
                device,
                ByteRange::new(0, SIZE),
                |at, bytes| {
                    assert_eq!(at, handed);
                    handed += bytes.len() as u64;
                },
            );
            assert_eq!(scanned.is_err(), handed < SIZE);
            assert_eq!(world.in_flight(), 0);
        }
    }
}
