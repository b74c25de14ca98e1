//! The simulator within the budget of `cargo test`: some hundred seeds, every mutant, a thin sweep.

use umbra_engine::mutation::Rule;
use umbra_sim::plan::Plan;
use umbra_sim::run::{Campaign, attempt, on_panic, shrink};
use umbra_sim::sweep::sweep;

fn campaign(seeds: u64, off: Option<Rule>) -> Campaign {
    Campaign { start: 0, seeds, jobs: 2, limit: None, off, only_wrong: true, go_on: false }
}

#[test]
fn some_hundred_seeds_without_a_violation() {
    let summary = campaign(400, None).run();
    assert!(summary.failure.is_none(), "{:?}", summary.failure);
    assert_eq!(summary.seeds, 400);
    let tally = summary.tally;
    // None of what makes a run worth anything is switched off by accident.
    for (count, what) in [
        (tally.crashes, "crashes"),
        (tally.cuts, "cuts"),
        (tally.cuts_beside, "cuts beside a sibling"),
        (tally.faults, "faults"),
        (tally.lost, "lost sectors"),
        (tally.completed, "complete copies"),
        (tally.judged, "judged sectors"),
    ] {
        assert!(count > 100, "only {count} {what}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        let [one, other] = [(); 2].map(|()| attempt(&Plan::of(seed), None, true, |_| {}));
        assert_eq!(one.tally, other.tally);
        assert_eq!(one.trace, other.trace);
    }
}

#[test]
fn every_rule_that_is_switched_off_is_missed() {
    on_panic(|_, _| {});
    for rule in Rule::ALL {
        let summary = campaign(6000, Some(rule)).run();
        assert!(summary.failure.is_some(), "{rule:?} was switched off and nobody noticed");
    }
}

#[test]
fn a_failing_plan_is_shortened_and_still_fails() {
    on_panic(|_, _| {});
    let off = Some(Rule::FlushSourceAtCut);
    let failure = campaign(3000, off).run().failure.expect("the mutant is caught");
    let plan = Plan::of(failure.seed);
    let short = shrink(&plan, |plan| attempt(plan, off, false, |_| {}).verdict.is_err());
    assert!(short.script.len() < plan.script.len() / 2, "{} steps are left", short.script.len());
    assert!(attempt(&short, off, false, |_| {}).verdict.is_err());
    assert!(attempt(&short, None, false, |_| {}).verdict.is_ok(), "with the rule it is right");
}

#[test]
fn a_crash_at_every_tenth_operation_of_a_life() {
    let swept = sweep(10, 2);
    assert!(swept.violations.is_empty(), "{:#?}", swept.violations);
    assert!(swept.runs > 200 && swept.crashes >= swept.runs, "{swept:?}");
}
