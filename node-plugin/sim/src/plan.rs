//! From a seed to a plan: the devices, their temper, and an explicit script.
//!
//! The script comes first and is only data, so that a failing one can be shortened by leaving steps out. Each seed
//! switches some kinds of events off altogether (swarm): what is rare among everything is common somewhere.

mod generate;

use crate::oracle::{SETS_MAX, SHADOW_NAMES, SetNumber, Side};
use generate::{RINGS, any_cache, choose_blocks, choose_bounds, choose_damage, geometry, script, sibling};
use umbra_engine::{Geometry, Mode};
use umbra_store::{Cache, Crash, Faults, SimRng, Timing};

/// Polls after which an operation may have missed its deadline: idle turns take twenty milliseconds.
const LATE: u64 = 15;
/// The usual logical block.
pub const SMALL_BLOCK: u32 = 512;
/// The other one.
pub const LARGE_BLOCK: u32 = 4096;
/// Names of the bitmap volumes.
const BITMAP_NAMES: [&str; SETS_MAX] = [
    "bitmap 0",
    "bitmap 1",
    "bitmap 2",
    "bitmap 3",
    "bitmap 4",
    "bitmap 5",
    "bitmap 6",
    "bitmap 7",
    "bitmap 8",
    "bitmap 9",
    "bitmap 10",
    "bitmap 11",
    "bitmap 12",
    "bitmap 13",
    "bitmap 14",
    "bitmap 15",
];

/// One of the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The physical master.
    Master,
    /// The shadow of a set.
    Shadow(SetNumber),
    /// The bitmap volume of a set.
    Bitmap(SetNumber),
}

impl Disk {
    /// Its place among all disks: the master, then two for each set.
    pub fn index(self) -> usize {
        match self {
            Self::Master => 0,
            Self::Shadow(set) => 1 + 2 * usize::from(set),
            Self::Bitmap(set) => 2 + 2 * usize::from(set),
        }
    }

    /// All disks of a master with so many sets, in that order.
    pub fn all(sets: usize) -> impl Iterator<Item = Self> {
        let of = |set| [Self::Shadow(set), Self::Bitmap(set)];
        std::iter::once(Self::Master).chain((0..).take(sets).flat_map(of))
    }

    /// What it is called in a trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Shadow(set) => SHADOW_NAMES[usize::from(set)],
            Self::Bitmap(set) => BITMAP_NAMES[usize::from(set)],
        }
    }

    /// The set that it belongs to.
    pub fn set(self) -> Option<SetNumber> {
        match self {
            Self::Master => None,
            Self::Shadow(set) | Self::Bitmap(set) => Some(set),
        }
    }
}

/// A part of a set's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// The superblock.
    Slot,
    /// The journal.
    Journal,
    /// The planes.
    Page,
    /// The shadow's first bytes.
    Head,
    /// What stands on the shadow in their place.
    Label,
}

impl Area {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Slot, Self::Journal, Self::Page, Self::Head, Self::Label];
}

