//! A front end: one ublk queue, its requests and their buffers.

use std::sync::Arc;
use umbra_engine::{ByteRange, Request, RequestError, RequestId, RequestKind, Side};
use umbra_store::{AlignedBuf, Finished, IoBuf};
use umbra_ublk::{CharDevice, Errno, Op, Queue, QueueConfig, QueueEvent, RingFile, RingSlot, SqePush};

/// Largest read or write of a presented device, in bytes. With the queue depth it bounds the memory that
/// requests lock; larger requests gain nothing on the devices this is for.
pub(crate) const MAX_IO_BYTES: u32 = 256 << 10;
/// Requests that most workloads send are small: buffers of this size are tried first.
const SMALL_BYTES: usize = 16 << 10;

/// Buffers for requests, in two sizes, kept for reuse.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    small: Vec<AlignedBuf>,
    large: Vec<AlignedBuf>,
}

impl BufferPool {
    /// A pool that already has buffers for so many requests of each size.
    pub(crate) fn new(small: usize, large: usize) -> Self {
        let make = |count, bytes| (0..count).map(|_| AlignedBuf::zeroed(bytes)).collect();
        Self { small: make(small, SMALL_BYTES), large: make(large, MAX_IO_BYTES as usize) }
    }

    fn take(&mut self, len: usize) -> AlignedBuf {
        let (pool, bytes) = if len <= SMALL_BYTES {
            (&mut self.small, SMALL_BYTES)
        } else {
            (&mut self.large, MAX_IO_BYTES as usize)
        };
        pool.pop().unwrap_or_else(|| AlignedBuf::zeroed(bytes))
    }

    fn put(&mut self, buf: AlignedBuf) {
        if buf.len() <= SMALL_BYTES { self.small.push(buf) } else { self.large.push(buf) }
    }
}

/// What a front end was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontCounters {
    /// Reads.
    pub reads: u64,
    /// Writes and write-zeroes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// All requests that ended.
    pub completed: u64,
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
    requests: Vec<Option<umbra_ublk::Request>>,
    first_id: u32,
    counters: FrontCounters,
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
        Ok(Self { side: spec.side, queue, requests, first_id, counters: FrontCounters::default() })
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
    pub(crate) fn counters(&self) -> FrontCounters {
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
    pub(crate) fn on_cqe(
        &mut self,
        user_data: u64,
        result: i32,
        pool: &mut BufferPool,
    ) -> Option<(Request, Option<IoBuf>)> {
        match self.queue.on_cqe(user_data, result)? {
            QueueEvent::Request(request) => self.accept(request, pool),
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

    fn accept(
        &mut self,
        request: umbra_ublk::Request,
        pool: &mut BufferPool,
    ) -> Option<(Request, Option<IoBuf>)> {
        let fua = request.fua();
        let (kind, counter) = match request.op() {
            Op::Read => (RequestKind::Read, &mut self.counters.reads),
            Op::Write => (RequestKind::Write { fua }, &mut self.counters.writes),
            Op::WriteZeroes { .. } => (RequestKind::WriteZeroes { fua }, &mut self.counters.writes),
            Op::Discard => (RequestKind::Discard, &mut self.counters.discards),
            Op::Flush => (RequestKind::Flush, &mut self.counters.flushes),
        };
        *counter += 1;
        let len = usize::try_from(request.bytes()).expect("requests fit in memory");
        let mut buf = (len > 0).then(|| IoBuf::head(pool.take(len), len));
        if let (Op::Write, Some(buf)) = (request.op(), &mut buf)
            && let Err(error) = self.queue.read_data(&request, 0, buf.bytes_mut())
        {
            tracing::error!(%error, "the data of a write could not be had");
            self.counters.errors += 1;
            self.queue.complete(request, Err(Errno::EIO));
            return None;
        }
        let tag = request.tag().index();
        let range = ByteRange::new(request.start_sector() * 512, u64::from(request.sectors()) * 512);
        let id = RequestId(self.first_id + u32::try_from(tag).expect("tags are small"));
        self.requests[tag] = Some(request);
        Some((Request { id, side: self.side, kind, range }, buf))
    }

    /// A request has ended: the client gets its answer, the pool its buffer.
    pub(crate) fn finish(&mut self, finished: Finished, pool: &mut BufferPool) {
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
            pool.put(buf.buf);
        }
        self.counters.completed += 1;
        self.counters.errors += u64::from(outcome.is_err());
        self.queue.complete(request, outcome);
    }

    /// Lets go of the queue; the kernel has ended it, so no client waits.
    pub(crate) fn leave(mut self) {
        for request in &mut self.requests {
            if let Some(request) = request.take() {
                self.queue.abandon(request);
            }
        }
    }
}
