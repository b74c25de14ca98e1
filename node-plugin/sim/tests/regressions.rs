//! What the simulator has found in engine and recovery, each by the shortened script that showed it.
//!
//! Every script is run with many seeds: which order it takes to fail is not pinned, so that a change of the
//! simulator does not silently turn a regression test into none.

use umbra_engine::mutation::Rule;
use umbra_engine::{Geometry, Mode};
use umbra_sim::oracle::Side::{self, Master};
use umbra_sim::plan::{Area, Ask, Disk, LARGE_BLOCK, Plan, SMALL_BLOCK, SetPlan, Step};
use umbra_sim::run::{attempt, on_panic};
use umbra_store::{Cache, Crash, Faults, Timing};

const SEEDS: u64 = 150;
const NONE: Faults = Faults { read: 0, write: 0, flush: 0, drop_cache: true, hang: 0 };

fn write(side: Side, first: u64, count: u64) -> Step {
    Step::Request { side, ask: Ask::Write { fua: false }, first, count }
}

fn flush(side: Side) -> Step {
    Step::Request { side, ask: Ask::Flush, first: 0, count: 1 }
}

const SHADOW: Side = Side::Shadow(0);
const ENABLE: Step = Step::Enable(0);
const CUT: Step = Step::Cut { set: 0, update: false };
const UPDATE: Step = Step::Cut { set: 0, update: true };

fn disable(force: bool) -> Step {
    Step::Disable { set: 0, force }
}

/// Runs a script with many seeds, on a master of 21 chunks with one set.
fn never_fails(mode: Mode, caches: [Cache; 3], script: &[Step]) {
    let [master, shadow, bitmap] = caches;
    never_fails_with(master, &[set(mode, [shadow, bitmap])], script);
}

/// A set with a ring of 8 blocks.
fn set(mode: Mode, caches: [Cache; 2]) -> SetPlan {
    SetPlan { mode, caches, blocks: [SMALL_BLOCK; 2], ring_blocks: 8, head_bytes: 3 << 12, fail_write: false }
}

fn never_fails_with(cache: Cache, sets: &[SetPlan], script: &[Step]) {
    never_fails_in_blocks(SMALL_BLOCK, cache, sets, script);
}

fn never_fails_in_blocks(block: u32, cache: Cache, sets: &[SetPlan], script: &[Step]) {
    on_panic(|_, _| {});
    for seed in 0..SEEDS {
        let verdict = attempt(&plan(seed, block, cache, sets, script), None, false, |_| {}).verdict;
        assert_eq!(verdict, Ok(()), "seed {seed}");
    }
}

/// Whether some seed shows that a rule of the engine is switched off.
fn is_missed(rule: Rule, cache: Cache, sets: &[SetPlan], script: &[Step]) -> bool {
    on_panic(|_, _| {});
    let fails =
        |seed| attempt(&plan(seed, SMALL_BLOCK, cache, sets, script), Some(rule), false, |_| {}).verdict;
    (0..SEEDS).any(|seed| fails(seed).is_err())
}

fn plan(seed: u64, block: u32, cache: Cache, sets: &[SetPlan], script: &[Step]) -> Plan {
    Plan {
        seed,
        geometry: Geometry::new(21 << 12, 1 << 12).expect("a possible geometry"),
        cache,
        block,
        queue: None,
        sets: sets.to_vec(),
        timing: Timing { effect: 1 + seed % 4, completion: 1 + seed % 3, slow: 20, late: u64::MAX },
        write_buffers: 3,
        copier_buffers: 2,
        buffer_chunks: 1 + seed % 3,
        overlaps: false,
        crash_in_recovery: 0,
        rot_at_start: 0,
        read_after_recovery: 1000,
        script: script.to_vec(),
    }
}

const VOLATILE: [Cache; 3] = [Cache::Volatile; 3];

