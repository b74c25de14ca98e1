//! Everything that is done under the closed gate: a cut, the completion of a copy, disable, detach.
//!
//! ```text
//!  Preflush ─> Settling ─> Closing ─> Draining ─> SourceFlush ─> Checkpointing ─> Head ─> Committing ─> (flip) open
//!  source       merge and   ports      copies,     again (E5)    pages of an     out or   superblock:
//!  once         checkpoint  closed     records                   update          back     the instant
//! ```
//!
//! The first flush only shortens the second. Until the superblock is written nothing durable has changed: any
//! failure opens the gate and the previous image stands (P4). A superblock write whose outcome is unknown ends
//! the image instead, and the gate stays closed until that is recorded.
//! After a crash the superblock alone says on which side of the cut the set is.

use crate::action::{
    Action, Command, CommandId, CopyKind, Device, Done, HeadMove, Now, OpId, Refusal, SetIndex,
};
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::port::ToPort;
use crate::record::{Mode, OfflineCause, PlaneHeader, PlaneId, SetHeader, SetState};
use crate::set::{Checkpoint, Commit, Committing, Durable, Ending, VolumeSet};
use crate::units::Id128;

/// What the gate is closed for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    /// A point in time of a set.
    Cut { set: SetIndex, kind: CopyKind, cut: Id128, unix_ms: u64 },
    /// The copy of an independent set is complete.
    Complete { set: SetIndex },
    /// A set ends.
    Disable { set: SetIndex },
    /// Everything ends, in order.
    Detach,
}

