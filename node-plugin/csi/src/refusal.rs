//! Why a call was refused: what the kubelet puts into the events of a pod, so each names the object and what to do.

use umbra_platform::error::Field;
use umbra_platform::value::Detail;
use umbra_platform::{ClientError, typed_errors};

use crate::handle::VolumeHandle;
use crate::path::PlacePath;

/// Types of this crate that are fields of a refusal.
macro_rules! text_fields {
    ($($ty:ty),+) => {
        $(impl Field for $ty {
            fn write(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error: umbra_platform::value::InvalidValue| error.to_string())
            }
        })+
    };
}

text_fields!(VolumeHandle, PlacePath);

typed_errors! {
    /// Why a call of the kubelet was refused or failed. Unless it is said, nothing was changed.
    Refusal of "csi.umbra.dev";

    /// A field of the request is missing or holds nothing usable.
    #[error("{field}: {problem}")]
    BadRequest = "BAD_REQUEST", InvalidArgument, "correct the field {field} of the request; it comes from the PersistentVolume" {
        /// The field.
        field: Detail,
        /// What is wrong with it.
        problem: Detail,
    }

    /// No such volume on this node.
    #[error("there is no volume {volume} on this node")]
    NoSuchVolume = "NO_SUCH_VOLUME", NotFound, "look whether the PersistentVolume names the right handle ({volume}) and the right node" {
        /// The handle as it was sent.
        volume: Detail,
    }

    /// umbra-io does not answer.
    #[error("umbra-io does not answer for volume {volume}: {problem}")]
    InterposerAway = "INTERPOSER_AWAY", Unavailable, "wait, it is tried again; if it lasts, look at the umbra-io pod of this node (volume {volume})" {
        /// The volume.
        volume: VolumeHandle,
        /// How it does not.
        problem: Detail,
    }

    /// The volume's master or set does not serve yet.
    #[error("volume {volume} is not served: {state}: {what}")]
    NotServed = "NOT_SERVED", Unavailable, "wait, it is tried again; `umbra-io ctl status` says what {volume} waits for" {
        /// The volume.
        volume: VolumeHandle,
        /// The state that it is in.
        state: Detail,
        /// What it waits for.
        what: Detail,
    }

    /// There is no block device at the path of the presented device.
    #[error("volume {volume} is not presented: {device} {found}")]
    NotPresented = "NOT_PRESENTED", Unavailable, "wait, it is tried again; if it lasts, look whether umbra-io and umbra-node of this node share /dev ({device})" {
        /// The volume.
        volume: VolumeHandle,
        /// The presented device.
        device: Detail,
        /// What is there.
        found: Detail,
    }

    /// What lies on the device cannot be read.
    #[error("{device} of volume {volume} cannot be read: {problem}")]
    Unreadable = "UNREADABLE", Unavailable, "look at the kernel's log of this node for {device}; it is tried again" {
        /// The volume.
        volume: VolumeHandle,
        /// The presented device.
        device: Detail,
        /// How it failed.
        problem: Detail,
    }

    /// The master was written past Umbra.
    #[error("volume {volume} is in quarantine: {what}")]
    Quarantined = "QUARANTINED", FailedPrecondition, "decide what becomes of the images: kubectl umbra master accept (volume {volume})" {
        /// The volume.
        volume: VolumeHandle,
        /// What was seen.
        what: Detail,
    }

    /// The master is being taken out.
    #[error("volume {volume} is being taken out")]
    Leaving = "LEAVING", FailedPrecondition, "let nothing new use {volume}; it is going away" {
        /// The volume.
        volume: VolumeHandle,
    }

    /// The set has no image to show.
    #[error("volume {volume} has no image: {state}: {what}")]
    NoImage = "NO_IMAGE", FailedPrecondition, "reset the set, which begins a new image (volume {volume})" {
        /// The volume.
        volume: VolumeHandle,
        /// The state that the set is in.
        state: Detail,
        /// Why.
        what: Detail,
    }

    /// An operation that changes what the device reads keeps users out.
    #[error("volume {volume} is sealed by operation {owner} for up to {seconds} s")]
    Sealed = "SEALED", FailedPrecondition, "wait, it is tried again; operation {owner} opens {volume} when it is done, and its seal ends by itself" {
        /// The volume.
        volume: VolumeHandle,
        /// The operation.
        owner: Detail,
        /// The seal's rest.
        seconds: u64,
    }

    /// What lies on the device is no file system that is mounted here.
    #[error("{device} of volume {volume} holds no file system that can be mounted: {found}")]
    NotMountable = "NOT_MOUNTABLE", FailedPrecondition, "make the file system yourself where {device} is meant to have one (ext4, xfs, btrfs): nothing is ever formatted here; or use the volume in Block mode" {
        /// The volume.
        volume: VolumeHandle,
        /// The presented device.
        device: Detail,
        /// All that was found.
        found: Detail,
    }

    /// Another file system than the PersistentVolume says.
    #[error("{device} of volume {volume} holds {found}, the PersistentVolume says {wanted}")]
    OtherFileSystem = "OTHER_FILE_SYSTEM", FailedPrecondition, "name {found} as fsType in the PersistentVolume, or none" {
        /// The volume.
        volume: VolumeHandle,
        /// The presented device.
        device: Detail,
        /// What is there.
        found: Detail,
        /// What was asked for.
        wanted: Detail,
    }

    /// The image carries the same identity as its master, and the kernel would take one for the other.
    #[error("{device} of volume {volume} holds {found} with the same UUID as its master {master}, which is on this node")]
    Twin = "TWIN", FailedPrecondition, "use the image on another node, through a ShadowExport: btrfs, LVM and md take a copy beside its original ({master}) for the original" {
        /// The volume.
        volume: VolumeHandle,
        /// The presented device.
        device: Detail,
        /// What is there.
        found: Detail,
        /// The master.
        master: Detail,
    }

    /// The access mode promises what the volume cannot keep.
    #[error("volume {volume} cannot be used as {mode}")]
    ModeNotPossible = "MODE_NOT_POSSIBLE", FailedPrecondition, "use {volume} on this node only: ReadWriteOnce or ReadWriteOncePod; shadows also ReadOnlyMany" {
        /// The volume.
        volume: VolumeHandle,
        /// The mode.
        mode: Detail,
    }

    /// A shadow that is read-only was asked for to be written.
    #[error("volume {volume} is read-only and was asked for as a writable block device")]
    ReadOnlyShadow = "READ_ONLY_SHADOW", FailedPrecondition, "use the claim with readOnly: true, or give the set of {volume} access ReadWrite" {
        /// The volume.
        volume: VolumeHandle,
    }

    /// It is staged at another path.
    #[error("volume {volume} is staged at {path}")]
    StagedElsewhere = "STAGED_ELSEWHERE", FailedPrecondition, "unstage {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where.
        path: PlacePath,
    }

    /// It is staged there already, in another way.
    #[error("volume {volume} is staged at {path} already, {how}")]
    StagedDifferently = "STAGED_DIFFERENTLY", AlreadyExists, "unstage {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where.
        path: PlacePath,
        /// How.
        how: Detail,
    }

    /// It is not staged there.
    #[error("volume {volume} is not staged at {path}")]
    NotStaged = "NOT_STAGED", FailedPrecondition, "stage {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where it was said to be.
        path: PlacePath,
    }

    /// It is published there already, in another way.
    #[error("volume {volume} is published at {path} already, {how}")]
    PublishedDifferently = "PUBLISHED_DIFFERENTLY", AlreadyExists, "unpublish {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where.
        path: PlacePath,
        /// How.
        how: Detail,
    }

    /// Only one may write, and somebody does.
    #[error("volume {volume} may have one writer, and is published at {path}")]
    PublishedElsewhere = "PUBLISHED_ELSEWHERE", FailedPrecondition, "end the pod that uses {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where.
        path: PlacePath,
    }

    /// Pods use it.
    #[error("volume {volume} is still published at {path}")]
    StillPublished = "STILL_PUBLISHED", FailedPrecondition, "unpublish {volume} at {path} first" {
        /// The volume.
        volume: VolumeHandle,
        /// Where.
        path: PlacePath,
    }

    /// Something else is at the path.
    #[error("{path} is taken: {found}")]
    Occupied = "OCCUPIED", FailedPrecondition, "look what it is, and take it away from {path} if nobody needs it" {
        /// The path.
        path: PlacePath,
        /// What is there.
        found: Detail,
    }

    /// The kernel does not let it go, because somebody uses it. What was to be done before it was done.
    #[error("{path} is in use and stays mounted")]
    InUse = "IN_USE", FailedPrecondition, "end what has files open below {path}; it is tried again" {
        /// The path.
        path: PlacePath,
    }

    /// The volume is not at the path.
    #[error("volume {volume} is not at {path}")]
    NotThere = "NOT_THERE", NotFound, "name a path at which {volume} is staged or published" {
        /// The volume.
        volume: VolumeHandle,
        /// The path as it was sent.
        path: Detail,
    }

    /// Another call for the volume is at work.
    #[error("another call for volume {volume} is at work")]
    Busy = "BUSY", Aborted, "wait; {volume} is asked for again" {
        /// The volume.
        volume: VolumeHandle,
    }

    /// The kernel refused. What was to be done before it was done; the same call goes on from there.
    #[error("{what}: {problem}")]
    Failed = "FAILED", Internal, "look at the kernel's log of this node; the same call goes on where it stopped: {what}" {
        /// What was tried.
        what: Detail,
        /// How it failed.
        problem: Detail,
    }

    /// The ledger cannot be read or written, so nobody would know who uses the volume.
    #[error("the ledger {file} cannot be kept: {problem}")]
    LedgerNotKept = "LEDGER_NOT_KEPT", Internal, "make {file} readable, and the folder that it is in writable" {
        /// The file.
        file: Detail,
        /// What was tried, and how it failed.
        problem: Detail,
    }
}

impl Refusal {
    pub(crate) fn bad_request(field: &str, problem: impl ToString) -> Self {
        Self::BadRequest { field: field.into(), problem: problem.to_string().into() }
    }

    /// What a client of umbra-io was told, for this volume.
    pub(crate) fn of_client(volume: VolumeHandle, error: &ClientError) -> Self {
        match error.reason() {
            "NOT_FOUND" => Self::NoSuchVolume { volume: volume.to_string().into() },
            _ => Self::InterposerAway { volume, problem: error.to_string().into() },
        }
    }
}
