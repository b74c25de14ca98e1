//! Coming to rest, reading everything out, and looking at the disks as somebody without Umbra would.

use super::{Life, PATIENCE, REQUESTS};
use crate::oracle::{SetNumber, Side, Verdict};
use crate::plan::{Ask, Disk, Step};
use crate::stamp::{SECTOR, decode};
use umbra_engine::SetState;
use umbra_store::{Crash, Timing};

impl Life {
    /// Turns until nothing is in flight; false if something hangs.
    pub(super) fn settle(&mut self, patience: u32) -> Result<bool, String> {
        self.turn_until(patience, Self::is_settled)
    }

    fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.commands.is_empty() && self.notes.in_flight() == 0
    }

    fn is_at_rest(&self) -> bool {
        let busy = |set: SetNumber| {
            let copying = self.state(set) == Some(SetState::Copying)
                || self.restores_end && self.is_restoring(set) && !self.stands_for_ever(set)
                || self.state(set) == Some(SetState::Restoring) && self.faults() == 0;
            let merging = self.status(set).is_some_and(|status| status.header.merging);
            copying || merging && self.is_online(set)
        };
        self.is_settled() && self.world.in_flight() == 0 && !self.set_numbers().any(busy)
    }

    fn is_online(&self, set: SetNumber) -> bool {
        self.state(set).is_some_and(SetState::is_online)
    }

    /// Reads all sides, everything or what was ever written, and has every sector judged.
    pub(super) fn read_out(&mut self) -> Result<bool, String> {
        if !self.settle(2000)? {
            return Ok(false);
        }
        let chunk = self.plan.geometry.chunk_bytes() / SECTOR as u64;
        let sectors = self.plan.geometry.master_bytes() / SECTOR as u64;
        let starts: Vec<u64> = if sectors <= 6000 {
            (0..sectors).step_by(usize::try_from(chunk).expect("small chunks")).collect()
        } else {
            let mut starts: Vec<u64> =
                self.oracle.master.touched().map(|sector| sector / chunk * chunk).collect();
            for image in self.set_numbers().filter_map(|set| self.oracle.image(set)) {
                starts.extend(image.volume.touched().map(|sector| sector / chunk * chunk));
            }
            starts.extend([0, (sectors - 1) / chunk * chunk]);
            starts.sort_unstable();
            starts.dedup();
            starts
        };
        let crashes = self.tally.crashes;
        for side in std::iter::once(Side::Master).chain(self.set_numbers().map(Side::Shadow)) {
            for first in &starts {
                if self.oracle.volume(side).is_none() {
                    break;
                }
                let room = |life: &Self| life.outstanding.len() < REQUESTS as usize;
                if !self.turn_until(2000, room)? || self.tally.crashes > crashes {
                    return Ok(false);
                }
                self.issue(side, Ask::Read, *first, chunk.min(sectors - *first), true);
            }
            if !self.settle(2000)? || self.tally.crashes > crashes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The raw master is the logical one, and a complete independent shadow is a plain image: both are usable
    /// without Umbra.
    pub(super) fn check_raw(&mut self) -> Verdict {
        if self.restoring.is_none() {
            self.check_raw_disk(Disk::Master, Side::Master)?;
        }
        for set in self.set_numbers() {
            // A complete set may have lost chunks: then its shadow is no plain image, and its status says so.
            let whole = self.status(set).is_some_and(|status| status.lost == 0);
            if self.set(set).was_complete && whole && self.oracle.image(set).is_some() && self.is_healthy() {
                self.check_raw_disk(Disk::Shadow(set), Side::Shadow(set))?;
            }
        }
        Ok(())
    }

    fn check_raw_disk(&mut self, disk: Disk, side: Side) -> Verdict {
        let Some(volume) = self.oracle.volume(side) else { return Ok(()) };
        let sectors: Vec<u64> = volume.touched().collect();
        let from = self.oracle.now();
        let mut bytes = [0; SECTOR];
        for sector in sectors.into_iter().chain([0]) {
            if let Side::Shadow(set) = side
                && self.oracle.is_lost(set, sector)
            {
                continue;
            }
            self.world.peek(self.disk(disk), sector * SECTOR as u64, &mut bytes);
            self.oracle
                .read(side, sector, &[decode(&bytes)], from)
                .map_err(|message| format!("without Umbra: {message}"))?;
        }
        Ok(())
    }

    /// Faults end. From here on everything must come to an end, and then be right, also after one more start.
    pub(super) fn come_to_rest(&mut self) -> Verdict {
        self.log(|| "the faults end".to_owned());
        self.calm = true;
        self.world.crash_at(None);
        self.heal();
        if self.plan.timing.late != u64::MAX {
            self.world.set_timing(Timing::default());
            // To wait for others counts as a fault no more, so nobody has to.
            self.plan.queue = None;
            self.bound_queues(false);
        }
        self.rest("everything")?;
        let aborted =
            |set: &SetNumber| self.state(*set) == Some(SetState::CopyAborted) || self.is_restoring(*set);
        let aborted: Vec<SetNumber> = self.set_numbers().filter(aborted).collect();
        for set in &aborted {
            self.step(Step::Resume(*set))?;
        }
        self.restores_end = true;
        if !aborted.is_empty() {
            self.rest("a resumed copy")?;
        }
        self.read_all()?;
        self.reset_some()?;
        match self.rng.below(4) {
            0 => self.detach()?,
            1 => self.arm(0, Crash::Kill)?,
            2 => self.arm(0, Crash::PowerCut { granule: 512 })?,
            _ => return Ok(()),
        }
        self.rest("everything after the last start")?;
        self.read_all()
    }

    /// Sets that are offline get a new image, or not.
    fn reset_some(&mut self) -> Verdict {
        // Beside a restore nothing is reset.
        if self.restoring.is_some_and(|set| self.stands_for_ever(set)) {
            return Ok(());
        }
        for set in self.set_numbers() {
            if !matches!(self.state(set), Some(SetState::Offline(_))) || !self.rng.chance(500) {
                continue;
            }
            self.log(|| format!("reset of set {set}"));
            self.cut(set, false)?;
            self.rest("a reset")?;
            if !self.is_online(set) {
                return Err(format!("a reset without faults left set {set} {:?}", self.state(set)));
            }
            self.read_all()?;
        }
        Ok(())
    }

    fn read_all(&mut self) -> Verdict {
        if !self.read_out()? {
            return Err("liveness: the read-out did not end".to_owned());
        }
        self.machine().master().self_check();
        self.check_raw()
    }

    fn rest(&mut self, what: &str) -> Verdict {
        for set in self.set_numbers() {
            self.step(Step::Limit(set, None))?;
        }
        if self.turn_until(PATIENCE, Self::is_at_rest)? {
            return Ok(());
        }
        let status: Vec<_> = self.set_numbers().filter_map(|set| self.status(set)).collect();
        Err(format!(
            "liveness: {what} did not come to rest: {} requests, {:?}, {} store operations, {status:?}",
            self.outstanding.len(),
            self.commands,
            self.world.in_flight(),
        ))
    }
}
