//! The set that keeps what a master is before it is restored, so that the restore can be undone; for a group, the group of one
//! other set of each of its masters.

use umbra_crds::conditions::{ConditionType, find};
use umbra_crds::{ObjectName, SetGroup, Target, TargetKind, VolumeSet};

use crate::members::{self, Members};
use crate::picture::Objects;
use crate::refusal::{Refusal, Unfit};

/// What is wanted of the safety cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SafetyWish {
    /// Find the set or group for it.
    Propose,
    /// It goes into this one.
    Into(Target),
    /// There shall be none.
    Without,
}

/// What takes the safety cut before a restore of these; none where none is wanted.
pub(crate) fn choose(
    objects: &Objects,
    restored: &Members<'_>,
    wish: &SafetyWish,
) -> Result<Option<Target>, Refusal> {
    let kind = match restored {
        Members::Set(_) => TargetKind::VolumeSet,
        Members::Group(..) => TargetKind::SetGroup,
    };
    let name = match (wish, restored) {
        (SafetyWish::Without, _) => return Ok(None),
        (SafetyWish::Into(target), _) if target.kind != kind => {
            return Err(Refusal::SafetyOfOtherKind { name: target.name.clone() });
        }
        (SafetyWish::Into(target), _) => {
            let why = match restored {
                Members::Set(restored) => {
                    let found = objects.sets.iter().find(|other| members::name(other) == target.name);
                    found.map_or(Some(Unfit::Missing), |found| unfit(found, restored))
                }
                Members::Group(group, sets) => {
                    let found = objects.groups.iter().find(|other| name_of(other) == target.name);
                    found.map_or(Some(Unfit::Missing), |found| unfit_group(objects, found, group, sets))
                }
            };
            match why {
                Some(why) => return Err(Refusal::SafetyUnfit { set: target.name.clone(), why }),
                None => target.name.clone(),
            }
        }
        (SafetyWish::Propose, Members::Set(restored)) => propose(&objects.sets, restored)?,
        (SafetyWish::Propose, Members::Group(group, sets)) => propose_group(objects, group, sets)?,
    };
    Ok(Some(Target { kind, name }))
}

fn name_of(group: &SetGroup) -> ObjectName {
    ObjectName::new(group.metadata.name.clone().unwrap_or_default())
}

/// The one other set of the master that can take it. Where there are several, whose image is given up is not for a program to
/// say.
fn propose(sets: &[VolumeSet], restored: &VolumeSet) -> Result<ObjectName, Refusal> {
    let (mut fit, mut not) = (Vec::new(), Vec::new());
    let siblings = sets.iter().filter(|set| set.spec.master_ref == restored.spec.master_ref);
    for sibling in siblings.filter(|sibling| members::name(sibling) != members::name(restored)) {
        match unfit(sibling, restored) {
            None => fit.push(members::name(sibling)),
            Some(why) => not.push((members::name(sibling), why)),
        }
    }
    only(fit, || Refusal::SafetyNone { master: restored.spec.master_ref.name.clone(), unfit: not })
}

/// The one other group that can take it.
fn propose_group(objects: &Objects, restored: &SetGroup, sets: &[&VolumeSet]) -> Result<ObjectName, Refusal> {
    let (mut fit, mut not) = (Vec::new(), Vec::new());
    for other in objects.groups.iter().filter(|other| name_of(other) != name_of(restored)) {
        match unfit_group(objects, other, restored, sets) {
            None => fit.push(name_of(other)),
            Some(why) => not.push((name_of(other), why)),
        }
    }
    only(fit, || Refusal::SafetyGroupNone { group: name_of(restored), unfit: not })
}

fn only(mut fit: Vec<ObjectName>, none: impl FnOnce() -> Refusal) -> Result<ObjectName, Refusal> {
    fit.sort();
    match fit.pop() {
        None => Err(none()),
        Some(one) if fit.is_empty() => Ok(one),
        Some(last) => {
            fit.push(last);
            Err(Refusal::SafetyAmbiguous { sets: fit })
        }
    }
}

/// Why a group cannot take the cut.
fn unfit_group(
    objects: &Objects,
    group: &SetGroup,
    restored: &SetGroup,
    sets: &[&VolumeSet],
) -> Option<Unfit> {
    if name_of(group) == name_of(restored) {
        return Some(Unfit::IsRestored);
    }
    let target = Target { kind: TargetKind::SetGroup, name: name_of(group) };
    let Ok(keepers) = Members::of(&target, objects) else {
        return Some(Unfit::NotReady("Unseen".to_owned()));
    };
    let mut unlucky = None;
    for set in sets {
        let same = |keeper: &&&VolumeSet| keeper.spec.master_ref == set.spec.master_ref;
        let mut of_master = keepers.sets().iter().filter(same);
        let (Some(keeper), None) = (of_master.next(), of_master.next()) else {
            return Some(Unfit::OtherMasters);
        };
        let why = unfit(keeper, set).map(|why| Unfit::Member(members::name(keeper), Box::new(why)));
        unlucky = unlucky.or(why);
    }
    if keepers.sets().len() == sets.len() { unlucky } else { Some(Unfit::OtherMasters) }
}

