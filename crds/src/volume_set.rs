//! VolumeSet: an image of a master, and what it takes to keep it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quiesce::Quiesce;
use crate::source::{LocalReference, ManagedSource, Publish, Role, VolumeSource};
use crate::values::{ChunkSize, CutId, NodeName, ObjectName, SetId, Size};

/// What is wanted of the set: which master, how its image is kept, and on which volumes.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "VolumeSet",
    namespaced,
    status = "VolumeSetStatus",
    derive = "PartialEq",
    shortname = "uset",
    category = "umbra",
    selectable = ".spec.masterRef.name",
    doc = "A VolumeSet is a master, a shadow that presents the master as it was at one instant, and a bitmap volume that \
           remembers which chunks differ. It is added and removed while the workload runs. Creating it makes the first \
           image; an ImagingOperation makes a new one, or restores the master from it.",
    printcolumn(
        name = "Master",
        type_ = "string",
        json_path = ".spec.masterRef.name",
        description = "The MasterVolume"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "How the image is kept"
    ),
    printcolumn(
        name = "Cut",
        type_ = "string",
        json_path = ".status.image.cutID",
        description = "The cut that made the image"
    ),
    printcolumn(
        name = "Image-Age",
        type_ = "date",
        json_path = ".status.image.time",
        description = "Age of the image"
    ),
    printcolumn(
        name = "Changed%",
        type_ = "integer",
        json_path = ".status.image.changedPercent",
        description = "How much of the master has changed since the cut"
    ),
    printcolumn(
        name = "Copy",
        type_ = "integer",
        json_path = ".status.copy.percent",
        description = "Percent of the running or last copy"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the set holds its image"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it does or does not"
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.nodeName",
        priority = 1,
        description = "Node that has the set"
    ),
    printcolumn(
        name = "Lost",
        type_ = "integer",
        json_path = ".status.image.lostChunks",
        priority = 1,
        description = "Chunks that could not be kept"
    ),
    printcolumn(
        name = "Written",
        type_ = "boolean",
        json_path = ".status.image.written",
        priority = 1,
        description = "Whether the shadow was written since the cut"
    ),
    printcolumn(
        name = "Bitmap",
        type_ = "integer",
        format = "int64",
        json_path = ".status.bitmapBytes",
        priority = 1,
        description = "Size of the bitmap volume in bytes"
    ),
    printcolumn(
        name = "Overflow",
        type_ = "integer",
        format = "int64",
        json_path = ".status.overflow.usedBytes",
        priority = 1,
        description = "Bytes on the overflow volume"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.masterRef == oldSelf.masterRef").message("masterRef cannot be changed: create another set"),
    validation = Rule::new("self.mode == oldSelf.mode").message("mode cannot be changed: create another set"),
    validation = Rule::new("self.chunkSize == oldSelf.chunkSize").message("chunkSize cannot be changed: create another set"),
    validation = Rule::new("self.shadow.source == oldSelf.shadow.source").message("shadow.source cannot be changed: create another set"),
    validation = Rule::new("self.bitmap.source == oldSelf.bitmap.source").message("bitmap.source cannot be changed: create another set"),
    validation = Rule::new("has(self.adoptSetID) == has(oldSelf.adoptSetID) && (!has(self.adoptSetID) || self.adoptSetID == oldSelf.adoptSetID)")
        .message("adoptSetID cannot be changed: create another set"),
    validation = Rule::new("has(self.initialQuiesce) == has(oldSelf.initialQuiesce) && (!has(self.initialQuiesce) || self.initialQuiesce == oldSelf.initialQuiesce)")
        .message("initialQuiesce cannot be changed: it was for the first cut"),
    validation = Rule::new("self.mode != 'CompactDependent'")
        .message("mode CompactDependent is not served by this version: use Independent or Dependent"),
    validation = Rule::new("!has(self.overflowRef)")
        .message("overflowRef is not served by this version: it goes with mode CompactDependent"),
    validation = Rule::new("!has(self.shadow.source.managed) || self.mode == 'CompactDependent'")
        .message("managed space is for shadows of mode CompactDependent: give shadow.source a pvc or device as large as the master"),
    validation = Rule::new("!has(self.shadow.source.device) || !has(self.bitmap.source.device) || self.shadow.source.device.id != self.bitmap.source.device.id")
        .message("shadow and bitmap cannot share a device"),
    validation = Rule::new("!has(self.shadow.source.device) || !has(self.bitmap.source.device) || self.shadow.source.device.nodeName == self.bitmap.source.device.nodeName")
        .message("shadow and bitmap must be on one node, that of the master"),
    validation = Rule::new("!has(self.shadow.source.pvc) || !has(self.bitmap.source.pvc) || self.shadow.source.pvc.claimName != self.bitmap.source.pvc.claimName")
        .message("shadow and bitmap cannot share a claim"),
    validation = Rule::new("self.shadow.access == 'ReadWrite' || !has(self.shadow.publish) || self.shadow.publish.readOnly")
        .message("a shadow with access ReadOnly is published with readOnly: true"),
    validation = Rule::new("!has(self.adoptSetID) || self.onExisting == 'Adopt'")
        .message("adoptSetID contradicts onExisting Refuse")
)]
pub struct VolumeSetSpec {
    /// The MasterVolume of the same namespace that the image is of. Cannot be changed.
    pub master_ref: LocalReference,
    /// How the image is kept. Cannot be changed.
    pub mode: Mode,
    /// The volume that keeps and presents the image.
    pub shadow: Shadow,
    /// The small volume with the durable state of the set.
    #[serde(default)]
    pub bitmap: Bitmap,
    /// The OverflowVolume that a compact shadow spills into. Not served yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow_ref: Option<LocalReference>,
    /// Unit of tracking and copying. Small chunks copy less per first write and need a larger bitmap volume. The sets of
    /// one master share one size. Cannot be changed.
    #[serde(default)]
    pub chunk_size: ChunkSize,
    /// Limits of background copies. They hold back copies only, never the workload.
    #[serde(default)]
    pub copy: CopyLimits,
    /// What happens where the bitmap volume already holds a set of this cluster, namespace and name.
    #[serde(default)]
    pub on_existing: OnExisting,
    /// Take over the set of this identifier, although it was made under another name or in another cluster. Without it
    /// such a bitmap volume is refused, and nothing on it is touched. Cannot be changed.
    #[serde(rename = "adoptSetID", skip_serializing_if = "Option::is_none")]
    pub adopt_set_id: Option<SetId>,
    /// What is brought to rest for the first cut. Left out, nothing is: the image is what a crash would have left. Cannot be
    /// changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_quiesce: Option<Quiesce>,
}

