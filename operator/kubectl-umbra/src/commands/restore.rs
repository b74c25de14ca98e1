//! `restore` and `undo`: the master becomes an image. What will be is shown before anybody is asked for consent.

use std::fmt::Write;

use clap::Args;
use umbra_actions::restore::PlannedImage;
use umbra_actions::{RestorePlan, RestoreRequest, SafetyWish, age, operation, written};
use umbra_crds::{ImagingOperation, ObjectName, Target, TargetKind};

use super::requests;
use super::values::Until;
use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::Waiting;
use crate::writing::{Consent, Rehearsal, Written};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The set, or group:GROUP for all sets of a group.
    #[arg(value_name = "SET|group:GROUP", value_parser = written::target)]
    target: Target,
    /// The cut that must be held, by its identifier or the first characters of it.
    #[arg(long, value_name = "ID")]
    cut: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct UndoOptions {
    /// The restore that is undone.
    #[arg(value_name = "OPERATION", value_parser = written::object_name)]
    operation: ObjectName,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Copy every chunk back, and not only what differs.
    #[arg(long)]
    full: bool,
    /// The set that keeps what the master is now, so that the restore can be undone; for a group, a group. Its own image is
    /// given up. Left out, it is the only other that can.
    #[arg(long, value_name = "SET|group:GROUP", value_parser = written::target)]
    safety: Option<Target>,
    /// Keep nothing of what the master is now: the restore cannot be undone.
    #[arg(long, conflicts_with = "safety")]
    no_safety: bool,
    /// Also from an image that was written since its cut.
    #[arg(long)]
    allow_written: bool,
    /// Also from an image that is not trusted.
    #[arg(long)]
    allow_untrusted: bool,
    /// When it counts as done. The master can be used from the cut on.
    #[arg(long, value_enum, default_value_t = Until::Cut)]
    wait_for: Until,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

impl Common {
    fn request(&self, target: Target, cut: Option<String>) -> RestoreRequest {
        let safety = match &self.safety {
            Some(keeper) => SafetyWish::Into(keeper.clone()),
            None if self.no_safety => SafetyWish::Without,
            None => SafetyWish::Propose,
        };
        RestoreRequest {
            target,
            cut,
            full: self.full,
            safety,
            allow_written: self.allow_written,
            allow_untrusted: self.allow_untrusted,
            wait_for: self.wait_for.into(),
        }
    }
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Written<ImagingOperation>, Failure> {
    let request = options.common.request(options.target.clone(), options.cut.clone());
    restore(cluster, "restore", request, &options.common).await
}

pub(crate) async fn undo(
    cluster: &Cluster,
    options: &UndoOptions,
) -> Result<Written<ImagingOperation>, Failure> {
    let done: ImagingOperation = cluster::get(&cluster.kind()?, options.operation.as_str()).await?;
    let wished = options.common.request(done.spec.target.clone(), None);
    let request = umbra_actions::undo(&done, wished).map_err(|refusal| Failure::of_refusals(&[refusal]))?;
    restore(cluster, "undo", request, &options.common).await
}

async fn restore(
    cluster: &Cluster,
    verb: &str,
    request: RestoreRequest,
    options: &Common,
) -> Result<Written<ImagingOperation>, Failure> {
    cluster.namespace()?;
    let name = requests::name(verb, &request.target);
    let plan = umbra_actions::restore(&cluster.images().await?, &request, &name, &requests::now());
    // Beside the answer, which a program may read.
    eprint!("{}", shown(&plan));
    let spec = plan.spec().map_err(Failure::of_refusals)?;
    if options.rehearsal.dry_run().is_none() {
        options.consent.ask(plan.target.name.as_str(), question(&plan))?;
    }
    let asked = requests::ask(cluster, &name, spec, options.rehearsal, &options.waiting).await?;
    Ok(match &plan.undo {
        Some(undo) => asked.hint(format!("undo with: {undo}")),
        None => asked.hint("this cannot be undone: nothing was kept of what the master was"),
    })
}

fn question(plan: &RestorePlan) -> &'static str {
    match plan.target.kind {
        TargetKind::SetGroup => "overwrites every master of the group with the images of",
        TargetKind::VolumeSet | TargetKind::ShadowExport => "overwrites the master with the image of",
    }
}

/// The plan as people read it.
fn shown(plan: &RestorePlan) -> String {
    let mut text = format!("PLAN     restore {} as {}\n", operation::written(&plan.target), plan.operation);
    // Writing to a string does not fail.
    for image in &plan.images {
        writeln!(text, "Image    {}", of_image(image)).ok();
        writeln!(text, "Master   {}{}", image.master, of_users(image)).ok();
    }
    if plan.images.is_empty() {
        return text;
    }
    let safety = match (&plan.safety, &plan.safety_gives_up) {
        (Some(keeper), gives_up) => {
            let gives_up = gives_up.map(|cut| format!(", and gives up its cut {cut}")).unwrap_or_default();
            format!("{} keeps what the master is now{gives_up}", operation::written(keeper))
        }
        (None, _) => "none: what the master is now is lost".to_owned(),
    };
    writeln!(text, "Safety   {safety}").ok();
    writeln!(text, "Undo     {}", plan.undo.as_deref().unwrap_or("cannot be undone")).ok();
    text
}

fn of_image(image: &PlannedImage) -> String {
    let written = if image.written { "WRITTEN since" } else { "not written since" };
    let recovered = if image.recovered { ", journal recovered" } else { "" };
    format!(
        "{}, cut {}, {} ago, {}, {written}{recovered}; {}% of the master changed since",
        image.set,
        image.cut_id,
        age(image.age_seconds),
        image.consistency,
        image.changed_percent
    )
}

fn of_users(image: &PlannedImage) -> String {
    if image.users.is_empty() {
        return ", used by nobody".to_owned();
    }
    format!(", USED BY {}: refused until they have stopped", image.users.join(", "))
}
