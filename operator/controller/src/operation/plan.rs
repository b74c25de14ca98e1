//! What is to be done about an operation, from what is known of it.

use std::time::Duration;

use kube::ResourceExt;
use umbra_crds::conditions::{self, ConditionType, OperationComplete, OperationFailed, OperationProgress};
use umbra_crds::{
    Command, Cut, CutDecision, CutMember, ImagingOperation, ImagingOperationStatus, InUsePolicy, MemberState,
    SafetyStatus, VolumeSet, WaitFor,
};
use umbra_crds::{CutId, ObjectName, User};
use umbra_facade::ClientError;
use umbra_platform::PlatformError;
use umbra_platform::call::{
    Abort, Answer, CopyKind, CopySets, Direction, Outcome, Reset, ResetDone, SetTarget, SetTargets,
};
use umbra_platform::id::{CutId as PlatformCut, Epoch, RequestId, SetRef};
use umbra_platform::status::{SetState, SetStatus};
use uuid::Uuid;

use super::{Asked, Effect, Member, View, is_restore};
use crate::cluster::Key;
use crate::nodes::{NodeAddress, NodeView, request};
use crate::reconcile::{Again, LATER, Plan, Reconciled, SOON};
use crate::report::{Report, has_ended};
use crate::set::picture::percent;

/// The request of an operation's command: it belongs to the name, so that the node remembers that it was used.
pub(super) fn command_request(key: &Key) -> RequestId {
    request(&format!("operation/{key}"))
}

/// The request of the safety cut of an operation.
pub(super) fn safety_request(key: &Key) -> RequestId {
    request(&format!("safety/{key}"))
}

/// What is said, and what is done.
enum Verdict {
    /// Something must be waited for.
    Waits(OperationProgress, String),
    /// The next effect.
    Acts(OperationProgress, String, Effect),
    /// It has ended well.
    Complete(OperationComplete, String),
    /// It has ended, and has not done what it was to do.
    Fails(OperationFailed, String),
}

use Verdict::{Acts, Complete, Fails, Waits};

pub(super) fn plan(view: &View, refused: Option<&ClientError>) -> Plan<ImagingOperation, Effect> {
    if has_ended(view.operation.conditions()) {
        return ended(view);
    }
    let mut object = view.operation.clone();
    let generation = object.metadata.generation.unwrap_or_default();
    let mut status = object.status.take().unwrap_or_default();
    status.observed_generation = Some(generation);
    status.start_time.get_or_insert_with(|| view.now.clone());
    let verdict = work(view, &mut status, refused);
    let mut report = Report::new(&mut status.conditions, generation, &view.now);
    let (effect, again) = match verdict {
        Waits(progress, message) => {
            report.under_way(&progress, &message);
            (None, if progress == OperationProgress::Copying { SOON } else { LATER })
        }
        Acts(progress, message, effect) => {
            // What was waited for stays to be read while it is tried again, and nothing is written for each try.
            if conditions::find(view.operation.conditions(), ConditionType::Reconciling).is_none() {
                report.under_way(&progress, &message);
            }
            (Some(effect), SOON)
        }
        Complete(how, message) => {
            report.ended(&how, true, &message);
            (None, SOON)
        }
        Fails(how, message) => {
            report.ended(&how, false, &message);
            (None, SOON)
        }
    };
    if effect.is_none() && status.completion_time.is_none() && has_ended(&status.conditions) {
        status.completion_time = Some(view.now.clone());
    }
    object.status = Some(status);
    Plan { object, effect, again }
}

/// An operation that has ended lets its sets go, and is forgotten after its time.
fn ended(view: &View) -> Plan<ImagingOperation, Effect> {
    let object = view.operation.clone();
    let rest = |again| Plan { object: object.clone(), effect: None, again };
    let act = |effect| Plan { object: object.clone(), effect: Some(effect), again: SOON };
    let own = view.own();
    if !own.is_empty() {
        return act(Effect::Unlock(own));
    }
    let status = object.status.clone().unwrap_or_default();
    let (Some(end), Some(ttl)) = (status.completion_time, object.spec.ttl_seconds_after_finished) else {
        return rest(Again::Never);
    };
    let age = view.now.0.duration_since(end.0).as_secs();
    match u64::try_from(i64::from(ttl) - age) {
        Ok(left) if left > 0 => rest(Again::After(Duration::from_secs(left))),
        _ => act(Effect::Delete),
    }
}

