//! MasterVolume: the volume with the live data, with Umbra in between.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{Publish, VolumeSource};
use crate::values::{ClaimName, DeviceId, MasterId, NodeName, ObjectName};

/// What is wanted of the master: which volume it is, and how pods come to use it through Umbra.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "MasterVolume",
    namespaced,
    status = "MasterVolumeStatus",
    derive = "PartialEq",
    shortname = "umaster",
    category = "umbra",
    doc = "A MasterVolume is a volume with live data and Umbra between it and the pods that use it, with or without images. It \
           owns the presented device, and the volume and claim through which pods use it. Its data stay where they are and \
           as they are; without Umbra they are read as before.",
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.nodeName",
        description = "Node that serves the master"
    ),
    printcolumn(
        name = "Size",
        type_ = "integer",
        format = "int64",
        json_path = ".status.sizeBytes",
        description = "Size in bytes"
    ),
    printcolumn(
        name = "Claim",
        type_ = "string",
        json_path = ".status.claimName",
        description = "Claim that pods use"
    ),
    printcolumn(
        name = "InUse",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="InUse")].status"#,
        description = "Whether pods use it"
    ),
    printcolumn(
        name = "Sets",
        type_ = "integer",
        json_path = ".status.setCount",
        description = "Number of volume sets on it"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the device is presented and I/O runs"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why it is ready or not"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Age of the object"
    ),
    printcolumn(
        name = "Device",
        type_ = "string",
        json_path = ".status.deviceID",
        priority = 1,
        description = "The raw device"
    ),
    printcolumn(
        name = "Frontend",
        type_ = "string",
        json_path = ".status.frontend",
        priority = 1,
        description = "How the device is presented"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".status.writeCache",
        priority = 1,
        description = "Write cache of the raw device"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.source == oldSelf.source")
        .message("source cannot be changed: release this master and create another"),
    validation = Rule::new("!has(self.source.managed)")
        .message("managed space cannot be a master, which has data already: use pvc or device"),
    validation = Rule::new("!has(self.source.pvc) || !has(self.publish)")
        .message("publish goes with source.device only: a claim that is taken over keeps its name"),
    validation = Rule::new("!has(self.source.device) || has(self.publish)")
        .message("source.device needs publish: the claim through which pods use the master"),
    validation = Rule::new("has(self.publish) == has(oldSelf.publish) && (!has(self.publish) || self.publish == oldSelf.publish)")
        .message("publish cannot be changed: release this master and create another"),
    validation = Rule::new("!has(self.source.device) || !has(self.source.device.wipeSignature)")
        .message("wipeSignature is for shadows and bitmap volumes: a master is never overwritten"),
    validation = Rule::new("!has(self.takeover) || has(self.source.pvc)")
        .message("takeover goes with source.pvc only: there is no claim to take over"),
    validation = Rule::new("!self.allowNbdFrontend")
        .message("allowNbdFrontend is not served by this version: masters need a kernel with ublk")
)]
pub struct MasterVolumeSpec {
    /// The volume with the data: `pvc` or `device`. Cannot be changed.
    pub source: VolumeSource,
    /// How the claim of `source.pvc` is taken over. Pods use the master through a claim of the same name; for that the
    /// pods that use it must stop once. Left out, nothing is taken over until this is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
    /// The claim through which pods use a master that is made from `source.device`. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
    /// What becomes of the claim that was taken over when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// How the device is presented to the node.
    #[serde(default)]
    pub frontend: Frontend,
    /// Queues of the presented device. More than one helps where several processors write at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub queues: i32,
    /// Requests that each queue can hold.
    #[serde(default = "queue_depth")]
    #[schemars(range(min = 32, max = 1024))]
    pub queue_depth: i32,
    /// Whether the master may be presented through NBD on a node without ublk, where nothing survives a restart of the
    /// data plane. Not served yet.
    #[serde(default)]
    pub allow_nbd_frontend: bool,
}

fn one() -> i32 {
    1
}

fn queue_depth() -> i32 {
    128
}

/// How a claim is taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Takeover {
    /// When the claim is swapped.
    #[serde(default)]
    pub policy: TakeoverPolicy,
}

choice! {
    /// When the claim is swapped.
    TakeoverPolicy = Manual {
        /// When somebody says so with `kubectl umbra takeover`.
        Manual,
        /// As soon as no pod uses it.
        WhenFree,
    }
}

choice! {
    /// What becomes of a claim that was taken over.
    DeletionPolicy = ReturnRaw {
        /// The original claim and volume are put back, and pods run on the raw device as before.
        ReturnRaw,
        /// The original volume stays as it is, released and retained.
        Keep,
    }
}

choice! {
    /// How the device is presented.
    Frontend = Auto {
        /// By what the node offers.
        Auto,
        /// By ublk, or not at all.
        Ublk,
    }
}

choice! {
    /// How the device is presented at present.
    FrontendInUse {
        /// By the kernel's ublk driver.
        Ublk,
    }
}

choice! {
    /// Whether a device acknowledges writes that a power cut loses.
    WriteCache {
        /// It does, until it is flushed.
        WriteBack,
        /// It does not.
        WriteThrough,
    }
}

choice! {
    /// How far a takeover has come.
    TakeoverStep {
        /// Looking for what would stop it.
        Preflight,
        /// The raw volume is retained whatever becomes of its claim.
        Retained,
        /// Waiting until no pod uses the claim.
        WaitingForPods,
        /// The device is presented.
        DeviceStarted,
        /// Umbra's volume is there, and waits for the claim.
        VolumeCreated,
        /// The claim is bound to Umbra's volume.
        ClaimSwapped,
    }
}

/// What is known of the master. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MasterVolumeStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the master: `Ready`, `TakenOver`, `Sealed`, `InUse`, and for tools `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Identifier of the master. It stays with the data, and is part of the volume's handle.
    #[serde(rename = "masterID", skip_serializing_if = "Option::is_none")]
    pub master_id: Option<MasterId>,
    /// Node that serves the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// Size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub size_bytes: Option<i64>,
    /// Size of a logical block in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512))]
    pub logical_block: Option<i32>,
    /// The raw device, by a name that stays with it.
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// Link to the presented device on the node. For looking, not for use by pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub dev_path: Option<String>,
    /// How the device is presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendInUse>,
    /// Whether the raw device acknowledges writes that a power cut loses until it is flushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_cache: Option<WriteCache>,
    /// The claim through which pods use the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_name: Option<ClaimName>,
    /// Who uses the master. At most sixteen are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub users: Vec<User>,
    /// The PersistentVolume that Umbra made.
    #[serde(rename = "pvName", skip_serializing_if = "Option::is_none")]
    pub pv_name: Option<ObjectName>,
    /// The PersistentVolume that was there before.
    #[serde(rename = "originalPVName", skip_serializing_if = "Option::is_none")]
    pub original_pv_name: Option<ObjectName>,
    /// How far the takeover has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub takeover_step: Option<TakeoverStep>,
    /// Number of volume sets on the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub set_count: Option<i32>,
}

/// Who uses a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Kind of the object, as a rule Pod.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Whether it may only read.
    pub read_only: bool,
}