/// Why a set cannot take the cut.
fn unfit(set: &VolumeSet, restored: &VolumeSet) -> Option<Unfit> {
    if members::name(set) == members::name(restored) {
        return Some(Unfit::IsRestored);
    }
    if set.spec.master_ref != restored.spec.master_ref {
        return Some(Unfit::OtherMaster(set.spec.master_ref.name.clone()));
    }
    if set.metadata.deletion_timestamp.is_some() {
        return Some(Unfit::Deleted);
    }
    if set.spec.shadow.protected {
        return Some(Unfit::Protected);
    }
    if let Some(operation) = members::busy(set) {
        return Some(Unfit::Busy(operation.clone()));
    }
    if members::copy_pending(set).is_some() {
        return Some(Unfit::CopyPending);
    }
    let conditions = set.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let published = find(conditions, ConditionType::ShadowPublished);
    if published.is_some_and(|found| found.status == "True" && found.reason == "InUse") {
        return Some(Unfit::InUse);
    }
    match find(conditions, ConditionType::Ready) {
        Some(ready) if ready.reason == "Exported" => Some(Unfit::Exported),
        Some(ready) if ready.status == "True" => None,
        Some(ready) => Some(Unfit::NotReady(ready.reason.clone())),
        None => Some(Unfit::NotReady("Unseen".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::examples::set;
    use crate::written::target;

    fn into(name: &str) -> SafetyWish {
        SafetyWish::Into(target(name).unwrap())
    }

    fn protected(mut set: VolumeSet) -> VolumeSet {
        set.spec.shadow.protected = true;
        set
    }

    #[test]
    fn the_only_set_that_can_is_proposed() {
        let published = json!({"type": "ShadowPublished", "status": "True", "reason": "InUse", "message": "", "lastTransitionTime": "2026-11-22T11:00:00Z"});
        let mut read = set("read", "m", json!({}));
        read.status.as_mut().unwrap().conditions.push(serde_json::from_value(published).unwrap());
        let mut unseen = set("unseen", "m", json!({}));
        unseen.status = None;
        let sets = [
            set("s", "m", json!({})),
            protected(set("kept", "m", json!({}))),
            set("busy", "m", json!({"currentOperation": "cut-1"})),
            set("copying", "m", json!({"copy": {"state": "Running", "direction": "ToShadow"}})),
            set("elsewhere", "n", json!({})),
            read,
            unseen,
        ];
        let refusal = propose(&sets, &sets[0]).unwrap_err();
        let Refusal::SafetyNone { unfit, .. } = &refusal else { panic!("{refusal}") };
        let why: Vec<(&str, &Unfit)> = unfit.iter().map(|(set, why)| (set.as_str(), why)).collect();
        let expected = [
            ("kept", &Unfit::Protected),
            ("busy", &Unfit::Busy(ObjectName::new("cut-1"))),
            ("copying", &Unfit::CopyPending),
            ("read", &Unfit::InUse),
            ("unseen", &Unfit::NotReady("Unseen".to_owned())),
        ];
        assert_eq!(why, expected);
        let free = [&sets[..], &[set("free", "m", json!({}))]].concat();
        assert_eq!(propose(&free, &sets[0]), Ok(ObjectName::new("free")));
    }

    #[test]
    fn nobody_but_the_user_chooses_between_two_images() {
        let sets = [set("s", "m", json!({})), set("b", "m", json!({})), set("a", "m", json!({}))];
        let both = vec![ObjectName::new("a"), ObjectName::new("b")];
        assert_eq!(propose(&sets, &sets[0]), Err(Refusal::SafetyAmbiguous { sets: both }));
        let objects = Objects { sets: sets.to_vec(), ..Objects::default() };
        let chosen = |wish| choose(&objects, &Members::Set(&sets[0]), &wish);
        assert_eq!(chosen(into("b")), Ok(target("b").ok()));
        assert_eq!(chosen(SafetyWish::Without), Ok(None));
    }

    #[test]
    fn a_set_that_was_named_is_looked_at_all_the_same() {
        let sets =
            [set("s", "m", json!({})), set("t", "n", json!({})), protected(set("kept", "m", json!({})))];
        let objects = Objects { sets: sets.to_vec(), ..Objects::default() };
        let why = |name: &str| match choose(&objects, &Members::Set(&sets[0]), &into(name)) {
            Err(Refusal::SafetyUnfit { why, .. }) => why,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(why("s"), Unfit::IsRestored);
        assert_eq!(why("t"), Unfit::OtherMaster(ObjectName::new("n")));
        assert_eq!(why("kept"), Unfit::Protected);
        assert_eq!(why("gone"), Unfit::Missing);
    }
}
