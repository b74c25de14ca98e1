//! What is to be done about a master, from what is known of it.

use kube::ResourceExt;
use umbra_crds::conditions::{self, ConditionType, InUseReason, MasterReady};
use umbra_crds::{DeviceId, FrontendInUse, MasterId, MasterVolume, MasterVolumeStatus, ObjectName};
use umbra_facade::ClientError;
use umbra_platform::PlatformError;
use umbra_platform::call::{AttachMaster, DetachMaster};
use umbra_platform::id::MasterRef;
use umbra_platform::status::{MasterState, MasterStatus, WaitReason};
use umbra_platform::value::{InvalidValue, Label, QueueDepth};

use super::{Effect, FINALIZER, View};
use crate::access::NoAccess;
use crate::cluster::Key;
use crate::nodes::{Attempt, NodeAddress};
use crate::publish::{Left, Publication};
use crate::reconcile::{AT_REST, Again, LATER, Plan, Reconciled, SOON};
use crate::report::{Outlook, Report};

/// What is said, and what is done. A step that the node has refused is tried again without a word, so that what it is refused
/// for stays to be read and nothing is written at rest.
type Verdict = (MasterReady, String, Outlook, Option<Effect>, Again);

/// The name of a master on its node: namespaces have no dots, so no two objects have one.
///
/// # Errors
/// Where it is too long.
pub fn label(key: &Key) -> Result<Label, InvalidValue> {
    format!("{}.{}", key.namespace.as_deref().unwrap_or_default(), key.name).parse()
}

/// The PersistentVolume of a master.
pub(super) fn volume_name(status: &MasterVolumeStatus) -> Option<String> {
    status.master_id.map(|id| format!("umbra-m-{id}"))
}

impl View {
    fn key(&self) -> Key {
        Key::of(&self.master)
    }

    /// Whether the object has its master on record.
    fn is_known(&self) -> bool {
        self.master.status.as_ref().is_some_and(|status| status.master_id.is_some())
    }

    /// Whether the master on the node is this object's: it is on record, was made on behalf of it, or is of the same device.
    fn is_own(&self, master: &MasterStatus) -> bool {
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

pub(super) fn plan(view: &View, refused: Option<&ClientError>) -> Plan<MasterVolume, Effect> {
    let mut object = view.master.clone();
    let generation = object.metadata.generation.unwrap_or_default();
    let mut status = object.status.take().unwrap_or_default();
    status.observed_generation = Some(generation);
    describe(view, &mut status);
    let deleted = object.metadata.deletion_timestamp.is_some();
    let (reason, message, outlook, effect, again) =
        if deleted { leave(view, refused) } else { serve(view, &status, refused) };
    let before = view.master.conditions();
    let mut report = Report::new(&mut status.conditions, generation, &view.now);
    let is_told = conditions::find(before, ConditionType::Ready)
        .is_some_and(|ready| ready.status == "False" && ready.observed_generation == Some(generation));
    if effect.is_none() || !is_told {
        report.ready(&reason, &message, outlook);
    }
    match (view.master.spec.publish.is_some(), view.published.users.is_empty()) {
        (false, _) => report.withdraw(ConditionType::InUse),
        (true, true) => report.say(&InUseReason::Free, ""),
        (true, false) => report.say(&InUseReason::PodsUsing, &view.published.user_names()),
    }
    object.status = Some(status);
    Plan { object, effect, again }
}

/// What is seen of the master.
fn describe(view: &View, status: &mut MasterVolumeStatus) {
    status.set_count = i32::try_from(view.sets.len()).ok();
    status.users.clone_from(&view.published.users);
    status.claim_name = view.master.spec.publish.as_ref().map(|publish| publish.claim_name.clone());
    if let Some(source) = &view.master.spec.source.device {
        status.device_id = Some(DeviceId::new(source.id.as_str()));
    }
    let Some(found) = view.found().filter(|found| view.is_own(found)) else { return };
    status.node_name = view.node.as_ref().and_then(|node| node.address()).map(|address| address.name.clone());
    status.master_id = Some(MasterId::new(found.id.0));
    status.size_bytes = i64::try_from(found.size.0).ok();
    status.logical_block = i32::try_from(found.block.0).ok();
    status.dev_path = Some(found.presented.to_string());
    status.frontend = found.ublk.map(|_| FrontendInUse::Ublk);
    status.pv_name = view.published.volume.as_ref().map(|volume| ObjectName::new(volume.name_any()));
}

fn stalled(reason: MasterReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Stalled, None, LATER)
}

fn waits(reason: MasterReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Progressing, None, LATER)
}

fn acts(reason: MasterReady, message: impl Into<String>, effect: Effect) -> Verdict {
    (reason, message.into(), Outlook::Progressing, Some(effect), SOON)
}

