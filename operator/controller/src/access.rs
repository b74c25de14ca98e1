//! Which device of which node stands behind a source of an object, and whether the object may have it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim};
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
    /// The claim, or its volume, is not there or not bound yet.
    NotBound(String),
    /// It is of a kind that cannot be used.
    NotUsable(String),
}

impl NoAccess {
    /// For people.
    pub fn message(&self) -> &str {
        match self {
            Self::NotGranted(text) | Self::NotBound(text) | Self::NotUsable(text) => text,
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
        (None, Some(claim)) => by_claim(cluster, namespace, claim.claim_name.as_str()).await,
        (_, _) => Ok(Err(NoAccess::NotUsable(format!(
            "this version provides no managed space yet: name a device or a claim for the {}",
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

async fn by_claim(
    cluster: &impl Cluster,
    namespace: &str,
    name: &str,
) -> Result<Result<Device, NoAccess>, ClusterError> {
    let Some(claim) = cluster.get::<PersistentVolumeClaim>(&Key::namespaced(namespace, name)).await? else {
        return Ok(Err(NoAccess::NotBound(format!("there is no claim {name}"))));
    };
    let volume = claim.spec.and_then(|spec| spec.volume_name).filter(|volume| !volume.is_empty());
    let Some(volume_name) = volume else {
        return Ok(Err(NoAccess::NotBound(format!("claim {name} is not bound yet"))));
    };
    let Some(volume) = cluster.get::<PersistentVolume>(&Key::cluster(&volume_name)).await? else {
        return Ok(Err(NoAccess::NotBound(format!("volume {volume_name} of claim {name} is not there"))));
    };
    // A claim can name any volume; that the volume belongs to it, the volume says.
    let bound = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_ours = bound.is_some_and(|bound| {
        bound.namespace.as_deref() == Some(namespace)
            && bound.name.as_deref() == Some(name)
            && bound.uid == claim.metadata.uid
    });
    if !is_ours {
        return Ok(Err(NoAccess::NotBound(format!("volume {volume_name} is not bound to claim {name}"))));
    }
    Ok(local_device(&volume).map_err(NoAccess::NotUsable))
}

/// The device of a volume of type local, and its node.
///
/// # Errors
/// Why it is none that can be used, for people.
pub fn local_device(volume: &PersistentVolume) -> Result<Device, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let Some(local) = spec.and_then(|spec| spec.local.as_ref()) else {
        return Err(format!("volume {name} is not of type local"));
    };
    if !local.path.starts_with("/dev/") {
        return Err(format!("volume {name} is the folder {}, not a device", local.path));
    }
    let path = local.path.parse().map_err(|error| format!("volume {name}: {error}"))?;
    let terms = spec
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref())
        .map(|required| required.node_selector_terms.as_slice());
    let Some([term]) = terms else {
        return Err(format!("volume {name} does not say on which one node it is"));
    };
    let hosts = term.match_expressions.iter().flatten().filter(|one| one.key == "kubernetes.io/hostname");
    let mut values = hosts.filter(|one| one.operator == "In").flat_map(|one| one.values.iter().flatten());
    match (values.next(), values.next()) {
        (Some(node), None) => Ok(Device { node: NodeName::new(node.as_str()), path, wipe: None }),
        _ => Err(format!("volume {name} does not say on which one node it is")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_local_volume_is_a_device_of_one_node() {
        let volume = |local: serde_json::Value, values: serde_json::Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"local": local, "nodeAffinity": {"required": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                "values": values}]}]}}}}))
            .unwrap()
        };
        let good = local_device(&volume(json!({"path": "/dev/disk/by-id/x"}), json!(["a"]))).unwrap();
        assert_eq!((good.node.as_str(), good.path.as_str()), ("a", "/dev/disk/by-id/x"));
        for (local, values, said) in [
            (json!({"path": "/mnt/disks/1"}), json!(["a"]), "folder"),
            (json!({"path": "/dev/../etc"}), json!(["a"]), ".."),
            (json!({"path": "/dev/sda"}), json!(["a", "b"]), "one node"),
            (json!({"path": "/dev/sda"}), json!([]), "one node"),
        ] {
            let error = local_device(&volume(local, values)).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let other: PersistentVolume = serde_json::from_value(
            json!({"metadata": {"name": "v"}, "spec": {"hostPath": {"path": "/dev/sda"}}}),
        )
        .unwrap();
        assert!(local_device(&other).unwrap_err().contains("not of type local"));
    }
}
