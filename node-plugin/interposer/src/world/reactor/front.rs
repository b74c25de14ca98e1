//! A front end: one ublk queue, its requests and their buffers.

use std::collections::VecDeque;
use std::sync::Arc;
use umbra_engine::{ByteRange, Request, RequestError, RequestId, RequestKind, Side};
use umbra_lifecycle::world::RequestCounters;
use umbra_store::{AlignedBuf, Finished, IoBuf};
use umbra_ublk::{CharDevice, Errno, Op, Queue, QueueConfig, QueueEvent, RingFile, RingSlot, SqePush};
use umbra_uring::FixedFile;

/// Largest read or write of a presented device, in bytes. With the queue depth it bounds the memory that
/// requests lock; larger requests gain nothing on the devices this is for.
pub(crate) const MAX_IO_BYTES: u32 = 256 << 10;
/// Requests that most workloads send are small: buffers of this size are tried first.
const SMALL_BYTES: usize = 16 << 10;

/// Large buffers of a presented master: with the small ones as much memory as it may lock for requests (E18).
const LARGE_MASTER: usize = 12;
/// Large buffers of a presented shadow, which are its own: whoever waits for a shadow that hangs must not hold what
/// the master needs.
const LARGE_SHADOW: usize = 4;

/// Buffers for the requests of one presented device, in two sizes, kept for reuse. There is a small one for every
/// request; large ones are fewer, and requests that find none wait.
#[derive(Debug, Default)]
struct BufferPool {
    small: Vec<AlignedBuf>,
    large: Vec<AlignedBuf>,
    /// Large ones that may still be made.
    large_left: usize,
}

impl BufferPool {
    /// For a device with so many requests. The master's are made at once: what its writes need is locked before they
    /// need it. Those of shadows are made when they are used, which most never are.
    fn new(side: Side, depth: u16) -> Self {
        if side != Side::Master {
            return Self { large_left: LARGE_SHADOW, ..Self::default() };
        }
        let make = |count, bytes| (0..count).map(|_| AlignedBuf::zeroed(bytes)).collect();
        let small = make(usize::from(depth), SMALL_BYTES);
        Self { small, large: make(LARGE_MASTER, MAX_IO_BYTES as usize), large_left: 0 }
    }

    fn has(&self, len: usize) -> bool {
        len <= SMALL_BYTES || !self.large.is_empty() || self.large_left > 0
    }

    /// A buffer, if there [is](Self::has) one.
    fn take(&mut self, len: usize) -> AlignedBuf {
        if len <= SMALL_BYTES {
            return self.small.pop().unwrap_or_else(|| AlignedBuf::zeroed(SMALL_BYTES));
        }
        self.large.pop().unwrap_or_else(|| {
            self.large_left -= 1;
            AlignedBuf::zeroed(MAX_IO_BYTES as usize)
        })
    }

    fn put(&mut self, buf: AlignedBuf) {
        if buf.len() <= SMALL_BYTES { self.small.push(buf) } else { self.large.push(buf) }
    }
}

/// What a front end is made from.
#[derive(Clone, Debug)]
pub(crate) struct FrontSpec {
    /// What it presents.
    pub side: Side,
    /// The device's character node.
    pub device: Arc<CharDevice>,
    /// Requests at a time.
    pub depth: u16,
    /// Size of the presented device in sectors.
    pub capacity_sectors: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Front {
    side: Side,
    queue: Queue,
    /// The character node in its ring's table.
    node: Option<FixedFile>,
    requests: Vec<Option<umbra_ublk::Request>>,
    buffers: BufferPool,
    /// Requests that wait for a large buffer, the oldest first.
    held_back: VecDeque<umbra_ublk::Request>,
    first_id: u32,
    counters: RequestCounters,
}

impl Front {
    /// A front end whose requests have the ids from `first_id` on, on a ring that knows its node as `file`.
    ///
    /// # Errors
    /// As [`Queue::new`].
    pub(crate) fn new(
        spec: &FrontSpec,
        file: RingFile,
        slot: RingSlot,
        first_id: u32,
    ) -> Result<Self, umbra_ublk::Error> {
        let config = QueueConfig {
            queue: 0,
            depth: spec.depth,
            max_io_bytes: MAX_IO_BYTES,
            capacity_sectors: spec.capacity_sectors,
            file,
            slot,
        };
        let mut queue = Queue::new(Arc::clone(&spec.device), &config)?;
        queue.start_fetch();
        let requests = (0..spec.depth).map(|_| None).collect();
        Ok(Self {
            side: spec.side,
            queue,
            node: None,
            requests,
            buffers: BufferPool::new(spec.side, spec.depth),
            held_back: VecDeque::with_capacity(usize::from(spec.depth)),
            first_id,
            counters: RequestCounters::default(),
        })
    }

    /// With the place in its ring's table that holds the node for it.
    pub(crate) fn with_node(self, node: Option<FixedFile>) -> Self {
        Self { node, ..self }
    }

    /// What it presents.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Its number on its ring.
    pub(crate) fn slot(&self) -> RingSlot {
        self.queue.slot()
    }

    /// What it was asked so far.
    pub(crate) fn counters(&self) -> RequestCounters {
        self.counters
    }

    /// Hands waiting commands to a submission queue; true if some are left.
    pub(crate) fn push(&mut self, sq: &mut impl SqePush) -> bool {
        self.queue.push_waiting(sq) > 0
    }

    /// Whether commands wait to be submitted.
    pub(crate) fn has_waiting(&self) -> bool {
        self.queue.waiting() > 0
    }

