//! What the workload and the operator do.

use super::{Life, Outstanding, REQUESTS, Running};
use crate::oracle::{SetNumber, Side, Verdict};
use crate::plan::{Ask, Disk, Step};
use umbra_engine::{Command, CommandId, CopyKind, CopyLimits, CutMember, Now, SetIndex, SetState};
use umbra_store::{Crash, Faults};

impl Life {
    /// Issues a request, if there is somebody who may.
    pub(super) fn ask(&mut self, side: Side, ask: Ask, first: u64, count: u64) -> Verdict {
        let absent = match side {
            Side::Master => {
                let restore = |running: &Running| matches!(running, Running::Restore { .. });
                self.commands.values().any(restore) || self.oracle.is_restore_asked()
            }
            Side::Shadow(set) => self.oracle.image(set).is_none() || self.is_closing(set),
        };
        if absent || self.commands.values().any(|running| *running == Running::Detach) {
            return Ok(());
        }
        if self.outstanding.len() >= REQUESTS as usize
            && !self.turn_until(500, |life| life.outstanding.len() < REQUESTS as usize)?
        {
            return Ok(());
        }
        let writes = matches!(ask, Ask::Write { .. } | Ask::Zeroes { .. } | Ask::Discard);
        let Some(volume) = self.oracle.volume(side) else { return Ok(()) };
        if writes && !self.plan.overlaps && volume.is_writing(first, count) {
            return Ok(());
        }
        self.issue(side, ask, first, count, false);
        Ok(())
    }

    /// Whether nobody may have the shadow open, because a command is about to change what it is.
    fn is_closing(&self, set: SetNumber) -> bool {
        let closes = |running: &&Running| !matches!(running, Running::Repeat { .. } | Running::Minor { .. });
        self.commands.values().filter(closes).any(|running| running.concerns(set))
    }

    /// Issues a request.
    pub(super) fn issue(&mut self, side: Side, ask: Ask, first: u64, count: u64, reads_out: bool) {
        let id = (0..REQUESTS).find(|id| !self.outstanding.contains_key(id)).expect("there was room");
        let master_faults = self.injected(Disk::Master);
        let values = match ask {
            Ask::Write { .. } => self.oracle.fresh_values(count),
            Ask::Zeroes { .. } => vec![0; usize::try_from(count).expect("small requests")],
            Ask::Discard => self.oracle.master.unknown_values(count),
            Ask::Read | Ask::Flush => Vec::new(),
        };
        let fua = matches!(ask, Ask::Write { fua: true } | Ask::Zeroes { fua: true });
        let issued = self.oracle.now();
        let passes = self.is_of_blocks(ask, first, count);
        if !values.is_empty()
            && passes
            && let Some(volume) = self.oracle.volume(side)
        {
            volume.issue(id, first, &values, fua, issued);
        }
        if ask == Ask::Read
            && passes
            && let Some(volume) = self.oracle.volume(side)
        {
            volume.look(issued);
        }
        if !reads_out {
            let stamps = values.first().copied();
            self.log(|| format!("request {id}: {side:?} {ask:?} {first}+{count} from w{stamps:?}"));
        }
        self.tally.requests += 1;
        let submitted_ms = self.now_ms;
        // A fault that was drawn before the faults ended says nothing about the image.
        let reads_out = reads_out && self.is_healthy();
        let request = Outstanding {
            side,
            ask,
            first,
            count,
            values,
            issued,
            submitted_ms,
            master_faults,
            in_restore: false,
            reads_out,
        };
        self.outstanding.insert(id, request);
        self.submit(id);
    }

    pub(super) fn command(&mut self, running: Running, command: Command) {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.commands.insert(id, running);
        let now = Now(self.now_ms);
        self.machine().command(now, id, command);
    }

    /// Waits for the last command for a set; false if it takes too long. Commands for different sets overlap.
    pub(super) fn commands_done(&mut self, set: SetNumber) -> Result<bool, String> {
        self.turn_until(4000, |life| !life.commands.values().any(|running| running.concerns(set)))
    }

    /// Waits until nobody has the shadow open.
    pub(super) fn close_shadow(&mut self, set: SetNumber) -> Result<bool, String> {
        self.turn_until(600, |life| !life.is_open(set))
    }

    /// Whether somebody uses the shadow.
    pub(super) fn is_open(&self, set: SetNumber) -> bool {
        self.outstanding.values().any(|request| request.side == Side::Shadow(set))
    }

    /// Waits until nobody has the master open.
    pub(super) fn close_master(&mut self) -> Result<bool, String> {
        let open = |life: &Self| life.outstanding.values().any(|request| request.side == Side::Master);
        self.turn_until(600, |life| !open(life))
    }

    /// Faults that no image of a cut that begins now may be excused by.
    pub(super) fn faults_before_cut(&self, set: SetNumber) -> u64 {
        match (self.enabled(set), self.state(set)) {
            (Some(enabled), Some(SetState::Prepared)) => enabled.faults_before,
            // What hangs was injected before, and may be noticed after.
            _ if self.world.hanging() > 0 => self.faults_of(set).saturating_sub(1),
            _ => self.faults_of(set),
        }
    }