/// E6: a head that was read before the deadline and came back after it was written over the next image's.
#[test]
fn a_head_that_is_moved_too_late_does_not_reach_the_next_image() {
    let hang = |hang| Step::Faults(Disk::Shadow(0), Faults { hang, ..NONE });
    let mut script = vec![ENABLE, CUT, Step::Settle];
    script.extend([Step::Turns(60), Step::Turns(60), write(Master, 1, 3), write(Master, 9, 3), Step::Settle]);
    // The head of the complete shadow is to be moved out, hangs, and is given up.
    script.extend([
        hang(1000),
        UPDATE,
        Step::Settle,
        hang(0),
        UPDATE,
        Step::Settle,
        Step::Abort(0),
        Step::Settle,
    ]);
    script.extend([write(Master, 0, 24), Step::Settle, Step::Heal, Step::Turns(40), Step::ReadOut]);
    never_fails(Mode::Independent, [Cache::Volatile, Cache::WriteThrough, Cache::Volatile], &script);
}

/// A cut of unknown outcome gave its epoch up; a disable that failed made the engine forget that, and the next cut
/// used the number again: its image was taken for ended at the next start.
#[test]
fn an_epoch_that_was_given_up_is_not_used_again() {
    let broken = Faults { flush: 1000, hang: 100, ..NONE };
    for steps in [
        [ENABLE, CUT, Step::Faults(Disk::Bitmap(0), broken), disable(false), Step::Turns(9)],
        [ENABLE, Step::Faults(Disk::Bitmap(0), broken), CUT, disable(true), Step::Settle],
        [ENABLE, CUT, Step::Settle, Step::Faults(Disk::Bitmap(0), broken), UPDATE],
    ] {
        let crash = Step::Crash { after: 0, crash: Crash::PowerCut { granule: 512 } };
        let after = [Step::Turns(12), Step::Heal, Step::Settle, CUT, Step::Settle, crash, Step::ReadOut];
        never_fails(
            Mode::Dependent,
            [Cache::Volatile, Cache::Fua, Cache::Volatile],
            &[&steps[..], &after].concat(),
        );
    }
}

/// E8: a ring full of blocks that wait for data which cannot be written had no place for the record that says so.
#[test]
fn a_ring_that_stalls_fails_the_bitmap_volume_within_its_deadline() {
    let failing = Step::Faults(Disk::Shadow(0), Faults { read: 150, write: 1000, hang: 150, ..NONE });
    let mut script = vec![ENABLE, CUT, write(Master, 8, 1), Step::Turns(11), write(Master, 80, 1), failing];
    script.extend([write(Master, 18, 1), write(Master, 31, 2), Step::Turns(6), write(SHADOW, 120, 24)]);
    script.extend([Step::Turns(11), Step::Turns(11), write(Master, 140, 20), Step::Turns(20)]);
    never_fails(Mode::Dependent, VOLATILE, &script);
}

/// E8: the workload's own flush of the shadow failed, the next one seemed to succeed, and what the first had
/// dropped was gone.
#[test]
fn a_flush_that_fails_is_a_failed_device_whoever_asked_for_it() {
    let mut script = vec![ENABLE, CUT, Step::Settle, write(SHADOW, 8, 1), write(SHADOW, 70, 8), Step::Settle];
    script.extend([write(SHADOW, 8, 1), write(SHADOW, 72, 4), Step::Settle]);
    script.extend([
        Step::Faults(Disk::Shadow(0), Faults { flush: 1000, ..NONE }),
        flush(SHADOW),
        Step::Turns(9),
    ]);
    script.extend([Step::Faults(Disk::Shadow(0), Faults::default()), flush(SHADOW), Step::Settle]);
    script.push(Step::Crash { after: 0, crash: Crash::PowerCut { granule: 512 } });
    script.push(Step::ReadOut);
    for mode in [Mode::Dependent, Mode::Independent] {
        never_fails(mode, VOLATILE, &script);
    }
}

/// Invariant 1: a cut whose superblock was still queued when the bitmap volume failed was forgotten with it, and
/// the gate stayed closed to the master for ever.
#[test]
fn a_cut_behind_a_bitmap_volume_that_fails_is_answered() {
    let mut script = vec![ENABLE, CUT, Step::Settle, write(Master, 0, 8), Step::Settle];
    // The shadow ends; the second slot of the superblock that says so hangs, and a reset waits behind it.
    script.push(Step::Faults(Disk::Shadow(0), Faults { flush: 1000, ..NONE }));
    script.push(Step::Faults(Disk::Bitmap(0), Faults { hang: 300, ..NONE }));
    script.extend([
        flush(SHADOW),
        Step::Turns(14),
        CUT,
        Step::Turns(4),
        write(Master, 3, 3),
        Step::Turns(60),
    ]);
    script.extend([Step::Settle, Step::Heal, write(Master, 30, 3), Step::Settle]);
    never_fails(Mode::Independent, VOLATILE, &script);
}

