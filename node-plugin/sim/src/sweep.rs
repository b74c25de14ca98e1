//! A crash at every store operation of a scripted life.
//!
//! The life is run once to count its operations; then once for each of them and each kind of crash, which comes with
//! the submission of that operation. Whatever state that leaves must be recovered, and be right. Of some recoveries
//! a second crash takes part, too.

use crate::life::Tally;
use crate::oracle::Side;
use crate::plan::{Ask, Plan, Step};
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

/// Sweeps both modes on volatile, FUA and write-through devices; only every `stride`th operation crashes.
pub fn sweep(stride: u64, jobs: usize) -> Swept {
    let mut swept = Swept::default();
    for mode in [Mode::Dependent, Mode::Independent] {
        for cache in [Cache::Volatile, Cache::Fua, Cache::WriteThrough] {
            sweep_one(mode, cache, stride.max(1), jobs.max(1), &mut swept);
        }
    }
    swept
}

fn sweep_one(mode: Mode, cache: Cache, stride: u64, jobs: usize, swept: &mut Swept) {
    let whole = attempt(&plan(mode, cache, 0), None, false, |_| {});
    if let Err(message) = whole.verdict {
        swept.violations.push(format!("{mode:?} {cache:?} without a crash: {message}"));
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
                            attempt(&plan(mode, cache, at), None, false, |life| life.crash_at(at, crash));
                        let mut found = found.lock().expect("no thread panics");
                        found.0.add(&outcome.tally);
                        found.1 += 1;
                        if let Err(message) = outcome.verdict {
                            found
                                .2
                                .push(format!("{mode:?} {cache:?} {crash:?} at operation {at}: {message}"));
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
fn plan(mode: Mode, cache: Cache, seed: u64) -> Plan {
    let bytes = (CHUNKS * CHUNK_SECTORS - 3) * 512;
    Plan {
        seed,
        geometry: Geometry::new(bytes, CHUNK_SECTORS * 512).expect("a possible geometry"),
        mode,
        caches: [cache; 3],
        timing: Timing { effect: 2, completion: 2, slow: 20 },
        ring_blocks: 8,
        head_bytes: 2 * CHUNK_SECTORS * 512,
        write_buffers: 3,
        copier_buffers: 2,
        buffer_chunks: 2,
        fail_write: false,
        overlaps: false,
        // A second crash within recovery, for a sample.
        crash_in_recovery: if seed.is_multiple_of(5) { 400 } else { 0 },
        read_after_recovery: 1000,
        script: script(),
    }
}

fn script() -> Vec<Step> {
    let mut script = Vec::new();
    let write = |side, first, count| Step::Request { side, ask: Ask::Write { fua: false }, first, count };
    let flush = |side| Step::Request { side, ask: Ask::Flush, first: 0, count: 1 };
    let first_writes = |script: &mut Vec<Step>| {
        // Each chunk by itself: more records than the ring has blocks, so that it is checkpointed and wraps.
        for chunk in 0..CHUNKS {
            script.push(write(Side::Master, chunk * CHUNK_SECTORS + chunk % 5, 2));
            script.push(Step::Turns(4));
        }
    };
    script.extend([write(Side::Master, 0, 20), flush(Side::Master), Step::Turns(6), Step::Enable]);
    // The cut is taken under load.
    script.extend([write(Side::Master, 24, 8), Step::Cut { update: false }, write(Side::Master, 41, 3)]);
    first_writes(&mut script);
    script.extend([write(Side::Shadow, 3, 2), write(Side::Shadow, 32, 8), Step::Turns(8)]);
    script.extend([
        Step::Request { side: Side::Shadow, ask: Ask::Read, first: 0, count: 64 },
        flush(Side::Shadow),
    ]);
    script.extend([Step::Settle, write(Side::Master, 8, 4), write(Side::Shadow, 9, 3), Step::Turns(12)]);
    script.extend([Step::Cut { update: true }, write(Side::Master, 60, 4), Step::Turns(10), Step::Abort]);
    first_writes(&mut script);
    script.extend([Step::Resume, Step::Settle, write(Side::Shadow, 50, 8), Step::Detach]);
    script.extend([write(Side::Master, 70, 8), write(Side::Shadow, 71, 2), Step::Turns(10)]);
    script.extend([Step::Disable { force: true }, Step::Settle, Step::Enable, Step::Cut { update: false }]);
    script.extend([write(Side::Master, 5, 1), Step::Turns(20)]);
    script
}
