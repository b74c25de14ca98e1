//! What is to be done about a master whose claim is taken over, from what is known of it: the way there, and the way back.
//!
//! Where either stands is seen from the objects alone: which volume the claim is of, what is on record on the raw volume,
//! whether Umbra's volume is there, whether the node presents the device. So the way back begins wherever the way there was
//! left, and both go on wherever an operator was killed.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use umbra_crds::conditions::{MasterReady, TakenOverReason as Why};
use umbra_crds::raw_volume::{is_bound, unfit};
use umbra_crds::{DeletionPolicy, MasterVolumeStatus, ObjectName, TakeoverPolicy, TakeoverStep};
use umbra_facade::ClientError;
use umbra_platform::status::{MasterState, MasterStatus};

use super::steps::{self, Told, Verdict, acts, blocked, stalled, waits};
use super::{Effect, View};
use crate::publish::{Step, is_going, volume_of_master};
use crate::reconcile::{AT_REST, SOON};
use crate::report::Outlook;
use crate::takeover::{self, Holder, Original, Record, Replacement, Takeover, bound_to, volume_of};

/// Where a takeover stands.
#[derive(Debug, Clone, Copy)]
struct Stand<'a> {
    /// Whose the claim is.
    holder: Holder<'a>,
    /// The volume that the claim is taken from, once it says so.
    raw: Option<&'a PersistentVolume>,
    /// What is on record on it.
    record: Result<&'a Record, &'a str>,
    /// The volume in its place.
    own: Option<&'a PersistentVolume>,
}

impl<'a> Stand<'a> {
    fn of(view: &'a View, takeover: &'a Takeover, status: &MasterVolumeStatus) -> Self {
        let (raw, record) = match &takeover.original {
            Original::Taken { volume, record } => {
                (Some(&**volume), record.as_deref().map_err(String::as_str))
            }
            Original::Untouched(_) => {
                (None, Err("no PersistentVolume says any more from which the claim was taken"))
            }
        };
        let untouched = match &takeover.original {
            Original::Untouched(volume) => volume.as_deref(),
            Original::Taken { .. } => None,
        };
        let own = takeover::own(view.published.volume.as_ref(), &view.master.uid().unwrap_or_default());
        let own_name = volume_of_master(status);
        let holder = Holder::of(view.published.claim.as_ref(), raw.or(untouched), own_name.as_deref());
        Self { holder, raw, record, own }
    }

    /// Whether pods get the claim's data through Umbra.
    fn is_done(&self) -> bool {
        self.holder.is_bound_to(self.own)
    }

    /// Whether Umbra's volume was that of a claim that is gone: it is bound to no other.
    fn is_spent(&self, claim: Option<&PersistentVolumeClaim>) -> bool {
        let uid = claim.and_then(|claim| claim.metadata.uid.as_deref());
        self.own.and_then(bound_to).is_some_and(|bound| uid != Some(bound))
    }

    /// What is said once the claim is swapped.
    fn done(&self) -> (Why, String) {
        match (self.record, self.raw) {
            (Err(problem), _) => {
                (Why::RecordUnreadable, format!("{problem}: it cannot be put back by a release"))
            }
            (Ok(_), Some(raw)) if is_going(raw) => {
                let name = raw.name_any();
                (
                    Why::Done,
                    format!(
                        "PersistentVolume {name} is being deleted, and goes when this master is released"
                    ),
                )
            }
            (Ok(_), _) => (Why::Done, String::new()),
        }
    }
}

/// What is seen of a takeover.
pub(super) fn describe(view: &View, takeover: &Takeover, status: &mut MasterVolumeStatus) {
    if let Some(Ok(raw)) = &takeover.raw {
        status.device_id = Some(raw.device.clone());
    }
    if let Some(taken) = takeover.taken() {
        status.original_pv_name = Some(ObjectName::new(taken.name_any()));
    }
    let stand = Stand::of(view, takeover, status);
    let is_served = view.found().is_some_and(|master| master.state == MasterState::Serving);
    status.takeover_step = Some(match stand.holder {
        _ if stand.raw.is_none() => TakeoverStep::Preflight,
        _ if stand.is_done() => TakeoverStep::ClaimSwapped,
        _ if stand.own.is_some() => TakeoverStep::VolumeCreated,
        _ if is_served => TakeoverStep::DeviceStarted,
        Holder::Raw(_) if !view.published.users.is_empty() => TakeoverStep::WaitingForPods,
        _ => TakeoverStep::Retained,
    });
}

