//! One life of the I/O process, as its supervisor sees it.

use super::deaths::{Cause, Death};
use super::ending::{Ending, Step};
use super::panics::Panics;
use crate::heartbeat::{Monitor, Pulse, Watchdog};
use rustix::process::{Pid, Signal, WaitStatus};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Looks at the heartbeat within the time that a reactor may be quiet.
pub(super) const LOOKS: u32 = 20;

/// Whose death it is when a process dies without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Blame {
    masters: BTreeSet<Uuid>,
    /// Whether all that mattered had got on.
    served: bool,
}

impl Blame {
    /// As the masters were when it was last seen; `served_before` says whether any request had completed at all.
    ///
    /// Where some masters had got on and the process died all the same, those are concerned that had just begun to
    /// serve; one that still waited for its device may do so for hours, and many processes may be ended meanwhile.
    fn of(pulses: &[Pulse], served_before: bool) -> Self {
        let (got_on, starting): (Vec<&Pulse>, Vec<&Pulse>) =
            pulses.iter().partition(|pulse| pulse.has_got_on());
        let begun = |pulse: &&&Pulse| got_on.is_empty() || pulse.beats > 0;
        let masters: BTreeSet<Uuid> = starting.iter().filter(begun).map(|pulse| pulse.master).collect();
        // Without masters, what it did before counts.
        let served = if pulses.is_empty() { served_before } else { masters.is_empty() };
        Self { masters, served }
    }
}

/// How the I/O process ended.
pub(super) struct Ended {
    /// None if it did not: it was killed, and is not waited for any more.
    pub(super) status: Option<WaitStatus>,
    /// Reactors for which it was killed.
    hung: BTreeSet<Uuid>,
    /// Masters of a panic that it may have died of.
    panicked: BTreeSet<Uuid>,
    /// Of a death without a word.
    blame: Blame,
}

impl Ended {
    fn cause(&self) -> Cause {
        let code = |status: WaitStatus| Cause::Exit(status.exit_status().unwrap_or_default());
        match self.status {
            _ if !self.hung.is_empty() => Cause::Hung,
            Some(status) => status.terminating_signal().map_or_else(|| code(status), Cause::Signal),
            None => Cause::Signal(Signal::KILL.as_raw()),
        }
    }

    /// As the log of deaths has it.
    pub(super) fn death(self, at_ms: u64) -> Death {
        let cause = self.cause();
        let by_panic = !self.panicked.is_empty();
        let masters = match cause {
            Cause::Hung => self.hung,
            _ if by_panic => self.panicked,
            _ => self.blame.masters,
        };
        Death { at_ms, cause, masters, served: self.blame.served && !by_panic }
    }
}

/// A running I/O process, as its supervisor sees it.
pub(super) struct Watch {
    pub(super) child: Pid,
    monitor: Monitor,
    watchdog: Watchdog,
    pub(super) hung: BTreeSet<Uuid>,
    panics: Panics,
    /// As they were when it was last seen.
    pulses: Vec<Pulse>,
    served: bool,
    started: Instant,
    last_look: Instant,
    ending: Ending,
}

impl Watch {
    pub(super) fn new(child: Pid, monitor: Monitor, hang_after: Duration) -> Self {
        Self {
            child,
            monitor,
            watchdog: Watchdog::new(hang_after, hang_after / LOOKS),
            hung: BTreeSet::new(),
            panics: Panics::default(),
            pulses: Vec::new(),
            served: false,
            started: Instant::now(),
            last_look: Instant::now(),
            ending: Ending::default(),
        }
    }

    /// Passes on that it is to end.
    pub(super) fn end(&mut self, signal: Signal) {
        self.ending.told(self.started.elapsed());
        super::send(self.child, signal);
    }

    /// Reads the heartbeat; says what to do about the process, and whose panics it has outlived.
    pub(super) fn look(&mut self) -> (Step, Vec<Uuid>) {
        let mut outlived = Vec::new();
        let mut hangs = false;
        match self.monitor.read() {
            Ok(pulses) => {
                self.served |= pulses.iter().any(|pulse| pulse.completed > 0);
                outlived = self.panics.observe(self.started.elapsed(), &pulses);
                let quiet = self.watchdog.observe(self.last_look.elapsed(), &pulses);
                self.last_look = Instant::now();
                self.pulses = pulses;
                hangs = !quiet.is_empty();
                if self.hung.is_empty() {
                    self.hung.extend(quiet);
                }
            }
            Err(error) => tracing::warn!(%error, "the heartbeat cannot be read"),
        }
        (self.ending.look(self.started.elapsed(), hangs), outlived)
    }

    pub(super) fn ended(self, status: Option<WaitStatus>) -> Ended {
        let blame = Blame::of(&self.pulses, self.served);
        Ended { status, hung: self.hung, panicked: self.panics.fatal(), blame }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_are_to_blame_that_had_just_begun() {
        // Beats and completed requests of each master.
        type Case<'a> = (&'a str, &'a [(u64, u64)], &'a [u128], bool);
        let cases: &[Case<'_>] = &[
            ("nobody known", &[], &[], false),
            ("all waited", &[(0, 0), (0, 0)], &[0, 1], false),
            ("one had begun", &[(1, 0), (0, 0)], &[0, 1], false),
            ("one had served, one had just begun", &[(1, 1), (1, 0)], &[1], false),
            ("one had served, one waited for its device", &[(1, 1), (0, 0)], &[], true),
            ("one was idle for long, one had begun", &[(99, 0), (7, 0)], &[1], false),
            ("all had got on", &[(99, 0), (1, 5)], &[], true),
        ];
        for (name, masters, blamed, served) in cases {
            let pulse = |(slot, (beats, completed)): (usize, &(u64, u64))| Pulse {
                slot,
                master: Uuid::from_u128(u128::try_from(slot).unwrap()),
                beats: *beats,
                completed: *completed,
                panics: 0,
            };
            let pulses: Vec<Pulse> = masters.iter().enumerate().map(pulse).collect();
            let masters = blamed.iter().map(|number| Uuid::from_u128(*number)).collect();
            assert_eq!(Blame::of(&pulses, false), Blame { masters, served: *served }, "{name}");
        }
        assert!(Blame::of(&[], true).served);
    }
}
