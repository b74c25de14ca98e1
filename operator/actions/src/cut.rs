//! A new image: whether it may be made, and what is asked for.

use umbra_crds::{Command, ImagingOperationSpec, Target, WaitFor};

use crate::members::{self, Members};
use crate::operation;
use crate::picture::Objects;
use crate::refusal::Refusal;

/// What is wanted of a new image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutRequest {
    /// What is cut.
    pub target: Target,
    /// Whether every chunk is copied, and not only what changed.
    pub full: bool,
    /// Whether the file system is brought to rest for it.
    pub freeze: bool,
    /// When it counts as done.
    pub wait_for: WaitFor,
}

/// The operation that makes the image.
///
/// # Errors
/// Everything that keeps it from being made.
pub fn cut(objects: &Objects, request: &CutRequest) -> Result<ImagingOperationSpec, Vec<Refusal>> {
    let members = Members::of(&request.target, objects).map_err(|refusal| vec![refusal])?;
    let mut refusals = members::hindrances(members.sets(), objects);
    let protected = members.sets().iter().filter(|set| set.spec.shadow.protected);
    refusals.extend(protected.map(|set| Refusal::Protected { set: members::name(set) }));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let command = if request.full { Command::CopyToShadow } else { Command::UpdateShadow };
    Ok(ImagingOperationSpec {
        quiesce: request.freeze.then(operation::frozen),
        wait_for: request.wait_for,
        ..operation::plain(request.target.clone(), command)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::examples::{group, set};
    use crate::written::target;

    fn request(text: &str) -> CutRequest {
        CutRequest { target: target(text).unwrap(), full: false, freeze: false, wait_for: WaitFor::Copy }
    }

    #[test]
    fn a_cut_asks_for_what_was_said() {
        let objects = Objects { sets: vec![set("s", "m", json!({}))], ..Objects::default() };
        let spec = cut(&objects, &request("s")).unwrap();
        assert_eq!((spec.command, spec.quiesce, spec.guard), (Command::UpdateShadow, None, None));
        let full = CutRequest { full: true, freeze: true, wait_for: WaitFor::Cut, ..request("s") };
        let spec = cut(&objects, &full).unwrap();
        assert_eq!((spec.command, spec.wait_for), (Command::CopyToShadow, WaitFor::Cut));
        assert!(spec.quiesce.is_some());
    }

    #[test]
    fn a_protected_image_stays_also_in_a_group() {
        let mut kept = set("kept", "n", json!({}));
        kept.spec.shadow.protected = true;
        let sets = vec![set("s", "m", json!({})), kept];
        let objects = Objects { sets, groups: vec![group("g", &["s", "kept"])], ..Objects::default() };
        assert_eq!(
            cut(&objects, &request("group:g")),
            Err(vec![Refusal::Protected { set: umbra_crds::ObjectName::new("kept") }])
        );
        assert!(cut(&objects, &request("s")).is_ok(), "the other member alone can be cut");
    }

    #[test]
    fn while_a_master_is_restored_none_of_its_sets_is_cut() {
        let restoring = json!({"copy": {"state": "Aborted", "direction": "ToMaster"}});
        let sets = vec![set("s", "m", json!({})), set("from", "m", restoring), set("t", "other", json!({}))];
        let objects = Objects { sets, ..Objects::default() };
        let refusals = cut(&objects, &request("s")).unwrap_err();
        assert!(
            matches!(&refusals[..], [Refusal::Restoring { set, .. }] if set.as_str() == "from"),
            "{refusals:?}"
        );
        assert!(cut(&objects, &request("t")).is_ok(), "another master is not concerned");
    }

    #[test]
    fn what_is_not_there_is_no_matter_of_guards() {
        let objects = Objects { groups: vec![group("g", &["gone"])], ..Objects::default() };
        for text in ["gone", "group:gone", "group:g"] {
            let refusals = cut(&objects, &request(text)).unwrap_err();
            assert!(!refusals[0].is_by_guard(), "{text}: {refusals:?}");
        }
    }

    #[test]
    fn a_group_that_changed_since_it_was_looked_at_is_not_taken_for_what_it_was() {
        let mut changed = group("g", &["s"]);
        changed.metadata.generation = Some(2);
        let objects =
            Objects { sets: vec![set("s", "m", json!({}))], groups: vec![changed], ..Objects::default() };
        let refusals = cut(&objects, &request("group:g")).unwrap_err();
        assert!(matches!(refusals[..], [Refusal::GroupUnseen { .. }]), "{refusals:?}");
    }
}