fn said(reason: Why, verdict: Verdict) -> (Told, Verdict) {
    let message = verdict.1.clone();
    (Some((reason, message)), verdict)
}

fn stops(reason: Why, ready: MasterReady, message: impl Into<String>) -> (Told, Verdict) {
    let (ready, message, outlook, effect, _) = stalled(ready, message);
    said(reason, (ready, message, outlook, effect, AT_REST))
}

/// Pods come and go, and a claim is bound, from one second to the next.
fn soon(reason: Why, message: impl Into<String>) -> (Told, Verdict) {
    said(reason, (MasterReady::TakingOver, message.into(), Outlook::Progressing, None, SOON))
}

fn does(reason: Why, message: &str, effect: Effect) -> (Told, Verdict) {
    said(reason, acts(MasterReady::TakingOver, message, effect))
}

/// The way there.
pub(super) fn serve(
    view: &View,
    takeover: &Takeover,
    status: &MasterVolumeStatus,
    refused: Option<&ClientError>,
) -> (Told, Verdict) {
    if !view.is_held() {
        return (None, acts(MasterReady::TakingOver, "", Effect::AddFinalizer));
    }
    let stand = Stand::of(view, takeover, status);
    if let Original::Untouched(volume) = &takeover.original
        && stand.own.is_none()
        && !view.is_known()
    {
        return begin(view, takeover, volume.as_deref());
    }
    if !stand.is_done()
        && let Some(stopped) = stopped(view, &stand)
    {
        return stopped;
    }
    let (mut told, verdict) = present(view, takeover, status, &stand, refused);
    if stand.is_done() {
        told = Some(stand.done());
    }
    (told, verdict)
}

/// Looks for what would stop it. Nothing is changed before everything is found to be right, and then the raw volume first.
fn begin(view: &View, takeover: &Takeover, volume: Option<&PersistentVolume>) -> (Told, Verdict) {
    let name = claim_name(view);
    let Some(claim) = &view.published.claim else {
        return stops(
            Why::ClaimUnbound,
            MasterReady::TakingOver,
            format!("there is no claim {name} in this namespace"),
        );
    };
    if is_going(claim) {
        let message = format!("claim {name} is being deleted: what is taken over must be there");
        return stops(Why::ClaimUnbound, MasterReady::TakingOver, message);
    }
    let Some(volume) = volume.filter(|volume| is_bound(claim, volume)) else {
        let message =
            format!("claim {name} is not bound to a volume: its data must be there before it is taken over");
        return stops(Why::ClaimUnbound, MasterReady::TakingOver, message);
    };
    if let Some(taker) = takeover::taker(volume) {
        let message =
            format!("PersistentVolume {} was taken over for {taker}: release that first", volume.name_any());
        return stops(Why::VolumeTaken, MasterReady::ClaimTaken, message);
    }
    match &takeover.raw {
        Some(Err(error)) if error.reason() != Why::VolumeTaken => {
            return stops(error.reason(), MasterReady::NotSupported, error.to_string());
        }
        Some(Ok(_)) if !takeover::is_umbras(claim, volume) => {}
        _ => {
            let message =
                format!("claim {name} is Umbra's already: name one of a volume that Umbra does not present");
            return stops(Why::VolumeTaken, MasterReady::ClaimTaken, message);
        }
    }
    if let Err(problem) = &takeover.node {
        return stops(Why::NotLocalVolume, MasterReady::NotSupported, problem.as_str());
    }
    if is_going(volume) {
        let message = format!("PersistentVolume {} is being deleted", volume.name_any());
        return stops(Why::ClaimUnbound, MasterReady::TakingOver, message);
    }
    if !is_approved(view) {
        return approval(view);
    }
    match takeover::retained(volume, claim, &view.master) {
        Ok(volume) => does(Why::Preparing, "the raw volume is retained first", Effect::Raw(Box::new(volume))),
        Err(error) => stops(Why::Preparing, MasterReady::NotSupported, format!("claim {name}: {error}")),
    }
}

fn is_approved(view: &View) -> bool {
    let takeover = view.master.spec.takeover.as_ref();
    takeover.is_some_and(|takeover| takeover.policy == TakeoverPolicy::WhenFree)
}

