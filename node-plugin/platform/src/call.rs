//! What can be asked: one type per call, and its answer where there is one.

use crate::id::{CutId, DeviceIdentity, Epoch, MasterId, MasterRef, RequestId, SetId, SetName, SetRef};
pub use crate::status::Direction;
use crate::status::{CopyLimits, Deadlines, Mode, Unrecordable};
use crate::time::Millis;
use crate::value::{
    ChunkSize, Columns, DevicePath, InvalidValue, Label, QueueDepth, SIGNATURES_MAX, Signature, UblkId, words,
};
use serde::{Deserialize, Serialize};

/// Most sets that one command may act on at one instant.
pub const TARGETS_MAX: usize = 16;

/// A call that changes something.
pub trait Change {
    /// Its request.
    fn request(&self) -> RequestId;
}

macro_rules! changes {
    ($($call:ident),+) => {
        $(impl Change for $call {
            fn request(&self) -> RequestId {
                self.request
            }
        })+
    };
}

changes!(
    AttachMaster,
    AcceptMaster,
    DetachMaster,
    EnableSet,
    DisableSet,
    CopySets,
    Abort,
    SetCopyLimits,
    Reset
);

/// Puts the interposer between a device and its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachMaster {
    /// The request.
    pub request: RequestId,
    /// The device that holds, or will hold, the live data.
    pub device: DevicePath,
    /// Name for the master, unique in the interposer.
    pub name: Label,
    /// What the device must be recognised by; refused if it is recognised by something else.
    pub expected_identity: Option<DeviceIdentity>,
    /// Take the device although nothing about it is unique (E19).
    pub accept_weak_identity: bool,
    /// Number of the ublk device, where the caller wants a certain one.
    pub ublk: Option<UblkId>,
    /// Requests that the presented device may have in flight.
    pub queue_depth: QueueDepth,
}

/// Answer to [`AttachMaster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedMaster {
    /// The master.
    pub id: MasterId,
    /// The presented device: what workloads must use from now on.
    pub device: DevicePath,
}

words! {
    /// What becomes of the images of a master that was written while nobody watched it.
    AcceptedImages, "fate of the images" {
        /// They are given up; a reset of a set begins a new one.
        Lost = "lost",
        /// Every chunk counts as changed: independent sets copy all of it with their next update. What an image
        /// would have read from the master is lost.
        Changed = "changed",
    }
}

/// Takes a quarantined master as it is now, so that it is served again.
///
/// Umbra saw that the master was written while it was not served, so nobody knows any more which chunks an image
/// shares with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptMaster {
    /// The request.
    pub request: RequestId,
    /// The master.
    pub master: MasterRef,
    /// What becomes of its images.
    pub images: AcceptedImages,
}

/// Takes the interposer out again. Its sets are kept and come back with the next attach of the same device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachMaster {
    /// The request.
    pub request: RequestId,
    /// The master.
    pub master: MasterRef,
}

/// A set to act on, and the epoch that the caller believes it to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTarget {
    /// The set.
    pub set: SetRef,
    /// Refuse the call (`STALE_EPOCH`) if the set is in another epoch.
    pub expected_epoch: Option<Epoch>,
}

impl From<SetRef> for SetTarget {
    fn from(set: SetRef) -> Self {
        Self { set, expected_epoch: None }
    }
}

/// One to [`TARGETS_MAX`] sets, none of them named twice in the same way.
///
/// A set named once by UUID and once by name is for the implementation to refuse (`BAD_ARGUMENT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTargets(Vec<SetTarget>);

impl SetTargets {
    /// These sets.
    ///
    /// # Errors
    /// If there is none, there are too many, or one is named twice.
    pub fn new(targets: Vec<SetTarget>) -> Result<Self, InvalidValue> {
        let bad = |problem: String| Err(InvalidValue::new("sets", problem));
        if targets.is_empty() || targets.len() > TARGETS_MAX {
            return bad(format!("{} sets named, 1 to {TARGETS_MAX} are allowed", targets.len()));
        }
        for (i, target) in targets.iter().enumerate() {
            if targets[..i].iter().any(|earlier| earlier.set == target.set) {
                return bad(format!("{} is named twice", target.set));
            }
        }
        Ok(Self(targets))
    }

    /// The sets, in the caller's order.
    pub fn as_slice(&self) -> &[SetTarget] {
        &self.0
    }
}

impl From<SetTarget> for SetTargets {
    fn from(target: SetTarget) -> Self {
        Self(vec![target])
    }
}

impl IntoIterator for SetTargets {
    type Item = SetTarget;
    type IntoIter = std::vec::IntoIter<SetTarget>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Makes a volume set on an attached master, under load, and takes its first cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableSet {
    /// The request.
    pub request: RequestId,
    /// The master.
    pub master: MasterRef,
    /// Full name of the set.
    pub name: SetName,
    /// Independent or dependent.
    pub mode: Mode,
    /// The shadow volume.
    pub shadow: DevicePath,
    /// The bitmap volume.
    pub bitmap: DevicePath,
    /// Unit of tracking and copying, fixed with the master's first set: the sets of a master share one. None: that
    /// of the other sets, or the default for the first.
    pub chunk: Option<ChunkSize>,
    /// Time limits of I/O on behalf of a master write.
    pub deadlines: Deadlines,
    /// What becomes of a master write when nothing at all can be recorded (E7).
    pub unrecordable: Unrecordable,
    /// Refuse whatever would replace the image until the flag is taken off.
    pub protected: bool,
    /// What may be overwritten on shadow and bitmap volume (`HAS_SIGNATURE`).
    pub wipe: WipeSignatures,
}

/// Up to [`SIGNATURES_MAX`] signatures that may be overwritten; none is the rule.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WipeSignatures(Vec<Signature>);

impl WipeSignatures {
    /// These.
    ///
    /// # Errors
    /// If there are too many.
    pub fn new(signatures: Vec<Signature>) -> Result<Self, InvalidValue> {
        match signatures.len() {
            0..=SIGNATURES_MAX => Ok(Self(signatures)),
            count => {
                let problem = format!("{count} named, at most {SIGNATURES_MAX} are allowed");
                Err(InvalidValue::new("signatures", problem))
            }
        }
    }

