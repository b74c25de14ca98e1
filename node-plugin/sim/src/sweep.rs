//! A crash at every store operation of a scripted life.
//!
//! The life is run once to count its operations; then once for each of them and each kind of crash, which comes with
//! the submission of that operation. Whatever state that leaves must be recovered, and be right. Of some recoveries
//! a second crash takes part, too.

use crate::life::Tally;
use crate::oracle::Side;
use crate::plan::{Ask, Plan, SMALL_BLOCK, SetPlan, Step};
use crate::run::attempt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use umbra_engine::{Geometry, Mode};
use umbra_store::{Cache, Crash, Timing};

/// Chunks of the swept master, the last one short.
const CHUNKS: u64 = 12;
const CHUNK_SECTORS: u64 = 8;

/// What a sweep has found.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Operations of the lives, all together.
    pub operations: u64,
    /// Lives with a crash.
    pub runs: u64,
    /// Crashes in them.
    pub crashes: u64,
    /// One line for each life that went wrong.
    pub violations: Vec<String>,
}

/// Sweeps both modes on volatile, FUA and write-through devices, then siblings of different and of the same mode;
/// only every `stride`th operation crashes.
pub fn sweep(stride: u64, jobs: usize) -> Swept {
    let mut swept = Swept::default();
    for mode in [Mode::Dependent, Mode::Independent] {
        for cache in [Cache::Volatile, Cache::Fua, Cache::WriteThrough] {
            sweep_one(&[mode], cache, stride.max(1), jobs.max(1), &mut swept);
        }
    }
    for modes in [[Mode::Dependent, Mode::Independent], [Mode::Dependent, Mode::Dependent]] {
        sweep_one(&modes, Cache::Volatile, stride.max(1), jobs.max(1), &mut swept);
    }
    swept
}

fn sweep_one(modes: &[Mode], cache: Cache, stride: u64, jobs: usize, swept: &mut Swept) {
    let whole = attempt(&plan(modes, cache, 0), None, false, |_| {});
    if let Err(message) = whole.verdict {
        swept.violations.push(format!("{modes:?} {cache:?} without a crash: {message}"));
        return;
    }
    let operations = whole.tally.scripted;
    swept.operations += operations;
    let next = AtomicU64::new(0);
    let found = Mutex::new((Tally::default(), 0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = 1 + next.fetch_add(1, Ordering::Relaxed) * stride;
                    if at > operations {
                        break;
                    }
                    for crash in [Crash::Kill, Crash::PowerCut { granule: 512 }] {
                        let outcome =
                            attempt(&plan(modes, cache, at), None, false, |life| life.crash_at(at, crash));
                        let mut found = found.lock().expect("no thread panics");
                        found.0.add(&outcome.tally);
                        found.1 += 1;
                        if let Err(message) = outcome.verdict {
                            found
                                .2
                                .push(format!("{modes:?} {cache:?} {crash:?} at operation {at}: {message}"));
                        }
                    }
                }
            });
        }
    });
    let (tally, runs, violations) = found.into_inner().expect("no thread panics");
    swept.crashes += tally.crashes;
    swept.runs += runs;
    swept.violations.extend(violations);
}

/// The scripted life. The seed decides in which order things land, so each crash finds another state.
fn plan(modes: &[Mode], cache: Cache, seed: u64) -> Plan {
    let bytes = (CHUNKS * CHUNK_SECTORS - 3) * 512;
    let set = |mode: &Mode| SetPlan {
        mode: *mode,
        caches: [cache; 2],
        blocks: [SMALL_BLOCK; 2],
        ring_blocks: 8,
        head_bytes: 2 * CHUNK_SECTORS * 512,
        fail_write: false,
    };
    Plan {
        seed,
        geometry: Geometry::new(bytes, CHUNK_SECTORS * 512).expect("a possible geometry"),
        cache,
        block: SMALL_BLOCK,
        queue: None,
        timing: Timing { effect: 2, completion: 2, slow: 20, late: u64::MAX },
        sets: modes.iter().map(set).collect(),
        write_buffers: 3,
        copier_buffers: 2,
        buffer_chunks: 2,
        overlaps: false,
        // A second crash within recovery, for a sample.
        crash_in_recovery: if seed.is_multiple_of(5) { 400 } else { 0 },
        rot_at_start: 0,
        read_after_recovery: 1000,
        script: if modes.len() == 1 { alone() } else { siblings() },
    }
}

fn write(side: Side, first: u64, count: u64) -> Step {
    Step::Request { side, ask: Ask::Write { fua: false }, first, count }
}

fn flush(side: Side) -> Step {
    Step::Request { side, ask: Ask::Flush, first: 0, count: 1 }
}

fn read(side: Side) -> Step {
    Step::Request { side, ask: Ask::Read, first: 0, count: 64 }
}