fn serve(view: &View, status: &MasterVolumeStatus, refused: Option<&ClientError>) -> Verdict {
    let has_finalizer = view.master.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if !has_finalizer {
        return acts(MasterReady::Starting, "", Effect::AddFinalizer);
    }
    let found = view.found();
    let access = match &view.device {
        Err(NoAccess::NotGranted(problem)) if found.is_some() => {
            return stalled(MasterReady::GrantRevoked, problem.as_str());
        }
        Err(NoAccess::NotGranted(problem)) => return stalled(MasterReady::GrantMissing, problem.as_str()),
        Err(NoAccess::NotUsable(problem)) => return stalled(MasterReady::NotSupported, problem.as_str()),
        Ok(device) => device,
    };
    let Some(node) = &view.node else {
        return waits(MasterReady::NodeNotReady, "nobody knows which node has the device");
    };
    let Some(address) = node.address() else {
        return waits(MasterReady::NodeNotReady, node.problem().unwrap_or_default());
    };
    match found {
        Some(master) if !view.is_own(master) => stalled(
            MasterReady::ForeignMaster,
            format!("node {} has a master of this name on another device, {}", address.name, master.device),
        ),
        Some(master) => served(view, status, master),
        None => attach(view, address, access.path.clone(), refused),
    }
}

/// Asks the node to present the device.
fn attach(
    view: &View,
    address: &NodeAddress,
    device: umbra_platform::value::DevicePath,
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
    let ClientError::Refused(refused) = error else { return waits(MasterReady::NodeNotReady, message) };
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

/// A master that its node knows.
fn served(view: &View, status: &MasterVolumeStatus, master: &MasterStatus) -> Verdict {
    match &master.state {
        MasterState::Serving => published(view, status, master),
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

/// A master that is served: pods get it through a claim.
fn published(view: &View, status: &MasterVolumeStatus, master: &MasterStatus) -> Verdict {
    let live = (MasterReady::Live, String::new(), Outlook::Settled, None, AT_REST);
    let (Some(publish), Some(volume_name), Some(node)) =
        (&view.master.spec.publish, volume_name(status), &status.node_name)
    else {
        return live;
    };
    let what = Publication {
        uid: &view.master.uid().unwrap_or_default(),
        namespace: &view.master.namespace().unwrap_or_default(),
        volume_name: &volume_name,
        handle: &format!("m/{}", master.id),
        node,
        size: master.size.0,
        publish,
    };
    match view.published.missing(&what) {
        Ok(None) => live,
        Ok(Some(step)) => {
            (MasterReady::Live, String::new(), Outlook::Progressing, Some(Effect::Publish(step)), SOON)
        }
        Err(problem) => stalled(MasterReady::ClaimTaken, problem),
    }
}

/// A master that is to go: never under a pod, never under a set, and not before the node has let go.
fn leave(view: &View, refused: Option<&ClientError>) -> Verdict {
    let blocked = |message: String| waits(MasterReady::DeletionBlockedInUse, message);
    let gone = || acts(MasterReady::Starting, "", Effect::RemoveFinalizer);
    if !view.master.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return (MasterReady::Starting, String::new(), Outlook::Progressing, None, Again::Never);
    }
    if !view.published.users.is_empty() {
        return blocked(format!(
            "it is deleted when no pod uses it any more: {}",
            view.published.user_names()
        ));
    }
    if !view.sets.is_empty() {
        return blocked(format!(
            "it is deleted when no VolumeSet stands on it any more: {}",
            view.sets.join(", ")
        ));
    }
    match view.published.left(&view.master.uid().unwrap_or_default()) {
        Left::Nothing => {}
        Left::Going(what) => return blocked(format!("it is deleted when {what} is gone")),
        Left::Step(step) => {
            let message = "its claim is taken away first";
            return acts(MasterReady::DeletionBlockedInUse, message, Effect::Publish(step));
        }
    }
    let was_presented = view.master.status.as_ref().is_some_and(|status| status.master_id.is_some());
    let Some(address) = view.node.as_ref().and_then(|node| node.address()) else {
        // Where the node was never asked, or is not even known, there is nothing to undo.
        if !was_presented
            && view.node.as_ref().is_none_or(|node| matches!(node, crate::nodes::NodeView::Unknown { .. }))
        {
            return gone();
        }
        let problem = view.node.as_ref().and_then(|node| node.problem()).unwrap_or_default();
        return waits(
            MasterReady::NodeNotReady,
            format!("the node must let go of the device first: {problem}"),
        );
    };
    let Some(master) = view.found() else {
        // What is under way ends on the node, whoever still waits for it.
        return match &view.attach {
            Some(attach) if attach.is_running() => blocked("the node is still presenting the device".into()),
            Some(_) => gone(),
            None => blocked("the node has not said what became of the last request".into()),
        };
    };
    if !view.is_own(master) {
        return gone();
    }
    let Some(attempt) = &view.detach else {
        // It goes on record before it goes.
        return (MasterReady::DeletionBlockedInUse, String::new(), Outlook::Progressing, None, SOON);
    };
    if let Some(error) = refused {
        return blocked(format!("the node does not let go of the device: {error}; {}", error.remedy()));
    }
    let call = DetachMaster { request: attempt.request, master: MasterRef::Id(master.id) };
    acts(MasterReady::DeletionBlockedInUse, "the node takes it out", Effect::Detach(address.clone(), call))
}
