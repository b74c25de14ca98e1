//! Runs plans, many at a time, and shortens those that fail.
//!
//! A panic of the engine is a violation like any other. Where panics abort (the release profile of this workspace)
//! the process that runs the plan ends with it; see [`on_panic`].

use crate::life::{Life, Tally};
use crate::oracle::Verdict;
use crate::plan::{Plan, Step};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umbra_engine::mutation::{Rule, switch_off};
use umbra_store::Timing;

/// Runs that shortening may cost.
const SHRINK_RUNS: u32 = 1500;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How one plan went.
#[derive(Debug)]
pub struct Outcome {
    /// What happened in it.
    pub tally: Tally,
    /// What was wrong, if anything.
    pub verdict: Verdict,
    /// The trace, if it was asked for.
    pub trace: Vec<String>,
}

/// A plan that fails.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub message: String,
}

/// Catches the text of panics instead of printing it. Where panics abort, `last_words` is told the seed and the
/// text, and decides how the process ends.
pub fn on_panic(last_words: fn(u64, &str)) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match SEED.get() {
        None => usual(info),
        Some(seed) => {
            let at = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
            let text = format!("panic: {}{at}", payload(info.payload()));
            if cfg!(panic = "abort") {
                SEED.set(None);
                last_words(seed, &text);
            }
            PANIC.set(Some(text));
        }
    }));
}

/// The text of a panic that was caught on this thread since the last call.
pub(crate) fn take_panic() -> Option<String> {
    PANIC.take()
}

/// Tells panics of this thread apart from now on; none: they are nobody's.
pub(crate) fn set_seed(seed: Option<u64>) {
    SEED.set(seed);
}

fn payload(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

/// Runs a plan with a rule of the engine switched off, or none. `prepare` may set a crash.
pub fn attempt(plan: &Plan, off: Option<Rule>, traced: bool, prepare: impl FnOnce(&mut Life)) -> Outcome {
    let mut life = Life::new(plan.clone(), traced);
    prepare(&mut life);
    SEED.set(Some(plan.seed));
    switch_off(off);
    let ended = catch_unwind(AssertUnwindSafe(|| life.run()));
    switch_off(None);
    SEED.set(None);
    let verdict = ended.unwrap_or_else(|_| Err(PANIC.take().unwrap_or_else(|| "panic".to_owned())));
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
    /// Ends after this long, however many seeds are left.
    pub limit: Option<Duration>,
    /// A rule that is switched off.
    pub off: Option<Rule>,
    /// Goes on after a failure that is only of liveness: a mutant that stands still has not shown wrong data.
    pub only_wrong: bool,
    /// Goes on after any failure, to find all of them.
    pub go_on: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// What happened in all of them.
    pub tally: Tally,
    /// The failing seed that is first in order, of those found before everything stopped.
    pub failure: Option<Failure>,
    /// All that were found, in no order.
    pub failures: Vec<Failure>,
}

impl Campaign {
    /// Runs the seeds until one fails.
    pub fn run(self) -> Summary {
        let next = AtomicU64::new(self.start);
        let stop = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let until = self.limit.map(|limit| Instant::now() + limit);
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    let mut tally = Tally::default();
                    let mut seeds = 0;
                    while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.start + self.seeds {
                            break;
                        }
                        let outcome = attempt(&Plan::of(seed), self.off, false, |_| {});
                        seeds += 1;
                        tally.add(&outcome.tally);
                        let passed_over =
                            |message: &String| self.only_wrong && message.starts_with("liveness");
                        if let Err(message) = outcome.verdict
                            && !passed_over(&message)
                        {
                            stop.store(!self.go_on, Ordering::Relaxed);
                            let mut summary = summary.lock().expect("no thread panics");
                            summary.failures.push(Failure { seed, message: message.clone() });
                            if summary.failure.as_ref().is_none_or(|failure| failure.seed > seed) {
                                summary.failure = Some(Failure { seed, message });
                            }
                        }
                    }
                    let mut summary = summary.lock().expect("no thread panics");
                    summary.seeds += seeds;
                    summary.tally.add(&tally);
                });
            }
        });
        summary.into_inner().expect("no thread panics")
    }
}

/// Shortens a failing plan: steps are left out and the devices made simpler for as long as `fails` says that it
/// still does.
pub fn shrink(plan: &Plan, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut runs = 0;
    let mut try_one = |candidate: Plan, best: &mut Plan| {
        runs += 1;
        let better = runs <= SHRINK_RUNS && fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    for set in (0..).take(plan.sets.len()) {
        let mut candidate = best.clone();
        candidate.script.retain(|step| step.set() != Some(set));
        try_one(candidate, &mut best);
    }
    let mut length = best.script.len().div_ceil(2);
    while length > 0 {
        let mut at = 0;
        while at < best.script.len() {
            let mut candidate = best.clone();
            let end = (at + length).min(candidate.script.len());
            candidate.script.drain(at..end);
            if !try_one(candidate, &mut best) {
                at += length;
            }
        }
        length /= 2;
    }
    for simpler in [
        |plan: &mut Plan| plan.crash_in_recovery = 0,
        |plan: &mut Plan| plan.rot_at_start = 0,
        |plan: &mut Plan| plan.queue = None,
        |plan: &mut Plan| plan.timing = Timing { effect: 1, completion: 1, slow: 0, late: u64::MAX },
        |plan: &mut Plan| plan.read_after_recovery = 1000,
        |plan: &mut Plan| plan.overlaps = false,
        |plan: &mut Plan| plan.buffer_chunks = 1,
    ] {
        let mut candidate = best.clone();
        simpler(&mut candidate);
        try_one(candidate, &mut best);
    }
    for at in 0..best.script.len() {
        let mut candidate = best.clone();
        if let Step::Request { count: count @ 2.., .. } = &mut candidate.script[at] {
            *count = 1;
            try_one(candidate, &mut best);
        }
    }
    best
}
