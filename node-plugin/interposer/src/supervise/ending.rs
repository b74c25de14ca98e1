//! From a running I/O process to the next one: when it is killed, and when it is no longer waited for. Pure.
//!
//! ```text
//!            told to end                    STOP_LIMIT
//!   Running ────────────> Ending ─────────────────────┐
//!      │ a reactor hangs                              v
//!      └───────────────────────────────────────────> Killed ── KILL_LIMIT ──> Abandoned
//! ```
//!
//! A process that is killed and does not end is in the hands of the kernel: a thread of it waits for a device, and
//! for as long as it does, the process keeps what it has locked, the state directory among it, and the kernel goes
//! on holding the requests of its devices. Waiting for it without end would leave nobody to start the next one when
//! it has gone, and nobody to say what is the matter. So the next is started: it cannot open the state directory
//! before the old one has let go, says who has it, and ends; and it is started again until it can. It never serves
//! beside the old one, whose heartbeat file is not its own either.

use std::time::Duration;

/// Longest time that an ordered end may take. Devices stay presented whether it succeeds or not.
pub const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Time for a killed process to be gone. Tearing down the memory and rings of a large one takes a second or two.
pub const KILL_LIMIT: Duration = Duration::from_secs(15);

/// What is known of the process. Times are since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Ending { since: Duration },
    Killed { since: Duration },
    Abandoned,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Kill it.
    Kill(Why),
    /// Go on without it; it is reaped whenever it ends.
    Abandon,
}

/// Why a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A reactor makes no progress.
    Hung,
    /// It was told to end, and did not.
    TooSlow,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Ending(Phase);

impl Default for Ending {
    fn default() -> Self {
        Self(Phase::Running)
    }
}

impl Ending {
    /// It was told to end. Only the first time counts.
    pub fn told(&mut self, now: Duration) {
        if self.0 == Phase::Running {
            self.0 = Phase::Ending { since: now };
        }
    }

    /// The process is still there. `hung`: a reactor makes no progress. Says what to do, each thing once.
    pub fn look(&mut self, now: Duration, hung: bool) -> Step {
        let over = |since: Duration, limit: Duration| now.saturating_sub(since) >= limit;
        match self.0 {
            Phase::Running | Phase::Ending { .. } if hung => self.kill(now, Why::Hung),
            Phase::Ending { since } if over(since, STOP_LIMIT) => self.kill(now, Why::TooSlow),
            Phase::Killed { since } if over(since, KILL_LIMIT) => {
                self.0 = Phase::Abandoned;
                Step::Abandon
            }
            Phase::Running | Phase::Ending { .. } | Phase::Killed { .. } | Phase::Abandoned => Step::Wait,
        }
    }

    fn kill(&mut self, now: Duration, why: Why) -> Step {
        self.0 = Phase::Killed { since: now };
        Step::Kill(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that happens at a second: `T` told to end, `h` a look while a reactor hangs, `.` a look.
    fn steps(events: &[(u64, char)]) -> Vec<Step> {
        let mut ending = Ending::default();
        let mut steps = Vec::new();
        for (second, event) in events {
            let now = Duration::from_secs(*second);
            match event {
                'T' => ending.told(now),
                event => steps.push(ending.look(now, *event == 'h')),
            }
        }
        steps
    }

    #[test]
    fn what_is_done_with_a_process_that_does_not_end() {
        use Step::{Abandon, Kill, Wait};
        use Why::{Hung, TooSlow};
        type Case<'a> = (&'a str, &'a [(u64, char)], &'a [Step]);
        let cases: &[Case<'_>] = &[
            ("runs", &[(0, '.'), (900, '.')], &[Wait, Wait]),
            ("hangs", &[(10, 'h'), (11, 'h'), (24, 'h')], &[Kill(Hung), Wait, Wait]),
            (
                "does not die",
                &[(10, 'h'), (25, 'h'), (26, 'h'), (99, '.')],
                &[Kill(Hung), Abandon, Wait, Wait],
            ),
            ("beats again when killed", &[(10, 'h'), (11, '.'), (25, '.')], &[Kill(Hung), Wait, Abandon]),
            ("told, and slow", &[(5, 'T'), (64, '.'), (65, '.'), (79, '.')], &[Wait, Kill(TooSlow), Wait]),
            ("told, slow, undying", &[(5, 'T'), (65, '.'), (80, '.')], &[Kill(TooSlow), Abandon]),
            ("told twice", &[(5, 'T'), (60, 'T'), (65, '.')], &[Kill(TooSlow)]),
            ("told, then hangs", &[(5, 'T'), (15, 'h'), (65, '.')], &[Kill(Hung), Abandon]),
            ("told when killed", &[(10, 'h'), (11, 'T'), (25, '.')], &[Kill(Hung), Abandon]),
        ];
        for (name, events, expected) in cases {
            assert_eq!(steps(events), *expected, "{name}");
        }
    }
}
