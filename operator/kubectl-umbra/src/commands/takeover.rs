//! `takeover` and `release`: Umbra goes under a claim, and out again. What will be is shown before anything is written.

use std::fmt::Write;

use clap::Args;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use serde_json::json;
use umbra_actions::takeover::{self, Ask, GoesTo, ReleasePlan, TakeoverPlan, TakeoverRequest};
use umbra_actions::{standing, written};
use umbra_crds::{ClaimName, MasterVolume, ObjectName};

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::{Waiting, follow, follow_out};
use crate::writing::{Consent, Rehearsal, Written};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The claim of the workload.
    #[arg(value_parser = claim)]
    claim: ClaimName,
    /// Name of the MasterVolume, which is made, or waits for this word.
    #[arg(long, value_name = "MASTER", value_parser = written::object_name)]
    name: ObjectName,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct ReleaseOptions {
    /// The master.
    #[arg(value_parser = written::object_name)]
    master: ObjectName,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

fn claim(text: &str) -> Result<ClaimName, written::Unreadable> {
    written::object_name(text).map(|name| ClaimName::new(name.as_str()))
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Written<MasterVolume>, Failure> {
    let (masters, claims) = (cluster.kind::<MasterVolume>()?, cluster.kind::<PersistentVolumeClaim>()?);
    let (found, all, pods) = tokio::try_join!(
        cluster::find(&claims, options.claim.as_str()),
        cluster.namespaced::<MasterVolume>(),
        cluster.namespaced::<Pod>()
    )?;
    let named = found.as_ref().and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
    let volume: Option<PersistentVolume> = match named.filter(|name| !name.is_empty()) {
        Some(name) => cluster::visible(&cluster.kind_of_cluster(), name).await?,
        None => None,
    };
    let plan = takeover::takeover(&TakeoverRequest {
        claim_name: &options.claim,
        name: &options.name,
        claim: found.as_ref(),
        volume: volume.as_ref(),
        pods: &pods,
        masters: &all,
    });
    // Beside the answer, which a program may read.
    eprint!("{}", shown(&plan, &options.name));
    let written = ask(&masters, plan.ask().map_err(Failure::of_refusals)?, options.rehearsal).await?;
    match options.waiting.patience().filter(|_| options.rehearsal.dry_run().is_none()) {
        Some(patience) => {
            let done = follow(&masters, options.name.as_str(), patience, standing::of_master).await?;
            Ok(Written::new(done, "has taken the claim over", options.rehearsal))
        }
        None if plan.pods.is_empty() => Ok(written),
        None => Ok(written.hint(format!(
            "stop {} once: Umbra scales nothing; then pods can use claim {} again",
            plan.pods.join(", "),
            plan.claim
        ))),
    }
}

async fn ask(
    masters: &Api<MasterVolume>,
    ask: &Ask,
    rehearsal: Rehearsal,
) -> Result<Written<MasterVolume>, Failure> {
    match ask {
        Ask::Create(master) => cluster::create(masters, (**master).clone(), rehearsal).await,
        Ask::Approve(master) => {
            let spec = json!({"takeover": master.spec.takeover});
            cluster::change(masters, (**master).clone(), spec, rehearsal).await
        }
        Ask::Nothing(master) => Ok(Written::new((**master).clone(), "unchanged", rehearsal)),
    }
}

/// The plan as people read it.
fn shown(plan: &TakeoverPlan, name: &ObjectName) -> String {
    let mut text = format!("PLAN     take claim {} over as {name}\n", plan.claim);
    let Some(volume) = &plan.volume else { return text };
    // Writing to a string does not fail.
    writeln!(text, "Volume   {volume}, retained from now on").ok();
    match &plan.raw {
        Some(raw) => writeln!(text, "Device   {} of node {}", raw.device, raw.hostname).ok(),
        None => writeln!(text, "Device   you may not see the volume: the operator looks at it").ok(),
    };
    let pods = if plan.pods.is_empty() { "none".to_owned() } else { plan.pods.join(", ") };
    writeln!(text, "Pods     that must stop once: {pods}").ok();
    writeln!(text, "Undo     kubectl umbra release {name}").ok();
    text
}

pub(crate) async fn release(
    cluster: &Cluster,
    options: &ReleaseOptions,
) -> Result<Written<MasterVolume>, Failure> {
    let masters = cluster.kind::<MasterVolume>()?;
    let name = options.master.as_str();
    let plan = takeover::release(&cluster.images().await?, &options.master);
    if !plan.refusals.is_empty() {
        return Err(Failure::of_refusals(&plan.refusals));
    }
    eprint!("{}", shown_release(&plan));
    if options.rehearsal.dry_run().is_none() {
        options.consent.ask(name, "takes Umbra out from under the pods of")?;
    }
    let master = cluster::get(&masters, name).await?;
    let deleted = cluster::delete(&masters, master.clone(), options.rehearsal).await?;
    match options.waiting.patience().filter(|_| options.rehearsal.dry_run().is_none()) {
        Some(patience) => {
            follow_out(&masters, name, patience, standing::of_release).await?;
            Ok(Written::new(master, "released", options.rehearsal))
        }
        None => Ok(deleted),
    }
}

/// What becomes of what a master is made from, as people read it.
fn shown_release(plan: &ReleasePlan) -> String {
    let mut text = format!("PLAN     release {}\n", plan.master);
    let known = |volume: &Option<ObjectName>| {
        volume.as_ref().map_or_else(
            || "the volume it was bound to".to_owned(),
            |name| format!("PersistentVolume {name}"),
        )
    };
    let claim = plan.claim.as_ref().map(|claim| claim.as_str()).unwrap_or_default();
    // Writing to a string does not fail.
    match &plan.goes_to {
        GoesTo::Claim { volume } => {
            writeln!(text, "Claim    {claim} is bound to {} again", known(volume)).ok()
        }
        GoesTo::Volume { volume } => {
            writeln!(text, "Claim    {claim} is removed; {} is left retained", known(volume)).ok()
        }
        GoesTo::Nobody => writeln!(text, "Claim    {claim} is removed").ok(),
    };
    if let Some(device) = &plan.device {
        writeln!(text, "Device   {device} is let go as it is").ok();
    }
    let pods = if plan.pods.is_empty() { "none".to_owned() } else { plan.pods.join(", ") };
    writeln!(text, "Pods     that must stop before: {pods}").ok();
    text
}
