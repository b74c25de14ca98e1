//! What goes into the engine (requests, completions, commands) and what comes out (actions).

use crate::record::{JournalBlock, Mode, OfflineCause, PlaneId, SetHeader};
use crate::units::{ByteRange, Epoch, Id128, Sequence, SuperblockGeneration};
use std::sync::Arc;
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

/// Names an operation; every name is used once, so a completion that comes late finds nothing to do.
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
    RestoreFlush(u64),
    /// A journal block.
    Journal(SetIndex, Sequence),
    /// A flush by ticket.
    Flush(Device, u64),
    /// A bitmap page; the number counts page writes of the set.
    Page(SetIndex, u64),
    /// A superblock slot.
    Superblock(SetIndex, SuperblockGeneration, Place),
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

/// Names a command to whoever gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// How a cut treats the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// Every chunk is copied again.
    Full,
    /// Only chunks that may differ.
    Update,
}

/// Which way the data of a cut goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A new point in time.
    ToShadow,
    /// A restore: the master is from now on what the shadow is.
    ToMaster,
}

/// What a cut does with one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMember {
    /// The set.
    pub set: SetIndex,
    /// Which way.
    pub direction: Direction,
    /// All chunks, or those that may differ.
    pub kind: CopyKind,
    /// Also from offline: forget what was lost.
    pub reset: bool,
}

impl CutMember {
    /// A new point in time of `set`.
    pub const fn to_shadow(set: SetIndex, kind: CopyKind) -> Self {
        Self { set, direction: Direction::ToShadow, kind, reset: false }
    }

    /// A restore from `set`.
    pub const fn to_master(set: SetIndex, kind: CopyKind) -> Self {
        Self { set, direction: Direction::ToMaster, kind, reset: false }
    }
}

/// A cut over several sets, as every member's superblock names it while it is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// UUIDs of all members, on this master and others.
    pub members: Arc<[Id128]>,
    /// What the member becomes if the cut is committed; its cut is the name of the decision.
    pub then: SetHeader,
}

/// Most members of a cut over several sets: their names have to fit into each superblock.
pub const CUT_MEMBERS_MAX: usize = 16;

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

/// Limits of the background copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyLimits {
    /// Bytes per second; none: as fast as the devices.
    pub bytes_per_second: Option<u64>,
    /// Runs in flight, at least 1.
    pub in_flight: u16,
}

/// What the owner can be told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take the first point in time of a prepared set, a new one of a set that has one, or a reset.
    Cut {
        /// The set, and what the cut does with it.
        member: CutMember,
        /// Name of the cut; asked again with the same name, the answer is the same.
        cut: Id128,
        /// When, for people.
        unix_ms: u64,
    },
    /// First step of a cut over several sets, of this master and perhaps of others: gate, drain, flush. Answered
    /// by [`Done::Gated`]; nothing durable has changed then.
    Prepare {
        /// The sets of this master.
        members: Vec<CutMember>,
        /// Name of the cut.
        cut: Id128,
        /// When, for people.
        unix_ms: u64,
        /// UUIDs of all members, at most [`CUT_MEMBERS_MAX`].
        all: Arc<[Id128]>,
    },
    /// Second step: every superblock says, durably, that the cut is in doubt. Answered by [`Done::InDoubt`]; the
    /// gate stays closed.
    Flip {
        /// Name of the cut.
        cut: Id128,
    },
    /// Last step, or the end of the attempt at any time before: the members become what the cut makes them, or
    /// stay what they are, durably; then the gate opens.
    Decide {
        /// Name of the cut.
        cut: Id128,
        /// The decision.
        commit: bool,
    },
    /// Stop the copier; the shadow goes on leaning on the master, or in a restore the master on the shadow.
    Abort {
        /// The set.
        set: SetIndex,
    },
    /// Let the copier go on after an abort or a restart.
    Resume {
        /// The set.
        set: SetIndex,
    },
    /// Change the copier's limits.
    SetCopyLimits {
        /// The set.
        set: SetIndex,
        /// The limits.
        limits: CopyLimits,
    },
    /// End the set: nothing leans on it any more.
    Disable {
        /// The set.
        set: SetIndex,
        /// Also while a copy is incomplete.
        force: bool,
    },
    /// Close everything in order: drained, flushed, pages complete, superblocks clean. Final.
    Detach,
}

/// How a command ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The point in time exists.
    Cut {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The gate is closed and nothing is in flight.
    Gated,
    /// Every member's superblock says so.
    InDoubt,
    /// Nothing more to say.
    Ok,
}

/// Why a command was refused or failed. Nothing has changed unless the variant says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such set.
    #[error("there is no such set")]
    NoSuchSet,
    /// The set is offline.
    #[error("the set is offline ({0:?} failed); reset it to start a new image")]
    Offline(OfflineCause),
    /// Another command changes this master now.
    #[error("another cut, enable, disable or detach is in progress on this master; try again")]
    Busy,
    /// The copy this refers to does not exist.
    #[error("no copy is in progress or aborted")]
    NoCopy,
    /// A device of the set still has I/O that was given up.
    #[error("I/O that was given up has not come back from {0:?}; replace the device or wait")]
    AbandonedIo(Device),
    /// The source could not be flushed: the cut is void (E5).
    #[error("the master could not be flushed; the cut is void and the previous image stands")]
    SourceFlush,
    /// The drain took longer than its deadline: the cut is void.
    #[error("in-flight writes did not drain in time; the cut is void and the previous image stands")]
    DrainTimeout,
    /// The set went offline during the command.
    #[error("the set went offline during the command ({0:?} failed)")]
    Failed(OfflineCause),
    /// A restore has chunks left: its master is read from two places.
    #[error("a restore of this master is not complete; wait for it, or resume it")]
    Restoring,
    /// A restore would bring back what is not there.
    #[error("{0} chunks of the shadow are lost: it cannot be restored from")]
    LostChunks(u64),
    /// The set has no image that a restore could start from.
    #[error("the set has no complete image to restore from")]
    NoImage,
    /// A cut can do one thing with a set, and restore from one.
    #[error("a cut can name a set once, and restore a master from one set")]
    Twice,
    /// The gate that the command means is not closed (any more).
    #[error("the cut is void: its gate is not closed")]
    NoGate,
    /// More sets than a superblock can name.
    #[error("a cut can have at most {CUT_MEMBERS_MAX} members")]
    TooManyMembers,
    /// The set's image is still leaning on the master.
    #[error("the copy is not complete and the shadow leans on the master; wait for it, or force")]
    Dependent,
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