    /// Whether the id belongs to this front end.
    pub(crate) fn owns(&self, id: RequestId) -> bool {
        (self.first_id..self.first_id + u32::try_from(self.requests.len()).unwrap_or(0)).contains(&id.0)
    }

    /// A completion of the queue: perhaps a request for the engine, with its buffer.
    pub(crate) fn on_cqe(&mut self, user_data: u64, result: i32) -> Option<(Request, Option<IoBuf>)> {
        match self.queue.on_cqe(user_data, result)? {
            QueueEvent::Request(request) => {
                let len = data_bytes(&request);
                // No larger request overtakes one that waits, or it might wait for ever.
                if self.buffers.has(len) && (len <= SMALL_BYTES || self.held_back.is_empty()) {
                    return self.accept(request);
                }
                self.counters.buffer_waits += 1;
                self.held_back.push_back(request);
                None
            }
            QueueEvent::Aborted { .. } => None,
            QueueEvent::Refused { tag, reason } => {
                tracing::warn!(?tag, %reason, "the kernel sent a request that is not offered");
                None
            }
            QueueEvent::Failed { tag, errno } => {
                tracing::error!(?tag, ?errno, "the kernel refused a command of the queue");
                None
            }
        }
    }

    /// A request that has waited for a buffer and can have one now.
    pub(crate) fn next_held_back(&mut self) -> Option<(Request, Option<IoBuf>)> {
        while self.held_back.front().is_some_and(|request| self.buffers.has(data_bytes(request))) {
            let request = self.held_back.pop_front()?;
            if let Some(accepted) = self.accept(request) {
                return Some(accepted);
            }
        }
        None
    }

    fn accept(&mut self, request: umbra_ublk::Request) -> Option<(Request, Option<IoBuf>)> {
        let fua = request.fua();
        let (kind, counter) = match request.op() {
            Op::Read => (RequestKind::Read, &mut self.counters.reads),
            Op::Write => (RequestKind::Write { fua }, &mut self.counters.writes),
            Op::WriteZeroes { .. } => (RequestKind::WriteZeroes { fua }, &mut self.counters.writes),
            Op::Discard => (RequestKind::Discard, &mut self.counters.discards),
            Op::Flush => (RequestKind::Flush, &mut self.counters.flushes),
        };
        *counter += 1;
        let len = data_bytes(&request);
        let mut buf = (len > 0).then(|| IoBuf::head(self.buffers.take(len), len));
        if let (Op::Write, Some(data)) = (request.op(), &mut buf)
            && let Err(error) = self.queue.read_data(&request, 0, data.bytes_mut())
        {
            tracing::error!(%error, "the data of a write could not be had");
            self.counters.errors += 1;
            self.queue.complete(request, Err(Errno::EIO));
            buf.into_iter().for_each(|buf| self.buffers.put(buf.buf));
            return None;
        }
        let tag = request.tag().index();
        let range = ByteRange::new(request.start_sector() * 512, u64::from(request.sectors()) * 512);
        let id = RequestId(self.first_id + u32::try_from(tag).expect("tags are small"));
        self.requests[tag] = Some(request);
        Some((Request { id, side: self.side, kind, range }, buf))
    }

    /// A request has ended: the client gets its answer, the pool its buffer.
    pub(crate) fn finish(&mut self, finished: Finished) {
        let tag = (finished.id.0 - self.first_id) as usize;
        let request = self.requests[tag].take().expect("a request that is in flight");
        let mut outcome = finished.result.map_err(|error| match error {
            RequestError::Io => Errno::EIO,
            RequestError::Invalid => Errno::EINVAL,
        });
        if let Some(buf) = finished.buf {
            if outcome.is_ok()
                && request.op() == Op::Read
                && let Err(error) = self.queue.write_data(&request, 0, buf.bytes())
            {
                tracing::error!(%error, "the answer of a read could not be given");
                outcome = Err(Errno::EIO);
            }
            self.buffers.put(buf.buf);
        }
        self.counters.completed += 1;
        self.counters.errors += u64::from(outcome.is_err());
        self.queue.complete(request, outcome);
    }

    /// Lets go of the queue; the kernel has ended it, so no client waits. Returns the place in its ring's table that is
    /// to be given back.
    #[must_use]
    pub(crate) fn leave(mut self) -> Option<FixedFile> {
        let in_flight = self.requests.iter_mut().filter_map(Option::take);
        for request in in_flight.chain(self.held_back.drain(..)) {
            self.queue.abandon(request);
        }
        self.node
    }
}

fn data_bytes(request: &umbra_ublk::Request) -> usize {
    usize::try_from(request.bytes()).expect("requests fit in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_engine::SetIndex;

    #[test]
    fn large_buffers_are_bounded_and_used_again() {
        let large = MAX_IO_BYTES as usize;
        for (side, count) in [(Side::Master, LARGE_MASTER), (Side::Shadow(SetIndex(0)), LARGE_SHADOW)] {
            let mut pool = BufferPool::new(side, 4);
            let mut taken: Vec<AlignedBuf> = Vec::new();
            while pool.has(large) {
                taken.push(pool.take(large));
            }
            assert_eq!(taken.len(), count, "{side:?}");
            assert_eq!(pool.take(SMALL_BYTES).len(), SMALL_BYTES);
            pool.put(taken.remove(0));
            assert_eq!(pool.take(SMALL_BYTES + 1).len(), large);
            assert!(!pool.has(SMALL_BYTES + 1) && pool.has(SMALL_BYTES));
        }
    }
}
