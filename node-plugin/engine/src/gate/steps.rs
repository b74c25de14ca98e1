//! What has to be done before the flip: sources flushed, planes complete in their pages, heads in their places.

use super::{Gate, Phase, Purpose};
use crate::action::{Action, Device, FlushTicket, HeadMove, OpId, SetIndex};
use crate::command::{CopyKind, CutMember, Direction, Refusal};
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{Mode, PlaneId};
use crate::set::{Durable, FlushRound, HeadMoving, VolumeSet};
use std::sync::Arc;

impl Owner {
    pub(super) fn flush_source(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_mut().expect("a gate in progress");
        let inside = gate.phase == Phase::SourceFlush;
        if inside && is_off(Rule::FlushSourceAtCut) {
            self.source_flushed(out);
            return;
        }
        let ticket = self.tickets.take();
        gate.flush_ticket = Some(ticket);
        let op = OpId::Flush(Device::Master, ticket);
        out.actions.push(Action::Flush { op, device: Device::Master });
    }

    /// A flush of the master has ended. One that failed voids the cut.
    pub(crate) fn master_flushed(&mut self, ticket: FlushTicket, ok: bool, out: &mut OwnerOutput) {
        let Some(gate) = &self.gate else { return };
        if gate.flush_ticket != Some(ticket) {
            return;
        }
        if !ok && gate.purpose != Purpose::Detach {
            self.void(Refusal::SourceFlush, out);
        } else if gate.phase == Phase::Preflush {
            // What is in the pages before the gate closes need not be written behind it.
            for index in self.updated() {
                self.set_mut(index).checkpoint.want();
            }
            self.gate_to(Phase::Settling);
        } else {
            self.source_flushed(out);
        }
    }

    /// Members whose *differs* has to be complete in its pages before the flip (E2).
    pub(super) fn updated(&self) -> Vec<SetIndex> {
        let gate = self.gate.as_ref().expect("a gate in progress");
        let update = |member: &&CutMember| {
            member.direction == Direction::ToShadow
                && member.kind == CopyKind::Update
                && self.set(member.set).is_tracking()
                && !is_off(Rule::RegionsPendingAtCut)
        };
        gate.purpose.members().iter().filter(update).map(|member| member.set).collect()
    }

    /// The source is durable: what comes next depends on what the gate is closed for.
    pub(super) fn source_flushed(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_ref().expect("a gate in progress");
        match &gate.purpose {
            Purpose::Cut { .. } => {
                let sources: Vec<SetIndex> = gate.purpose.restored().map(|member| member.set).collect();
                if sources.is_empty() {
                    self.settle_planes(out);
                } else {
                    self.flush_sets(&sources, out);
                }
            }
            Purpose::Complete { set } => self.flush_sets(&[*set], out),
            Purpose::Disable { set } => {
                let set = *set;
                if self.set(set).is_serving() {
                    self.flush_sets(&[set], out);
                } else {
                    self.commit_gate(out);
                }
            }
            Purpose::Detach => {
                let serving = self.serving();
                if serving.is_empty() {
                    self.gate_done(out);
                } else {
                    self.flush_sets(&serving, out);
                }
            }
        }
    }

    pub(super) fn serving(&self) -> Vec<SetIndex> {
        self.set_indexes().filter(|index| self.set(*index).is_serving()).collect()
    }

    /// Writes the pages that the flip relies upon: *differs* of an update, *pending* of a restore.
    pub(super) fn settle_planes(&mut self, out: &mut OwnerOutput) {
        let mut wanted = self.updated();
        let gate = self.gate.as_ref().expect("a gate in progress");
        let restored: Vec<CutMember> = gate.purpose.restored().collect();
        for member in restored {
            self.seed_pending(member);
            wanted.push(member.set);
        }
        if wanted.is_empty() {
            self.move_heads_out(out);
            return;
        }
        self.gate_to(Phase::Checkpointing);
        for index in wanted {
            self.set_mut(index).checkpoint.want();
        }
    }

    /// What a restore has to copy. It counts only once the superblock says that a restore runs.
    pub(super) fn seed_pending(&mut self, member: CutMember) {
        let maps = Arc::clone(&self.maps);
        let set = self.set_mut(member.set);
        set.fold_written(&maps);
        let pending = match (set.parameters.mode, member.kind) {
            (Mode::Dependent, _) => set.plane(PlaneId::Held).clone(),
            (Mode::Independent, CopyKind::Update) => set.plane(set.differs_plane()).clone(),
            (Mode::Independent, CopyKind::Full) => set.plane(PlaneId::Held).clone(),
        };
        let plane = set.plane_mut(PlaneId::Pending);
        *plane = pending;
        plane.mark_all(true);
    }

