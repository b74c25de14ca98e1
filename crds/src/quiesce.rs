//! What is brought to rest before a cut.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::values::{Duration, ObjectName};

choice! {
    /// Whether the file system on the master is brought to rest.
    FileSystemQuiesce = Freeze {
        /// Freeze it for the cut. A raw block volume has none, and is cut as it is.
        Freeze,
        /// Leave it as it is: the image is what a crash would have left.
        None,
    }
}

choice! {
    /// What follows from a hook that fails.
    OnError = Fail {
        /// Give the cut up.
        Fail,
        /// Cut all the same.
        Continue,
    }
}

/// What is brought to rest before the cut, and woken up after it. Everything in `pre` is over before I/O is held back,
/// `post` always runs, and the file system is thawed whatever happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.freezeTimeout) >= duration('1s') && duration(self.freezeTimeout) <= duration('5m')")
    .message("freezeTimeout must be from 1s to 5m: the workload cannot write while it lasts"))]
pub struct Quiesce {
    /// Whether the file system on the master is brought to rest.
    #[serde(default)]
    pub file_system: FileSystemQuiesce,
    /// How long the file system may stay frozen. After that it is thawed and the cut has failed. From 1s to 5m.
    #[serde(default = "half_a_minute")]
    pub freeze_timeout: Duration,
    /// Commands to run before, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub pre: Vec<Hook>,
    /// Commands to run after, in this order, also where the cut failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub post: Vec<Hook>,
}

/// A command to run in a pod of the same namespace. Who asks for it must be allowed to create `pods/exec` there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.podName) != has(self.podSelector)").message("give exactly one of podName and podSelector"),
    validation = Rule::new("duration(self.timeout) >= duration('1s') && duration(self.timeout) <= duration('10m')")
        .message("timeout of a hook must be from 1s to 10m")
)]
pub struct Hook {
    /// The pods to run it in: every one that is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// The pod to run it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<ObjectName>,
    /// The container to run it in. Left out, it is the first of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ObjectName>,
    /// The program and its arguments. No shell is involved.
    #[schemars(length(min = 1, max = 64), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
    /// How long it may take. From 1s to 10m.
    #[serde(default = "half_a_minute")]
    pub timeout: Duration,
    /// What follows if it fails or takes too long.
    #[serde(default)]
    pub on_error: OnError,
}

fn half_a_minute() -> Duration {
    Duration::new("30s")
}
