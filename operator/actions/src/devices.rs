//! The devices of the nodes, and which of them can be used.

use serde::Serialize;
use umbra_crds::{DeniedReason, ImagingNode, Role};

/// A device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceLine {
    /// The node.
    pub node: String,
    /// The device, by a name that stays with it.
    pub id: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The role it is used in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What uses it, as `kind/namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<DeniedReason>,
    /// Whether it can be used: nothing does, and nothing speaks against it.
    pub eligible: bool,
}

/// The devices of the nodes, by node and name.
#[must_use]
pub fn devices(nodes: &[ImagingNode]) -> Vec<DeviceLine> {
    let of_node = |node: &ImagingNode| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let devices = node.status.clone().unwrap_or_default().devices.into_iter();
        devices
            .map(|device| DeviceLine {
                node: name.clone(),
                id: device.id.to_string(),
                size_bytes: u64::try_from(device.size_bytes).unwrap_or_default(),
                eligible: device.denied.is_none() && device.role.is_none() && device.used_by.is_none(),
                serial: device.serial,
                role: device.role,
                used_by: device.used_by,
                denied: device.denied,
            })
            .collect::<Vec<_>>()
    };
    let mut lines: Vec<DeviceLine> = nodes.iter().flat_map(of_node).collect();
    lines.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_or_denied_is_not_eligible() {
        let device = |id: &str| json!({"id": format!("/dev/disk/by-id/{id}"), "sizeBytes": 1 << 30});
        let (mut used, mut denied, mut named) = (device("used"), device("denied"), device("named"));
        used["role"] = "Shadow".into();
        denied["denied"] = "Mounted".into();
        named["usedBy"] = "VolumeSet/prod/pg-1".into();
        let node = json!({
            "apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingNode", "metadata": {"name": "a"}, "spec": {},
            "status": {"devices": [used, device("free"), denied, named]},
        });
        let lines = devices(&[serde_json::from_value(node).unwrap()]);
        let eligible: Vec<(&str, bool)> =
            lines.iter().map(|line| (line.id.as_str(), line.eligible)).collect();
        let by_id = |name: &str| format!("/dev/disk/by-id/{name}");
        let expected = [("denied", false), ("free", true), ("named", false), ("used", false)];
        let expected: Vec<(String, bool)> = expected.map(|(name, good)| (by_id(name), good)).to_vec();
        let expected: Vec<(&str, bool)> = expected.iter().map(|(id, good)| (id.as_str(), *good)).collect();
        assert_eq!(eligible, expected);
    }
}
