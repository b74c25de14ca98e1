//! The log of deaths, and what follows from it: when to start again, and how carefully. Pure but for the file.
//!
//! A death counts if the supervisor caused it, or if a master had not got on since the start, which is to complete
//! a request or to go round for some seconds: then waiting I/O has not moved, and will not move by itself. After
//! [`COUNTED_MAX`] counted deaths within the window the masters concerned start without their dependent shadows,
//! so that at least the masters go on (E11).
//!
//! Deaths are counted per master. A thread that panics is a death of its master alone, and always counts: the
//! process goes on, tells the supervisor by the heartbeat, and starts the master again. A process that dies of a
//! panic has told whose it was; one that dies without a word is a death of the masters that had just begun to
//! serve: what had got on was not what it died of.
//!
//! A process that ends with an exit code has refused to start, and said why: no kernel support, the state
//! directory missing. That blames no master, and no shadow is given up for it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;
use uuid::Uuid;

/// Counted deaths within the window after which shadows are given up.
pub const COUNTED_MAX: usize = 3;
/// The window: E11 says a minute.
const WINDOW_MIN: Duration = Duration::from_secs(60);
/// Wait before the second start in a row without progress; doubles with each one more.
const DELAY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before a start: I/O of every master waits meanwhile.
const DELAY_MAX: Duration = Duration::from_secs(5);
/// Deaths kept for people to read; any window holds fewer that matter.
const DEATHS_MAX: usize = 64;
/// Version of the file.
const VERSION: u32 = 1;

/// How the I/O process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The supervisor killed it: reactors were hung.
    Hung,
    /// A signal that the supervisor did not send.
    Signal(i32),
    /// An exit code other than 0.
    Exit(i32),
    /// A thread of one master panicked.
    Panicked,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hung => f.write_str("hung, and killed by the supervisor"),
            Self::Signal(number) => write!(f, "killed by signal {number}"),
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Panicked => f.write_str("a thread of the master panicked"),
        }
    }
}

/// A death.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Death {
    /// When, in milliseconds since the machine started.
    pub at_ms: u64,
    /// How.
    pub cause: Cause,
    /// Whose reactors were hung, or whose threads panicked; or, of a process that died without a word, the masters
    /// that it knew of and that had not got on. Empty: it had not come so far.
    pub masters: BTreeSet<Uuid>,
    /// Whether every master had got on since the start.
    pub served: bool,
}

impl Death {
    /// A panic of one master's thread.
    pub fn panic_of(master: Uuid, at_ms: u64) -> Self {
        Self { at_ms, cause: Cause::Panicked, masters: [master].into(), served: false }
    }

    /// Whether it counts.
    pub fn counts(&self) -> bool {
        matches!(self.cause, Cause::Hung | Cause::Panicked) || !self.served
    }
}

/// Masters whose dependent shadows are to be given up, recorded first; their I/O then passes through.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PassThrough {
    /// None.
    #[default]
    Nobody,
    /// These.
    Masters(BTreeSet<Uuid>),
    /// Every master: nobody knows which of them is to blame.
    Everybody,
}

impl PassThrough {
    /// Whether this master is meant.
    pub fn includes(&self, master: Uuid) -> bool {
        match self {
            Self::Nobody => false,
            Self::Masters(masters) => masters.contains(&master),
            Self::Everybody => true,
        }
    }
}

impl fmt::Display for PassThrough {
    /// `none`, `all`, or UUIDs with commas between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("none"),
            Self::Masters(masters) => {
                let names: Vec<String> = masters.iter().map(Uuid::to_string).collect();
                f.write_str(&names.join(","))
            }
            Self::Everybody => f.write_str("all"),
        }
    }
}

/// A text that names no masters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:.64?} is neither none, nor all, nor UUIDs with commas between")]
pub struct NoMasters(String);

impl FromStr for PassThrough {
    type Err = NoMasters;
    fn from_str(text: &str) -> Result<Self, NoMasters> {
        match text {
            "none" => Ok(Self::Nobody),
            "all" => Ok(Self::Everybody),
            _ => {
                let masters: Result<BTreeSet<Uuid>, uuid::Error> =
                    text.split(',').map(Uuid::parse_str).collect();
                masters.map(Self::Masters).map_err(|_| NoMasters(text.to_owned()))
            }
        }
    }
}

