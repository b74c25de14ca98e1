//! `grant create`: devices for namespaces.

use clap::{Args, Subcommand};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use umbra_actions::written;
use umbra_crds::{
    DeviceGrant, DeviceGrantSpec, DeviceMatcher, DevicePattern, NamespaceName, ObjectName, Role,
};

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::writing::{Rehearsal, Written};

#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Lets namespaces use devices of nodes.
    Create(Create),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the grant.
    #[arg(value_parser = written::object_name)]
    name: ObjectName,
    /// Labels of the nodes whose devices are granted; left out, it is all nodes.
    #[arg(long, value_name = "LABELS", value_parser = written::selector)]
    node_selector: Option<LabelSelector>,
    /// Pattern of devices, such as nvme-KIOXIA_*; without a folder it is one below /dev/disk/by-id.
    #[arg(long = "device", value_name = "PATTERN", required = true, value_parser = pattern)]
    devices: Vec<DevicePattern>,
    /// What the devices may be used for.
    #[arg(long, value_name = "ROLES", required = true, value_delimiter = ',', value_parser = written::role)]
    roles: Vec<Role>,
    /// Namespaces that may use them.
    #[arg(long, value_name = "NAMESPACES", required = true, value_delimiter = ',', value_parser = namespace)]
    namespaces: Vec<NamespaceName>,
    #[command(flatten)]
    rehearsal: Rehearsal,
}

fn pattern(text: &str) -> Result<DevicePattern, std::convert::Infallible> {
    Ok(written::device_pattern(text))
}

fn namespace(text: &str) -> Result<NamespaceName, written::Unreadable> {
    written::object_name(text).map(|name| NamespaceName::new(name.as_str()))
}

pub(crate) async fn run(cluster: &Cluster, options: &Options) -> Result<Written<DeviceGrant>, Failure> {
    let Options::Create(options) = options;
    let matcher = |pattern: &DevicePattern| DeviceMatcher {
        id_pattern: Some(pattern.clone()),
        serial: None,
        min_size: None,
        max_size: None,
    };
    let spec = DeviceGrantSpec {
        node_selector: options.node_selector.clone().unwrap_or_default(),
        devices: options.devices.iter().map(matcher).collect(),
        roles: options.roles.clone(),
        namespaces: Some(options.namespaces.clone()),
        namespace_selector: None,
    };
    let grant = DeviceGrant::new(options.name.as_str(), spec);
    cluster::create(&cluster.kind_of_cluster(), grant, options.rehearsal).await
}
