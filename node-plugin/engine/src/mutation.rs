//! Switches that take single rules out of the engine, so that the simulator can prove that it would notice.
//!
//! Only in builds with the feature `mutation`, which the simulator alone asks for: elsewhere the answer is a
//! constant. Thread-local, so that simulators with different rules run side by side.

/// A rule that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// E1: a shadow chunk is written in place only after its record is confirmed durably.
    ConfirmBeforeInPlace,
    /// E2: *differs* is complete in its pages before an update flips, so that recovery says no less than memory.
    RegionsPendingAtCut,
    /// E3: a routed read looks at the route again when it completes.
    ReadRecheck,
    /// E5: the source is flushed inside the gate.
    FlushSourceAtCut,
    /// E8: recovery flushes the devices before it believes what it reads.
    FlushAtRecovery,
    /// E8: rejected records are discarded for ever by the checkpoint that ends recovery.
    CheckpointAtRecovery,
    /// E9: a restore flushes the master before it clears *pending*.
    FlushBeforePendingClear,
    /// Common rule 3: a master write waits for every sibling.
    SiblingBarrier,
    /// Common rule 4: what could not be copied is marked lost.
    LostMark,
    /// Invariant 2: old data and record are durable before the master is overwritten.
    DurableBeforeOverwrite,
    /// The drain of a cut waits for the writes in flight.
    DrainBeforeFlip,
    /// E4: a cut over several sets is in doubt everywhere before it is committed anywhere.
    InDoubtFirst,
    /// E9: what a restore has still to copy is read from the shadow by the shadow's readers, too.
    HeldInRestore,
    /// E17: a request is of whole logical blocks of the master.
    WholeBlocks,
    /// E2: what is lost of an image is in the pages before it is complete.
    LostInPages,
    /// E2: what an unreadable page of an exact plane is about is lost.
    DamagedIsLost,
    /// E2: what recovery takes for lost is durable before the page that says nothing of it is written anew.
    LostFirst,
    /// E8: a confirmed block that is not in the journal ends the image.
    MissingBlockEnds,
    /// A block counts only where it belongs.
    BlockInItsPlace,
}

impl Rule {
    /// All rules, in order.
    pub const ALL: [Self; 19] = [
        Self::ConfirmBeforeInPlace,
        Self::RegionsPendingAtCut,
        Self::ReadRecheck,
        Self::FlushSourceAtCut,
        Self::FlushAtRecovery,
        Self::CheckpointAtRecovery,
        Self::FlushBeforePendingClear,
        Self::SiblingBarrier,
        Self::LostMark,
        Self::DurableBeforeOverwrite,
        Self::DrainBeforeFlip,
        Self::InDoubtFirst,
        Self::HeldInRestore,
        Self::WholeBlocks,
        Self::LostInPages,
        Self::DamagedIsLost,
        Self::LostFirst,
        Self::MissingBlockEnds,
        Self::BlockInItsPlace,
    ];
}

#[cfg(feature = "mutation")]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Switches one rule off on this thread, or none.
    pub fn switch_off(rule: Option<Rule>) {
        OFF.with(|off| off.set(rule));
    }

    /// Whether `rule` is off on this thread.
    pub fn is_off(rule: Rule) -> bool {
        OFF.with(Cell::get) == Some(rule)
    }
}

#[cfg(feature = "mutation")]
pub use switch::{is_off, switch_off};

/// Whether `rule` is off: never, in a build without the simulator's feature.
#[cfg(not(feature = "mutation"))]
#[inline]
pub const fn is_off(_rule: Rule) -> bool {
    false
}
