//! One operation from submission to its result: which entry comes next, and what a result means. Pure.
//!
//! ```text
//! Read, Write   Transfer ──short──> Transfer (the rest) ──> done
//! WriteZeroes   ZeroRange ──not supported──> ZeroFill ──> ... ──> done
//!                   └────────── fua ──────────────┴──> Sync ──> done
//! Discard       DiscardCommand ──not supported──> PunchHole ──not supported──> done
//! Flush         Sync ──> done
//! ```

use crate::limits::{RETRIES_MAX, TRANSFER_BYTES_MAX};
use crate::ring::FixedFile;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use umbra_engine::ByteRange;
use umbra_store::{AlignedBuf, StoreError, StoreOp, StoreOpKind};

/// `BLOCK_URING_CMD_DISCARD`, `_IO(0x12, 0)` of linux/blkdev.h: Linux 6.12 and later.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// How a device takes a discard; what fails once is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiscardWay {
    /// The block layer's command: the only way to a true discard through io_uring, because
    /// `fallocate` of a block device has had none since its `NO_HIDE_STALE` mode was taken out.
    Command,
    /// Files: gives the blocks back. Block devices: zeroes with unmap, never by writing.
    PunchHole,
    /// Not at all. Advice that cannot be taken is not an error.
    Ignore,
}

/// Where the operations of one device go, and what was learnt about it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) file: FixedFile,
    pub(crate) logical_block: u64,
    pub(crate) discard: DiscardWay,
    /// `fallocate` zeroes ranges. A block device without an offload lets the kernel write the zeros.
    pub(crate) zero_range: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Transfer,
    ZeroRange,
    ZeroFill,
    DiscardCommand,
    PunchHole,
    Sync,
}

/// What is next for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another entry.
    Submit,
    /// The end.
    Finish(Result<(), StoreError>),
}

/// Operations that hold a kernel worker, and those that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Transfer,
    Blocking,
}

impl Class {
    pub(crate) const ALL: [Self; 2] = [Self::Transfer, Self::Blocking];

    pub(crate) fn of(kind: &StoreOpKind) -> Self {
        match kind {
            StoreOpKind::Read { .. } | StoreOpKind::Write { .. } => Self::Transfer,
            StoreOpKind::Flush | StoreOpKind::Discard(_) | StoreOpKind::WriteZeroes { .. } => Self::Blocking,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Transfer => 0,
            Self::Blocking => 1,
        }
    }
}

/// An operation given to the kernel; owns its buffer until the result is here.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) op: StoreOp,
    step: Step,
    done: u64,
    retries: u8,
}

/// The bytes that `op` concerns; empty for a flush.
pub(crate) fn range_of(op: &StoreOp) -> ByteRange {
    let bytes = op.buf.as_ref().map_or(0, |buf| buf.range.len() as u64);
    match op.kind {
        StoreOpKind::Read { offset } | StoreOpKind::Write { offset, .. } => ByteRange::new(offset, bytes),
        StoreOpKind::Discard(range) | StoreOpKind::WriteZeroes { range, .. } => range,
        StoreOpKind::Flush => ByteRange::new(0, 0),
    }
}

impl Op {
    /// The operation before its first entry, or the reason why it needs none.
    pub(crate) fn begin(op: StoreOp, target: &Target) -> Result<Self, StoreOp> {
        let step = match op.kind {
            StoreOpKind::Read { .. } | StoreOpKind::Write { .. } => Step::Transfer,
            StoreOpKind::Flush => Step::Sync,
            StoreOpKind::WriteZeroes { .. } if target.zero_range => Step::ZeroRange,
            StoreOpKind::WriteZeroes { .. } => Step::ZeroFill,
            StoreOpKind::Discard(_) => match target.discard {
                DiscardWay::Command => Step::DiscardCommand,
                DiscardWay::PunchHole => Step::PunchHole,
                DiscardWay::Ignore => return Err(op),
            },
        };
        Ok(Self { op, step, done: 0, retries: 0 })
    }

