//! Where the cluster is, and as whom this process comes there: by a file, or as a pod does.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// How long an answer may take: nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nobody says where the cluster is.
#[derive(Debug, Error)]
#[error(
    "find the cluster by {by}: {problem}; look at --kubeconfig, or run this in a pod with a service account"
)]
pub(crate) struct NotFound {
    by: String,
    problem: String,
}

/// Finds the cluster. It need not answer yet.
pub(crate) async fn find(kubeconfig: Option<&Path>) -> Result<Client, NotFound> {
    let by =
        kubeconfig.map_or_else(|| "a pod's service account".to_owned(), |file| file.display().to_string());
    let not_found = |problem: String| NotFound { by: by.clone(), problem };
    let mut config = match kubeconfig {
        Some(file) => {
            let file = Kubeconfig::read_from(file).map_err(|error| not_found(error.to_string()))?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(|error| not_found(error.to_string()))?
        }
        None => Config::incluster().map_err(|error| not_found(error.to_string()))?,
    };
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    Client::try_from(config).map_err(|error| not_found(error.to_string()))
}
