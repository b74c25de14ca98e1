//! Statuses and lists, both ways.

use super::{BadField, InField, pb, read, read_enum, read_opt};
use crate::id::Epoch;
use crate::status::{
    ChunkCounts, LastCut, Listing, MasterCounters, MasterEntry, MasterState, MasterStatus, Progress,
    SetEntry, SetFlags, SetPaths, SetState, SetStatus, Status, WaitingFor, Waits,
};
use crate::time::{Millis, WallTime};
use crate::value::{ByteCount, ChunkSize, QueueDepth, UblkId};

impl From<ChunkCounts> for pb::ChunkCounts {
    fn from(counts: ChunkCounts) -> Self {
        let ChunkCounts { total, held, pending, lost, differs } = counts;
        Self { total, held, pending, lost, differs }
    }
}

impl TryFrom<pb::ChunkCounts> for ChunkCounts {
    type Error = BadField;
    fn try_from(counts: pb::ChunkCounts) -> Result<Self, BadField> {
        let pb::ChunkCounts { total, held, pending, lost, differs } = counts;
        Self { total, held, pending, lost, differs }.checked().within("chunks")
    }
}

impl From<Progress> for pb::Progress {
    fn from(progress: Progress) -> Self {
        Self { done: progress.done(), total: progress.total(), bytes_per_second: progress.bytes_per_second() }
    }
}

impl TryFrom<pb::Progress> for Progress {
    type Error = BadField;
    fn try_from(progress: pb::Progress) -> Result<Self, BadField> {
        Self::new(progress.done, progress.total, progress.bytes_per_second).within("state.progress")
    }
}

impl From<WaitingFor> for pb::WaitingFor {
    fn from(wait: WaitingFor) -> Self {
        Self {
            reason: pb::WaitReason::from(wait.reason).into(),
            what: wait.what.into(),
            since_unix_ms: wait.since.unix_millis(),
        }
    }
}

impl TryFrom<pb::WaitingFor> for WaitingFor {
    type Error = BadField;
    fn try_from(wait: pb::WaitingFor) -> Result<Self, BadField> {
        Ok(Self {
            reason: read_enum::<pb::WaitReason, _>(wait.reason, "waiting_for.reason")?,
            what: wait.what.into(),
            since: WallTime::from_unix_millis(wait.since_unix_ms),
        })
    }
}

impl From<SetState> for pb::SetState {
    fn from(state: SetState) -> Self {
        use pb::set_state::{GivenUp, Idle, Offline, State};
        let state = match state {
            SetState::Idle => State::Idle(Idle {}),
            SetState::Copying(progress) => State::Copying(progress.into()),
            SetState::CopyAborted(progress) => State::CopyAborted(progress.into()),
            SetState::Restoring(progress) => State::Restoring(progress.into()),
            SetState::RestoreAborted(progress) => State::RestoreAborted(progress.into()),
            SetState::Offline { which, reason, since } => State::Offline(Offline {
                which: pb::Role::from(which).into(),
                reason: reason.into(),
                since: since.0,
            }),
            SetState::GivenUp { reason } => State::GivenUp(GivenUp { reason: reason.into() }),
            SetState::Blocked(wait) => State::Blocked(wait.into()),
        };
        Self { state: Some(state) }
    }
}

impl TryFrom<pb::SetState> for SetState {
    type Error = BadField;
    fn try_from(state: pb::SetState) -> Result<Self, BadField> {
        use pb::set_state::State;
        Ok(match state.state.within("state")? {
            State::Idle(_) => Self::Idle,
            State::Copying(progress) => Self::Copying(progress.try_into()?),
            State::CopyAborted(progress) => Self::CopyAborted(progress.try_into()?),
            State::Restoring(progress) => Self::Restoring(progress.try_into()?),
            State::RestoreAborted(progress) => Self::RestoreAborted(progress.try_into()?),
            State::Offline(offline) => Self::Offline {
                which: read_enum::<pb::Role, _>(offline.which, "state.offline.which")?,
                reason: offline.reason.into(),
                since: Epoch(offline.since),
            },
            State::GivenUp(given_up) => Self::GivenUp { reason: given_up.reason.into() },
            State::Blocked(wait) => Self::Blocked(wait.try_into()?),
        })
    }
}

impl From<LastCut> for pb::LastCut {
    fn from(cut: LastCut) -> Self {
        Self { id: cut.id.to_string(), at_unix_ms: cut.at.unix_millis() }
    }
}

impl TryFrom<pb::LastCut> for LastCut {
    type Error = BadField;
    fn try_from(cut: pb::LastCut) -> Result<Self, BadField> {
        Ok(Self { id: read(&cut.id, "last_cut.id")?, at: WallTime::from_unix_millis(cut.at_unix_ms) })
    }
}

impl From<SetPaths> for pb::SetPaths {
    fn from(paths: SetPaths) -> Self {
        Self { master: paths.master.into(), shadow: paths.shadow.into(), bitmap: paths.bitmap.into() }
    }
}

