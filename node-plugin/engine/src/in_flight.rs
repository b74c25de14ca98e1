//! How many operations a device can have at a time: what a store that refuses one of fewer would make of a device
//! that has done nothing wrong.
//!
//! Nothing here is held back for the sake of a store. Requests are bounded by their numbers, copies by their buffers, and
//! the rest by constants; a store that takes this much need not refuse any.

use crate::checkpoint::PAGES_IN_FLIGHT_MAX;
use crate::durable::BLOCKS_IN_FLIGHT_MAX;
use crate::owner::Limits;
use crate::port::{MORE_DISCARDS_MAX, MORE_READS_MAX};

/// Superblocks, labels, heads, and flushes of the engine's own, also those whose gate has opened since.
const OTHERS: usize = 16;

/// Operations of one device at a time, by what a store bounds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Reads and writes.
    pub transfers: usize,
    /// Flushes, discards and write-zeroes.
    pub blocking: usize,
}

impl Limits {
    /// On the master's device, with at most `depth` requests of the presented master. Every read through a shadow comes
    /// here as well while what it reads is not held.
    pub fn in_flight_on_master(&self, depth: usize) -> InFlight {
        InFlight {
            transfers: self.requests + MORE_READS_MAX + self.copies() + OTHERS,
            blocking: depth + MORE_DISCARDS_MAX + OTHERS,
        }
    }

    /// On a shadow or a bitmap volume, with at most `depth` requests of each presented device: while a restore runs, those
    /// of the master come here as well.
    pub fn in_flight_on_side(&self, depth: usize) -> InFlight {
        let requests = self.requests.min(2 * depth);
        let journal = BLOCKS_IN_FLIGHT_MAX + PAGES_IN_FLIGHT_MAX;
        InFlight {
            transfers: requests + MORE_READS_MAX + self.copies() + journal + OTHERS,
            blocking: requests + OTHERS,
        }
    }

    fn copies(&self) -> usize {
        usize::from(self.write_buffers) + usize::from(self.copier_buffers)
    }
}
