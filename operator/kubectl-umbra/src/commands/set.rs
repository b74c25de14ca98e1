//! `set`: images of a master, made, kept and given up.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use umbra_actions::set::{NewLimits, NewSet, deletion, limits, new_set};
use umbra_actions::{standing, written};
use umbra_crds::{
    ChunkSize, ClaimName, Command, ImagingOperation, InvalidValue, LocalReference, Mode, ObjectName,
    ShadowAccess, Size, VolumeSet, VolumeSource,
};

use super::cut::{OneSet, plain};
use super::values;
use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::{Waiting, follow};
use crate::output::{Style, show};
use crate::writing::{Consent, Rehearsal, Written};

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Makes a set, and with it a first image. The workload goes on.
    Create(Box<Create>),
    /// Deletes a set and its image. The master stays as it is.
    Delete(Delete),
    /// Keeps the image from being replaced, and the set from being deleted.
    Protect(Protect),
    /// Limits the copies of a set. The workload is never limited.
    Limits(Limits),
    /// Gives up what an aborted copy left pending.
    Reset(Reset),
}

/// What pods may do to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Access {
    /// Read it.
    Ro,
    /// Read and write it.
    Rw,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the set.
    #[arg(value_parser = written::object_name)]
    set: ObjectName,
    /// The master.
    #[arg(long, value_parser = written::reference)]
    master: LocalReference,
    /// How the image is kept.
    #[arg(long, ignore_case = true, value_parser = values::mode_parser())]
    mode: Mode,
    /// The volume of the image, at least as large as the master: pvc:CLAIM or device:GRANT/NODE/ID.
    #[arg(long, value_name = "SOURCE", value_parser = written::source)]
    shadow: VolumeSource,
    /// The volume of its state: pvc:CLAIM, device:GRANT/NODE/ID, managed or managed:SIZE.
    #[arg(long, value_name = "SOURCE", value_parser = written::source)]
    bitmap: Option<VolumeSource>,
    /// Unit of tracking and copying.
    #[arg(long, default_value = ChunkSize::KiB64.as_str(), value_parser = values::chunk_parser())]
    chunk: ChunkSize,
    /// What pods may do to the image.
    #[arg(long, value_enum, default_value_t = Access::Ro)]
    access: Access,
    /// The claim to make, through which pods use the image.
    #[arg(long, value_name = "CLAIM", value_parser = claim)]
    publish: Option<ClaimName>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The set.
    #[arg(value_parser = written::object_name)]
    set: ObjectName,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct Protect {
    /// The set.
    #[arg(value_parser = written::object_name)]
    set: ObjectName,
    /// Protect it no longer.
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).multiple(true)))]
pub(crate) struct Limits {
    /// The set.
    #[arg(value_parser = written::object_name)]
    set: ObjectName,
    /// Bytes per second at most, such as 100Mi; none for no limit.
    #[arg(long, value_name = "RATE", value_parser = rate, group = "limit")]
    rate: Option<Rate>,
    /// Chunks that are copied at the same time at most.
    #[arg(long, value_name = "CHUNKS", value_parser = clap::value_parser!(i32).range(1..=256), group = "limit")]
    inflight: Option<i32>,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

#[derive(Debug, Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    one: OneSet,
    #[command(flatten)]
    consent: Consent,
}

/// A rate, or that there is none.
#[derive(Debug, Clone)]
struct Rate(Option<Size>);

fn rate(text: &str) -> Result<Rate, InvalidValue> {
    if text == "none" {
        return Ok(Rate(None));
    }
    let size = Size::new(text);
    size.bytes().map(|_| Rate(Some(size)))
}

fn claim(text: &str) -> Result<ClaimName, written::Unreadable> {
    written::object_name(text).map(|name| ClaimName::new(name.as_str()))
}

pub(crate) async fn run(cluster: &Cluster, options: &Options, style: Style) -> Result<String, Failure> {
    match options {
        Options::Create(options) => show(&create(cluster, options).await?, style),
        Options::Delete(options) => show(&delete(cluster, options).await?, style),
        Options::Protect(options) => show(&protect(cluster, options).await?, style),
        Options::Limits(options) => show(&limit(cluster, options).await?, style),
        Options::Reset(options) => show(&reset(cluster, options).await?, style),
    }
}

async fn create(cluster: &Cluster, options: &Create) -> Result<Written<VolumeSet>, Failure> {
    let wanted = NewSet {
        name: options.set.clone(),
        master: options.master.clone(),
        mode: options.mode,
        shadow: options.shadow.clone(),
        bitmap: options.bitmap.clone(),
        chunk: options.chunk,
        access: match options.access {
            Access::Ro => ShadowAccess::ReadOnly,
            Access::Rw => ShadowAccess::ReadWrite,
        },
        publish: options.publish.clone(),
    };
    let set = new_set(wanted).map_err(|problems| Failure::of_problems(&problems))?;
    let api = cluster.kind()?;
    let created = cluster::create(&api, set, options.rehearsal).await?;
    match options.waiting.patience().filter(|_| options.rehearsal.dry_run().is_none()) {
        Some(patience) => {
            let set = follow(&api, options.set.as_str(), patience, standing::of_set).await?;
            Ok(Written::new(set, "ready", options.rehearsal))
        }
        None => Ok(created),
    }
}

async fn delete(cluster: &Cluster, options: &Delete) -> Result<Written<VolumeSet>, Failure> {
    let api = cluster.kind()?;
    let set = cluster::get(&api, options.set.as_str()).await?;
    deletion(&set).map_err(|refusal| Failure::of_refusals(&[refusal]))?;
    if options.rehearsal.dry_run().is_none() {
        options.consent.ask(options.set.as_str(), "gives up the image of")?;
    }
    cluster::delete(&api, set, options.rehearsal).await
}

async fn protect(cluster: &Cluster, options: &Protect) -> Result<Written<VolumeSet>, Failure> {
    let api = cluster.kind()?;
    let mut set: VolumeSet = cluster::get(&api, options.set.as_str()).await?;
    set.spec.shadow.protected = !options.off;
    let spec = json!({"shadow": {"protected": set.spec.shadow.protected}});
    cluster::change(&api, set, spec, options.rehearsal).await
}

async fn limit(cluster: &Cluster, options: &Limits) -> Result<Written<VolumeSet>, Failure> {
    let api = cluster.kind()?;
    let mut set: VolumeSet = cluster::get(&api, options.set.as_str()).await?;
    let change = NewLimits { rate: options.rate.clone().map(|Rate(rate)| rate), in_flight: options.inflight };
    set.spec.copy = limits(&set, &change).map_err(|problems| Failure::of_problems(&problems))?;
    let copy = &set.spec.copy;
    let spec =
        json!({"copy": {"maxBytesPerSecond": copy.max_bytes_per_second, "maxInFlight": copy.max_in_flight}});
    cluster::change(&api, set, spec, options.rehearsal).await
}

async fn reset(cluster: &Cluster, options: &Reset) -> Result<Written<ImagingOperation>, Failure> {
    if !options.one.is_rehearsed() {
        options.consent.ask(options.one.set().as_str(), "gives up what an aborted copy left pending of")?;
    }
    plain(cluster, &options.one, "reset", Command::Reset).await
}