impl View {
    fn key(&self) -> Key {
        Key::of(&self.operation)
    }

    fn name(&self) -> String {
        self.operation.name_any()
    }

    /// The sets that take the safety cut.
    fn safeties(&self) -> &[Member] {
        self.safety.as_ref().and_then(|safety| safety.as_deref().ok()).unwrap_or_default()
    }

    /// Members and the sets of the safety cut, in the order in which they are locked: two operations that want the same sets
    /// never each have one that the other waits for.
    fn all(&self) -> impl Iterator<Item = &Member> {
        let members = self.members.as_deref().unwrap_or_default();
        let mut all: Vec<&Member> = members.iter().chain(self.safeties()).collect();
        all.sort_by_key(|member| member.set.name_any());
        all.into_iter()
    }

    /// The sets that are this operation's own.
    fn own(&self) -> Vec<VolumeSet> {
        self.all().filter(|member| self.has(member)).map(|member| member.set.clone()).collect()
    }

    /// Whether the set is this operation's own.
    fn has(&self, member: &Member) -> bool {
        let status = member.set.status.as_ref();
        let current = status.and_then(|status| status.current_operation.as_ref());
        current.is_some_and(|current| current.as_str() == self.name())
            && status.and_then(|status| status.last_op_id.as_ref()) == self.operation.metadata.uid.as_ref()
    }

    /// Whether the node surely has not done it and is not at it. Where it cannot be asked, nobody knows.
    fn is_undone(&self, status: &ImagingOperationStatus) -> bool {
        let Some(cut) = &status.cut else { return true };
        let is_idle = |outcome: &Outcome| matches!(outcome, Outcome::NotSeen | Outcome::Unanswered);
        let asked = self
            .asked
            .as_ref()
            .is_some_and(|asked| is_idle(&asked.command) && asked.safety != Outcome::Running);
        asked && !self.has_cut(cut.id)
    }

    /// Whether a member holds the cut: what was begun of it must be carried to its end.
    fn has_cut(&self, cut: CutId) -> bool {
        let members = self.members.as_deref().unwrap_or_default();
        let last = |member: &Member| member.there().and_then(|there| there.last_cut).map(|last| last.id.0);
        members.iter().any(|member| last(member) == Some(cut.uuid()))
    }

    /// Whether the cut on record is this operation's: an object of this name that is made anew has another.
    fn is_planned(&self, status: &ImagingOperationStatus) -> bool {
        status.cut.as_ref().is_some_and(|cut| cut.id.uuid() == self.cut_id("cut"))
    }

    /// Whether the time until the cut has passed.
    fn is_late(&self, status: &ImagingOperationStatus) -> bool {
        let start = status.start_time.as_ref().unwrap_or(&self.now);
        let limit = self.operation.spec.active_deadline.length().unwrap_or(Duration::from_secs(3600));
        let limit = i128::try_from(limit.as_nanos()).unwrap_or(i128::MAX);
        self.now.0.duration_since(start.0).as_nanos() > limit
    }

    /// The identifier of a cut of this operation: it makes each once.
    fn cut_id(&self, which: &str) -> Uuid {
        Uuid::new_v5(
            &command_request(&self.key()).0,
            format!("{}/{which}", self.operation.uid().unwrap_or_default()).as_bytes(),
        )
    }
}

