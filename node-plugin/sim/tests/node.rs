//! A bounded run of the node's simulator; `cargo xtask test` runs more of it.

use umbra_lifecycle::mutation::Rule;
use umbra_sim::node::Fate;
use umbra_sim::node::mutants::hunt;
use umbra_sim::node::plan::{Ask, DiskAt, MasterPlan, Plan, SetPlan, Step, Stop};
use umbra_sim::node::run::{Campaign, attempt};
use umbra_sim::node::sweep::Sweep;
use umbra_store::{Cache, Crash, Timing};

#[test]
fn nothing_is_mistaken_lost_or_left_behind() {
    let summary = Campaign { start: 0, seeds: 40, jobs: 2, all: false }.run();
    assert!(summary.failures.is_empty(), "again with: umbra-sim node replay SEED; {:?}", summary.failures);
    assert!(summary.tally.cuts > 0 && summary.tally.met > 0 && summary.tally.judged > 0, "{summary:?}");
}

#[test]
fn a_seed_is_one_life() {
    for seed in [3, 7] {
        let traces = [(); 2].map(|()| attempt(&Plan::of(seed), None, true, |_| {}).trace);
        assert!(!traces[0].is_empty());
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}

#[test]
fn some_steps_of_scripted_lives_may_be_the_last() {
    let swept = Sweep { stride: 61, first: 0, rounds: 1, jobs: 2 }.run(|_, _| {});
    assert!(swept.met > 0, "{swept:?}");
    assert!(swept.violations.is_empty(), "{:?}", swept.violations);
}

#[test]
fn without_a_protection_something_is_seen() {
    for hunted in hunt(Rule::ALL.into_iter(), 0, 2) {
        assert!(hunted.caught.is_some(), "{:?} is not seen in the scripted lives", hunted.rule);
    }
}

/// A life of two masters with a set each, on disks without names, in which this happens after both are attached.
fn unnamed(steps: &[Step]) -> Plan {
    let sets = vec![SetPlan { independent: false, caches: [Cache::Volatile; 2], used: false }];
    let master = MasterPlan { size: 4 << 16, chunk: 1 << 16, cache: Cache::Volatile, sets };
    let attach = |m| Step::Calls(vec![Ask::Attach(m)]);
    Plan {
        seed: 1,
        timing: Timing { effect: 2, completion: 2, slow: 20, late: u64::MAX },
        masters: vec![master; 2],
        strong: false,
        renames: false,
        late_ms: 0,
        foreign: false,
        mounts: 0,
        looks: 0,
        script: [attach(0), attach(1)].into_iter().chain(steps.iter().cloned()).collect(),
    }
}

/// One of two exchanged disks was taken by its new path, or refused as the other, which is on record there: neither is a
/// mistake of the node's, and what is put right is what the record says.
#[test]
fn a_disk_without_a_name_is_what_its_place_is() {
    let enable = |m| Step::Calls(vec![Ask::Enable((m, 0))]);
    let exchange = || Step::Exchange(DiskAt::Bitmap((0, 0)), DiskAt::Bitmap((1, 0)));
    let taken = [exchange(), Step::Stop(Stop::Reboot), enable(1)];
    let refused = [enable(0), exchange(), Step::Stop(Stop::Reboot), enable(1)];
    for steps in [taken.as_slice(), &refused] {
        assert_eq!(attempt(&unnamed(steps), None, false, |_| {}).verdict, Ok(()), "{steps:?}");
    }
}

/// A device that is open keeps its name: disks that have changed places are put back while the machine is off.
#[test]
fn no_disk_changes_its_name_under_a_process() {
    let (cut, again) = (Fate::DieAfter(Crash::Kill), Step::Again);
    let call = |m| Step::Calls(vec![Ask::Enable((m, 0))]);
    let exchange = Step::Exchange(DiskAt::Shadow((0, 0)), DiskAt::Bitmap((1, 0)));
    let reboot = Step::Stop(Stop::Reboot);
    let steps = [call(0), exchange, reboot, Step::Arm(25, cut), call(1), Step::Heal, again];
    let plan = Plan { strong: true, ..unnamed(&steps) };
    assert_eq!(attempt(&plan, None, false, |_| {}).verdict, Ok(()));
}

/// Without a name a disk is what its place is: where another one has come that is away, it is away.
#[test]
fn a_missing_disk_in_the_place_of_one_without_a_name() {
    let enable = Step::Calls(vec![Ask::Enable((0, 0))]);
    let (missing, own) = (DiskAt::Bitmap((1, 0)), DiskAt::Bitmap((0, 0)));
    let away = [Step::Miss(missing), Step::Exchange(missing, own), Step::Stop(Stop::Power)];
    let steps = [&[enable], away.as_slice(), &[Step::Wait(20_000)]].concat();
    assert_eq!(attempt(&unnamed(&steps), None, false, |_| {}).verdict, Ok(()));
}

/// A disk that hangs has the old name of one volume, so that a look at it takes longer than the set is waited for; the
/// other volume comes meanwhile, and is looked for meanwhile.
#[test]
fn a_volume_that_comes_late_is_not_missed_behind_another_that_hangs() {
    let enable = |m| Step::Calls(vec![Ask::Enable((m, 0))]);
    let (other, own) = (DiskAt::Bitmap((1, 0)), DiskAt::Bitmap((0, 0)));
    let changed = [Step::Hang(other), Step::Exchange(other, own), Step::Stop(Stop::Reboot)];
    let steps = [&[enable(0), enable(1)], changed.as_slice(), &[Step::Wait(60_000)]].concat();
    for seed in 0..40 {
        let plan = Plan { seed, strong: true, late_ms: 2500, ..unnamed(&steps) };
        assert_eq!(attempt(&plan, None, false, |_| {}).verdict, Ok(()), "seed {seed}");
    }
}
