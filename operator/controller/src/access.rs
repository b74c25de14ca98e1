//! Which device of which node stands behind a source of an object, and whether the object may have it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node};
use umbra_crds::{DeviceGrant, DeviceId, DeviceSource, ImagingNode, NodeName, Role, Signature, VolumeSource};
use umbra_platform::value::DevicePath;

use crate::cluster::{Cluster, ClusterError, Key};
use crate::grant::{self, Asked};

/// A device that an object may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its node.
    pub node: NodeName,
    /// Its path there, by a name that stays with it.
    pub path: DevicePath,
    /// What on it may be overwritten.
    pub wipe: Option<Signature>,
}

/// Why an object cannot use what its source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAccess {
    /// It may not.
    NotGranted(String),
    /// It is of a kind that cannot be used.
    NotUsable(String),
}

impl NoAccess {
    /// For people.
    pub fn message(&self) -> &str {
        match self {
            Self::NotGranted(text) | Self::NotUsable(text) => text,
        }
    }
}

/// The device behind a source, for a role.
///
/// # Errors
/// Those of the API server.
pub async fn resolve(
    cluster: &impl Cluster,
    namespace: &str,
    source: &VolumeSource,
    role: Role,
) -> Result<Result<Device, NoAccess>, ClusterError> {
    match (&source.device, &source.pvc) {
        (Some(device), None) => by_grant(cluster, namespace, device, role).await,
        // Nothing keeps a claim, and the device of its volume, while a set lives on it.
        (None, Some(_)) => Ok(Err(NoAccess::NotUsable(format!(
            "this version cannot hold a claim yet: name a device, with a DeviceGrant, for the {}",
            role.as_str().to_lowercase()
        )))),
        (_, _) => Ok(Err(NoAccess::NotUsable(format!(
            "this version provides no managed space yet: name a device for the {}",
            role.as_str().to_lowercase()
        )))),
    }
}

async fn by_grant(
    cluster: &impl Cluster,
    namespace: &str,
    device: &DeviceSource,
    role: Role,
) -> Result<Result<Device, NoAccess>, ClusterError> {
    let name = device.grant_ref.name.as_str();
    let Some(granted) = cluster.get::<DeviceGrant>(&Key::cluster(name)).await? else {
        return Ok(Err(NoAccess::NotGranted(format!("there is no DeviceGrant {name}"))));
    };
    let node_key = Key::cluster(device.node_name.as_str());
    let labels = |labels: Option<BTreeMap<String, String>>| labels.unwrap_or_default();
    let in_namespace = cluster.get::<Namespace>(&Key::cluster(namespace)).await?;
    let namespace_labels = labels(in_namespace.and_then(|object| object.metadata.labels));
    let node_labels = cluster.get::<Node>(&node_key).await?.map(|node| labels(node.metadata.labels));
    let listed = cluster.get::<ImagingNode>(&node_key).await?.and_then(|node| node.status);
    let known = listed.as_ref().and_then(|status| status.devices.iter().find(|known| known.id == device.id));
    let asked = Asked {
        namespace,
        namespace_labels: &namespace_labels,
        device,
        role,
        node_labels: node_labels.as_ref(),
        known,
    };
    Ok(grant::check(&granted, &asked).map_err(NoAccess::NotGranted).and_then(|()| {
        Ok(Device {
            node: device.node_name.clone(),
            path: path(&device.id)?,
            wipe: device.wipe_signature.clone(),
        })
    }))
}

fn path(id: &DeviceId) -> Result<DevicePath, NoAccess> {
    id.as_str().parse().map_err(|error| NoAccess::NotUsable(format!("device {id}: {error}")))
}
