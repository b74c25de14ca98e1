//! Coming to rest, reading everything out, and looking at the disks as somebody without Umbra would.

use super::{Life, PATIENCE, REQUESTS};
use crate::oracle::{Side, Verdict};
use crate::plan::{Ask, Disk, Step};
use crate::stamp::{SECTOR, decode};
use umbra_engine::SetState;
use umbra_store::Crash;

impl Life {
    /// Turns until nothing is in flight; false if something hangs.
    pub(super) fn settle(&mut self, patience: u32) -> Result<bool, String> {
        self.turn_until(patience, Self::is_settled)
    }

    fn is_settled(&self) -> bool {
        self.outstanding.is_empty() && self.commands.is_empty() && self.notes.in_flight() == 0
    }

    fn is_at_rest(&self) -> bool {
        let copying = self.state() == Some(SetState::Copying);
        let merging = self.status().is_some_and(|status| status.header.merging);
        self.is_settled() && self.world.in_flight() == 0 && !copying && !(merging && self.is_online())
    }

    fn is_online(&self) -> bool {
        self.state().is_some_and(SetState::is_online)
    }

    /// Reads both sides, all of them or what was ever written, and has every sector judged.
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
            if let Some(image) = &self.oracle.image {
                starts.extend(image.volume.touched().map(|sector| sector / chunk * chunk));
            }
            starts.extend([0, (sectors - 1) / chunk * chunk]);
            starts.sort_unstable();
            starts.dedup();
            starts
        };
        let crashes = self.tally.crashes;
        for side in [Side::Master, Side::Shadow] {
            for first in &starts {
                if side == Side::Shadow && self.oracle.image.is_none() {
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
        self.check_raw_disk(Disk::Master, Side::Master)?;
        // A complete set may have lost chunks: then its shadow is no plain image, and its status says so.
        let whole = self.status().is_some_and(|status| status.lost == 0);
        if self.was_complete && whole && self.oracle.image.is_some() && self.is_healthy() {
            self.check_raw_disk(Disk::Shadow, Side::Shadow)?;
        }
        Ok(())
    }

    fn check_raw_disk(&mut self, disk: Disk, side: Side) -> Verdict {
        let Some(volume) = self.oracle.volume(side) else { return Ok(()) };
        let sectors: Vec<u64> = volume.touched().collect();
        let from = self.oracle.now();
        let mut bytes = [0; SECTOR];
        for sector in sectors.into_iter().chain([0]) {
            if side == Side::Shadow && self.oracle.is_lost(sector) {
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
        self.rest("everything")?;
        if self.state() == Some(SetState::CopyAborted) {
            self.step(Step::Resume)?;
            self.rest("a resumed copy")?;
        }
        self.read_all()?;
        if matches!(self.state(), Some(SetState::Offline(_))) && self.rng.chance(500) {
            self.log(|| "reset".to_owned());
            self.cut(false)?;
            self.rest("a reset")?;
            if !self.is_online() {
                return Err(format!("a reset without faults left the set {:?}", self.state()));
            }
            self.read_all()?;
        }
        match self.rng.below(4) {
            0 => self.detach()?,
            1 => self.arm(0, Crash::Kill)?,
            2 => self.arm(0, Crash::PowerCut { granule: 512 })?,
            _ => return Ok(()),
        }
        self.rest("everything after the last start")?;
        self.read_all()
    }

    fn read_all(&mut self) -> Verdict {
        if !self.read_out()? {
            return Err("liveness: the read-out did not end".to_owned());
        }
        self.machine().master().self_check();
        self.check_raw()
    }

    fn rest(&mut self, what: &str) -> Verdict {
        self.step(Step::Limit(None))?;
        if self.turn_until(PATIENCE, Self::is_at_rest)? {
            return Ok(());
        }
        let status = self.status();
        Err(format!(
            "liveness: {what} did not come to rest: {} requests, {:?}, {} store operations, {status:?}",
            self.outstanding.len(),
            self.commands,
            self.world.in_flight(),
        ))
    }
}
