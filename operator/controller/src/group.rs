//! SetGroup: sets that one operation acts on at one instant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use thiserror::Error;
use umbra_crds::conditions::{self, ConditionType, ConsistentReason, GroupReady};
use umbra_crds::{
    CutDecision, CutId, GroupMember, Image, ImagingOperation, LastCut, ObjectName, Safety, SetGroup, Target,
    TargetKind, VolumeSet,
};
use umbra_facade::ClientError;
use umbra_platform::call::TARGETS_MAX;

use crate::cluster::ClusterError;
use crate::grant::selects;
use crate::reconcile::{AT_REST, Failure, Plan, Reconciled, World};
use crate::report::{Outlook, Report};

/// Why the members of a group cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemberProblem {
    /// One that is named does not exist.
    #[error("there is no VolumeSet {set}")]
    Missing {
        /// Its name.
        set: ObjectName,
    },
    /// Nothing is selected.
    #[error("group {group} has no member")]
    Empty {
        /// The group.
        group: String,
    },
}

/// The members of a group, in order of their names.
///
/// # Errors
/// Which is missing, or that there is none.
pub fn members(group: &SetGroup, sets: Vec<VolumeSet>) -> Result<Vec<VolumeSet>, MemberProblem> {
    let mut found: Vec<VolumeSet> = match (&group.spec.volume_sets, &group.spec.selector) {
        (Some(named), _) => {
            let mut found = Vec::new();
            for reference in named {
                let set = sets.iter().find(|set| set.name_any() == reference.name.as_str());
                found.push(
                    set.cloned().ok_or_else(|| MemberProblem::Missing { set: reference.name.clone() })?,
                );
            }
            found
        }
        (None, Some(selector)) => sets.into_iter().filter(|set| selects(selector, set.labels())).collect(),
        (None, None) => Vec::new(),
    };
    if found.is_empty() {
        return Err(MemberProblem::Empty { group: group.name_any() });
    }
    found.sort_by_key(ResourceExt::name_any);
    Ok(found)
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    group: SetGroup,
    now: Time,
    members: Result<Vec<VolumeSet>, MemberProblem>,
    /// Cuts of the group, by operations that still exist.
    cuts: Vec<GroupCut>,
}

/// A cut of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupCut {
    id: CutId,
    operation: String,
    begun: Time,
}

/// A group is only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {}

impl Reconciled for SetGroup {
    type View = View;
    type Effect = Effect;

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    async fn observe(self, world: &impl World, now: Time) -> Result<View, ClusterError> {
        let sets = world.list::<VolumeSet>(self.namespace().as_deref()).await?;
        let members = members(&self, sets);
        let operations = world.list::<ImagingOperation>(self.namespace().as_deref()).await?;
        let name = self.name_any();
        let cuts = operations.iter().filter_map(|operation| group_cut(operation, &name)).collect();
        Ok(View { group: self, now, members, cuts })
    }

