//! Operations on one device of a set, and how long they take (E11).
//!
//! ```text
//!  submitted ──> in flight ──> ended in time
//!                   └─ the device fails: abandoned ──> ended too late: nobody waits, but now the device is free of it (E6)
//! ```

use crate::action::{Now, OpId};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    in_flight: Vec<(OpId, Now)>,
    abandoned: Vec<OpId>,
}

impl Watch {
    pub(crate) fn submitted(&mut self, op: OpId, now: Now) {
        self.in_flight.push((op, now));
    }

    /// The operation has ended; false if it was given up before.
    pub(crate) fn ended(&mut self, op: OpId) -> bool {
        if let Some(index) = self.in_flight.iter().position(|(other, _)| *other == op) {
            self.in_flight.swap_remove(index);
            return true;
        }
        if let Some(index) = self.abandoned.iter().position(|other| *other == op) {
            self.abandoned.swap_remove(index);
        }
        false
    }

    /// When the oldest operation in flight was submitted.
    pub(crate) fn oldest(&self) -> Option<Now> {
        self.in_flight.iter().map(|(_, since)| *since).min()
    }

    /// Journal blocks in flight.
    pub(crate) fn journal_blocks(&self) -> usize {
        self.in_flight.iter().filter(|(op, _)| matches!(op, OpId::Journal(..))).count()
    }

    /// Gives up everything in flight.
    pub(crate) fn abandon(&mut self) {
        self.abandoned.extend(self.in_flight.drain(..).map(|(op, _)| op));
    }

    pub(crate) fn is_abandoned(&self, op: OpId) -> bool {
        self.abandoned.contains(&op)
    }

    pub(crate) fn has_abandoned(&self) -> bool {
        !self.abandoned.is_empty()
    }
}
