//! What the engine knows, in the words of the platform API. Pure.

use crate::present::by_id;
use crate::registry::{Phase, Seen, Serving};
use crate::state::{MasterRecord, SetRecord, SetStage};
use crate::words::{device_identity, device_path, label, set_name};
use crate::world::{RequestCounters, Snapshot, World};
use std::ops::Range;
use std::path::Path;
use umbra_engine::{
    OfflineCause, RestoreStop, RunCounts, SetState as EngineState, SetStatus as EngineStatus,
};
use umbra_platform::id::{CutId, Epoch, MasterId, SetId};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{
    ChunkCounts, CopyLimits, Deadlines, LastCut, Listing, MasterCounters, MasterEntry, MasterState,
    MasterStatus, Mode, Progress, Role, SetEntry, SetFlags, SetPaths, SetState, SetStatus, Unrecordable,
    UnrecordablePolicy, WaitReason, WaitingFor, Waits,
};
use umbra_platform::time::{IoDeadline, Millis, WallTime};
use umbra_platform::value::{ByteCount, ByteRate, ChunkSize, InFlight, QueueDepth, UblkId};
use uuid::Uuid;

fn paths(master: &MasterRecord, set: &SetRecord) -> SetPaths {
    SetPaths {
        master: device_path(&master.device),
        shadow: device_path(&set.shadow.device),
        bitmap: device_path(&set.bitmap.device),
    }
}

fn mode(set: &SetRecord) -> Mode {
    if set.independent { Mode::Independent } else { Mode::Dependent }
}

fn counters(snapshot: &Snapshot) -> MasterCounters {
    let RequestCounters { reads, writes, flushes, discards, .. } = snapshot.master;
    MasterCounters {
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
    }
}

fn master_state<W: World>(phase: &Phase<W>) -> MasterState {
    match phase {
        Phase::Claiming(wait) => MasterState::Claiming(wait.clone()),
        Phase::Recovering(wait) => MasterState::Recovering(wait.clone()),
        Phase::Blocked(wait) => MasterState::Blocked(wait.clone()),
        Phase::Quarantined(wait) => MasterState::Quarantined(wait.clone()),
        Phase::Serving(_) => MasterState::Serving,
        Phase::Failed(reason) => MasterState::Failed { reason: reason.as_str().into() },
        Phase::Detaching => MasterState::Detaching,
    }
}

/// A master and its sets, each ordered as configured. `snapshot`: what its thread says, if it is served.
pub(crate) fn statuses<W: World>(
    names: &Path,
    seen: &Seen<W>,
    snapshot: Option<&Snapshot>,
) -> (MasterStatus, Vec<SetStatus>) {
    let record = &seen.record;
    let number = match &seen.phase {
        Phase::Serving(serving) => serving.presented.get(&record.id).copied(),
        _ => None,
    };
    let master = MasterStatus {
        id: MasterId(record.id),
        name: label(&record.name),
        state: master_state(&seen.phase),
        device: device_path(&record.device),
        identity: device_identity(record.identity.as_deref(), &record.device),
        presented: by_id(names, record.id),
        size: ByteCount(record.size),
        block: ByteCount(u64::from(record.logical_block)),
        ublk: number.and_then(|number| UblkId::new(u64::from(number)).ok()),
        queue_depth: QueueDepth::new(u64::from(record.queue_depth)).unwrap_or_default(),
        sets: record.sets.iter().map(|set| SetId(set.id)).collect(),
        counters: snapshot.map(counters).unwrap_or_default(),
    };
    let sets = record.sets.iter().map(|set| set_status(names, seen, snapshot, set)).collect();
    (master, sets)
}

