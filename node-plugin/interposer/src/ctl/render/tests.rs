//! What people and programs see, as snapshots. Those of JSON are a promise to programs: fields are only added.

use super::*;
use crate::ctl::command::{LimitsOutcome, ResetOutcome, WaitOutcome};
use crate::ctl::figures::{human_bytes, human_time, percent};
use crate::ctl::progress;
use insta::assert_snapshot;
use umbra_platform::PlatformError;
use umbra_platform::call::{AttachedMaster, Copied, EnabledSet, SetEpoch};
use umbra_platform::id::{CutId, Epoch, MasterId, SetId, SetName};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{
    ChunkCounts, CopyLimits, Deadlines, LastCut, MasterCounters, MasterEntry, MasterState, MasterStatus,
    Mode, Progress, Role, SetEntry, SetFlags, SetPaths, SetState, Status, Unrecordable, WaitReason,
    WaitingFor, Waits,
};
use umbra_platform::time::{Millis, WallTime};
use umbra_platform::value::{ByteCount, ByteRate, ChunkSize, InFlight, QueueDepth, UblkId};

fn master_id() -> MasterId {
    "11111111-1111-4111-8111-111111111111".parse().expect("a UUID")
}

fn set_id() -> SetId {
    "22222222-2222-4222-8222-222222222222".parse().expect("a UUID")
}

fn cut_id() -> CutId {
    "33333333-3333-4333-8333-333333333333".parse().expect("a UUID")
}

fn path<T: std::str::FromStr<Err = umbra_platform::value::InvalidValue>>(text: &str) -> T {
    text.parse().expect("a test's own text")
}

fn name(text: &str) -> SetName {
    SetName { cluster: None, namespace: Some(path("prod")), name: path(text) }
}

pub(in crate::ctl) fn set(text: &str, mode: Mode, state: SetState) -> SetStatus {
    SetStatus {
        id: set_id(),
        name: name(text),
        master: master_id(),
        master_name: path("pg-data"),
        mode,
        state,
        epoch: Epoch(7),
        last_cut: Some(LastCut { id: cut_id(), at: WallTime::from_unix_millis(1_001_059_200_250) }),
        chunk: ChunkSize::default(),
        chunks: ChunkCounts { total: 163_840, held: 20_480, pending: 0, lost: 0, differs: 1 },
        shadow_device: path("/dev/umbra/by-id/22222222-2222-4222-8222-222222222222"),
        paths: SetPaths { master: path("/dev/vdb"), shadow: path("/dev/vdc"), bitmap: path("/dev/vdd") },
        limits: CopyLimits {
            bytes_per_second: Some(ByteRate::new(50 << 20).expect("not 0")),
            in_flight: InFlight::default(),
        },
        deadlines: Deadlines::default(),
        unrecordable: Unrecordable::default(),
        waits: Waits { count: 3, total: Millis(40), longest: Millis(21) },
        flags: SetFlags::default(),
        stalled: None,
    }
}

fn wait(reason: WaitReason, what: &str) -> WaitingFor {
    WaitingFor { reason, what: what.into(), since: WallTime::from_unix_millis(1_001_059_200_250) }
}

fn master(state: MasterState) -> MasterStatus {
    let counters =
        MasterCounters { reads: 1200, writes: 340, flushes: 12, first_writes: 20, ..Default::default() };
    MasterStatus {
        id: master_id(),
        name: path("pg-data"),
        state,
        device: path("/dev/vdb"),
        identity: path("serial:S4EWNX0R"),
        presented: path("/dev/umbra/by-id/11111111-1111-4111-8111-111111111111"),
        size: ByteCount(10 << 30),
        block: ByteCount(512),
        ublk: Some(UblkId::default()),
        queue_depth: QueueDepth::default(),
        sets: vec![set_id()],
        counters,
    }
}

fn copying() -> SetState {
    SetState::Copying(Progress::new(40_960, 163_840, 50 << 20).expect("ordered"))
}