impl TryFrom<pb::SetPaths> for SetPaths {
    type Error = BadField;
    fn try_from(paths: pb::SetPaths) -> Result<Self, BadField> {
        Ok(Self {
            master: read(&paths.master, "paths.master")?,
            shadow: read(&paths.shadow, "paths.shadow")?,
            bitmap: read(&paths.bitmap, "paths.bitmap")?,
        })
    }
}

impl From<SetFlags> for pb::SetFlags {
    fn from(flags: SetFlags) -> Self {
        let SetFlags { shadow_written, recovered, protected } = flags;
        Self { shadow_written, recovered, protected }
    }
}

impl From<pb::SetFlags> for SetFlags {
    fn from(flags: pb::SetFlags) -> Self {
        let pb::SetFlags { shadow_written, recovered, protected } = flags;
        Self { shadow_written, recovered, protected }
    }
}

impl From<Waits> for pb::Waits {
    fn from(waits: Waits) -> Self {
        Self { count: waits.count, total_ms: waits.total.0, longest_ms: waits.longest.0 }
    }
}

impl From<pb::Waits> for Waits {
    fn from(waits: pb::Waits) -> Self {
        Self { count: waits.count, total: Millis(waits.total_ms), longest: Millis(waits.longest_ms) }
    }
}

impl From<SetStatus> for pb::SetStatus {
    fn from(set: SetStatus) -> Self {
        Self {
            id: set.id.to_string(),
            name: Some(set.name.into()),
            master: set.master.to_string(),
            master_name: set.master_name.into(),
            mode: pb::Mode::from(set.mode).into(),
            state: Some(set.state.into()),
            epoch: set.epoch.0,
            last_cut: set.last_cut.map(Into::into),
            chunk_bytes: set.chunk.bytes(),
            chunks: Some(set.chunks.into()),
            shadow_device: set.shadow_device.into(),
            paths: Some(set.paths.into()),
            limits: Some(set.limits.into()),
            deadlines: Some(set.deadlines.into()),
            unrecordable: Some(set.unrecordable.into()),
            waits: Some(set.waits.into()),
            flags: Some(set.flags.into()),
            stalled: set.stalled.map(Into::into),
        }
    }
}

