//! What is to be done about a master, from what is known of it.

use kube::ResourceExt;
use umbra_crds::conditions::{self, ConditionType, InUseReason, MasterReady};
use umbra_crds::{DeviceId, FrontendInUse, MasterId, MasterVolume, MasterVolumeStatus, ObjectName};
use umbra_facade::ClientError;
use umbra_platform::status::MasterStatus;

use super::steps::{
    Verdict, acts, attach, blocked, foreign, forget, gone, let_go, live, served, stalled, under_sets, waits,
};
use super::{Effect, View, takeover};
use crate::access::NoAccess;
use crate::publish::{Left, Publication, claim_of_master, volume_of_master};
use crate::reconcile::{Plan, Reconciled, SOON};
use crate::report::{Outlook, Report};

pub(super) fn plan(view: &View, refused: Option<&ClientError>) -> Plan<MasterVolume, Effect> {
    let mut object = view.master.clone();
    let generation = object.metadata.generation.unwrap_or_default();
    let mut status = object.status.take().unwrap_or_default();
    status.observed_generation = Some(generation);
    describe(view, &mut status);
    let deleted = object.metadata.deletion_timestamp.is_some();
    let (told, (reason, message, outlook, effect, again)) = match (&view.takeover, deleted) {
        (None, false) => (None, serve(view, &status, refused)),
        (None, true) => (None, leave(view, refused)),
        (Some(takeover), false) => takeover::serve(view, takeover, &status, refused),
        (Some(takeover), true) => takeover::leave(view, takeover, refused),
    };
    let before = view.master.conditions();
    let is_told = |about| {
        conditions::find(before, about)
            .is_some_and(|found| found.status == "False" && found.observed_generation == Some(generation))
    };
    let mut report = Report::new(&mut status.conditions, generation, &view.now);
    if effect.is_none() || !is_told(ConditionType::Ready) {
        report.ready(&reason, &message, outlook);
    }
    match told {
        Some((reason, message)) if effect.is_none() || !is_told(ConditionType::TakenOver) => {
            report.say(&reason, &message);
        }
        Some(_) => {}
        None => report.withdraw(ConditionType::TakenOver),
    }
    match (claim_of_master(&view.master).is_some(), view.published.users.is_empty()) {
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
    status.claim_name = claim_of_master(&view.master).cloned();
    if let Some(source) = &view.master.spec.source.device {
        status.device_id = Some(DeviceId::new(source.id.as_str()));
    }
    if let Some(takeover) = &view.takeover {
        takeover::describe(view, takeover, status);
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

fn serve(view: &View, status: &MasterVolumeStatus, refused: Option<&ClientError>) -> Verdict {
    if !view.is_held() {
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
        Some(master) if !view.is_own(master) => foreign(address, master),
        Some(master) => served(master, || published(view, status, master)),
        None => attach(view, address, access.path.clone(), refused),
    }
}

/// A master that is served: pods get it through a claim.
fn published(view: &View, status: &MasterVolumeStatus, master: &MasterStatus) -> Verdict {
    let live = live();
    let (Some(publish), Some(volume_name), Some(node)) =
        (&view.master.spec.publish, volume_of_master(status), &status.node_name)
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
        is_writable_image: false,
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
    if !view.is_held() {
        return gone();
    }
    if !view.published.users.is_empty() {
        return blocked(format!(
            "it is deleted when no pod uses it any more: {}",
            view.published.user_names()
        ));
    }
    if let Some(verdict) = under_sets(view) {
        return verdict;
    }
    match view.published.left(&view.master.uid().unwrap_or_default()) {
        Left::Nothing => {}
        Left::Going(what) => return blocked(format!("it is deleted when {what} is gone")),
        Left::Step(step) => {
            let message = "its claim is taken away first";
            return acts(MasterReady::DeletionBlockedInUse, message, Effect::Publish(step));
        }
    }
    let_go(view, refused).unwrap_or_else(forget)
}
