//! Where the storage of a role comes from, and how pods get what Umbra presents.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::{
    ClaimName, DeviceId, FileSystemType, GrantName, LabelText, NodeName, ObjectName, Signature, Size,
};

choice! {
    /// What a device does for Umbra.
    Role {
        /// The volume with the live data.
        Master,
        /// The volume that keeps and presents an image.
        Shadow,
        /// The small volume with the durable state of a set.
        Bitmap,
        /// The volume that compact shadows spill into.
        Overflow,
        /// The volume of another node that an image is exported to.
        ImportTarget,
    }
}

/// Reference to an object of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalReference {
    /// Name of the object.
    pub name: ObjectName,
}

/// Reference to a DeviceGrant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantReference {
    /// Name of the DeviceGrant.
    pub name: GrantName,
}

/// Where the storage comes from: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.pvc), has(self.device), has(self.managed)].filter(given, given).size() == 1")
    .message("give exactly one of pvc, device and managed"))]
pub struct VolumeSource {
    /// A claim of the same namespace. Its volume must be of type `local`, on a raw block device or a file system on one;
    /// the volume says which node it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvc: Option<ClaimSource>,
    /// A block device of a node, by a name that stays with it, as far as a DeviceGrant lets this namespace use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSource>,
    /// Space that the node provides: a preallocated file in its state directory. Right for bitmap volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedSource>,
}

/// A claim of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Name of the PersistentVolumeClaim.
    pub claim_name: ClaimName,
}

/// A block device of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSource {
    /// The DeviceGrant that lets this namespace use the device in this role. The requester needs the verb `use` on it.
    pub grant_ref: GrantReference,
    /// Node that has the device.
    pub node_name: NodeName,
    /// The device, by a name below `/dev/disk/by-id`, `/dev/disk/by-partuuid`, `/dev/disk/by-path` or `/dev/mapper`.
    /// `kubectl umbra devices` lists them.
    pub id: DeviceId,
    /// Permission to overwrite what lies on the device. A device that carries anything, for example a file system, is
    /// refused unless this repeats exactly what is found there, as `type:uuid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wipe_signature: Option<Signature>,
}

/// Space that the node provides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedSource {
    /// How much to set aside. Left out, it is computed from the size of the master and the chunk size;
    /// `kubectl umbra size` says what that comes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

choice! {
    /// How pods see a volume.
    VolumeMode = Filesystem {
        /// Mounted, as a directory.
        Filesystem,
        /// As a raw block device.
        Block,
    }
}

/// The claim through which pods use what Umbra presents. Umbra makes it, with a volume bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// Name of the PersistentVolumeClaim to make in the same namespace. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf").message("claimName cannot be changed: remove publish, then add it with the new name"))]
    pub claim_name: ClaimName,
    /// Whether pods may only read.
    #[serde(default)]
    pub read_only: bool,
    /// Labels of the claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub labels: BTreeMap<String, LabelText>,
    /// Storage class named in the claim and in its volume. Nothing is provisioned by it.
    #[serde(default = "static_class")]
    pub storage_class_name: ObjectName,
    /// How pods see the volume.
    #[serde(default)]
    pub volume_mode: VolumeMode,
    /// Type of the file system to mount. Left out, what is found on the volume is mounted. Nothing is ever formatted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<FileSystemType>,
    /// Options for the mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 128)), extend("x-kubernetes-list-type" = "atomic"))]
    pub mount_options: Vec<String>,
}

fn static_class() -> ObjectName {
    ObjectName::new("umbra-static")
}
