//! What hangs on what: masters, their sets, and for each set its volumes, its claim, its groups and the operation that has it.

use serde::Serialize;
use umbra_crds::{SetGroup, VolumeSet, VolumeSource};

use crate::members;
use crate::picture::Objects;

/// An object and what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// Its namespace.
    pub namespace: String,
    /// The object, as `kind/name`.
    pub object: String,
    /// What it does for the object it hangs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// What hangs on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Self>,
}

/// The trees of all masters, by namespace and name; sets without a master stand behind them.
#[must_use]
pub fn tree(objects: &Objects) -> Vec<Branch> {
    let mut roots = Vec::new();
    for master in &objects.masters {
        let namespace = master.metadata.namespace.clone().unwrap_or_default();
        let source = leaf(&namespace, source(&master.spec.source), "source");
        let is_of = |set: &&VolumeSet| {
            set.metadata.namespace == master.metadata.namespace
                && Some(set.spec.master_ref.name.as_str()) == master.metadata.name.as_deref()
        };
        let mut sets: Vec<Branch> =
            objects.sets.iter().filter(is_of).map(|set| of_set(set, objects)).collect();
        sets.sort_by(|a, b| a.object.cmp(&b.object));
        roots.push(Branch {
            object: format!("mastervolume/{}", master.metadata.name.clone().unwrap_or_default()),
            namespace,
            role: None,
            branches: [vec![source], sets].concat(),
        });
    }
    let alone = objects.sets.iter().filter(|set| {
        let in_namespace = |master: &&umbra_crds::MasterVolume| {
            master.metadata.namespace == set.metadata.namespace
                && master.metadata.name.as_deref() == Some(set.spec.master_ref.name.as_str())
        };
        !objects.masters.iter().any(|master| in_namespace(&master))
    });
    let mut alone: Vec<Branch> = alone.map(|set| of_set(set, objects)).collect();
    let order = |a: &Branch, b: &Branch| (&a.namespace, &a.object).cmp(&(&b.namespace, &b.object));
    roots.sort_by(order);
    alone.sort_by(order);
    roots.extend(alone);
    roots
}

fn of_set(set: &VolumeSet, objects: &Objects) -> Branch {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let mut branches = vec![
        leaf(&namespace, source(&set.spec.shadow.source), "shadow"),
        leaf(&namespace, source(&set.spec.bitmap.source), "bitmap"),
    ];
    let claim = set.spec.shadow.publish.as_ref().map(|publish| format!("pvc/{}", publish.claim_name));
    branches.extend(claim.map(|claim| leaf(&namespace, claim, "published")));
    let in_group = |group: &&SetGroup| {
        group.metadata.namespace == set.metadata.namespace
            && group
                .status
                .iter()
                .flat_map(|status| &status.members)
                .any(|member| Some(member.name.as_str()) == set.metadata.name.as_deref())
    };
    let groups = objects.groups.iter().filter(in_group);
    branches.extend(groups.map(|group| {
        let name = format!("setgroup/{}", group.metadata.name.clone().unwrap_or_default());
        leaf(&namespace, name, "group")
    }));
    let operation = members::busy(set).map(|operation| format!("imagingoperation/{operation}"));
    branches.extend(operation.map(|operation| leaf(&namespace, operation, "operation")));
    Branch { object: format!("volumeset/{}", members::name(set)), namespace, role: None, branches }
}

fn leaf(namespace: &str, object: String, role: &'static str) -> Branch {
    Branch { namespace: namespace.to_owned(), object, role: Some(role), branches: Vec::new() }
}

fn source(source: &VolumeSource) -> String {
    match source {
        VolumeSource { pvc: Some(claim), .. } => format!("pvc/{}", claim.claim_name),
        VolumeSource { device: Some(device), .. } => format!("device/{}{}", device.node_name, device.id),
        VolumeSource { managed: Some(_), .. } => "managed".to_owned(),
        VolumeSource { .. } => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::examples::{group, master, set};

    #[test]
    fn everything_hangs_where_it_belongs() {
        let objects = Objects {
            masters: vec![master("m", &[])],
            sets: vec![
                set("b", "m", json!({})),
                set("a", "m", json!({"currentOperation": "cut-1"})),
                set("alone", "gone", json!({})),
            ],
            groups: vec![group("g", &["a"])],
            ..Objects::default()
        };
        let trees = tree(&objects);
        let names =
            |branches: &[Branch]| branches.iter().map(|branch| branch.object.clone()).collect::<Vec<_>>();
        assert_eq!(names(&trees), ["mastervolume/m", "volumeset/alone"]);
        assert_eq!(names(&trees[0].branches), ["pvc/c", "volumeset/a", "volumeset/b"]);
        let of_a = ["pvc/a-shadow", "managed", "setgroup/g", "imagingoperation/cut-1"];
        assert_eq!(names(&trees[0].branches[1].branches), of_a);
        assert_eq!(names(&trees[0].branches[2].branches), ["pvc/b-shadow", "managed"]);
    }
}
