//! What an interposer says about its masters and sets.

use crate::id::{CutId, DeviceIdentity, Epoch, MasterId, SetId, SetName};
use crate::time::{IoDeadline, Millis, WallTime};
use crate::value::{
    ByteCount, ByteRate, ChunkSize, Detail, DevicePath, InFlight, InvalidValue, Label, QueueDepth, UblkId,
    words,
};
use serde::{Deserialize, Serialize};

words! {
    /// How a set keeps its image.
    Mode, "mode" {
        /// A full copy is made in the background; leans on the master until it ends.
        Independent = "independent",
        /// Copy-on-write only; chunks not held are read from the master.
        Dependent = "dependent",
    }
}

words! {
    /// A volume's part in a set.
    Role, "role" {
        /// The volume with the live data.
        Master = "master",
        /// The volume that presents the image.
        Shadow = "shadow",
        /// The volume with the set's durable state.
        Bitmap = "bitmap",
    }
}

words! {
    /// Which way data goes.
    Direction, "direction" {
        /// Master to shadow: a new point in time.
        ToShadow = "to-shadow",
        /// Shadow to master: a restore.
        ToMaster = "to-master",
    }
}

/// One deadline each for I/O on behalf of a master write; the first expiry puts that device offline (E11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// For the shadow volume, in milliseconds.
    #[serde(rename = "shadowMs")]
    pub shadow: IoDeadline,
    /// For the bitmap volume, in milliseconds.
    #[serde(rename = "bitmapMs")]
    pub bitmap: IoDeadline,
}

/// What becomes of a master write when neither bitmap, label nor state directory can record that the shadow
/// is given up (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unrecordable {
    /// How long the write waits for one of them to come back, in milliseconds.
    #[serde(rename = "timeoutMs")]
    pub timeout: IoDeadline,
    /// What follows.
    pub then: UnrecordablePolicy,
}

words! {
    /// What follows when an unrecordable write has waited long enough.
    #[derive(Default)]
    UnrecordablePolicy, "policy" {
        /// The write goes on waiting, and status says so.
        #[default]
        Block = "block",
        /// The write fails with an I/O error.
        FailWrite = "fail-write",
    }
}

/// How fast a set's copier may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyLimits {
    /// Bytes per second; none: as fast as the devices are.
    pub bytes_per_second: Option<ByteRate>,
    /// Chunk runs in flight.
    pub in_flight: InFlight,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    done: u64,
    total: u64,
    bytes_per_second: u64,
}

impl Progress {
    /// `done` of `total` chunks, at this speed (0 while none runs).
    ///
    /// # Errors
    /// If more are done than there are.
    pub fn new(done: u64, total: u64, bytes_per_second: u64) -> Result<Self, InvalidValue> {
        if done > total {
            return Err(InvalidValue::new("progress", format!("{done} done of {total}")));
        }
        Ok(Self { done, total, bytes_per_second })
    }

    /// Chunks copied, or found to need no copy any more.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Chunks that were pending when the copy began.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Speed over the last seconds, in bytes per second.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }
}

words! {
    /// Why something waits.
    WaitReason, "reason of a wait" {
        /// A device is not there.
        NotThere = "not-there",
        /// Somebody else has a device.
        InUse = "in-use",
        /// A device holds something else than it should, or is another device.
        Foreign = "foreign",
        /// A device fails what is asked of it.
        IoError = "io-error",
        /// A device does not answer.
        Hung = "hung",
        /// A device is smaller than it was.
        Shrunk = "shrunk",
        /// What a crash left is being put in order.
        Recovering = "recovering",
        /// What an earlier process has in flight has not landed yet.
        Claiming = "claiming",
        /// The master was written while nobody watched it; somebody must accept that.
        WrittenOutside = "written-outside",
    }
}

impl WaitReason {
    /// What a person can do about it, for the master with this name; a sentence without a full stop.
    pub(crate) fn remedy(self, master: &impl std::fmt::Display) -> String {
        match self {
            Self::NotThere => "bring the device back; it is taken up by itself when it is there".into(),
            Self::InUse => "end what uses the device; it is taken up by itself when it is free".into(),
            Self::Foreign => "put the right device there; it is taken up by itself then".into(),
            Self::IoError | Self::Hung => {
                "look at the kernel's log for the device; it is tried again by itself".into()
            }
            Self::Shrunk => "give the device its size back; it is taken up by itself then".into(),
            Self::Recovering | Self::Claiming => "wait; `umbra-io ctl status` says when it is served".into(),
            Self::WrittenOutside => format!(
                "umbra-io ctl accept {master} --images lost gives its images up, --images changed keeps what they \
                 hold themselves"
            ),
        }
    }
}

/// What keeps something from going on, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// Why, for programs.
    pub reason: WaitReason,
    /// For what, with the objects, for people: "shadow /dev/sdb is not there".
    pub what: Detail,
    /// Since when, by the wall clock of the node.
    pub since: WallTime,
}