impl Purpose {
    /// Whether the master must be durable before the gate may act (E5). A complete copy and an end do not lean on it.
    fn needs_source(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Detach)
    }

    fn set(&self) -> Option<SetIndex> {
        match self {
            Self::Cut { set, .. } | Self::Complete { set } | Self::Disable { set } => Some(*set),
            Self::Detach => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preflush,
    Settling,
    Closing,
    Draining,
    SourceFlush,
    /// Flushes of this many shadows and bitmap volumes are awaited.
    ShadowFlush(u32),
    Head,
    Checkpointing,
    /// This many superblocks are awaited.
    Committing(u32),
}

/// A gate that is closed or about to be.
#[derive(Debug)]
pub(crate) struct Gate {
    purpose: Purpose,
    command: Option<CommandId>,
    phase: Phase,
    since: Now,
    /// When the phase began.
    phase_since: Now,
    flush_ticket: Option<u64>,
}

impl Owner {
    /// The copier has nothing left: the head goes back and the set becomes complete.
    pub(crate) fn want_completion(&mut self, index: SetIndex) {
        // Commands first: a completion that fails is tried again and must not starve them.
        let free = self.gate.is_none() && self.commands.is_empty() && !self.detached;
        if free && self.set(index).ending == Ending::No {
            self.open_gate(Purpose::Complete { set: index }, None);
        }
    }

    fn open_gate(&mut self, purpose: Purpose, command: Option<CommandId>) {
        let since = self.now;
        let phase = if purpose.needs_source() { Phase::Preflush } else { Phase::Settling };
        self.gate = Some(Gate { purpose, command, phase, since, phase_since: since, flush_ticket: None });
    }

    /// Whether the gate has drained and a checkpoint would come in its way. Until then a full ring must be able to
    /// free itself, or the copies that the drain waits for never end.
    pub(crate) fn gate_is_committing(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| match gate.phase {
            Phase::Preflush | Phase::Settling | Phase::Closing | Phase::Draining | Phase::Checkpointing => {
                false
            }
            Phase::SourceFlush | Phase::ShadowFlush(_) | Phase::Head | Phase::Committing(_) => true,
        })
    }

    /// Starts the next command and takes the gate as far as it goes.
    pub(crate) fn advance_gate(&mut self, out: &mut OwnerOutput) {
        if self.gate.is_none()
            && let Some((id, command)) = self.commands.pop_front()
        {
            match self.gate_purpose(&command) {
                Ok(Ok(done)) => out.actions.push(Action::Answer { command: id, result: Ok(done) }),
                Ok(Err(purpose)) => self.open_gate(purpose, Some(id)),
                Err(refusal) => out.actions.push(Action::Answer { command: id, result: Err(refusal) }),
            }
        }
        while let Some(gate) = &self.gate {
            let before = gate.phase;
            self.gate_step(out);
            if self.gate.as_ref().is_none_or(|gate| gate.phase == before) {
                break;
            }
        }
    }

    /// What a command needs the gate for; or its answer, if that is known already.
    fn gate_purpose(&self, command: &Command) -> Result<Result<Done, Purpose>, Refusal> {
        let known = |set: SetIndex| self.sets[usize::from(set.0)].as_ref().ok_or(Refusal::NoSuchSet);
        match command {
            Command::Cut { set: index, kind, cut, unix_ms, reset } => {
                let set = known(*index)?;
                if set.header.cut == *cut && set.header.state.is_online() {
                    return Ok(Ok(Done::Cut { epoch: set.header.epoch }));
                }
                match (set.header.state, set.ending) {
                    (SetState::Offline(cause), _) if !reset => return Err(Refusal::Offline(cause)),
                    (_, Ending::Superblock(cause) | Ending::Elsewhere { cause, .. }) => {
                        return Err(Refusal::Offline(cause));
                    }
                    _ => {}
                }
                for (device, watch) in
                    [(Device::Shadow(*index), &set.shadow_watch), (Device::Bitmap(*index), &set.bitmap_watch)]
                {
                    if watch.has_abandoned() {
                        return Err(Refusal::AbandonedIo(device));
                    }
                }
                if set.head_moving {
                    // Given up, but when it comes back its next step writes over the head of whatever is there (E6).
                    return Err(Refusal::AbandonedIo(Device::Shadow(*index)));
                }
                let update = *kind == CopyKind::Update && set.header.state.is_online();
                let kind = if update { CopyKind::Update } else { CopyKind::Full };
                Ok(Err(Purpose::Cut { set: *index, kind, cut: *cut, unix_ms: *unix_ms }))
            }
            Command::Disable { set: index, force } => {
                let set = known(*index)?;
                if set.header.state.is_copying() && !force {
                    return Err(Refusal::Dependent);
                }
                Ok(Err(Purpose::Disable { set: *index }))
            }
            Command::Detach => Ok(Err(Purpose::Detach)),
            Command::Abort { .. } | Command::Resume { .. } | Command::SetCopyLimits { .. } => {
                unreachable!("these need no gate")
            }
        }
    }

    fn gate_step(&mut self, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        let purpose = gate.purpose.clone();
        let set = purpose.set();
        let ending = |set: &VolumeSet| matches!(set.ending, Ending::Superblock(_) | Ending::Elsewhere { .. });
        if self.sets.iter().flatten().any(|of| ending(of) && set.is_none_or(|set| set == of.index)) {
            // The end is being recorded; the gate goes on, or opens, when it is.
            return;
        }
        match gate.phase {
            Phase::SourceFlush if !purpose.needs_source() => self.source_flushed(out),
            Phase::Preflush | Phase::SourceFlush => {
                if gate.flush_ticket.is_none() {
                    self.flush_source(out);
                }
            }
            Phase::Settling => {
                let settled = |set: &VolumeSet| {
                    set.checkpoint == Checkpoint::Idle && !set.checkpoint_wanted && !set.header.merging
                };
                if set
                    .is_none_or(|index| settled(self.set(index)) || !self.set(index).header.state.is_online())
                {
                    self.gate_to(Phase::Closing);
                    out.messages.push(ToPort::Close);
                }
            }
            Phase::Draining => {
                if self.is_drained()
                    || is_off(Rule::DrainBeforeFlip) && set.is_some_and(|s| self.may_commit(s))
                {
                    self.gate_to(Phase::SourceFlush);
                }
            }
            Phase::Checkpointing => self.finish_checkpoint(out),
            Phase::Closing if is_off(Rule::DrainBeforeFlip) => self.gate_to(Phase::Draining),
            Phase::Closing | Phase::ShadowFlush(_) | Phase::Head | Phase::Committing(_) => {}
        }
    }

    fn gate_to(&mut self, phase: Phase) {
        let now = self.now;
        if let Some(gate) = &mut self.gate {
            gate.phase = phase;
            gate.phase_since = now;
            gate.flush_ticket = None;
        }
    }

    fn may_commit(&self, index: SetIndex) -> bool {
        let set = self.set(index);
        set.committing == Committing::Idle && set.commits.is_empty()
    }

    /// Whether nothing is on its way to any device but what the workload may still read.
    fn is_drained(&self) -> bool {
        self.copies.is_empty()
            && self.activations.is_empty()
            && self.sets.iter().flatten().all(|set| !set.is_serving() || set.is_drained())
    }

    fn flush_source(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_mut().expect("a gate in progress");
        let inside = gate.phase == Phase::SourceFlush;
        if inside && is_off(Rule::FlushSourceAtCut) {
            self.source_flushed(out);
            return;
        }
        self.master_ticket += 1;
        gate.flush_ticket = Some(self.master_ticket);
        let op = OpId::Flush(Device::Master, self.master_ticket);
        out.actions.push(Action::Flush { op, device: Device::Master });
    }

    /// A flush of the master has ended. One that failed voids the cut.
    pub(crate) fn master_flushed(&mut self, ticket: u64, ok: bool, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        if gate.flush_ticket != Some(ticket) {
            return;
        }
        if !ok && gate.purpose != Purpose::Detach {
            self.void(Refusal::SourceFlush, out);
        } else if gate.phase == Phase::Preflush {
            // What is in the pages before the gate closes need not be written behind it.
            if let Purpose::Cut { set, kind: CopyKind::Update, .. } = gate.purpose
                && self.set(set).is_tracking()
                && !is_off(Rule::RegionsPendingAtCut)
            {
                self.set_mut(set).checkpoint_wanted = true;
            }
            self.gate_to(Phase::Settling);
        } else {
            self.source_flushed(out);
        }
    }

    /// The port holds everything back and has nothing in flight.
    pub(crate) fn port_closed(&mut self, _out: &mut OwnerOutput) {
        if let Some(gate) = &mut self.gate
            && gate.phase == Phase::Closing
        {
            self.gate_to(Phase::Draining);
        }
    }

    /// The source is durable: what comes next depends on what the gate is closed for.
    fn source_flushed(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_ref().expect("a gate in progress");
        match gate.purpose.clone() {
            Purpose::Cut { set: index, kind: CopyKind::Update, .. }
                if self.set(index).is_tracking() && !is_off(Rule::RegionsPendingAtCut) =>
            {
                self.gate_to(Phase::Checkpointing);
                self.set_mut(index).checkpoint_wanted = true;
            }
            Purpose::Cut { .. } => self.move_head_out(out),
            Purpose::Complete { set } => self.flush_sets(&[set], out),
            Purpose::Disable { set } => {
                if self.set(set).is_serving() {
                    self.flush_sets(&[set], out);
                } else {
                    self.commit_gate(out);
                }
            }
            Purpose::Detach => {
                let serving: Vec<SetIndex> =
                    self.set_indexes().filter(|index| self.set(*index).is_serving()).collect();
                if serving.is_empty() {
                    self.gate_done(out);
                } else {
                    self.flush_sets(&serving, out);
                }
            }
        }
    }

    /// An update of a complete shadow leaves chunks in place that the label is going to cover.
    fn move_head_out(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_ref().expect("a gate in progress");
        match gate.purpose {
            Purpose::Cut { set, kind: CopyKind::Update, .. } if !self.set(set).header.head_moved => {
                self.gate_to(Phase::Head);
                self.set_mut(set).head_moving = true;
                out.actions.push(Action::MoveHead { set, to: HeadMove::Out });
            }
            _ => self.commit_gate(out),
        }
    }

    fn flush_sets(&mut self, sets: &[SetIndex], out: &mut OwnerOutput) {
        let awaited = u32::try_from(sets.len() * 2).expect("at most 16 sets");
        self.gate_to(Phase::ShadowFlush(awaited));
        for index in sets {
            let set = self.set_mut(*index);
            // Written through the presented device, without FUA: only a real flush makes that durable.
            set.shadow.must_flush(Durable::Gate);
            set.bitmap.must_flush(Durable::Gate);
        }
        self.settle(out);
    }

    /// A shadow or bitmap volume has been flushed for the gate.
    pub(crate) fn gate_flushed(&mut self, _device: Device, out: &mut OwnerOutput) {
        let Some(gate) = &mut self.gate else { return };
        let Phase::ShadowFlush(awaited) = &mut gate.phase else { return };
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        match gate.purpose.clone() {
            Purpose::Complete { set } => {
                self.gate_to(Phase::Head);
                self.set_mut(set).head_moving = true;
                out.actions.push(Action::MoveHead { set, to: HeadMove::Back });
            }
            Purpose::Disable { .. } | Purpose::Cut { .. } => self.commit_gate(out),
            Purpose::Detach => {
                self.gate_to(Phase::Checkpointing);
                for index in
                    self.set_indexes().filter(|index| self.set(*index).is_serving()).collect::<Vec<_>>()
                {
                    self.set_mut(index).checkpoint_wanted = true;
                }
            }
        }
    }

    /// The head is where it should be, or could not be brought there.
    pub(crate) fn head_moved(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        set.head_moving = false;
        let in_head = self.gate.as_ref().is_some_and(|gate| gate.phase == Phase::Head);
        if in_head && ok {
            self.commit_gate(out);
        } else if in_head {
            self.shadow_failed(index, out);
        }
    }

    /// The pages are complete: nothing is left for a replay, and no region need count as differing (E2).
    fn finish_checkpoint(&mut self, out: &mut OwnerOutput) {
        let ready = |set: &VolumeSet| {
            !set.checkpoint_wanted && set.checkpoint == Checkpoint::Idle && set.committing == Committing::Idle
        };
        if self.sets.iter().flatten().filter(|set| set.is_serving()).all(ready) {
            self.move_head_out(out);
        }
    }

    /// Hands the gate's superblocks out. Written and flushed, they are the instant.
    fn commit_gate(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_ref().expect("a gate in progress");
        let purpose = gate.purpose.clone();
        let sets: Vec<SetIndex> = match purpose.set() {
            Some(set) => vec![set],
            None => self.set_indexes().filter(|index| self.set(*index).is_serving()).collect(),
        };
        if sets.is_empty() {
            // Every set has ended meanwhile: a detach has nothing left to write.
            return self.gate_done(out);
        }
        self.gate_to(Phase::Committing(u32::try_from(sets.len()).expect("at most 16 sets")));
        for index in sets {
            let header = self.gate_header(index, &purpose);
            self.set_mut(index).commits.push_back(Commit::Gate(header));
        }
    }

    /// The header on the far side of the gate.
    fn gate_header(&self, index: SetIndex, purpose: &Purpose) -> SetHeader {
        let set = self.set(index);
        match purpose {
            Purpose::Cut { kind, cut, unix_ms, .. } => {
                let header = cut_header(set, *kind);
                SetHeader { cut: *cut, cut_unix_ms: *unix_ms, ..header }
            }
            Purpose::Complete { .. } => {
                SetHeader { state: SetState::Complete, head_moved: false, ..set.header }
            }
            Purpose::Disable { .. } => SetHeader { state: SetState::Disabled, ..set.header },
            // *Differs* is complete in its pages: a clean set's regions read as inactive.
            Purpose::Detach => SetHeader { clean: true, ..set.header },
        }
    }

    /// A superblock of the gate is durable.
    pub(crate) fn gate_committed(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let gate = self.gate.as_mut().expect("a gate in progress");
        let Phase::Committing(awaited) = &mut gate.phase else { return };
        *awaited -= 1;
        let last = *awaited == 0;
        let purpose = gate.purpose.clone();
        match purpose {
            Purpose::Cut { set, kind, .. } => self.flip(set, kind, out),
            Purpose::Complete { set } => self.set_mut(set).publish_maps(),
            Purpose::Disable { set } => {
                self.set_mut(set).publish_maps();
                out.messages.push(ToPort::Maps(set, None));
            }
            Purpose::Detach => {}
        }
        debug_assert!(purpose.set().is_none_or(|set| set == index));
        if last {
            self.gate_done(out);
        }
    }

    /// The cut in memory.
    fn flip(&mut self, index: SetIndex, kind: CopyKind, out: &mut OwnerOutput) {
        self.counters.cuts += 1;
        let maps = std::sync::Arc::clone(&self.maps);
        // What ports wrote belongs to the past of every set.
        for set in self.sets.iter_mut().flatten() {
            if set.index != index {
                set.fold_written(&maps);
            }
        }
        let set = self.set_mut(index);
        set.journal.checkpointed(set.header.checkpoint_upto);
        if set.parameters.mode == Mode::Independent && kind == CopyKind::Update {
            subtract_differing(set, &maps);
        } else {
            clear_plane(set, PlaneId::Held);
        }
        clear_plane(set, PlaneId::Lost);
        let tracking = [set.differs_plane(), set.region_plane()];
        for plane in tracking {
            clear_plane(set, plane);
        }
        if set.ending == Ending::Recorded {
            set.ending = Ending::No;
        }
        set.copier.cursor = 0;
        set.copier.copied_bytes = 0;
        set.publish_maps();
        let epoch = set.header.epoch;
        maps.written.fill(false);
        out.messages.push(ToPort::Maps(index, Some(std::sync::Arc::clone(&self.set(index).maps))));
        out.actions.push(Action::Label { set: index, epoch });
        self.publish_pass();
    }

    /// Opens the gate and answers; after a disable the set is gone, after a detach everything is.
    fn gate_done(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.take().expect("a gate in progress");
        let done = match &gate.purpose {
            Purpose::Cut { set, .. } => Done::Cut { epoch: self.set(*set).header.epoch },
            Purpose::Complete { .. } | Purpose::Disable { .. } | Purpose::Detach => Done::Ok,
        };
        match gate.purpose {
            Purpose::Detach => {
                self.detached = true;
                self.set_indexes().for_each(|index| self.refuse_state_command(index, out));
            }
            Purpose::Disable { set } => {
                self.publish_pass();
                self.refuse_state_command(set, out);
            }
            Purpose::Cut { .. } | Purpose::Complete { .. } => {}
        }
        // After a detach the gate stays closed: nothing may reach the master through us any more.
        if !self.detached {
            out.messages.push(ToPort::Open);
        }
        if let Some(command) = gate.command {
            out.actions.push(Action::Answer { command, result: Ok(done) });
        }
    }

    /// An abort or a resume that came too late: there is nothing left to stop, but somebody waits for the answer.
    fn refuse_state_command(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        if let Some(command) = self.set_mut(index).state_command.take() {
            out.actions.push(Action::Answer { command, result: Err(Refusal::NoSuchSet) });
        }
    }

    /// Nothing durable has changed: opens the gate and refuses.
    fn void(&mut self, refusal: Refusal, out: &mut OwnerOutput) {
        let gate = self.gate.take().expect("a gate in progress");
        if !matches!(gate.phase, Phase::Preflush | Phase::Settling) {
            out.messages.push(ToPort::Open);
        }
        if let Some(command) = gate.command {
            out.actions.push(Action::Answer { command, result: Err(refusal) });
        }
    }

    /// A set's image has ended while a gate was closed or closing.
    pub(crate) fn gate_set_ended(&mut self, index: SetIndex, cause: OfflineCause, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        let concerned = gate.purpose.set().is_none_or(|set| set == index);
        if concerned && let Some(set) = self.sets[usize::from(index.0)].as_mut() {
            // Its superblock, if it still waits for its turn, would come after the gate is open again.
            set.commits.retain(|commit| !matches!(commit, Commit::Gate(_)));
        }
        let Some(gate) = &self.gate else { return };
        match gate.purpose.set() {
            Some(set) if set == index => self.void(Refusal::Failed(cause), out),
            Some(_) => {}
            None => {
                // Detach goes on with the other sets.
                match gate.phase {
                    Phase::ShadowFlush(_) => self.gate_to(Phase::SourceFlush),
                    Phase::Committing(_) => {
                        let left = self.sets.iter().flatten();
                        let awaited = left.filter(|set| set.is_serving() && !set.header.clean).count();
                        self.gate_to(Phase::Committing(u32::try_from(awaited).expect("at most 16 sets")));
                        if awaited == 0 {
                            self.gate_done(out);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A drain that takes too long voids the cut.
    pub(crate) fn gate_tick(&mut self, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        if gate.phase == Phase::Head
            && let Some(index) = gate.purpose.set()
            && self.now.0 >= gate.phase_since.0 + self.set(index).parameters.shadow_deadline_ms
        {
            self.shadow_failed(index, out);
            return;
        }
        let waits = matches!(gate.phase, Phase::Closing | Phase::Draining | Phase::SourceFlush);
        let late = self.now.0 >= gate.since.0 + self.limits.drain_deadline_ms;
        if waits && late && gate.purpose != Purpose::Detach {
            self.void(Refusal::DrainTimeout, out);
        }
    }
}

/// A plane that the new epoch starts empty: the superblock's plane epoch says so on disk.
fn clear_plane(set: &mut VolumeSet, id: PlaneId) {
    let plane = set.plane_mut(id);
    plane.fill(false);
    plane.mark_all(false);
}

/// Held := held less everything that may differ, in memory exactly as recovery would compute it (E2).
fn subtract_differing(set: &mut VolumeSet, maps: &crate::shared::MasterMaps) {
    // The header has flipped already: what tracked until now is the other pair.
    let frozen = set.header.tracking.other();
    let differs = PlaneId::differs(frozen);
    set.plane_mut(differs).or_shared(&maps.written);
    let mut next = set.plane(differs).find(0, true);
    while let Some(chunk) = next {
        set.plane_mut(PlaneId::Held).put(chunk, false);
        next = set.plane(differs).find(chunk + 1, true);
    }
    set.plane_mut(PlaneId::Held).mark_all(true);
}

/// The epoch-change table of engine.md for cuts to the shadow.
fn cut_header(set: &VolumeSet, kind: CopyKind) -> SetHeader {
    // An epoch that was given up, though it may never have begun, is not used again.
    let epoch = set.header.epoch.max(set.given_up_epoch).next();
    let mut header = SetHeader {
        epoch,
        state: match set.parameters.mode {
            Mode::Dependent => SetState::Dependent,
            Mode::Independent => SetState::Copying,
        },
        head_moved: true,
        shadow_written: false,
        recovered: false,
        clean: false,
        merging: false,
        ..set.header
    };
    let update = set.parameters.mode == Mode::Independent && kind == CopyKind::Update;
    if update {
        header.tracking = header.tracking.other();
        header.merging = true;
    } else {
        header.planes[PlaneId::Held.index()] = PlaneHeader { epoch };
        // Every plane starts anew, so no record of the past counts. After a reset some of them never arrived,
        // and must not be looked for.
        header.checkpoint_upto = set.journal.confirmed();
    }
    for plane in [PlaneId::Lost, PlaneId::differs(header.tracking), PlaneId::region(header.tracking)] {
        header.planes[plane.index()] = PlaneHeader { epoch };
    }
    header
}
