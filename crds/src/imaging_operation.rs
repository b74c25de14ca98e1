//! ImagingOperation: one command on a set or a group.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quiesce::Quiesce;
use crate::source::LocalReference;
use crate::values::{CutId, Duration, ObjectName};

/// What is to be done, to what, and under which conditions. Nothing of it can be changed.
#[derive(Debug, Clone, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "imaging.umbra.dev",
    version = "v1alpha1",
    kind = "ImagingOperation",
    namespaced,
    status = "ImagingOperationStatus",
    derive = "PartialEq",
    shortname = "uop",
    category = "umbra",
    doc = "An ImagingOperation is one command on a VolumeSet or a SetGroup: a new image, a restore, or the end of a copy. It \
           cannot be changed, is carried out once, and ends like a Job, complete or failed. A name can be used once: an \
           operation that is deleted and created again is refused.",
    printcolumn(
        name = "Command",
        type_ = "string",
        json_path = ".spec.command",
        description = "What is to be done"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".spec.target.name",
        description = "What it is done to"
    ),
    printcolumn(
        name = "Cut",
        type_ = "string",
        json_path = ".status.cut.id",
        description = "The cut it made"
    ),
    printcolumn(
        name = "Progress",
        type_ = "integer",
        json_path = ".status.percent",
        description = "Percent of its copy"
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Complete")].status"#,
        description = "Whether it has ended well"
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Failed")].status"#,
        description = "Whether it has failed"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "How it ended"
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
    validation = Rule::new("self == oldSelf").message("an operation cannot be changed: create another"),
    validation = Rule::new("self.target.kind != 'ShadowExport' && self.command != 'Refresh'")
        .message("exports are not served by this version: the target is a VolumeSet or a SetGroup, the command not Refresh"),
    validation = Rule::new("!(self.command in ['CopyToMaster', 'UpdateMaster']) || (has(self.guard) && has(self.guard.expectCutID))")
        .message("a restore overwrites the master: guard.expectCutID must name the cut to restore, as in the set's status.image.cutID"),
    validation = Rule::new("!has(self.safety) || self.command in ['CopyToMaster', 'UpdateMaster']")
        .message("safety is a cut before a restore: it goes with CopyToMaster and UpdateMaster only"),
    validation = Rule::new("!has(self.safety) || (has(self.safety.volumeSetRef) ? self.target.kind == 'VolumeSet' && !has(self.safety.setGroupRef) : self.target.kind == 'SetGroup' && has(self.safety.setGroupRef))")
        .message("the safety cut of a set is taken by a set (safety.volumeSetRef), that of a group by a group (safety.setGroupRef)"),
    validation = Rule::new("!has(self.safety) || (has(self.safety.volumeSetRef) ? self.safety.volumeSetRef.name : has(self.safety.setGroupRef) ? self.safety.setGroupRef.name : '') != self.target.name")
        .message("the safety cut would replace the image that is to be restored: name another set of the same master, or another group"),
    validation = Rule::new("!has(self.quiesce) || self.command in ['CopyToShadow', 'UpdateShadow']")
        .message("quiesce goes with a new image only: CopyToShadow and UpdateShadow"),
    validation = Rule::new("duration(self.activeDeadline) >= duration('1s') && duration(self.activeDeadline) <= duration('168h')")
        .message("activeDeadline must be from 1s to 168h")
)]
pub struct ImagingOperationSpec {
    /// What the command acts on.
    pub target: Target,
    /// What is to be done.
    pub command: Command,
    /// What must be true for it to be done. A restore must name the cut it expects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// A cut of the present master, made at the same instant as a restore, so that the restore can be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
    /// What is brought to rest for the cut. Left out, nothing is: the image is what a crash would have left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Quiesce>,
    /// What happens where pods use a volume that the command changes under them. There is no way to do it all the same.
    #[serde(default)]
    pub in_use_policy: InUsePolicy,
    /// When the operation is complete.
    #[serde(default)]
    pub wait_for: WaitFor,
    /// How long it may take until the cut. The copy that follows may take as long as it takes. From 1s to 168h.
    #[serde(default = "one_hour")]
    pub active_deadline: Duration,
    /// How long the object is kept after it has ended, in seconds.
    #[serde(default = "one_week", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
}

fn one_hour() -> Duration {
    Duration::new("1h")
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field it is the default of")]
fn one_week() -> Option<i32> {
    Some(7 * 24 * 3600)
}

choice! {
    /// Kind of a target.
    TargetKind {
        /// One set.
        VolumeSet,
        /// Every member of a group, at one instant.
        SetGroup,
        /// An image on another node. Not served yet.
        ShadowExport,
    }
}

/// What a command acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Kind of the object.
    pub kind: TargetKind,
    /// Name of the object, in the same namespace.
    pub name: ObjectName,
}