/// How to start next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Wait so long.
    pub delay: Duration,
    /// Who starts without dependent shadows.
    pub pass_through: PassThrough,
}

/// How to start one master again, whose thread has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterDecision {
    /// Wait so long.
    pub delay: Duration,
    /// Whether its dependent shadows are given up, recorded first.
    pub pass_through: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathLog {
    window_ms: u64,
    boot: String,
    deaths: Vec<Death>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    boot: String,
    deaths: Vec<Death>,
}

impl DeathLog {
    /// Without deaths. `boot` names the boot that times are counted from.
    ///
    /// `hang_after` is what a reactor may be quiet for. The window is a minute, or more where three hangs could
    /// not be noticed in a minute.
    pub fn new(boot: &str, hang_after: Duration) -> Self {
        let window = WINDOW_MIN.max(6 * hang_after);
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Self { window_ms, boot: boot.to_owned(), deaths: Vec::new() }
    }

    /// As [`new`](Self::new), with the deaths that an earlier supervisor noted since the machine started. A file
    /// that cannot be read counts as empty: it only ever makes starts more careful.
    pub fn load(path: &Path, boot: &str, hang_after: Duration) -> Self {
        let mut log = Self::new(boot, hang_after);
        let written: Result<Written, String> = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return log,
            Err(error) => Err(error.to_string()),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
        };
        match written {
            Ok(written) if written.version == VERSION && written.boot == boot => log.deaths = written.deaths,
            Ok(_) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "the log of deaths is started anew"),
        }
        log
    }

    /// Writes the file anew, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let written = Written { version: VERSION, boot: self.boot.clone(), deaths: self.deaths.clone() };
        crate::files::write(path, &serde_json::to_vec_pretty(&written)?).map(drop)
    }

    /// Notes a death and decides how to start next.
    pub fn record(&mut self, death: Death) -> Decision {
        let now_ms = death.at_ms;
        self.deaths.push(death);
        let surplus = self.deaths.len().saturating_sub(DEATHS_MAX);
        self.deaths.drain(..surplus);
        self.decide(now_ms)
    }

    /// How to start the process at this moment. A panic did not end it, so it makes no start wait.
    pub fn decide(&self, now_ms: u64) -> Decision {
        let counted = self.counted(now_ms);
        let ended = |death: &&Death| death.cause != Cause::Panicked;
        let last_counts = self.deaths.iter().rfind(ended).is_some_and(Death::counts);
        // What made progress before it died is worth starting at once.
        let times = if last_counts { counted.iter().copied().filter(ended).count() } else { 0 };
        Decision { delay: delay_after(times), pass_through: blamed(&counted) }
    }

    /// How to start this master at this moment, by the same rules; what became of others does not concern it.
    pub fn decide_for(&self, master: Uuid, now_ms: u64) -> MasterDecision {
        let counted = self.counted(now_ms);
        let times = counted.iter().filter(|death| death.masters.contains(&master)).count();
        MasterDecision { delay: delay_after(times), pass_through: blamed(&counted).includes(master) }
    }

    fn counted(&self, now_ms: u64) -> Vec<&Death> {
        let recent = |death: &&Death| death.counts() && now_ms.saturating_sub(death.at_ms) < self.window_ms;
        self.deaths.iter().filter(recent).collect()
    }

    /// The deaths, the oldest first.
    pub fn deaths(&self) -> &[Death] {
        &self.deaths
    }
}

/// How long to wait after so many deaths in a row without progress.
fn delay_after(times: usize) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        times => {
            let doublings = u32::try_from(times - 2).unwrap_or(u32::MAX).min(16);
            (DELAY_FIRST * 2_u32.pow(doublings)).min(DELAY_MAX)
        }
    }
}

