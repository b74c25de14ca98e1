//! What a plan of a master is put together from: the node asked to present the device, what its answers mean, and the node asked
//! to let go of it.

use kube::ResourceExt;
use umbra_crds::conditions::{MasterReady, TakenOverReason};
use umbra_facade::{ClientError, FacadeError};
use umbra_platform::PlatformError;
use umbra_platform::call::{AttachMaster, DetachMaster};
use umbra_platform::id::MasterRef;
use umbra_platform::status::{MasterState, MasterStatus, WaitReason};
use umbra_platform::value::{DevicePath, InvalidValue, Label, QueueDepth};

use super::{Effect, FINALIZER, View};
use crate::cluster::Key;
use crate::nodes::{Attempt, NodeAddress, NodeView};
use crate::reconcile::{AT_REST, Again, LATER, SOON};
use crate::report::Outlook;

/// What is said, and what is done. A step that the node has refused is tried again without a word, so that what it is refused
/// for stays to be read and nothing is written at rest.
pub(super) type Verdict = (MasterReady, String, Outlook, Option<Effect>, Again);
/// What is said of a takeover; none of a master that takes nothing over.
pub(super) type Told = Option<(TakenOverReason, String)>;

/// The name of a master on its node: namespaces have no dots, so no two objects have one.
///
/// # Errors
/// Where it is too long.
pub fn label(key: &Key) -> Result<Label, InvalidValue> {
    format!("{}.{}", key.namespace.as_deref().unwrap_or_default(), key.name).parse()
}

impl View {
    fn key(&self) -> Key {
        Key::of(&self.master)
    }

    /// Whether the object is kept until what was done for it is undone.
    pub(super) fn is_held(&self) -> bool {
        self.master.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Whether the object has its master on record.
    pub(super) fn is_known(&self) -> bool {
        self.master.status.as_ref().is_some_and(|status| status.master_id.is_some())
    }

    /// Whether the master on the node is this object's: it is on record, was made on behalf of it, or is of the same device.
    pub(super) fn is_own(&self, master: &MasterStatus) -> bool {
        let made = self.attach.as_ref().is_some_and(Attempt::was_begun);
        self.is_known() || made || self.device.as_ref().is_ok_and(|device| device.path == master.device)
    }

    /// The step whose next request must be known to decide.
    pub(super) fn step(&self) -> Option<&'static str> {
        let deleted = self.master.metadata.deletion_timestamp.is_some();
        match (deleted, self.found()) {
            (true, Some(_)) if self.is_known() => Some("detach"),
            (false, Some(_)) if self.is_known() => None,
            (_, _) => Some("attach"),
        }
    }

    /// The master on its node: by the name that this object gives it, and by its identifier where that is on record. A status
    /// alone could name any master.
    pub(super) fn found(&self) -> Option<&MasterStatus> {
        let known = self.master.status.as_ref().and_then(|status| status.master_id);
        let name = label(&self.key()).ok();
        let is_it = |master: &MasterStatus| known.is_none_or(|id| master.id.0 == id.uuid());
        self.node.as_ref()?.master(|master| Some(&master.name) == name.as_ref() && is_it(master))
    }
}

pub(super) fn stalled(reason: MasterReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Stalled, None, LATER)
}

pub(super) fn waits(reason: MasterReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Progressing, None, LATER)
}

pub(super) fn acts(reason: MasterReady, message: impl Into<String>, effect: Effect) -> Verdict {
    (reason, message.into(), Outlook::Progressing, Some(effect), SOON)
}

pub(super) fn foreign(address: &NodeAddress, master: &MasterStatus) -> Verdict {
    let message =
        format!("node {} has a master of this name on another device, {}", address.name, master.device);
    stalled(MasterReady::ForeignMaster, message)
}

/// Asks the node to present the device.
pub(super) fn attach(
    view: &View,
    address: &NodeAddress,
    device: DevicePath,
    refused: Option<&ClientError>,
) -> Verdict {
    let name = match label(&view.key()) {
        Ok(name) => name,
        Err(error) => {
            return stalled(
                MasterReady::NotSupported,
                format!("its namespace and name are too long: {error}"),
            );
        }
    };
    if let Some(error) = refused {
        return refusal(error);
    }
    if view.master.spec.queues != 1 {
        return stalled(MasterReady::NotSupported, "this version serves one queue: set queues to 1");
    }
    let depth =
        u64::try_from(view.master.spec.queue_depth).ok().and_then(|depth| QueueDepth::new(depth).ok());
    let (Some(queue_depth), Some(attempt)) = (depth, &view.attach) else {
        return stalled(MasterReady::NotSupported, "queueDepth is out of bounds");
    };
    let call = AttachMaster {
        request: attempt.request,
        device,
        name,
        expected_identity: None,
        accept_weak_identity: false,
        ublk: None,
        queue_depth,
    };
    acts(
        MasterReady::Starting,
        "the node is asked to present the device",
        Effect::Attach(address.clone(), call),
    )
}

