//! Panics that the I/O process tells of, until it is clear whether it went on or died of one. Pure.

use crate::heartbeat::Pulse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// A process that dies of a panic is dead so soon after it told of it; one that is not has gone on.
const DIES_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Panics {
    seen: BTreeMap<Uuid, u64>,
    /// When it was told of, since the start of the process.
    fresh: Vec<(Duration, Uuid)>,
}

impl Panics {
    /// Takes in what was seen at this moment; returns the masters of panics that the process has outlived, once for
    /// each panic.
    pub(super) fn observe(&mut self, now: Duration, pulses: &[Pulse]) -> Vec<Uuid> {
        for pulse in pulses {
            let seen = self.seen.entry(pulse.master).or_default();
            // A number that is not larger is that of a slot which was let go and is not written yet.
            self.fresh.extend((*seen..pulse.panics).map(|_| (now, pulse.master)));
            *seen = pulse.panics.max(*seen);
        }
        let (outlived, fresh) = self.fresh.iter().partition(|(at, _)| now.saturating_sub(*at) >= DIES_WITHIN);
        self.fresh = fresh;
        let outlived: Vec<(Duration, Uuid)> = outlived;
        outlived.into_iter().map(|(_, master)| master).collect()
    }

    /// The process is dead: whose panics it may have died of.
    pub(super) fn fatal(&self) -> BTreeSet<Uuid> {
        self.fresh.iter().map(|(_, master)| *master).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [Uuid; 0] = [];

    #[test]
    fn a_panic_is_outlived_or_fatal_and_counted_once() {
        let [a, b] = [1, 2].map(Uuid::from_u128);
        let pulse = |slot, master, panics| Pulse { slot, master, beats: 1, completed: 1, panics };
        let at = Duration::from_millis;
        let mut panics = Panics::default();
        assert_eq!(panics.observe(at(0), &[pulse(0, a, 0), pulse(1, b, 0)]), NONE);
        assert_eq!(panics.observe(at(500), &[pulse(0, a, 1), pulse(1, b, 0)]), NONE);
        assert_eq!(panics.fatal(), [a].into());
        // Its slot is free while it starts again; then it is back, with the same count.
        assert_eq!(panics.observe(at(1000), &[pulse(1, b, 0)]), NONE);
        assert_eq!(panics.observe(at(1500), &[pulse(0, a, 1), pulse(1, b, 2)]), NONE);
        assert_eq!(panics.observe(at(2500), &[pulse(0, a, 1), pulse(1, b, 2)]), [a]);
        assert_eq!(panics.fatal(), [b].into());
        assert_eq!(panics.observe(at(3500), &[pulse(0, a, 1), pulse(1, b, 2)]), [b, b]);
        assert_eq!(panics.fatal(), BTreeSet::new());
        assert_eq!(panics.observe(at(9000), &[pulse(0, a, 1), pulse(1, b, 2)]), NONE);
    }
}
