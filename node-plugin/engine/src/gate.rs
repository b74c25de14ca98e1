//! Everything that is done under the closed gate: a cut, the completion of a copy, disable, detach.
//!
//! ```text
//!  Preflush ─> Settling ─> Closing ─> Draining ─> SourceFlush ─> ShadowFlush ─> Checkpointing ─> Head ─┐
//!  source       merge and   ports      copies,     again (E5)    source of a    pages of an      out or │
//!  once         checkpoint  closed     records                   restore        update, of       back   │
//!                                                                               pending                 │
//!  ┌────────────────────────────────────────────────────────────────────────────────────────────────────┘
//!  ├─ one set ──────────────────────────────────────> Committing ─> (flip) open
//!  │                                                   superblock: the instant
//!  └─ several ─> Gated ──Flip──> Doubting ─> InDoubt ──Decide──> Committing, or Voiding ─> open
//!                all answer       superblocks  all answer
//! ```
//!
//! The first flush only shortens the second. Until a superblock is written nothing durable has changed: any
//! failure opens the gate and the previous image stands (P4). A superblock write whose outcome is unknown ends
//! the image instead, and the gate stays closed until that is recorded.
//! After a crash the superblock alone says on which side of the cut the set is.
//!
//! Several sets (E4): k superblocks are not written at once, so each first says that the cut is *in doubt*, with
//! what the set was and what it becomes. Whoever coordinates decides when all say so, and the gate opens only
//! when every superblock says what was decided. So a member that is in doubt after a crash has let nothing
//! through, and either decision is right for it as long as all members get the same
//! (the store's `decide` has the rule).

mod admission;
mod flip;
mod steps;
mod together;

use crate::action::{Action, Device, FlushTicket, Now, SetIndex};
use crate::command::{CommandId, CutMember, Direction, Done, Refusal};
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::port::ToPort;
use crate::record::{OfflineCause, PlaneId, SetHeader};
use crate::set::{FlushRound, VolumeSet};
use crate::superblock::Commit;
use crate::units::Id128;
use std::sync::Arc;

use flip::clear_plane;

/// What the gate is closed for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    /// A point in time of one set, or of several whose other members are named.
    Cut { members: Vec<CutMember>, cut: Id128, unix_ms: u64, all: Option<Arc<[Id128]>> },
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

    fn concerns(&self, index: SetIndex) -> bool {
        match self {
            Self::Cut { members, .. } => members.iter().any(|member| member.set == index),
            Self::Complete { set } | Self::Disable { set } => *set == index,
            Self::Detach => true,
        }
    }

    fn members(&self) -> &[CutMember] {
        match self {
            Self::Cut { members, .. } => members,
            Self::Complete { .. } | Self::Disable { .. } | Self::Detach => &[],
        }
    }

    fn restored(&self) -> impl Iterator<Item = CutMember> + '_ {
        self.members().iter().copied().filter(|member| member.direction == Direction::ToMaster)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preflush,
    Settling,
    Closing,
    Draining,
    SourceFlush,
    /// So many flushes of this round, of shadows and bitmap volumes, are awaited.
    ShadowFlush(FlushRound, u32),
    Checkpointing,
    Head,
    /// Several sets: somebody has to say that it goes on.
    Gated,
    /// Superblocks that say *in doubt* are awaited.
    Doubting,
    /// Only a decision leads out.
    InDoubt,
    /// Superblocks that say what was decided are awaited.
    Committing,
    /// Superblocks that say that nothing happens are awaited.
    Voiding(Refusal),
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
    closed_at: Option<Now>,
    drained_at: Option<Now>,
    flush_ticket: Option<FlushTicket>,
    /// Sets whose superblock or head is awaited.
    awaited: Vec<SetIndex>,
}

impl Owner {
    /// The copier has nothing left: the head goes back and the set becomes complete.
    pub(crate) fn want_completion(&mut self, index: SetIndex) {
        // Commands first: a completion that fails is tried again and must not starve them.
        let free = self.gate.is_none() && self.commands.is_empty() && !self.detached;
        if free && self.set(index).ending == Ending::No {
            // The gate waits for the checkpoint that this may ask for.
            self.has_recorded_lost(index);
            self.open_gate(Purpose::Complete { set: index }, None);
        }
    }

