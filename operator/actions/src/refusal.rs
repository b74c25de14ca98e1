//! Why a command is not carried out, and what can be done about it.

use thiserror::Error;
use umbra_crds::raw_volume::NotRaw;
use umbra_crds::{ClaimName, CutId, ObjectName};

/// Why a command is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The set does not exist.
    #[error("there is no VolumeSet {set} in this namespace")]
    NoSet {
        /// The set.
        set: ObjectName,
    },
    /// The group does not exist.
    #[error("there is no SetGroup {group} in this namespace")]
    NoGroup {
        /// The group.
        group: ObjectName,
    },
    /// This version acts on sets and groups.
    #[error("{name} is neither a VolumeSet nor a SetGroup: exports are not served by this version")]
    NoTarget {
        /// The object.
        name: ObjectName,
    },
    /// Nobody has found out which sets the group has.
    #[error("no controller has found the members of SetGroup {group} yet: is umbra-operator running?")]
    GroupUnseen {
        /// The group.
        group: ObjectName,
    },
    /// The image is protected.
    #[error("the image of {set} is protected: give it up with `kubectl umbra set protect {set} --off`")]
    Protected {
        /// The set.
        set: ObjectName,
    },
    /// An operation has the set to itself.
    #[error(
        "{operation} has {set} to itself: wait with `kubectl umbra wait {set}`, or end its copy with `kubectl umbra abort {set}`"
    )]
    Busy {
        /// The set.
        set: ObjectName,
        /// The operation.
        operation: ObjectName,
    },
    /// A copy to the shadow runs or was broken off.
    #[error(
        "the copy to the shadow of {set} is not complete: wait with `kubectl umbra wait {set}`, or make a new cut"
    )]
    CopyPending {
        /// The set.
        set: ObjectName,
    },
    /// A restore of the master has chunks left.
    #[error(
        "{master} is still being restored from {set}: until that is done its images stay as they are; wait with `kubectl umbra wait {set}`"
    )]
    Restoring {
        /// The master.
        master: ObjectName,
        /// The set it is restored from.
        set: ObjectName,
    },
    /// There is no image.
    #[error("{set} holds no image: make one with `kubectl umbra cut {set}`")]
    NoImage {
        /// The set.
        set: ObjectName,
    },
    /// The image is another one than was asked for.
    #[error(
        "{set} holds cut {held}, not {wanted}: look at it with `kubectl umbra status`, and name the one that is meant"
    )]
    OtherCut {
        /// The set.
        set: ObjectName,
        /// The cut it holds.
        held: CutId,
        /// What was asked for.
        wanted: String,
    },
    /// A text that could mean any cut.
    #[error(
        "{wanted:?} does not say which cut is meant: give its identifier, or at least the first 6 characters of it"
    )]
    VagueCut {
        /// What was asked for.
        wanted: String,
    },
    /// The image was written since the cut.
    #[error(
        "the shadow of {set} was written since its cut: with --allow-written the master becomes what was written"
    )]
    Written {
        /// The set.
        set: ObjectName,
    },
    /// The image is not trusted.
    #[error("the image of {set} is not trusted ({reason}): --allow-untrusted restores it all the same")]
    Untrusted {
        /// The set.
        set: ObjectName,
        /// Why not.
        reason: String,
    },
    /// Chunks of the image are lost.
    #[error("{chunks} chunks of the image of {set} are lost: it cannot be restored from")]
    Incomplete {
        /// The set.
        set: ObjectName,
        /// How many.
        chunks: i64,
    },
    /// The members were not all cut by the last cut of the group.
    #[error(
        "the images of {} are not those of the group's last cut: cut the group, or restore the sets one by one",
        list(sets)
    )]
    NotOneInstant {
        /// The sets whose images are others.
        sets: Vec<ObjectName>,
    },
    /// The group was never cut.
    #[error("SetGroup {group} was never cut: make an image with `kubectl umbra cut group:{group}`")]
    GroupNeverCut {
        /// The group.
        group: ObjectName,
    },
    /// Two members would be copied to one master.
    #[error("{} are images of one master, {master}: it can become only one of them", list(sets))]
    SharedMaster {
        /// The master.
        master: ObjectName,
        /// The sets.
        sets: Vec<ObjectName>,
    },
    /// A set was named for the safety cut of a group, or a group for that of a set.
    #[error(
        "the safety cut of a set is taken by a set, and that of a group by a group, group:NAME: {name} is not of that kind"
    )]
    SafetyOfOtherKind {
        /// What was named.
        name: ObjectName,
    },
    /// No group can take the safety cut.
    #[error(
        "no group can take the safety cut of the masters of {group}{}: create one of another set of each of them and name it with --safety group:NAME, or do without with --no-safety",
        groups(unfit)
    )]
    SafetyGroupNone {
        /// The group that is restored.
        group: ObjectName,
        /// The others, and why not.
        unfit: Vec<(ObjectName, Unfit)>,
    },
    /// The set or group that was named cannot take the safety cut.
    #[error(
        "{set} cannot take the safety cut: {why}; name another with --safety, or do without with --no-safety"
    )]
    SafetyUnfit {
        /// The set.
        set: ObjectName,
        /// Why not.
        why: Unfit,
    },
    /// Several sets, or groups, could take the safety cut.
    #[error(
        "the safety cut could go into any of {}: name one with --safety, or do without with --no-safety",
        list(sets)
    )]
    SafetyAmbiguous {
        /// The sets.
        sets: Vec<ObjectName>,
    },
    /// No set can take the safety cut.
    #[error(
        "no set of {master} can take the safety cut{}: create one and name it with --safety, or do without with --no-safety",
        reasons(unfit)
    )]
    SafetyNone {
        /// The master.
        master: ObjectName,
        /// Its other sets, and why not.
        unfit: Vec<(ObjectName, Unfit)>,
    },
    /// The operation is no restore.
    #[error("{operation} is no restore: there is nothing to undo")]
    NoRestore {
        /// The operation.
        operation: ObjectName,
    },
    /// The restore made no safety cut.
    #[error("{operation} made no safety cut: what the master was before it is kept nowhere")]
    NoSafetyCut {
        /// The operation.
        operation: ObjectName,
    },
    /// The master does not exist.
    #[error("there is no MasterVolume {master} in this namespace")]
    NoMaster {
        /// The master.
        master: ObjectName,
    },
    /// The claim does not exist.
    #[error("there is no claim {claim} in this namespace")]
    NoClaim {
        /// The claim.
        claim: ClaimName,
    },
    /// The claim has no volume whose data could be taken over.
    #[error("claim {claim} is not bound to a volume, or is being deleted: its data must be there")]
    ClaimUnbound {
        /// The claim.
        claim: ClaimName,
    },
    /// Its volume cannot be taken over.
    #[error(transparent)]
    NotRaw(#[from] NotRaw),
    /// Its volume was taken over already.
    #[error("PersistentVolume {volume} was taken over already: release its master first")]
    VolumeTaken {
        /// The volume.
        volume: String,
    },
    /// The claim is another master's.
    #[error("claim {claim} is that of MasterVolume {master}: name that one with --name")]
    ClaimOfMaster {
        /// The claim.
        claim: ClaimName,
        /// The master.
        master: ObjectName,
    },
    /// The master is of another volume.
    #[error("MasterVolume {master} is of another volume: choose another name with --name")]
    OtherMaster {
        /// The master.
        master: ObjectName,
    },
    /// The master is on its way out.
    #[error("MasterVolume {master} is being released: wait until it is gone")]
    MasterReleased {
        /// The master.
        master: ObjectName,
    },
    /// Images lean on the master.
    #[error(
        "VolumeSets stand on {master}: {}; give their images up with `kubectl umbra set delete SET` first",
        list(sets)
    )]
    HasSets {
        /// The master.
        master: ObjectName,
        /// Its sets.
        sets: Vec<ObjectName>,
    },
}

