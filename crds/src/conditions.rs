//! Conditions: what is said about an object, why in one word that programs can rely on, and how it is written down.
//!
//! `Ready` is there always. `Reconciling` and `Stalled` are there only while they are true, so that tools which watch any
//! kind (Helm, Flux) know whether to wait. The others belong to one kind each. A reason decides the status it goes
//! with, so the two cannot contradict each other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody can tell.
    Unknown,
}

impl Truth {
    /// The word in a condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object does what its spec asks for.
    Ready,
    /// The object is being brought to what its spec asks for.
    Reconciling,
    /// The object will not become what its spec asks for until somebody acts.
    Stalled,
    /// Pods use the master through Umbra, by the claim they used before.
    TakenOver,
    /// No new use of the volume is let in, because an operation is about to change what it reads.
    Sealed,
    /// Pods use the volume.
    InUse,
    /// The image is what the master was at the cut.
    ImageTrusted,
    /// A copy runs.
    Resynchronizing,
    /// The shadow needs the master no more.
    Independent,
    /// Pods can use the shadow.
    ShadowPublished,
    /// The space for images runs out.
    SpaceLow,
    /// The members' images are of one instant.
    Consistent,
    /// The operation has ended well.
    Complete,
    /// The operation has ended, and has not done what it was to do.
    Failed,
    /// What uses the volume was brought to rest for the cut.
    Quiesced,
    /// The node runs the version it should.
    UpToDate,
    /// The node has volumes of Umbra that no object stands for.
    RecoveryNeeded,
}

impl ConditionType {
    /// The word in a condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::TakenOver => "TakenOver",
            Self::Sealed => "Sealed",
            Self::InUse => "InUse",
            Self::ImageTrusted => "ImageTrusted",
            Self::Resynchronizing => "Resynchronizing",
            Self::Independent => "Independent",
            Self::ShadowPublished => "ShadowPublished",
            Self::SpaceLow => "SpaceLow",
            Self::Consistent => "Consistent",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Quiesced => "Quiesced",
            Self::UpToDate => "UpToDate",
            Self::RecoveryNeeded => "RecoveryNeeded",
        }
    }
}

/// Why a condition has its status.
pub trait Reason {
    /// What it is a reason about.
    fn condition(&self) -> ConditionType;
    /// The status that goes with it.
    fn status(&self) -> Truth;
    /// The word in the condition.
    fn as_str(&self) -> &'static str;
    /// What it means, for people.
    fn meaning(&self) -> &'static str;
}

/// A reason as the documents list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explained {
    /// What it is a reason about.
    pub condition: ConditionType,
    /// The status that goes with it.
    pub status: Truth,
    /// The word in the condition.
    pub reason: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// The reasons of one condition of one kind, each with its status and its meaning.
