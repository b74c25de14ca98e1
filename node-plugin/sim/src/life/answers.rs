//! What comes back from commands.

use super::{Life, Running};
use crate::oracle::{SetNumber, Verdict};
use umbra_engine::{Command, CommandId, CopyKind, CutMember, Done, Refusal, SetIndex, SetState};

impl Life {
    pub(super) fn answered(&mut self, id: CommandId, answer: Result<Done, Refusal>) -> Verdict {
        let running = self.commands.remove(&id).ok_or("a command was answered twice")?;
        self.log(|| format!("{running:?}: {answer:?}"));
        match (running, answer) {
            (Running::Cut { set, cut }, Ok(Done::Cut { epoch })) => {
                self.tally.cuts += 1;
                let beside =
                    self.set_numbers().any(|other| other != set && self.oracle.image(other).is_some());
                self.tally.cuts_beside += u64::from(beside);
                self.oracle.cut_done(set, epoch.0)?;
                if self.rng.chance(100) {
                    self.repeat(set, cut, epoch.0);
                }
                Ok(())
            }
            (Running::Cut { set, .. }, Err(refusal)) => {
                self.oracle.cut_refused(set, !matches!(refusal, Refusal::Failed(_)));
                self.judge_refusal("cut", set, refusal)
            }
            (Running::Restore { set, cut }, Ok(Done::Cut { epoch })) => {
                self.tally.restores += 1;
                self.oracle.restore_done(epoch.0)?;
                if self.rng.chance(100) {
                    self.repeat(set, cut, epoch.0);
                }
                Ok(())
            }
            (Running::Restore { set, .. }, Err(refusal)) => {
                self.oracle.restore_refused();
                let lost = self.status(set).is_some_and(|status| status.lost > 0);
                match refusal {
                    Refusal::LostChunks(_) if lost => Ok(()),
                    Refusal::NoImage if !self.is_at_rest_state(set) => Ok(()),
                    refusal => self.judge_refusal("restore", set, refusal),
                }
            }
            (Running::Group { cut, stage, .. }, answer) => self.group_answered(cut, stage, answer),
            (Running::Repeat { epoch, .. }, Ok(Done::Cut { epoch: again })) if epoch == again.0 => Ok(()),
            (Running::Repeat { set, .. }, Err(refusal)) => self.judge_refusal("repeated cut", set, refusal),
            (Running::Disable { set }, Ok(Done::Ok)) => {
                self.check_raw()?;
                self.machine().remove_set(SetIndex(set));
                self.set(set).enabled = None;
                self.oracle.forget_image(set);
                Ok(())
            }
            (Running::Disable { .. }, Err(Refusal::Dependent)) => Ok(()),
            (Running::Disable { set }, Err(refusal)) => self.judge_refusal("disable", set, refusal),
            (Running::Detach | Running::Decided, Ok(Done::Ok)) => Ok(()),
            (
                Running::Minor { .. },
                Ok(Done::Ok) | Err(Refusal::NoCopy | Refusal::Busy | Refusal::NoSuchSet),
            ) => Ok(()),
            (Running::Minor { set }, Err(refusal)) => {
                self.judge_refusal("abort, resume or limit", set, refusal)
            }
            (running, answer) => Err(format!("{running:?} was answered {answer:?}")),
        }
    }

    /// Asked again by the same name, a cut is answered the same.
    fn repeat(&mut self, set: SetNumber, cut: umbra_engine::Id128, epoch: u64) {
        if matches!(self.state(set), Some(state) if state.is_online() && state != SetState::Prepared) {
            let member = CutMember::to_shadow(SetIndex(set), CopyKind::Full);
            let command = Command::Cut { member, cut, unix_ms: 0 };
            self.command(Running::Repeat { set, epoch }, command);
        }
    }

    /// Only faults excuse a refusal, and only those of others that all sets wait for together one of others.
    pub(super) fn judge_refusal(&self, what: &str, set: SetNumber, refusal: Refusal) -> Verdict {
        let before = self.enabled(set).map_or(0, |enabled| enabled.faults_before);
        let drained_with_others = refusal == Refusal::DrainTimeout && self.faults() > 0;
        if refusal == Refusal::Restoring && self.restoring.is_some() {
            return Ok(());
        }
        if self.faults_of(set) > before || drained_with_others {
            return Ok(());
        }
        Err(format!("{what} of set {set} was refused without a fault: {refusal}"))
    }
}
