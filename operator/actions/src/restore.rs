//! A restore: what it would do, whether it may be done, and how it is undone. The plan is shown before anything is asked for,
//! also where it may not be carried out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use umbra_crds::conditions::{ConditionType, find};
use umbra_crds::{
    Command, Consistency, CopyDirection, CutId, Guard, Image, ImagingOperation, ImagingOperationSpec,
    ObjectName, Safety, SetGroup, Target, VolumeSet, WaitFor,
};

use crate::members::{self, Members};
use crate::operation;
use crate::picture::Objects;
use crate::refusal::Refusal;
use crate::safety::{self, SafetyWish};

/// As many characters of a cut's identifier as say which one is meant.
const CUT_CHARACTERS_MIN: usize = 6;

/// What is wanted of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// From what.
    pub target: Target,
    /// The cut, by its identifier or the beginning of it. Left out, it is the one that is held.
    pub cut: Option<String>,
    /// Whether every chunk is copied back, and not only what differs.
    pub full: bool,
    /// The safety cut.
    pub safety: SafetyWish,
    /// Whether an image that was written since its cut will do.
    pub allow_written: bool,
    /// Whether an image that is not trusted will do.
    pub allow_untrusted: bool,
    /// When it counts as done.
    pub wait_for: WaitFor,
}

/// An image that a master becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedImage {
    /// The set that holds it.
    pub set: ObjectName,
    /// The master that becomes it.
    pub master: ObjectName,
    /// The cut that made it.
    pub cut_id: CutId,
    /// How long ago.
    pub age_seconds: i64,
    /// How far it can be relied on by what reads it.
    pub consistency: Consistency,
    /// Whether it was written since.
    pub written: bool,
    /// Whether a file system recovered its journal in it since.
    pub recovered: bool,
    /// How much of the master has changed since.
    pub changed_percent: i32,
    /// Who uses the master, as `kind/name`, as far as is known.
    pub users: Vec<String>,
}

/// What a restore would do.
#[derive(Debug, Clone, PartialEq)]
pub struct RestorePlan {
    /// What the operation will be called.
    pub operation: ObjectName,
    /// From what.
    pub target: Target,
    /// The cut that is restored.
    pub cut_id: Option<CutId>,
    /// What each master becomes.
    pub images: Vec<PlannedImage>,
    /// The set or group that takes the safety cut.
    pub safety: Option<Target>,
    /// The cut of that whose images are given up for it.
    pub safety_gives_up: Option<CutId>,
    /// The command that undoes it; none where it cannot be undone.
    pub undo: Option<String>,
    /// Everything that keeps it from being done.
    pub refusals: Vec<Refusal>,
    request: RestoreRequest,
}

impl RestorePlan {
    /// The operation that does it.
    ///
    /// # Errors
    /// Everything that keeps it from being done.
    pub fn spec(&self) -> Result<ImagingOperationSpec, &[Refusal]> {
        // Without a cut there is a refusal that says so.
        let Some(cut_id) = self.cut_id.filter(|_| self.refusals.is_empty()) else {
            return Err(&self.refusals);
        };
        let command = if self.request.full { Command::CopyToMaster } else { Command::UpdateMaster };
        Ok(ImagingOperationSpec {
            guard: Some(Guard {
                expect_cut_id: Some(cut_id),
                allow_written_shadow: self.request.allow_written,
                allow_untrusted_image: self.request.allow_untrusted,
            }),
            safety: self.safety.clone().map(Safety::taken_by),
            wait_for: self.request.wait_for,
            ..operation::plain(self.target.clone(), command)
        })
    }
}

/// Plans a restore under the name that its operation will have.
#[must_use]
pub fn restore(objects: &Objects, request: &RestoreRequest, name: &ObjectName, now: &Time) -> RestorePlan {
    let mut plan = RestorePlan {
        operation: name.clone(),
        target: request.target.clone(),
        cut_id: None,
        images: Vec::new(),
        safety: None,
        safety_gives_up: None,
        undo: None,
        refusals: Vec::new(),
        request: request.clone(),
    };
    let members = match Members::of(&request.target, objects) {
        Ok(members) => members,
        Err(refusal) => {
            plan.refusals.push(refusal);
            return plan;
        }
    };
    plan.images = members.sets().iter().filter_map(|set| planned(set, objects, now)).collect();
    plan.refusals = members::hindrances(members.sets(), objects);
    members.sets().iter().for_each(|set| unfit(set, request, &mut plan.refusals));
    plan.cut_id = match &members {
        Members::Set(set) => image(set).map(|image| image.cut_id),
        Members::Group(group, sets) => of_group(group, sets, &mut plan.refusals),
    };
    if let (Some(wanted), Some(held)) = (&request.cut, plan.cut_id) {
        plan.refusals.extend(other_cut(wanted, held, &request.target.name));
    }
    match safety::choose(objects, &members, &request.safety) {
        Ok(safety) => plan.safety = safety,
        Err(refusal) => plan.refusals.push(refusal),
    }
    if let Some(safety) = &plan.safety {
        let namespace = members.sets().first().and_then(|set| set.metadata.namespace.clone());
        plan.safety_gives_up = match Members::of(safety, objects) {
            Ok(Members::Set(keeper)) => image(keeper).map(|image| image.cut_id),
            Ok(Members::Group(keeper, _)) => {
                keeper.status.as_ref().and_then(|status| status.last_cut.as_ref()).map(|cut| cut.id)
            }
            Err(_) => None,
        };
        plan.undo = Some(format!("kubectl umbra undo {name} -n {}", namespace.unwrap_or_default()));
    }
    plan
}

