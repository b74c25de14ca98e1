//! A run of chunks that is restored from a shadow to the master.
//!
//! ```text
//!  Siblings ─> Regions ─> Queued ─> Reading ─> Writing ─> Written ─> Recording ─> over
//!  have what   active     for a     the        the        master     record
//!  they need   (tracking) buffer    shadow     master     flushed    durable
//!     │           │          │         │          │          │
//!     └───────────┴──────────┴─────────┴──────────┴──────────┴─ failed, or cannot be read any more: over, still pending
//! ```

use crate::action::SetIndex;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Siblings are being made ready.
    Siblings,
    /// Regions of sets that track are being made active.
    Regions,
    /// Waits for a buffer.
    Queued,
    /// The shadow is read.
    Reading,
    /// The master is written.
    Writing,
    /// The master has it, perhaps in a cache.
    Written,
    /// The master has it durably; the record is on its way.
    Recording,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RestoreRun {
    background: Option<SetIndex>,
    stage: Stage,
    /// It is read from the head in memory, which no deadline watches.
    from_memory: bool,
}

impl RestoreRun {
    /// A run that the copier of this set wants, or a write.
    pub(crate) fn new(background: Option<SetIndex>) -> Self {
        Self { background, stage: Stage::Siblings, from_memory: false }
    }

    /// The set whose copier wants it.
    pub(crate) fn background(&self) -> Option<SetIndex> {
        self.background
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The next stage.
    pub(crate) fn advance(&mut self, to: Stage) {
        let next = match self.stage {
            Stage::Siblings => Stage::Regions,
            Stage::Regions => Stage::Queued,
            Stage::Queued => Stage::Reading,
            Stage::Reading => Stage::Writing,
            Stage::Writing => Stage::Written,
            Stage::Written | Stage::Recording => Stage::Recording,
        };
        assert_eq!(next, to, "a restored run takes every stage in order");
        self.stage = to;
    }

    /// Says where it is read from.
    pub(crate) fn read_from(&mut self, memory: bool) {
        self.from_memory = memory;
    }

    /// Whether it is read from memory.
    pub(crate) fn is_from_memory(&self) -> bool {
        self.from_memory
    }

    /// Whether it still has to be read from the shadow, and waits for no sibling.
    pub(crate) fn wants_shadow(&self) -> bool {
        matches!(self.stage, Stage::Regions | Stage::Queued | Stage::Reading)
    }
}