/// The node of all members.
fn node_of(members: &[Member]) -> Result<&NodeAddress, Box<Verdict>> {
    let mut at: Option<&NodeAddress> = None;
    for member in members {
        let name = member.set.name_any();
        let waits = |problem: String| Err(Box::new(Waits(OperationProgress::WaitingForNode, problem)));
        let Some(node) = &member.node else { return waits(format!("set {name} is on no node yet")) };
        let address = match node {
            NodeView::Answers { address, .. } => address,
            NodeView::Unknown { problem } | NodeView::Silent { problem } => return waits(problem.clone()),
        };
        if let Some(first) = at.filter(|first| *first != address) {
            let message = format!(
                "set {} is on node {}, set {name} on node {}: this version cuts sets of one node only",
                members[0].set.name_any(),
                first.name,
                address.name
            );
            return Err(Box::new(Fails(OperationFailed::NotSupported, message)));
        }
        at = Some(address);
    }
    at.ok_or_else(|| Box::new(Fails(OperationFailed::NotFound, "there is no set to act on".into())))
}

fn work(view: &View, status: &mut ImagingOperationStatus, refused: Option<&ClientError>) -> Verdict {
    let verdict = proceed(view, status, refused);
    let may_be_late = view.is_undone(status);
    match verdict {
        Waits(progress, message)
            if progress != OperationProgress::Copying && may_be_late && view.is_late(status) =>
        {
            let why = match progress {
                OperationProgress::WaitingForUsers => OperationFailed::InUse,
                OperationProgress::WaitingForTarget if view.members.is_err() => OperationFailed::NotFound,
                _ => OperationFailed::Deadline,
            };
            Fails(why, format!("activeDeadline has passed: {message}"))
        }
        other => other,
    }
}

fn proceed(view: &View, status: &mut ImagingOperationStatus, refused: Option<&ClientError>) -> Verdict {
    let spec = &view.operation.spec;
    if spec.quiesce.is_some() {
        return Fails(
            OperationFailed::NotSupported,
            "this version brings nothing to rest for a cut: leave quiesce out".into(),
        );
    }
    // Nothing is overwritten without the safety cut that was asked for.
    if spec.safety.as_ref().is_some_and(|safety| safety.target().is_none()) {
        return Fails(OperationFailed::NotSupported, "nothing is named that takes the safety cut".into());
    }
    let members = match (&view.members, &view.safety) {
        (Err(problem), _) | (_, Some(Err(problem))) => {
            // A set that is gone comes back as another: what was to be done to it is done, or never will be.
            return match status.cut.as_ref().map(|cut| cut.decision) {
                None => Waits(OperationProgress::WaitingForTarget, problem.clone()),
                Some(CutDecision::Commit) => Complete(OperationComplete::CutDone, problem.clone()),
                Some(CutDecision::None | CutDecision::Abort) => {
                    Fails(OperationFailed::NotFound, problem.clone())
                }
            };
        }
        (Ok(members), _) => members,
    };
    // What is on record of the cut needs no node to be believed.
    if status.cut.as_ref().is_some_and(|cut| cut.decision == CutDecision::Commit) {
        return follow(view, members, status);
    }
    let node = match node_of(members) {
        Ok(node) => node,
        Err(verdict) => return *verdict,
    };
    let Some(asked) = view.asked.as_ref().filter(|asked| asked.node == *node) else {
        return Waits(
            OperationProgress::WaitingForNode,
            format!("node {} has not said what became of it", node.name),
        );
    };
    let own = view.all().all(|member| view.has(member));
    let was_asked = asked.command != Outcome::NotSeen || asked.safety != Outcome::NotSeen;
    if !own && !view.is_planned(status) && was_asked {
        let message = format!("node {} has carried out an operation of this name before", node.name);
        return Fails(OperationFailed::NameUsed, message);
    }
    if !own && let Some(verdict) = lock(view) {
        return verdict;
    }
    match spec.command {
        Command::Abort | Command::Reset => simple(view, members, asked, refused),
        Command::CopyToShadow | Command::UpdateShadow | Command::CopyToMaster | Command::UpdateMaster => {
            cut(view, members, status, asked, refused)
        }
        Command::Refresh => {
            Fails(OperationFailed::NotSupported, "exports are not served by this version".into())
        }
    }
}