/// What the workload asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read.
    Read,
    /// Write.
    Write {
        /// Durable on completion.
        fua: bool,
    },
    /// Write zeros.
    Zeroes {
        /// Durable on completion.
        fua: bool,
    },
    /// Discard; of the master only.
    Discard,
    /// Flush.
    Flush,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A request is issued; the script goes on while it is in flight.
    Request {
        /// Where.
        side: Side,
        /// What.
        ask: Ask,
        /// First sector.
        first: u64,
        /// Sectors.
        count: u64,
    },
    /// So many turns of the machine's loop.
    Turns(u32),
    /// Turns until nothing is in flight.
    Settle,
    /// Settle, then read both sides.
    ReadOut,
    /// Prepare a set, if it is not there.
    Enable(SetNumber),
    /// A cut. The shadow's requests are drained first and none is issued until the answer.
    Cut {
        /// Of this set.
        set: SetNumber,
        /// Only what may differ.
        update: bool,
    },
    /// A restore. Requests of the master and of the shadow are drained first and none is issued until the answer.
    Restore {
        /// From this set.
        set: SetNumber,
        /// Only what may differ.
        update: bool,
    },
    /// A cut over several sets at one instant.
    Group {
        /// These sets, as bits.
        sets: u16,
        /// Only what may differ.
        update: bool,
        /// The first is restored from, with the others as its safety.
        restore: bool,
    },
    /// Stop the copier.
    Abort(SetNumber),
    /// Let it go on.
    Resume(SetNumber),
    /// Chunks per tenth of a second that the copier may copy; none: no limit.
    Limit(SetNumber, Option<u64>),
    /// End a set.
    Disable {
        /// This one.
        set: SetNumber,
        /// Also while it is copying.
        force: bool,
    },
    /// Close everything in order and start again.
    Detach,
    /// Crash when so many more store operations have been submitted; 0: now.
    Crash {
        /// Operations to come.
        after: u64,
        /// How.
        crash: Crash,
    },
    /// From now on a device has these faults.
    Faults(Disk, Faults),
    /// A block of this area of a set rots.
    Rot {
        /// Of this set.
        set: SetNumber,
        /// Where.
        area: Area,
        /// Decides which block, and how.
        pick: u64,
    },
    /// The next write of metadata of a set lands on a block of this area.
    Stray {
        /// Of this set.
        set: SetNumber,
        /// Where.
        area: Area,
        /// Decides which block.
        pick: u64,
    },
    /// The state directory fails so many of 1000 writes.
    NoteFaults(u32),
    /// All faults end, and what hangs goes on.
    Heal,
}

impl Step {
    /// The set that the step is about, if it is about one.
    pub fn set(self) -> Option<SetNumber> {
        match self {
            Self::Request { side: Side::Shadow(set), .. }
            | Self::Enable(set)
            | Self::Cut { set, .. }
            | Self::Restore { set, .. }
            | Self::Abort(set)
            | Self::Resume(set)
            | Self::Limit(set, _)
            | Self::Disable { set, .. }
            | Self::Rot { set, .. }
            | Self::Stray { set, .. } => Some(set),
            Self::Faults(disk, _) => disk.set(),
            Self::Request { side: Side::Master, .. }
            | Self::Turns(_)
            | Self::Settle
            | Self::ReadOut
            | Self::Group { .. }
            | Self::Detach
            | Self::Crash { .. }
            | Self::NoteFaults(_)
            | Self::Heal => None,
        }
    }
}

/// One of the sets that the master may have.
#[derive(Clone, Copy, Debug)]
pub struct SetPlan {
    /// Dependent or independent.
    pub mode: Mode,
    /// Caches of shadow and bitmap volume.
    pub caches: [Cache; 2],
    /// Their logical blocks. With those of the bitmap volume larger than the master's the set cannot be enabled.
    pub blocks: [u32; 2],
    /// Blocks of the journal ring.
    pub ring_blocks: u64,
    /// Bytes of the head that is kept on the bitmap volume.
    pub head_bytes: u64,
    /// Whether master writes fail when nothing can be recorded, instead of waiting.
    pub fail_write: bool,
}

/// How many operations a device takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Reads and writes.
    pub transfers: u16,
    /// Flushes, discards and write-zeroes.
    pub blocking: u16,
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed; also of everything that is random while the script runs.
    pub seed: u64,
    /// Size and chunks of the master.
    pub geometry: Geometry,
    /// Cache of the master.
    pub cache: Cache,
    /// Its logical block, of which the workload's requests are, but for those that must be refused.
    pub block: u32,
    /// How much the devices take at a time; none: whatever there is.
    pub queue: Option<Bounds>,
    /// How slow the devices are.
    pub timing: Timing,
    /// The sets, by number; at most [`SETS_MAX`].
    pub sets: Vec<SetPlan>,
    /// Copy buffers for first writes.
    pub write_buffers: u16,
    /// Copy buffers of the copier.
    pub copier_buffers: u16,
    /// Chunks in a copy buffer.
    pub buffer_chunks: u64,
    /// Whether a new write may overlap one in flight.
    pub overlaps: bool,
    /// Of a thousand recoveries so many crash.
    pub crash_in_recovery: u32,
    /// Before a thousand starts of a set a block of its metadata has rotted so many times.
    pub rot_at_start: u32,
    /// Of a thousand recoveries so many are followed by a read-out.
    pub read_after_recovery: u32,
    /// What happens.
    pub script: Vec<Step>,
}