choice! {
    /// How an image is kept.
    Mode {
        /// A full copy is made in the background. Until it is done the image leans on the master; then the shadow is a
        /// plain image that needs nothing else.
        Independent,
        /// Old data are copied to the shadow before they are overwritten; the rest is read from the master.
        Dependent,
        /// Like Dependent, on a shadow smaller than the master. Not served yet.
        CompactDependent,
    }
}

/// The volume that keeps and presents the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Shadow {
    /// The volume: at least as large as the master, and with nothing on it that is worth keeping. Cannot be changed.
    pub source: VolumeSource,
    /// What pods may do to the image.
    #[serde(default)]
    pub access: ShadowAccess,
    /// Whether the image is kept from being replaced: a new cut and the deletion of the set are refused.
    #[serde(default)]
    pub protected: bool,
    /// The claim through which pods use the image. May be added and removed while no pod uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
}

choice! {
    /// What pods may do to an image.
    ShadowAccess = ReadOnly {
        /// Read it. The file system's own recovery of its journal is let through and recorded.
        ReadOnly,
        /// Read and write it. A restore from an image that was written must be asked for in words.
        ReadWrite,
    }
}

/// The small volume with the durable state of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bitmap {
    /// The volume. Left out, the node sets a file aside that is large enough. Cannot be changed.
    #[serde(default = "managed")]
    pub source: VolumeSource,
}

impl Default for Bitmap {
    fn default() -> Self {
        Self { source: managed() }
    }
}

fn managed() -> VolumeSource {
    VolumeSource { pvc: None, device: None, managed: Some(ManagedSource::default()) }
}

/// Limits of background copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyLimits {
    /// Bytes per second at most. Left out, there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_per_second: Option<Size>,
    /// Chunks that are copied at the same time at most.
    #[serde(default = "in_flight")]
    #[schemars(range(min = 1, max = 256))]
    pub max_in_flight: i32,
    /// Whether copies step back while the workload keeps the device busy.
    #[serde(default = "yes")]
    pub yield_to_workload: bool,
}

