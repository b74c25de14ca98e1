//! Cuts over several sets, with the coordinator's part played here: prepare, flip, decide (E4).
//!
//! The coordinator records its decision in the state directory before it tells it, sometimes changes its mind, and
//! dies with the machine. A start asks every member before it recovers one.

use super::{DEADLINE_MS, Life, Running};
use crate::oracle::{SetNumber, Verdict};
use crate::plan::Disk;
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{Command, CopyKind, CutMember, Done, Id128, Refusal, SetIndex, SetState};
use umbra_store::{MemberView, decide, read_superblock};

/// Sets, as bits.
pub(super) type SetMask = u16;

/// A cut over several sets under way.
#[derive(Clone, Debug)]
pub(super) struct Group {
    members: Vec<CutMember>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Prepare,
    Flip,
    Decide { commit: bool },
}

impl Life {
    /// A cut over these sets at one instant; the first may be restored from in it, with the others as its safety.
    pub(super) fn cut_together(&mut self, sets: SetMask, update: bool, restore: bool) -> Verdict {
        let numbers: Vec<SetNumber> = self.set_numbers().filter(|set| sets >> set & 1 == 1).collect();
        let crashes = self.tally.crashes;
        for set in &numbers {
            if !self.commands_done(*set)? || !self.close_shadow(*set)? {
                return Ok(());
            }
        }
        let restored = numbers.first().copied().filter(|set| restore && self.is_restorable(*set));
        if restored.is_some() && !self.close_master()? {
            return Ok(());
        }
        let free = |life: &Self| numbers.iter().all(|set| !life.is_open(*set));
        if self.tally.crashes > crashes || self.restoring.is_some() || self.group.is_some() || !free(self) {
            return Ok(());
        }
        let kind = if update { CopyKind::Update } else { CopyKind::Full };
        let member = |set: &SetNumber| {
            let state = self.enabled(*set).and_then(|_| self.state(*set))?;
            let index = SetIndex(*set);
            if restored == Some(*set) {
                return Some(CutMember::to_master(index, kind));
            }
            let reset = matches!(state, SetState::Offline(_));
            Some(CutMember { reset, ..CutMember::to_shadow(index, kind) })
        };
        let members: Vec<CutMember> = numbers.iter().filter_map(member).collect();
        if members.is_empty() {
            return Ok(());
        }
        let cut = self.fresh_id();
        let together = self.oracle.now();
        for CutMember { set: SetIndex(set), .. } in &members {
            if restored == Some(*set) {
                self.restoring = Some(*set);
                self.oracle.restore_begins(*set);
            } else {
                let before = self.faults_before_cut(*set);
                self.oracle.cut_begins(*set, before);
            }
        }
        let of = |member: &CutMember| member.set.0;
        self.oracle.group_begins(members.iter().map(of).collect(), together);
        let all: Arc<[Id128]> = members
            .iter()
            .filter_map(|member| self.enabled(of(member)).map(|enabled| enabled.identity.set))
            .collect();
        self.group = Some(Group { members: members.clone() });
        let unix_ms = self.now_ms;
        self.group_command(cut, Stage::Prepare, Command::Prepare { members, cut, unix_ms, all });
        Ok(())
    }

    fn group_command(&mut self, cut: Id128, stage: Stage, command: Command) {
        let members = self.group.iter().flat_map(|group| &group.members);
        let sets = members.fold(0, |mask: SetMask, member| mask | 1 << member.set.0);
        self.command(Running::Group { sets, cut, stage }, command);
    }

    /// Whether the set could be restored from, as far as the operator can see.
    pub(super) fn is_restorable(&self, set: SetNumber) -> bool {
        let online = self.state(set).is_some_and(SetState::is_online);
        online && self.oracle.image(set).is_some() && self.restoring.is_none()
    }

    /// A step of the cut was answered.
    pub(super) fn group_answered(
        &mut self,
        cut: Id128,
        stage: Stage,
        answer: Result<Done, Refusal>,
    ) -> Verdict {
        match (stage, answer) {
            (Stage::Prepare, Ok(Done::Gated)) => {
                if self.rng.chance(100) {
                    self.group_command(
                        cut,
                        Stage::Decide { commit: false },
                        Command::Decide { cut, commit: false },
                    );
                } else {
                    self.group_command(cut, Stage::Flip, Command::Flip { cut });
                }
                Ok(())
            }
            (Stage::Flip, Ok(Done::InDoubt)) => {
                let commit = !self.rng.chance(150) && self.notes.decide(cut);
                self.group_command(cut, Stage::Decide { commit }, Command::Decide { cut, commit });
                Ok(())
            }
            (Stage::Decide { commit: true }, Ok(Done::Ok)) => {
                let mut statuses = self.set_numbers().filter_map(|set| self.status(set));
                let taken = statuses.any(|status| status.header.cut == cut);
                self.group_done()?;
                if taken && self.rng.chance(100) {
                    // The coordinator has not heard the answer.
                    self.command(Running::Decided, Command::Decide { cut, commit: true });
                }
                Ok(())
            }
            (Stage::Decide { commit: false }, Ok(Done::Ok)) => {
                self.group_void();
                Ok(())
            }
            (Stage::Prepare | Stage::Flip, Err(refusal)) => {
                let members: Vec<SetNumber> = self.group_members().map(|member| member.set.0).collect();
                self.group_void();
                let excuses = |set: &SetNumber| self.judge_group(*set, refusal).is_ok();
                if members.iter().any(excuses) {
                    return Ok(());
                }
                self.judge_group(members[0], refusal)
            }
            (stage, answer) => Err(format!("{stage:?} of cut {cut} was answered {answer:?}")),
        }
    }

