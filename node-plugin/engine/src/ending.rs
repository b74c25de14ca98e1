//! The end of a set's image, and where it is being recorded: before that nothing goes on without the set (invariant 1).
//!
//! ```text
//!        the shadow fails                 superblock durable
//!  No ───────────────────> Superblock ─────────────────────────> Recorded ──a reset flips──> No
//!  │                           │ the bitmap volume fails            ^
//!  └─the bitmap volume fails───┴──> Elsewhere ──state directory or──┘
//!                                   ^    │      label durable
//!                                   └────┘ neither: tried again
//! ```
//!
//! A set that a restore copies from does not end while its shadow fails: a part of the master's data is on it only.
//! Where its bitmap volume fails, the restore goes on from memory behind *Recorded*; its own end is recorded anew.

use crate::action::Now;
use crate::record::OfflineCause;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It does not.
    No,
    /// The superblock is about to say so.
    Superblock(OfflineCause),
    /// The bitmap volume cannot: state directory and label are about to (E7).
    Elsewhere {
        /// Why.
        cause: OfflineCause,
        /// Since when it waits.
        since: Now,
        /// When it is tried again, if neither could be written.
        retry_at: Option<Now>,
    },
    /// It is recorded.
    Recorded,
}

impl Ending {
    /// Why the image ends, while that is being recorded.
    pub(crate) fn cause(self) -> Option<OfflineCause> {
        match self {
            Self::Superblock(cause) | Self::Elsewhere { cause, .. } => Some(cause),
            Self::No | Self::Recorded => None,
        }
    }

    /// Whether the bitmap volume has failed and the end is not recorded: nothing is written there.
    pub(crate) fn is_elsewhere(self) -> bool {
        matches!(self, Self::Elsewhere { .. })
    }
}