fn approval(view: &View) -> (Told, Verdict) {
    let (claim, name) = (claim_name(view), view.master.name_any());
    let namespace = view.master.namespace().unwrap_or_default();
    let message = format!(
        "the claim stays as it is until somebody says go: kubectl umbra takeover {claim} --name {name} -n {namespace}"
    );
    stops(Why::WaitingForApproval, MasterReady::TakingOver, message)
}

fn claim_name(view: &View) -> &str {
    view.master.spec.source.pvc.as_ref().map_or("", |claim| claim.claim_name.as_str())
}

/// What keeps a takeover that is begun from going on.
fn stopped(view: &View, stand: &Stand<'_>) -> Option<(Told, Verdict)> {
    let (Some(raw), Ok(_)) = (stand.raw, stand.record) else {
        let problem = stand.record.err().unwrap_or_default();
        let message = format!("{problem}: nothing is done to the claim, which could not be put back");
        return Some(stops(Why::RecordUnreadable, MasterReady::TakingOver, message));
    };
    match stand.holder {
        Holder::Other(claim) => {
            let (name, other) = (claim.name_any(), volume_of(claim).unwrap_or_default());
            let message = format!(
                "claim {name} is of PersistentVolume {other}, and not of the one that was taken over: remove the claim if it \
                 holds nothing that is needed, or delete this master"
            );
            Some(stops(Why::ClaimTaken, MasterReady::ClaimTaken, message))
        }
        Holder::Open(claim) => unfit(claim, raw).map(|what| {
            let name = claim.name_any();
            let message = format!(
                "claim {name} was made anew and asks for {what}, which the volume is not: make it as it was, or remove it"
            );
            stops(Why::ClaimTaken, MasterReady::ClaimTaken, message)
        }),
        Holder::Raw(_) if is_going(raw) => {
            let name = raw.name_any();
            let message = format!("PersistentVolume {name} is being deleted: it cannot be taken over any more");
            Some(stops(Why::RecordUnreadable, MasterReady::TakingOver, message))
        }
        Holder::Raw(claim) if !is_going(claim) && !is_approved(view) => Some(approval(view)),
        Holder::Raw(_) | Holder::Umbra(_) | Holder::Nobody => None,
    }
}

/// The node presents the device, once nothing else uses it; then the claim gets Umbra's volume.
fn present(
    view: &View,
    takeover: &Takeover,
    status: &MasterVolumeStatus,
    stand: &Stand<'_>,
    refused: Option<&ClientError>,
) -> (Told, Verdict) {
    let Some(node) = &view.node else {
        let problem = takeover.node.as_ref().err().map_or("", String::as_str);
        return said(Why::Preparing, waits(MasterReady::NodeNotReady, problem));
    };
    let Some(address) = node.address() else {
        let problem = node.problem().unwrap_or_default();
        return said(Why::Preparing, waits(MasterReady::NodeNotReady, problem));
    };
    match view.found() {
        Some(master) if !view.is_own(master) => said(Why::Preparing, steps::foreign(address, master)),
        Some(master) => {
            let mut told = None;
            let verdict = steps::served(master, || {
                let (swap, verdict) = swap(view, status, stand, master);
                told = swap;
                verdict
            });
            (told.or_else(|| Some((Why::Preparing, verdict.1.clone()))), verdict)
        }
        // Whose claim is not on the raw volume has the device no other way.
        None if matches!(stand.holder, Holder::Raw(_)) && !view.published.users.is_empty() => {
            let message = format!(
                "pods use claim {}, and must stop once: {}",
                claim_name(view),
                view.published.user_names()
            );
            soon(Why::WaitingForPods, message)
        }
        None => match &view.device {
            Ok(device) => {
                let verdict = steps::attach(view, address, device.path.clone(), refused);
                let is_used = matches!(verdict.0, MasterReady::DeviceBusy | MasterReady::RawDeviceMounted);
                said(if is_used { Why::WaitingForPods } else { Why::Preparing }, verdict)
            }
            Err(problem) => said(Why::Preparing, stalled(MasterReady::DeviceUnusable, problem.message())),
        },
    }
}

