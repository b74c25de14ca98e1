//! What the engine knows, in the words of the platform API. Pure.

use crate::front::FrontCounters;
use crate::masters::Attached;
use crate::reactor::Snapshot;
use crate::state_dir::{MasterRecord, SetRecord};
use crate::volumes::device_path;
use std::ops::Range;
use std::path::Path;
use umbra_engine::{OfflineCause, RunCounts, SetState as EngineState, SetStatus as EngineStatus};
use umbra_platform::id::{CutId, Epoch, MasterId, SetId, SetName};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{
    ChunkCounts, CopyLimits, Deadlines, LastCut, Listing, MasterCounters, MasterEntry, MasterState,
    MasterStatus, Mode, Progress, Role, SetEntry, SetFlags, SetPaths, SetState, SetStatus, Unrecordable,
    UnrecordablePolicy, Waits,
};
use umbra_platform::time::{IoDeadline, Millis, WallTime};
use umbra_platform::value::{
    ByteCount, ByteRate, ChunkSize, DevicePath, InFlight, Label, QueueDepth, UblkId,
};
use uuid::Uuid;

/// A name that was checked when it came in.
pub(crate) fn label(name: &str) -> Label {
    name.parse().unwrap_or_else(|_| "unnamed".parse().expect("a plain word"))
}

/// A set's full name.
pub(crate) fn set_name(set: &SetRecord) -> SetName {
    let optional = |text: &str| text.parse().ok();
    SetName { cluster: optional(&set.cluster), namespace: optional(&set.namespace), name: label(&set.name) }
}

/// Where a device appears.
pub(crate) fn by_id(directory: &Path, id: Uuid) -> DevicePath {
    device_path(&directory.join(id.to_string()))
}

fn paths(master: &MasterRecord, set: &SetRecord) -> SetPaths {
    SetPaths {
        master: device_path(&master.device),
        shadow: device_path(&set.shadow),
        bitmap: device_path(&set.bitmap),
    }
}

fn mode(set: &SetRecord) -> Mode {
    if set.independent { Mode::Independent } else { Mode::Dependent }
}

/// A master and its sets, each ordered as configured.
pub(crate) fn statuses(
    directory: &Path,
    attached: &Attached,
    snapshot: &Snapshot,
) -> (MasterStatus, Vec<SetStatus>) {
    let record = &attached.record;
    let FrontCounters { reads, writes, flushes, discards, .. } = snapshot.master;
    let counters = MasterCounters {
        reads,
        writes,
        flushes,
        discards,
        first_writes: snapshot.counters.asked,
        copies: snapshot.counters.write_copies,
        records: snapshot.counters.records,
        waits: Waits { count: snapshot.counters.buffer_waits, ..Waits::default() },
        last_drain_ms: snapshot.counters.last_drain_ms,
        last_gate_ms: snapshot.counters.last_gate_ms,
    };
    let master = MasterStatus {
        id: MasterId(record.id),
        name: label(&record.name),
        state: MasterState::Serving,
        device: device_path(&record.device),
        identity: crate::service::device_identity(record.identity.as_deref(), &record.device),
        presented: by_id(directory, record.id),
        size: ByteCount(record.size),
        block: ByteCount(u64::from(record.logical_block)),
        ublk: UblkId::new(u64::from(record.ublk_id)).ok(),
        queue_depth: QueueDepth::new(u64::from(record.queue_depth)).unwrap_or_default(),
        sets: record.sets.iter().map(|set| SetId(set.id)).collect(),
        counters,
    };
    let sets = record.sets.iter().map(|set| set_status(directory, attached, snapshot, set)).collect();
    (master, sets)
}

fn set_status(directory: &Path, attached: &Attached, snapshot: &Snapshot, set: &SetRecord) -> SetStatus {
    let record = &attached.record;
    let engine = snapshot.sets.iter().find(|(index, _)| index.0 == set.index).map(|(_, status)| status);
    let deadline = |ms| IoDeadline::new(Millis(ms)).unwrap_or_default();
    let (state, epoch, last_cut, chunks, flags) = match engine {
        Some(engine) => engine_view(engine, set),
        None => unserved_view(attached, set),
    };
    SetStatus {
        id: SetId(set.id),
        name: set_name(set),
        master: MasterId(record.id),
        master_name: label(&record.name),
        mode: mode(set),
        state,
        epoch,
        last_cut,
        chunk: ChunkSize::new(set.chunk_bytes).unwrap_or_default(),
        chunks,
        shadow_device: by_id(directory, set.id),
        paths: paths(record, set),
        limits: CopyLimits {
            bytes_per_second: set.copy_limits.bytes_per_second.and_then(|rate| ByteRate::new(rate).ok()),
            in_flight: InFlight::new(u64::from(set.copy_limits.in_flight)).unwrap_or_default(),
        },
        deadlines: Deadlines {
            shadow: deadline(set.shadow_deadline_ms),
            bitmap: deadline(set.bitmap_deadline_ms),
        },
        unrecordable: Unrecordable {
            timeout: deadline(set.unrecordable_ms),
            then: if set.fail_write { UnrecordablePolicy::FailWrite } else { UnrecordablePolicy::Block },
        },
        waits: Waits::default(),
        flags,
        stalled: None,
    }
}

