//! What goes into the engine (requests, completions, commands) and what comes out (actions). Commands are in
//! `command.rs`.

use crate::command::{Command, CommandId, Done, InDoubt, Refusal};
use crate::record::{JournalBlock, Mode, OfflineCause, PlaneId, SetHeader};
use crate::units::{ByteRange, Epoch, Sequence, SuperblockGeneration};
use thiserror::Error;

/// Place of a set among the sets of one master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetIndex(pub u8);

/// Most sets that one master can have.
pub const SETS_MAX: usize = 16;

/// A device that the engine asks for I/O on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The physical master.
    Master,
    /// A set's shadow.
    Shadow(SetIndex),
    /// A set's bitmap volume.
    Bitmap(SetIndex),
    /// The copy of a shadow's head in memory ([`HeadMove::Keep`]), at the offsets of the shadow. It is only read, needs
    /// no device, and never fails.
    Head(SetIndex),
}

impl Device {
    /// The set that the device belongs to.
    pub const fn set(self) -> Option<SetIndex> {
        match self {
            Self::Master => None,
            Self::Shadow(set) | Self::Bitmap(set) | Self::Head(set) => Some(set),
        }
    }
}

/// The front end's name for a request: its place in a table of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u32);

/// Which presented device a request came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The logical master.
    Master,
    /// A set's shadow.
    Shadow(SetIndex),
}

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Fill the request's buffer.
    Read,
    /// Write the request's buffer; durable on completion if `fua`.
    Write {
        /// Forced unit access.
        fua: bool,
    },
    /// Zero the range: a write whose bytes need not be sent.
    WriteZeroes {
        /// Forced unit access.
        fua: bool,
    },
    /// Advice that the range is not needed (E16).
    Discard,
    /// Everything completed before is durable on completion. The range is ignored.
    Flush,
}

/// A request of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back with the completion.
    pub id: RequestId,
    /// Master or shadow.
    pub side: Side,
    /// What.
    pub kind: RequestKind,
    /// Bytes, aligned to the logical block.
    pub range: ByteRange,
}

/// Why a request failed. The front ends have one table from this to their error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A device answered with an error, or the shadow's chunk is lost or its set offline.
    #[error("I/O error")]
    Io,
    /// Behind the end of the device, empty, or not offered on this side.
    #[error("invalid request")]
    Invalid,
}

/// One of the engine's fixed copy buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyBuf(pub u16);

/// A copy in progress; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u64);

/// Which of the two places of a superblock or page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The first.
    A,
    /// The second.
    B,
}

impl Place {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A set as it was added, once: its index is used again when another set takes its place, and what hangs at the
/// volumes of the one before must not be taken for the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetKey {
    /// Its place.
    pub index: SetIndex,
    /// Counts the sets of the master.
    pub serial: u64,
}

/// Names a flush; never used twice, whatever it was issued for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushTicket(pub(crate) u64);

/// Names an operation; every name is used once, so a completion that comes late finds nothing to do. A request's
/// operations end before the request does, so they are named by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpId {
    /// Part of a request. `attempt` tells a re-issued read from its first try (E3).
    Request {
        /// Whose.
        id: RequestId,
        /// Which part.
        piece: u16,
        /// Counts re-issues.
        attempt: u16,
    },
    /// Old data of a copy.
    CopyRead(CopyId),
    /// Old data to a set's shadow.
    CopyWrite(CopyId, SetIndex),
    /// The shadow's data of a chunk that is restored.
    RestoreRead(CopyId, SetIndex),
    /// The shadow's data to the master.
    RestoreWrite(CopyId),
    /// A flush of the master that restored chunks wait for.
    RestoreFlush(FlushTicket),
    /// A journal block.
    Journal(SetKey, Sequence),
    /// A flush by ticket.
    Flush(Device, FlushTicket),
    /// A bitmap page; the number counts page writes of the set.
    Page(SetKey, u64),
    /// A superblock slot.
    Superblock(SetKey, SuperblockGeneration, Place),
}

/// Which memory an operation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The request's buffer, from this byte of the request on.
    Request(RequestId, u64),
    /// A copy buffer, from its start.
    Copy(CopyBuf),
    /// None is needed.
    None,
}

/// Kinds of plain I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Device to memory. `hash`: the completion carries the XXH3-64 of what was read.
    Read {
        /// Whether the hash is wanted.
        hash: bool,
    },
    /// Memory to device.
    Write {
        /// Durable on completion.
        fua: bool,
    },
    /// Zeros to device.
    WriteZeroes {
        /// Durable on completion.
        fua: bool,
    },
    /// Advice.
    Discard,
}

/// Where a shadow's head goes (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadMove {
    /// From the shadow to the bitmap volume.
    Out,
    /// From the bitmap volume to the shadow, over the label.
    Back,
    /// From the bitmap volume into memory, beside it: a restore reads it there ([`Device::Head`]), whatever becomes of the
    /// bitmap volume, until [`Action::ForgetHead`].
    Keep,
}