/// Takes the next set, or says who has it.
fn lock(view: &View) -> Option<Verdict> {
    for member in view.all() {
        let name = member.set.name_any();
        let Some(there) = member.there() else {
            let message = format!("set {name} is not on its node yet");
            return Some(Waits(OperationProgress::WaitingForTarget, message));
        };
        // What was broken off keeps a set from going: it may be carried on.
        let is_broken_off = matches!(there.state, SetState::CopyAborted(_) | SetState::RestoreAborted(_));
        if member.set.metadata.deletion_timestamp.is_some() && !is_broken_off {
            return Some(Fails(OperationFailed::NotFound, format!("set {name} is being deleted")));
        }
        let current = member.set.status.as_ref().and_then(|status| status.current_operation.as_ref());
        match current {
            Some(_) if view.has(member) => {}
            // A former operation of this name has left it: this one is another.
            Some(current) if current.as_str() != view.name() => {
                let message = format!("operation {current} has set {name} to itself");
                return Some(Waits(OperationProgress::WaitingForTurn, message));
            }
            Some(_) | None => {
                let effect = Effect::Lock(Box::new(member.set.clone()));
                return Some(Acts(OperationProgress::WaitingForTurn, format!("it takes set {name}"), effect));
            }
        }
    }
    None
}

/// A command that makes no cut of its own choosing.
fn simple(view: &View, members: &[Member], asked: &Asked, refused: Option<&ClientError>) -> Verdict {
    let [member] = members else {
        return Fails(OperationFailed::NotSupported, "this command acts on one set, not on a group".into());
    };
    let Some(there) = member.there() else {
        return Waits(
            OperationProgress::WaitingForTarget,
            format!("set {} is not on its node", member.set.name_any()),
        );
    };
    match &asked.command {
        Outcome::Running => return Waits(OperationProgress::Cutting, "the node is at it".into()),
        Outcome::Done(Answer::Reset(ResetDone::Cut { cut, .. })) => {
            return Complete(OperationComplete::SetReset, format!("the set is back, with cut {cut}"));
        }
        Outcome::Done(_) if view.operation.spec.command == Command::Reset => {
            return Complete(OperationComplete::SetReset, "nothing of the set was away".into());
        }
        Outcome::Done(_) => return Complete(OperationComplete::CopyAborted, String::new()),
        Outcome::NotSeen | Outcome::Unanswered => {}
    }
    if let Some(error) = refused {
        return refusal(view, error);
    }
    if let Some(verdict) = cut_guard(view, &member.set.name_any(), there) {
        return verdict;
    }
    if view.operation.spec.command == Command::Reset && member.set.spec.shadow.protected {
        return protected(member);
    }
    let request = command_request(&view.key());
    let target = SetTarget::from(SetRef::Id(there.id));
    let node = asked.node.clone();
    let effect = match view.operation.spec.command {
        Command::Abort => Effect::Abort(node, Abort { request, target }),
        _ => Effect::Reset(node, Reset { request, target }),
    };
    Acts(OperationProgress::Cutting, "the node is asked".into(), effect)
}

fn protected(member: &Member) -> Verdict {
    let name = member.set.name_any();
    Fails(
        OperationFailed::Protected,
        format!("the image of set {name} is protected: set shadow.protected to false first"),
    )
}

/// A new image, or a restore.
fn cut(
    view: &View,
    members: &[Member],
    status: &mut ImagingOperationStatus,
    asked: &Asked,
    refused: Option<&ClientError>,
) -> Verdict {
    if view.is_undone(status)
        && let Some(verdict) = guards(view, members)
    {
        return with_safety(status, verdict);
    }
    if status.cut.is_none() {
        let member = |member: &Member| CutMember {
            name: ObjectName::new(member.set.name_any()),
            state: MemberState::Pending,
            epoch: member.there().and_then(|there| i64::try_from(there.epoch.0).ok()),
        };
        status.cut = Some(Cut {
            id: CutId::new(view.cut_id("cut")),
            decision: CutDecision::None,
            members: members.iter().map(member).collect(),
        });
    }
    if let Some(verdict) = safety_cut(view, status, asked, refused) {
        return verdict;
    }
    match &asked.command {
        Outcome::Done(answer) => {
            if let Some(cut) = &mut status.cut {
                match cut_made(cut, answer) {
                    Some(id) => cut.id = id,
                    None => {
                        let message =
                            "the node has carried out another operation of this name before".to_owned();
                        return Fails(OperationFailed::NameUsed, message);
                    }
                }
                cut.decision = CutDecision::Commit;
                cut.members.iter_mut().for_each(|member| member.state = MemberState::Finalised);
            }
            follow(view, members, status)
        }
        Outcome::Running => Waits(OperationProgress::Cutting, "the node makes the cut".into()),
        Outcome::NotSeen | Outcome::Unanswered => match (refused, call(view, members, status)) {
            (Some(error), _) => with_safety(status, refusal(view, error)),
            (None, Ok(call)) => {
                let effect = Effect::Copy(asked.node.clone(), call);
                Acts(OperationProgress::Cutting, "the node is asked for the cut".into(), effect)
            }
            (None, Err(problem)) => Waits(OperationProgress::WaitingForTarget, problem),
        },
    }
}