/// Who is concerned by enough of these deaths. One whose master is unknown concerns them all.
fn blamed(counted: &[&Death]) -> PassThrough {
    let blaming = || counted.iter().filter(|death| !matches!(death.cause, Cause::Exit(_)));
    let unknown = blaming().filter(|death| death.masters.is_empty()).count();
    if unknown >= COUNTED_MAX {
        return PassThrough::Everybody;
    }
    let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
    for master in blaming().flat_map(|death| &death.masters) {
        *times.entry(*master).or_insert(unknown) += 1;
    }
    times.retain(|_, times| *times >= COUNTED_MAX);
    if times.is_empty() { PassThrough::Nobody } else { PassThrough::Masters(times.into_keys().collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const HANG_AFTER: Duration = Duration::from_secs(10);

    fn death(at_s: u64, cause: Cause, masters: &[Uuid], served: bool) -> Death {
        Death { at_ms: at_s * 1000, cause, masters: masters.iter().copied().collect(), served }
    }

    fn hung(at_s: u64, masters: &[Uuid]) -> Death {
        death(at_s, Cause::Hung, masters, true)
    }

    fn early(at_s: u64, masters: &[Uuid]) -> Death {
        death(at_s, Cause::Signal(11), masters, false)
    }

    fn late(at_s: u64, masters: &[Uuid]) -> Death {
        death(at_s, Cause::Exit(1), masters, true)
    }

    fn refusal(at_s: u64) -> Death {
        death(at_s, Cause::Exit(1), &[], false)
    }

    fn these(masters: &[Uuid]) -> PassThrough {
        PassThrough::Masters(masters.iter().copied().collect())
    }

    #[test]
    fn what_follows_from_deaths() {
        use PassThrough::{Everybody, Nobody};
        let cases: &[(&str, &[Death], u64, PassThrough)] = &[
            ("the first", &[hung(0, &[A])], 0, Nobody),
            ("the second", &[hung(0, &[A]), hung(10, &[A])], 100, Nobody),
            ("the third", &[hung(0, &[A]), hung(10, &[A]), hung(20, &[A])], 200, these(&[A])),
            ("not in a minute", &[hung(0, &[A]), hung(30, &[A]), hung(60, &[A])], 100, Nobody),
            ("just in a minute", &[hung(1, &[A]), hung(30, &[A]), hung(60, &[A])], 200, these(&[A])),
            ("others hang", &[hung(0, &[A]), hung(10, &[B]), hung(20, &[A])], 200, Nobody),
            ("one of two", &[hung(0, &[A, B]), hung(10, &[A]), hung(20, &[A])], 200, these(&[A])),
            ("both", &[early(0, &[A, B]), early(1, &[A, B]), hung(20, &[A, B])], 200, these(&[A, B])),
            ("with progress", &[late(0, &[A]), late(1, &[A]), late(2, &[A]), late(3, &[A])], 0, Nobody),
            ("progress between", &[early(0, &[A]), early(1, &[A]), late(2, &[A])], 0, Nobody),
            (
                "progress does not excuse",
                &[early(0, &[A]), early(1, &[A]), late(2, &[A]), early(3, &[A])],
                200,
                these(&[A]),
            ),
            ("refuses to start", &[refusal(0), refusal(1), refusal(2), refusal(3)], 400, Nobody),
            ("refuses to start, then hangs", &[refusal(0), refusal(1), hung(2, &[A])], 200, Nobody),
            ("nobody known", &[early(0, &[]), early(1, &[]), early(2, &[])], 200, Everybody),
            ("unknown, then known", &[early(0, &[]), early(1, &[]), early(2, &[A])], 200, these(&[A])),
            ("known, then unknown", &[early(0, &[A]), early(1, &[A]), early(2, &[])], 200, these(&[A])),
        ];
        for (name, deaths, delay_ms, pass_through) in cases {
            let mut log = DeathLog::new("boot", HANG_AFTER);
            let decisions: Vec<Decision> = deaths.iter().map(|death| log.record(death.clone())).collect();
            let expected =
                Decision { delay: Duration::from_millis(*delay_ms), pass_through: pass_through.clone() };
            assert_eq!(decisions.last(), Some(&expected), "{name}");
        }
    }

    #[test]
    fn a_panic_is_a_death_of_its_master_alone() {
        let panic = |second: u64, master| Death::panic_of(master, second * 1000);
        // For A and for B: the wait in ms, and whether their shadows are given up.
        type Expected = [(u64, bool); 2];
        let cases: &[(&str, &[Death], Expected)] = &[
            ("the first", &[panic(0, A)], [(0, false), (0, false)]),
            ("the second", &[panic(0, A), panic(1, A)], [(100, false), (0, false)]),
            ("the third", &[panic(0, A), panic(1, A), panic(2, A)], [(200, true), (0, false)]),
            ("of both", &[panic(0, A), panic(1, B), panic(2, A), panic(3, B)], [(100, false), (100, false)]),
            ("not in a minute", &[panic(0, A), panic(30, A), panic(60, A)], [(100, false), (0, false)]),
            ("and hung", &[hung(0, &[A]), panic(1, A), hung(2, &[A, B])], [(200, true), (0, false)]),
            ("others died", &[early(0, &[B]), early(1, &[B]), panic(2, A)], [(0, false), (100, false)]),
        ];
        for (name, deaths, expected) in cases {
            let mut log = DeathLog::new("boot", HANG_AFTER);
            let now_ms = deaths.last().unwrap().at_ms;
            deaths.iter().for_each(|death| drop(log.record(death.clone())));
            for (master, (delay_ms, pass_through)) in [A, B].into_iter().zip(expected) {
                let delay = Duration::from_millis(*delay_ms);
                let expected = MasterDecision { delay, pass_through: *pass_through };
                assert_eq!(log.decide_for(master, now_ms), expected, "{name}");
                let process = log.decide(now_ms).pass_through;
                assert_eq!(process.includes(master), *pass_through, "{name}: a start of the process agrees");
            }
        }
        let mut log = DeathLog::new("boot", HANG_AFTER);
        (0..3).for_each(|second| drop(log.record(panic(second, A))));
        assert_eq!(log.decide(3000).delay, Duration::ZERO, "the process did not die of it");
    }

    #[test]
    fn waits_grow_to_a_bound_and_are_forgotten_after_the_window() {
        let mut log = DeathLog::new("boot", HANG_AFTER);
        let delays: Vec<u128> =
            (0..10).map(|second| log.record(early(second, &[])).delay.as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(log.record(early(500, &[])).delay, Duration::ZERO);
        for second in 600..800 {
            assert!(log.record(early(second, &[])).delay <= DELAY_MAX);
        }
        assert_eq!(log.deaths().len(), DEATHS_MAX);
    }

    #[test]
    fn slow_watching_widens_the_window() {
        let mut log = DeathLog::new("boot", Duration::from_secs(60));
        log.record(hung(0, &[A]));
        log.record(hung(70, &[A]));
        assert_eq!(log.record(hung(140, &[A])).pass_through, these(&[A]));
    }

    #[test]
    fn the_log_survives_the_supervisor_but_not_the_boot() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deaths.json");
        assert_eq!(DeathLog::load(&path, "x", HANG_AFTER).deaths(), []);
        let mut log = DeathLog::new("x", HANG_AFTER);
        log.record(hung(1, &[A, B]));
        log.record(early(2, &[]));
        log.record(late(3, &[B]));
        log.save(&path).unwrap();
        assert_eq!(DeathLog::load(&path, "x", HANG_AFTER), log);
        assert_eq!(DeathLog::load(&path, "y", HANG_AFTER).deaths(), []);
        let again = DeathLog::load(&path, "x", HANG_AFTER).decide(3000);
        assert_eq!(again, log.decide(3000));
        for garbage in ["", "{}", "[1]", "{\"version\":2,\"boot\":\"x\",\"deaths\":[]}"] {
            std::fs::write(&path, garbage).unwrap();
            assert_eq!(DeathLog::load(&path, "x", HANG_AFTER).deaths(), [], "{garbage}");
        }
    }

    #[test]
    fn masters_that_pass_through_have_a_text_form() {
        for (text, value, includes_a) in [
            ("none", PassThrough::Nobody, false),
            ("all", PassThrough::Everybody, true),
            ("00000000-0000-0000-0000-000000000002", these(&[B]), false),
            (
                "00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000002",
                these(&[A, B]),
                true,
            ),
        ] {
            assert_eq!(value.to_string(), text);
            assert_eq!(text.parse(), Ok(value.clone()));
            assert_eq!(value.includes(A), includes_a, "{text}");
        }
        for text in ["", ",", "All", "1"] {
            assert_eq!(PassThrough::from_str(text), Err(NoMasters(text.to_owned())));
        }
    }
}
