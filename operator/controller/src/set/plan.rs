//! What is to be done about a set, from what is known of it.

use kube::ResourceExt;
use umbra_crds::conditions::{
    self, ConditionType, ImageTrustedReason, MasterReady, Reason, SetReady, ShadowPublishedReason,
};
use umbra_crds::{ImagingOperation, Mode, OnExisting, ShadowAccess, VolumeSet, VolumeSetStatus};
use umbra_facade::{ClientError, FacadeError};
use umbra_platform::PlatformError;
use umbra_platform::call::{DisableSet, EnableSet, SetTarget, WipeSignatures};
use umbra_platform::id::{MasterRef, SetName, SetRef};
use umbra_platform::status::{
    CopyLimits, Deadlines, MasterStatus, Mode as PlatformMode, SetState, SetStatus, Unrecordable,
};
use umbra_platform::value::{ByteRate, ChunkSize, InFlight, InvalidValue, Signature};

use super::{Effect, FINALIZER, View, picture};
use crate::access::{Device, NoAccess};
use crate::cluster::Key;
use crate::nodes::{Attempt, NodeAddress, NodeView, is_named};
use crate::publish::{Left, Publication, volume_of_set};
use crate::reconcile::{AT_REST, Again, LATER, Plan, Reconciled, SOON};
use crate::report::{Outlook, Report, has_ended};

/// What is said, and what is done. A step that the node has refused is tried again without a word, so that what it is refused
/// for stays to be read and nothing is written at rest.
type Verdict = (SetReady, String, Outlook, Option<Effect>, Again);

impl View {
    fn is_deleted(&self) -> bool {
        self.set.metadata.deletion_timestamp.is_some()
    }

    /// The set on its node: by its name, and by its identifier where that is on record. A status alone could name any set.
    fn found(&self) -> Option<&SetStatus> {
        let known = self.set.status.as_ref().and_then(|status| status.set_id);
        let key = Key::of(&self.set);
        let is_it = |set: &SetStatus| known.is_none_or(|id| set.id.0 == id.uuid());
        self.node.as_ref()?.set(|set| is_named(&set.name, &key) && is_it(set))
    }

    /// Whether the object has its set on record.
    fn is_known(&self) -> bool {
        self.set.status.as_ref().is_some_and(|status| status.set_id.is_some())
    }

    /// Whether the set on the node is this object's: it is on record, was made on behalf of it, or may be taken as it is. What
    /// is to go may not be taken first.
    fn is_own(&self) -> bool {
        let made = self.attempt.as_ref().is_some_and(Attempt::was_begun);
        let may_be_taken = !self.is_deleted() && self.set.spec.on_existing == OnExisting::Adopt;
        self.is_known() || made || (may_be_taken && self.differs().is_none())
    }

    /// How the set on the node is another than the one that is asked for.
    fn differs(&self) -> Option<String> {
        let found = self.found()?;
        if let Some(wanted) = self.set.spec.adopt_set_id.filter(|wanted| wanted.uuid() != found.id.0) {
            return Some(format!("it is set {}, and adoptSetID names {wanted}", found.id));
        }
        if Some(found.mode) != mode(self.set.spec.mode) {
            return Some(format!("its mode is {}", found.mode));
        }
        if found.chunk.bytes() != u64::from(self.set.spec.chunk_size.bytes()) {
            return Some(format!("its chunks have {} bytes", found.chunk.bytes()));
        }
        let volumes = [
            ("shadow", &self.shadow, &found.paths.shadow),
            ("bitmap volume", &self.bitmap, &found.paths.bitmap),
        ];
        let other =
            volumes.iter().find(|(_, wanted, has)| wanted.as_ref().is_ok_and(|wanted| wanted.path != **has));
        other.map(|(what, _, has)| format!("its {what} is {has}"))
    }

    /// The master on the node.
    fn master_there(&self) -> Option<&MasterStatus> {
        let id = self.master.as_ref()?.status.as_ref()?.master_id?;
        self.node.as_ref()?.master(|master| master.id.0 == id.uuid())
    }

    /// The operation that has the set to itself and has not ended.
    fn operation_at_work(&self) -> Option<&ImagingOperation> {
        self.operation.as_ref().filter(|operation| !has_ended(operation.conditions()))
    }
}

