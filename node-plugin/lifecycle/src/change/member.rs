//! A set that a cut, a reset or a restore is about, and what its engine says of it.

use crate::registry::{Found, Seen};
use crate::state::SetStage;
use crate::words::{id128, set_ref};
use crate::world::{Reactor, World};
use umbra_engine::{CutMember, OfflineCause, Refusal, SetIndex, SetState, SetStatus};
use umbra_platform::PlatformError;
use umbra_platform::call::{CopyKind, Direction, SetTarget};
use umbra_platform::id::{CutId, Epoch};
use umbra_platform::status::{Role, WaitReason, WaitingFor};
use umbra_platform::time::WallTime;
use uuid::Uuid;

pub(super) type Result<T> = std::result::Result<T, PlatformError>;

/// A set that a cut is about, as it was when we looked, with the turn of its master.
pub(super) struct Member<W: World> {
    pub(super) found: Found<W>,
    pub(super) reactor: W::Reactor,
    pub(super) status: SetStatus,
}

/// What a cut does with all its members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) direction: Direction,
    pub(super) kind: CopyKind,
    pub(super) cut: CutId,
    pub(super) reset: bool,
}

impl Plan {
    pub(super) fn member<W: World>(&self, member: &Member<W>) -> CutMember {
        CutMember {
            set: SetIndex(member.found.set.index),
            direction: match self.direction {
                Direction::ToShadow => umbra_engine::Direction::ToShadow,
                Direction::ToMaster => umbra_engine::Direction::ToMaster,
            },
            kind: match self.kind {
                CopyKind::Full => umbra_engine::CopyKind::Full,
                CopyKind::Update => umbra_engine::CopyKind::Update,
            },
            reset: self.reset,
        }
    }
}

/// Whether a set's present image is that of a cut.
pub(super) fn has(status: &SetStatus, cut: CutId) -> bool {
    status.header.cut == id128(cut.0) && status.header.state.is_online()
}

/// What a set's engine says of it.
///
/// # Errors
/// Its master, or the set, is not served.
pub(crate) async fn engine_status<W: World>(
    seen: &Seen<W>,
    set: &crate::state::SetRecord,
) -> Result<(W::Reactor, SetStatus)> {
    let serving = seen.serving()?;
    // Its image has ended on record, whatever its engine says yet, and the next start takes it away.
    if set.stage == SetStage::Disabling {
        let cause = "it is to be gone, and something of it is left: disable it again".into();
        return Err(PlatformError::GivenUp { set: set_ref(set), cause });
    }
    if let Some(unserved) = serving.unserved.get(&set.id) {
        return Err(PlatformError::GivenUp { set: set_ref(set), cause: unserved.reason.as_str().into() });
    }
    let snapshot = serving.reactor.snapshot().await.map_err(|_| died(seen))?;
    let of = snapshot.sets.into_iter().find(|(index, _)| index.0 == set.index);
    let (_, status) = of.ok_or_else(|| PlatformError::no_set(&set_ref(set)))?;
    Ok((serving.reactor.clone(), status))
}

/// A master whose thread has just died: it is started again by itself.
pub(crate) fn died<W: World>(seen: &Seen<W>) -> PlatformError {
    let wait = WaitingFor {
        reason: WaitReason::Recovering,
        what: "its thread died and is started again".into(),
        since: WallTime::now(),
    };
    PlatformError::blocked(crate::words::master_ref(&seen.record), &wait)
}

/// Refuses a caller that believes the set to be in another epoch.
pub(crate) fn check_epoch(target: &SetTarget, status: &SetStatus) -> Result<()> {
    let actual = Epoch(status.header.epoch.0);
    match target.expected_epoch {
        Some(expected) if expected != actual => {
            Err(PlatformError::StaleEpoch { set: target.set.clone(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// The engine's refusal in the words of the platform API.
pub(crate) fn refusal<W: World>(found: &Found<W>, refusal: Refusal) -> PlatformError {
    let set = set_ref(&found.set);
    let cause = refusal.to_string().into();
    let void = |cause| PlatformError::CutVoid { cut: CutId(Uuid::nil()), cause };
    match refusal {
        Refusal::NoSuchSet => PlatformError::no_set(&set),
        Refusal::Offline(which) | Refusal::Failed(which) => {
            let role = match which {
                OfflineCause::Shadow => Role::Shadow,
                OfflineCause::Bitmap => Role::Bitmap,
            };
            PlatformError::Offline { set, role, cause }
        }
        Refusal::NoCopy => PlatformError::BadArgument { argument: "set".into(), problem: cause },
        Refusal::AbandonedIo(device) => {
            let volume = match device {
                umbra_engine::Device::Bitmap(_) => &found.set.bitmap,
                _ => &found.set.shadow,
            };
            let device = crate::words::device_path(&volume.device);
            PlatformError::VolumeInUse { device, holder: cause }
        }
        Refusal::Restoring => PlatformError::Copying { set, direction: Direction::ToMaster },
        Refusal::LostChunks(lost) => PlatformError::Incomplete { set, lost },
        Refusal::NoImage | Refusal::Dependent => {
            PlatformError::Copying { set, direction: Direction::ToShadow }
        }
        Refusal::Twice | Refusal::TooManyMembers => {
            PlatformError::BadArgument { argument: "sets".into(), problem: cause }
        }
        Refusal::Busy | Refusal::SourceFlush | Refusal::DrainTimeout | Refusal::NoGate => void(cause),
    }
}

/// A cut stands for other members, and this one does not have it (any more).
pub(super) fn dropped_out<W: World>(member: &Member<W>, cut: CutId) -> PlatformError {
    let set = set_ref(&member.found.set);
    match member.status.header.state {
        SetState::Offline(cause) => {
            let role = match cause {
                OfflineCause::Shadow => Role::Shadow,
                OfflineCause::Bitmap => Role::Bitmap,
            };
            let cause = format!("it failed during cut {cut}, which stands for the other sets").into();
            PlatformError::Offline { set, role, cause }
        }
        _ => {
            let problem =
                format!("cut {cut} was taken without set {set}, or the set is in a later one").into();
            PlatformError::BadArgument { argument: "cut".into(), problem }
        }
    }
}
