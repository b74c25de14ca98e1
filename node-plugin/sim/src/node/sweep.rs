//! Scripted lives in which every step of umbra-io is once the last, before and after its effect; fails; and hangs.

use super::life::Life;
use super::machine::Fate;
use super::plan::{Ask, MasterPlan, Plan, SetAt, SetPlan, Step, Stop};
use super::run::{Outcome, attempt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use umbra_lifecycle::mutation::Rule;
use umbra_store::{Cache, Crash, Timing};

/// What a sweep has found.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Steps of the lives when nothing is in their way.
    pub steps: u64,
    /// Lives that were lived.
    pub runs: u64,
    /// Those in which the fate was met.
    pub met: u64,
    /// What must not be.
    pub violations: Vec<String>,
}

fn cut(sets: &[SetAt]) -> Step {
    Step::Calls(vec![Ask::Cut(sets.to_vec(), true)])
}

fn write(master: usize, first: u64) -> Step {
    Step::Write { master, first, count: 24, wait: true }
}

/// The lives: attach, enable, cut, cut over masters, restore, disable, detach, and a start after each.
pub fn lives() -> Vec<Plan> {
    let set = |independent| SetPlan { independent, caches: [Cache::Volatile, Cache::Fua], used: false };
    let master =
        |sets: Vec<SetPlan>| MasterPlan { size: 256 << 10, chunk: 16 << 10, cache: Cache::Volatile, sets };
    let call = |ask: Ask| Step::Calls(vec![ask]);
    let (a, b, c) = ((0, 0), (0, 1), (1, 0));
    let all = vec![
        call(Ask::Attach(0)),
        call(Ask::Attach(1)),
        write(0, 0),
        call(Ask::Enable(a)),
        call(Ask::Enable(b)),
        call(Ask::Enable(c)),
        write(0, 16),
        write(1, 100),
        cut(&[a]),
        write(0, 40),
        cut(&[a, b, c]),
        write(0, 80),
        write(1, 80),
        Step::Stop(Stop::Kill),
        Step::ReadOut,
        call(Ask::Restore(b)),
        Step::Wait(3000),
        Step::Stop(Stop::Power),
        Step::ReadOut,
        call(Ask::Disable(a)),
        call(Ask::Detach(1)),
        Step::Stop(Stop::Kill),
        call(Ask::Attach(1)),
        Step::ReadOut,
    ];
    let plan = |seed, strong, renames, foreign, late_ms| Plan {
        seed,
        timing: Timing::default(),
        masters: vec![master(vec![set(false), set(true)]), master(vec![set(true)])],
        strong,
        renames,
        late_ms,
        foreign,
        mounts: 0,
        script: all.clone(),
    };
    vec![plan(1, true, true, true, 0), plan(2, false, false, false, 0), plan(3, true, false, true, 2500)]
}

/// What a step may meet.
const FATES: [Fate; 5] = [
    Fate::DieBefore(Crash::Kill),
    Fate::DieAfter(Crash::Kill),
    Fate::DieAfter(Crash::PowerCut { granule: 512 }),
    Fate::Fail,
    Fate::Hang(3000),
];

/// Meets one step of one life with every fate, and notes what happens.
pub fn step(life: u64, at: u64) -> impl Iterator<Item = (Fate, Outcome)> {
    let plan = lives().into_iter().find(move |plan| plan.seed == life);
    let met =
        move |plan: Plan| FATES.map(|fate| (fate, attempt(&plan, None, true, |life| life.arm(at, fate))));
    plan.into_iter().flat_map(met)
}

/// Meets every so manieth step of every life with every fate.
pub fn sweep(stride: u64, jobs: usize, off: Option<Rule>) -> Swept {
    let mut swept = Swept::default();
    let mut todo: Vec<(Plan, u64, Fate)> = Vec::new();
    for plan in lives() {
        let undisturbed = attempt(&plan, off, false, |_| {});
        swept.violations.extend(undisturbed.verdict.err());
        swept.steps += undisturbed.tally.steps;
        for at in (0..undisturbed.tally.steps).step_by(usize::try_from(stride.max(1)).unwrap_or(usize::MAX)) {
            todo.extend(FATES.iter().map(|fate| (plan.clone(), at, *fate)));
        }
    }
    let next = AtomicU64::new(0);
    let swept = Mutex::new(swept);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let one =
                    || usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok().and_then(|at| todo.get(at));
                while let Some((plan, at, fate)) = one() {
                    // A mutant is caught once.
                    if off.is_some() && !swept.lock().expect("no thread panics").violations.is_empty() {
                        break;
                    }
                    let outcome = attempt(plan, off, false, |life: &mut Life| life.arm(*at, *fate));
                    let mut swept = swept.lock().expect("no thread panics");
                    swept.runs += 1;
                    swept.met += outcome.tally.met;
                    if let Err(text) = outcome.verdict {
                        swept.violations.push(format!("life {}, step {at}, {fate:?}: {text}", plan.seed));
                    }
                }
            });
        }
    });
    swept.into_inner().expect("no thread panics")
}