    pub(super) fn cut(&mut self, set: SetNumber, update: bool) -> Verdict {
        if !self.commands_done(set)? || !self.close_shadow(set)? {
            return Ok(());
        }
        let (Some(_), Some(state)) = (self.enabled(set), self.state(set)) else { return Ok(()) };
        let before = self.faults_before_cut(set);
        let cut = self.fresh_id();
        let kind = if update { CopyKind::Update } else { CopyKind::Full };
        let reset = matches!(state, SetState::Offline(_));
        self.oracle.cut_begins(set, before);
        let unix_ms = self.now_ms;
        let member = CutMember { reset, ..CutMember::to_shadow(SetIndex(set), kind) };
        self.command(Running::Cut { set, cut }, Command::Cut { member, cut, unix_ms });
        Ok(())
    }

    /// A restore: nobody has the master or the shadow open until it is answered.
    pub(super) fn restore(&mut self, set: SetNumber, update: bool) -> Verdict {
        let closed = |life: &Self| {
            let open = |side| life.outstanding.values().any(|request| request.side == side);
            !open(Side::Master) && !open(Side::Shadow(set))
        };
        let crashes = self.tally.crashes;
        if !self.commands_done(set)? || !self.turn_until(600, closed)? || self.tally.crashes > crashes {
            return Ok(());
        }
        if !self.is_restorable(set) {
            return Ok(());
        }
        let cut = self.fresh_id();
        let kind = if update { CopyKind::Update } else { CopyKind::Full };
        self.restoring = Some(set);
        self.oracle.restore_begins(set);
        let member = CutMember::to_master(SetIndex(set), kind);
        let unix_ms = self.now_ms;
        self.command(Running::Restore { set, cut }, Command::Cut { member, cut, unix_ms });
        Ok(())
    }

    pub(super) fn steer_copier(&mut self, set: SetNumber, step: Step) -> Verdict {
        if self.enabled(set).is_none() {
            return Ok(());
        }
        let chunk = self.plan.geometry.chunk_bytes();
        let index = SetIndex(set);
        let command = match step {
            Step::Abort(_) => Command::Abort { set: index },
            Step::Resume(_) => Command::Resume { set: index },
            Step::Limit(_, chunks) => {
                let bytes_per_second = chunks.map(|chunks| chunks * chunk * 10);
                Command::SetCopyLimits { set: index, limits: CopyLimits { bytes_per_second, in_flight: 2 } }
            }
            _ => return Ok(()),
        };
        self.command(Running::Minor { set }, command);
        Ok(())
    }

    pub(super) fn disable(&mut self, set: SetNumber, force: bool) -> Verdict {
        if self.enabled(set).is_some()
            && self.commands_done(set)?
            && self.close_shadow(set)?
            && self.enabled(set).is_some()
        {
            self.command(Running::Disable { set }, Command::Disable { set: SetIndex(set), force });
        }
        Ok(())
    }

    /// Closes everything in order, sometimes loses the power, and starts again.
    pub(super) fn detach(&mut self) -> Verdict {
        if !self.settle(1000)? || self.restoring.is_some() {
            return Ok(());
        }
        self.command(Running::Detach, Command::Detach);
        let crashes = self.tally.crashes;
        if !self.turn_until(4000, |life| life.commands.is_empty())? {
            // An end that cannot be recorded is waited for, by policy.
            self.notes.set_failing(0);
            if !self.turn_until(4000, |life| life.commands.is_empty())? {
                return Err("a detach did not end".to_owned());
            }
        }
        if self.tally.crashes > crashes {
            return Ok(());
        }
        if !self.machine().master().is_detached() {
            return Err("a detach was answered but the master is attached".to_owned());
        }
        self.check_raw()?;
        if self.rng.chance(300) {
            self.world.crash(Crash::PowerCut { granule: 512 });
            return self.crashed();
        }
        // The label of the last cut may still be on its way.
        while self.world.in_flight() > self.world.hanging() {
            self.turn()?;
        }
        // The next process's claim waits for what hangs (E6).
        self.world.release();
        while self.world.in_flight() > 0 {
            self.turn()?;
        }
        self.restart()
    }

    pub(super) fn arm(&mut self, after: u64, crash: Crash) -> Verdict {
        if after == 0 {
            self.world.crash(crash);
            return self.crashed();
        }
        self.world.crash_at(Some((self.world.operations() + after, crash)));
        Ok(())
    }

    pub(super) fn heal(&mut self) {
        for disk in &self.disks {
            self.world.set_faults(*disk, Faults::default());
        }
        self.healthy.fill(true);
        if self.notes.is_failing() {
            // While nothing could be recorded requests may have waited by policy: their time counts from here.
            let now = self.now_ms;
            self.outstanding.values_mut().for_each(|request| request.submitted_ms = now);
        }
        self.notes.set_failing(0);
        self.world.release();
    }
}
