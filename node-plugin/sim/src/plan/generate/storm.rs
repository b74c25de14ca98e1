//! Scripts of one kind of trouble at a time: what needs three things to come together within a few turns is too rare
//! among everything.
//!
//! Each episode brings a set where it can go wrong, then lets faults, crashes and siblings in while it is on its way.

use super::{Generator, Step};
use crate::oracle::{SetNumber, Side};
use crate::plan::{Ask, Disk};
use umbra_store::{Crash, Faults};

const NONE: Faults = Faults { read: 0, write: 0, flush: 0, drop_cache: false, hang: 0 };

impl Generator<'_> {
    /// A script of some episodes.
    pub(super) fn storm(&mut self) -> Vec<Step> {
        let mut script: Vec<Step> = (0..self.rng.below(4)).map(|_| self.request(Side::Master)).collect();
        for set in (0..).take(self.sets) {
            script.extend([Step::Enable(set), Step::Cut { set, update: false }]);
            if self.rng.chance(500) {
                script.push(Step::Settle);
            }
        }
        for _ in 0..self.rng.range(1, 4) {
            let set = self.set();
            let episode = match self.rng.index(10) {
                0..=2 => self.restore_that_fails(set),
                7 | 8 => self.requests_that_fail_in_a_restore(set),
                3 => self.restores_in_a_row(set),
                4 | 9 => self.reset_in_a_checkpoint(set),
                5 => self.update_with_losses(set),
                _ => self.cuts_that_overlap(set),
            };
            script.extend(episode);
        }
        script
    }

    fn short(&mut self, most: u64) -> Step {
        Step::Turns(u32::try_from(self.rng.range(1, most)).unwrap_or(1))
    }

    fn writes(&mut self, side: Side, most: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.range(1, most) {
            let (first, count) = self.extent();
            let fua = self.rng.chance(self.fua);
            steps.push(Step::Request { side, ask: Ask::Write { fua }, first, count });
            if self.rng.chance(400) {
                steps.push(self.short(4));
            }
        }
        steps
    }

    /// A fault that shows soon, of one kind or of all.
    fn sudden(&mut self, disk: Disk) -> Step {
        let rate = self.rng.pick(&[150, 500, 1000]);
        let faults = match self.rng.index(6) {
            0 | 1 => Faults { read: rate, ..NONE },
            2 => Faults { write: rate, ..NONE },
            3 => Faults { flush: rate, ..NONE },
            4 => Faults { hang: rate.min(300), ..NONE },
            _ => Faults { read: rate, write: rate, flush: rate, ..NONE },
        };
        Step::Faults(disk, faults)
    }

    /// What happens beside a restore.
    fn beside(&mut self, set: SetNumber) -> Vec<Step> {
        let other = self.set();
        match self.rng.index(12) {
            0..=2 => self.writes(Side::Master, 3),
            3 => self.writes(Side::Shadow(set), 2),
            4 | 5 => vec![self.request(Side::Master)],
            6 => vec![self.request(Side::Shadow(other))],
            7 => vec![self.sudden(Disk::Shadow(set))],
            8 => vec![self.sudden(Disk::Shadow(other))],
            9 => vec![self.sudden(Disk::Bitmap(other))],
            10 => vec![Step::Disable { set: other, force: true }],
            _ => vec![Step::Heal],
        }
    }

    fn restore_that_fails(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = self.writes(Side::Master, 6);
        if self.rng.chance(700) {
            steps.push(Step::Settle);
        }
        if self.rng.chance(500) {
            steps.push(Step::Limit(set, Some(self.rng.range(1, 6))));
        }
        steps.push(Step::Restore { set, update: self.rng.chance(600) });
        for _ in 0..self.rng.range(2, 10) {
            steps.push(self.short(6));
            steps.extend(self.beside(set));
        }
        self.aftermath(set, &mut steps);
        steps
    }

    /// Parts of chunks cannot be had from the shadow, whole ones are overwritten without it; then it is well again.
    fn requests_that_fail_in_a_restore(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = vec![Step::Settle];
        steps.extend(self.writes(Side::Master, 8));
        steps.extend([Step::Settle, Step::Limit(set, Some(1)), Step::Restore { set, update: true }]);
        let rate = self.rng.pick(&[300, 1000]);
        steps.extend([self.short(8), Step::Faults(Disk::Shadow(set), Faults { read: rate, ..NONE })]);
        for _ in 0..self.rng.range(3, 8) {
            let chunk = self.chunk_sectors;
            let at = self.rng.below(self.hot.div_ceil(chunk)) * chunk;
            let whole = (at, chunk.min(self.sectors - at));
            let part = (at, 1);
            let (first, count) = if self.rng.chance(500) { whole } else { part };
            let ask = Ask::Write { fua: false };
            steps.extend([Step::Request { side: Side::Master, ask, first, count }, self.short(10)]);
            if self.rng.chance(150) {
                steps.push(Step::Heal);
            }
        }
        steps.extend([Step::Heal, Step::Resume(set), Step::Limit(set, None)]);
        steps.extend(self.writes(Side::Master, 3));
        self.aftermath(set, &mut steps);
        steps
    }

    /// One restore's flushes prove nothing for the next.
    fn restores_in_a_row(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.range(2, 3) {
            steps.extend(self.writes(Side::Master, 4));
            if self.rng.chance(500) {
                steps.push(Step::Settle);
            }
            steps.push(Step::Restore { set, update: true });
            steps.push(self.short(20));
            steps.extend(self.writes(Side::Master, 2));
        }
        self.aftermath(set, &mut steps);
        steps
    }

    /// The ring is filled until it is checkpointed; then the image ends and begins anew.
    fn reset_in_a_checkpoint(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.range(4, 10) {
            steps.extend(self.writes(Side::Master, 2));
            steps.push(self.short(6));
        }
        steps.push(Step::Faults(Disk::Shadow(set), Faults { flush: 1000, write: 1000, ..NONE }));
        steps.extend(self.writes(Side::Master, 2));
        steps.push(self.short(25));
        if self.rng.chance(800) {
            steps.push(Step::Heal);
        }
        steps.push(Step::Cut { set, update: false });
        steps.extend(self.writes(Side::Master, 3));
        steps.push(self.short(20));
        self.aftermath(set, &mut steps);
        steps
    }

    /// Chunks are lost on their way, and the next update begins while they are.
    fn update_with_losses(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = vec![Step::Settle];
        for _ in 0..self.rng.range(1, 3) {
            let disk = self.rng.pick(&[Disk::Shadow(set), Disk::Master, Disk::Bitmap(set)]);
            let rate = self.rng.pick(&[150, 500]);
            steps.extend(self.writes(Side::Master, 3));
            steps.extend(self.writes(Side::Shadow(set), 2));
            steps.push(Step::Faults(disk, Faults { read: rate, write: rate, ..NONE }));
            steps.push(Step::Cut { set, update: true });
            steps.extend(self.writes(Side::Master, 4));
            steps.extend([self.short(12), Step::Heal, self.short(6)]);
            if self.rng.chance(500) {
                steps.push(Step::Settle);
            }
            steps.push(Step::Cut { set, update: true });
            if self.rng.chance(300) {
                steps.push(Step::ReadOut);
            }
        }
        self.aftermath(set, &mut steps);
        steps
    }

    /// Gates of several sets closed and opened around each other.
    fn cuts_that_overlap(&mut self, set: SetNumber) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.range(2, 5) {
            steps.extend(self.writes(Side::Master, 3));
            let other = self.set();
            steps.push(Step::Cut { set, update: self.rng.chance(600) });
            steps.push(self.short(5));
            steps.push(Step::Cut { set: other, update: self.rng.chance(600) });
            if self.rng.chance(300) {
                steps.push(self.sudden(Disk::Master));
                steps.push(self.short(4));
                steps.push(Step::Heal);
            }
        }
        self.aftermath(set, &mut steps);
        steps
    }

    fn aftermath(&mut self, set: SetNumber, steps: &mut Vec<Step>) {
        if self.rng.chance(600) {
            let power = Crash::PowerCut { granule: 512 };
            let crash = if self.rng.chance(500) { power } else { Crash::Kill };
            let after = if self.rng.chance(300) { 0 } else { self.rng.below(60) };
            steps.push(Step::Crash { after, crash });
            steps.push(self.short(12));
        }
        if self.rng.chance(800) {
            steps.extend([Step::Heal, Step::Resume(set)]);
        }
        if self.rng.chance(500) {
            steps.push(Step::Settle);
        }
        if self.rng.chance(400) {
            steps.extend([Step::Heal, Step::Resume(set), Step::Limit(set, None), Step::Settle]);
            steps.extend([Step::Cut { set, update: true }, Step::Settle]);
        }
        if self.rng.chance(700) {
            steps.push(Step::ReadOut);
        }
    }
}
