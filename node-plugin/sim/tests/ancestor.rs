//! Defects that the ancestor of this system seems to have, as far as its modes exist here: each by a script that the
//! engine survives, and that finds the fault when the engine behaves like the ancestor.

use umbra_engine::mutation::Rule;
use umbra_engine::{Geometry, Mode};
use umbra_sim::oracle::Side::{self, Master};
use umbra_sim::plan::{Ask, Disk, Plan, SMALL_BLOCK, SetPlan, Step};
use umbra_sim::run::{attempt, on_panic};
use umbra_store::{Cache, Faults, Timing};

const SEEDS: u64 = 200;
const SHADOW: Side = Side::Shadow(0);
const RESTORE: Step = Step::Restore { set: 0, update: true };

fn write(side: Side, first: u64, count: u64) -> Step {
    Step::Request { side, ask: Ask::Write { fua: false }, first, count }
}

fn read(side: Side, first: u64, count: u64) -> Step {
    Step::Request { side, ask: Ask::Read, first, count }
}

fn cut(update: bool) -> Step {
    Step::Cut { set: 0, update }
}

/// On some every step counts, on others those are the fewest.
fn cache(seed: u64) -> Cache {
    if seed.is_multiple_of(2) { Cache::Volatile } else { Cache::WriteThrough }
}

fn plan(seed: u64, mode: Mode, script: &[Step]) -> Plan {
    let set = SetPlan {
        mode,
        caches: [cache(seed); 2],
        blocks: [SMALL_BLOCK; 2],
        ring_blocks: 16,
        head_bytes: 2 << 12,
        fail_write: false,
    };
    Plan {
        seed,
        geometry: Geometry::new(21 << 12, 1 << 12).expect("a possible geometry"),
        cache: cache(seed),
        block: SMALL_BLOCK,
        queue: None,
        sets: vec![set],
        timing: Timing { effect: 1 + seed % 5, completion: 1 + seed % 3, slow: 100, late: u64::MAX },
        write_buffers: 3,
        copier_buffers: 2,
        buffer_chunks: 2,
        overlaps: false,
        crash_in_recovery: 0,
        rot_at_start: 0,
        read_after_recovery: 1000,
        script: script.to_vec(),
    }
}

/// The engine survives the script with every seed; without `rule`, as the ancestor was, it does not with some.
fn only_the_ancestor_fails(rule: Rule, mode: Mode, script: &[Step]) {
    on_panic(|_, _| {});
    for seed in 0..SEEDS {
        let outcome = attempt(&plan(seed, mode, script), None, false, |_| {});
        assert_eq!(outcome.verdict, Ok(()), "seed {seed}");
    }
    let fails = |seed| attempt(&plan(seed, mode, script), Some(rule), false, |_| {}).verdict.is_err();
    assert!((0..SEEDS).any(fails), "{rule:?} is not seen by this script");
}

/// Defect 1: a write that was past its copy but not on the disk when the bitmaps flipped was not drained.
#[test]
fn writes_in_flight_are_on_one_side_of_a_cut() {
    let mut script = vec![Step::Enable(0), cut(false), Step::Settle];
    for round in 0..4 {
        // Second writes: they are past their copies.
        script.extend([write(Master, 0, 160), Step::Settle]);
        for chunk in 0..12 {
            script.extend([write(Master, chunk * 8 + round, 3), Step::Turns(1)]);
        }
        script.push(cut(true));
        // Early and late: an image that changes in between has been written to after its instant.
        script.extend((0..12).flat_map(|_| [Step::Turns(2), read(SHADOW, 0, 96)]));
        script.extend([Step::Settle, Step::ReadOut]);
    }
    only_the_ancestor_fails(Rule::DrainBeforeFlip, Mode::Dependent, &script);
}

/// Defect 2: while a dependent set was restored, a shadow read of a chunk not copied yet was answered from the master
/// before the restore, and a write to a chunk that the restore did not concern left its image without a copy.
#[test]
fn a_restore_of_a_dependent_set_shows_both_sides_what_they_are() {
    let mut script = vec![Step::Enable(0), cut(false), write(Master, 0, 60), Step::Settle];
    script.extend([write(SHADOW, 9, 4), Step::Settle, Step::Limit(0, Some(1)), RESTORE, Step::Turns(20)]);
    for chunk in 0..16 {
        script.extend([
            read(SHADOW, chunk * 8, 8),
            read(Master, chunk * 8, 8),
            write(Master, chunk * 8 + 2, 2),
        ]);
        script.push(Step::Turns(6));
    }
    script.extend([Step::Limit(0, None), Step::Settle, Step::ReadOut]);
    only_the_ancestor_fails(Rule::HeldInRestore, Mode::Dependent, &script);
}

/// Defect 7: a chunk whose old data could not be kept came back as something else.
#[test]
fn what_is_lost_stays_lost() {
    let broken = Faults { read: 0, write: 1000, flush: 0, drop_cache: true, hang: 0 };
    let mut script = vec![Step::Enable(0), cut(false), Step::Settle, Step::Faults(Disk::Shadow(0), broken)];
    script.extend([write(Master, 40, 8), Step::Settle, Step::Heal, Step::ReadOut]);
    script.extend([write(Master, 41, 2), Step::Settle, Step::Detach, Step::ReadOut]);
    only_the_ancestor_fails(Rule::LostMark, Mode::Dependent, &script);
}
