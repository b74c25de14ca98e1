//! `cut`, `abort` and `set reset`: operations on what is there, which change no master.

use clap::Args;
use umbra_actions::{CutRequest, operation, written};
use umbra_crds::{Command, ImagingOperation, ObjectName, Target, TargetKind, VolumeSet};

use super::requests;
use super::values::Until;
use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::Waiting;
use crate::writing::{Rehearsal, Written};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The set, or group:GROUP for all sets of a group at one instant.
    #[arg(value_name = "SET|group:GROUP", value_parser = written::target)]
    target: Target,
    /// Copy every chunk, and not only what changed.
    #[arg(long)]
    full: bool,
    /// Bring the file system to rest for it.
    #[arg(long)]
    freeze: bool,
    /// When it counts as done.
    #[arg(long, value_enum, default_value_t = Until::Copy)]
    wait_for: Until,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Written<ImagingOperation>, Failure> {
    cluster.namespace()?;
    let request = CutRequest {
        target: options.target.clone(),
        full: options.full,
        freeze: options.freeze,
        wait_for: options.wait_for.into(),
    };
    let objects = cluster.images().await?;
    let spec = umbra_actions::cut(&objects, &request).map_err(|refusals| Failure::of_refusals(&refusals))?;
    let name = requests::name("cut", &options.target);
    requests::ask(cluster, &name, spec, options.rehearsal, &options.waiting).await
}

#[derive(Debug, Args)]
pub(crate) struct OneSet {
    /// The set.
    #[arg(value_parser = written::object_name)]
    set: ObjectName,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

impl OneSet {
    pub(super) fn set(&self) -> &ObjectName {
        &self.set
    }

    pub(super) fn is_rehearsed(&self) -> bool {
        self.rehearsal.dry_run().is_some()
    }
}

pub(crate) async fn abort(cluster: &Cluster, options: &OneSet) -> Result<Written<ImagingOperation>, Failure> {
    plain(cluster, options, "abort", Command::Abort).await
}

/// A command on a set that nothing has to be said about.
pub(super) async fn plain(
    cluster: &Cluster,
    options: &OneSet,
    verb: &str,
    command: Command,
) -> Result<Written<ImagingOperation>, Failure> {
    cluster::get(&cluster.kind::<VolumeSet>()?, options.set.as_str()).await?;
    let target = Target { kind: TargetKind::VolumeSet, name: options.set.clone() };
    let name = requests::name(verb, &target);
    let spec = operation::plain(target, command);
    requests::ask(cluster, &name, spec, options.rehearsal, &options.waiting).await
}
