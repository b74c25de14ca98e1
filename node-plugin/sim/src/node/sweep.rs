//! Scripted lives in which every step of umbra-io is once the last, before and after its effect; fails; and hangs.

use super::life::Life;
use super::machine::Fate;
use super::plan::{Ask, DiskAt, MasterPlan, Plan, SetAt, SetPlan, Step, Stop, Writer};
use super::run::{Outcome, attempt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Begins so, and makes a few of these attempts in each life: the sweep of a life takes the square of its steps.
fn in_lives(begin: &[Step], attempts: &[Vec<Step>]) -> Vec<Vec<Step>> {
    let life = |some: &[Vec<Step>]| begin.iter().chain(some.iter().flatten()).cloned().collect();
    attempts.chunks(7).map(life).collect()
}

/// Enables that fail at each of their later steps, or during which the thread of their master panics, or the process is
/// killed; each tried again.
fn failing_enables() -> Vec<Vec<Step>> {
    let attempt =
        |after, fate| vec![Step::Arm(after, fate), call(Ask::Enable(A)), Step::Again, call(Ask::Disable(A))];
    let fates = [Fate::Fail, Fate::Panic, Fate::DieAfter(Crash::Kill)];
    let attempts = fates.iter().flat_map(|fate| (16..44).map(move |after| attempt(after, *fate)));
    in_lives(&[call(Ask::Attach(0)), write(0, 0)], &attempts.collect::<Vec<_>>())
}

/// Disables that do not end, and a reset of what they leave.
fn failing_disables() -> Vec<Vec<Step>> {
    let attempt = |after| {
        let kill = Step::Stop(Stop::Kill);
        vec![
            Step::Arm(after, Fate::FailAfter),
            call(Ask::Disable(A)),
            call(Ask::Reset(A)),
            kill,
            call(Ask::Enable(A)),
        ]
    };
    let attempts: Vec<_> = (3..12).map(attempt).collect();
    in_lives(&[call(Ask::Attach(0)), write(0, 0), call(Ask::Enable(A))], &attempts)
}

/// Cuts over two masters during which the power or the process ends, from the first word about the instant to the end;
/// the disks of one of them may come later than those of the other. Several times, since which master is ahead is chance.
fn ended_cuts() -> Vec<Vec<Step>> {
    let begin = [call(Ask::Attach(0)), call(Ask::Attach(1)), call(Ask::Enable(A)), call(Ask::Enable(C))];
    let attempt = |after, crash| {
        let fate = Fate::DieAfter(crash);
        vec![write(0, 0), write(1, 0), Step::Arm(after, fate), cut(&[A, C]), Step::ReadOut]
    };
    let crashes = [Crash::PowerCut { granule: 512 }, Crash::Kill];
    let attempts =
        crashes.iter().cycle().take(6).flat_map(|crash| (12..22).map(move |after| attempt(after, *crash)));
    in_lives(&begin, &attempts.collect::<Vec<_>>())
}

/// A master that is written past Umbra.
fn outside(writer: Writer) -> Vec<Step> {
    let rest = [
        Step::WriteOutside(0, writer, false),
        write(0, 20),
        Step::ReadOut,
        Step::Stop(Stop::Power),
        Step::ReadOut,
    ];
    beginning().into_iter().chain(rest).collect()
}

/// The lives, each with a number of its own: its seed.
pub fn lives() -> Vec<Plan> {
    let set = |independent| SetPlan { independent, caches: [Cache::Volatile, Cache::Fua], used: false };
    let master =
        |sets: Vec<SetPlan>| MasterPlan { size: 256 << 10, chunk: 16 << 10, cache: Cache::Volatile, sets };
    let plain = |script| Plan {
        seed: 0,
        timing: Timing::default(),
        masters: vec![master(vec![set(false), set(true)]), master(vec![set(true)])],
        strong: false,
        renames: false,
        late_ms: 0,
        foreign: false,
        mounts: 0,
        looks: 0,
        script,
    };
    let mut plans = vec![
        Plan { strong: true, renames: true, foreign: true, looks: 500, ..plain(everything()) },
        plain(everything()),
        Plan { strong: true, foreign: true, late_ms: 2500, ..plain(everything()) },
        plain(no_room()),
        plain(exchanged()),
        plain(outside(Writer::Dated)),
        plain(outside(Writer::Undated)),
    ];
    plans.extend(failing_enables().into_iter().chain(failing_disables()).map(plain));
    plans.extend(ended_cuts().into_iter().map(|script| Plan { late_ms: 2500, ..plain(script) }));
    for (seed, plan) in (1..).zip(&mut plans) {
        plan.seed = seed;
    }
    plans
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

/// Rounds after which every step has met every fate.
pub const ROUNDS: usize = FATES.len();

/// What to sweep. In a round every step of every life meets one fate, and another one in every other round.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Only every so manieth step.
    pub stride: usize,
    /// The first round.
    pub first: usize,
    /// How many, up to [`ROUNDS`].
    pub rounds: usize,
    /// Threads.
    pub jobs: usize,
}

impl Sweep {
    /// Sweeps life by life, and tells of each what has been found up to its end.
    pub fn run(self, mut tell: impl FnMut(u64, &Swept)) -> Swept {
        let mut swept = Swept::default();
        for plan in lives() {
            let undisturbed = attempt(&plan, None, false, |_| {});
            let text = undisturbed.verdict.err().map(|text| format!("life {}: {text}", plan.seed));
            swept.violations.extend(text);
            swept.steps += undisturbed.tally.steps;
            let steps = (0..undisturbed.tally.steps).step_by(self.stride.max(1)).enumerate();
            let fates = (self.first..self.first + self.rounds.min(ROUNDS)).map(|round| round % ROUNDS);
            let todo: Vec<(u64, Fate)> = steps
                .flat_map(|(n, at)| fates.clone().map(move |round| (at, FATES[(n + round) % ROUNDS])))
                .collect();
            self.sweep_one(&plan, &todo, &mut swept);
            tell(plan.seed, &swept);
        }
        swept
    }

    fn sweep_one(self, plan: &Plan, todo: &[(u64, Fate)], swept: &mut Swept) {
        let (next, swept) = (AtomicUsize::new(0), Mutex::new(swept));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while let Some((at, fate)) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
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
    }
}
