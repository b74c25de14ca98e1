//! Whether a namespace may use a device: rule 1, as far as the operator decides it. The node decides it again.

mod covered;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use umbra_crds::{DeviceGrant, DeviceId, DeviceMatcher, DeviceSource, NodeDevice, Role};

/// Who asks for a device, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The namespace of the object that names the device.
    pub namespace: &'a str,
    /// The labels of that namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// The device.
    pub device: &'a DeviceSource,
    /// What it is to be used for.
    pub role: Role,
    /// The labels of its node; none where the cluster does not know the node.
    pub node_labels: Option<&'a BTreeMap<String, String>>,
    /// What the node says of the device; none where it does not list it.
    pub known: Option<&'a NodeDevice>,
}

/// Whether the grant covers what is asked for.
///
/// # Errors
/// What is not covered, for people.
pub fn check(grant: &DeviceGrant, asked: &Asked<'_>) -> Result<(), String> {
    let name = grant.metadata.name.as_deref().unwrap_or_default();
    let spec = &grant.spec;
    let Asked { device, role, namespace, .. } = asked;
    let by_name = spec.namespaces.iter().flatten().any(|granted| granted.as_str() == *namespace);
    let by_label =
        spec.namespace_selector.as_ref().is_some_and(|selector| selects(selector, asked.namespace_labels));
    if !by_name && !by_label {
        return Err(format!("DeviceGrant {name} does not name namespace {namespace}"));
    }
    if !spec.roles.contains(role) {
        return Err(format!("DeviceGrant {name} does not grant role {role}"));
    }
    if !is_on(grant, asked.node_labels) {
        return Err(format!("DeviceGrant {name} does not cover node {}", device.node_name));
    }
    if !spec.devices.iter().any(|matcher| covers(matcher, &device.id, asked.known)) {
        return Err(format!(
            "DeviceGrant {name} does not cover device {} of node {}",
            device.id, device.node_name
        ));
    }
    Ok(())
}

/// Whether devices of a node with these labels are granted; none where the cluster does not know the node.
fn is_on(grant: &DeviceGrant, node_labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = &grant.spec.node_selector;
    let everywhere = *selector == LabelSelector::default();
    node_labels.is_some_and(|labels| everywhere || selects(selector, labels))
}

/// Whether an entry of a grant covers the device. What an entry asks and nobody knows, it does not cover.
fn covers(matcher: &DeviceMatcher, id: &DeviceId, known: Option<&NodeDevice>) -> bool {
    let size = known.and_then(|known| u64::try_from(known.size_bytes).ok());
    let within = |limit: &Option<umbra_crds::Size>, fits: fn(u64, u64) -> bool| match limit {
        None => true,
        Some(limit) => matches!((size, limit.bytes()), (Some(size), Ok(limit)) if fits(size, limit)),
    };
    let by_name = matcher.id_pattern.as_ref().is_none_or(|pattern| pattern.matches(id));
    let by_serial = matcher
        .serial
        .as_ref()
        .is_none_or(|serial| known.and_then(|known| known.serial.as_ref()) == Some(serial));
    by_name
        && by_serial
        && within(&matcher.min_size, |size, least| size >= least)
        && within(&matcher.max_size, |size, most| size <= most)
}