/// How far a restore is: of what was pending when it began, where that is known.
fn restored(engine: &EngineStatus, set: &SetRecord) -> Progress {
    let total = set.restoring.unwrap_or(engine.chunks).max(engine.pending);
    Progress::new(total - engine.pending, total, 0).expect("no more pending than there are")
}

type View = (SetState, Epoch, Option<LastCut>, ChunkCounts, SetFlags);

fn engine_view(engine: &EngineStatus, set: &SetRecord) -> View {
    let header = &engine.header;
    let epoch = Epoch(header.epoch.0);
    let progress = || {
        let done = engine.chunks - engine.pending;
        Progress::new(done, engine.chunks, 0).expect("no more done than there are")
    };
    let offline = |which, reason: &str| SetState::Offline { which, reason: reason.into(), since: epoch };
    let state = match header.state {
        EngineState::Prepared | EngineState::Dependent | EngineState::Complete | EngineState::Disabled => {
            SetState::Idle
        }
        EngineState::Copying => SetState::Copying(progress()),
        EngineState::CopyAborted => SetState::CopyAborted(progress()),
        EngineState::Restoring => SetState::Restoring(restored(engine, set)),
        EngineState::RestoreAborted => SetState::RestoreAborted(restored(engine, set)),
        EngineState::Offline(OfflineCause::Shadow) => {
            offline(Role::Shadow, "an operation on the shadow failed or was too slow")
        }
        EngineState::Offline(OfflineCause::Bitmap) => offline(
            Role::Bitmap,
            "an operation on the bitmap volume failed or was too slow, or its content is damaged",
        ),
    };
    let cut = LastCut {
        id: CutId(Uuid::from_bytes(header.cut.0)),
        at: WallTime::from_unix_millis(header.cut_unix_ms),
    };
    let chunks = ChunkCounts {
        total: engine.chunks,
        held: engine.held,
        pending: engine.pending,
        lost: engine.lost,
        differs: engine.differs,
    };
    let flags = SetFlags {
        shadow_written: header.shadow_written,
        recovered: header.recovered,
        protected: set.protected,
    };
    (state, epoch, (header.epoch.0 > 0).then_some(cut), chunks, flags)
}

fn unserved_view(attached: &Attached, set: &SetRecord) -> View {
    let reason =
        attached.unserved.get(&set.id).map_or("it is not served", |unserved| unserved.reason.as_str());
    let total = attached.geometry.chunk_count();
    let flags = SetFlags { protected: set.protected, ..SetFlags::default() };
    let chunks = ChunkCounts { total, ..ChunkCounts::default() };
    (SetState::GivenUp { reason: reason.into() }, Epoch(0), None, chunks, flags)
}

/// What is configured.
pub(crate) fn listing(directory: &Path, masters: &[Attached]) -> Listing {
    let mut listing = Listing::default();
    for Attached { record, .. } in masters {
        listing.masters.push(MasterEntry {
            id: MasterId(record.id),
            name: label(&record.name),
            device: device_path(&record.device),
            presented: by_id(directory, record.id),
        });
        listing.sets.extend(record.sets.iter().map(|set| SetEntry {
            id: SetId(set.id),
            name: set_name(set),
            master: MasterId(record.id),
            mode: mode(set),
            paths: paths(record, set),
        }));
    }
    listing.masters.sort_by(|a, b| a.name.cmp(&b.name));
    listing.sets.sort_by(|a, b| a.name.cmp(&b.name));
    listing
}

/// A picture of a set's planes.
pub(crate) fn chunk_map(
    set: &SetRecord,
    engine: &EngineStatus,
    runs: &[Range<u64>],
    counts: &[RunCounts],
) -> ChunkMap {
    let column = |(run, counts): (&Range<u64>, &RunCounts)| {
        let RunCounts { held, pending, lost, differs } = *counts;
        ChunkCounts { total: run.end - run.start, held, pending, lost, differs }
    };
    ChunkMap {
        set: SetId(set.id),
        epoch: Epoch(engine.header.epoch.0),
        chunk: ChunkSize::new(set.chunk_bytes).unwrap_or_default(),
        columns: runs.iter().zip(counts).map(column).collect(),
    }
}