/// What a set is doing.
///
/// ```text
///            copy to shadow                    copy to master
///   Idle ─────────────────────> Copying    Idle ──────────────> Restoring
///    ^ ^ <──── nothing pending ──┘ |  ^      ^ <── nothing pending ─┘ |  ^
///    | |                     abort v  | copy |                  abort v  | the same copy
///    | |                     CopyAborted     |              RestoreAborted
///    | └─ reset ── Offline <── a device fails, from anywhere
///    └── reset ── GivenUp <── the image could not be kept, from anywhere
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum SetState {
    /// Nothing is pending. Every command is allowed.
    Idle,
    /// A copy to the shadow runs. Abort, wait and limits are allowed.
    Copying(Progress),
    /// A copy to the shadow was stopped; pending chunks are still read from the master. Only a copy or update
    /// to the shadow is allowed: it takes a new cut.
    CopyAborted(Progress),
    /// A restore runs; both sides read their defined content. No set of this master is cut, enabled, reset or
    /// disabled.
    Restoring(Progress),
    /// A restore was stopped; pending chunks of the master are still read from the shadow. Only its resumption
    /// is allowed.
    RestoreAborted(Progress),
    /// A device of the set failed. Reset is allowed, once the device is well or replaced.
    Offline {
        /// Which one.
        which: Role,
        /// How it failed.
        reason: Detail,
        /// The epoch in which it did.
        since: Epoch,
    },
    /// The image could not be kept and is gone, so that the master could go on. Reset is allowed.
    GivenUp {
        /// Why.
        reason: Detail,
    },
    /// Not served, and nothing is decided about its image: the set, or its master, waits for something, and is
    /// tried again for as long as it takes.
    Blocked(WaitingFor),
}

impl SetState {
    /// How far the copy is, in the states that have one.
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Copying(p) | Self::CopyAborted(p) | Self::Restoring(p) | Self::RestoreAborted(p) => {
                Some(*p)
            }
            Self::Idle | Self::Offline { .. } | Self::GivenUp { .. } | Self::Blocked(_) => None,
        }
    }

    /// Whether a copier is at work.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Copying(_) | Self::Restoring(_))
    }

    /// Which way the running or aborted copy goes.
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Copying(_) | Self::CopyAborted(_) => Some(Direction::ToShadow),
            Self::Restoring(_) | Self::RestoreAborted(_) => Some(Direction::ToMaster),
            Self::Idle | Self::Offline { .. } | Self::GivenUp { .. } | Self::Blocked(_) => None,
        }
    }

    /// One word for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Copying(_) => "copying",
            Self::CopyAborted(_) => "copy-aborted",
            Self::Restoring(_) => "restoring",
            Self::RestoreAborted(_) => "restore-aborted",
            Self::Offline { .. } => "offline",
            Self::GivenUp { .. } => "given-up",
            Self::Blocked(_) => "blocked",
        }
    }
}

/// Chunks of a set, or of a run of it, by kind. A chunk may be of several kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChunkCounts {
    /// All of them.
    pub total: u64,
    /// The shadow side has its own copy (exact).
    pub held: u64,
    /// Still to be copied by the current or an aborted copy (exact).
    pub pending: u64,
    /// The old data could not be kept (exact).
    pub lost: u64,
    /// The two sides may differ since the cut (may say too much).
    pub differs: u64,
}

impl ChunkCounts {
    /// The counts, if no kind has more chunks than there are.
    ///
    /// # Errors
    /// If one has.
    pub fn checked(self) -> Result<Self, InvalidValue> {
        let most = self.held.max(self.pending).max(self.lost).max(self.differs);
        if most > self.total {
            return Err(InvalidValue::new(
                "chunk counts",
                format!("{most} chunks of one kind among {}", self.total),
            ));
        }
        Ok(self)
    }
}

/// The cut that began the present epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastCut {
    /// Its id.
    pub id: CutId,
    /// When it was, by the wall clock of the node.
    pub at: WallTime,
}

/// The volumes of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetPaths {
    /// The physical master.
    pub master: DevicePath,
    /// The shadow volume.
    pub shadow: DevicePath,
    /// The bitmap volume.
    pub bitmap: DevicePath,
}

/// What must be remembered about a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetFlags {
    /// The image was written through the shadow device since the cut.
    pub shadow_written: bool,
    /// The set went through a recovery since the cut.
    pub recovered: bool,
    /// What would replace the image is refused.
    pub protected: bool,
}

/// How often and how long requests waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// Requests that waited: for memory, for a copy, for a record.
    pub count: u64,
    /// Time waited in all, in milliseconds.
    #[serde(rename = "totalMs")]
    pub total: Millis,
    /// The longest wait, in milliseconds.
    #[serde(rename = "longestMs")]
    pub longest: Millis,
}