/// The safety cut, if there is to be one and it is not made yet.
fn safety_cut(
    view: &View,
    status: &mut ImagingOperationStatus,
    asked: &Asked,
    refused: Option<&ClientError>,
) -> Option<Verdict> {
    let safeties = view.safeties();
    if safeties.is_empty() || status.safety.is_some() {
        return None;
    }
    if let Outcome::Done(Answer::Copied(copied)) = &asked.safety {
        let members = safeties.iter().map(|safety| ObjectName::new(safety.set.name_any())).collect();
        status.safety = Some(SafetyStatus { cut_id: CutId::new(copied.cut.0), members });
        return None;
    }
    if asked.safety == Outcome::Running {
        return Some(Waits(OperationProgress::Cutting, "the node makes the safety cut".into()));
    }
    if let Some(error) = refused {
        return Some(refusal(view, error));
    }
    Some(match safety_call(view) {
        Ok(call) => {
            let effect = Effect::Copy(asked.node.clone(), call);
            Acts(OperationProgress::Cutting, "the node is asked for the safety cut".into(), effect)
        }
        Err(problem) => Waits(OperationProgress::WaitingForTarget, problem),
    })
}

/// A restore whose safety cut is made does not wait for people: what is written meanwhile would be in no cut.
fn with_safety(status: &ImagingOperationStatus, verdict: Verdict) -> Verdict {
    match verdict {
        Waits(OperationProgress::WaitingForUsers | OperationProgress::WaitingForTurn, message)
            if status.safety.is_some() =>
        {
            Fails(OperationFailed::InUse, message)
        }
        other => other,
    }
}

/// The cut that the answer is about, if it is to what is on record: the cut that was asked for, or that of a restore that had
/// been broken off and has gone on in its epoch.
fn cut_made(planned: &Cut, answer: &Answer) -> Option<CutId> {
    let Answer::Copied(copied) = answer else { return None };
    let is_asked_for = copied.cut.0 == planned.id.uuid();
    let goes_on = !copied.sets.is_empty()
        && copied.sets.iter().all(|set| {
            let before = planned.members.iter().find(|member| member.name.as_str() == set.name.name.as_str());
            before.and_then(|member| u64::try_from(member.epoch?).ok()) == Some(set.epoch.0)
        });
    (is_asked_for || goes_on).then(|| CutId::new(copied.cut.0))
}

/// The safety cut, at one instant of all that are restored.
fn safety_call(view: &View) -> Result<CopySets, String> {
    let target = |safety: &Member| {
        let there = safety.there();
        let there = there
            .ok_or_else(|| format!("set {} for the safety cut is not on its node", safety.set.name_any()))?;
        Ok(SetTarget::from(SetRef::Id(there.id)))
    };
    let targets: Result<Vec<SetTarget>, String> = view.safeties().iter().map(target).collect();
    Ok(CopySets {
        request: safety_request(&view.key()),
        sets: SetTargets::new(targets?).map_err(|error| error.to_string())?,
        direction: Direction::ToShadow,
        kind: CopyKind::Update,
        cut: Some(PlatformCut(view.cut_id("safety"))),
    })
}

