//! The typed records that make the engine's state durable. `umbra-format` knows their bytes.

use crate::geometry::Geometry;
use crate::units::{ChunkRun, Epoch, Id128, RingGeneration, Sequence};

/// Number of planes of a set.
pub const PLANES: usize = 7;

/// A plane of the bitmap volume.
///
/// The tracking planes exist twice: at an update one pair is frozen and merged into *held* while the other
/// starts empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PlaneId {
    /// The shadow side has its own copy of the chunk (exact). Not held, in an independent set: pending.
    Held = 0,
    /// The chunk's old data could not be kept (exact).
    Lost = 1,
    /// The two sides may differ since the cut (may say too much), first of the pair.
    Differs0 = 2,
    /// The region is active in the write-intent log, first of the pair.
    Region0 = 3,
    /// Second of the pair.
    Differs1 = 4,
    /// Second of the pair.
    Region1 = 5,
    /// The chunk's current data is on the shadow only: a restore has still to copy it (exact).
    Pending = 6,
}

impl PlaneId {
    /// All planes, in the order of their numbers.
    pub const ALL: [Self; PLANES] =
        [Self::Held, Self::Lost, Self::Differs0, Self::Region0, Self::Differs1, Self::Region1, Self::Pending];

    /// The number on disk.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The bit of this plane in a record's masks.
    pub const fn mask(self) -> u8 {
        1 << self.index()
    }

    /// Whether the plane has a bit per region instead of one per chunk.
    pub const fn per_region(self) -> bool {
        matches!(self, Self::Region0 | Self::Region1)
    }

    /// Bits of this plane for a master of `geometry`.
    pub fn bits(self, geometry: &Geometry) -> u64 {
        if self.per_region() { geometry.region_count() } else { geometry.chunk_count() }
    }

    /// *Differs* of pair 0 or 1.
    pub const fn differs(pair: TrackingPair) -> Self {
        match pair {
            TrackingPair::First => Self::Differs0,
            TrackingPair::Second => Self::Differs1,
        }
    }

    /// Active regions of pair 0 or 1.
    pub const fn region(pair: TrackingPair) -> Self {
        match pair {
            TrackingPair::First => Self::Region0,
            TrackingPair::Second => Self::Region1,
        }
    }
}

/// Which of the two pairs of tracking planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrackingPair {
    /// `Differs0`, `Region0`.
    #[default]
    First,
    /// `Differs1`, `Region1`.
    Second,
}

impl TrackingPair {
    /// The other pair.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// One record: for every chunk (or region) of the run, these planes become 1 and those become 0.
///
/// A record states the result, not a change, so replaying it twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Chunks, or regions for records that touch region planes.
    pub run: ChunkRun,
    /// Planes set to 1, by [`PlaneId::mask`].
    pub set: u8,
    /// Planes set to 0.
    pub clear: u8,
    /// XXH3-64 of the shadow's bytes of the run, where the data is written beside the record. Checked only
    /// while the record is unconfirmed (E1).
    pub hash: Option<u64>,
}

/// A sealed block of the journal ring. Written once, never rewritten while it matters (E8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBlock {
    /// Blocks of another ring generation are not replayed.
    pub ring_generation: RingGeneration,
    /// The set's epoch when the block was sealed.
    pub epoch: Epoch,
    /// Its number.
    pub sequence: Sequence,
    /// Every block up to this one is durable, with its data (E1).
    pub confirmed_upto: Sequence,
    /// At most [`RECORDS_PER_BLOCK`].
    pub records: Vec<Record>,
}

/// Records that fit in one 4 KiB journal block behind its 96-byte header, 32 bytes each.
pub const RECORDS_PER_BLOCK: usize = (4096 - 96) / 32;

/// How the shadow relates to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A full copy is made in the background; then a stand-alone image.
    Independent,
    /// Copy-on-write only.
    Dependent,
}

