//! Runs plans, one or many, and shortens those that fail.

use super::life::{Life, Tally};
use super::plan::Plan;
use crate::oracle::Verdict;
use crate::run::{Failure, set_seed, take_panic};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use umbra_lifecycle::mutation::{Rule, switch_off};

/// Runs that shortening may cost.
const SHRINK_RUNS: u32 = 200;

/// How a plan went.
#[derive(Debug)]
pub struct Outcome {
    /// What happened in it.
    pub tally: Tally,
    /// What was wrong, if anything.
    pub verdict: Verdict,
    /// The trace, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs a plan with a protection switched off, or none. `prepare` may arm fates.
pub fn attempt(plan: &Plan, off: Option<Rule>, traced: bool, prepare: impl FnOnce(&mut Life)) -> Outcome {
    let mut life = Life::new(plan.clone(), traced);
    prepare(&mut life);
    set_seed(Some(plan.seed));
    switch_off(off);
    drop(take_panic());
    let ended = catch_unwind(AssertUnwindSafe(|| life.run()));
    switch_off(None);
    set_seed(None);
    let verdict = match (ended, take_panic()) {
        (Ok(Err(text)), _) => Err(text),
        (_, Some(text)) => Err(text),
        (Ok(Ok(())), None) => Ok(()),
        (Err(_), None) => Err("panic".to_owned()),
    };
    Outcome { tally: life.tally(), verdict, trace: life.take_trace() }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// First seed.
    pub start: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Go on after a violation.
    pub all: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// What happened in all of them.
    pub tally: Tally,
    /// The failing seeds, in order, of those found before everything stopped.
    pub failures: Vec<Failure>,
}

impl Campaign {
    /// Runs the seeds, until one fails or all of them.
    pub fn run(self) -> Summary {
        let next = AtomicU64::new(self.start);
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.start + self.seeds {
                            break;
                        }
                        let outcome = attempt(&Plan::of(seed), None, false, |_| {});
                        let mut summary = summary.lock().expect("no thread panics");
                        summary.seeds += 1;
                        summary.tally.add(&outcome.tally);
                        if let Err(message) = outcome.verdict {
                            stop.store(!self.all, Ordering::Relaxed);
                            summary.failures.push(Failure { seed, message });
                        }
                    }
                });
            }
        });
        let mut summary = summary.into_inner().expect("no thread panics");
        summary.failures.sort_by_key(|failure| failure.seed);
        summary
    }
}

/// Shortens a failing plan: steps are left out for as long as it still fails.
pub fn shrink(plan: &Plan, off: Option<Rule>) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    let mut length = best.script.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < best.script.len() && runs < SHRINK_RUNS {
            let mut candidate = best.clone();
            let end = (at + length).min(candidate.script.len());
            candidate.script.drain(at..end);
            runs += 1;
            if attempt(&candidate, off, false, |_| {}).verdict.is_err() {
                best = candidate;
            } else {
                at += length;
            }
        }
        length /= 2;
    }
    best
}
