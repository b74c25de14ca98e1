//! Scripted lives in which every step of umbra-io is once the last, before and after its effect; fails; and hangs.

use super::life::Life;
use super::machine::Fate;
use super::plan::{Ask, DiskAt, MasterPlan, Plan, SetAt, SetPlan, Step, Stop};
use super::run::{Outcome, attempt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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

fn call(ask: Ask) -> Step {
    Step::Calls(vec![ask])
}

const A: SetAt = (0, 0);
const B: SetAt = (0, 1);
const C: SetAt = (1, 0);

/// Two masters, one with two sets and one with one, all of them served and cut.
fn beginning() -> Vec<Step> {
    vec![
        call(Ask::Attach(0)),
        call(Ask::Attach(1)),
        write(0, 0),
        call(Ask::Enable(A)),
        call(Ask::Enable(B)),
        call(Ask::Enable(C)),
        write(0, 16),
        write(1, 100),
        cut(&[A]),
    ]
}

/// Attach, enable, cut, cut over masters, restore, disable, detach, and a start after each.
fn everything() -> Vec<Step> {
    let rest = [
        write(0, 40),
        cut(&[A, B, C]),
        write(0, 80),
        write(1, 80),
        Step::Stop(Stop::Kill),
        Step::ReadOut,
        call(Ask::Restore(B)),
        Step::Wait(3000),
        Step::Stop(Stop::Power),
        Step::ReadOut,
        call(Ask::Disable(A)),
        call(Ask::Detach(1)),
        Step::Stop(Stop::Kill),
        call(Ask::Attach(1)),
        Step::ReadOut,
    ];
    beginning().into_iter().chain(rest).collect()
}

/// A request that cannot be recorded, and comes again.
fn no_room() -> Vec<Step> {
    let rest = [Step::Full, cut(&[A]), Step::Again, Step::Heal, Step::Again, Step::Again, Step::ReadOut];
    beginning().into_iter().chain(rest).collect()
}

/// Two bitmap volumes change places, and change back.
fn exchanged() -> Vec<Step> {
    let rest = [
        Step::Exchange(DiskAt::Bitmap(A), DiskAt::Bitmap(C)),
        Step::Stop(Stop::Reboot),
        Step::Wait(20_000),
        Step::Heal,
        Step::Stop(Stop::Reboot),
        Step::ReadOut,
    ];
    beginning().into_iter().chain(rest).collect()
}

/// Enables that fail at each of their later steps, or during which the thread of their master panics, or the process is
/// killed; each tried again.
fn failing_enables() -> Vec<Step> {
    let begin = [call(Ask::Attach(0)), write(0, 0)];
    let attempt =
        |(after, fate)| [Step::Arm(after, fate), call(Ask::Enable(A)), Step::Again, call(Ask::Disable(A))];
    let fates = [Fate::Fail, Fate::Panic, Fate::DieAfter(Crash::Kill)]
        .map(|fate| (16..44).map(move |after| (after, fate)));
    begin.into_iter().chain(fates.into_iter().flatten().flat_map(attempt)).collect()
}

/// Disables that do not end, and a reset of what they leave.
fn failing_disables() -> Vec<Step> {
    let begin = [call(Ask::Attach(0)), write(0, 0), call(Ask::Enable(A))];
    let attempt = |after| {
        let kill = Step::Stop(Stop::Kill);
        [
            Step::Arm(after, Fate::FailAfter),
            call(Ask::Disable(A)),
            call(Ask::Reset(A)),
            kill,
            call(Ask::Enable(A)),
        ]
    };
    begin.into_iter().chain((3..12).flat_map(attempt)).collect()
}

/// A master that is written past Umbra.
fn outside() -> Vec<Step> {
    let rest =
        [Step::WriteOutside(0, false), write(0, 20), Step::ReadOut, Step::Stop(Stop::Power), Step::ReadOut];
    beginning().into_iter().chain(rest).collect()
}

/// The lives, each with a number of its own: its seed.
pub fn lives() -> Vec<Plan> {
    let set = |independent| SetPlan { independent, caches: [Cache::Volatile, Cache::Fua], used: false };
    let master =
        |sets: Vec<SetPlan>| MasterPlan { size: 256 << 10, chunk: 16 << 10, cache: Cache::Volatile, sets };
    let plain = |seed, script| Plan {
        seed,
        timing: Timing::default(),
        masters: vec![master(vec![set(false), set(true)]), master(vec![set(true)])],
        strong: false,
        renames: false,
        late_ms: 0,
        foreign: false,
        mounts: 0,
        script,
    };
    vec![
        Plan { strong: true, renames: true, foreign: true, ..plain(1, everything()) },
        plain(2, everything()),
        Plan { strong: true, foreign: true, late_ms: 2500, ..plain(3, everything()) },
        plain(4, no_room()),
        plain(5, exchanged()),
        plain(6, failing_enables()),
        plain(7, outside()),
        plain(8, failing_disables()),
    ]
}

/// What a step may meet.
const FATES: [Fate; 7] = [
    Fate::DieBefore(Crash::Kill),
    Fate::DieAfter(Crash::Kill),
    Fate::DieAfter(Crash::PowerCut { granule: 512 }),
    Fate::Fail,
    Fate::FailAfter,
    Fate::Panic,
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
pub fn sweep(stride: u64, jobs: usize) -> Swept {
    let mut swept = Swept::default();
    let mut todo: Vec<(Plan, u64, Fate)> = Vec::new();
    for plan in lives() {
        let undisturbed = attempt(&plan, None, false, |_| {});
        let seed = plan.seed;
        swept.violations.extend(undisturbed.verdict.err().map(|text| format!("life {seed}: {text}")));
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
                    let outcome = attempt(plan, None, false, |life: &mut Life| life.arm(*at, *fate));
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
