//! The custom resources of Umbra: `imaging.umbra.dev/v1alpha1`, category `umbra`.
//!
//! These types are the one source of the kinds. What the API server is given (`manifests/`) and what people read
//! (`operator/docs/kinds.md`) is written from them by the program `crdgen`, and a test compares.
//!
//! What can be decided from one object alone is a rule in its schema, so that the API server refuses it with a message
//! that names the remedy, and no webhook stands between a user and the API. What schema rules cannot say is in
//! [`validate`], pure, for whoever reads an object. Decoding is lenient on purpose: one object that an older version
//! let in must not keep a program from reading all the others, so texts are checked where they are used.
//!
//! Conventions that hold for every kind:
//!
//! * `spec` says what is wanted and is written by users; `status` says what is, is written by Umbra, and is never read
//!   back as a wish.
//! * A field that this version knows of but does not serve is refused, not ignored.
//! * Conditions: `Ready` always; `Reconciling` and `Stalled` only while they are true; then those of the kind
//!   ([`conditions`]).

#![forbid(unsafe_code)]
#![allow(clippy::duplicated_attributes, reason = "printer columns are attributes with parts alike")]
#![allow(
    unreachable_pub,
    reason = "the derive of a schema repeats the type, with its `pub`, inside a function"
)]

#[macro_use]
mod macros;

pub mod conditions;
mod definitions;
mod device_grant;
pub mod generated;
mod imaging_node;
mod imaging_operation;
mod master_volume;
mod quiesce;
pub mod raw_volume;
mod reference;
mod schema;
mod set_group;
mod source;
pub mod validate;
mod values;
mod volume_set;

pub use definitions::{Definition, definitions};
pub use device_grant::{DeviceGrant, DeviceGrantSpec, DeviceGrantStatus, DeviceMatcher, GrantMatch};
pub use imaging_node::{
    DeniedReason, ImagingNode, ImagingNodeSpec, ImagingNodeStatus, NodeDevice, Orphan, ProtocolRange,
    Tombstone,
};
pub use imaging_operation::{
    Command, Cut, CutDecision, CutMember, Guard, HookResult, ImagingOperation, ImagingOperationSpec,
    ImagingOperationStatus, InUsePolicy, MemberState, Safety, SafetyStatus, Target, TargetKind, WaitFor,
};
pub use master_volume::{
    DeletionPolicy, Frontend, FrontendInUse, MasterVolume, MasterVolumeSpec, MasterVolumeStatus, Takeover,
    TakeoverPolicy, TakeoverStep, User, WriteCache,
};
pub use quiesce::{FileSystemQuiesce, Hook, OnError, Quiesce};
pub use set_group::{GroupMember, LastCut, SetGroup, SetGroupSpec, SetGroupStatus};
pub use source::{
    ClaimSource, DeviceSource, GrantReference, LocalReference, ManagedSource, Publish, Role, VolumeMode,
    VolumeSource,
};
pub use values::{
    ChunkSize, ClaimName, CutId, DeviceId, DevicePattern, Duration, FileSystemType, GrantName, InvalidValue,
    LabelText, MasterId, NamespaceName, NodeName, ObjectName, SetId, Signature, Size,
};
pub use volume_set::{
    Bitmap, Consistency, CopyDirection, CopyLimits, CopyState, CopyStatus, Image, Mode, OnExisting,
    OverflowUse, RoleState, RoleStatus, Shadow, ShadowAccess, VolumeSet, VolumeSetSpec, VolumeSetStatus,
};

/// The API group of every kind.
pub const GROUP: &str = "imaging.umbra.dev";
/// The version this crate defines. It only grows: what it once accepted it accepts for ever.
pub const VERSION: &str = "v1alpha1";
/// `kubectl get umbra` lists every kind.
pub const CATEGORY: &str = "umbra";