impl Default for CopyLimits {
    fn default() -> Self {
        Self { max_bytes_per_second: None, max_in_flight: in_flight(), yield_to_workload: yes() }
    }
}

fn in_flight() -> i32 {
    16
}

fn yes() -> bool {
    true
}

choice! {
    /// What happens where the bitmap volume already holds this set.
    OnExisting = Adopt {
        /// It goes on as it is, with the image it has. Nothing is formatted.
        Adopt,
        /// The set is stalled until somebody decides.
        Refuse,
    }
}

choice! {
    /// How far an image can be relied on by what reads it.
    Consistency {
        /// What a crash would have left: databases and journalling file systems recover.
        Crash,
        /// The file system was frozen: nothing of it was in flight.
        FileSystem,
        /// The application said it was ready.
        Application,
    }
}

/// The image that a set holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The cut that made it. A restore names it in its guard.
    #[serde(rename = "cutID")]
    pub cut_id: CutId,
    /// The instant of the cut.
    pub time: Time,
    /// How far the image can be relied on by what reads it.
    pub consistency: Consistency,
    /// The cut of the group that this was part of.
    #[serde(rename = "groupCutID", skip_serializing_if = "Option::is_none")]
    pub group_cut_id: Option<CutId>,
    /// How long the workload's I/O was held back, in milliseconds.
    #[schemars(range(min = 0))]
    pub gate_millis: i32,
    /// Whether the image is what the master was.
    pub trusted: bool,
    /// Whether the shadow was written since the cut.
    pub written: bool,
    /// Whether a file system's recovery of its journal wrote to the shadow since the cut.
    pub recovered: bool,
    /// Chunks that could not be kept. Reading them is an error, never other data.
    #[schemars(range(min = 0))]
    pub lost_chunks: i64,
    /// How much of the master has changed since the cut.
    #[schemars(range(min = 0, max = 100))]
    pub changed_percent: i32,
}

choice! {
    /// Where a copy goes.
    CopyDirection {
        /// From the master to the shadow.
        ToShadow,
        /// From the shadow to the master: a restore.
        ToMaster,
    }
}

choice! {
    /// Whether a copy runs.
    CopyState = None {
        /// There is nothing to copy.
        None,
        /// It runs.
        Running,
        /// It was broken off; what is pending stays pending.
        Aborted,
    }
}

/// The running or last copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyStatus {
    /// Where it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<CopyDirection>,
    /// Whether it runs.
    pub state: CopyState,
    /// How much of it is done.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
    /// How fast it was when this was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub bytes_per_second: Option<i64>,
    /// When it will be done if it goes on like this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_end: Option<Time>,
}

/// What a set uses of an overflow volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverflowUse {
    /// Bytes in use.
    #[schemars(range(min = 0))]
    pub used_bytes: i64,
}

choice! {
    /// State of a volume of the set.
    RoleState {
        /// It is in use.
        Online,
        /// It failed or is away.
        Offline,
        /// Its claim is not mapped on the node.
        Unmapped,
    }
}

/// A volume of the set and the device that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// What the volume does for the set.
    pub role: Role,
    /// The device, or the node's file.
    #[schemars(length(max = 256))]
    pub device: String,
    /// State of the volume.
    pub state: RoleState,
}

/// What is known of the set. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSetStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the set: `Ready`, `ImageTrusted`, `Resynchronizing`, `Independent`, `ShadowPublished`, `SpaceLow`,
    /// and for tools `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Identifier of the set, as on its bitmap volume.
    #[serde(rename = "setID", skip_serializing_if = "Option::is_none")]
    pub set_id: Option<SetId>,
    /// Node that has the set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// Size of the shadow volume in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub shadow_size_bytes: Option<i64>,
    /// The image that the set holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The running or last copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyStatus>,
    /// Size of the bitmap volume in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub bitmap_bytes: Option<i64>,
    /// What the set uses of its overflow volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<OverflowUse>,
    /// The ImagingOperation that has the set to itself at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_operation: Option<ObjectName>,
    /// Identifier of the last operation that the set carried out.
    #[serde(rename = "lastOpID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_op_id: Option<String>,
    /// The volumes of the set and the devices that stand for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["role"]))]
    pub roles: Vec<RoleStatus>,
}