fn troubled() -> Status {
    let offline =
        SetState::Offline { which: Role::Shadow, reason: "write timed out".into(), since: Epoch(7) };
    let mut stalled =
        set("pg-4", Mode::Dependent, SetState::Restoring(Progress::new(5, 9, 0).expect("ordered")));
    stalled.stalled = Some(wait(WaitReason::IoError, "a read of shadow /dev/vdc failed"));
    let blocked = wait(WaitReason::NotThere, "shadow /dev/vde is not there");
    let quarantined = wait(WaitReason::WrittenOutside, "the ext4 on /dev/vdf was mounted elsewhere");
    let aborted = SetState::RestoreAborted(Progress::new(5, 9, 0).expect("ordered"));
    let mut lossy = set("pg-lossy", Mode::Dependent, SetState::Idle);
    lossy.chunks.lost = 2;
    lossy.flags = SetFlags { shadow_written: true, recovered: true, protected: true };
    Status {
        masters: vec![
            master(MasterState::Blocked(blocked.clone())),
            master(MasterState::Quarantined(quarantined)),
            master(MasterState::Failed { reason: "its thread panicked".into() }),
            master(MasterState::Detaching),
        ],
        sets: vec![
            set("pg-1", Mode::Dependent, offline),
            set("pg-2", Mode::Independent, SetState::GivenUp { reason: "bitmap volume failed".into() }),
            set("pg-3", Mode::Dependent, aborted),
            lossy,
            stalled,
            set("pg-5", Mode::Dependent, SetState::Blocked(blocked)),
        ],
    }
}

fn healthy() -> Status {
    let sets =
        vec![set("pg-1", Mode::Dependent, SetState::Idle), set("pg-ind", Mode::Independent, copying())];
    Status { masters: vec![master(MasterState::Serving)], sets }
}

fn map() -> ChunkMap {
    let run = |held, pending, lost| ChunkCounts { total: 4, held, pending, lost, differs: held };
    let columns = vec![run(4, 0, 0), run(1, 0, 0), run(0, 0, 0), run(4, 1, 0), run(0, 4, 1), run(0, 0, 0)];
    ChunkMap { set: set_id(), epoch: Epoch(7), chunk: ChunkSize::default(), columns }
}

fn listed() -> Listing {
    let paths = SetPaths { master: path("/dev/vdb"), shadow: path("/dev/vdc"), bitmap: path("/dev/vdd") };
    Listing {
        masters: vec![MasterEntry {
            id: master_id(),
            name: path("pg-data"),
            device: path("/dev/vdb"),
            presented: path("/dev/umbra/by-id/11111111-1111-4111-8111-111111111111"),
        }],
        sets: vec![SetEntry {
            id: set_id(),
            name: name("pg-1"),
            master: master_id(),
            mode: Mode::Dependent,
            paths,
        }],
        version: None,
    }
}

fn enabled() -> EnabledSet {
    let shadow_device = path("/dev/umbra/by-id/22222222-2222-4222-8222-222222222222");
    EnabledSet { id: set_id(), shadow_device, cut: cut_id(), epoch: Epoch(1) }
}

fn copied_outcome(waited: bool) -> CopyOutcome {
    let sets = vec![SetEpoch { id: set_id(), name: name("pg-1"), epoch: Epoch(8) }];
    let ended = waited.then(|| vec![set("pg-1", Mode::Dependent, SetState::Idle)]);
    CopyOutcome { copied: Copied { cut: cut_id(), sets }, ended }
}

fn small_outputs() -> Vec<Output> {
    let device = path("/dev/umbra/by-id/11111111-1111-4111-8111-111111111111");
    let limits = |limits| Output::Limits(LimitsOutcome { set: name("pg-1"), limits });
    let reset = |reset| Output::Reset(ResetOutcome { set: "prod/pg-1".into(), reset });
    vec![
        Output::Attached(AttachedMaster { id: master_id(), device }),
        Output::Detached { detached: "pg-data".into() },
        Output::Enabled(enabled()),
        Output::Disabled { disabled: "prod/pg-1".into() },
        Output::Copied(copied_outcome(false)),
        Output::Aborted { aborted: "prod/pg-1".into() },
        limits(CopyLimits::default()),
        limits(set("x", Mode::Dependent, SetState::Idle).limits),
        reset(ResetDone::NotNeeded),
        reset(ResetDone::Cut { cut: cut_id(), epoch: Epoch(9) }),
    ]
}

#[test]
fn small_results_for_people() {
    let texts: Vec<String> = small_outputs().iter().map(text).collect();
    assert_snapshot!(texts.join("--\n"));
}