/// The limits that are asked for.
///
/// # Errors
/// Where they cannot be.
fn limits(set: &VolumeSet) -> Result<CopyLimits, InvalidValue> {
    let copy = &set.spec.copy;
    let rate = copy.max_bytes_per_second.as_ref().map(|rate| {
        let bytes =
            rate.bytes().map_err(|error| InvalidValue::new("copy.maxBytesPerSecond", error.to_string()))?;
        ByteRate::new(bytes)
    });
    let in_flight = u64::try_from(copy.max_in_flight)
        .map_err(|error| InvalidValue::new("copy.maxInFlight", error.to_string()))
        .and_then(InFlight::new)?;
    Ok(CopyLimits { bytes_per_second: rate.transpose()?, in_flight })
}

/// The step whose next request must be known to decide.
pub(super) fn step(view: &View) -> Option<String> {
    match (view.is_deleted(), view.found()) {
        (false, None) => Some("enable".into()),
        // Whether it was made on behalf of this object.
        (_, Some(_)) if !view.is_known() => Some("enable".into()),
        (false, Some(found)) => {
            let wanted = limits(&view.set).ok().filter(|wanted| *wanted != found.limits)?;
            let rate = wanted.bytes_per_second.map_or(0, ByteRate::get);
            Some(format!("limits/{rate}/{}", wanted.in_flight.get()))
        }
        (true, Some(_)) => Some("disable".into()),
        // It may still be being made.
        (true, None) => Some("enable".into()),
    }
}

pub(super) fn plan(view: &View, refused: Option<&ClientError>) -> Plan<VolumeSet, Effect> {
    let mut object = view.set.clone();
    let generation = object.metadata.generation.unwrap_or_default();
    let mut status = object.status.take().unwrap_or_default();
    status.observed_generation = Some(generation);
    if view.operation_at_work().is_none() {
        // It has ended, or somebody has deleted it.
        status.current_operation = None;
    }
    // One that has never been cut may yet be undone.
    let is_made = |found: &&SetStatus| view.is_known() || found.last_cut.is_some();
    let found = view.found().filter(|_| view.is_own()).filter(is_made);
    if let (Some(found), Some(address)) = (found, view.node.as_ref().and_then(NodeView::address)) {
        picture::describe(&mut status, found, view.master_there(), &view.group_cuts);
        status.node_name = Some(address.name.clone());
    }
    let (reason, message, outlook, effect, again) =
        if view.is_deleted() { leave(view, refused) } else { serve(view, &status, refused) };
    let before = view.set.conditions();
    let mut report = Report::new(&mut status.conditions, generation, &view.now);
    let is_told = conditions::find(before, ConditionType::Ready)
        .is_some_and(|ready| ready.status == "False" && ready.observed_generation == Some(generation));
    if effect.is_none() || !is_told {
        report.ready(&reason, &message, outlook);
    }
    tell(view, found, &mut report);
    object.status = Some(status);
    Plan { object, effect, again }
}

/// Everything but readiness.
fn tell(view: &View, found: Option<&SetStatus>, report: &mut Report<'_>) {
    if let Some(set) = found {
        report.say(&picture::resynchronizing(set), "");
        match picture::independent(set) {
            Some(reason) => report.say(&reason, ""),
            None => report.withdraw(ConditionType::Independent),
        }
        match picture::trust(set) {
            _ if is_quarantined(view) => {
                report.say(&ImageTrustedReason::MasterWrittenOutside, "the master was written outside Umbra");
            }
            Some((reason, message)) => report.say(&reason, &message),
            None => report.withdraw(ConditionType::ImageTrusted),
        }
    }
    let users = &view.published.users;
    match (&view.set.spec.shadow.publish, &view.published.claim) {
        (None, _) => report.say(&ShadowPublishedReason::None, ""),
        (Some(_), Some(_)) if users.is_empty() => report.say(&ShadowPublishedReason::ClaimBound, ""),
        (Some(_), Some(_)) => report.say(&ShadowPublishedReason::InUse, &view.published.user_names()),
        (Some(_), None) => report.withdraw(ConditionType::ShadowPublished),
    }
}

fn master_ready(view: &View) -> Option<&str> {
    let status = view.master.as_ref()?.status.as_ref()?;
    conditions::find(&status.conditions, ConditionType::Ready).map(|ready| ready.reason.as_str())
}

fn is_quarantined(view: &View) -> bool {
    master_ready(view) == Some(MasterReady::Quarantined.as_str())
}

fn stalled(reason: SetReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Stalled, None, LATER)
}

fn waits(reason: SetReady, message: impl Into<String>) -> Verdict {
    (reason, message.into(), Outlook::Progressing, None, LATER)
}

fn acts(reason: SetReady, message: impl Into<String>, effect: Effect) -> Verdict {
    (reason, message.into(), Outlook::Progressing, Some(effect), SOON)
}