/// Each chunk by itself: more records than the ring has blocks, so that it is checkpointed and wraps.
fn first_writes() -> impl Iterator<Item = Step> {
    let one = |chunk| [write(Side::Master, chunk * CHUNK_SECTORS + chunk % 5, 2), Step::Turns(4)];
    (0..CHUNKS).flat_map(one)
}

const SHADOW: Side = Side::Shadow(0);
const SIBLING: Side = Side::Shadow(1);

fn cut(set: u8) -> Step {
    Step::Cut { set, update: false }
}

fn update(set: u8) -> Step {
    Step::Cut { set, update: true }
}

fn together(restore: bool) -> Step {
    Step::Group { sets: 3, update: true, restore }
}

fn restore(set: u8) -> Step {
    Step::Restore { set, update: true }
}

fn disable(set: u8) -> Step {
    Step::Disable { set, force: true }
}

/// One set: enabled, cut under load, written to from both sides, updated, aborted, detached, disabled, enabled.
fn alone() -> Vec<Step> {
    let mut script = vec![write(Side::Master, 0, 20), flush(Side::Master), Step::Turns(6), Step::Enable(0)];
    script.extend([write(Side::Master, 24, 8), cut(0), write(Side::Master, 41, 3)]);
    script.extend(first_writes());
    script.extend([write(SHADOW, 3, 2), write(SHADOW, 32, 8), Step::Turns(8), read(SHADOW), flush(SHADOW)]);
    script.extend([Step::Settle, write(Side::Master, 8, 4), write(SHADOW, 9, 3), Step::Turns(12)]);
    script.extend([update(0), write(Side::Master, 60, 4), Step::Turns(10), Step::Abort(0)]);
    script.extend(first_writes());
    script.extend([Step::Resume(0), Step::Settle, write(SHADOW, 50, 8), Step::Detach]);
    script.extend([write(Side::Master, 70, 8), write(SHADOW, 71, 2), Step::Turns(10)]);
    script.extend(restored());
    script.extend([disable(0), Step::Settle, Step::Enable(0), cut(0)]);
    script.extend([write(Side::Master, 5, 1), Step::Turns(20)]);
    script
}

/// A slow restore, used from both sides while it runs.
fn restored() -> Vec<Step> {
    let mut script = vec![Step::Settle, Step::Limit(0, Some(2)), restore(0), Step::Turns(8)];
    script.extend([write(Side::Master, 33, 2), read(SHADOW), write(SHADOW, 66, 8), Step::Turns(10)]);
    script.extend([write(Side::Master, 64, 16), flush(Side::Master), Step::Abort(0), read(Side::Master)]);
    script.extend([
        Step::Turns(10),
        Step::Resume(0),
        Step::Limit(0, None),
        Step::Settle,
        write(SHADOW, 1, 3),
    ]);
    script.extend([write(Side::Master, 12, 9), Step::Turns(8), flush(Side::Master)]);
    script
}

/// Two sets of one master: the second comes while the first is in use, each is cut while the other copies, one ends
/// and comes back beside the other.
fn siblings() -> Vec<Step> {
    let mut script = vec![write(Side::Master, 0, 20), Step::Turns(6), Step::Enable(0), cut(0)];
    script.extend([write(Side::Master, 24, 8), write(Side::Master, 41, 3), Step::Turns(5), Step::Enable(1)]);
    script.extend([write(SHADOW, 24, 3), cut(1), write(Side::Master, 26, 2), write(Side::Master, 3, 3)]);
    script.extend(first_writes());
    script.extend([write(SHADOW, 3, 2), write(SIBLING, 4, 9), Step::Turns(8), read(SHADOW), read(SIBLING)]);
    script.extend([flush(SIBLING), Step::Settle, write(Side::Master, 8, 4), write(SIBLING, 9, 3)]);
    script.extend([update(0), update(1), write(Side::Master, 60, 4), Step::Turns(10)]);
    script.extend(first_writes());
    script.extend(restored());
    script.extend([
        update(1),
        write(Side::Master, 16, 8),
        write(SHADOW, 17, 2),
        Step::Turns(9),
        Step::Detach,
    ]);
    script.extend([write(Side::Master, 70, 8), write(SIBLING, 71, 2), together(false), Step::Turns(9)]);
    script.extend(first_writes());
    // A restore, with the sibling's new image as its safety.
    script.extend([write(SHADOW, 40, 9), Step::Settle, together(true), Step::Turns(8)]);
    script.extend([write(Side::Master, 36, 9), read(SIBLING), Step::Settle, disable(0)]);
    script.extend([write(Side::Master, 50, 8), Step::Settle, Step::Enable(0), cut(0)]);
    script.extend([write(Side::Master, 5, 1), write(Side::Master, 33, 1), Step::Turns(20)]);
    script
}
