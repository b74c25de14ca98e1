//! Which commands may have the gate, and for what.

use super::Purpose;
use crate::action::{Device, SetIndex};
use crate::command::{CUT_MEMBERS_MAX, Command, CopyKind, CutMember, Direction, Done, Refusal};
use crate::owner::Owner;
use crate::record::{PlaneId, SetState};

impl Owner {
    /// Whether a member's head is on its way: a restore may have ended, or a gate opened, while it was. It comes, or is
    /// late, and until then its place is not another image's.
    pub(super) fn awaits_head(&self, command: &Command) -> bool {
        let moves = |member: &CutMember| {
            let set = self.sets[usize::from(member.set.0)].as_ref();
            set.is_some_and(|set| set.head_moving.is_some() && set.late_head(self.now).is_none())
        };
        match command {
            Command::Cut { member, .. } => moves(member),
            Command::Prepare { members, .. } => members.iter().any(moves),
            _ => false,
        }
    }

    /// What a command needs the gate for; or its answer, if that is known already.
    pub(super) fn gate_purpose(&self, command: Command) -> Result<Result<Done, Purpose>, Refusal> {
        let known = |set: SetIndex| self.sets[usize::from(set.0)].as_ref().ok_or(Refusal::NoSuchSet);
        match command {
            Command::Cut { member, cut, unix_ms } => {
                let set = known(member.set)?;
                if set.header.cut == cut && set.header.state.is_online() {
                    return Ok(Ok(Done::Cut { epoch: set.header.epoch }));
                }
                let members = vec![self.checked(member)?];
                Ok(Err(Purpose::Cut { members, cut, unix_ms, all: None }))
            }
            Command::Prepare { members, cut, unix_ms, all } => {
                let done = |member: &CutMember| {
                    known(member.set).map(|set| set.header.cut == cut && set.header.state.is_online())
                };
                if members.iter().map(done).collect::<Result<Vec<_>, _>>()?.into_iter().all(|done| done) {
                    return Ok(Ok(Done::Ok));
                }
                if all.len() > CUT_MEMBERS_MAX {
                    return Err(Refusal::TooManyMembers);
                }
                let twice = |at: usize| members[..at].iter().any(|other| other.set == members[at].set);
                let restores =
                    members.iter().filter(|member| member.direction == Direction::ToMaster).count();
                if (0..members.len()).any(twice) || restores > 1 {
                    return Err(Refusal::Twice);
                }
                let members = members.into_iter().map(|member| self.checked(member));
                let members = members.collect::<Result<Vec<_>, _>>()?;
                Ok(Err(Purpose::Cut { members, cut, unix_ms, all: Some(all) }))
            }
            Command::Disable { set: index, force } => {
                let set = known(index)?;
                if self.restore.is_some() {
                    return Err(Refusal::Restoring);
                }
                if set.header.state.is_copying() && !force {
                    return Err(Refusal::Dependent);
                }
                Ok(Err(Purpose::Disable { set: index }))
            }
            Command::Detach if self.restore.is_some() => Err(Refusal::Restoring),
            Command::Detach => Ok(Err(Purpose::Detach)),
            Command::Abort { .. }
            | Command::Resume { .. }
            | Command::SetCopyLimits { .. }
            | Command::Recovering { .. }
            | Command::Flip { .. }
            | Command::Decide { .. } => {
                unreachable!("these open no gate")
            }
        }
    }

    /// Whether a set can be a member of a cut now.
    fn checked(&self, member: CutMember) -> Result<CutMember, Refusal> {
        let index = member.set;
        let set = self.sets[usize::from(index.0)].as_ref().ok_or(Refusal::NoSuchSet)?;
        if self.restore.is_some() {
            return Err(Refusal::Restoring);
        }
        match (set.header.state, set.ending.cause()) {
            (SetState::Offline(cause), _) if !member.reset => return Err(Refusal::Offline(cause)),
            (_, Some(cause)) => return Err(Refusal::Offline(cause)),
            (_, None) => {}
        }
        for (device, watch) in
            [(Device::Shadow(index), &set.shadow_watch), (Device::Bitmap(index), &set.bitmap_watch)]
        {
            if watch.has_abandoned() {
                return Err(Refusal::AbandonedIo(device));
            }
        }
        if let Some(device) = set.late_head(self.now) {
            // When it comes back its next step writes over the head of whatever is there (E6).
            return Err(Refusal::AbandonedIo(device));
        }
        match member.direction {
            Direction::ToShadow => {
                let update = member.kind == CopyKind::Update && set.header.state.is_online();
                let kind = if update { CopyKind::Update } else { CopyKind::Full };
                Ok(CutMember { kind, ..member })
            }
            Direction::ToMaster if set.header.state != set.parameters.mode.at_rest() => Err(Refusal::NoImage),
            Direction::ToMaster => match set.plane(PlaneId::Lost).ones() {
                0 => Ok(member),
                lost => Err(Refusal::LostChunks(lost)),
            },
        }
    }
}
