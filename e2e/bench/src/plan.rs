//! The cases: which load, on how many shadows, how deep, on which disks, for which systems.

use clap::ValueEnum;
use serde::Serialize;

use crate::bed::{Bed, CHUNK, Drive, MASTER, Medium};
use crate::iolog::{Request, each_chunk, one_per_chunk};
use crate::systems::Kind;

/// Bytes of a request.
const BLOCK: usize = 4096;
/// Requests per device operation's time, of the open loop.
const OPEN_RATE: f64 = 8.0;
/// Threads of the open loop: more than ever wait with a system that keeps up.
pub const OPEN_THREADS: u16 = 128;

/// A load. All write 4 KiB at random places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
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
    /// The first write to each of neighbouring chunks, and then a restore, which is what is measured: operations per
    /// MiB restored.
    Restore,
    /// First writes, and a cut in their midst.
    Cut,
    /// Second writes, and the death of the data plane in their midst.
    Kill,
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
            Load::Restore => "restore, MiB",
            Load::Cut => "cut",
            Load::Kill => "kill -9",
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
        match self.load {
            Load::Restore => each_chunk(count, CHUNK, BLOCK),
            Load::First | Load::FirstSync | Load::FirstOpen | Load::Second | Load::Cut | Load::Kill => {
                one_per_chunk(count, MASTER, CHUNK, BLOCK, self.load == Load::FirstSync)
            }
        }
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

/// The restore.
pub const RESTORE: Case = case(Medium::Virtio, Load::Restore, 32);

/// Requests in flight around a cut and a kill.
pub(crate) const AROUND: u16 = 8;
/// Chunks that these go to.
const CHUNKS: usize = 1500;

/// The entries with these loads, or all where none is named. Raw first writes are always there: they tell whether
/// times mean anything.
#[must_use]
pub fn plan(only: &[Load]) -> Vec<Entry> {
    let mut entries = all();
    entries.retain(|entry| only.is_empty() || only.contains(&entry.case.load) || entry.tells_the_unit());
    for entry in &mut entries {
        if !only.is_empty() && !only.contains(&entry.case.load) {
            entry.systems = &[Kind::Raw];
        }
    }
    entries
}

impl Entry {
    /// Whether raw in this case shows how long a device operation takes.
    #[must_use]
    pub fn tells_the_unit(&self) -> bool {
        self.case.load == Load::First && self.case.depth == 1 && self.systems.contains(&Kind::Raw)
    }
}

fn all() -> Vec<Entry> {
    use Kind::{DmSnapshot, DmThin, Raw, Umbra};
    use Load::{Cut, First, FirstOpen, FirstSync, Kill, Second};
    use Medium::{NullBlk, Virtio};
    let all: &[Kind] = &[Raw, DmSnapshot, DmThin, Umbra];
    let no_pool: &[Kind] = &[Raw, DmSnapshot, Umbra];
    // All chunks: what a restore does once, at its beginning and its end, counts little then.
    let whole = usize::try_from(MASTER / CHUNK).unwrap_or(usize::MAX);
    let entry = |case, systems, counted, timed| Entry { case, systems, counted, timed };
    vec![
        entry(case(Virtio, First, 1), all, 512, 32),
        entry(case(Virtio, First, 32), all, 512, 320),
        entry(case(Virtio, FirstSync, 1), all, 128, 24),
        entry(case(Virtio, FirstOpen, OPEN_THREADS), all, 0, 400),
        entry(case(Virtio, Second, 1), all, 512, 40),
        entry(RESTORE, &[DmSnapshot, Umbra], whole, 0),
        entry(case(Virtio, Cut, AROUND), &[DmSnapshot, DmThin, Umbra], 0, CHUNKS),
        entry(case(Virtio, Kill, AROUND), &[Umbra], 0, CHUNKS),
        entry(FOUR, &[DmSnapshot, Umbra], 512, 24),
        entry(case(NullBlk, First, 1), no_pool, 512, 32),
        entry(case(NullBlk, First, 32), no_pool, 512, 320),
        entry(case(NullBlk, FirstSync, 1), no_pool, 128, 24),
        entry(case(NullBlk, FirstOpen, OPEN_THREADS), no_pool, 0, 400),
        entry(case(NullBlk, Second, 1), no_pool, 512, 40),
        entry(case(NullBlk, Cut, AROUND), &[DmSnapshot, Umbra], 0, CHUNKS),
        entry(case(NullBlk, Kill, AROUND), &[Umbra], 0, CHUNKS),
    ]
}