/// The flush of the last image's label failed while the next cut was under way: the superblock of the cut outlived
/// its gate.
#[test]
fn a_set_that_ends_beside_a_cut_takes_its_superblock_along() {
    for turns in 0..5 {
        let mut script = vec![write(Master, 4, 4), ENABLE, CUT, Step::Settle, write(Master, 80, 1)];
        script.extend([
            Step::Turns(9),
            UPDATE,
            Step::Faults(Disk::Shadow(0), Faults { flush: 1000, ..NONE }),
        ]);
        script.extend([
            UPDATE,
            Step::Turns(turns),
            write(Master, 9, 1),
            Step::Turns(9),
            UPDATE,
            Step::Settle,
        ]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// An abort that came while the set was being disabled was never answered.
#[test]
fn an_abort_beside_a_disable_is_answered() {
    let wait = |turns| [ENABLE, CUT, UPDATE, disable(true), Step::Turns(turns), Step::Abort(0), Step::Settle];
    for turns in [1, 2, 4, 7, 10, 14] {
        never_fails(Mode::Independent, VOLATILE, &wait(turns));
    }
}

/// The old set's label was still on the shadow of the new one, and its superblock in the second slot.
#[test]
fn a_set_is_enabled_again_right_after_a_disable_and_survives_a_crash() {
    for crash in [Crash::Kill, Crash::PowerCut { granule: 512 }] {
        let now = Step::Crash { after: 0, crash };
        let force = disable(true);
        let mut script = vec![ENABLE, CUT, Step::Settle, force, Step::Settle, ENABLE];
        script.extend([now, ENABLE, CUT, Step::Settle, now, Step::ReadOut, force, Step::Turns(9), now]);
        script.extend([ENABLE, CUT, Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// A ring that filled up during a cut's drain was not checkpointed, so the drain could not end.
#[test]
fn a_cut_drains_though_the_ring_is_full() {
    let mut script = vec![ENABLE, CUT, UPDATE, Step::Turns(3)];
    script.extend((0..7).map(|n| write(Master, n * 24, 24)));
    script.extend([UPDATE, Step::Turns(5), write(Master, 30, 2), UPDATE, Step::Settle]);
    for mode in [Mode::Dependent, Mode::Independent] {
        never_fails(mode, VOLATILE, &script);
    }
}

/// Two sets with an image each, and nothing in flight.
fn two_images() -> Vec<Step> {
    let mut script = vec![ENABLE, CUT, Step::Enable(1), Step::Cut { set: 1, update: false }];
    script.push(Step::Settle);
    script
}

/// E13, E18: copies that hung at one set's volumes kept all the buffers, and first writes that only the healthy
/// sibling needed waited for as long as the device did.
#[test]
fn a_sibling_that_hangs_does_not_keep_the_buffers_of_the_others() {
    // The buffer itself is lent to the last sibling, the others get a copy of it.
    let disks = [Disk::Shadow(0), Disk::Bitmap(0), Disk::Shadow(1), Disk::Bitmap(1)];
    for (disk, turns) in disks.into_iter().flat_map(|disk| (1..6).map(move |turns| (disk, turns))) {
        let mut script = two_images();
        script.push(Step::Faults(disk, Faults { hang: 1000, ..NONE }));
        script.extend([write(Master, 0, 24), write(Master, 24, 80), Step::Settle]);
        // What hung comes back while its buffers are in use again.
        script.extend([write(Master, 104, 40), Step::Turns(turns), Step::Heal, Step::ReadOut]);
        let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
        never_fails_with(Cache::Volatile, &[dependent; 2], &script);
    }
}

/// E6: the label of an image that had ended hung when its set was removed; when it came back nobody took it off the
/// jobs of that place, and the next set's head waited behind it until its deadline.
#[test]
fn a_label_that_comes_back_after_its_set_holds_nothing_up() {
    let mut script = vec![ENABLE, CUT, Step::Settle];
    script.push(Step::Faults(Disk::Shadow(0), Faults { hang: 1000, ..NONE }));
    script.push(Step::Faults(Disk::Bitmap(0), Faults { write: 1000, ..NONE }));
    script.extend([Step::Abort(0), write(Master, 0, 8), Step::Settle, Step::Turns(40)]);
    script.push(Step::Faults(Disk::Bitmap(0), Faults::default()));
    script.extend([disable(true), Step::Settle, Step::Heal, Step::Turns(9), ENABLE, CUT, Step::Settle]);
    script.extend([Step::Turns(200), Step::ReadOut]);
    never_fails(Mode::Independent, VOLATILE, &script);
}

/// E13: when nothing could be recorded for one set, the policy to fail writes failed those that only waited for
/// another, too.
#[test]
fn a_policy_to_fail_writes_fails_only_what_waits_for_that_set() {
    let broken = Faults { write: 1000, ..NONE };
    let mut script = two_images();
    script.extend([write(Side::Shadow(1), 40, 3), Step::Settle, Step::NoteFaults(1000)]);
    script.extend([Step::Faults(Disk::Shadow(0), broken), Step::Faults(Disk::Bitmap(0), broken)]);
    script.extend([write(Master, 0, 8), Step::Settle, Step::Turns(60), Step::Turns(60)]);
    for chunk in 6..20 {
        script.extend([write(Side::Shadow(1), chunk * 8, 3), Step::Turns(3)]);
    }
    script.extend([Step::Settle, Step::Heal, Step::ReadOut]);
    let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
    let failing = SetPlan { fail_write: true, ..dependent };
    never_fails_with(Cache::Volatile, &[failing, dependent], &script);
}

const RESTORE: Step = Step::Restore { set: 0, update: true };

/// E9, common rule 3: the record that a sibling holds what a restore is about to overwrite waited for the copier's
/// company, which never came.
#[test]
fn a_restore_in_the_background_gives_a_sibling_what_it_needs() {
    let mut script = vec![ENABLE, CUT, write(Master, 3, 1), Step::Settle];
    script.extend([Step::Enable(1), Step::Cut { set: 1, update: false }, RESTORE, Step::ReadOut]);
    let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
    never_fails_with(Cache::Volatile, &[dependent; 2], &script);
}

/// E13: a write through a sibling's shadow that waited for a restored run failed with it.
#[test]
fn a_restore_that_cannot_be_read_fails_nobody_else() {
    let mut script = vec![ENABLE, CUT, write(Master, 0, 40), Step::Settle];
    script.extend([Step::Enable(1), Step::Cut { set: 1, update: false }, Step::Settle]);
    script.push(Step::Faults(Disk::Shadow(0), Faults { read: 1000, ..NONE }));
    script.extend([RESTORE, Step::Turns(6)]);
    for chunk in 0..5 {
        script.extend([write(Side::Shadow(1), chunk * 8, 3), Step::Turns(2)]);
    }
    script.extend([Step::Settle, Step::Heal, Step::ReadOut]);
    let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
    never_fails_with(Cache::Volatile, &[dependent; 2], &script);
}

/// E9: what cannot be read from the shadow is an error for who needs it, and only for those: whole chunks can be
/// overwritten, bad chunks keep no good one from the master, and nothing is stuck once the shadow is well.
#[test]
fn a_restore_with_bad_chunks_takes_what_overwrites_them() {
    for read in [1000, 300] {
        let mut script = vec![ENABLE, CUT, write(Master, 0, 96), Step::Settle];
        script.push(Step::Faults(Disk::Shadow(0), Faults { read, ..NONE }));
        script.extend([RESTORE, Step::Turns(8)]);
        for chunk in 0..6 {
            script.extend([write(Master, chunk * 16, 8), write(Master, chunk * 16 + 9, 2), Step::Turns(3)]);
        }
        script.extend([write(Master, 24, 40), flush(Master), Step::Settle, Step::ReadOut]);
        let mut crashed = script.clone();
        crashed.push(Step::Crash { after: 0, crash: Crash::PowerCut { granule: 512 } });
        for script in [script, crashed] {
            let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
            never_fails_with(Cache::Volatile, &[dependent], &script);
        }
    }
}

/// E4, E7: while a cut is voided, or committed behind the second slot of the superblock that says that it is in doubt,
/// the bitmap volume may have begun the new epoch: a record that only ended the old one let the new one come back,
/// over a master that nobody had copied from meanwhile.
#[test]
fn an_image_that_ends_while_a_cut_is_taken_back_does_not_come_back_as_the_next() {
    for turns in 4..24 {
        let mut script = vec![ENABLE, CUT, write(Master, 0, 24), Step::Settle];
        script.extend([Step::Group { sets: 1, update: false, restore: false }, Step::Turns(turns)]);
        script.push(Step::Faults(Disk::Bitmap(0), Faults { write: 1000, ..NONE }));
        script.extend([Step::Settle, write(Master, 0, 24), Step::Settle]);
        script.push(Step::Faults(Disk::Bitmap(0), Faults::default()));
        script.extend([Step::Crash { after: 0, crash: Crash::Kill }, Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// P5: an abort of the copier wrote a superblock that was in no doubt over the one that was.
#[test]
fn an_abort_does_not_hide_that_a_cut_is_in_doubt() {
    for turns in (8..24).step_by(3) {
        for later in [3, 6] {
            let mut script = vec![ENABLE, CUT, Step::Limit(0, Some(1)), Step::Enable(1)];
            script.extend([Step::Cut { set: 1, update: false }, Step::Settle]);
            script.extend([Step::Group { sets: 3, update: false, restore: false }, Step::Turns(turns)]);
            script.extend([Step::Abort(0), Step::Turns(later)]);
            script.extend([Step::Crash { after: 0, crash: Crash::Kill }, Step::ReadOut]);
            let sets = [Mode::Independent, Mode::Dependent].map(|mode| set(mode, [Cache::WriteThrough; 2]));
            never_fails_with(Cache::WriteThrough, &sets, &script);
        }
    }
}

/// E4: a superblock in doubt that came late was taken for the one that takes the cut back: the gate opened before
/// anything durable said that the cut was void.
#[test]
fn a_gate_opens_only_when_every_member_says_that_the_cut_is_void() {
    for turns in (6..24).step_by(2) {
        for later in [3, 5, 8] {
            let mut script = two_images();
            script.extend([write(Master, 0, 24), Step::Settle]);
            script.push(Step::Faults(Disk::Bitmap(0), Faults { hang: 1000, ..NONE }));
            script.extend([Step::Group { sets: 3, update: false, restore: false }, Step::Turns(turns)]);
            script.push(Step::Faults(Disk::Bitmap(1), Faults { write: 1000, ..NONE }));
            script.extend([Step::Turns(16), write(Master, 0, 24), Step::Heal, Step::Turns(later)]);
            script.extend([Step::Crash { after: 0, crash: Crash::Kill }, Step::ReadOut]);
            let caches = [Cache::Volatile, Cache::WriteThrough];
            never_fails_with(Cache::Volatile, &[set(Mode::Dependent, caches); 2], &script);
        }
    }
}

/// A write to a sibling that had been given up came back while its buffer's number was in use for a restore, and took
/// the place of what had been read from the shadow: the master got other chunks' data.
#[test]
fn a_write_that_comes_back_late_does_not_replace_what_a_restore_has_read() {
    for turns in (40..110).step_by(10) {
        let mut script = vec![ENABLE, CUT, Step::Settle, write(Master, 0, 160), Step::Settle];
        script.extend([Step::Enable(1), Step::Cut { set: 1, update: false }, Step::Settle]);
        script.extend([Step::Faults(Disk::Shadow(1), Faults { hang: 1000, ..NONE }), RESTORE]);
        script.extend([Step::Settle, Step::Turns(turns), Step::Heal, Step::ReadOut]);
        let dependent = set(Mode::Dependent, [Cache::Volatile; 2]);
        never_fails_with(Cache::Volatile, &[dependent; 2], &script);
    }
}

/// E13, E18: reads of a shadow that hangs kept the buffers that first writes elsewhere on the master waited for.
#[test]
fn a_source_that_hangs_does_not_keep_the_buffers() {
    for turns in 1..4 {
        let mut script = vec![ENABLE, CUT, Step::Settle, write(Master, 0, 160), Step::Settle];
        script.extend([Step::Limit(0, Some(1)), RESTORE, Step::Settle]);
        script.push(Step::Faults(Disk::Shadow(0), Faults { hang: 1000, ..NONE }));
        script.extend([40, 48, 56, 64, 72].map(|first| write(Master, first, 3)));
        script.extend([Step::Turns(400), write(Master, 160, 3), Step::Turns(600), Step::Heal]);
        // What hung comes back while its buffers are in use again.
        script.extend([Step::Resume(0), write(Master, 80, 3), Step::Turns(turns), Step::Resume(0)]);
        script.extend([write(Master, 88, 3), write(Master, 96, 3), Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// E9: when the shadow or the head hung after the bitmap volume had failed, the restore did not give up what it read:
/// whoever waited for it waited for ever.
#[test]
fn a_restore_from_memory_whose_source_hangs_can_go_on() {
    for disk in [Disk::Shadow(0), Disk::Bitmap(0)] {
        let mut script = vec![ENABLE, CUT, Step::Settle, write(Master, 0, 160), Step::Settle];
        script.extend([Step::Limit(0, Some(1)), RESTORE, Step::Settle, Step::Abort(0), Step::Settle]);
        script.push(Step::Faults(Disk::Bitmap(0), Faults { write: 1000, ..NONE }));
        script.extend([write(Master, 120, 3), Step::Turns(100), Step::Faults(Disk::Bitmap(0), NONE)]);
        script.extend([Step::Resume(0), Step::Faults(disk, Faults { hang: 1000, ..NONE })]);
        script.extend([
            write(Master, 0, 3),
            write(Master, 80, 3),
            Step::Turns(600),
            Step::Heal,
            Step::Turns(9),
        ]);
        script.extend([Step::Resume(0), Step::Limit(0, None), Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// E9: an abort or a resume of a restore whose bitmap volume had failed went to that volume and was never answered.
#[test]
fn a_restore_from_memory_is_stopped_and_resumed() {
    for steps in [[Step::Abort(0), Step::Settle], [Step::Settle, Step::Abort(0)]] {
        let mut script =
            vec![ENABLE, CUT, Step::Settle, write(Master, 0, 160), Step::Settle, Step::Limit(0, Some(1))];
        script.extend([RESTORE, Step::Settle]);
        script.extend(steps);
        script.push(Step::Faults(Disk::Bitmap(0), Faults { write: 1000, ..NONE }));
        script.extend([write(Master, 80, 3), Step::Turns(80), Step::Resume(0), Step::Settle, Step::Abort(0)]);
        script.extend([Step::Settle, Step::Resume(0), Step::Limit(0, None), Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// E9: a shadow that failed while the superblock of a restore from it was on its way ended the set behind it, and what
/// was pending was forgotten.
#[test]
fn a_shadow_that_fails_while_a_restore_is_committed_keeps_what_is_pending() {
    for turns in 1..4 {
        for later in (4..40).step_by(4) {
            let mut script = vec![ENABLE, CUT, Step::Settle, Step::Turns(turns)];
            // The label of the first image is on its way to the disk until much later, and then fails.
            script.push(Step::Faults(Disk::Shadow(0), Faults { flush: 1000, hang: 1000, ..NONE }));
            script.extend([Step::Turns(2), Step::Faults(Disk::Shadow(0), Faults::default())]);
            script.extend([write(Master, 0, 80), Step::Turns(40), Step::Limit(0, Some(1)), RESTORE]);
            script.extend([Step::Turns(later), Step::Heal, Step::Settle, Step::Turns(25)]);
            script.extend([Step::Crash { after: 0, crash: Crash::Kill }, Step::ReadOut]);
            never_fails(Mode::Dependent, VOLATILE, &script);
        }
    }
}

/// E9: a restore with a safety, whose bitmap volume failed when its own superblock was committed and the safety's was
/// not, was neither begun nor over.
#[test]
fn a_restore_whose_bitmap_fails_before_the_gate_opens_is_not_begun() {
    for turns in (30..60).step_by(2) {
        let mut script = two_images();
        script.extend([write(Master, 0, 80), Step::Settle]);
        script.push(Step::Group { sets: 3, update: true, restore: true });
        script.extend([Step::Turns(turns), Step::Faults(Disk::Bitmap(0), Faults { write: 1000, ..NONE })]);
        script.extend([Step::Settle, Step::Heal, write(Master, 0, 3), Step::Settle]);
        script.extend([Step::Cut { set: 1, update: false }, Step::Settle]);
        never_fails_with(Cache::Volatile, &[set(Mode::Dependent, [Cache::Volatile; 2]); 2], &script);
    }
}

/// E11: a shadow that failed while the last of a restore was recorded left its set online with a shadow that nobody
/// could read, until a start read it again.
#[test]
fn a_shadow_that_fails_at_the_end_of_a_restore_ends_its_image() {
    for turns in (1..40).step_by(2) {
        let mut script = vec![ENABLE, CUT, Step::Settle, write(Master, 40, 3), Step::Settle];
        script.extend([write(SHADOW, 80, 3), Step::Settle, RESTORE, Step::Settle, Step::Turns(turns)]);
        script.extend([Step::Faults(Disk::Shadow(0), Faults { flush: 1000, ..NONE }), flush(SHADOW)]);
        script.extend([Step::Settle, Step::Turns(150), Step::Heal, Step::ReadOut]);
        script.extend([Step::Crash { after: 0, crash: Crash::Kill }, Step::ReadOut]);
        never_fails(Mode::Dependent, VOLATILE, &script);
    }
}

/// E17: what was not of whole blocks of the master went to the devices, which refused it, and the shadow that it was for
/// was given up.
#[test]
fn a_request_that_is_not_of_whole_blocks_ends_no_image() {
    for blocks in [[LARGE_BLOCK; 2], [SMALL_BLOCK; 2], [LARGE_BLOCK, SMALL_BLOCK]] {
        for (first, count) in [(1, 8), (8, 1), (0, 12), (3, 2), (164, 4)] {
            let mut script = vec![ENABLE, CUT, write(Master, 0, 16), write(Master, first, count)];
            script.extend([write(SHADOW, 40, 8), write(SHADOW, first, count), Step::Turns(5)]);
            for side in [Master, SHADOW] {
                script.push(Step::Request { side, ask: Ask::Zeroes { fua: true }, first, count });
                script.push(Step::Request { side, ask: Ask::Read, first, count });
            }
            script.extend([Step::Settle, UPDATE, write(SHADOW, first, count), write(Master, first, count)]);
            script.push(Step::Crash { after: 0, crash: Crash::PowerCut { granule: 4096 } });
            script.push(Step::ReadOut);
            for mode in [Mode::Dependent, Mode::Independent] {
                let set = SetPlan { blocks, ..set(mode, [Cache::Volatile; 2]) };
                never_fails_in_blocks(LARGE_BLOCK, Cache::Volatile, &[set], &script);
            }
        }
    }
}

/// E17: the head of the shadow is read from the bitmap volume in blocks of the master.
#[test]
fn a_bitmap_volume_with_larger_blocks_than_the_master_is_refused() {
    let sound = set(Mode::Dependent, [Cache::Volatile; 2]);
    let unfit = SetPlan { blocks: [SMALL_BLOCK, LARGE_BLOCK], ..sound };
    let mut script = two_images();
    script.extend([write(Master, 0, 24), Step::Settle, Step::ReadOut]);
    never_fails_with(Cache::Volatile, &[sound, unfit], &script);
}

/// E2: of a complete image a block that was missing from the journal meant that everything differs; what the block had
/// said to be lost was served again.
#[test]
fn what_is_lost_of_a_complete_image_is_not_in_the_journal_alone() {
    let independent = set(Mode::Independent, [Cache::Volatile; 2]);
    let kill = Step::Crash { after: 0, crash: Crash::Kill };
    let mut missed = false;
    for pick in 0..4 {
        let mut script = vec![write(Master, 0, 80), ENABLE];
        script.push(Step::Faults(Disk::Master, Faults { read: 300, ..NONE }));
        script.extend([CUT, Step::Settle, Step::Turns(60), Step::Turns(60), Step::Heal, Step::ReadOut]);
        // So that the block is confirmed.
        script.extend([write(Master, 3, 1), Step::Settle, write(SHADOW, 9, 1), Step::Settle]);
        script.extend([Step::Rot { set: 0, area: Area::Journal, pick }, kill, Step::ReadOut]);
        never_fails_with(Cache::Volatile, &[independent], &script);
        missed |= is_missed(Rule::LostInPages, Cache::Volatile, &[independent], &script);
    }
    assert!(missed, "the script does not show what it is for");
}
