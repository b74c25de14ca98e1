//! ImagingNode: what a node can do, and which devices it has.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::master_volume::FrontendInUse;
use crate::source::Role;
use crate::values::{DeviceId, NamespaceName, ObjectName, SetId};

/// What is wanted of the node. Written by the operator.
#[derive(Debug, Clone, Default, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "ImagingNode",
    status = "ImagingNodeStatus",
    derive = "PartialEq",
    shortname = "unode",
    category = "umbra",
    doc = "An ImagingNode is a node of the cluster as Umbra sees it: what its kernel offers, which versions run there, and which \
           block devices it has, with the reason where one cannot be used. It has the name of the Node. The node writes its \
           status, the operator its spec; users read it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the node serves volumes"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it does or does not"
    ),
    printcolumn(
        name = "Frontend",
        type_ = "string",
        json_path = ".status.frontend",
        description = "How devices are presented"
    ),
    printcolumn(
        name = "Kernel",
        type_ = "string",
        json_path = ".status.kernel",
        description = "Release of the kernel"
    ),
    printcolumn(
        name = "IO",
        type_ = "string",
        json_path = ".status.ioVersion",
        description = "Version of the data plane"
    ),
    printcolumn(
        name = "Node-Ver",
        type_ = "string",
        json_path = ".status.nodeVersion",
        description = "Version of the node plugin"
    ),
    printcolumn(
        name = "Masters",
        type_ = "integer",
        json_path = ".status.masterCount",
        description = "Number of masters it serves"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the object"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ImagingNodeSpec {
    /// Sets that were given up while the node was away. They stay offline when it returns, until somebody decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["setID"]))]
    pub tombstones: Vec<Tombstone>,
    /// Whether the node's data plane is left as it is when the others are upgraded.
    #[serde(default)]
    pub upgrade_hold: bool,
}

/// A set that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// Identifier of the set.
    #[serde(rename = "setID")]
    pub set_id: SetId,
    /// UID of the object that stood for it.
    #[serde(rename = "crUID")]
    #[schemars(length(max = 64))]
    pub cr_uid: String,
    /// When it was given up.
    pub time: Time,
}

choice! {
    /// Why a device cannot be used.
    DeniedReason {
        /// A file system on it is mounted.
        Mounted,
        /// It is swap space.
        Swap,
        /// Something is built on it: a mapping, an array, a volume group, a pool.
        HasHolders,
        /// It carries the system, the kubelet's folder or Umbra's own.
        System,
        /// It cannot be written.
        ReadOnly,
        /// It is presented by Umbra itself.
        Presented,
        /// The node's administrator did not allow it.
        NotAllowed,
        /// Something holds it open.
        Busy,
        /// It has no name that stays with it.
        NoStableName,
    }
}

/// A block device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.denied) || self.id.startsWith('/dev/disk/by-id/') || self.id.startsWith('/dev/disk/by-partuuid/') || self.id.startsWith('/dev/disk/by-path/') || self.id.startsWith('/dev/mapper/')")
    .message("a device without a name that stays with it cannot be used: say why in denied"))]
pub struct NodeDevice {
    /// The device, by a name that stays with it; one that has none, and is denied for that, by the kernel's.
    #[schemars(schema_with = "name_of_device")]
    pub id: DeviceId,
    /// Size in bytes.
    #[schemars(range(min = 0))]
    pub size_bytes: i64,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub serial: Option<String>,
    /// The role it is used in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What uses it, as `kind/namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    pub used_by: Option<String>,
    /// Why it cannot be used. Left out where it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<DeniedReason>,
}

/// Any name below `/dev`: what cannot be named in a spec must be seen here, with the reason.
fn name_of_device(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 256,
        "pattern": r"^/dev/([A-Za-z0-9:._+@-]+/){0,2}[A-Za-z0-9:._+@-]+$",
        "x-kubernetes-validations": [{
            "rule": "!self.endsWith('/.') && !self.endsWith('/..')",
            "message": "this is no device",
        }],
    })
}

/// A volume of Umbra that no object stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Orphan {
    /// Identifier of the set.
    #[serde(rename = "setID")]
    pub set_id: SetId,
    /// Namespace of the object that stood for it.
    pub namespace: NamespaceName,
    /// Name of the object that stood for it.
    pub name: ObjectName,
    /// What the volume does for the set.
    pub role: Role,
}

/// Versions of the protocol between node plugin and data plane that a node can speak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtocolRange {
    /// The earliest.
    #[schemars(range(min = 0))]
    pub min: i32,
    /// The latest.
    #[schemars(range(min = 0))]
    pub max: i32,
}

/// What is known of the node. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagingNodeStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the node: `Ready`, `UpToDate`, `RecoveryNeeded`, and for tools `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// UID of the Node.
    #[serde(rename = "nodeUID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub node_uid: Option<String>,
    /// Identity of the installed system: it survives a new registration, and not a new installation.
    #[serde(rename = "machineID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub machine_id: Option<String>,
    /// Identity of the running kernel: every boot has another.
    #[serde(rename = "bootID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// Address at which the node plugin is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub endpoint: Option<String>,
    /// Version of the node plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub node_version: Option<String>,
    /// Version of the data plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub io_version: Option<String>,
    /// Versions of the protocol between node plugin and data plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolRange>,
    /// Latest version of the format of bitmap volumes that the node can read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub format_max: Option<i32>,
    /// Release of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub kernel: Option<String>,
    /// How devices are presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendInUse>,
    /// How data get from the kernel to the data plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub data_mode: Option<String>,
    /// What the node's kernel and versions can do beyond the least.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub features: Vec<String>,
    /// The highest fence of a leader that the node has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fence_epoch: Option<i64>,
    /// Memory that the data plane has locked, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub locked_memory_bytes: Option<i64>,
    /// Number of masters the node serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub master_count: Option<i32>,
    /// The block devices of the node. At most 128 are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub devices: Vec<NodeDevice>,
    /// Volumes of Umbra that no object stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "atomic"))]
    pub orphans: Vec<Orphan>,
}
