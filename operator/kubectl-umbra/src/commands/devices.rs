//! `devices`: the block devices of the nodes, and which of them can be used.

use clap::Args;
use serde::Serialize;
use umbra_actions::devices::DeviceLine;
use umbra_actions::{bytes, devices, written};
use umbra_crds::{ImagingNode, ObjectName};

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::output::{Answer, table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only those of this node.
    #[arg(long, value_parser = written::object_name)]
    node: Option<ObjectName>,
    /// Only those that nothing uses and nothing speaks against.
    #[arg(long)]
    eligible: bool,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Devices(Vec<DeviceLine>);

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Devices, Failure> {
    let api = cluster.kind_of_cluster::<ImagingNode>();
    let nodes = match &options.node {
        Some(node) => vec![cluster::get(&api, node.as_str()).await?],
        None => cluster::select(&api, "").await?,
    };
    let mut lines = devices::devices(&nodes);
    lines.retain(|line| line.eligible || !options.eligible);
    Ok(Devices(lines))
}

impl Answer for Devices {
    fn table(&self, headings: bool, wide: bool) -> String {
        let heads = ["NODE", "DEVICE", "SIZE", "ROLE", "USED-BY", "DENIED"];
        let row = |line: &DeviceLine| {
            [
                line.node.clone(),
                line.id.clone(),
                if wide { line.size_bytes.to_string() } else { bytes(line.size_bytes) },
                line.role.map_or_else(String::new, |role| role.to_string()),
                line.used_by.clone().unwrap_or_default(),
                line.denied.map_or_else(String::new, |denied| denied.to_string()),
            ]
        };
        if !wide {
            return table(headings.then_some(heads), self.0.iter().map(row));
        }
        let heads = ["NODE", "DEVICE", "SIZE", "ROLE", "USED-BY", "DENIED", "SERIAL"];
        let rows = self.0.iter().map(|line| {
            let [node, device, size, role, used_by, denied] = row(line);
            [node, device, size, role, used_by, denied, line.serial.clone().unwrap_or_default()]
        });
        table(headings.then_some(heads), rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|line| format!("{}{}", line.node, line.id)).collect())
    }
}