/// The cut as it is on record: the same whoever asks for it, however often.
fn call(view: &View, members: &[Member], status: &ImagingOperationStatus) -> Result<CopySets, String> {
    let cut = status.cut.as_ref().ok_or("the cut is not on record")?;
    let mut targets = Vec::new();
    for planned in &cut.members {
        let member = members.iter().find(|member| member.set.name_any() == planned.name.as_str());
        let there = member.and_then(Member::there);
        let there = there.ok_or_else(|| format!("set {} is not on its node", planned.name))?;
        let expected_epoch = planned.epoch.and_then(|epoch| u64::try_from(epoch).ok()).map(Epoch);
        targets.push(SetTarget { set: SetRef::Id(there.id), expected_epoch });
    }
    let command = view.operation.spec.command;
    Ok(CopySets {
        request: command_request(&view.key()),
        sets: SetTargets::new(targets).map_err(|error| error.to_string())?,
        direction: if is_restore(command) { Direction::ToMaster } else { Direction::ToShadow },
        kind: match command {
            Command::CopyToShadow | Command::CopyToMaster => CopyKind::Full,
            _ => CopyKind::Update,
        },
        cut: Some(PlatformCut(cut.id.uuid())),
    })
}

/// What keeps the command from being done, before anything of it is.
fn guards(view: &View, members: &[Member]) -> Option<Verdict> {
    let of_members = members.iter().find_map(|member| guards_of(view, member));
    of_members.or_else(|| safety_guards(view, members))
}

/// What keeps the command from being done to one set.
fn guards_of(view: &View, member: &Member) -> Option<Verdict> {
    let spec = &view.operation.spec;
    let guard = spec.guard.clone().unwrap_or_default();
    let restore = is_restore(spec.command);
    let name = member.set.name_any();
    let Some(there) = member.there() else {
        return Some(Waits(OperationProgress::WaitingForTarget, format!("set {name} is not on its node")));
    };
    if let Some(verdict) = cut_guard(view, &name, there) {
        return Some(verdict);
    }
    if let Some(verdict) = state_guard(view, &name, &there.state) {
        return Some(verdict);
    }
    if restore && there.flags.shadow_written && !guard.allow_written_shadow {
        let message = format!(
            "the shadow of set {name} was written since its cut: guard.allowWrittenShadow permits it"
        );
        return Some(Fails(OperationFailed::ShadowWritten, message));
    }
    if restore && there.chunks.lost > 0 && !guard.allow_untrusted_image {
        let message = format!("{} chunks of the image of set {name} are lost", there.chunks.lost);
        return Some(Fails(OperationFailed::Untrusted, message));
    }
    if !restore && member.set.spec.shadow.protected {
        return Some(protected(member));
    }
    let masters = if restore { member.master_users.as_slice() } else { &[] };
    in_use(view, &name, masters, &member.shadow_users)
}

/// Whether the set holds the cut that is expected of it.
fn cut_guard(view: &View, name: &str, there: &SetStatus) -> Option<Verdict> {
    let expected = view.operation.spec.guard.as_ref()?.expect_cut_id?;
    let holds = there.last_cut.map(|cut| cut.id.0);
    if holds == Some(expected.uuid()) {
        return None;
    }
    let holds = holds.map_or_else(|| "none".to_owned(), |cut| cut.to_string());
    Some(Fails(OperationFailed::StaleGuard, format!("set {name} holds cut {holds}, not {expected}")))
}

/// What a set's state says to the command.
fn state_guard(view: &View, name: &str, state: &SetState) -> Option<Verdict> {
    let restore = is_restore(view.operation.spec.command);
    match state {
        SetState::Blocked(wait) => {
            Some(Waits(OperationProgress::WaitingForNode, format!("set {name}: {}", wait.what)))
        }
        SetState::Offline { reason, .. } | SetState::GivenUp { reason } => {
            let message = format!("set {name} holds no whole image: {reason}; reset it first");
            Some(Fails(OperationFailed::Incomplete, message))
        }
        SetState::Copying(_) | SetState::Restoring(_) => {
            let message = format!("a copy runs on set {name}");
            Some(match view.operation.spec.in_use_policy {
                InUsePolicy::Wait => Waits(OperationProgress::WaitingForTurn, message),
                InUsePolicy::Fail => Fails(OperationFailed::CopyRunning, message),
            })
        }
        SetState::CopyAborted(_) if restore => {
            let message = format!("a copy to the shadow of set {name} was broken off");
            Some(Fails(OperationFailed::OppositeCopyPending, message))
        }
        SetState::RestoreAborted(_) if !restore => {
            let message = format!("a restore from set {name} was broken off");
            Some(Fails(OperationFailed::OppositeCopyPending, message))
        }
        SetState::Idle | SetState::CopyAborted(_) | SetState::RestoreAborted(_) => None,
    }
}

