//! What a superblock says must be understood to read, to serve, or not at all.
//!
//! This version knows two: the label, and a cut over several sets that is not decided. Every bit below is a number
//! that is taken, so that no two later versions give it two meanings. `docs/format.md` says what each will stand for.

/// Bit of [`Features::compatible`]: results of the last operations at [`crate::OPERATIONS_AT`].
pub const COMPATIBLE_OPERATION_RESULTS: u64 = 1;
/// Bit of [`Features::compatible`]: the shadow carried this set's label, durably, when the superblock was written.
/// Whoever does not know it drops it, and with it only the certainty that a shadow without a label is another.
pub const COMPATIBLE_LABELLED: u64 = 1 << 1;

/// Bit of [`Features::read_only_compatible`]: hashes of used operation names at
/// [`crate::OPERATION_NAMES_OFFSET`]. Whoever executes operations without noting them breaks the promise.
pub const READ_ONLY_OPERATION_NAMES: u64 = 1;
/// Bit of [`Features::read_only_compatible`]: planes of change tracking. Whoever writes without setting their
/// bits makes a delta that is too small (E20).
pub const READ_ONLY_CHANGE_TRACKING: u64 = 1 << 1;

/// Bit of [`Features::incompatible`]: compact index and extents of overflow; records carry slots.
pub const INCOMPATIBLE_COMPACT: u64 = 1;
/// Bit of [`Features::incompatible`]: the set is a layer of a chain, see [`crate::FAMILY_AT`].
pub const INCOMPATIBLE_CHAIN: u64 = 1 << 1;
/// Bit of [`Features::incompatible`]: exported or imported, see [`crate::EXPORT_AT`].
pub const INCOMPATIBLE_EXPORT: u64 = 1 << 2;
/// Bit of [`Features::incompatible`]: a cut over several sets is not decided, see [`crate::IN_DOUBT_AT`].
pub const INCOMPATIBLE_IN_DOUBT: u64 = 1 << 3;
/// Bit of [`Features::incompatible`]: metadata blocks of more than 4 KiB (E17).
pub const INCOMPATIBLE_LARGE_BLOCKS: u64 = 1 << 4;
/// Bit of [`Features::incompatible`]: records of parts of a chunk, by their block mask.
pub const INCOMPATIBLE_PARTIAL_CHUNKS: u64 = 1 << 5;

/// The feature flags of a superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// May be unknown. Whoever does not know one drops it: the next commit writes flag and area as zeros.
    pub compatible: u64,
    /// Must be known to write to the volume, and so to serve the set; inspecting is harmless.
    pub read_only_compatible: u64,
    /// Must be known to make sense of the volume.
    pub incompatible: u64,
}

impl Features {
    /// What this version knows.
    pub const KNOWN: Self = Self {
        compatible: COMPATIBLE_LABELLED,
        read_only_compatible: 0,
        incompatible: INCOMPATIBLE_IN_DOUBT,
    };

    /// Those that this version does not know.
    #[must_use]
    pub const fn unknown(self) -> Self {
        Self {
            compatible: self.compatible & !Self::KNOWN.compatible,
            read_only_compatible: self.read_only_compatible & !Self::KNOWN.read_only_compatible,
            incompatible: self.incompatible & !Self::KNOWN.incompatible,
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.compatible | self.read_only_compatible | self.incompatible == 0
    }
}
