//! Why a call was refused or failed: one enum, one stable reason per variant, and what to do about it.
//!
//! The fields of a variant are the objects and figures that a program needs; [`PlatformError::fields`] and
//! [`PlatformError::from_parts`] are each other's inverse, so that nothing is lost on the wire.

use crate::call::Direction;
use crate::id::{CutId, DeviceIdentity, Epoch, MasterRef, RequestId, SetRef};
use crate::status::{Role, WaitReason, WaitingFor};
use crate::time::{Millis, WallTime};
use crate::value::{ByteCount, ChunkSize, Detail, DevicePath, InvalidValue, Label, Signatures, words};
use std::collections::HashMap;
use std::str::FromStr;
use thiserror::Error;
use tonic::Code;

words! {
    /// A kind of thing that has a name.
    ObjectKind, "kind of object" {
        /// A master.
        Master = "master",
        /// A volume set.
        Set = "set",
        /// A device or file.
        Device = "device",
    }
}

impl ObjectKind {
    /// What to do where there is none of this name.
    fn where_to_look(self, name: &Detail) -> String {
        match self {
            Self::Master => format!(
                "umbra-io ctl list has the names; a device becomes master {name} by umbra-io ctl attach DEVICE --name"
            ),
            Self::Set => "umbra-io ctl list has the names of the sets".into(),
            Self::Device => format!("look whether {name} is spelled right, and whether the device is there"),
        }
    }
}

/// Why a reason and its fields are no [`PlatformError`]: the other side is newer, or not Umbra.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnknownError {
    /// No variant has this reason.
    #[error("unknown reason {0:?}")]
    Reason(String),
    /// A field of the variant is not there.
    #[error("{reason} lacks the field {field}")]
    Missing {
        /// The variant's reason.
        reason: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field of the variant cannot be read.
    #[error("{reason}, field {field}: {problem}")]
    Unreadable {
        /// The variant's reason.
        reason: &'static str,
        /// The field.
        field: &'static str,
        /// Why not.
        problem: String,
    },
}

/// An error of an API: a stable reason, the objects as fields, and what to do, under a domain of its own.
pub trait TypedError: std::fmt::Display + Sized {
    /// The API's name in `google.rpc.ErrorInfo`.
    const DOMAIN: &'static str;
    /// The stable name of the variant.
    fn reason(&self) -> &'static str;
    /// The variant's kind in the terms of gRPC.
    fn code(&self) -> Code;
    /// What a person can do now.
    fn remedy(&self) -> String;
    /// The variant's fields, by name, as text.
    fn fields(&self) -> Vec<(&'static str, String)>;
    /// The error with this reason and these fields.
    ///
    /// # Errors
    /// If there is no such reason, or a field is missing or unreadable.
    fn from_parts(reason: &str, fields: &HashMap<String, String>) -> Result<Self, UnknownError>;
}

/// A type that can be a field of an error.
pub trait Field: Sized {
    /// The value as text.
    fn write(&self) -> String;
    /// The value in a text, or what is wrong with it.
    ///
    /// # Errors
    /// If it holds none.
    fn read(text: &str) -> Result<Self, String>;
}

/// Fields with one text form everywhere.
macro_rules! text_fields {
    ($($ty:ty),+) => {
        $(impl Field for $ty {
            fn write(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|e: <$ty as FromStr>::Err| e.to_string())
            }
        })+
    };
}

text_fields!(
    u64,
    CutId,
    Detail,
    DeviceIdentity,
    DevicePath,
    Direction,
    Epoch,
    MasterRef,
    ObjectKind,
    RequestId
);
text_fields!(ChunkSize, Label, Role, SetRef, Signatures, WaitReason, WallTime);

/// Sizes and times are plain numbers here, bytes and milliseconds: the readers are programs.
macro_rules! number_fields {
    ($($ty:ident),+) => {
        $(impl Field for $ty {
            fn write(&self) -> String {
                self.0.to_string()
            }

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map($ty).map_err(|e: std::num::ParseIntError| e.to_string())
            }
        })+
    };
}

number_fields!(ByteCount, Millis);