/// What the engine asks its shell to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Plain I/O; answered by [`Event::Done`].
    Io {
        /// Comes back.
        op: OpId,
        /// Where.
        device: Device,
        /// What.
        kind: IoKind,
        /// Bytes on the device.
        range: ByteRange,
        /// Bytes in memory.
        memory: Memory,
    },
    /// Flush a device; answered by [`Event::Done`].
    Flush {
        /// Comes back.
        op: OpId,
        /// Which.
        device: Device,
    },
    /// Write a journal block at its place in the ring; answered by [`Event::Done`].
    Journal {
        /// Comes back.
        op: OpId,
        /// Whose.
        set: SetIndex,
        /// Durable on completion.
        fua: bool,
        /// What.
        block: JournalBlock,
    },
    /// Write a page of a plane, as it is in memory when this is executed, tagged as it was when this was
    /// asked; answered by [`Event::Done`].
    Page {
        /// Comes back.
        op: OpId,
        /// Whose.
        set: SetIndex,
        /// Which plane.
        plane: PlaneId,
        /// Which page.
        page: u32,
        /// Which of its two places.
        place: Place,
        /// Tells versions of a page apart: later checkpoints have higher stamps.
        stamp: SuperblockGeneration,
        /// Durable on completion.
        fua: bool,
        /// Records up to here are in it.
        sequence: Sequence,
    },
    /// Write a superblock slot; answered by [`Event::Done`].
    Superblock {
        /// Comes back.
        op: OpId,
        /// Whose.
        set: SetIndex,
        /// The engine's part.
        header: SetHeader,
        /// A cut that is not decided.
        doubt: Option<InDoubt>,
        /// Durable on completion.
        fua: bool,
    },
    /// Write the label that stands in the place of a moved head. Nobody waits for it, but it is ordered with
    /// [`Action::MoveHead`] and [`Action::GiveUp`] of the set.
    Label {
        /// Whose.
        set: SetIndex,
        /// Which image.
        epoch: Epoch,
    },
    /// A request is done.
    Complete {
        /// Which.
        id: RequestId,
        /// How.
        result: Result<(), RequestError>,
    },
    /// Record, away from the bitmap volume, that the set's image has ended (E7): in the state directory and
    /// in the shadow's label; one of the two suffices. Answered by [`Event::GiveUpRecorded`].
    GiveUp {
        /// Whose.
        set: SetIndex,
        /// Why.
        cause: OfflineCause,
        /// Which image.
        epoch: Epoch,
        /// A restore had chunks left: a part of the master's data is on the shadow only.
        master_incomplete: bool,
    },
    /// Move the shadow's head and write it durably; answered by [`Event::HeadMoved`].
    MoveHead {
        /// Whose.
        set: SetIndex,
        /// Which way.
        to: HeadMove,
    },
    /// The copy of the head in memory is not needed any more. Nothing answers.
    ForgetHead {
        /// Whose.
        set: SetIndex,
    },
    /// A command has ended.
    Answer {
        /// Which.
        command: CommandId,
        /// How.
        result: Result<Done, Refusal>,
    },
}

/// What a set was told to be when it was enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetParameters {
    /// Dependent or independent.
    pub mode: Mode,
    /// How writes to the shadow become durable.
    pub shadow_durability: Durability,
    /// How writes to the bitmap volume become durable.
    pub bitmap_durability: Durability,
    /// Blocks of the journal ring.
    pub ring_blocks: u64,
    /// Bytes of the shadow's head kept on the bitmap volume (E7); a multiple of the chunk size.
    pub head_bytes: u64,
    /// Where on the bitmap volume the head is.
    pub head_offset: u64,
    /// After this long a shadow operation has failed (E11), in milliseconds.
    pub shadow_deadline_ms: u64,
    /// The same for the bitmap volume.
    pub bitmap_deadline_ms: u64,
    /// What happens to master writes while nothing at all can be recorded.
    pub unrecordable: Unrecordable,
}

/// How a write becomes durable on a device (E13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A completed write is durable.
    WriteThrough,
    /// A FUA write is durable on completion.
    Fua,
    /// A flush after the write.
    Flush,
}

/// Policy of invariant 1, exception (a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecordable {
    /// Writes wait until something can be recorded.
    Block,
    /// After this long, in milliseconds, writes fail.
    FailWrite(u64),
}

/// Why a restore stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStop {
    /// Somebody stopped it.
    Aborted,
    /// The master did not take what was restored.
    Master,
    /// The shadow that it restores from has failed.
    Shadow,
    /// What is left cannot be read from the shadow; the rest is restored.
    Unreadable,
}

/// How a restore goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreStatus {
    /// Why it stands still, if it does.
    pub stands: Option<RestoreStop>,
    /// Chunks that the shadow could not give, as far as is known.
    pub unreadable: u64,
    /// The bitmap volume has failed: the restore goes on from memory, and the master is refused after a crash before
    /// its end.
    pub from_memory: bool,
}

/// What the shell tells the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request came in.
    Request(Request),
    /// An operation has ended.
    Done {
        /// Its name.
        op: OpId,
        /// Whether it succeeded.
        ok: bool,
        /// For reads that asked for it.
        hash: Option<u64>,
    },
    /// Somebody wants something.
    Command(CommandId, Command),
    /// The end of an image is recorded, or nothing could be written.
    GiveUpRecorded {
        /// Whose.
        set: SetIndex,
        /// Whether at least one record is durable.
        ok: bool,
    },
    /// The head is at its new place, durably, or something failed.
    HeadMoved {
        /// Whose.
        set: SetIndex,
        /// Whether it worked.
        ok: bool,
    },
    /// A flush that the shell made for itself has failed: what was written there before may be gone as well (E8).
    FlushFailed(Device),
    /// Time has passed.
    Tick,
}

/// Milliseconds of a clock that only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now(pub u64);

/// Where the bytes of a shadow chunk are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// On the shadow's side.
    Held,
    /// On the physical master.
    Master,
    /// Nowhere.
    Lost,
}