impl Plan {
    /// The plan of a seed: of three in a row the first has one set, the next two, then three. One in four is a storm:
    /// slow devices, few buffers, small rings, and trouble that comes together. One in 97 has as many sets as there
    /// can be. Of one in five the master has logical blocks of 4 KiB, each of its volumes those or smaller ones. Of one
    /// in four metadata rots and writes of it go astray. Of one in five the devices take few operations at a time.
    pub fn of(seed: u64) -> Self {
        let rng = &mut SimRng::new(seed);
        let mut more = SimRng::new(seed ^ 0x5e75);
        let (storm, crowd) = (seed % 4 == 3, seed % 97 == 50);
        let siblings = if crowd { SETS_MAX - 1 } else { usize::try_from(seed % 3).unwrap_or(0) };
        let mode = if rng.chance(500) { Mode::Dependent } else { Mode::Independent };
        let geometry = geometry(rng, mode);
        let head_chunks = rng.range(1, 4).min(geometry.chunk_count());
        let [cache, shadow, bitmap] = [(); 3].map(|()| any_cache(rng));
        let timing = Timing {
            effect: rng.range(1, 5),
            completion: rng.range(1, 4),
            slow: rng.pick(&[0, 10, 50]),
            late: u64::MAX,
        };
        let first = SetPlan {
            mode,
            caches: [shadow, bitmap],
            blocks: [SMALL_BLOCK; 2],
            ring_blocks: rng.pick(&RINGS),
            head_bytes: head_chunks * geometry.chunk_bytes(),
            fail_write: false,
        };
        let mut plan = Self {
            seed,
            geometry,
            cache,
            block: SMALL_BLOCK,
            queue: None,
            timing,
            sets: vec![first],
            write_buffers: u16::try_from(rng.range(1, 6)).unwrap_or(1),
            copier_buffers: u16::try_from(rng.range(1, 4)).unwrap_or(1),
            buffer_chunks: rng.range(1, 4),
            overlaps: false,
            crash_in_recovery: 0,
            rot_at_start: 0,
            read_after_recovery: 0,
            script: Vec::new(),
        };
        plan.sets[0].fail_write = rng.chance(200);
        plan.overlaps = rng.chance(250);
        plan.crash_in_recovery = rng.pick(&[0, 0, 200, 500]);
        plan.read_after_recovery = rng.pick(&[0, 700, 1000]);
        plan.sets.extend((0..siblings).map(|_| sibling(&mut more, &geometry)));
        if geometry.chunk_count() > 1000 {
            plan.buffer_chunks = 256;
        }
        if storm {
            plan.timing.late = LATE;
            if rng.chance(500) {
                // So slow that deadlines are missed at any moment.
                let (effect, completion) = (rng.range(2, 8), rng.range(1, 8));
                plan.timing = Timing { effect, completion, slow: rng.pick(&[20, 100]), late: LATE };
            }
            (plan.write_buffers, plan.copier_buffers) = (1 + u16::from(rng.chance(500)), 1);
            plan.sets.iter_mut().for_each(|set| set.ring_blocks = 8);
        }
        plan.script = script(rng, more, &geometry, plan.sets.len(), storm);
        choose_blocks(&mut plan, &mut SimRng::new(seed ^ 0xb10c));
        choose_damage(&mut plan, &mut SimRng::new(seed ^ 0xdeca));
        if !storm {
            choose_bounds(&mut plan, &mut SimRng::new(seed ^ 0x9e0e));
        }
        plan
    }
}