fn serve(view: &View, status: &VolumeSetStatus, refused: Option<&ClientError>) -> Verdict {
    if !view.set.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return acts(SetReady::Enabling, "", Effect::AddFinalizer);
    }
    let master_name = &view.set.spec.master_ref.name;
    if view.master.is_none() {
        return waits(SetReady::MasterNotReady, format!("there is no MasterVolume {master_name}"));
    }
    let Some(node) = &view.node else {
        return waits(SetReady::MasterNotReady, format!("MasterVolume {master_name} is not presented yet"));
    };
    let Some(address) = node.address() else {
        return waits(SetReady::MasterNotReady, node.problem().unwrap_or_default());
    };
    let Some(master) = view.master_there() else {
        return waits(
            SetReady::MasterNotReady,
            format!("MasterVolume {master_name} is not presented on its node"),
        );
    };
    match view.found() {
        None => enable(view, address, master, refused),
        Some(found) if found.master != master.id => stalled(
            SetReady::ForeignBitmap,
            format!("node {} has a set of this name on another master, {}", address.name, found.master_name),
        ),
        Some(found) => kept(view, status, address, found, refused),
    }
}

/// A volume of the set that may be used on the master's node.
fn usable<'a>(
    device: &'a Result<Device, NoAccess>,
    address: &NodeAddress,
) -> Result<&'a Device, Box<Verdict>> {
    let verdict = match device {
        Ok(device) if device.node == address.name => return Ok(device),
        Ok(device) => {
            let (path, node) = (&device.path, &device.node);
            let message = format!("device {path} is on node {node}, and the master on node {}", address.name);
            stalled(SetReady::VolumeRefused, message)
        }
        Err(NoAccess::NotGranted(problem)) => stalled(SetReady::GrantMissing, problem.as_str()),
        Err(NoAccess::NotUsable(problem)) => stalled(SetReady::NotSupported, problem.as_str()),
    };
    Err(Box::new(verdict))
}

/// Asks the node for the set.
fn enable(
    view: &View,
    address: &NodeAddress,
    master: &MasterStatus,
    refused: Option<&ClientError>,
) -> Verdict {
    let (shadow, bitmap) = match (usable(&view.shadow, address), usable(&view.bitmap, address)) {
        (Ok(shadow), Ok(bitmap)) => (shadow, bitmap),
        (Err(verdict), _) | (_, Err(verdict)) => return *verdict,
    };
    if view.is_known() {
        // The object remembers an image. What became of it is for people to find out: it is not replaced in silence.
        return stalled(
            SetReady::ImageLost,
            format!(
                "node {} does not know this set any more; delete the object and create it anew for a new image",
                address.name
            ),
        );
    }
    if let Some(error) = refused {
        return refusal(error);
    }
    if view.set.spec.adopt_set_id.is_some() {
        let message = "the node does not know the set of adoptSetID, and this version cannot take one from its bitmap volume";
        return stalled(SetReady::NotSupported, message);
    }
    let Some(attempt) = &view.attempt else {
        return waits(SetReady::Enabling, "the node has not said what became of the last request");
    };
    if view.set.spec.initial_quiesce.is_some() {
        return stalled(
            SetReady::NotSupported,
            "this version brings nothing to rest for a cut: leave initialQuiesce out",
        );
    }
    match call(view, master, shadow, bitmap, attempt.request) {
        Ok(call) => acts(
            SetReady::Enabling,
            "the node is asked for the set and its first cut",
            Effect::Enable(address.clone(), Box::new(call)),
        ),
        Err(error) => stalled(SetReady::NotSupported, error.to_string()),
    }
}

fn call(
    view: &View,
    master: &MasterStatus,
    shadow: &Device,
    bitmap: &Device,
    request: umbra_platform::id::RequestId,
) -> Result<EnableSet, InvalidValue> {
    let key = Key::of(&view.set);
    let signatures = [&shadow.wipe, &bitmap.wipe].into_iter().flatten();
    let signatures: Result<Vec<Signature>, InvalidValue> =
        signatures.map(|signature| signature.as_str().parse()).collect();
    Ok(EnableSet {
        request,
        master: MasterRef::Id(master.id),
        name: SetName {
            cluster: None,
            namespace: key.namespace.map(|namespace| namespace.parse()).transpose()?,
            name: key.name.parse()?,
        },
        mode: mode(view.set.spec.mode)
            .ok_or_else(|| InvalidValue::new("mode", "CompactDependent is not served by this version"))?,
        shadow: shadow.path.clone(),
        bitmap: bitmap.path.clone(),
        chunk: Some(ChunkSize::new(u64::from(view.set.spec.chunk_size.bytes()))?),
        deadlines: Deadlines::default(),
        unrecordable: Unrecordable::default(),
        // It can be lifted in the object; the node could not lift it.
        protected: false,
        wipe: WipeSignatures::new(signatures?)?,
    })
}