/// Whether the labels are selected. A selector that cannot be understood selects nothing.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(spec: serde_json::Value) -> DeviceGrant {
        serde_json::from_value(json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "DeviceGrant",
            "metadata": {"name": "spares"}, "spec": spec}))
        .unwrap()
    }

    fn base() -> serde_json::Value {
        json!({"nodeSelector": {"matchLabels": {"pool": "yes"}}, "devices": [{"idPattern": "/dev/disk/by-id/nvme-*"}],
            "roles": ["Shadow"], "namespaces": ["prod"]})
    }

    /// What is refused of a device that the plain grant covers, after one change of grant or question.
    #[test]
    fn nothing_is_granted_that_is_not_said() {
        let device = |id: &str| -> DeviceSource {
            serde_json::from_value(json!({"grantRef": {"name": "spares"}, "nodeName": "a", "id": id}))
                .unwrap()
        };
        let good = device("/dev/disk/by-id/nvme-S1");
        let labels: BTreeMap<String, String> = [("pool".to_owned(), "yes".to_owned())].into();
        let none = BTreeMap::new();
        let known: NodeDevice = serde_json::from_value(
            json!({"id": "/dev/disk/by-id/nvme-S1", "sizeBytes": 1 << 30, "serial": "S1"}),
        )
        .unwrap();
        let asked = Asked {
            namespace: "prod",
            namespace_labels: &none,
            device: &good,
            role: Role::Shadow,
            node_labels: Some(&labels),
            known: Some(&known),
        };
        check(&grant(base()), &asked).unwrap();
        let refused = |change: &dyn Fn(&mut serde_json::Value), asked: &Asked<'_>, said: &str| {
            let mut spec = base();
            change(&mut spec);
            let error = check(&grant(spec), asked).unwrap_err();
            assert!(error.contains(said), "{error}");
        };
        let same = |_: &mut serde_json::Value| ();
        refused(&same, &Asked { namespace: "dev", ..asked }, "namespace dev");
        refused(&same, &Asked { namespace: "production", ..asked }, "namespace production");
        refused(&same, &Asked { role: Role::Master, ..asked }, "role Master");
        refused(&same, &Asked { node_labels: Some(&none), ..asked }, "node a");
        refused(&same, &Asked { node_labels: None, ..asked }, "node a");
        for id in ["/dev/disk/by-id/ata-S1", "/dev/disk/by-path/nvme-S1", "/dev/mapper/nvme-S1"] {
            refused(&same, &Asked { device: &device(id), ..asked }, id);
        }
        let devices = |devices: serde_json::Value| {
            move |spec: &mut serde_json::Value| spec["devices"] = devices.clone()
        };
        refused(&devices(json!([{"serial": "S2"}])), &asked, "device");
        refused(&devices(json!([{"serial": "S1"}])), &Asked { known: None, ..asked }, "device");
        refused(&devices(json!([{"minSize": "2Gi"}])), &asked, "device");
        refused(&devices(json!([{"maxSize": "1Mi"}])), &asked, "device");
        refused(&devices(json!([{"minSize": "1Ki"}])), &Asked { known: None, ..asked }, "device");
        refused(&devices(json!([{"minSize": "lots"}])), &asked, "device");
        let mut both = base();
        both["devices"] = json!([{"serial": "S1", "minSize": "1Gi", "maxSize": "1Gi"}]);
        check(&grant(both), &asked).unwrap();
    }

    #[test]
    fn namespaces_are_granted_by_their_labels_too() {
        let device: DeviceSource = serde_json::from_value(
            json!({"grantRef": {"name": "spares"}, "nodeName": "a", "id": "/dev/disk/by-id/nvme-S1"}),
        )
        .unwrap();
        let mut spec = base();
        spec.as_object_mut().unwrap().remove("namespaces");
        spec["nodeSelector"] = json!({});
        spec["namespaceSelector"] =
            json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["db"]}]});
        let grant = grant(spec);
        let (db, web): (BTreeMap<_, _>, BTreeMap<_, _>) =
            ([("team".to_owned(), "db".to_owned())].into(), [("team".to_owned(), "web".to_owned())].into());
        let none = BTreeMap::new();
        let asked = |labels| Asked {
            namespace: "any",
            namespace_labels: labels,
            device: &device,
            role: Role::Shadow,
            node_labels: Some(&none),
            known: None,
        };
        check(&grant, &asked(&db)).unwrap();
        check(&grant, &asked(&web)).unwrap_err();
        check(&grant, &asked(&none)).unwrap_err();
    }
}
