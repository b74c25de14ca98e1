//! Switches that take single protections out of changes and starts, so that the node simulator can prove that it
//! would notice.
//!
//! Only in builds with the feature `mutation`, which the simulator alone asks for: elsewhere the answer is a
//! constant. Thread-local, as a simulated node is.

/// A protection that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// E21: a device on record is compared with what its record says.
    IdentityCompared,
    /// A failed enable or attach takes back what it made.
    RollBack,
    /// Only a device of the driver with our mark is recovered, stopped or deleted.
    TagCompared,
    /// The proof that nobody has a presented device open holds until its content has changed.
    HoldOverFlip,
    /// Who only reads a presented device is given a moment to close it.
    ReadersAwaited,
    /// A volume that was exchanged for another one ends no image.
    SwappedWaits,
    /// The place of a request's answer is taken before its effect.
    RequestReserved,
    /// The decision on a cut is on record, durably, before anybody is told.
    DecisionRecorded,
    /// What was decided on a cut holds for every member, whichever is recovered first.
    DecisionFollowed,
    /// Every member of a cut that was left undecided is asked, those of other masters, too.
    MembersAsked,
    /// A cut is on record until no member can be in doubt about it.
    CutRemembered,
    /// E19: a master that was written while nobody served it waits until somebody accepts that.
    OutsideNoticed,
    /// E19: the digest of a master's first bytes is taken back before they are written.
    DigestWithdrawn,
    /// E19: after a kill that digest is compared.
    DigestCompared,
    /// A device that is stuck in the kernel is left alone.
    StuckLeft,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::IdentityCompared,
        Self::RollBack,
        Self::TagCompared,
        Self::HoldOverFlip,
        Self::ReadersAwaited,
        Self::SwappedWaits,
        Self::RequestReserved,
        Self::DecisionRecorded,
        Self::DecisionFollowed,
        Self::MembersAsked,
        Self::CutRemembered,
        Self::OutsideNoticed,
        Self::DigestWithdrawn,
        Self::DigestCompared,
        Self::StuckLeft,
    ];
}

#[cfg(feature = "mutation")]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Switches one protection off on this thread, or none.
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