/// A mode in the node's words; none where this version does not serve it.
fn mode(mode: Mode) -> Option<PlatformMode> {
    match mode {
        Mode::Independent => Some(PlatformMode::Independent),
        Mode::Dependent => Some(PlatformMode::Dependent),
        Mode::CompactDependent => None,
    }
}

/// What a refusal of the node means for who waits.
fn refusal(error: &ClientError) -> Verdict {
    let message = format!("{error}; {}", error.remedy());
    let refused = match error {
        ClientError::Refused(refused) => refused,
        ClientError::Denied(FacadeError::DeviceNotAllowed { .. }) => {
            return waits(SetReady::VolumeRefused, message);
        }
        _ => return waits(SetReady::Enabling, message),
    };
    match refused {
        PlatformError::BitmapTooSmall { .. } => stalled(SetReady::BitmapTooSmall, message),
        PlatformError::ShadowTooSmall { .. } | PlatformError::SizeChanged { .. } => {
            stalled(SetReady::SizeMismatch, message)
        }
        PlatformError::BitmapForeign { .. }
        | PlatformError::BitmapDamaged { .. }
        | PlatformError::Foreign { .. } => stalled(SetReady::ForeignBitmap, message),
        PlatformError::Unavailable { .. }
        | PlatformError::Stopping { .. }
        | PlatformError::Deadline { .. }
        | PlatformError::Hung { .. }
        | PlatformError::CutVoid { .. } => waits(SetReady::Enabling, message),
        PlatformError::Copying { .. }
        | PlatformError::CopyPending { .. }
        | PlatformError::OppositePending { .. }
        | PlatformError::Blocked { .. } => waits(SetReady::Blocked, message),
        PlatformError::VolumeInUse { .. }
        | PlatformError::Mounted { .. }
        | PlatformError::HasOpeners { .. } => waits(SetReady::VolumeRefused, message),
        _ => stalled(SetReady::VolumeRefused, message),
    }
}

/// A set that the node has.
fn kept(
    view: &View,
    status: &VolumeSetStatus,
    address: &NodeAddress,
    found: &SetStatus,
    refused: Option<&ClientError>,
) -> Verdict {
    if !view.is_own() {
        let differs = view.differs().unwrap_or_else(|| "onExisting is Refuse".to_owned());
        let message = format!("node {} has set {} of this name already: {differs}", address.name, found.id);
        return stalled(SetReady::ForeignBitmap, message);
    }
    if let (Ok(wanted), None) = (limits(&view.set), refused)
        && wanted != found.limits
        && let Some(attempt) = view.attempt.as_ref().filter(|_| view.is_known())
    {
        let call = umbra_platform::call::SetCopyLimits {
            request: attempt.request,
            target: SetTarget::from(SetRef::Id(found.id)),
            limits: wanted,
        };
        return acts(
            SetReady::Blocked,
            "the limits of its copies change",
            Effect::Limits(address.clone(), call),
        );
    }
    let (mut reason, mut message) = picture::readiness(found);
    if let (Some(wait), true) = (&found.stalled, found.state.is_running()) {
        message = format!("the copy does not get on: {}", wait.what);
    }
    for device in [&view.shadow, &view.bitmap] {
        if let Err(NoAccess::NotGranted(problem)) = device {
            (reason, message) = (SetReady::GrantRevoked, problem.clone());
        }
    }
    match publish(view, status, found) {
        Err(problem) => return stalled(SetReady::ClaimTaken, problem),
        Ok(Some(effect)) => return (reason, message, Outlook::Progressing, Some(effect), SOON),
        Ok(None) => {}
    }
    let (outlook, again) = match &found.state {
        SetState::Copying(_) | SetState::Restoring(_) => (Outlook::Settled, SOON),
        SetState::Blocked(_) => (Outlook::Progressing, LATER),
        SetState::Offline { .. } | SetState::GivenUp { .. } => (Outlook::Stalled, LATER),
        SetState::Idle | SetState::CopyAborted(_) | SetState::RestoreAborted(_) => {
            (Outlook::Settled, AT_REST)
        }
    };
    (reason, message, outlook, None, again)
}

