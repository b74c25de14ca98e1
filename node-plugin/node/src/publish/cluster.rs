//! The cluster, as far as this node speaks to it: its own ImagingNode, and the Node of the same name.

use super::status::NodeUid;
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;
use umbra_crds::{GROUP, ImagingNode, ImagingNodeSpec, ImagingNodeStatus, VERSION};

/// How long an answer may take: nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the cluster could not be told.
#[derive(Debug, Error)]
pub(super) enum ClusterError {
    /// Nobody says where it is.
    #[error(
        "find the cluster by {by}: {problem}; look at --kubeconfig, or run this in a pod with a service account"
    )]
    NotFound { by: String, problem: String },
    /// The kinds are not installed.
    #[error("the cluster does not know imagingnodes.{GROUP}/{VERSION}; install Umbra's kinds first")]
    NoKind,
    /// This node is not allowed to.
    #[error("{problem}; the role of umbra-node is in node-plugin/docs/facade.md")]
    Forbidden { problem: String },
    /// Somebody else was faster. The next look finds out what they have written.
    #[error("ImagingNode {0} was changed by somebody else at the same moment")]
    Overtaken(String),
    /// It did not answer, or not with what was asked for.
    #[error("ask the API server")]
    Failed(#[source] kube::Error),
}

/// A connection to the cluster.
pub(super) struct Cluster {
    client: Client,
}

impl Cluster {
    /// Finds the cluster. It need not answer yet.
    pub(super) async fn find(kubeconfig: Option<&Path>) -> Result<Self, ClusterError> {
        let by = kubeconfig
            .map_or_else(|| "a pod's service account".to_owned(), |file| file.display().to_string());
        let not_found = |problem: String| ClusterError::NotFound { by: by.clone(), problem };
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
        let client = Client::try_from(config).map_err(|error| not_found(error.to_string()))?;
        Ok(Self { client })
    }

    fn imaging_nodes(&self) -> Api<ImagingNode> {
        Api::all(self.client.clone())
    }

    /// The ImagingNode of this name; made if there is none.
    pub(super) async fn imaging_node(&self, name: &str) -> Result<ImagingNode, ClusterError> {
        let nodes = self.imaging_nodes();
        match nodes.get_opt(name).await.map_err(|error| failed(name, error))? {
            Some(node) => Ok(node),
            None => {
                let new = ImagingNode::new(name, ImagingNodeSpec::default());
                let made =
                    nodes.create(&PostParams::default(), &new).await.map_err(|error| failed(name, error))?;
                tracing::info!(name, "ImagingNode made");
                Ok(made)
            }
        }
    }

    /// Writes the status that was decided on for this version of the object.
    pub(super) async fn write(
        &self,
        stored: ImagingNode,
        status: ImagingNodeStatus,
    ) -> Result<(), ClusterError> {
        let name = stored.metadata.name.clone().unwrap_or_default();
        let new = ImagingNode { status: Some(status), ..stored };
        let written =
            self.imaging_nodes().replace_subresource("status", &name, &PostParams::default(), &new).await;
        match written {
            Ok(_) => Ok(()),
            // It went meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(ClusterError::Overtaken(name)),
            Err(error) => Err(failed(&name, error)),
        }
    }

    /// The UID of the Node of this name. A node that may not ask tells everything else all the same.
    pub(super) async fn node_uid(&self, name: &str) -> NodeUid {
        match Api::<Node>::all(self.client.clone()).get_metadata_opt(name).await {
            Ok(Some(node)) => node.metadata.uid.map_or(NodeUid::Unknown, NodeUid::Is),
            Ok(None) => NodeUid::NoNode,
            Err(error) => {
                tracing::debug!(name, %error, "the Node could not be asked for");
                NodeUid::Unknown
            }
        }
    }
}

fn failed(name: &str, error: kube::Error) -> ClusterError {
    match error {
        // An object that is not there is no error for a read: this is about the kind.
        kube::Error::Api(status) if status.code == 404 => ClusterError::NoKind,
        kube::Error::Api(status) if status.code == 403 || status.code == 401 => {
            ClusterError::Forbidden { problem: status.message }
        }
        kube::Error::Api(status) if status.code == 409 => ClusterError::Overtaken(name.to_owned()),
        other => ClusterError::Failed(other),
    }
}