choice! {
    /// What can be done.
    Command {
        /// A new image; every chunk is copied to the shadow.
        CopyToShadow,
        /// A new image; what changed since the last is copied to the shadow.
        UpdateShadow,
        /// The master becomes the image at once; every chunk is copied back.
        CopyToMaster,
        /// The master becomes the image at once; what differs is copied back.
        UpdateMaster,
        /// Breaks a running copy off; what is pending stays pending.
        Abort,
        /// Gives up what an aborted copy left pending.
        Reset,
        /// Sends what changed to another node. Not served yet.
        Refresh,
    }
}

/// What must be true for a command to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// The cut that the target holds. Where it holds another, nothing is done.
    #[serde(rename = "expectCutID", skip_serializing_if = "Option::is_none")]
    pub expect_cut_id: Option<CutId>,
    /// Whether a restore may use an image that was written since its cut.
    #[serde(default)]
    pub allow_written_shadow: bool,
    /// Whether a restore may use an image that is not trusted.
    #[serde(default)]
    pub allow_untrusted_image: bool,
}

/// A cut of the present master, so that a restore can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Safety {
    /// The set that takes the cut: another set of the same master. The image it holds is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_set_ref: Option<LocalReference>,
    /// For a group, the group that takes the cut: one other set of each of the masters. The images they hold are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_group_ref: Option<LocalReference>,
}

impl Safety {
    /// The cut is taken by this set or group.
    pub fn taken_by(target: Target) -> Self {
        let reference = Some(LocalReference { name: target.name });
        match target.kind {
            TargetKind::SetGroup => Self { volume_set_ref: None, set_group_ref: reference },
            TargetKind::VolumeSet | TargetKind::ShadowExport => {
                Self { volume_set_ref: reference, set_group_ref: None }
            }
        }
    }

    /// What takes the cut; none in an object that the API server has not checked.
    pub fn target(&self) -> Option<Target> {
        let of = |kind, reference: &Option<LocalReference>| {
            reference.as_ref().map(|reference| Target { kind, name: reference.name.clone() })
        };
        of(TargetKind::VolumeSet, &self.volume_set_ref)
            .or_else(|| of(TargetKind::SetGroup, &self.set_group_ref))
    }
}

choice! {
    /// What happens where pods use the volume.
    InUsePolicy = Fail {
        /// The operation fails, and names them.
        Fail,
        /// It waits, until its deadline.
        Wait,
    }
}

choice! {
    /// When an operation is complete.
    WaitFor = Copy {
        /// When the image is there; a copy goes on behind.
        Cut,
        /// When the copy is done.
        Copy,
    }
}

choice! {
    /// What was decided about a cut.
    CutDecision = None {
        /// Nothing yet.
        None,
        /// Every member was cut: the images count.
        Commit,
        /// The former images count.
        Abort,
    }
}

choice! {
    /// How far a member of a cut has come.
    MemberState {
        /// Nothing has been done to it yet.
        Pending,
        /// Its I/O is held back, and its volume flushed.
        Prepared,
        /// It has the new image.
        Flipped,
        /// It has the new image for good.
        Finalised,
        /// It has its former image again.
        RolledBack,
        /// It was not cut.
        Void,
        /// Its former image is gone.
        Broken,
    }
}

/// A member of a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CutMember {
    /// Name of the VolumeSet.
    pub name: ObjectName,
    /// How far it has come.
    pub state: MemberState,
    /// How many cuts the set had had when the operation was planned. Where it has had more since, nothing is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub epoch: Option<i64>,
}

/// The cut of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// Identifier of the cut.
    pub id: CutId,
    /// What was decided.
    #[serde(default)]
    pub decision: CutDecision,
    /// The members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<CutMember>,
}

/// The safety cut of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SafetyStatus {
    /// Identifier of the cut. A restore that expects it undoes this one.
    #[serde(rename = "cutID")]
    pub cut_id: CutId,
    /// The sets that took it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub members: Vec<ObjectName>,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HookResult {
    /// The pod it ran in.
    pub pod: ObjectName,
    /// Exit code of the command. Left out where it did not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How long it took, in milliseconds.
    #[schemars(range(min = 0))]
    pub millis: i64,
}

/// What has been done. Written by Umbra, and never read back as a wish.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagingOperationStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is true of the operation: `Complete` or `Failed`, `Sealed`, `Quiesced`, and for tools `Ready`, `Reconciling` and
    /// `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// When work on it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The cut it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// The safety cut it made before a restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety: Option<SafetyStatus>,
    /// How the hooks ended, in the order they ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub hooks: Vec<HookResult>,
    /// How much of its copy is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// The command that undoes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub undo_hint: Option<String>,
}
