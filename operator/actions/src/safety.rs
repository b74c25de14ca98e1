//! The set that keeps what a master is before it is restored, so that the restore can be undone.

use umbra_crds::conditions::{ConditionType, find};
use umbra_crds::{ObjectName, VolumeSet};

use crate::members;
use crate::refusal::{Refusal, Unfit};

/// What is wanted of the safety cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SafetyWish {
    /// Find the set for it.
    Propose,
    /// It goes into this set.
    Into(ObjectName),
    /// There shall be none.
    Without,
}

/// The set that takes the safety cut before a restore from `restored`; none where none is wanted.
pub(crate) fn choose(
    sets: &[VolumeSet],
    restored: &VolumeSet,
    wish: &SafetyWish,
) -> Result<Option<ObjectName>, Refusal> {
    match wish {
        SafetyWish::Without => Ok(None),
        SafetyWish::Into(set) => {
            let found = sets.iter().find(|other| members::name(other) == *set);
            let why = found.map_or(Some(Unfit::Missing), |found| unfit(found, restored));
            match why {
                Some(why) => Err(Refusal::SafetyUnfit { set: set.clone(), why }),
                None => Ok(Some(set.clone())),
            }
        }
        SafetyWish::Propose => propose(sets, restored),
    }
}

/// The one other set of the master that can take it. Where there are several, whose image is given up is not for a program to
/// say.
fn propose(sets: &[VolumeSet], restored: &VolumeSet) -> Result<Option<ObjectName>, Refusal> {
    let (mut fit, mut not) = (Vec::new(), Vec::new());
    let siblings = sets.iter().filter(|set| set.spec.master_ref == restored.spec.master_ref);
    for sibling in siblings.filter(|sibling| members::name(sibling) != members::name(restored)) {
        match unfit(sibling, restored) {
            None => fit.push(members::name(sibling)),
            Some(why) => not.push((members::name(sibling), why)),
        }
    }
    fit.sort();
    match fit.len() {
        1 => Ok(fit.pop()),
        0 => Err(Refusal::SafetyNone { master: restored.spec.master_ref.name.clone(), unfit: not }),
        _ => Err(Refusal::SafetyAmbiguous { sets: fit }),
    }
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
        assert_eq!(propose(&free, &sets[0]), Ok(Some(ObjectName::new("free"))));
    }

    #[test]
    fn nobody_but_the_user_chooses_between_two_images() {
        let sets = [set("s", "m", json!({})), set("b", "m", json!({})), set("a", "m", json!({}))];
        let both = vec![ObjectName::new("a"), ObjectName::new("b")];
        assert_eq!(propose(&sets, &sets[0]), Err(Refusal::SafetyAmbiguous { sets: both }));
        let named = SafetyWish::Into(ObjectName::new("b"));
        assert_eq!(choose(&sets, &sets[0], &named), Ok(Some(ObjectName::new("b"))));
        assert_eq!(choose(&sets, &sets[0], &SafetyWish::Without), Ok(None));
    }

    #[test]
    fn a_set_that_was_named_is_looked_at_all_the_same() {
        let sets =
            [set("s", "m", json!({})), set("t", "n", json!({})), protected(set("kept", "m", json!({})))];
        let why = |name: &str| match choose(&sets, &sets[0], &SafetyWish::Into(ObjectName::new(name))) {
            Err(Refusal::SafetyUnfit { why, .. }) => why,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(why("s"), Unfit::IsRestored);
        assert_eq!(why("t"), Unfit::OtherMaster(ObjectName::new("n")));
        assert_eq!(why("kept"), Unfit::Protected);
        assert_eq!(why("gone"), Unfit::Missing);
    }
}