macro_rules! reasons {
    ($(#[doc = $doc:literal])+ $name:ident for $condition:ident {
        $($(#[doc = $meaning:literal])+ $variant:ident => $status:ident,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl $name {
            /// Every reason, as the documents list it.
            #[must_use]
            pub fn explained() -> Vec<Explained> {
                let explain = |reason: &Self| Explained {
                    condition: reason.condition(),
                    status: reason.status(),
                    reason: reason.as_str(),
                    meaning: reason.meaning(),
                };
                [$(Self::$variant,)+].iter().map(explain).collect()
            }
        }

        impl Reason for $name {
            fn condition(&self) -> ConditionType {
                ConditionType::$condition
            }

            fn status(&self) -> Truth {
                match self {
                    $(Self::$variant => Truth::$status,)+
                }
            }

            fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)+
                }
            }

            fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// Whether the master is served.
    MasterReady for Ready {
        /// The device is presented, and I/O runs.
        Live => True,
        /// The node is asked to present the device.
        Starting => False,
        /// The claim is being taken over; the condition TakenOver says how far that is.
        TakingOver => False,
        /// The node recovers the device; I/O waits and then goes on.
        Recovering => False,
        /// The node does not answer.
        NodeNotReady => False,
        /// The node is gone for good.
        NodeLost => False,
        /// The device was written while Umbra was not in between; the images are in doubt until somebody decides.
        Quarantined => False,
        /// There is no such DeviceGrant, or it does not cover the device in this role.
        GrantMissing => False,
        /// The DeviceGrant no longer covers the device. What runs goes on; nothing new is started.
        GrantRevoked => False,
        /// The host itself has the raw device mounted.
        RawDeviceMounted => False,
        /// Something else holds the raw device open.
        DeviceBusy => False,
        /// Deletion waits until no pod uses the volume.
        DeletionBlockedInUse => False,
        /// The device is the master of another object or another cluster.
        ForeignMaster => False,
        /// The raw device is away, fails, or is not what it was; the message says which.
        DeviceUnusable => False,
        /// The claim that is to be published exists and was not made for this object.
        ClaimTaken => False,
        /// This version cannot do what the spec asks for; the message says what.
        NotSupported => False,
    }
}
reasons! {
    /// Whether the claim was taken over.
    TakenOverReason for TakenOver {
        /// Pods use the master through Umbra.
        Done => True,
        /// Pods still use the raw volume, or keep its claim; the claim is swapped when none does.
        WaitingForPods => False,
        /// Nothing is begun, or nothing more is done, until somebody says go.
        WaitingForApproval => False,
        /// The raw volume is retained, and the node presents its device; then the claim is swapped.
        Preparing => False,
        /// The claim was recreated and is not bound yet.
        PVCRecreated => False,
        /// There is no such claim, or it is not bound to a volume.
        ClaimUnbound => False,
        /// A claim of that name is bound to another volume, or asks for more than the volume has.
        ClaimTaken => False,
        /// The claim's volume is no device of one node: it is not of type local, does not say which node it is on, or names
        /// its device in a way that can come to mean another.
        NotLocalVolume => False,
        /// The claim's volume is a directory, which cannot be interposed.
        DirectoryVolume => False,
        /// The claim's volume is Umbra's, or was taken over for another MasterVolume.
        VolumeTaken => False,
        /// What is needed to put the claim back cannot be read on the original volume, or that is going.
        RecordUnreadable => False,
        /// The object is deleted, and what was taken over is given back.
        Returning => False,
    }
}
reasons! {
    /// Whether new use is kept out.
    SealedReason for Sealed {
        /// An operation holds the seal; the message names it.
        HeldByOperation => True,
    }
}
reasons! {
    /// Whether pods use the volume.
    InUseReason for InUse {
        /// Pods use it; the status names them.
        PodsUsing => True,
        /// No pod uses it.
        Free => False,
    }
}
reasons! {
    /// Whether the set holds its image.
    SetReady for Ready {
        /// Both sides hold the same, chunk by chunk, but for what changed since the cut.
        InSync => True,
        /// The image is there and leans on the master.
        Dependent => True,
        /// The image is there, and its copy is being made.
        Copying => True,
        /// The master is the image, and is being copied back.
        Restoring => True,
        /// The image is with another node.
        Exported => True,
        /// A copy was broken off; what is pending stays pending.
        Aborted => False,
        /// The master is not served.
        MasterNotReady => False,
        /// The shadow volume failed or is away.
        ShadowOffline => False,
        /// The bitmap volume failed or is away.
        BitmapOffline => False,
        /// There is no space left for old data; chunks are being lost.
        OutOfSpace => False,
        /// The bitmap volume belongs to another set or another cluster.
        ForeignBitmap => False,
        /// A volume has not the size that the set was made with.
        SizeMismatch => False,
        /// The claim of a volume is not mapped on the node.
        SourceUnmapped => False,
        /// The bitmap volume is too small; the message says how large it must be.
        BitmapTooSmall => False,
        /// There is no such DeviceGrant, or it does not cover the device in this role.
        GrantMissing => False,
        /// The DeviceGrant no longer covers a device of the set. What runs goes on; nothing new is started.
        GrantRevoked => False,
        /// The node is asked for the set and its first cut.
        Enabling => False,
        /// The node waits for something before it can serve the set; the message says for what.
        Blocked => False,
        /// The image could not be kept, so that the master could go on; a Reset begins a new one.
        ImageLost => False,
        /// The node does not take a volume of the set; the message says why, and what can be done.
        VolumeRefused => False,
        /// Deletion waits; the message says for what.
        DeletionBlocked => False,
        /// The claim that is to be published exists and was not made for this object.
        ClaimTaken => False,
        /// This version cannot do what the spec asks for; the message says what.
        NotSupported => False,
    }
}
reasons! {
    /// Whether the image is what the master was.
    ImageTrustedReason for ImageTrusted {
        /// Every chunk is what the master held at the cut.
        Exact => True,
        /// The master was written while Umbra was not in between.
        MasterWrittenOutside => False,
        /// Some chunks could not be kept; reading them is an error.
        LostChunks => False,
        /// A volume's answers contradict what was recorded.
        InDoubt => Unknown,
    }
}
reasons! {
    /// Whether a copy runs.
    ResynchronizingReason for Resynchronizing {
        /// From master to shadow.
        ToShadow => True,
        /// From shadow to master: a restore.
        ToMaster => True,
        /// None runs.
        Idle => False,
    }
}
reasons! {
    /// Whether the shadow stands alone.
    IndependentReason for Independent {
        /// Everything was copied: the shadow is a plain image.
        CopyDone => True,
        /// Chunks that were not copied are read from the master.
        LeansOnMaster => False,
    }
}
reasons! {
    /// Whether pods can use the shadow.
    ShadowPublishedReason for ShadowPublished {
        /// The claim is bound, and no pod uses it.
        ClaimBound => True,
        /// Pods use it.
        InUse => True,
        /// The set does not ask for a claim.
        None => False,
    }
}
reasons! {
    /// Whether space runs out.
    SpaceLowReason for SpaceLow {
        /// The overflow volume is four fifths full.
        Overflow80 => True,
        /// The overflow volume is nearly full: chunks will be lost.
        Overflow95 => True,
        /// There is space enough.
        Ok => False,
    }
}
reasons! {
    /// Whether the group can be cut.
    GroupReady for Ready {
        /// Every member can be cut.
        AllMembersReady => True,
        /// A member is not ready; the message names it.
        MemberNotReady => False,
        /// A member does not exist; the message names it.
        MemberMissing => False,
        /// More members than one cut can hold.
        TooManyMembers => False,
        /// Nothing is selected.
        Empty => False,
    }
}
reasons! {
    /// Whether the members' images are of one instant.
    ConsistentReason for Consistent {
        /// They are.
        OneInstant => True,
        /// A group cut broke, and a member lost its former image.
        CutBroken => False,
        /// A member was cut without the others.
        MemberCutAlone => False,
    }
}
reasons! {
    /// Whether the operation is over and done.
    OperationComplete for Complete {
        /// The image is there.
        CutDone => True,
        /// The copy is done.
        CopyDone => True,
        /// The copy is broken off, as it was asked for; what is pending stays pending.
        CopyAborted => True,
        /// The set is back, or was never away.
        SetReset => True,
    }
}
reasons! {
    /// What the operation is at.
    OperationProgress for Reconciling {
        /// The target is not there yet, or not ready; the message says what is missing.
        WaitingForTarget => True,
        /// Another operation has a set of the target to itself.
        WaitingForTurn => True,
        /// Pods use a volume that the command changes under them.
        WaitingForUsers => True,
        /// The node does not answer, or cannot do it now; the message says why.
        WaitingForNode => True,
        /// The node is asked for the cut.
        Cutting => True,
        /// The image is there, and its copy runs.
        Copying => True,
    }
}
reasons! {
    /// Why an operation did not do what it was to do. Nothing changed unless the meaning says otherwise.
    OperationFailed for Failed {
        /// Pods use the volume; the message names them.
        InUse => True,
        /// The set has been cut since: its cut is not the one the guard expects.
        StaleGuard => True,
        /// The shadow was written since the cut, and the guard does not allow that.
        ShadowWritten => True,
        /// The image is not trusted, and the guard does not allow that.
        Untrusted => True,
        /// No member was cut.
        CutVoid => True,
        /// Some members were cut and all were rolled back.
        CutAborted => True,
        /// The former image of some members is gone; the message names them.
        CutBroken => True,
        /// A command before the cut failed.
        HookFailed => True,
        /// The file system did not freeze in time; it is thawed.
        FreezeTimeout => True,
        /// The deadline passed before the cut.
        Deadline => True,
        /// A copy runs on the set.
        CopyRunning => True,
        /// A copy in the other direction was broken off and must be finished or reset first.
        OppositeCopyPending => True,
        /// The image is with another node.
        Exported => True,
        /// There is no such target.
        NotFound => True,
        /// The image is not complete: chunks are lost or pending.
        Incomplete => True,
        /// Two members share a master, and the command changes it.
        SharedMaster => True,
        /// The image is protected from being replaced.
        Protected => True,
        /// An operation of this name was carried out before; a name can be used once.
        NameUsed => True,
        /// The node refuses; the message says why, and what can be done.
        Refused => True,
        /// This version cannot do what the spec asks for; the message says what.
        NotSupported => True,
    }
}
reasons! {
    /// How what uses the volume was brought to rest.
    QuiescedReason for Quiesced {
        /// The file system was frozen.
        Frozen => True,
        /// There is no mounted file system to freeze.
        NotAFileSystem => False,
        /// It was not asked for.
        Skipped => False,
    }
}
reasons! {
    /// Whether the grant means anything.
    GrantReady for Ready {
        /// It covers devices that are there.
        Matching => True,
        /// It covers no device that is there.
        NoMatch => False,
        /// It covers a device that its node never gives away; the message says why.
        OverlapsDenyList => False,
    }
}
reasons! {
    /// Whether the node serves volumes.
    NodeReady for Ready {
        /// It does.
        Serving => True,
        /// The kernel has no ublk driver; the message says how to get it.
        UblkMissing => False,
        /// The kernel's io_uring is switched off; the message says how to switch it on.
        IoUringDisabled => False,
        /// The kernel is known to lose or corrupt I/O.
        KernelKnownBad => False,
        /// The data plane may not lock the memory it needs.
        MemlockTooLow => False,
        /// The data plane does not answer.
        IODown => False,
        /// The node's certificate has expired.
        CertExpired => False,
        /// The node has seen a newer leader than the one that speaks to it.
        Fenced => False,
    }
}
reasons! {
    /// Whether the node runs the version it should.
    UpToDateReason for UpToDate {
        /// It does.
        Current => True,
        /// Its data plane is of an earlier version, and is replaced when somebody asks for it.
        UpgradePending => False,
        /// Somebody asked for it to stay as it is.
        OnHold => False,
    }
}
reasons! {
    /// Whether volumes of the node have lost their objects.
    RecoveryNeededReason for RecoveryNeeded {
        /// They have; the status lists them.
        OrphansFound => True,
        /// Every volume has its object.
        NoOrphans => False,
    }
}

/// The reasons of a kind, by the name of the kind.
#[must_use]
pub fn of_kind(kind: &str) -> Vec<Explained> {
    match kind {
        "MasterVolume" => [
            MasterReady::explained(),
            TakenOverReason::explained(),
            SealedReason::explained(),
            InUseReason::explained(),
        ]
        .concat(),
        "VolumeSet" => [
            SetReady::explained(),
            ImageTrustedReason::explained(),
            ResynchronizingReason::explained(),
            IndependentReason::explained(),
            ShadowPublishedReason::explained(),
            SpaceLowReason::explained(),
        ]
        .concat(),
        "SetGroup" => [GroupReady::explained(), ConsistentReason::explained()].concat(),
        "ImagingOperation" => [
            OperationProgress::explained(),
            OperationComplete::explained(),
            OperationFailed::explained(),
            SealedReason::explained(),
            QuiescedReason::explained(),
        ]
        .concat(),
        "DeviceGrant" => GrantReady::explained(),
        "ImagingNode" => {
            [NodeReady::explained(), UpToDateReason::explained(), RecoveryNeededReason::explained()].concat()
        }
        _ => Vec::new(),
    }
}

/// Writes a condition down for the generation it was found for. Returns whether anything is new.
///
/// The time of the last transition moves only with the status, as everybody who watches conditions relies on.
pub fn set(
    conditions: &mut Vec<Condition>,
    reason: &(impl Reason + ?Sized),
    message: impl Into<String>,
    generation: i64,
    now: Time,
) -> bool {
    let mut new = Condition {
        type_: reason.condition().as_str().to_owned(),
        status: reason.status().as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: Some(generation),
        last_transition_time: now,
    };
    let Some(old) = conditions.iter_mut().find(|condition| condition.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let is_new = *old != new;
    *old = new;
    is_new
}

/// Takes a condition away that is there only while it is true. Returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, condition: ConditionType) -> bool {
    let before = conditions.len();
    conditions.retain(|found| found.type_ != condition.as_str());
    conditions.len() < before
}

/// The condition of this type.
#[must_use]
pub fn find(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|found| found.type_ == condition.as_str())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn the_time_of_transition_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, &MasterReady::Starting, "", 1, at(10)));
        assert!(!set(&mut conditions, &MasterReady::Starting, "", 1, at(20)), "nothing is new");
        assert!(set(&mut conditions, &MasterReady::NodeNotReady, "node-a does not answer", 1, at(30)));
        assert_eq!(conditions[0].last_transition_time, at(10));
        assert!(set(&mut conditions, &MasterReady::Live, "", 2, at(40)));
        assert_eq!(conditions[0].last_transition_time, at(40));
        assert!(set(&mut conditions, &InUseReason::Free, "", 2, at(50)));
        assert_eq!(conditions.len(), 2);
        let ready = find(&conditions, ConditionType::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Live"));
        assert!(remove(&mut conditions, ConditionType::Ready));
        assert!(!remove(&mut conditions, ConditionType::Ready));
    }

    #[test]
    fn every_kind_explains_when_it_is_ready() {
        for definition in crate::definitions() {
            let reasons = of_kind(definition.kind());
            // An operation is ready when it is complete, and says so in the words of that.
            let about = if definition.kind() == "ImagingOperation" {
                ConditionType::Complete
            } else {
                ConditionType::Ready
            };
            let good = |reason: &Explained| reason.condition == about && reason.status == Truth::True;
            assert!(reasons.iter().any(good), "{}", definition.kind());
        }
    }
}