    fn plan(view: &View, _: Option<&ClientError>) -> Plan<Self, Effect> {
        let mut object = view.group.clone();
        let generation = object.metadata.generation.unwrap_or_default();
        let mut status = object.status.take().unwrap_or_default();
        status.observed_generation = Some(generation);
        let sets = view.members.as_deref().unwrap_or_default();
        let of = |set: &VolumeSet| GroupMember {
            name: ObjectName::new(set.name_any()),
            node_name: set.status.as_ref().and_then(|status| status.node_name.clone()),
            ready: is_ready(set),
        };
        status.members = sets.iter().take(TARGETS_MAX).map(of).collect();
        let unready: Vec<&str> =
            status.members.iter().filter(|member| !member.ready).map(|member| member.name.as_str()).collect();
        let mut nodes: Vec<&str> = status
            .members
            .iter()
            .filter_map(|member| member.node_name.as_ref())
            .map(|node| node.as_str())
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        let (reason, message, outlook) = match &view.members {
            Err(problem @ MemberProblem::Empty { .. }) => {
                (GroupReady::Empty, problem.to_string(), Outlook::Stalled)
            }
            Err(problem @ MemberProblem::Missing { .. }) => {
                (GroupReady::MemberMissing, problem.to_string(), Outlook::Progressing)
            }
            Ok(sets) if sets.len() > TARGETS_MAX => {
                let message =
                    format!("{} members, at most {TARGETS_MAX} can be cut at one instant", sets.len());
                (GroupReady::TooManyMembers, message, Outlook::Stalled)
            }
            Ok(_) if !unready.is_empty() => (
                GroupReady::MemberNotReady,
                format!("not ready: {}", unready.join(", ")),
                Outlook::Progressing,
            ),
            Ok(_) if nodes.len() > 1 => {
                let message = format!(
                    "its members are on the nodes {}: this version cuts sets of one node only",
                    nodes.join(", ")
                );
                (GroupReady::MemberNotReady, message, Outlook::Stalled)
            }
            Ok(_) => (GroupReady::AllMembersReady, String::new(), Outlook::Settled),
        };
        if let Some(cut) = last_cut(view, sets) {
            status.last_cut = Some(cut);
        }
        let mut report = Report::new(&mut status.conditions, generation, &view.now);
        report.ready(&reason, &message, outlook);
        if let Some(cut) = &status.last_cut {
            let alone: Vec<String> = sets
                .iter()
                .filter(|set| image_of(set).is_none_or(|image| image.cut_id != cut.id))
                .map(ResourceExt::name_any)
                .collect();
            if alone.is_empty() {
                report.say(&ConsistentReason::OneInstant, "");
            } else {
                report.say(&ConsistentReason::MemberCutAlone, &format!("cut since: {}", alone.join(", ")));
            }
        }
        object.status = Some(status);
        Plan { object, effect: None, again: AT_REST }
    }

    fn observed(view: &View) -> &Self {
        &view.group
    }

    async fn act(self, _: &impl World, effect: Effect) -> Result<(), Failure> {
        match effect {}
    }
}

/// What an operation has cut of this group, if it has: by its command, or for safety before a restore of another.
fn group_cut(operation: &ImagingOperation, group: &str) -> Option<GroupCut> {
    let status = operation.status.as_ref()?;
    let is_ours = |target: &Target| target.kind == TargetKind::SetGroup && target.name.as_str() == group;
    let cut = status.cut.as_ref().filter(|cut| cut.decision == CutDecision::Commit);
    let safety = operation.spec.safety.as_ref().and_then(Safety::target);
    let id = if is_ours(&operation.spec.target) {
        cut?.id
    } else if safety.as_ref().is_some_and(is_ours) {
        status.safety.as_ref()?.cut_id
    } else {
        return None;
    };
    Some(GroupCut { id, operation: operation.name_any(), begun: status.start_time.clone()? })
}

fn image_of(set: &VolumeSet) -> Option<&Image> {
    set.status.as_ref()?.image.as_ref()
}

/// The newest cut of the group, as soon as every member shows it: from then on the members say when it was.
fn last_cut(view: &View, sets: &[VolumeSet]) -> Option<LastCut> {
    let newest = view.cuts.iter().max_by_key(|cut| cut.begun.0)?;
    let images: Option<Vec<&Image>> = sets.iter().map(image_of).collect();
    let images = images.filter(|images| images.iter().all(|image| image.cut_id == newest.id))?;
    Some(LastCut {
        id: newest.id,
        time: images.first()?.time.clone(),
        max_gate_millis: images.iter().map(|image| image.gate_millis).max()?,
        consistent: true,
        operation_name: Some(ObjectName::new(newest.operation.as_str())),
    })
}

fn is_ready(set: &VolumeSet) -> bool {
    let conditions = set.status.as_ref().map_or(&[][..], |status| &status.conditions);
    conditions::find(conditions, ConditionType::Ready).is_some_and(|ready| ready.status == "True")
}