/// The device is Umbra's. Its volume waits for whoever makes the claim; the claim of the raw volume makes place.
fn swap(
    view: &View,
    status: &MasterVolumeStatus,
    stand: &Stand<'_>,
    master: &MasterStatus,
) -> (Told, Verdict) {
    if stand.is_done() {
        return (None, steps::live());
    }
    let claim = view.published.claim.as_ref();
    let (Some(raw), Ok(record), Some(volume_name), Some(node)) =
        (stand.raw, stand.record, volume_of_master(status), &status.node_name)
    else {
        return soon(Why::Preparing, "");
    };
    if let Some(own) = stand.own.filter(|own| is_going(*own)) {
        let message = format!(
            "PersistentVolume {} is being deleted, and is made again when it is gone",
            own.name_any()
        );
        return soon(Why::Preparing, message);
    }
    // A claim that goes before Umbra's volume is there was not deleted here; its owner, once gone, would have every other collected.
    let is_let_go = match stand.own {
        None => claim.is_none_or(is_going),
        Some(own) => claim.is_none() && bound_to(own).is_some(),
    };
    if is_let_go && record.has_owners() {
        return match takeover::disowned(raw, record) {
            Ok(volume) => {
                does(Why::Preparing, "its owners have let the claim go", Effect::Raw(Box::new(volume)))
            }
            Err(error) => stops(Why::Preparing, MasterReady::NotSupported, error.to_string()),
        };
    }
    match (stand.own, &view.published.volume) {
        (None, Some(other)) => {
            let message = format!("PersistentVolume {} was not made for this object", other.name_any());
            stops(Why::ClaimTaken, MasterReady::ClaimTaken, message)
        }
        (None, None) => {
            let what = Replacement {
                uid: &view.master.uid().unwrap_or_default(),
                namespace: &view.master.namespace().unwrap_or_default(),
                claim_name: claim_name(view),
                volume_name: &volume_name,
                handle: &format!("m/{}", master.id),
                node,
            };
            let step = Step::CreateVolume(Box::new(what.of(raw)));
            does(Why::Preparing, "Umbra's volume waits for the claim", Effect::Publish(step))
        }
        (Some(own), _) if stand.is_spent(claim) => {
            let step = Step::DeleteVolume(Box::new(own.clone()));
            does(Why::PVCRecreated, "a volume is bound to one claim for ever", Effect::Publish(step))
        }
        (Some(_), _) => exchange(view, stand, record, &volume_name),
    }
}

/// Umbra's volume waits for a claim.
fn exchange(view: &View, stand: &Stand<'_>, record: &Record, volume_name: &str) -> (Told, Verdict) {
    match stand.holder {
        Holder::Raw(claim) if is_going(claim) => {
            let held = held_by(view, claim);
            soon(
                Why::WaitingForPods,
                format!("claim {} is swapped when nothing keeps it any more: {held}", claim.name_any()),
            )
        }
        Holder::Raw(claim) => {
            let step = Step::DeleteClaim(Box::new(claim.clone()));
            does(Why::Preparing, "the claim makes place for one of Umbra's volume", Effect::Publish(step))
        }
        Holder::Nobody => {
            let step = Step::CreateClaim(Box::new(record.claim(volume_name)));
            does(Why::PVCRecreated, "the claim is made again", Effect::Publish(step))
        }
        Holder::Umbra(claim) | Holder::Open(claim) | Holder::Other(claim) => {
            let name = claim.name_any();
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
            let message = if is_going(claim) {
                format!(
                    "claim {name} is being deleted, and is made again when it is gone: {}",
                    held_by(view, claim)
                )
            } else {
                format!("claim {name} is {phase}, and not bound to PersistentVolume {volume_name} yet")
            };
            soon(Why::PVCRecreated, message)
        }
    }
}

/// What keeps a claim that is being deleted.
fn held_by(view: &View, claim: &PersistentVolumeClaim) -> String {
    if view.published.users.is_empty() {
        return format!("finalizers {}", claim.finalizers().join(", "));
    }
    view.published.user_names()
}

/// The way back. What was never taken stays as it is.
pub(super) fn leave(view: &View, takeover: &Takeover, refused: Option<&ClientError>) -> (Told, Verdict) {
    if !view.is_held() {
        return (None, steps::gone());
    }
    let status = view.master.status.clone().unwrap_or_default();
    let stand = Stand::of(view, takeover, &status);
    let verdict = go_back(view, takeover, &stand, refused);
    if stand.is_done() { (Some(stand.done()), verdict) } else { said(Why::Returning, verdict) }
}