fn set_status<W: World>(
    names: &Path,
    seen: &Seen<W>,
    snapshot: Option<&Snapshot>,
    set: &SetRecord,
) -> SetStatus {
    let record = &seen.record;
    let of = |snapshot: &Snapshot| {
        snapshot.sets.iter().find(|(index, _)| index.0 == set.index).map(|(_, status)| *status)
    };
    let engine = snapshot.and_then(of);
    let deadline = |ms| IoDeadline::new(Millis(ms)).unwrap_or_default();
    let (state, epoch, last_cut, chunks, flags) = match (&engine, &seen.phase) {
        // It is out of order for good, and something of it is left.
        (Some(engine), Phase::Serving(serving))
            if engine.header.state == EngineState::Disabled || set.stage == SetStage::Disabling =>
        {
            unserved_view(serving, set)
        }
        (Some(engine), _) => engine_view(engine, set),
        (None, Phase::Serving(serving)) => unserved_view(serving, set),
        (None, _) => waiting_view(seen, set),
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
        shadow_device: by_id(names, set.id),
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
        stalled: engine.as_ref().and_then(stalled),
        flags,
    }
}

/// Why a restore stands still, if it does. When it came to stand nobody notes: it was not before its cut.
fn stalled(engine: &EngineStatus) -> Option<WaitingFor> {
    let what = standstill(engine.restore?.stands?);
    let since = WallTime::from_unix_millis(engine.header.cut_unix_ms);
    Some(WaitingFor { reason: WaitReason::IoError, what: what.into(), since })
}

/// A restore that stands still, in words.
pub(crate) fn standstill(stop: RestoreStop) -> &'static str {
    match stop {
        RestoreStop::Aborted => "the restore was aborted; give the same command again to go on",
        RestoreStop::Master => {
            "the master does not take what is restored; see to it, abort, and restore again"
        }
        RestoreStop::Shadow => {
            "the shadow that is restored from has failed; see to it, abort, and restore again"
        }
        RestoreStop::Unreadable => {
            "what is left cannot be read from the shadow; overwrite it on the master, or see to the shadow, abort, \
             and restore again"
        }
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

fn chunk_total(record: &MasterRecord) -> u64 {
    record.geometry().map_or(0, |geometry| geometry.chunk_count())
}

fn unserved_view<W: World>(serving: &Serving<W>, set: &SetRecord) -> View {
    let unserved = serving.unserved.get(&set.id);
    let reason = match (unserved, set.stage) {
        (Some(unserved), _) => unserved.reason.as_str(),
        (None, SetStage::Enabling) => "it is being enabled",
        (None, SetStage::Disabling) => "it is to be gone, and something of it is left: disable it again",
        (None, SetStage::Enabled) => "it is not served",
    };
    let total = serving.geometry.chunk_count();
    let flags = SetFlags { protected: set.protected, ..SetFlags::default() };
    let chunks = ChunkCounts { total, ..ChunkCounts::default() };
    let epoch = Epoch(unserved.map_or(0, |unserved| unserved.epoch));
    (SetState::GivenUp { reason: reason.into() }, epoch, None, chunks, flags)
}

/// A set whose master is not served: nothing is decided about it.
fn waiting_view<W: World>(seen: &Seen<W>, set: &SetRecord) -> View {
    let Seen { record, phase, since } = seen;
    let wait = match phase {
        Phase::Claiming(wait) | Phase::Recovering(wait) | Phase::Blocked(wait) | Phase::Quarantined(wait) => {
            wait.clone()
        }
        Phase::Serving(_) | Phase::Failed(_) | Phase::Detaching => WaitingFor {
            reason: WaitReason::Recovering,
            what: "its master is not served".into(),
            since: *since,
        },
    };
    let flags = SetFlags { protected: set.protected, ..SetFlags::default() };
    let chunks = ChunkCounts { total: chunk_total(record), ..ChunkCounts::default() };
    (SetState::Blocked(wait), Epoch(0), None, chunks, flags)
}

/// What is configured.
pub(crate) fn listing(names: &Path, records: &[MasterRecord]) -> Listing {
    let mut listing = Listing { version: Some(label(env!("CARGO_PKG_VERSION"))), ..Listing::default() };
    for record in records {
        listing.masters.push(MasterEntry {
            id: MasterId(record.id),
            name: label(&record.name),
            device: device_path(&record.device),
            presented: by_id(names, record.id),
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
