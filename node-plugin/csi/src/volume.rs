//! What umbra-io says of a volume, and whether it may be used now.

use crate::handle::VolumeHandle;
use crate::refusal::Refusal;
use umbra_platform::call::Scope;
use umbra_platform::id::{MasterId, MasterRef, SetRef};
use umbra_platform::status::{MasterState, MasterStatus, SetState, SetStatus, Status};
use umbra_platform::value::DevicePath;

/// A volume that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub(crate) handle: VolumeHandle,
    /// The presented device.
    pub(crate) device: DevicePath,
    /// Of a shadow, its master, which is on this node too.
    pub(crate) twin: Option<MasterId>,
}

/// What to ask umbra-io for.
pub(crate) fn scope(handle: VolumeHandle) -> Scope {
    match handle {
        VolumeHandle::Master(id) => Scope::Master(MasterRef::Id(id)),
        VolumeHandle::Shadow(id) => Scope::Set(SetRef::Id(id)),
    }
}

impl Volume {
    /// The volume in a status, if it is served.
    ///
    /// # Errors
    /// [`Refusal`]: it is not there, or not now.
    pub fn served(handle: VolumeHandle, status: &Status) -> Result<Self, Refusal> {
        let unknown = || Refusal::NoSuchVolume { volume: handle.to_string().into() };
        let master = |id: MasterId| status.masters.iter().find(|master| master.id == id);
        match handle {
            VolumeHandle::Master(id) => {
                let master = master(id).ok_or_else(unknown)?;
                master_serves(handle, master)?;
                Ok(Self { handle, device: master.presented.clone(), twin: None })
            }
            VolumeHandle::Shadow(id) => {
                let set = status.sets.iter().find(|set| set.id == id).ok_or_else(unknown)?;
                let twin = master(set.master);
                if let Some(master) = twin {
                    master_serves(handle, master)?;
                }
                set_serves(handle, set)?;
                Ok(Self { handle, device: set.shadow_device.clone(), twin: twin.map(|master| master.id) })
            }
        }
    }
}

fn master_serves(volume: VolumeHandle, master: &MasterStatus) -> Result<(), Refusal> {
    let what = match &master.state {
        MasterState::Serving => return Ok(()),
        MasterState::Detaching => return Err(Refusal::Leaving { volume }),
        MasterState::Quarantined(wait) => {
            return Err(Refusal::Quarantined { volume, what: wait.what.clone() });
        }
        MasterState::Claiming(wait) | MasterState::Recovering(wait) | MasterState::Blocked(wait) => {
            &wait.what
        }
        MasterState::Failed { reason } => reason,
    };
    let state = format!("master {} is {}", master.name, master.state.word());
    Err(Refusal::NotServed { volume, state: state.into(), what: what.clone() })
}

fn set_serves(volume: VolumeHandle, set: &SetStatus) -> Result<(), Refusal> {
    let state = || format!("set {} is {}", set.name, set.state.word()).into();
    match &set.state {
        SetState::Idle
        | SetState::Copying(_)
        | SetState::CopyAborted(_)
        | SetState::Restoring(_)
        | SetState::RestoreAborted(_) => Ok(()),
        SetState::Blocked(wait) => {
            Err(Refusal::NotServed { volume, state: state(), what: wait.what.clone() })
        }
        SetState::Offline { reason, .. } | SetState::GivenUp { reason } => {
            Err(Refusal::NoImage { volume, state: state(), what: reason.clone() })
        }
    }
}