    /// The entry for the present step. It points into this operation's buffer or into `zeros`: both must
    /// stay where they are until its completion.
    pub(crate) fn entry(&mut self, target: &Target, zeros: &AlignedBuf) -> Entry {
        let file = target.file.entry();
        let range = range_of(&self.op);
        let rest = ByteRange::new(range.start + self.done, range.len - self.done);
        match self.step {
            Step::Transfer => self.transfer_entry(file, rest),
            Step::ZeroFill => {
                let len = length(rest.len.min(zeros.len() as u64));
                opcode::Write::new(file, zeros.as_ptr(), len).offset(rest.start).build()
            }
            Step::ZeroRange => {
                opcode::Fallocate::new(file, rest.len).offset(rest.start).mode(ZERO_RANGE).build()
            }
            Step::PunchHole => {
                opcode::Fallocate::new(file, rest.len).offset(rest.start).mode(PUNCH_HOLE).build()
            }
            Step::DiscardCommand => {
                // The command's layout: start in `addr`, length in `addr3`, where the command bytes begin.
                let mut command = [0; 16];
                command[..8].copy_from_slice(&native_bytes(rest.len));
                opcode::UringCmd16::new(file, BLOCK_URING_CMD_DISCARD)
                    .addr(Some(rest.start))
                    .cmd(command)
                    .build()
            }
            Step::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }

    fn transfer_entry(&mut self, file: types::Fixed, rest: ByteRange) -> Entry {
        let len = length(rest.len);
        let done = usize::try_from(self.done).expect("a buffer's length is a usize");
        let buf = self.op.buf.as_mut().expect("a transfer has a buffer");
        let bytes = &mut buf.bytes_mut()[done..];
        match self.op.kind {
            StoreOpKind::Read { .. } => {
                opcode::Read::new(file, bytes.as_mut_ptr(), len).offset(rest.start).build()
            }
            StoreOpKind::Write { fua, .. } => {
                let flags = if fua { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(file, bytes.as_ptr(), len).offset(rest.start).rw_flags(flags).build()
            }
            StoreOpKind::Flush | StoreOpKind::Discard(_) | StoreOpKind::WriteZeroes { .. } => {
                unreachable!("only reads and writes are transfers")
            }
        }
    }

    /// What the result of the last entry means.
    pub(crate) fn advance(&mut self, result: i32, target: &mut Target) -> Next {
        // Never a flush: one that failed may have lost what the next one would call durable (E8).
        let may_repeat = self.step != Step::Sync && self.retries < RETRIES_MAX;
        if may_repeat && matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.retries += 1;
            return Next::Submit;
        }
        match (self.step, u64::try_from(result)) {
            (Step::Transfer, Ok(bytes)) => self.transferred(bytes, target),
            (Step::ZeroFill, Ok(bytes)) => match self.transferred(bytes, target) {
                Next::Finish(Ok(())) => self.zeroed(),
                other => other,
            },
            (Step::ZeroRange, Ok(_)) => self.zeroed(),
            (Step::ZeroRange, Err(_)) if unsupported(result) => {
                target.zero_range = false;
                self.step = Step::ZeroFill;
                Next::Submit
            }
            (Step::DiscardCommand, Err(_)) if unsupported(result) => {
                target.discard = DiscardWay::PunchHole;
                self.step = Step::PunchHole;
                Next::Submit
            }
            (Step::PunchHole, Err(_)) if unsupported(result) => {
                target.discard = DiscardWay::Ignore;
                Next::Finish(Ok(()))
            }
            (Step::DiscardCommand | Step::PunchHole | Step::Sync, Ok(_)) => Next::Finish(Ok(())),
            (_, Err(_)) => Next::Finish(Err(StoreError::Device(-result))),
        }
    }

    /// A direct transfer may end anywhere, but must start at a block: a short one is continued at the
    /// block where it ended, and is final when that is where it began.
    fn transferred(&mut self, bytes: u64, target: &Target) -> Next {
        let wanted = range_of(&self.op).len;
        let reached = self.done + bytes;
        if reached >= wanted {
            self.done = wanted;
            return Next::Finish(Ok(()));
        }
        let resume = reached - reached % target.logical_block;
        if resume == self.done {
            return Next::Finish(Err(StoreError::Short { done: reached, wanted }));
        }
        self.done = resume;
        self.retries = 0;
        Next::Submit
    }

    fn zeroed(&mut self) -> Next {
        match self.op.kind {
            StoreOpKind::WriteZeroes { fua: true, .. } => {
                self.step = Step::Sync;
                self.done = range_of(&self.op).len;
                Next::Submit
            }
            _ => Next::Finish(Ok(())),
        }
    }
}

/// `EINVAL` is what older kernels say to a command or mode they do not know; our ranges are checked.
fn unsupported(result: i32) -> bool {
    matches!(-result, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL)
}

fn length(bytes: u64) -> u32 {
    u32::try_from(bytes.min(TRANSFER_BYTES_MAX)).expect("the bound fits")
}

#[expect(clippy::host_endian_bytes, reason = "the kernel reads the command in its own byte order")]
fn native_bytes(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ring, RingConfig};
    use std::os::fd::AsFd;
    use umbra_store::{DeviceSlot, IoBuf, Token};