    /// Whether all of what was found may be overwritten.
    pub fn cover(&self, found: &[Signature]) -> bool {
        found.iter().all(|found| self.0.contains(found))
    }

    /// The signatures, in the caller's order.
    pub fn as_slice(&self) -> &[Signature] {
        &self.0
    }
}

/// Answer to [`EnableSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnabledSet {
    /// The set.
    pub id: SetId,
    /// The presented shadow device.
    pub shadow_device: DevicePath,
    /// The first cut.
    pub cut: CutId,
    /// The epoch that it began.
    pub epoch: Epoch,
}

/// Ends a set. Only an independent set with nothing pending leaves a usable image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisableSet {
    /// The request.
    pub request: RequestId,
    /// The set.
    pub target: SetTarget,
}

words! {
    /// How much is copied.
    CopyKind, "kind of copy" {
        /// Every chunk.
        Full = "full",
        /// Only chunks that may differ.
        Update = "update",
    }
}

/// One cut over one or several sets, all or none, and the copies that follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySets {
    /// The request.
    pub request: RequestId,
    /// The sets.
    pub sets: SetTargets,
    /// Which way.
    pub direction: Direction,
    /// How much.
    pub kind: CopyKind,
    /// Id for the cut, where the caller keeps its own; else the interposer makes one.
    pub cut: Option<CutId>,
}

/// Answer to [`CopySets`]: the cut is durable; copying goes on in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// The cut.
    pub cut: CutId,
    /// The sets in the order asked for, each with the epoch that the cut began.
    pub sets: Vec<SetEpoch>,
}

/// A set and an epoch of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetEpoch {
    /// The set.
    pub id: SetId,
    /// Its name.
    pub name: SetName,
    /// The epoch.
    pub epoch: Epoch,
}

/// Stops a set's copier; what is pending stays pending. Without a running copy it does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The request.
    pub request: RequestId,
    /// The set.
    pub target: SetTarget,
}

/// Waits until no copy of a set runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The set.
    pub set: SetRef,
    /// Give up waiting (`DEADLINE`) after this time; the copy goes on.
    pub timeout: Millis,
}

/// A file system recovers its journal through a shadow, when an image that was cut under it is mounted to be read: what is
/// written through the shadow meanwhile counts as recovered, and not as written since the cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverShadow {
    /// The set.
    pub set: SetRef,
    /// For how long; 0: no longer. At most [`RECOVERY_MAX`].
    pub lasts: Millis,
}

/// The longest time that a file system is given to recover.
pub const RECOVERY_MAX: Millis = Millis::from_secs(600);

/// Changes a set's copy limits; they hold at once and are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCopyLimits {
    /// The request.
    pub request: RequestId,
    /// The set.
    pub target: SetTarget,
    /// The new limits.
    pub limits: CopyLimits,
}

/// Brings an offline or given-up set back: a new session, a new point in time, a full copy where one is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The request.
    pub request: RequestId,
    /// The set.
    pub target: SetTarget,
}

/// Answer to [`Reset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ResetDone {
    /// Nothing was offline; nothing was done.
    NotNeeded,
    /// The set is back, with this cut.
    Cut {
        /// The cut.
        cut: CutId,
        /// The epoch that it began.
        epoch: Epoch,
    },
}

/// What a call that changes something was answered.
// Told apart by their fields, also on disk: an answer on record does not say whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a copy.
    Copied(Copied),
    /// To an enable.
    Enabled(EnabledSet),
    /// To an attach.
    Attached(AttachedMaster),
    /// To a reset.
    Reset(ResetDone),
    /// To a call that says no more than that it is done.
    Done(()),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has heard of it, or it is long ago: it has had no effect, or one that has been answered.
    NotSeen,
    /// It is being carried out.
    Running,
    /// It was begun, and has no answer: it was refused, or stopped half-way. Sent again it is carried out to the end, with
    /// no second effect.
    Unanswered,
    /// It was answered.
    Done(Answer),
}

/// Whose status is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every master and every set.
    All,
    /// One master and its sets.
    Master(MasterRef),
    /// One set and its master.
    Set(SetRef),
}

/// When a watch sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cadence {
    /// Whenever something changed; progress of a copy counts as a change at most four times a second.
    OnChange,
    /// At this interval, changed or not; at least 100 ms, shorter ones count as that.
    Every(Millis),
}

impl Cadence {
    /// Shortest interval.
    pub const SHORTEST: Millis = Millis(100);

    /// Time between two looks at the state: the interval, or a quarter of a second.
    pub fn period(self) -> Millis {
        match self {
            Self::OnChange => Millis(250),
            Self::Every(interval) => interval.max(Self::SHORTEST),
        }
    }
}

/// A stream of statuses: the first at once, then by cadence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Whose.
    pub scope: Scope,
    /// When.
    pub cadence: Cadence,
}

/// A picture of a set's bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapQuery {
    /// The set.
    pub set: SetRef,
    /// In how many runs of chunks. Fewer come back where the master has fewer chunks.
    pub columns: Columns,
}
