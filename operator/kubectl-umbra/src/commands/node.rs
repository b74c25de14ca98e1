//! `node list`: the nodes, and whether they serve volumes.

use clap::Subcommand;
use serde::Serialize;
use umbra_crds::ImagingNode;
use umbra_crds::conditions::{ConditionType, find};

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::output::{Answer, table};

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// The nodes, and whether they serve volumes.
    List,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeLine {
    name: String,
    ready: bool,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    frontend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_version: Option<String>,
    masters: i32,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Nodes(Vec<NodeLine>);

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Nodes, Failure> {
    let Options::List = options;
    let nodes = cluster::select(&cluster.kind_of_cluster::<ImagingNode>(), "").await?;
    let line = |node: ImagingNode| {
        let status = node.status.unwrap_or_default();
        let ready = find(&status.conditions, ConditionType::Ready);
        NodeLine {
            name: node.metadata.name.unwrap_or_default(),
            ready: ready.is_some_and(|ready| ready.status == "True"),
            reason: ready.map_or_else(|| "Unseen".to_owned(), |ready| ready.reason.clone()),
            frontend: status.frontend.map(|frontend| frontend.to_string()),
            kernel: status.kernel,
            io_version: status.io_version,
            node_version: status.node_version,
            masters: status.master_count.unwrap_or_default(),
        }
    };
    Ok(Nodes(nodes.into_iter().map(line).collect()))
}

impl Answer for Nodes {
    fn table(&self, headings: bool, _: bool) -> String {
        let heads = ["NAME", "READY", "REASON", "FRONTEND", "KERNEL", "IO", "NODE-VER", "MASTERS"];
        let rows = self.0.iter().map(|line| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            [
                line.name.clone(),
                if line.ready { "True" } else { "False" }.to_owned(),
                line.reason.clone(),
                text(&line.frontend),
                text(&line.kernel),
                text(&line.io_version),
                text(&line.node_version),
                line.masters.to_string(),
            ]
        });
        table(headings.then_some(heads), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|line| format!("imagingnode/{}", line.name)).collect())
    }
}
