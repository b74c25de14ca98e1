//! SetGroup: sets that one command acts on at one instant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::LocalReference;
use crate::values::{CutId, Duration, NodeName, ObjectName};

/// What is wanted of the group: which sets belong to it.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "SetGroup",
    namespaced,
    status = "SetGroupStatus",
    derive = "PartialEq",
    shortname = "ugroup",
    category = "umbra",
    doc = "A SetGroup is a number of volume sets that one ImagingOperation acts on at one instant, for example the data and \
           the log of a database on two disks. A set may be in several groups.",
    printcolumn(
        name = "Members",
        type_ = "string",
        json_path = ".status.members[*].name",
        description = "The members"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "string",
        json_path = ".status.members[*].nodeName",
        description = "Nodes of the members"
    ),
    printcolumn(
        name = "Last-Cut",
        type_ = "date",
        json_path = ".status.lastCut.time",
        description = "Age of the last cut of the group"
    ),
    printcolumn(
        name = "Consistent",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Consistent")].status"#,
        description = "Whether the members' images are of one instant"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the group can be cut"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.volumeSets) != has(self.selector)").message("give exactly one of volumeSets and selector"),
    validation = Rule::new("duration(self.gateLease) >= duration('100ms') && duration(self.gateLease) <= duration('5s')")
        .message("gateLease must be from 100ms to 5s: all members' I/O waits while it lasts")
)]
pub struct SetGroupSpec {
    /// The members by name, in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volume_sets: Option<Vec<LocalReference>>,
    /// The members by the labels of the sets, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub selector: Option<LabelSelector>,
    /// How long the members hold their I/O back for a cut of all of them. Whoever is not done by then releases its I/O, and
    /// the cut has failed. From 100ms to 5s.
    #[serde(default = "two_seconds")]
    pub gate_lease: Duration,
}

fn two_seconds() -> Duration {
    Duration::new("2s")
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupMember {
    /// Name of the VolumeSet.
    pub name: ObjectName,
    /// Node that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// Whether it can be cut.
    pub ready: bool,
}

/// The last cut of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastCut {
    /// Identifier of the cut.
    #[serde(rename = "id")]
    pub id: CutId,
    /// Its instant.
    pub time: Time,
    /// How long the I/O of the slowest member was held back, in milliseconds.
    #[schemars(range(min = 0))]
    pub max_gate_millis: i32,
    /// Whether every member was cut at that one instant.
    pub consistent: bool,
    /// The ImagingOperation that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation_name: Option<ObjectName>,
}

/// What is known of the group. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetGroupStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the group: `Ready`, `Consistent`, and for tools `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The members as they are found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<GroupMember>,
    /// The last cut of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_cut: Option<LastCut>,
}
