//! The sets that a command acts on, and what keeps them from being acted on.

use umbra_crds::{
    CopyDirection, CopyState, MasterVolume, ObjectName, SetGroup, Target, TargetKind, VolumeSet,
};

use crate::picture::Objects;
use crate::refusal::Refusal;

/// What a command acts on.
#[derive(Debug, Clone)]
pub(crate) enum Members<'a> {
    /// One set.
    Set(&'a VolumeSet),
    /// A group and its sets.
    Group(&'a SetGroup, Vec<&'a VolumeSet>),
}

impl<'a> Members<'a> {
    /// The sets of a target.
    pub(crate) fn of(target: &Target, objects: &'a Objects) -> Result<Self, Refusal> {
        match target.kind {
            TargetKind::VolumeSet => find(&target.name, objects).map(Self::Set),
            TargetKind::SetGroup => {
                let named = |group: &&SetGroup| group.metadata.name.as_deref() == Some(target.name.as_str());
                let group = objects.groups.iter().find(named);
                let group = group.ok_or_else(|| Refusal::NoGroup { group: target.name.clone() })?;
                // Members are what the status says: a selector is evaluated in one place only, where it is acted on.
                let status = group.status.as_ref().filter(|status| !status.members.is_empty());
                let status = status.filter(|status| status.observed_generation >= group.metadata.generation);
                let status = status.ok_or_else(|| Refusal::GroupUnseen { group: target.name.clone() })?;
                let sets: Result<Vec<_>, _> =
                    status.members.iter().map(|member| find(&member.name, objects)).collect();
                Ok(Self::Group(group, sets?))
            }
            TargetKind::ShadowExport => Err(Refusal::NoTarget { name: target.name.clone() }),
        }
    }

    pub(crate) fn sets(&self) -> &[&'a VolumeSet] {
        match self {
            Self::Set(set) => std::slice::from_ref(set),
            Self::Group(_, sets) => sets,
        }
    }
}

fn find<'a>(name: &ObjectName, objects: &'a Objects) -> Result<&'a VolumeSet, Refusal> {
    let found = objects.sets.iter().find(|set| set.metadata.name.as_deref() == Some(name.as_str()));
    found.ok_or_else(|| Refusal::NoSet { set: name.clone() })
}

pub(crate) fn name(set: &VolumeSet) -> ObjectName {
    ObjectName::new(set.metadata.name.clone().unwrap_or_default())
}

/// The master of a set, if it is there.
pub(crate) fn master<'a>(set: &VolumeSet, objects: &'a Objects) -> Option<&'a MasterVolume> {
    let wanted = set.spec.master_ref.name.as_str();
    objects.masters.iter().find(|master| master.metadata.name.as_deref() == Some(wanted))
}

/// The operation that has a set to itself.
pub(crate) fn busy(set: &VolumeSet) -> Option<&ObjectName> {
    set.status.as_ref()?.current_operation.as_ref()
}

/// Where a copy that is not complete goes.
pub(crate) fn copy_pending(set: &VolumeSet) -> Option<CopyDirection> {
    let copy = set.status.as_ref()?.copy.as_ref()?;
    (copy.state != CopyState::None).then_some(copy.direction).flatten()
}

/// What keeps every command on images away from these sets: another operation, or a restore of their master, until which is
/// done all images of that master stay as they are.
pub(crate) fn hindrances(sets: &[&VolumeSet], objects: &Objects) -> Vec<Refusal> {
    let mut found = Vec::new();
    for set in sets {
        let operation = busy(set).cloned();
        found.extend(operation.map(|operation| Refusal::Busy { set: name(set), operation }));
    }
    for other in &objects.sets {
        let master = &other.spec.master_ref.name;
        let concerned = sets.iter().any(|set| set.spec.master_ref.name == *master);
        if concerned && copy_pending(other) == Some(CopyDirection::ToMaster) {
            found.push(Refusal::Restoring { master: master.clone(), set: name(other) });
        }
    }
    found
}