    /// An update of a complete shadow leaves chunks in place that the label is going to cover; a restore needs the head
    /// of its shadow to the end, whatever becomes of the bitmap volume that it is on.
    pub(super) fn move_heads_out(&mut self, out: &mut OwnerOutput) {
        let gate = self.gate.as_ref().expect("a gate in progress");
        let in_place = |member: &&CutMember| {
            member.direction == Direction::ToShadow
                && member.kind == CopyKind::Update
                && !self.set(member.set).header.head_moved
        };
        let moved = |member: &&CutMember| {
            member.direction == Direction::ToMaster && self.set(member.set).header.head_moved
        };
        let members = gate.purpose.members().iter();
        let out_of = members.clone().filter(in_place).map(|member| (member.set, HeadMove::Out));
        let kept = members.filter(moved).map(|member| (member.set, HeadMove::Keep));
        let moves: Vec<(SetIndex, HeadMove)> = out_of.chain(kept).collect();
        if moves.is_empty() {
            self.gate_ready(out);
        } else {
            self.move_heads(&moves, out);
        }
    }

    pub(super) fn move_heads(&mut self, moves: &[(SetIndex, HeadMove)], out: &mut OwnerOutput) {
        self.gate_to(Phase::Head);
        let since = self.now;
        for (set, to) in moves.iter().copied() {
            self.set_mut(set).head_moving = Some(HeadMoving { to, since });
            out.actions.push(Action::MoveHead { set, to });
        }
        self.gate.as_mut().expect("a gate in progress").awaited = moves.iter().map(|(set, _)| *set).collect();
    }

    pub(super) fn flush_sets(&mut self, sets: &[SetIndex], out: &mut OwnerOutput) {
        let awaited = u32::try_from(sets.len() * 2).expect("at most 16 sets");
        self.flush_round = self.flush_round.next();
        let round = self.flush_round;
        self.gate_to(Phase::ShadowFlush(round, awaited));
        for index in sets {
            let set = self.set_mut(*index);
            // Written through the presented device, without FUA: only a real flush makes that durable.
            set.shadow.must_flush(Durable::Gate(round));
            set.bitmap.must_flush(Durable::Gate(round));
        }
        self.settle(out);
    }

    /// A shadow or bitmap volume has been flushed for the gate.
    pub(crate) fn gate_flushed(&mut self, round: FlushRound, out: &mut OwnerOutput) {
        let Some(gate) = &mut self.gate else { return };
        let Phase::ShadowFlush(mine, awaited) = &mut gate.phase else { return };
        if *mine != round {
            return;
        }
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        match gate.purpose {
            Purpose::Complete { set } => self.move_heads(&[(set, HeadMove::Back)], out),
            Purpose::Disable { .. } => self.commit_gate(out),
            Purpose::Cut { .. } => self.settle_planes(out),
            Purpose::Detach => {
                self.gate_to(Phase::Checkpointing);
                for index in self.serving() {
                    self.set_mut(index).checkpoint.want();
                }
            }
        }
    }

    /// The head is where it should be, or could not be brought there.
    pub(crate) fn head_moved(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        let moved = set.head_moving.take().map(|moving| moving.to);
        let awaits = |gate: &Gate| gate.phase == Phase::Head && gate.awaited.contains(&index);
        if !self.gate.as_ref().is_some_and(awaits) {
            if moved == Some(HeadMove::Keep) {
                self.head_kept(index, ok, out);
            }
            return;
        }
        if !ok && moved == Some(HeadMove::Keep) {
            // What cannot be read cannot be restored; nothing has changed yet.
            let chunks = self.head_chunks(index);
            self.void(Refusal::LostChunks(chunks), out);
        } else if !ok {
            self.shadow_failed(index, out);
        } else if self.no_longer_awaited(index) {
            self.gate_ready(out);
        }
    }

    /// The pages are complete: nothing is left for a replay, and no region need count as differing (E2).
    pub(super) fn finish_checkpoint(&mut self, out: &mut OwnerOutput) {
        let ready = |set: &VolumeSet| {
            !set.checkpoint.is_wanted() && set.checkpoint.is_idle() && set.superblock.is_idle()
        };
        if self.sets.iter().flatten().filter(|set| set.is_serving()).all(ready) {
            self.move_heads_out(out);
        }
    }
}