/// Reads a field of an error: for [`typed_errors!`](crate::typed_errors).
///
/// # Errors
/// If it is missing or unreadable.
pub fn field<T: Field>(
    fields: &HashMap<String, String>,
    reason: &'static str,
    field: &'static str,
) -> Result<T, UnknownError> {
    let text = fields.get(field).ok_or(UnknownError::Missing { reason, field })?;
    T::read(text).map_err(|problem| UnknownError::Unreadable { reason, field, problem })
}

/// Writes an enum of errors and, from the same table, `match`es over it for reason, code, remedy and both directions
/// of the field form. A variant is one entry: nothing about it is said elsewhere.
#[macro_export]
macro_rules! typed_errors {
    ($(#[$of:meta])* $name:ident of $domain:literal; $(
        $(#[$meta:meta])*
        $variant:ident = $reason:literal, $code:ident, $remedy:literal $(($($arg:expr),+))? { $($(#[$fmeta:meta])* $field:ident: $ty:ty),+ $(,)? }
    )+) => {
        $(#[$of])*
        #[derive(Clone, Debug, PartialEq, Eq, ::thiserror::Error)]
        pub enum $name {
            $($(#[$meta])* $variant { $($(#[$fmeta])* $field: $ty),+ },)+
        }

        impl $name {
            /// Every reason there is.
            pub const REASONS: &'static [&'static str] = &[$($reason),+];

            /// The stable name of the variant, for programs, metrics and conditions.
            pub fn reason(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $reason),+ }
            }

            /// The variant's kind in the terms of gRPC.
            pub fn code(&self) -> ::tonic::Code {
                match self { $(Self::$variant { .. } => ::tonic::Code::$code),+ }
            }

            /// What a person can do now: one sentence without a full stop.
            #[allow(unused_variables, reason = "few remedies name every field")]
            pub fn remedy(&self) -> String {
                match self { $(Self::$variant { $($field),+ } => format!($remedy $(, $($arg),+)?)),+ }
            }

            /// The variant's fields, by name, as text.
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                use $crate::error::Field;
                match self {
                    $(Self::$variant { $($field),+ } => vec![$((stringify!($field), $field.write())),+]),+
                }
            }

            /// The error with this reason and these fields; fields that it does not know are passed over.
            ///
            /// # Errors
            /// If there is no such reason, or a field is missing or unreadable.
            pub fn from_parts(
                reason: &str,
                fields: &::std::collections::HashMap<String, String>,
            ) -> Result<Self, $crate::error::UnknownError> {
                use $crate::error::field;
                match reason {
                    $($reason => Ok(Self::$variant { $($field: field(fields, $reason, stringify!($field))?),+ }),)+
                    other => Err($crate::error::UnknownError::Reason(other.to_owned())),
                }
            }
        }

        impl $crate::error::TypedError for $name {
            const DOMAIN: &'static str = $domain;

            fn reason(&self) -> &'static str {
                $name::reason(self)
            }

            fn code(&self) -> ::tonic::Code {
                $name::code(self)
            }

            fn remedy(&self) -> String {
                $name::remedy(self)
            }

            fn fields(&self) -> Vec<(&'static str, String)> {
                $name::fields(self)
            }

            fn from_parts(
                reason: &str,
                fields: &::std::collections::HashMap<String, String>,
            ) -> Result<Self, $crate::error::UnknownError> {
                $name::from_parts(reason, fields)
            }
        }
    };
}

typed_errors! {
    /// Why a platform call was refused or failed. A refused call has changed nothing.
    ///
    /// The text names the objects; [`PlatformError::remedy`] says what to do.
    PlatformError of "platform.umbra.dev";

    /// There is no such master, set or device.
    #[error("{kind} {name} not found")]
    NotFound = "NOT_FOUND", NotFound, "{}" (kind.where_to_look(name)) {
        /// What was looked for.
        kind: ObjectKind,
        /// By which name.
        name: Detail,
    }

    /// The name is taken by something else.
    #[error("{kind} {name} already exists")]
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists, "choose another name, or take the {kind} {name} away first" {
        /// What was to be made.
        kind: ObjectKind,
        /// Under which name.
        name: Detail,
    }

    /// The device has a part in another set or master. No cascades: a shadow or bitmap is never a master.
    #[error("{device} is already the {role} volume of {owner}")]
    AlreadyInRole = "ALREADY_IN_ROLE", AlreadyExists, "use another device, or take {owner} away first" {
        /// The device.
        device: DevicePath,
        /// The part that it has.
        role: Role,
        /// Name of the set or master that uses it.
        owner: Detail,
    }

    /// Another program or the kernel has claimed the device.
    #[error("{device} is in use: {holder}")]
    VolumeInUse = "VOLUME_IN_USE", FailedPrecondition, "end what uses {device}, or use another device" {
        /// The device.
        device: DevicePath,
        /// Who has it, as far as can be found out: "mounted at /srv; unmount it".
        holder: Detail,
    }

    /// The device is mounted.
    #[error("{device} is mounted on {mount_point}")]
    Mounted = "MOUNTED", FailedPrecondition, "unmount {device} first" {
        /// The device.
        device: DevicePath,
        /// Where.
        mount_point: Detail,
    }

    /// Two volumes of a set are one device.
    #[error("{first} and {second} volume are the same device {device}")]
    SameDevice = "SAME_DEVICE", InvalidArgument, "give the {first} and the {second} volume a device each" {
        /// The device.
        device: DevicePath,
        /// One part.
        first: Role,
        /// The other part.
        second: Role,
    }

    /// The path leads to something that cannot be a volume.
    #[error("{device} cannot be a volume: it is {found}")]
    NotAVolume = "NOT_A_VOLUME", InvalidArgument, "name a block device or a regular file instead of {device}" {
        /// The path.
        device: DevicePath,
        /// What is there: "a directory".
        found: Detail,
    }

    /// The shadow is smaller than the master.
    #[error("shadow {shadow} has {actual}, the master needs {needed}")]
    ShadowTooSmall = "SHADOW_TOO_SMALL", FailedPrecondition, "use a shadow of at least {needed}" {
        /// The shadow.
        shadow: DevicePath,
        /// Its size.
        actual: ByteCount,
        /// The size that it must have at least.
        needed: ByteCount,
    }

    /// The bitmap volume cannot hold the set's state.
    #[error("bitmap volume {bitmap} has {actual}, this set needs {needed}")]
    BitmapTooSmall = "BITMAP_TOO_SMALL", FailedPrecondition, "use a bitmap volume of at least {needed}" {
        /// The bitmap volume.
        bitmap: DevicePath,
        /// Its size.
        actual: ByteCount,
        /// The size that it must have at least.
        needed: ByteCount,
    }

    /// The device cannot be written.
    #[error("{device} is read-only and cannot be a {role} volume")]
    ReadOnlyDevice = "READ_ONLY_DEVICE", FailedPrecondition, "make {device} writable, or use another device" {
        /// The device.
        device: DevicePath,
        /// The part that it was to have.
        role: Role,
    }

    /// A volume's logical block is larger than the master's, or than a chunk (E17).
    #[error("{device} has blocks of {block}, at most {allowed} is possible here")]
    BlockSizeMismatch = "BLOCK_SIZE_MISMATCH", FailedPrecondition, "use a device with logical blocks of at most {allowed}" {
        /// The device.
        device: DevicePath,
        /// Its logical block.
        block: ByteCount,
        /// The largest that would do.
        allowed: ByteCount,
    }

    /// The bitmap volume holds something that is not this set's.
    #[error("bitmap volume {bitmap} holds {found}")]
    BitmapForeign = "BITMAP_FOREIGN", FailedPrecondition, "check that {bitmap} is the device you mean; if nothing on it is needed, disable the set that it belongs to, or overwrite its first 2 MiB with zeros" {
        /// The bitmap volume.
        bitmap: DevicePath,
        /// What it holds: another set, a file system.
        found: Detail,
    }

    /// The bitmap volume is this set's but missed events, so its bits prove nothing.
    #[error("bitmap volume {bitmap} of set {set} is stale: {detail}")]
    BitmapStale = "BITMAP_STALE", DataLoss, "reset set {set}: its bits cannot be trusted any more" {
        /// The bitmap volume.
        bitmap: DevicePath,
        /// The set.
        set: SetRef,
        /// How that was seen.
        detail: Detail,
    }

    /// What the bitmap volume holds fails its checks.
    #[error("bitmap volume {bitmap} is damaged: {detail}")]
    BitmapDamaged = "BITMAP_DAMAGED", DataLoss, "look at it with umbra-io check {bitmap}, which mends with --repair what has a good copy; if that is not enough, disable the set and enable it anew" {
        /// The bitmap volume.
        bitmap: DevicePath,
        /// What failed.
        detail: Detail,
    }

    /// Another node has a session on this volume that it did not close (E7).
    #[error("{device} was last used by node {node}, whose session is open")]
    SessionOpen = "SESSION_OPEN", FailedPrecondition, "detach it on node {node}, or give the shadow up if that node is gone for good" {
        /// The volume.
        device: DevicePath,
        /// The node.
        node: Detail,
    }

    /// The device is not the one that it was.
    #[error("{device} is now {found}, it was {expected}")]
    IdentityChanged = "IDENTITY_CHANGED", FailedPrecondition, "put the device {expected} back to {device}, or name where it is now" {
        /// The device.
        device: DevicePath,
        /// What it was recognised by.
        expected: DeviceIdentity,
        /// What it is recognised by now.
        found: DeviceIdentity,
    }

    /// The device holds something else than what is on record for it: another set's volume, another master's.
    #[error("{device} holds {found}, not {expected}")]
    Foreign = "FOREIGN", FailedPrecondition, "put the right device back to {device}; nothing on it was changed" {
        /// The device.
        device: DevicePath,
        /// What it should hold: "bitmap volume of set prod/pg-1".
        expected: Detail,
        /// What it holds.
        found: Detail,
    }

    /// The device is one that Umbra presents, or stands on one. No cascades (E15).
    #[error("{device} is, or stands on, a device that Umbra presents: {presented}")]
    PresentedDevice = "PRESENTED_DEVICE", InvalidArgument, "name a device that does not stand on one of Umbra's" {
        /// The device.
        device: DevicePath,
        /// Which: "/dev/umbra/by-id/UUID, master pg".
        presented: Detail,
    }

    /// The device is one that has a part already, under another name.
    #[error("{device} is the same device as {known_as}, the {role} volume of {owner}")]
    SameDeviceAs = "SAME_DEVICE_AS", AlreadyExists, "use another device, or take {owner} away first" {
        /// The device, as it was named now.
        device: DevicePath,
        /// As it is on record.
        known_as: DevicePath,
        /// The part that it has.
        role: Role,
        /// Name of the set or master that uses it: "set prod/pg-1".
        owner: Detail,
    }

    /// The name belongs to a master that is not attached, and so in no list.
    #[error("the name {name} belongs to the master on {device}, which is detached")]
    NameTaken = "NAME_TAKEN", AlreadyExists, "choose another name; or attach {device} under another name first" {
        /// The name.
        name: Label,
        /// The device of the master that has it.
        device: DevicePath,
    }

    /// The device is to be overwritten, and holds something that is neither nothing nor Umbra's own.
    #[error("{device}, which is to be the {role} volume, holds {signatures}")]
    HasSignature = "HAS_SIGNATURE", FailedPrecondition, "check that {device} is the device you mean; if what is on it may go, enable with {}" (signatures.flags()) {
        /// The device.
        device: DevicePath,
        /// The part that it was to have.
        role: Role,
        /// What was found.
        signatures: Signatures,
    }

    /// The sets of a master share one chunk size, which its first set has chosen.
    #[error("the sets of master {master} have chunks of {has}, not of {asked}")]
    ChunkSizeFixed = "CHUNK_SIZE_FIXED", FailedPrecondition, "leave --chunk out, or give --chunk {has}" {
        /// The master.
        master: MasterRef,
        /// What was asked for.
        asked: ChunkSize,
        /// What the other sets have.
        has: ChunkSize,
    }

    /// Nothing about the device is unique (E19).
    #[error("{device} has no unique identity, only {identity}")]
    IdentityWeak = "IDENTITY_WEAK", FailedPrecondition, "if {device} is surely the right one, attach it with --accept-weak-identity" {
        /// The device.
        device: DevicePath,
        /// The best that there is.
        identity: DeviceIdentity,
    }

    /// The device has another size than it had.
    #[error("{device} has {found} now, it had {expected}")]
    SizeChanged = "SIZE_CHANGED", FailedPrecondition, "give {device} its {expected} back" {
        /// The device.
        device: DevicePath,
        /// The size that it had.
        expected: ByteCount,
        /// The size that it has.
        found: ByteCount,
    }

    /// The master was written while it was not attached, so images that lean on it are wrong (E19).
    #[error("master {master} was written while it was not attached")]
    MasterWrittenOutside = "MASTER_WRITTEN_OUTSIDE", DataLoss, "{}" (WaitReason::WrittenOutside.remedy(master)) {
        /// The master.
        master: MasterRef,
    }

    /// A restore was interrupted, and nothing tells any more which part of the master it had still to write (E9).
    #[error("the master of set {set} is not whole, and is not served: {detail}")]
    MasterIncomplete = "MASTER_INCOMPLETE", DataLoss, "write a whole image over the master's device, which nothing serves now; take its record out of the state directory; then attach it again" {
        /// The set that the master was restored from.
        set: SetRef,
        /// What happened.
        detail: Detail,
    }

    /// A copy is running: on this set, or a restore on another of its master.
    #[error("a copy {direction} of set {set} is running")]
    Copying = "COPYING", FailedPrecondition, "wait for the copy of set {set}, or abort it" {
        /// The set that is copied.
        set: SetRef,
        /// Which way.
        direction: Direction,
    }

    /// Chunks are pending from a copy that was aborted, so one side is not whole.
    #[error("an aborted copy {direction} of set {set} has {pending} chunks pending")]
    CopyPending = "COPY_PENDING", FailedPrecondition, "issue the copy {direction} of set {set} again and let it end" {
        /// The set.
        set: SetRef,
        /// Which way the copy went.
        direction: Direction,
        /// Chunks still to be copied.
        pending: u64,
    }

    /// Chunks are pending the other way.
    #[error("set {set} has {pending} chunks pending {direction}, the opposite way")]
    OppositePending = "OPPOSITE_PENDING", FailedPrecondition, "issue the copy {direction} of set {set} again and let it end first" {
        /// The set.
        set: SetRef,
        /// The way they are to go.
        direction: Direction,
        /// Chunks still to be copied.
        pending: u64,
    }

    /// Two sets of one restore have the same master.
    #[error("two of the sets restore to the same master {master}")]
    SameMaster = "SAME_MASTER", InvalidArgument, "restore one set of master {master} at a time" {
        /// The master.
        master: MasterRef,
    }

    /// A volume of the set is offline.
    #[error("{role} volume of set {set} is offline: {cause}")]
    Offline = "OFFLINE", FailedPrecondition, "repair the {role} volume, then umbra-io ctl reset {set}; if it is gone for good, umbra-io ctl disable {set} and enable a set on other volumes" {
        /// The set.
        set: SetRef,
        /// Which volume.
        role: Role,
        /// How it failed.
        cause: Detail,
    }

    /// The image was given up so that the master could go on. The set is not served by this process.
    #[error("the image of set {set} was given up: {cause}")]
    GivenUp = "GIVEN_UP", FailedPrecondition, "see to its volumes and start umbra-io again, then umbra-io ctl reset {set}; or umbra-io ctl disable {set}" {
        /// The set.
        set: SetRef,
        /// Why.
        cause: Detail,
    }

    /// The image lacks chunks that could not be kept.
    #[error("the image of set {set} is incomplete: {lost} chunks are lost")]
    Incomplete = "INCOMPLETE", DataLoss, "take a new image (copy or update to shadow); the lost chunks of set {set} do not come back" {
        /// The set.
        set: SetRef,
        /// Chunks lost.
        lost: u64,
    }

    /// Something has a device open that must be free.
    #[error("{device} ({presents}) is open: {openers}")]
    HasOpeners = "HAS_OPENERS", FailedPrecondition, "close {device} everywhere and try again" {
        /// The device.
        device: DevicePath,
        /// What it presents, and by which path: "set prod/pg-1, /dev/umbra/by-id/UUID".
        presents: Detail,
        /// Who has it open.
        openers: Detail,
    }

    /// The image is protected.
    #[error("set {set} is protected")]
    Protected = "PROTECTED", FailedPrecondition, "its image is kept on purpose, and this version cannot lift that; enable another set for a new image" {
        /// The set.
        set: SetRef,
    }

    /// The set is in another epoch than the caller believed.
    #[error("set {set} is in epoch {actual}, not {expected}")]
    StaleEpoch = "STALE_EPOCH", Aborted, "look at set {set} again and decide anew" {
        /// The set.
        set: SetRef,
        /// What the caller believed.
        expected: Epoch,
        /// What it is.
        actual: Epoch,
    }

    /// The cut could not be taken; every image is what it was.
    #[error("cut {cut} is void: {cause}")]
    CutVoid = "CUT_VOID", Aborted, "nothing was changed; try again, and look at what delayed it if it repeats" {
        /// The cut.
        cut: CutId,
        /// Why.
        cause: Detail,
    }

    /// The request id was used for something else.
    #[error("request id {request} was used for another request")]
    RequestReused = "REQUEST_REUSED", InvalidArgument, "send a new request id; {request} is spent" {
        /// The request.
        request: RequestId,
    }

    /// An argument makes no sense.
    #[error("{argument}: {problem}")]
    BadArgument = "BAD_ARGUMENT", InvalidArgument, "correct {argument}" {
        /// Which.
        argument: Detail,
        /// What is wrong with it.
        problem: Detail,
    }

    /// There is no room for one more.
    #[error("{limit}: at most {most} are possible")]
    LimitReached = "LIMIT_REACHED", ResourceExhausted, "take away what is not needed any more" {
        /// Of what: "sets of one master".
        limit: Detail,
        /// How many there can be.
        most: u64,
    }

    /// The host cannot do it.
    #[error("this host cannot do it: {missing}")]
    UnsupportedHost = "UNSUPPORTED_HOST", FailedPrecondition, "provide what is missing, or use another host" {
        /// What it lacks.
        missing: Detail,
    }

    /// It took too long.
    #[error("{operation} did not end within {after}")]
    Deadline = "DEADLINE", DeadlineExceeded, "ask for the status: it may still end; then try again with the same request id" {
        /// What.
        operation: Detail,
        /// The time that it had.
        after: Millis,
    }

    /// A step on a device did not end in time. It may still end.
    #[error("{step} of {device} did not end within {after}")]
    Hung = "HUNG", DeadlineExceeded, "look at the kernel's log for {device}; when it answers again, try again with the same request id" {
        /// The device.
        device: DevicePath,
        /// Which step: "flush of the master".
        step: Detail,
        /// The time that it had.
        after: Millis,
    }

    /// The master exists and is not served now, so that nothing can be asked of it or its sets.
    #[error("master {master} is not served since {since}: {waiting_for}")]
    Blocked = "BLOCKED", Unavailable, "{}" (reason.remedy(master)) {
        /// The master.
        master: MasterRef,
        /// Why, for programs.
        reason: WaitReason,
        /// For what, with the objects.
        waiting_for: Detail,
        /// Since when.
        since: WallTime,
    }

    /// A device or file failed.
    #[error("{operation} of {device} failed: {detail}")]
    Io = "IO", Internal, "look at the kernel's log for {device}; repair or replace it" {
        /// The device or file.
        device: DevicePath,
        /// What was tried: "write of the superblock".
        operation: Detail,
        /// How it failed.
        detail: Detail,
    }

    /// Nobody answers for the interposer, or it was gone before the answer. A change may yet happen.
    #[error("the interposer is away: {problem}")]
    Unavailable = "UNAVAILABLE", Unavailable, "{advice}" {
        /// How that was seen.
        problem: Detail,
        /// What a person can do now.
        advice: Detail,
    }

    /// The interposer is about to stop and takes no more requests.
    #[error("the interposer is stopping: {cause}")]
    Stopping = "STOPPING", Unavailable, "try again when it has started anew" {
        /// Why.
        cause: Detail,
    }
}

impl PlatformError {
    /// The argument of a call is no value of its type.
    pub fn bad_argument(argument: &str, error: &InvalidValue) -> Self {
        Self::BadArgument { argument: argument.into(), problem: error.to_string().into() }
    }

    /// The master exists, and waits for something.
    pub fn blocked(master: MasterRef, wait: &WaitingFor) -> Self {
        let WaitingFor { reason, what, since } = wait.clone();
        Self::Blocked { master, reason, waiting_for: what, since }
    }

    /// There is no such set.
    pub fn no_set(set: &SetRef) -> Self {
        Self::NotFound { kind: ObjectKind::Set, name: set.to_string().into() }
    }

    /// There is no such master.
    pub fn no_master(master: &MasterRef) -> Self {
        Self::NotFound { kind: ObjectKind::Master, name: master.to_string().into() }
    }
}
