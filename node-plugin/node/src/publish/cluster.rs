//! The cluster, as far as this node speaks to it: its own ImagingNode, and the Node of the same name.

use super::status::NodeUid;
use crate::cluster::{self, NotFound};
use k8s_openapi::api::core::v1::Node;
use kube::api::PostParams;
use kube::{Api, Client};
use std::path::Path;
use thiserror::Error;
use umbra_crds::{GROUP, ImagingNode, ImagingNodeSpec, ImagingNodeStatus, VERSION};

/// Why the cluster could not be told.
#[derive(Debug, Error)]
pub(super) enum ClusterError {
    /// Nobody says where it is.
    #[error(transparent)]
    NotFound(#[from] NotFound),
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
        Ok(Self { client: cluster::find(kubeconfig).await? })
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