    fn judge_group(&self, set: SetNumber, refusal: Refusal) -> Verdict {
        let lost = self.status(set).is_some_and(|status| status.lost > 0);
        match refusal {
            Refusal::LostChunks(_) if lost => Ok(()),
            Refusal::NoImage if !self.is_at_rest_state(set) => Ok(()),
            refusal => self.judge_refusal("cut with others", set, refusal),
        }
    }

    /// Whether nothing is left to be copied for the set.
    pub(super) fn is_at_rest_state(&self, set: SetNumber) -> bool {
        matches!(self.state(set), Some(SetState::Dependent | SetState::Complete))
    }

    fn group_members(&self) -> impl Iterator<Item = CutMember> + use<> {
        self.group.clone().into_iter().flat_map(|group| group.members)
    }

    /// All are on the far side, but for those that failed alone between decision and end.
    fn group_done(&mut self) -> Verdict {
        self.tally.groups += 1;
        let members: Vec<CutMember> = self.group_members().collect();
        self.group = None;
        // The safety of a restore first: its image is the master before.
        for member in &members {
            let set = member.set.0;
            let status = self.status(set).filter(|status| status.header.state.is_online());
            if self.oracle.restores_from(set) {
                continue;
            }
            match status {
                Some(status) => self.oracle.cut_done(set, status.header.epoch.0)?,
                None => self.oracle.cut_refused(set, false),
            }
        }
        for member in members {
            if !self.oracle.restores_from(member.set.0) {
                continue;
            }
            let status = self.status(member.set.0).filter(|status| status.header.state.is_online());
            match status {
                Some(status) => self.oracle.restore_done(status.header.epoch.0)?,
                None => self.oracle.restore_refused(),
            }
        }
        self.oracle.group_ends();
        Ok(())
    }

    /// Every member is what it was; of one that failed only its bitmap volume knows.
    fn group_void(&mut self) {
        let members: Vec<CutMember> = self.group_members().collect();
        self.group = None;
        for member in members {
            let set = member.set.0;
            if self.oracle.restores_from(set) {
                self.oracle.restore_refused();
            } else {
                let sound = !matches!(self.state(set), Some(SetState::Offline(_)) | None);
                self.oracle.cut_refused(set, sound);
            }
        }
        self.oracle.group_ends();
    }

    /// What every set that is in doubt will hear, asked before one of them is recovered.
    pub(super) fn verdicts(&mut self) -> Result<Vec<bool>, String> {
        let mut store = self.world.claim();
        let mut superblocks = Vec::new();
        for set in self.set_numbers() {
            let known = self.enabled(set).map(|enabled| enabled.identity.set);
            let deadline = Duration::from_millis(DEADLINE_MS);
            let read =
                match known.map(|_| read_superblock(&mut store, self.disk(Disk::Bitmap(set)), deadline)) {
                    Some(Ok(superblock)) => Some(superblock),
                    Some(Err(error)) => {
                        self.land(&mut store, error)?;
                        None
                    }
                    None => None,
                };
            superblocks.push(read.filter(|superblock| Some(superblock.identity.set) == known));
        }
        let verdict = |superblock: &Option<umbra_format::Superblock>| {
            let doubt = superblock.as_ref().and_then(|superblock| superblock.doubt.as_ref());
            doubt.is_some_and(|doubt| {
                let cut = doubt.then.cut;
                let view = |member: &Id128| {
                    let of = superblocks.iter().flatten().find(|other| other.identity.set == *member);
                    of.map_or(MemberView::Unreadable, |superblock| MemberView::of(superblock, cut))
                };
                let views: Vec<MemberView> = doubt.members.iter().map(view).collect();
                decide(self.notes.is_decided(cut), &views)
            })
        };
        Ok(superblocks.iter().map(verdict).collect())
    }
}
