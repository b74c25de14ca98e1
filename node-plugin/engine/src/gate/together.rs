//! A cut over several sets: in doubt everywhere, then decided everywhere (E4).

use super::{Gate, Phase, Purpose, answer, clear_plane};
use crate::action::SetIndex;
use crate::command::{Command, CommandId, Done, InDoubt, Refusal};
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{PlaneId, SetHeader};
use crate::superblock::Commit;
use crate::units::{Epoch, Id128};
use std::sync::Arc;

impl Owner {
    /// Second step of a cut over several sets.
    pub(crate) fn flip_gate(&mut self, id: CommandId, cut: Id128, out: &mut OwnerOutput) {
        match self.gate_of(cut).map(|gate| gate.phase) {
            Some(Phase::Gated) => {
                self.gate.as_mut().expect("looked at").command = Some(id);
                if is_off(Rule::InDoubtFirst) {
                    return self.awaited_done_of(Phase::Doubting, out);
                }
                self.hand_out(Phase::Doubting, Commit::Doubt);
            }
            Some(Phase::InDoubt) => answer(Some(id), Ok(Done::InDoubt), out),
            Some(_) => answer(Some(id), Err(Refusal::Busy), out),
            None => answer(Some(id), Err(Refusal::NoGate), out),
        }
    }

    /// Last step of a cut over several sets, or the end of the attempt.
    pub(crate) fn decide_gate(&mut self, id: CommandId, cut: Id128, commit: bool, out: &mut OwnerOutput) {
        match (self.gate_of(cut).map(|gate| gate.phase), commit) {
            (Some(Phase::InDoubt), true) => {
                self.gate.as_mut().expect("looked at").command = Some(id);
                self.commit_gate(out);
            }
            (Some(Phase::InDoubt), false) => {
                self.gate.as_mut().expect("looked at").command = Some(id);
                self.hand_out(Phase::Voiding(Refusal::NoGate), |_| Commit::Void);
                self.finish_awaited(out);
            }
            (Some(Phase::Doubting | Phase::Committing | Phase::Voiding(_)), _) => {
                answer(Some(id), Err(Refusal::Busy), out);
            }
            (Some(_), false) => {
                self.void(Refusal::NoGate, out);
                answer(Some(id), Ok(Done::Ok), out);
            }
            (None, false) => {
                // It may still wait for its turn.
                let is_it =
                    |command: &Command| matches!(command, Command::Prepare { cut: of, .. } if *of == cut);
                let (void, rest) =
                    self.commands.drain(..).partition::<Vec<_>, _>(|(_, command)| is_it(command));
                self.commands.extend(rest);
                for (waiting, _) in void {
                    answer(Some(waiting), Err(Refusal::NoGate), out);
                }
                answer(Some(id), Ok(Done::Ok), out);
            }
            // P2: asked again, the answer is the same.
            (None, true) if self.sets.iter().flatten().any(|set| set.header.cut == cut) => {
                answer(Some(id), Ok(Done::Ok), out);
            }
            (Some(_) | None, true) => answer(Some(id), Err(Refusal::NoGate), out),
        }
    }

    pub(super) fn gate_of(&self, cut: Id128) -> Option<&Gate> {
        self.gate.as_ref().filter(|gate| matches!(gate.purpose, Purpose::Cut { cut: of, .. } if of == cut))
    }

    /// What a superblock that is in doubt says beside its own header.
    pub(crate) fn doubt(&self, then: SetHeader) -> Option<InDoubt> {
        match &self.gate.as_ref()?.purpose {
            Purpose::Cut { all: Some(members), .. } => Some(InDoubt { members: Arc::clone(members), then }),
            Purpose::Cut { .. } | Purpose::Complete { .. } | Purpose::Disable { .. } | Purpose::Detach => {
                None
            }
        }
    }

    /// The epoch that a cut over several sets may have begun on the bitmap volume already, though memory does not say
    /// so: from the first superblock that is in doubt until the gate opens. What takes it back may not be there yet.
    pub(crate) fn doubtful_epoch(&self, index: SetIndex) -> Option<Epoch> {
        let gate = self.gate.as_ref().filter(|gate| gate.purpose.concerns(index))?;
        let Purpose::Cut { cut, all: Some(_), .. } = &gate.purpose else { return None };
        let begun =
            matches!(gate.phase, Phase::Doubting | Phase::InDoubt | Phase::Committing | Phase::Voiding(_));
        let header = self.set(index).header;
        let is_flipped = header.cut == *cut;
        begun.then(|| if is_flipped { header.epoch } else { self.gate_header(index, &gate.purpose).epoch })
    }

    /// Whether a superblock of the set says that a cut is in doubt, or is about to: another one would hide that.
    pub(crate) fn is_in_doubt(&self, index: SetIndex) -> bool {
        self.gate.as_ref().is_some_and(|gate| {
            matches!(gate.phase, Phase::Doubting | Phase::InDoubt) && gate.purpose.concerns(index)
        })
    }

    /// Whether a restore from the set is being committed: nothing but its bitmap volume can stop it any more.
    pub(crate) fn is_restore_decided(&self, index: SetIndex) -> bool {
        self.gate.as_ref().is_some_and(|gate| {
            gate.phase == Phase::Committing && gate.purpose.restored().any(|member| member.set == index)
        })
    }

    /// As if every superblock of a phase had been written.
    pub(super) fn awaited_done_of(&mut self, phase: Phase, out: &mut OwnerOutput) {
        self.gate_to(phase);
        self.awaited_done(out);
    }

    pub(super) fn leave_cut(&mut self, index: SetIndex) {
        if self.is_restore_decided(index) {
            self.maps.set_source_failed(false);
        }
        if let Some(Gate { purpose: Purpose::Cut { members, .. }, .. }) = &mut self.gate {
            members.retain(|member| member.set != index);
        }
        clear_plane(self.set_mut(index), PlaneId::Pending);
    }
}
