//! `wait`: until an operation has ended, or a set is at rest.

use clap::Args;
use serde::Serialize;
use umbra_actions::{standing, written};
use umbra_crds::{ImagingOperation, ObjectName, VolumeSet};

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::{Patience, follow};
use crate::output::Answer;
use crate::writing::{Rehearsal, Written};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The set or the operation; set:NAME or op:NAME where both have the name.
    #[arg(value_name = "SET|OPERATION", value_parser = waited)]
    object: Waited,
    #[command(flatten)]
    patience: Patience,
}

#[derive(Debug, Clone)]
enum Waited {
    Set(ObjectName),
    Operation(ObjectName),
    Either(ObjectName),
}

fn waited(text: &str) -> Result<Waited, written::Unreadable> {
    Ok(match text.split_once(':') {
        Some(("set", name)) => Waited::Set(written::object_name(name)?),
        Some(("op", name)) => Waited::Operation(written::object_name(name)?),
        _ => Waited::Either(written::object_name(text)?),
    })
}

/// What was waited for, as it now is.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Rested {
    Set(Box<Written<VolumeSet>>),
    Operation(Box<Written<ImagingOperation>>),
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Rested, Failure> {
    let (sets, operations) = (cluster.kind::<VolumeSet>()?, cluster.kind::<ImagingOperation>()?);
    let (name, is_set) = match &options.object {
        Waited::Set(name) => (name, true),
        Waited::Operation(name) => (name, false),
        Waited::Either(name) => {
            let (set, operation) = tokio::try_join!(
                cluster::find(&sets, name.as_str()),
                cluster::find(&operations, name.as_str())
            )?;
            match (set, operation) {
                (Some(_), None) => (name, true),
                (None, Some(_)) => (name, false),
                (Some(_), Some(_)) => {
                    return Err(Failure::Usage(format!(
                        "{name} is a set and an operation: say set:{name} or op:{name}"
                    )));
                }
                (None, None) => {
                    return Err(Failure::Failed(format!(
                        "there is no VolumeSet or ImagingOperation {name} here"
                    )));
                }
            }
        }
    };
    let nothing = Rehearsal::default();
    Ok(if is_set {
        let set = follow(&sets, name.as_str(), &options.patience, standing::of_set).await?;
        Rested::Set(Box::new(Written::new(set, "at rest", nothing)))
    } else {
        let done = follow(&operations, name.as_str(), &options.patience, standing::of_operation).await?;
        Rested::Operation(Box::new(Written::new(done, "complete", nothing)))
    })
}

impl Answer for Rested {
    fn table(&self, headings: bool, wide: bool) -> String {
        match self {
            Self::Set(set) => set.table(headings, wide),
            Self::Operation(operation) => operation.table(headings, wide),
        }
    }

    fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::Set(set) => set.names(),
            Self::Operation(operation) => operation.names(),
        }
    }
}