impl Refusal {
    /// Whether a guard refuses what could be done, and not want of an object.
    #[must_use]
    pub fn is_by_guard(&self) -> bool {
        !matches!(
            self,
            Self::NoSet { .. }
                | Self::NoGroup { .. }
                | Self::NoTarget { .. }
                | Self::NoMaster { .. }
                | Self::NoClaim { .. }
        )
    }
}

/// Why a set or a group cannot take a safety cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// It does not exist.
    #[error("it does not exist")]
    Missing,
    /// It is what the restore takes.
    #[error("it holds the image that is to be restored")]
    IsRestored,
    /// It belongs to another master.
    #[error("it is a set of {0}")]
    OtherMaster(ObjectName),
    /// Its image is protected.
    #[error("its image is protected")]
    Protected,
    /// An operation has it to itself.
    #[error("{0} has it to itself")]
    Busy(ObjectName),
    /// A copy is not complete.
    #[error("its copy is not complete")]
    CopyPending,
    /// Pods use its image.
    #[error("pods use its image")]
    InUse,
    /// It is not ready.
    #[error("it is not ready ({0})")]
    NotReady(String),
    /// Its image is with another node.
    #[error("its image is with another node")]
    Exported,
    /// It is being deleted.
    #[error("it is being deleted")]
    Deleted,
    /// It is a group without exactly one set of each master.
    #[error("it does not have one set of each of the masters, and no others")]
    OtherMasters,
    /// It is a group with a set that cannot.
    #[error("its set {0}: {1}")]
    Member(ObjectName, Box<Self>),
}

fn list(sets: &[ObjectName]) -> String {
    sets.iter().map(ObjectName::as_str).collect::<Vec<_>>().join(", ")
}

fn groups(unfit: &[(ObjectName, Unfit)]) -> String {
    if unfit.is_empty() { " (there is no other group)".to_owned() } else { reasons(unfit) }
}

fn reasons(unfit: &[(ObjectName, Unfit)]) -> String {
    if unfit.is_empty() {
        return " (it has no other set)".to_owned();
    }
    let parts: Vec<String> = unfit.iter().map(|(set, why)| format!("{set}: {why}")).collect();
    format!(" ({})", parts.join("; "))
}