    fn open_gate(&mut self, purpose: Purpose, command: Option<CommandId>) {
        let since = self.now;
        let phase = if purpose.needs_source() { Phase::Preflush } else { Phase::Settling };
        self.gate = Some(Gate {
            purpose,
            command,
            phase,
            since,
            phase_since: since,
            closed_at: None,
            drained_at: None,
            flush_ticket: None,
            awaited: Vec::new(),
        });
    }

    /// Whether the gate has drained and a checkpoint would come in its way. Until then a full ring must be able to
    /// free itself, or the copies that the drain waits for never end.
    pub(crate) fn gate_is_committing(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| match gate.phase {
            Phase::Preflush | Phase::Settling | Phase::Closing | Phase::Draining | Phase::Checkpointing => {
                false
            }
            Phase::SourceFlush
            | Phase::ShadowFlush(..)
            | Phase::Head
            | Phase::Gated
            | Phase::Doubting
            | Phase::InDoubt
            | Phase::Committing
            | Phase::Voiding(_) => true,
        })
    }

    /// Starts the next command and takes the gate as far as it goes.
    pub(crate) fn advance_gate(&mut self, out: &mut OwnerOutput) {
        if self.gate.is_none()
            && self.commands.front().is_some_and(|(_, command)| !self.awaits_head(command))
            && let Some((id, command)) = self.commands.pop_front()
        {
            match self.gate_purpose(command) {
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

    fn gate_step(&mut self, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        let ending = |set: &VolumeSet| set.ending.cause().is_some();
        if self.sets.iter().flatten().any(|set| ending(set) && gate.purpose.concerns(set.index)) {
            // The end is being recorded; the gate goes on, or opens, when it is.
            return;
        }
        match gate.phase {
            Phase::SourceFlush if !gate.purpose.needs_source() => self.source_flushed(out),
            Phase::Preflush | Phase::SourceFlush => {
                if gate.flush_ticket.is_none() {
                    self.flush_source(out);
                }
            }
            Phase::Settling => {
                let settled = |set: &VolumeSet| {
                    set.checkpoint.is_idle()
                        && (!set.checkpoint.is_wanted() && !set.header.merging
                            || !set.header.state.is_online())
                };
                let mut concerned = self.sets.iter().flatten().filter(|set| gate.purpose.concerns(set.index));
                if concerned.all(settled) {
                    let reads = gate.purpose.restored().next().is_some();
                    self.gate_to(Phase::Closing);
                    out.messages.push(ToPort::Close { reads });
                }
            }
            Phase::Draining => {
                let early = is_off(Rule::DrainBeforeFlip)
                    && !gate.purpose.members().is_empty()
                    && gate.purpose.members().iter().all(|member| self.may_commit(member.set));
                if self.is_drained() || early {
                    self.gate_to(Phase::SourceFlush);
                }
            }
            Phase::Checkpointing => self.finish_checkpoint(out),
            Phase::Closing if is_off(Rule::DrainBeforeFlip) => self.gate_to(Phase::Draining),
            Phase::Closing
            | Phase::ShadowFlush(..)
            | Phase::Head
            | Phase::Gated
            | Phase::Doubting
            | Phase::InDoubt
            | Phase::Committing
            | Phase::Voiding(_) => {}
        }
    }

    fn gate_to(&mut self, phase: Phase) {
        let now = self.now;
        if let Some(gate) = &mut self.gate {
            match phase {
                Phase::Closing => gate.closed_at = Some(now),
                Phase::SourceFlush => gate.drained_at = Some(now),
                _ => {}
            }
            gate.phase = phase;
            gate.phase_since = now;
            gate.flush_ticket = None;
        }
    }

    /// Whether some headers are of the new epoch already while all planes are of the old one: behind a closed gate,
    /// until the last superblock of a cut is durable.
    pub(crate) fn is_flipping(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.phase == Phase::Committing)
    }

    fn may_commit(&self, index: SetIndex) -> bool {
        let set = self.set(index);
        set.superblock.is_settled()
    }

    /// Whether nothing is on its way to any device but what the workload may still read.
    fn is_drained(&self) -> bool {
        let concerns = |index| self.gate.as_ref().is_some_and(|gate| gate.purpose.concerns(index));
        let drained = |set: &VolumeSet| match set.is_serving() {
            true => set.is_drained(),
            false => !concerns(set.index) || set.is_settled(),
        };
        self.copies.is_empty() && self.regions.is_idle() && self.sets.iter().flatten().all(drained)
    }

    /// The port holds everything back and has nothing in flight.
    pub(crate) fn port_closed(&mut self, _out: &mut OwnerOutput) {
        if let Some(gate) = &mut self.gate
            && gate.phase == Phase::Closing
        {
            self.gate_to(Phase::Draining);
        }
    }

    /// Takes a set off those that the gate waits for; true if it was the last.
    fn no_longer_awaited(&mut self, index: SetIndex) -> bool {
        let gate = self.gate.as_mut().expect("a gate in progress");
        let before = gate.awaited.len();
        gate.awaited.retain(|set| *set != index);
        before > 0 && gate.awaited.is_empty()
    }

    /// All that can be done before anything durable changes is done.
    fn gate_ready(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_mut().expect("a gate in progress");
        if matches!(gate.purpose, Purpose::Cut { all: Some(_), .. }) {
            let command = gate.command.take();
            self.gate_to(Phase::Gated);
            answer(command, Ok(Done::Gated), out);
        } else {
            self.commit_gate(out);
        }
    }

    /// Hands the gate's superblocks out. Written and flushed, they are the instant.
    fn commit_gate(&mut self, out: &mut OwnerOutput) {
        self.hand_out(Phase::Committing, Commit::Gate);
        self.finish_awaited(out);
    }

    fn hand_out(&mut self, phase: Phase, commit: impl Fn(SetHeader) -> Commit) {
        let purpose = self.gate.as_ref().expect("a gate in progress").purpose.clone();
        let sets: Vec<SetIndex> = match &purpose {
            Purpose::Cut { members, .. } => members.iter().map(|member| member.set).collect(),
            Purpose::Complete { set } | Purpose::Disable { set } => vec![*set],
            Purpose::Detach => self.serving(),
        };
        self.gate_to(phase);
        for index in &sets {
            let header = self.gate_header(*index, &purpose);
            self.set_mut(*index).superblock.commit(commit(header));
        }
        self.gate.as_mut().expect("a gate in progress").awaited = sets;
    }

    /// Goes on if nothing is awaited: every set that was has ended meanwhile.
    fn finish_awaited(&mut self, out: &mut OwnerOutput) {
        if self.gate.as_ref().is_some_and(|gate| gate.awaited.is_empty()) {
            self.awaited_done(out);
        }
    }

    /// A superblock of the gate is durable. One that is in doubt may come when the cut is being taken back already:
    /// then it is another that is awaited.
    pub(crate) fn gate_committed(&mut self, index: SetIndex, commit: Commit, out: &mut OwnerOutput) {
        let waits = |gate: &Gate| {
            matches!(
                (gate.phase, commit),
                (Phase::Doubting, Commit::Doubt(_))
                    | (Phase::Committing, Commit::Gate(_))
                    | (Phase::Voiding(_), Commit::Void)
            )
        };
        if self.gate.as_ref().is_some_and(waits) && self.no_longer_awaited(index) {
            self.awaited_done(out);
        }
    }

    /// Every superblock of the gate is durable, or its set has ended.
    fn awaited_done(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_mut().expect("a gate in progress");
        match (gate.phase, gate.purpose.clone()) {
            (Phase::Doubting, _) => {
                let command = gate.command.take();
                self.gate_to(Phase::InDoubt);
                answer(command, Ok(Done::InDoubt), out);
            }
            (Phase::Voiding(refusal), _) => self.void(refusal, out),
            (_, Purpose::Cut { members, .. }) => {
                self.flip(&members, out);
                self.gate_done(out);
            }
            (_, Purpose::Complete { set }) => {
                self.set_mut(set).publish_maps();
                self.gate_done(out);
            }
            (_, Purpose::Disable { set }) => {
                self.set_mut(set).has_ended();
                self.set_mut(set).publish_maps();
                out.messages.push(ToPort::Maps(set, None));
                self.gate_done(out);
            }
            (_, Purpose::Detach) => self.gate_done(out),
        }
    }

    /// Opens the gate and answers; after a disable the set is gone, after a detach everything is.
    fn gate_done(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.take().expect("a gate in progress");
        self.note_times(&gate);
        let done = match &gate.purpose {
            Purpose::Cut { members, all: None, .. } => {
                Done::Cut { epoch: self.set(members[0].set).header.epoch }
            }
            Purpose::Cut { .. } | Purpose::Complete { .. } | Purpose::Disable { .. } | Purpose::Detach => {
                Done::Ok
            }
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
        answer(gate.command, Ok(done), out);
    }

    fn note_times(&mut self, gate: &Gate) {
        if let (Purpose::Cut { .. }, Some(Now(closed)), Some(Now(drained))) =
            (&gate.purpose, gate.closed_at, gate.drained_at)
        {
            self.counters.last_drain_ms = drained - closed;
            self.counters.last_gate_ms = self.now.0 - closed;
        }
    }

    /// An abort or a resume that came too late: there is nothing left to stop, but somebody waits for the answer.
    fn refuse_state_command(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let command = self.set_mut(index).state_command.take();
        answer(command, Err(Refusal::NoSuchSet), out);
    }

    /// Nothing durable has changed, or it has been taken back: opens the gate and refuses.
    fn void(&mut self, refusal: Refusal, out: &mut OwnerOutput) {
        let gate = self.gate.take().expect("a gate in progress");
        for member in gate.purpose.restored() {
            clear_plane(self.set_mut(member.set), PlaneId::Pending);
            self.maps.set_source_failed(false);
            out.actions.push(Action::ForgetHead { set: member.set });
        }
        if !matches!(gate.phase, Phase::Preflush | Phase::Settling) {
            out.messages.push(ToPort::Open);
        }
        // Somebody who decided that nothing happens gets what was asked for.
        let asked = gate.phase == Phase::Voiding(Refusal::NoGate);
        answer(gate.command, if asked { Ok(Done::Ok) } else { Err(refusal) }, out);
    }

    /// A set's image has ended while a gate was closed or closing.
    pub(crate) fn gate_set_ended(&mut self, index: SetIndex, cause: OfflineCause, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        if !gate.purpose.concerns(index) {
            return;
        }
        let (phase, alone) = (gate.phase, !matches!(gate.purpose, Purpose::Cut { all: Some(_), .. }));
        let is_detach = gate.purpose == Purpose::Detach;
        if let Some(set) = self.sets[usize::from(index.0)].as_mut() {
            // Its superblock, if it still waits for its turn, would come after the gate is open again.
            set.superblock.drop_gate();
        }
        match phase {
            // Detach goes on with the other sets.
            Phase::ShadowFlush(..) if is_detach => self.gate_to(Phase::SourceFlush),
            Phase::Committing if is_detach => {
                if self.no_longer_awaited(index) {
                    self.awaited_done(out);
                }
            }
            _ if is_detach => {}
            Phase::Doubting => {
                self.leave_cut(index);
                self.hand_out(Phase::Voiding(Refusal::Failed(cause)), |_| Commit::Void);
                self.finish_awaited(out);
            }
            // Decided, or about to be, for all: the others go on without it.
            Phase::InDoubt => self.leave_cut(index),
            Phase::Committing | Phase::Voiding(_) if !alone => {
                self.leave_cut(index);
                if self.no_longer_awaited(index) {
                    self.awaited_done(out);
                }
            }
            _ => self.void(Refusal::Failed(cause), out),
        }
    }

    /// A restore whose set ends before the flip is not begun, whatever its superblock says: the gate waits until that
    /// is recorded.
    pub(crate) fn await_restored(&mut self, index: SetIndex) {
        if self.is_restore_decided(index)
            && let Some(gate) = self.gate.as_mut().filter(|gate| !gate.awaited.contains(&index))
        {
            gate.awaited.push(index);
        }
    }

    /// A drain that takes too long voids the cut, and so does a coordinator that does not come back in time.
    pub(crate) fn gate_tick(&mut self, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        if gate.phase == Phase::Head {
            let late = |index: &SetIndex| self.set(*index).late_head(self.now).map(|device| (*index, device));
            let late: Vec<(SetIndex, Device)> = gate.awaited.iter().filter_map(late).collect();
            for (index, device) in late {
                match device {
                    Device::Bitmap(_) => self.bitmap_failed(index, out),
                    _ => self.shadow_failed(index, out),
                }
            }
            return;
        }
        let waits =
            matches!(gate.phase, Phase::Closing | Phase::Draining | Phase::SourceFlush | Phase::Gated);
        let late = self.now.0 >= gate.since.0 + self.limits.drain_deadline_ms;
        if waits && late && gate.purpose != Purpose::Detach {
            self.void(Refusal::DrainTimeout, out);
        }
    }
}

fn answer(command: Option<CommandId>, result: Result<Done, Refusal>, out: &mut OwnerOutput) {
    if let Some(command) = command {
        out.actions.push(Action::Answer { command, result });
    }
}