/// What has to be asked for to undo a restore: another, of the cut that was made for safety.
///
/// # Errors
/// Where it was no restore, or kept nothing.
pub fn undo(done: &ImagingOperation, wished: RestoreRequest) -> Result<RestoreRequest, Refusal> {
    let operation = ObjectName::new(done.metadata.name.clone().unwrap_or_default());
    if !matches!(done.spec.command, Command::CopyToMaster | Command::UpdateMaster) {
        return Err(Refusal::NoRestore { operation });
    }
    let kept = done.status.as_ref().and_then(|status| status.safety.as_ref());
    match (done.spec.safety.as_ref().and_then(Safety::target), kept) {
        (Some(target), Some(kept)) => {
            Ok(RestoreRequest { target, cut: Some(kept.cut_id.to_string()), ..wished })
        }
        _ => Err(Refusal::NoSafetyCut { operation }),
    }
}

fn image(set: &VolumeSet) -> Option<&Image> {
    set.status.as_ref()?.image.as_ref()
}

fn planned(set: &VolumeSet, objects: &Objects, now: &Time) -> Option<PlannedImage> {
    let image = image(set)?;
    let master = members::master(set, objects).and_then(|master| master.status.as_ref());
    let users = master.map_or(&[][..], |status| &status.users);
    Some(PlannedImage {
        set: members::name(set),
        master: set.spec.master_ref.name.clone(),
        cut_id: image.cut_id,
        age_seconds: now.0.as_second().saturating_sub(image.time.0.as_second()),
        consistency: image.consistency,
        written: image.written,
        recovered: image.recovered,
        changed_percent: image.changed_percent,
        users: users.iter().map(|user| format!("{}/{}", user.kind.to_lowercase(), user.name)).collect(),
    })
}

/// What speaks against a set's image.
fn unfit(set: &VolumeSet, request: &RestoreRequest, refusals: &mut Vec<Refusal>) {
    let name = members::name(set);
    let Some(image) = image(set) else {
        refusals.push(Refusal::NoImage { set: name });
        return;
    };
    if members::copy_pending(set) == Some(CopyDirection::ToShadow) {
        refusals.push(Refusal::CopyPending { set: name.clone() });
    }
    if image.written && !request.allow_written {
        refusals.push(Refusal::Written { set: name.clone() });
    }
    if image.lost_chunks > 0 {
        refusals.push(Refusal::Incomplete { set: name, chunks: image.lost_chunks });
    } else if !image.trusted && !request.allow_untrusted {
        let conditions = set.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let why = find(conditions, ConditionType::ImageTrusted).filter(|found| found.status != "True");
        let reason = why.map_or_else(|| "no reason was given".to_owned(), |found| found.reason.clone());
        refusals.push(Refusal::Untrusted { set: name, reason });
    }
}

/// The cut that all members of a group hold.
fn of_group(group: &SetGroup, sets: &[&VolumeSet], refusals: &mut Vec<Refusal>) -> Option<CutId> {
    let Some(last) = group.status.as_ref().and_then(|status| status.last_cut.as_ref()) else {
        let group = ObjectName::new(group.metadata.name.clone().unwrap_or_default());
        refusals.push(Refusal::GroupNeverCut { group });
        return None;
    };
    let differs = |set: &&&VolumeSet| image(set).and_then(|image| image.group_cut_id) != Some(last.id);
    let others: Vec<ObjectName> = sets.iter().filter(differs).map(|set| members::name(set)).collect();
    if !others.is_empty() {
        refusals.push(Refusal::NotOneInstant { sets: others });
    }
    for (index, set) in sets.iter().enumerate() {
        let master = &set.spec.master_ref.name;
        let same = |other: &&&VolumeSet| other.spec.master_ref.name == *master;
        // Each master once, with the first of its sets.
        if sets.iter().take(index).any(|other| same(&other)) {
            continue;
        }
        let sharing: Vec<ObjectName> = sets.iter().filter(same).map(|set| members::name(set)).collect();
        if sharing.len() > 1 {
            refusals.push(Refusal::SharedMaster { master: master.clone(), sets: sharing });
        }
    }
    Some(last.id)
}

fn other_cut(wanted: &str, held: CutId, set: &ObjectName) -> Option<Refusal> {
    let wanted = wanted.to_lowercase();
    if wanted.len() < CUT_CHARACTERS_MIN {
        return Some(Refusal::VagueCut { wanted });
    }
    let is_held = held.to_string().starts_with(&wanted);
    (!is_held).then(|| Refusal::OtherCut { set: set.clone(), held, wanted })
}

#[cfg(test)]
mod tests;
