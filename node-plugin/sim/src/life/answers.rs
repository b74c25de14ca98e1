//! What comes back from commands.

use super::{Life, Running, SET};
use crate::oracle::Verdict;
use umbra_engine::{Command, CommandId, CopyKind, CutMember, Done, Refusal, SetState};

impl Life {
    pub(super) fn answered(&mut self, id: CommandId, answer: Result<Done, Refusal>) -> Verdict {
        let running = self.commands.remove(&id).ok_or("a command was answered twice")?;
        self.log(|| format!("{running:?}: {answer:?}"));
        match (running, answer) {
            (Running::Cut { cut }, Ok(Done::Cut { epoch })) => {
                self.tally.cuts += 1;
                self.oracle.cut_done(epoch.0)?;
                if self.rng.chance(100) {
                    self.repeat(cut, epoch.0);
                }
                Ok(())
            }
            (Running::Cut { .. }, Err(refusal)) => {
                self.oracle.cut_refused(!matches!(refusal, Refusal::Failed(_)));
                self.judge_refusal("cut", refusal)
            }
            (Running::Repeat { epoch }, Ok(Done::Cut { epoch: again })) if epoch == again.0 => Ok(()),
            (Running::Repeat { .. }, Err(refusal)) => self.judge_refusal("repeated cut", refusal),
            (Running::Disable, Ok(Done::Ok)) => {
                self.check_raw()?;
                self.machine().remove_set(SET);
                self.set = None;
                self.oracle.forget_image();
                Ok(())
            }
            (Running::Disable, Err(Refusal::Dependent)) => Ok(()),
            (Running::Disable, Err(refusal)) => self.judge_refusal("disable", refusal),
            (Running::Detach, Ok(Done::Ok)) => Ok(()),
            (Running::Minor, Ok(Done::Ok) | Err(Refusal::NoCopy | Refusal::Busy | Refusal::NoSuchSet)) => {
                Ok(())
            }
            (Running::Minor, Err(refusal)) => self.judge_refusal("abort, resume or limit", refusal),
            (running, answer) => Err(format!("{running:?} was answered {answer:?}")),
        }
    }

    /// Asked again by the same name, a cut is answered the same.
    fn repeat(&mut self, cut: umbra_engine::Id128, epoch: u64) {
        if matches!(self.state(), Some(state) if state.is_online() && state != SetState::Prepared) {
            let member = CutMember::to_shadow(SET, CopyKind::Full);
            let command = Command::Cut { member, cut, unix_ms: 0 };
            self.command(Running::Repeat { epoch }, command);
        }
    }

    /// Only faults excuse a refusal.
    fn judge_refusal(&self, what: &str, refusal: Refusal) -> Verdict {
        let before = self.set.as_ref().map_or(0, |set| set.faults_before);
        if self.faults() > before {
            return Ok(());
        }
        Err(format!("{what} was refused without a fault: {refusal}"))
    }
}
