//! `status`: everything on one screen.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;
use umbra_actions::picture::{
    CopyLine, GroupLine, ImageLine, MasterLine, OperationLine, ProblemLine, Readiness, SetLine,
};
use umbra_actions::{Objects, Picture, age, bytes, picture};
use umbra_crds::CopyDirection;

use super::{ops, requests};
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::output::Answer;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this master and its sets.
    master: Option<String>,
    /// Only what is the matter.
    #[arg(long)]
    problems: bool,
}

/// The picture, and how much of it was asked for.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Status {
    picture: Picture,
    #[serde(skip)]
    only_problems: bool,
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Status, Failure> {
    let (images, operations, nodes) =
        tokio::try_join!(cluster.images(), cluster.namespaced(), cluster.visible())?;
    let mut objects = Objects { operations, nodes, ..images };
    if let Some(master) = &options.master {
        narrow(&mut objects, master)?;
    }
    Ok(Status { picture: picture(&objects, &requests::now()), only_problems: options.problems })
}

/// Leaves one master, its sets, and what was done to them.
fn narrow(objects: &mut Objects, master: &str) -> Result<(), Failure> {
    objects.masters.retain(|found| found.metadata.name.as_deref() == Some(master));
    if objects.masters.is_empty() {
        return Err(Failure::Failed(format!(
            "there is no MasterVolume {master} here: look with -A, or name its namespace"
        )));
    }
    objects.sets.retain(|set| set.spec.master_ref.name.as_str() == master);
    let sets: Vec<String> = objects.sets.iter().filter_map(|set| set.metadata.name.clone()).collect();
    objects.groups.clear();
    objects.operations.retain(|operation| sets.iter().any(|set| set == operation.spec.target.name.as_str()));
    objects.nodes = None;
    Ok(())
}

impl Answer for Status {
    fn table(&self, headings: bool, wide: bool) -> String {
        let mut screen = String::new();
        if !self.only_problems {
            if headings {
                line(&mut screen, &head(&self.picture));
            }
            self.picture.masters.iter().for_each(|master| of_master(&mut screen, master, wide));
            self.picture
                .sets_without_master
                .iter()
                .for_each(|set| line(&mut screen, &format!("SET {}", of_set(set, wide))));
            self.picture.groups.iter().for_each(|group| line(&mut screen, &of_group(group)));
            self.picture.operations.iter().for_each(|operation| line(&mut screen, &of_operation(operation)));
        }
        self.picture.problems.iter().for_each(|problem| line(&mut screen, &of_problem(problem)));
        if screen.is_empty() {
            line(
                &mut screen,
                if self.only_problems { "nothing is the matter" } else { "no masters, no sets" },
            );
        }
        screen
    }

    fn names(&self) -> Option<Vec<String>> {
        let Picture { masters, sets_without_master, .. } = &self.picture;
        let of_master = |master: &MasterLine| {
            let sets = master.sets.iter().map(|set| format!("volumeset/{}", set.name));
            std::iter::once(format!("mastervolume/{}", master.name)).chain(sets).collect::<Vec<_>>()
        };
        let alone = sets_without_master.iter().map(|set| format!("volumeset/{}", set.name));
        Some(masters.iter().flat_map(of_master).chain(alone).collect())
    }
}

fn line(screen: &mut String, text: &str) {
    // Writing to a string does not fail.
    writeln!(screen, "{}", text.trim_end()).ok();
}

fn head(picture: &Picture) -> String {
    let nodes =
        picture.nodes.map_or_else(String::new, |nodes| format!("   nodes {}/{}", nodes.ready, nodes.total));
    let warnings = match picture.problems.len() {
        0 => "nothing is the matter".to_owned(),
        1 => "1 warning".to_owned(),
        many => format!("{many} warnings"),
    };
    format!("umbra {}{nodes}   {warnings}", env!("CARGO_PKG_VERSION"))
}

fn ready(readiness: &Readiness) -> String {
    if readiness.ready { "READY".to_owned() } else { format!("NOT READY ({})", readiness.reason) }
}

fn of_master(screen: &mut String, master: &MasterLine, wide: bool) {
    let mut parts = vec![format!("MASTER {}", master.name)];
    parts.extend(wide.then(|| format!("namespace {}", master.namespace)));
    parts.extend(master.node.clone());
    parts.extend(master.size_bytes.map(|size| if wide { size.to_string() } else { bytes(size) }));
    parts.extend(master.claim.as_ref().map(|claim| format!("pvc/{claim}")));
    parts.extend((!master.users.is_empty()).then(|| format!("used by {}", master.users.join(", "))));
    parts.push(ready(&master.readiness));
    line(screen, &parts.join("  "));
    for (index, set) in master.sets.iter().enumerate() {
        let branch = if index + 1 == master.sets.len() { '`' } else { '|' };
        line(screen, &format!(" {branch}- set {}", of_set(set, wide)));
    }
}

fn of_set(set: &SetLine, wide: bool) -> String {
    let mut parts = vec![format!("{:<12}  {:<11}", set.name, set.mode)];
    parts.extend(set.image.as_ref().map(|image| of_image(image, wide)));
    parts.extend(set.copy.as_ref().map(of_copy));
    parts.push(ready(&set.readiness));
    parts.extend(set.protected.then(|| "protected".to_owned()));
    parts.join("  ")
}

fn of_image(image: &ImageLine, wide: bool) -> String {
    let id = image.cut_id.to_string();
    let cut = if wide { id.as_str() } else { id.get(..6).unwrap_or(&id) };
    let mut text = format!(
        "cut {cut}  {:>6}  {:<11}  {:>2}% changed",
        age(image.age_seconds),
        image.consistency,
        image.changed_percent
    );
    if image.written {
        text += "  written";
    }
    if image.lost_chunks > 0 {
        text += &format!("  {} chunks lost", image.lost_chunks);
    }
    text
}

fn of_copy(copy: &CopyLine) -> String {
    let what = match copy.direction {
        CopyDirection::ToShadow => "copying to shadow",
        CopyDirection::ToMaster => "restoring to master",
    };
    let speed = copy.bytes_per_second.map_or_else(String::new, |speed| format!(" {}B/s", bytes(speed)));
    let left = copy.seconds_left.map_or_else(String::new, |left| format!(", {} left", age(left)));
    format!("{what} {}%{speed}{left}", copy.percent)
}

fn of_group(group: &GroupLine) -> String {
    format!("GROUP {}  {}  {}", group.name, group.members.join(" "), ready(&group.readiness))
}

fn of_operation(operation: &OperationLine) -> String {
    let OperationLine { name, command, target, state, reason, age_seconds, .. } = operation;
    let state = ops::state(*state);
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    format!("RECENT uop/{name}  {command} {target}  {state}{reason}  {} ago", age(*age_seconds))
}

fn of_problem(problem: &ProblemLine) -> String {
    format!("! {} {}: {}", problem.object, problem.reason, problem.message)
}