/// What keeps the safety cut from being made.
fn safety_guards(view: &View, members: &[Member]) -> Option<Verdict> {
    let safeties = view.safeties();
    if let Some(safety) = safeties.iter().find(|safety| safety.set.spec.shadow.protected) {
        return Some(protected(safety));
    }
    let is_sibling = |member: &Member, safety: &Member| {
        let (one, other) = (member.there(), safety.there());
        one.map(|set| set.master) == other.map(|set| set.master)
            && one.map(|set| set.id) != other.map(|set| set.id)
    };
    for safety in safeties.iter().filter(|safety| safety.there().is_some()) {
        if !members.iter().any(|member| is_sibling(member, safety)) {
            let name = safety.set.name_any();
            let message =
                format!("set {name} is no other set of the same master: it cannot take the safety cut");
            return Some(Fails(OperationFailed::NotSupported, message));
        }
    }
    for member in members.iter().filter(|_| safeties.iter().all(|safety| safety.there().is_some())) {
        let keepers = safeties.iter().filter(|safety| is_sibling(member, safety)).count();
        if !safeties.is_empty() && keepers != 1 {
            let name = member.set.name_any();
            let message = format!("{keepers} sets would keep the master of set {name}: it must be one");
            return Some(Fails(OperationFailed::NotSupported, message));
        }
    }
    safeties.iter().find_map(|safety| in_use(view, &safety.set.name_any(), &[], &safety.shadow_users))
}