#[test]
fn small_results_for_programs() {
    let lines: String = small_outputs().iter().map(json).collect();
    assert_snapshot!(lines);
}

#[test]
fn copies_that_were_waited_for() {
    let outcome = copied_outcome(true);
    let ended = WaitOutcome { ended: outcome.ended.clone().expect("waited") };
    assert_snapshot!(format!("{}--\n{}", text(&Output::Copied(outcome)), text(&Output::Ended(ended))));
}

#[test]
fn a_healthy_status_for_people() {
    assert_snapshot!(text(&Output::Status(healthy())));
}

#[test]
fn a_troubled_status_for_people() {
    assert_snapshot!(text(&Output::Status(troubled())));
}

#[test]
fn a_status_for_programs() {
    let status = healthy();
    let line = json(&Output::Status(status.clone()));
    assert_eq!(line.lines().count(), 1, "one document per line");
    assert_eq!(json(&Output::Details(status.clone())), line, "the same form for one set");
    assert_eq!(serde_json::from_str::<Status>(&line).expect("our own text"), status);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_snapshot!(serde_json::to_string_pretty(&value).expect("JSON"));
}

#[test]
fn states_for_programs() {
    let states = [healthy(), troubled()].map(|status| status.sets).concat();
    let lines: String = states.iter().map(|set| json(&set.state)).collect();
    assert_snapshot!(lines);
}

#[test]
fn one_set_in_full() {
    let mut status = healthy();
    status.sets.truncate(1);
    assert_snapshot!(text(&Output::Details(status)));
}

#[test]
fn a_list() {
    let (people, programs) = (text(&Output::Listing(listed())), json(&Output::Listing(listed())));
    assert_snapshot!(format!("{people}--\n{programs}"));
    assert_snapshot!("an_empty_list", text(&Output::Listing(Listing::default())));
}

#[test]
fn a_map() {
    let (people, programs) = (text(&Output::Map(map())), json(&Output::Map(map())));
    assert_snapshot!(format!("{people}--\n{programs}"));
}

#[test]
fn errors() {
    let bitmap = path("/dev/vdd");
    let refusal =
        PlatformError::BitmapTooSmall { bitmap, actual: ByteCount(1 << 20), needed: ByteCount(18 << 20) };
    let not_running = ClientError::NotRunning {
        socket: "/run/umbra/io.sock".into(),
        problem: "Connection refused (os error 111)".into(),
    };
    let failed = |state, reason: Option<&str>| CtlError::NotEnded {
        set: name("pg-1"),
        state,
        reason: reason.map(Into::into),
    };
    let all = [
        CtlError::Client(refusal.into()),
        CtlError::Client(not_running),
        failed("copy-aborted", None),
        failed("offline", Some("write timed out")),
        CtlError::Declined,
    ];
    let shown: Vec<String> =
        all.iter().map(failure).map(|failure| failure.text() + &failure.json()).collect();
    assert_snapshot!(shown.join("--\n"));
}

#[test]
fn bars_say_how_long_it_takes() {
    let message = |state| progress::message(&set("x", Mode::Independent, state));
    assert_eq!(message(copying()), "50Mi/s, 2m33s left");
    let unknown = SetState::Restoring(Progress::new(0, 16, 0).expect("ordered"));
    assert_eq!(message(unknown), "1Mi left");
    assert_eq!(message(SetState::Idle), "idle");
}

#[test]
fn numbers_for_people() {
    let sizes = [0, 1, 512, 1000, 4096, 65_537, 1 << 40, (1 << 40) + 1, 1_500_000_000, u64::MAX];
    let shown: Vec<String> = sizes.iter().map(|size| human_bytes(*size)).collect();
    let expected = ["0B", "1B", "512B", "1000B", "4Ki", "65537B", "1Ti", "1.0Ti", "1.3Gi", "15.9Ei"];
    assert_eq!(shown, expected);
    assert_eq!([5, 65, 3700].map(human_time), ["5s", "1m05s", "1h01m"]);
    assert_eq!(percent(0, 0), "0%");
    assert_eq!(percent(1, u64::MAX), "0.1%", "something is not nothing");
    assert_eq!(percent(u64::MAX - 1, u64::MAX), "99.9%", "nearly all is not all");
    assert_eq!(percent(3, 3), "100%");
    assert_eq!(percent(1, 8), "12.5%");
}