impl Mode {
    /// The state in which nothing is left to be copied.
    pub const fn at_rest(self) -> SetState {
        match self {
            Self::Independent => SetState::Complete,
            Self::Dependent => SetState::Dependent,
        }
    }
}

/// Why a set is offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineCause {
    /// The shadow failed or was too slow.
    Shadow,
    /// The bitmap volume failed or was too slow: its end is recorded elsewhere.
    Bitmap,
}

/// The durable state of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    /// Prepared, no point in time yet: the first cut makes it one of the next two.
    Prepared,
    /// Dependent: unheld chunks are read from the master.
    Dependent,
    /// Independent, and chunks are still to be copied. The copier runs.
    Copying,
    /// As `Copying`, but a user stopped the copier.
    CopyAborted,
    /// Independent, every chunk copied: the shadow is a plain image.
    Complete,
    /// Chunks of the logical master are still on the shadow only. The copier runs.
    Restoring,
    /// As `Restoring`, but a user stopped the copier.
    RestoreAborted,
    /// The image is given up. Shadow I/O fails, the master passes; only a reset leads out.
    Offline(OfflineCause),
    /// Disabled: the bitmap volume may be used for something else.
    Disabled,
}

impl SetState {
    /// Whether the shadow serves an image.
    pub const fn is_online(self) -> bool {
        match self {
            Self::Dependent
            | Self::Copying
            | Self::CopyAborted
            | Self::Complete
            | Self::Restoring
            | Self::RestoreAborted => true,
            Self::Prepared | Self::Offline(_) | Self::Disabled => false,
        }
    }

    /// Whether unheld chunks are still to be copied by somebody.
    pub const fn is_copying(self) -> bool {
        matches!(self, Self::Copying | Self::CopyAborted)
    }

    /// Whether chunks of the logical master are on the shadow only.
    pub const fn is_restoring(self) -> bool {
        matches!(self, Self::Restoring | Self::RestoreAborted)
    }
}

/// What pages older than the plane's epoch read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PlaneHeader {
    /// Pages and records of an older epoch do not count.
    pub epoch: Epoch,
}

/// The part of the superblock that the engine changes. One commit of it is one step of the set's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetHeader {
    /// Counts cuts.
    pub epoch: Epoch,
    /// The cut that made this epoch.
    pub cut: Id128,
    /// When, in milliseconds since the Unix epoch, by the clock of whoever asked.
    pub cut_unix_ms: u64,
    /// What the set is doing.
    pub state: SetState,
    /// Per plane.
    pub planes: [PlaneHeader; PLANES],
    /// The pair that tracks now.
    pub tracking: TrackingPair,
    /// The other pair was frozen by this epoch's cut and is not merged into *held* yet: pages of *held*
    /// older than [`epoch`](Self::epoch) still lack it.
    pub merging: bool,
    /// The shadow's first bytes live on the bitmap volume and a label stands in their place (E7).
    pub head_moved: bool,
    /// Blocks of this ring generation are replayed.
    pub ring_generation: RingGeneration,
    /// Blocks up to this one are in the pages.
    pub checkpoint_upto: Sequence,
    /// Blocks up to this one are durable with their data.
    pub confirmed_upto: Sequence,
    /// The shadow was written through since the cut.
    pub shadow_written: bool,
    /// A file system has recovered its journal through the shadow since the cut, which is not counted as written.
    pub recovered: bool,
    /// Closed in order: pages are complete and nothing is to be replayed.
    pub clean: bool,
}

impl SetHeader {
    /// Of a set that was formatted and never cut.
    pub fn prepared() -> Self {
        Self {
            epoch: Epoch(0),
            cut: Id128::default(),
            cut_unix_ms: 0,
            state: SetState::Prepared,
            planes: [PlaneHeader::default(); PLANES],
            tracking: TrackingPair::First,
            merging: false,
            head_moved: true,
            ring_generation: RingGeneration(1),
            checkpoint_upto: Sequence(0),
            confirmed_upto: Sequence(0),
            shadow_written: false,
            recovered: false,
            clean: false,
        }
    }
}