fn go_back(view: &View, takeover: &Takeover, stand: &Stand<'_>, refused: Option<&ClientError>) -> Verdict {
    if matches!(stand.holder, Holder::Umbra(_)) && !view.published.users.is_empty() {
        return blocked(format!(
            "it is deleted when no pod uses it any more: {}",
            view.published.user_names()
        ));
    }
    if let Some(verdict) = steps::under_sets(view) {
        return verdict;
    }
    let takes =
        |message: &str, step: Step| acts(MasterReady::DeletionBlockedInUse, message, Effect::Publish(step));
    if let Holder::Umbra(claim) = stand.holder {
        let name = claim.name_any();
        return match stand.record {
            _ if is_going(claim) => {
                blocked(format!("it is deleted when claim {name} is gone: {}", held_by(view, claim)))
            }
            Ok(_) => takes("its claim is taken away first", Step::DeleteClaim(Box::new(claim.clone()))),
            Err(problem) => stalled(
                MasterReady::DeletionBlockedInUse,
                format!(
                    "{problem}: claim {name} is not deleted, because it could not be put back. To go on without it, delete it \
                     and set deletionPolicy to Keep"
                ),
            ),
        };
    }
    if let Some(own) = stand.own {
        if is_going(own) {
            return blocked(format!("it is deleted when PersistentVolume {} is gone", own.name_any()));
        }
        return takes("Umbra's volume is taken away", Step::DeleteVolume(Box::new(own.clone())));
    }
    if let Some(verdict) = steps::let_go(view, refused) {
        return verdict;
    }
    let Some(raw) = stand.raw else { return steps::forget() };
    put_back(view, takeover, stand, raw)
}

/// The node has let go of the device. The raw volume gets its claim back, and is then what it was.
fn put_back(view: &View, takeover: &Takeover, stand: &Stand<'_>, raw: &PersistentVolume) -> Verdict {
    let name = raw.name_any();
    let writes = |message: &str, volume: PersistentVolume| {
        acts(MasterReady::DeletionBlockedInUse, message, Effect::Raw(Box::new(volume)))
    };
    if let Holder::Raw(claim) = stand.holder
        && is_bound(claim, raw)
        && !is_going(claim)
    {
        let volume =
            stand.record.map_or_else(|_| takeover::unmarked(raw), |record| takeover::restored(raw, record));
        return writes("the raw volume is what it was", volume);
    }
    let is_kept = view.master.spec.deletion_policy == DeletionPolicy::Keep;
    if is_kept || takeover.namespace_ends || is_going(raw) {
        return writes("the raw volume is left as it is", takeover::unmarked(raw));
    }
    let record = match stand.record {
        Ok(record) => record,
        Err(problem) => {
            let message = format!(
                "{problem}: the claim cannot be put back. To go on without it, set deletionPolicy to Keep"
            );
            return stalled(MasterReady::DeletionBlockedInUse, message);
        }
    };
    match stand.holder {
        Holder::Other(claim) => stalled(
            MasterReady::DeletionBlockedInUse,
            format!(
                "claim {} is of PersistentVolume {}: remove it so that PersistentVolume {name} gets its claim back, or set \
                 deletionPolicy to Keep",
                claim.name_any(),
                volume_of(claim).unwrap_or_default()
            ),
        ),
        Holder::Raw(claim) | Holder::Umbra(claim) if is_going(claim) => {
            let held = held_by(view, claim);
            blocked(format!(
                "claim {} is put back when the one of that name is gone: {held}",
                claim.name_any()
            ))
        }
        Holder::Open(claim) if unfit(claim, raw).is_some() => {
            let what = unfit(claim, raw).unwrap_or_default();
            let message = format!(
                "claim {} was made anew and asks for {what}, which PersistentVolume {name} is not: remove it, or set \
                 deletionPolicy to Keep",
                claim.name_any()
            );
            stalled(MasterReady::DeletionBlockedInUse, message)
        }
        Holder::Nobody | Holder::Open(_) if bound_to(raw).is_some() => {
            writes("the raw volume waits for its claim", takeover::freed(raw, record))
        }
        Holder::Nobody => {
            let step = Step::CreateClaim(Box::new(record.claim(&name)));
            acts(MasterReady::DeletionBlockedInUse, "the claim is put back", Effect::Publish(step))
        }
        Holder::Raw(claim) | Holder::Open(claim) | Holder::Umbra(claim) => {
            let message = format!("claim {} is not bound to PersistentVolume {name} yet", claim.name_any());
            (MasterReady::DeletionBlockedInUse, message, Outlook::Progressing, None, SOON)
        }
    }
}

#[cfg(test)]
mod tests;