    fn target() -> Target {
        let mut ring = Ring::new(RingConfig::default()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let file = ring.register_file(file.as_fd()).unwrap();
        Target { file, logical_block: 512, discard: DiscardWay::Command, zero_range: true }
    }

    fn begin(kind: StoreOpKind, bytes: Option<usize>, target: &Target) -> Op {
        let buf = bytes.map(|len| IoBuf::whole(AlignedBuf::zeroed(len)));
        Op::begin(StoreOp { token: Token(0), device: DeviceSlot(0), kind, buf }, target).unwrap()
    }

    #[test]
    fn a_short_transfer_goes_on_at_the_block_where_it_ended() {
        let mut target = target();
        let mut op = begin(StoreOpKind::Read { offset: 0 }, Some(4096), &target);
        assert_eq!(op.advance(1000, &mut target), Next::Submit);
        assert_eq!(op.done, 512);
        assert_eq!(op.advance(3584, &mut target), Next::Finish(Ok(())));
    }

    #[test]
    fn a_transfer_that_makes_no_progress_is_short() {
        let mut target = target();
        let mut op = begin(StoreOpKind::Read { offset: 0 }, Some(4096), &target);
        assert_eq!(op.advance(600, &mut target), Next::Submit);
        let short = StoreError::Short { done: 600, wanted: 4096 };
        assert_eq!(op.advance(88, &mut target), Next::Finish(Err(short)));
    }

    #[test]
    fn an_interrupted_operation_is_repeated_but_not_for_ever() {
        let mut target = target();
        let mut op = begin(StoreOpKind::Read { offset: 0 }, Some(4096), &target);
        for _ in 0..RETRIES_MAX {
            assert_eq!(op.advance(-libc::EINTR, &mut target), Next::Submit);
        }
        let error = StoreError::Device(libc::EINTR);
        assert_eq!(op.advance(-libc::EINTR, &mut target), Next::Finish(Err(error)));
    }

    #[test]
    fn a_failed_flush_is_never_repeated() {
        let mut target = target();
        let mut op = begin(StoreOpKind::Flush, None, &target);
        for errno in [libc::EIO, libc::EINTR, libc::EAGAIN] {
            let error = StoreError::Device(errno);
            assert_eq!(op.advance(-errno, &mut target), Next::Finish(Err(error)));
        }
    }

    #[test]
    fn zeroes_are_written_where_the_device_cannot_zero_and_synced_last() {
        let mut target = target();
        let range = ByteRange::new(4096, 8192);
        let mut op = begin(StoreOpKind::WriteZeroes { range, fua: true }, None, &target);
        assert_eq!(op.step, Step::ZeroRange);
        assert_eq!(op.advance(-libc::EOPNOTSUPP, &mut target), Next::Submit);
        assert!(!target.zero_range, "what fails once is not tried again");
        assert_eq!(op.advance(4096, &mut target), Next::Submit);
        assert_eq!(op.step, Step::ZeroFill);
        assert_eq!(op.advance(4096, &mut target), Next::Submit);
        assert_eq!(op.step, Step::Sync);
        assert_eq!(op.advance(0, &mut target), Next::Finish(Ok(())));
    }

    #[test]
    fn a_discard_that_nobody_understands_succeeds() {
        let mut target = target();
        let kind = StoreOpKind::Discard(ByteRange::new(0, 4096));
        let mut op = begin(kind, None, &target);
        assert_eq!(op.advance(-libc::EINVAL, &mut target), Next::Submit);
        assert_eq!(op.step, Step::PunchHole);
        assert_eq!(op.advance(-libc::EOPNOTSUPP, &mut target), Next::Finish(Ok(())));
        let next = StoreOp { token: Token(0), device: DeviceSlot(0), kind, buf: None };
        assert!(Op::begin(next, &target).is_err(), "the next one needs no entry");
    }
}
