//! `group`: sets that one command acts on at one instant.

use clap::{Args, Subcommand};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use serde::Serialize;
use serde_json::json;
use umbra_actions::group::{GroupError, added, new_group, removed};
use umbra_actions::picture::GroupLine;
use umbra_actions::{Objects, picture, written};
use umbra_crds::{LocalReference, ObjectName, SetGroup};

use super::requests;
use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::output::{Answer, Style, show, table};
use crate::writing::{Rehearsal, Written};

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Makes a group of sets, or of all sets with certain labels.
    Create(Create),
    /// Adds sets.
    Add(Members),
    /// Takes sets out; their images stay.
    Remove(Members),
    /// Deletes a group; the sets stay.
    Delete(Delete),
    /// The groups and their members.
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the group.
    #[arg(value_parser = written::object_name)]
    group: ObjectName,
    /// The sets.
    #[arg(value_name = "SET", value_parser = written::object_name, required_unless_present = "selector")]
    sets: Vec<ObjectName>,
    /// Labels of the sets.
    #[arg(long, value_name = "LABELS", value_parser = written::selector, conflicts_with = "sets")]
    selector: Option<LabelSelector>,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    /// The group.
    #[arg(value_parser = written::object_name)]
    group: ObjectName,
    /// The sets.
    #[arg(value_name = "SET", required = true, value_parser = written::object_name)]
    sets: Vec<ObjectName>,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The group.
    #[arg(value_parser = written::object_name)]
    group: ObjectName,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

pub(crate) async fn run(cluster: &Cluster, options: &Options, style: Style) -> Result<String, Failure> {
    match options {
        Options::List => show(&list(cluster).await?, style),
        Options::Create(create) => {
            let group = new_group(&create.group, create.sets.clone(), create.selector.clone());
            show(&cluster::create(&cluster.kind()?, group, create.rehearsal).await?, style)
        }
        Options::Add(members) => {
            let change = |group: &SetGroup| added(group, members.sets.clone());
            show(&edit(&cluster.kind()?, members, change).await?, style)
        }
        Options::Remove(members) => {
            let change = |group: &SetGroup| removed(group, &members.sets);
            show(&edit(&cluster.kind()?, members, change).await?, style)
        }
        Options::Delete(delete) => {
            let api = cluster.kind()?;
            let group: SetGroup = cluster::get(&api, delete.group.as_str()).await?;
            show(&cluster::delete(&api, group, delete.rehearsal).await?, style)
        }
    }
}

async fn edit(
    api: &Api<SetGroup>,
    options: &Members,
    change: impl Fn(&SetGroup) -> Result<Vec<LocalReference>, GroupError>,
) -> Result<Written<SetGroup>, Failure> {
    let mut group = cluster::get(api, options.group.as_str()).await?;
    let members = change(&group).map_err(|error| Failure::Failed(error.to_string()))?;
    let spec = json!({"volumeSets": members});
    group.spec.volume_sets = Some(members);
    cluster::change(api, group, spec, options.rehearsal).await
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Groups(Vec<GroupLine>);

async fn list(cluster: &Cluster) -> Result<Groups, Failure> {
    let groups = cluster.namespaced().await?;
    let objects = Objects { groups, ..Objects::default() };
    Ok(Groups(picture(&objects, &requests::now()).groups))
}

impl Answer for Groups {
    fn table(&self, headings: bool, _: bool) -> String {
        let heads = ["NAMESPACE", "NAME", "READY", "REASON", "MEMBERS"];
        let rows = self.0.iter().map(|line| {
            let ready = if line.readiness.ready { "True" } else { "False" };
            let reason = line.readiness.reason.clone();
            [line.namespace.clone(), line.name.clone(), ready.to_owned(), reason, line.members.join(" ")]
        });
        table(headings.then_some(heads), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|line| format!("setgroup/{}", line.name)).collect())
    }
}