impl TryFrom<pb::SetStatus> for SetStatus {
    type Error = BadField;
    fn try_from(set: pb::SetStatus) -> Result<Self, BadField> {
        Ok(Self {
            id: read(&set.id, "id")?,
            name: set.name.within("name")?.try_into()?,
            master: read(&set.master, "master")?,
            master_name: read(&set.master_name, "master_name")?,
            mode: read_enum::<pb::Mode, _>(set.mode, "mode")?,
            state: set.state.within("state")?.try_into()?,
            epoch: Epoch(set.epoch),
            last_cut: set.last_cut.map(TryInto::try_into).transpose()?,
            chunk: ChunkSize::new(set.chunk_bytes).within("chunk_bytes")?,
            chunks: set.chunks.within("chunks")?.try_into()?,
            shadow_device: read(&set.shadow_device, "shadow_device")?,
            paths: set.paths.within("paths")?.try_into()?,
            limits: set.limits.within("limits")?.try_into()?,
            deadlines: set.deadlines.within("deadlines")?.try_into()?,
            unrecordable: set.unrecordable.within("unrecordable")?.try_into()?,
            waits: set.waits.within("waits")?.into(),
            flags: set.flags.within("flags")?.into(),
            stalled: set.stalled.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<MasterState> for pb::MasterState {
    fn from(state: MasterState) -> Self {
        use pb::master_state::{Detaching, Failed, Serving, State};
        let state = match state {
            MasterState::Serving => State::Serving(Serving {}),
            MasterState::Claiming(wait) => State::Claiming(wait.into()),
            MasterState::Recovering(wait) => State::Recovering(wait.into()),
            MasterState::Blocked(wait) => State::Blocked(wait.into()),
            MasterState::Failed { reason } => State::Failed(Failed { reason: reason.into() }),
            MasterState::Detaching => State::Detaching(Detaching {}),
            MasterState::Quarantined(wait) => State::Quarantined(wait.into()),
        };
        Self { state: Some(state) }
    }
}

impl TryFrom<pb::MasterState> for MasterState {
    type Error = BadField;
    fn try_from(state: pb::MasterState) -> Result<Self, BadField> {
        use pb::master_state::State;
        Ok(match state.state.within("state")? {
            State::Serving(_) => Self::Serving,
            State::Claiming(wait) => Self::Claiming(wait.try_into()?),
            State::Recovering(wait) => Self::Recovering(wait.try_into()?),
            State::Blocked(wait) => Self::Blocked(wait.try_into()?),
            State::Failed(failed) => Self::Failed { reason: failed.reason.into() },
            State::Detaching(_) => Self::Detaching,
            State::Quarantined(wait) => Self::Quarantined(wait.try_into()?),
        })
    }
}

impl From<MasterCounters> for pb::MasterCounters {
    fn from(counters: MasterCounters) -> Self {
        let MasterCounters {
            reads,
            writes,
            flushes,
            discards,
            first_writes,
            copies,
            records,
            waits,
            last_drain_ms,
            last_gate_ms,
        } = counters;
        let waits = Some(waits.into());
        Self {
            reads,
            writes,
            flushes,
            discards,
            first_writes,
            copies,
            records,
            waits,
            last_drain_ms,
            last_gate_ms,
        }
    }
}

impl TryFrom<pb::MasterCounters> for MasterCounters {
    type Error = BadField;
    fn try_from(counters: pb::MasterCounters) -> Result<Self, BadField> {
        let pb::MasterCounters {
            reads,
            writes,
            flushes,
            discards,
            first_writes,
            copies,
            records,
            waits,
            last_drain_ms,
            last_gate_ms,
        } = counters;
        let waits = waits.within("counters.waits")?.into();
        Ok(Self {
            reads,
            writes,
            flushes,
            discards,
            first_writes,
            copies,
            records,
            waits,
            last_drain_ms,
            last_gate_ms,
        })
    }
}

impl From<MasterStatus> for pb::MasterStatus {
    fn from(master: MasterStatus) -> Self {
        Self {
            id: master.id.to_string(),
            name: master.name.into(),
            state: Some(master.state.into()),
            device: master.device.into(),
            identity: master.identity.into(),
            presented: master.presented.into(),
            size_bytes: master.size.0,
            block_bytes: master.block.0,
            ublk_id: master.ublk.map(UblkId::get),
            queue_depth: master.queue_depth.get().into(),
            sets: master.sets.iter().map(ToString::to_string).collect(),
            counters: Some(master.counters.into()),
        }
    }
}

impl TryFrom<pb::MasterStatus> for MasterStatus {
    type Error = BadField;
    fn try_from(master: pb::MasterStatus) -> Result<Self, BadField> {
        let ublk = master.ublk_id.map(|id| UblkId::new(id.into())).transpose();
        Ok(Self {
            id: read(&master.id, "id")?,
            name: read(&master.name, "name")?,
            state: master.state.within("state")?.try_into()?,
            device: read(&master.device, "device")?,
            identity: read(&master.identity, "identity")?,
            presented: read(&master.presented, "presented")?,
            size: ByteCount(master.size_bytes),
            block: ByteCount(master.block_bytes),
            ublk: ublk.within("ublk_id")?,
            queue_depth: QueueDepth::new(master.queue_depth.into()).within("queue_depth")?,
            sets: master.sets.iter().map(|id| read(id, "sets")).collect::<Result<_, _>>()?,
            counters: master.counters.within("counters")?.try_into()?,
        })
    }
}

impl From<Status> for pb::StatusResponse {
    fn from(status: Status) -> Self {
        Self {
            masters: status.masters.into_iter().map(Into::into).collect(),
            sets: status.sets.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::StatusResponse> for Status {
    type Error = BadField;
    fn try_from(status: pb::StatusResponse) -> Result<Self, BadField> {
        Ok(Self {
            masters: status.masters.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            sets: status.sets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<MasterEntry> for pb::MasterEntry {
    fn from(master: MasterEntry) -> Self {
        Self {
            id: master.id.to_string(),
            name: master.name.into(),
            device: master.device.into(),
            presented: master.presented.into(),
        }
    }
}

impl TryFrom<pb::MasterEntry> for MasterEntry {
    type Error = BadField;
    fn try_from(master: pb::MasterEntry) -> Result<Self, BadField> {
        Ok(Self {
            id: read(&master.id, "id")?,
            name: read(&master.name, "name")?,
            device: read(&master.device, "device")?,
            presented: read(&master.presented, "presented")?,
        })
    }
}

impl From<SetEntry> for pb::SetEntry {
    fn from(set: SetEntry) -> Self {
        Self {
            id: set.id.to_string(),
            name: Some(set.name.into()),
            master: set.master.to_string(),
            mode: pb::Mode::from(set.mode).into(),
            paths: Some(set.paths.into()),
        }
    }
}

impl TryFrom<pb::SetEntry> for SetEntry {
    type Error = BadField;
    fn try_from(set: pb::SetEntry) -> Result<Self, BadField> {
        Ok(Self {
            id: read(&set.id, "id")?,
            name: set.name.within("name")?.try_into()?,
            master: read(&set.master, "master")?,
            mode: read_enum::<pb::Mode, _>(set.mode, "mode")?,
            paths: set.paths.within("paths")?.try_into()?,
        })
    }
}

impl From<Listing> for pb::ListResponse {
    fn from(listing: Listing) -> Self {
        Self {
            masters: listing.masters.into_iter().map(Into::into).collect(),
            sets: listing.sets.into_iter().map(Into::into).collect(),
            version: listing.version.map(|version| version.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::ListResponse> for Listing {
    type Error = BadField;
    fn try_from(listing: pb::ListResponse) -> Result<Self, BadField> {
        Ok(Self {
            masters: listing.masters.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            sets: listing.sets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            version: read_opt(Some(listing.version.as_str()).filter(|text| !text.is_empty()), "version")?,
        })
    }
}