/// Pods that use what the command changes under them.
fn in_use(view: &View, set: &str, masters: &[User], shadows: &[User]) -> Option<Verdict> {
    let names: Vec<&str> = masters.iter().chain(shadows).map(|user| user.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let which = if masters.is_empty() { "shadow" } else { "master" };
    let message = format!("the {which} of set {set} is used by {}", names.join(", "));
    Some(match view.operation.spec.in_use_policy {
        InUsePolicy::Fail => Fails(OperationFailed::InUse, message),
        InUsePolicy::Wait => Waits(OperationProgress::WaitingForUsers, message),
    })
}

/// What a refusal of the node means. It has changed nothing.
fn refusal(view: &View, error: &ClientError) -> Verdict {
    let message = format!("{error}; {}", error.remedy());
    let waits = |progress, message| Waits(progress, message);
    let may_wait = view.operation.spec.in_use_policy == InUsePolicy::Wait;
    let ClientError::Refused(refused) = error else {
        return waits(OperationProgress::WaitingForNode, message);
    };
    let why = match refused {
        PlatformError::HasOpeners { .. } if may_wait => {
            return waits(OperationProgress::WaitingForUsers, message);
        }
        PlatformError::Copying { .. } if may_wait => {
            return waits(OperationProgress::WaitingForTurn, message);
        }
        PlatformError::Blocked { .. }
        | PlatformError::Unavailable { .. }
        | PlatformError::Stopping { .. }
        | PlatformError::Deadline { .. }
        | PlatformError::Hung { .. } => return waits(OperationProgress::WaitingForNode, message),
        PlatformError::HasOpeners { .. } | PlatformError::VolumeInUse { .. } => OperationFailed::InUse,
        PlatformError::Copying { .. } => OperationFailed::CopyRunning,
        PlatformError::CopyPending { .. } | PlatformError::OppositePending { .. } => {
            OperationFailed::OppositeCopyPending
        }
        PlatformError::StaleEpoch { .. } => OperationFailed::StaleGuard,
        PlatformError::Incomplete { .. } | PlatformError::Offline { .. } | PlatformError::GivenUp { .. } => {
            OperationFailed::Incomplete
        }
        PlatformError::SameMaster { .. } => OperationFailed::SharedMaster,
        PlatformError::Protected { .. } => OperationFailed::Protected,
        PlatformError::CutVoid { .. } => OperationFailed::CutVoid,
        PlatformError::NotFound { .. } => OperationFailed::NotFound,
        PlatformError::RequestReused { .. } => OperationFailed::NameUsed,
        _ => OperationFailed::Refused,
    };
    Fails(why, message)
}

/// The cut is made: the image is there, and its copy is waited for where that is asked for.
fn follow(view: &View, members: &[Member], status: &mut ImagingOperationStatus) -> Verdict {
    let Some(cut) = status.cut.clone() else {
        return Fails(OperationFailed::Refused, "the cut is not on record".into());
    };
    // Its copy needs the sets to itself no more: others may look after it, or break it off.
    let own = view.own();
    if !own.is_empty() {
        return Acts(OperationProgress::Copying, String::new(), Effect::Unlock(own));
    }
    if status.safety.is_some() && status.undo_hint.is_none() {
        let namespace = view.operation.namespace().unwrap_or_default();
        status.undo_hint = Some(format!("kubectl umbra undo {} --namespace {namespace}", view.name()));
    }
    if let Some(behind) = behind(view, members, status, cut.id) {
        return Waits(OperationProgress::Copying, format!("set {behind} does not show its cut yet"));
    }
    if view.operation.spec.wait_for == WaitFor::Cut {
        return Complete(OperationComplete::CutDone, String::new());
    }
    let (mut done, mut running) = (100, false);
    for planned in &cut.members {
        let member = members.iter().find(|member| member.set.name_any() == planned.name.as_str());
        let Some(there) = member.and_then(Member::there) else {
            return Waits(OperationProgress::Copying, format!("set {} is not on its node", planned.name));
        };
        if there.last_cut.is_none_or(|last| last.id.0 != cut.id.uuid()) {
            // Nothing is cut while its copy runs, so it had ended by then, or was broken off and went on in the next.
            let message = format!("set {} has been cut again since", planned.name);
            return Complete(OperationComplete::CutDone, message);
        }
        match &there.state {
            SetState::Idle => {}
            SetState::Copying(at) | SetState::Restoring(at) => {
                running = true;
                done = done.min(percent(at.done(), at.total()).min(99));
            }
            SetState::Blocked(wait) => return Waits(OperationProgress::Copying, wait.what.to_string()),
            SetState::CopyAborted(_) | SetState::RestoreAborted(_) => {
                let message =
                    format!("the image is there, but the copy of set {} was broken off", planned.name);
                return Fails(OperationFailed::Incomplete, message);
            }
            SetState::Offline { reason, .. } | SetState::GivenUp { reason } => {
                return Fails(OperationFailed::Incomplete, format!("set {}: {reason}", planned.name));
            }
        }
    }
    status.percent = Some(done);
    if running {
        Waits(OperationProgress::Copying, String::new())
    } else {
        Complete(OperationComplete::CopyDone, String::new())
    }
}

/// A set whose object does not show yet what the operation has made of it: who sees the operation complete, sees its image.
fn behind(view: &View, members: &[Member], status: &ImagingOperationStatus, cut: CutId) -> Option<String> {
    let shows = |member: &Member, cut: CutId| {
        let shown = member.set.status.as_ref().and_then(|status| status.image.as_ref());
        let holds = member.there().and_then(|there| there.last_cut);
        // A set that has been cut again will never show this cut.
        holds.is_none_or(|last| last.id.0 != cut.uuid()) || shown.is_some_and(|image| image.cut_id == cut)
    };
    let made = status.safety.as_ref().map(|safety| safety.cut_id);
    let safety = made.and_then(|made| view.safeties().iter().find(|safety| !shows(safety, made)));
    let behind = members.iter().find(|member| !shows(member, cut)).or(safety);
    behind.map(|member| member.set.name_any())
}