/// What is missing of the claim for the shadow, or is there and should not be.
fn publish(view: &View, status: &VolumeSetStatus, found: &SetStatus) -> Result<Option<Effect>, String> {
    let (Some(volume_name), Some(node)) = (volume_of_set(status), &status.node_name) else { return Ok(None) };
    let uid = view.set.uid().unwrap_or_default();
    let Some(publish) = &view.set.spec.shadow.publish else {
        // It was asked for once. The claim, if there is one, is found by the volume that was made for it.
        return Ok(view.published.left(&uid).step().map(Effect::Publish));
    };
    let size = view.master_there().map_or(0, |master| master.size.0);
    let what = Publication {
        uid: &uid,
        namespace: &view.set.namespace().unwrap_or_default(),
        volume_name: &volume_name,
        handle: &format!("s/{}", found.id),
        node,
        size,
        publish,
        is_writable_image: view.set.spec.shadow.access == ShadowAccess::ReadWrite,
    };
    view.published.missing(&what).map(|step| step.map(Effect::Publish))
}

/// A set that is to go: never a protected one, never under an operation or a pod, and not before the node has ended it.
fn leave(view: &View, refused: Option<&ClientError>) -> Verdict {
    let blocked = |message: String| waits(SetReady::DeletionBlocked, message);
    if !view.set.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
        return (SetReady::DeletionBlocked, String::new(), Outlook::Progressing, None, Again::Never);
    }
    if view.set.spec.shadow.protected {
        return stalled(
            SetReady::DeletionBlocked,
            "its image is protected: set shadow.protected to false first",
        );
    }
    if let Some(operation) = view.operation_at_work() {
        return blocked(format!("it is deleted when operation {} has ended", operation.name_any()));
    }
    if !view.published.users.is_empty() {
        return blocked(format!(
            "it is deleted when no pod uses its shadow any more: {}",
            view.published.user_names()
        ));
    }
    match view.published.left(&view.set.uid().unwrap_or_default()) {
        Left::Nothing => {}
        Left::Going(what) => return blocked(format!("it is deleted when {what} is gone")),
        Left::Step(step) => {
            return acts(SetReady::DeletionBlocked, "its claim is taken away first", Effect::Publish(step));
        }
    }
    let was_made = view.is_known();
    let node = view.node.as_ref();
    let Some(address) = node.and_then(NodeView::address) else {
        if node.is_none() && !was_made {
            return acts(SetReady::DeletionBlocked, "", Effect::RemoveFinalizer);
        }
        let problem = node.and_then(NodeView::problem).unwrap_or("nobody knows its node");
        return blocked(format!("the node must end the set first: {problem}"));
    };
    match (view.found(), &view.attempt) {
        // Another's, under the same name.
        (Some(_), Some(_)) if !view.is_own() => acts(SetReady::DeletionBlocked, "", Effect::RemoveFinalizer),
        // It goes on record before it goes.
        (Some(_), Some(_)) if !was_made => {
            (SetReady::DeletionBlocked, String::new(), Outlook::Progressing, None, SOON)
        }
        (Some(found), Some(attempt)) => end(address, found, attempt.request, refused),
        (Some(_), None) => blocked("the node has not said what became of the last request".into()),
        // A master that is not presented hides its sets: they come back with it.
        (None, _) if was_made && view.master.is_some() && view.master_there().is_none() => {
            blocked("its master is not presented: the node cannot end the set".into())
        }
        (None, Some(attempt)) if attempt.is_running() => blocked("the node is still making the set".into()),
        (None, Some(_)) => acts(SetReady::DeletionBlocked, "", Effect::RemoveFinalizer),
        (None, None) => blocked("the node has not said what became of the last request".into()),
    }
}

/// Ends the set on its node.
fn end(
    address: &NodeAddress,
    found: &SetStatus,
    request: umbra_platform::id::RequestId,
    refused: Option<&ClientError>,
) -> Verdict {
    if let Some(error) = refused {
        let message = format!("the node does not end the set: {error}; {}", error.remedy());
        return waits(SetReady::DeletionBlocked, message);
    }
    let target = SetTarget::from(SetRef::Id(found.id));
    match &found.state {
        // Broken off, a copy leaves what is pending, and the node keeps the set because of it.
        SetState::Copying(_) | SetState::Restoring(_) => {
            waits(SetReady::DeletionBlocked, "it is deleted when its copy has ended")
        }
        _ => acts(
            SetReady::DeletionBlocked,
            "the node ends the set",
            Effect::Disable(address.clone(), DisableSet { request, target }),
        ),
    }
}
