//! `umbra-operator removal-check`: whether Umbra may be taken out of the cluster.
//!
//! A MasterVolume or a VolumeSet waits with its end for what it has on a node, and only the operator can see to that. Without one
//! it waits for ever, and its namespace with it. So the chart asks before it removes the operator.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use umbra_crds::{MasterVolume, VolumeSet};

use crate::cluster::{Cluster, ClusterError, Key, Kind};
use crate::kubernetes::Kubernetes;
use crate::metrics::Tally;
use crate::run;

/// More names than this are counted only.
const NAMES_MAX: usize = 5;

/// Options of the check.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The kubeconfig file; without it, what the pod's service account gives.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Says what is left, and fails where anything is.
pub fn main(options: &Options) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let look = async {
        let client = run::client(options.kubeconfig.as_deref()).await.map_err(|error| error.to_string())?;
        left(&Kubernetes::new(client, "removal-check", Tally::default()))
            .await
            .map_err(|error| error.to_string())
    };
    let left = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(look));
    match left {
        Ok(left) if left.is_empty() => ExitCode::SUCCESS,
        Ok(left) => {
            eprintln!("{}", refusal(&left));
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("it cannot be told whether Umbra is in use: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// What needs the operator for its end.
///
/// # Errors
/// Those of the API server.
pub async fn left(cluster: &impl Cluster) -> Result<Vec<String>, ClusterError> {
    let mut left = names(&cluster.list::<MasterVolume>(None).await?);
    left.extend(names(&cluster.list::<VolumeSet>(None).await?));
    Ok(left)
}

fn names<K: Kind>(objects: &[K]) -> Vec<String> {
    objects.iter().map(|object| format!("{} {}", K::kind(&()), Key::of(object))).collect()
}

fn refusal(left: &[String]) -> String {
    let named = left.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = left.len().saturating_sub(NAMES_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "Umbra is in use: {named}{rest}. Delete these first, and wait until they are gone: without the operator they stay for ever"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_as_far_as_anybody_reads() {
        let names =
            |count: usize| (1..=count).map(|number| format!("VolumeSet prod/{number}")).collect::<Vec<_>>();
        let said = refusal(&names(2));
        assert!(said.starts_with("Umbra is in use: VolumeSet prod/1, VolumeSet prod/2. Delete"), "{said}");
        assert!(refusal(&names(7)).contains("prod/5 and 2 more."));
    }
}
