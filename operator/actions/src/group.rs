//! Groups as they are asked for, and changes of their members.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use thiserror::Error;
use umbra_crds::{Duration, LocalReference, ObjectName, SetGroup, SetGroupSpec};

/// Why the members of a group are not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GroupError {
    /// Its members are chosen by labels.
    #[error("the members of {group} are chosen by labels: label the sets, or remove the label")]
    BySelector {
        /// The group.
        group: String,
    },
    /// A set is not in it.
    #[error("{set} is not a member of {group}")]
    NoMember {
        /// The group.
        group: String,
        /// The set.
        set: ObjectName,
    },
    /// It would have no members.
    #[error("{group} would have no members left: delete it with `kubectl umbra group delete {group}`")]
    Empty {
        /// The group.
        group: String,
    },
}

/// The object for a new group of these sets, or of the sets with these labels.
#[must_use]
pub fn new_group(name: &ObjectName, sets: Vec<ObjectName>, selector: Option<LabelSelector>) -> SetGroup {
    let volume_sets = (!sets.is_empty()).then(|| with(Vec::new(), sets));
    SetGroup::new(name.as_str(), SetGroupSpec { volume_sets, selector, gate_lease: Duration::new("2s") })
}

/// The members with others added. Who is a member already stays one.
///
/// # Errors
/// Where members are chosen by labels.
pub fn added(group: &SetGroup, sets: Vec<ObjectName>) -> Result<Vec<LocalReference>, GroupError> {
    Ok(with(named(group)?, sets))
}

/// The members without some.
///
/// # Errors
/// Where members are chosen by labels, one is none, or nobody would be left.
pub fn removed(group: &SetGroup, sets: &[ObjectName]) -> Result<Vec<LocalReference>, GroupError> {
    let mut members = named(group)?;
    for set in sets {
        let Some(index) = members.iter().position(|member| member.name == *set) else {
            return Err(GroupError::NoMember { group: name(group), set: set.clone() });
        };
        members.remove(index);
    }
    if members.is_empty() { Err(GroupError::Empty { group: name(group) }) } else { Ok(members) }
}

fn name(group: &SetGroup) -> String {
    group.metadata.name.clone().unwrap_or_default()
}

fn named(group: &SetGroup) -> Result<Vec<LocalReference>, GroupError> {
    group.spec.volume_sets.clone().ok_or_else(|| GroupError::BySelector { group: name(group) })
}

fn with(mut members: Vec<LocalReference>, sets: Vec<ObjectName>) -> Vec<LocalReference> {
    for name in sets {
        if !members.iter().any(|member| member.name == name) {
            members.push(LocalReference { name });
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::written::selector;

    fn names(texts: &[&str]) -> Vec<ObjectName> {
        texts.iter().map(|text| ObjectName::new(*text)).collect()
    }

    fn of(members: &[LocalReference]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn members_come_and_go_and_are_there_once() {
        let mut group = new_group(&ObjectName::new("g"), names(&["a", "b", "a"]), None);
        assert_eq!(
            group.spec,
            serde_json::from_value(json!({"volumeSets": [{"name": "a"}, {"name": "b"}]})).unwrap()
        );
        group.spec.volume_sets = Some(added(&group, names(&["b", "c"])).unwrap());
        assert_eq!(of(group.spec.volume_sets.as_ref().unwrap()), ["a", "b", "c"]);
        assert_eq!(of(&removed(&group, &names(&["a", "c"])).unwrap()), ["b"]);
        assert!(matches!(removed(&group, &names(&["d"])), Err(GroupError::NoMember { .. })));
        assert!(matches!(removed(&group, &names(&["a", "b", "c"])), Err(GroupError::Empty { .. })));
    }

    #[test]
    fn members_by_labels_are_not_named() {
        let group = new_group(&ObjectName::new("g"), Vec::new(), Some(selector("a=b").unwrap()));
        assert!(group.spec.volume_sets.is_none());
        assert!(matches!(added(&group, names(&["a"])), Err(GroupError::BySelector { .. })));
        assert!(matches!(removed(&group, &names(&["a"])), Err(GroupError::BySelector { .. })));
    }
}
