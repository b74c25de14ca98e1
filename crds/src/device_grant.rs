//! DeviceGrant: which devices of which nodes a namespace may use, and for what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::Role;
use crate::values::{DeviceId, DevicePattern, NamespaceName, NodeName, Size};

/// What is granted: which devices of which nodes, in which roles, to which namespaces.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "DeviceGrant",
    status = "DeviceGrantStatus",
    derive = "PartialEq",
    shortname = "ugrant",
    category = "umbra",
    doc = "A DeviceGrant lets namespaces use block devices of nodes in certain roles. Without one, no object of a namespace \
           can name a device. A node never gives away what the host itself uses, whatever is granted: devices that are mounted, \
           swap, part of a volume group or an array, or read-only.",
    printcolumn(
        name = "Roles",
        type_ = "string",
        json_path = ".spec.roles",
        description = "Roles that are granted"
    ),
    printcolumn(
        name = "Namespaces",
        type_ = "string",
        json_path = ".spec.namespaces",
        description = "Namespaces by name"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether it covers any device"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it does or does not"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the object"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.namespaces) || has(self.namespaceSelector)")
        .message("say who is granted the devices: namespaces or namespaceSelector"),
    validation = Rule::new("!has(self.namespaceSelector) || has(self.namespaceSelector.matchLabels) || has(self.namespaceSelector.matchExpressions)")
        .message("an empty namespaceSelector would grant the devices to everybody: name labels")
)]
pub struct DeviceGrantSpec {
    /// Nodes whose devices are granted, by their labels. Empty, it is all nodes.
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub node_selector: LabelSelector,
    /// Devices that are granted: those that any of the entries covers.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub devices: Vec<DeviceMatcher>,
    /// Roles in which the devices may be used.
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub roles: Vec<Role>,
    /// Namespaces that may use the devices, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Option<Vec<NamespaceName>>,
    /// Namespaces that may use the devices, by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
}

/// Devices that a grant covers: those that meet everything given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.idPattern) || has(self.serial) || has(self.minSize) || has(self.maxSize)")
        .message("an empty entry would grant every device: give idPattern, serial, minSize or maxSize"),
    validation = Rule::new("!has(self.idPattern) || !has(self.serial)").message("give idPattern or serial, not both")
)]
pub struct DeviceMatcher {
    /// Pattern of stable device names, for example `/dev/disk/by-id/nvme-KIOXIA_*`.
    #[serde(rename = "idPattern", skip_serializing_if = "Option::is_none")]
    pub id_pattern: Option<DevicePattern>,
    /// Serial number of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub serial: Option<String>,
    /// Least size of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Size>,
    /// Greatest size of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
}

/// A device that a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantMatch {
    /// The node.
    pub node: NodeName,
    /// The device.
    pub id: DeviceId,
    /// The role it is used in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What uses it, as `kind/namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    pub used_by: Option<String>,
}

/// What is known of the grant. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGrantStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the grant: `Ready`, and for tools `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The devices it covers. At most 128 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<GrantMatch>,
}
