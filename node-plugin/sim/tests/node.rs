//! A bounded run of the node's simulator; `cargo xtask test` runs more of it.

use umbra_lifecycle::mutation::Rule;
use umbra_sim::node::mutants::hunt;
use umbra_sim::node::plan::Plan;
use umbra_sim::node::run::{Campaign, attempt};
use umbra_sim::node::sweep::sweep;

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
    let swept = sweep(211, 2);
    assert!(swept.met > 0, "{swept:?}");
    assert!(swept.violations.is_empty(), "{:?}", swept.violations);
}

#[test]
fn without_a_protection_something_is_seen() {
    for hunted in hunt(Rule::ALL.into_iter(), 0, 2) {
        assert!(hunted.caught.is_some(), "{:?} is not seen in the scripted lives", hunted.rule);
    }
}