/// Everything about a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    /// The set.
    pub id: SetId,
    /// Its full name.
    pub name: SetName,
    /// Its master.
    pub master: MasterId,
    /// Its master's name.
    pub master_name: Label,
    /// How it keeps its image.
    pub mode: Mode,
    /// What it is doing.
    pub state: SetState,
    /// Cuts so far. Of a set that is not served, the last number that is known of it.
    pub epoch: Epoch,
    /// The last cut; none before the first.
    pub last_cut: Option<LastCut>,
    /// Unit of tracking, in bytes.
    #[serde(rename = "chunkBytes")]
    pub chunk: ChunkSize,
    /// Chunks by kind.
    pub chunks: ChunkCounts,
    /// The presented shadow device.
    pub shadow_device: DevicePath,
    /// Its volumes.
    pub paths: SetPaths,
    /// How fast its copier may go.
    pub limits: CopyLimits,
    /// Its deadlines.
    pub deadlines: Deadlines,
    /// What becomes of unrecordable writes.
    pub unrecordable: Unrecordable,
    /// Waits on behalf of this set.
    pub waits: Waits,
    /// What must be remembered.
    pub flags: SetFlags,
    /// Why the running copy or restore does not get on; none while it does.
    pub stalled: Option<WaitingFor>,
}

/// Whether a master serves. A master is in the status from its attach to its detach, whatever state it is in.
///
/// ```text
///  attach, start ──> Claiming ──> Recovering ──> Serving ──> Detaching ──> (gone)
///                      ^   │         │   ^          │
///                      │   v         v   │          v
///                      └── Blocked ──────┘<───── Failed
///                            │ written outside
///                            v
///                       Quarantined ── accept ──> Claiming
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum MasterState {
    /// Requests are served.
    Serving,
    /// The device is being claimed; requests wait (E6).
    Claiming(WaitingFor),
    /// What the last process left is being put in order; requests wait (E8).
    Recovering(WaitingFor),
    /// The start cannot go on, and is tried again for as long as it takes; or its thread does not answer. Requests wait.
    Blocked(WaitingFor),
    /// Its thread ended without being told to; requests wait until it is started again.
    Failed {
        /// How.
        reason: Detail,
    },
    /// It is being taken out.
    Detaching,
    /// It was written while nobody watched it, so its images may be wrong; requests wait until somebody accepts
    /// that.
    Quarantined(WaitingFor),
}

impl MasterState {
    /// One word for tables and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Claiming(_) => "claiming",
            Self::Recovering(_) => "recovering",
            Self::Blocked(_) => "blocked",
            Self::Failed { .. } => "failed",
            Self::Detaching => "detaching",
            Self::Quarantined(_) => "quarantined",
        }
    }

    /// What it waits for, in the states that wait.
    pub fn waiting_for(&self) -> Option<&WaitingFor> {
        match self {
            Self::Claiming(wait) | Self::Recovering(wait) | Self::Blocked(wait) | Self::Quarantined(wait) => {
                Some(wait)
            }
            Self::Serving | Self::Failed { .. } | Self::Detaching => None,
        }
    }
}

/// What a master's users and its sets have asked of it since the interposer started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterCounters {
    /// Reads of the presented device.
    pub reads: u64,
    /// Writes, write-zeroes included.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Writes that were the first to a chunk that a set still needed.
    pub first_writes: u64,
    /// Chunks copied before such a write.
    pub copies: u64,
    /// Records written before such a write.
    pub records: u64,
    /// Requests that waited.
    pub waits: Waits,
    /// Milliseconds from the closing of the gate of the last cut until nothing was in flight.
    pub last_drain_ms: u64,
    /// Milliseconds that this gate was closed.
    pub last_gate_ms: u64,
}

/// Everything about a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterStatus {
    /// The master.
    pub id: MasterId,
    /// Its name.
    pub name: Label,
    /// Whether it serves.
    pub state: MasterState,
    /// The physical device.
    pub device: DevicePath,
    /// What the device is recognised by.
    pub identity: DeviceIdentity,
    /// The presented device.
    pub presented: DevicePath,
    /// Its size in bytes.
    #[serde(rename = "sizeBytes")]
    pub size: ByteCount,
    /// Its logical block in bytes.
    #[serde(rename = "blockBytes")]
    pub block: ByteCount,
    /// The ublk device that presents it, where one does.
    pub ublk: Option<UblkId>,
    /// Requests that may be in flight.
    pub queue_depth: QueueDepth,
    /// Its sets.
    pub sets: Vec<SetId>,
    /// What was asked of it.
    pub counters: MasterCounters,
}

/// Masters and sets, each ordered by name.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The masters.
    pub masters: Vec<MasterStatus>,
    /// The sets.
    pub sets: Vec<SetStatus>,
}

/// One line of a list: a master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterEntry {
    /// The master.
    pub id: MasterId,
    /// Its name.
    pub name: Label,
    /// The physical device.
    pub device: DevicePath,
    /// The presented device.
    pub presented: DevicePath,
}

/// One line of a list: a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetEntry {
    /// The set.
    pub id: SetId,
    /// Its full name.
    pub name: SetName,
    /// Its master.
    pub master: MasterId,
    /// How it keeps its image.
    pub mode: Mode,
    /// Its volumes.
    pub paths: SetPaths,
}

/// What is configured, without what it is doing; each ordered by name.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    /// The masters.
    pub masters: Vec<MasterEntry>,
    /// The sets.
    pub sets: Vec<SetEntry>,
    /// The version of the platform, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Label>,
}