/// What a refusal of the node means for who waits.
fn refusal(error: &ClientError) -> Verdict {
    let message = format!("{error}; {}", error.remedy());
    let refused = match error {
        ClientError::Refused(refused) => refused,
        ClientError::Denied(FacadeError::DeviceNotAllowed { .. }) => {
            return waits(MasterReady::DeviceUnusable, message);
        }
        _ => return waits(MasterReady::NodeNotReady, message),
    };
    match refused {
        PlatformError::VolumeInUse { .. } => waits(MasterReady::DeviceBusy, message),
        PlatformError::Mounted { .. } => waits(MasterReady::RawDeviceMounted, message),
        PlatformError::AlreadyExists { .. }
        | PlatformError::AlreadyInRole { .. }
        | PlatformError::SameDeviceAs { .. }
        | PlatformError::Foreign { .. }
        | PlatformError::PresentedDevice { .. }
        | PlatformError::NameTaken { .. } => stalled(MasterReady::ForeignMaster, message),
        PlatformError::Unavailable { .. }
        | PlatformError::Stopping { .. }
        | PlatformError::Deadline { .. } => waits(MasterReady::NodeNotReady, message),
        PlatformError::IdentityWeak { .. } => stalled(MasterReady::DeviceUnusable, message),
        _ => waits(MasterReady::DeviceUnusable, message),
    }
}

/// A master that its node knows, and what is to be done once it is served.
pub(super) fn served(master: &MasterStatus, then: impl FnOnce() -> Verdict) -> Verdict {
    match &master.state {
        MasterState::Serving => then(),
        MasterState::Claiming(wait) | MasterState::Recovering(wait) => {
            (MasterReady::Recovering, wait.what.to_string(), Outlook::Progressing, None, SOON)
        }
        MasterState::Blocked(wait) => {
            let reason = match wait.reason {
                WaitReason::InUse => MasterReady::DeviceBusy,
                WaitReason::Foreign => MasterReady::ForeignMaster,
                WaitReason::Recovering | WaitReason::Claiming => MasterReady::Recovering,
                WaitReason::WrittenOutside => MasterReady::Quarantined,
                WaitReason::NotThere | WaitReason::IoError | WaitReason::Hung | WaitReason::Shrunk => {
                    MasterReady::DeviceUnusable
                }
            };
            waits(reason, wait.what.to_string())
        }
        MasterState::Quarantined(wait) => stalled(
            MasterReady::Quarantined,
            format!("{}; on the node, umbra-io ctl accept {} takes it as it is", wait.what, master.name),
        ),
        MasterState::Failed { reason } => waits(MasterReady::Recovering, reason.to_string()),
        MasterState::Detaching => waits(MasterReady::Starting, "the node is taking it out"),
    }
}

pub(super) fn live() -> Verdict {
    (MasterReady::Live, String::new(), Outlook::Settled, None, AT_REST)
}

pub(super) fn blocked(message: impl Into<String>) -> Verdict {
    waits(MasterReady::DeletionBlockedInUse, message)
}

/// Nothing is left of the object but itself.
pub(super) fn forget() -> Verdict {
    acts(MasterReady::Starting, "", Effect::RemoveFinalizer)
}

/// Nothing keeps the object any more.
pub(super) fn gone() -> Verdict {
    (MasterReady::Starting, String::new(), Outlook::Progressing, None, Again::Never)
}

/// Sets lean on their master.
pub(super) fn under_sets(view: &View) -> Option<Verdict> {
    let sets = view.sets.join(", ");
    (!view.sets.is_empty())
        .then(|| blocked(format!("it is deleted when no VolumeSet stands on it any more: {sets}")))
}

/// What is to be done until the node has let go of the device; none: it has.
pub(super) fn let_go(view: &View, refused: Option<&ClientError>) -> Option<Verdict> {
    let was_presented = view.is_known();
    let Some(address) = view.node.as_ref().and_then(|node| node.address()) else {
        // Where the node was never asked, or is not even known, there is nothing to undo.
        if !was_presented && view.node.as_ref().is_none_or(|node| matches!(node, NodeView::Unknown { .. })) {
            return None;
        }
        let problem = view.node.as_ref().and_then(|node| node.problem()).unwrap_or_default();
        let message = format!("the node must let go of the device first: {problem}");
        return Some(waits(MasterReady::NodeNotReady, message));
    };
    let Some(master) = view.found() else {
        // What is under way ends on the node, whoever still waits for it.
        return match &view.attach {
            Some(attach) if attach.is_running() => Some(blocked("the node is still presenting the device")),
            Some(_) => None,
            None => Some(blocked("the node has not said what became of the last request")),
        };
    };
    if !view.is_own(master) {
        return None;
    }
    let Some(attempt) = &view.detach else {
        // It goes on record before it goes.
        return Some((MasterReady::DeletionBlockedInUse, String::new(), Outlook::Progressing, None, SOON));
    };
    if let Some(error) = refused {
        let message = format!("the node does not let go of the device: {error}; {}", error.remedy());
        return Some(blocked(message));
    }
    let call = DetachMaster { request: attempt.request, master: MasterRef::Id(master.id) };
    let effect = Effect::Detach(address.clone(), call);
    Some(acts(MasterReady::DeletionBlockedInUse, "the node takes it out", effect))
}
