//! The one small trait at the bottom: asynchronous block I/O on a handful of devices.
//!
//! Everything above is deterministic code that runs the same on io_uring, on plain files and on the
//! crashing stores of the simulator. Buffers are *moved* into an operation and come back with its
//! completion, so an operation in flight can never see its memory freed or reused.

use crate::buf::IoBuf;
use std::time::{Duration, Instant};
use thiserror::Error;
use umbra_engine::ByteRange;

/// One device of a store; given out by whoever opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceSlot(pub u16);

/// Names an operation to its submitter; comes back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What to do. Ranges are bytes on the device, aligned to its logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOpKind {
    /// Fill the buffer.
    Read {
        /// First byte on the device.
        offset: u64,
    },
    /// Write the buffer.
    Write {
        /// First byte on the device.
        offset: u64,
        /// Durable on completion (FUA; a store without it writes and flushes).
        fua: bool,
    },
    /// Everything written and *completed* before this was submitted is durable on completion.
    Flush,
    /// Advice: the range is not needed. Reads of it may return anything until it is written again.
    Discard(ByteRange),
    /// The range reads as zeros afterwards.
    WriteZeroes {
        /// The bytes to zero.
        range: ByteRange,
        /// Durable on completion.
        fua: bool,
    },
}

impl StoreOpKind {
    /// The bytes on the device that it changes, if it moves `len` bytes; none: it changes nothing.
    pub(crate) fn writes(self, len: u64) -> Option<ByteRange> {
        match self {
            Self::Write { offset, .. } => Some(ByteRange::new(offset, len)),
            Self::Discard(range) | Self::WriteZeroes { range, .. } => Some(range),
            Self::Read { .. } | Self::Flush => None,
        }
    }
}

/// One operation. `buf` is there for reads and writes, and only for them.
#[derive(Debug)]
pub struct StoreOp {
    /// Comes back with the completion.
    pub token: Token,
    /// Where.
    pub device: DeviceSlot,
    /// What.
    pub kind: StoreOpKind,
    /// The bytes to write or the place to read into.
    pub buf: Option<IoBuf>,
}

/// Why an operation failed. The engine only needs to know that; people need to know why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The device answered with this errno (`EIO`, `ENOSPC`, …).
    #[error("device error {0} ({desc})", desc = std::io::Error::from_raw_os_error(*.0))]
    Device(i32),
    /// Fewer bytes than asked for, and not for want of trying.
    #[error("short transfer: {done} of {wanted} bytes")]
    Short {
        /// Bytes transferred.
        done: u64,
        /// Bytes asked for.
        wanted: u64,
    },
    /// The range is not on the device, or not aligned to its logical block.
    #[error("{0:?} lies outside the device or is not aligned to its blocks")]
    Range(ByteRange),
    /// It did not answer within its deadline, and may still land.
    #[error("no answer within its deadline")]
    Hung,
    /// The store is gone: the machine it models has crashed.
    #[error("the store has crashed")]
    Crashed,
}

/// How an operation ended.
#[derive(Debug)]
pub struct Completion {
    /// The submitter's name for it.
    pub token: Token,
    /// Where.
    pub device: DeviceSlot,
    /// Success means all bytes.
    pub result: Result<(), StoreError>,
    /// The buffer that was moved in.
    pub buf: Option<IoBuf>,
}

/// What a device is and can do; read when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Size in bytes.
    pub size: u64,
    /// Logical block in bytes: alignment of every operation.
    pub logical_block: u32,
    /// Physical block in bytes.
    pub physical_block: u32,
    /// Best size of a transfer in bytes, 0 if the device names none.
    pub optimal_io: u32,
    /// A completed write may be lost by a power cut until a flush.
    pub volatile_cache: bool,
    /// A FUA write costs no flush.
    pub fua: bool,
    /// Spins.
    pub rotational: bool,
    /// Understands [`StoreOpKind::Discard`].
    pub discard: bool,
    /// Understands [`StoreOpKind::WriteZeroes`] without moving the zeros itself.
    pub write_zeroes: bool,
    /// Refuses writes.
    pub read_only: bool,
}

/// Asynchronous block I/O on a few devices.
///
/// # Guarantees
/// Every submitted operation completes exactly once, in any order, unless the store crashes.
/// Operations in flight at the same time may take effect in any order.
/// A submission never fails by itself: whatever is wrong with it is the result of its completion.
pub trait BlockStore {
    /// What `device` is and can do.
    fn capabilities(&self, device: DeviceSlot) -> Capabilities;

    /// Takes `op` in hand. It may start at once or at the next `poll` or `wait`.
    fn submit(&mut self, op: StoreOp);

    /// Appends what has completed to `done`; never blocks.
    fn poll(&mut self, done: &mut Vec<Completion>);

    /// As [`poll`](Self::poll), but blocks until something completed or `timeout` has passed.
    fn wait(&mut self, timeout: Duration, done: &mut Vec<Completion>);

    /// The time that `timeout` is of: a simulated store has its own.
    fn now(&self) -> Instant {
        Instant::now()
    }
}
