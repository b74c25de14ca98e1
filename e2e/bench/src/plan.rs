//! The cases: which load, on how many shadows, how deep, on which disks, for which systems.

use serde::Serialize;

use crate::bed::{Bed, CHUNK, Drive, MASTER, Medium};
use crate::iolog::{Request, one_per_chunk};
use crate::systems::Kind;

/// Bytes of a request.
const BLOCK: usize = 4096;
/// Requests per device operation's time, of the open loop.
const OPEN_RATE: f64 = 8.0;
/// Threads of the open loop: more than ever wait with a system that keeps up.
pub const OPEN_THREADS: u16 = 128;

/// A load. All write 4 KiB at random places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// The first write to each chunk.
    First,
    /// The same, and `fdatasync` after each.
    FirstSync,
    /// The same, at random times whether earlier ones are done or not.
    FirstOpen,
    /// The second write to each chunk: nothing is left to copy.
    Second,
}

impl Load {
    /// In tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Load::First => "first",
            Load::FirstSync => "first+sync",
            Load::FirstOpen => "first open",
            Load::Second => "second",
        }
    }
}

/// A case, for any system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Case {
    /// The disks.
    pub medium: Medium,
    /// What is written.
    pub load: Load,
    /// Shadows of the master.
    pub shadows: usize,
    /// Requests in flight at most.
    pub depth: u16,
}

impl Case {
    /// So many of the case's requests.
    #[must_use]
    pub fn requests(&self, count: usize) -> Vec<Request> {
        one_per_chunk(count, MASTER, CHUNK, BLOCK, self.load == Load::FirstSync)
    }

    /// How they are put on a device.
    #[must_use]
    pub fn drive<'a>(&self, bed: &Bed, requests: &'a [Request]) -> Drive<'a> {
        let per_second = OPEN_RATE * 1000.0 / f64::from(bed.unit_ms());
        let rate = (self.load == Load::FirstOpen).then_some(per_second);
        Drive { rate, ..Drive::closed(requests, self.depth) }
    }
}

/// What to do with a case.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The case.
    pub case: Case,
    /// For whom.
    pub systems: &'static [Kind],
    /// Requests while operations are counted; 0: they are not.
    pub counted: usize,
    /// Requests while each device operation takes its time; 0: none.
    pub timed: usize,
}

/// A case with one shadow.
#[must_use]
pub const fn case(medium: Medium, load: Load, depth: u16) -> Case {
    Case { medium, load, shadows: 1, depth }
}

/// The case with as many shadows as the disks allow.
pub const FOUR: Case = Case { medium: Medium::Virtio, load: Load::First, shadows: 4, depth: 1 };

/// All entries.
#[must_use]
pub fn plan() -> Vec<Entry> {
    use Kind::{DmSnapshot, DmThin, Raw, Umbra};
    use Load::{First, FirstOpen, FirstSync, Second};
    use Medium::{NullBlk, Virtio};
    let all: &[Kind] = &[Raw, DmSnapshot, DmThin, Umbra];
    let no_pool: &[Kind] = &[Raw, DmSnapshot, Umbra];
    let entry = |case, systems, counted, timed| Entry { case, systems, counted, timed };
    vec![
        entry(case(Virtio, First, 1), all, 512, 32),
        entry(case(Virtio, First, 32), all, 512, 320),
        entry(case(Virtio, FirstSync, 1), all, 128, 24),
        entry(case(Virtio, FirstOpen, OPEN_THREADS), all, 0, 400),
        entry(case(Virtio, Second, 1), all, 512, 40),
        entry(FOUR, &[DmSnapshot, Umbra], 512, 24),
        entry(case(NullBlk, First, 1), no_pool, 512, 32),
        entry(case(NullBlk, First, 32), no_pool, 512, 320),
        entry(case(NullBlk, FirstSync, 1), no_pool, 128, 24),
        entry(case(NullBlk, FirstOpen, OPEN_THREADS), no_pool, 0, 400),
        entry(case(NullBlk, Second, 1), no_pool, 512, 40),
    ]
}
