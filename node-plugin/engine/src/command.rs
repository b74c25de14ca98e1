//! What the owner can be told to do, and how that ends.

use crate::action::{Device, SetIndex};
use crate::record::{OfflineCause, SetHeader};
use crate::units::{Epoch, Id128};
use std::sync::Arc;
use thiserror::Error;

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
    /// A file system recovers its journal through the shadow: for so long what is written through it counts as recovered,
    /// and not as written since the cut. 0 ends that before its time.
    Recovering {
        /// The set.
        set: SetIndex,
        /// In milliseconds from now: who asks for it may be gone before it says that it is over.
        lasts_ms: u64,
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
