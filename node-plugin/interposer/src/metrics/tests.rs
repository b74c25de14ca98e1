use super::*;
use insta::assert_snapshot;
use std::str::FromStr;
use umbra_lifecycle::world::RequestCounters;
use umbra_platform::id::{CutId, Epoch, MasterId, SetId, SetName};
use umbra_platform::status::{
    ChunkCounts, CopyLimits, Deadlines, LastCut, MasterCounters, MasterState, Mode, Progress, Role, SetFlags,
    SetPaths, SetState, Unrecordable, WaitReason, WaitingFor, Waits,
};
use umbra_platform::time::WallTime;
use umbra_platform::value::{ByteCount, ChunkSize, QueueDepth};
use umbra_store::IoCounts;

fn read<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn set(name: &str, state: SetState, epoch: u64) -> SetStatus {
    let cut: CutId = read("33333333-3333-4333-8333-333333333333");
    SetStatus {
        id: read::<SetId>("22222222-2222-4222-8222-222222222222"),
        name: SetName { cluster: None, namespace: Some(read("prod")), name: read(name) },
        master: read::<MasterId>("11111111-1111-4111-8111-111111111111"),
        master_name: read("pg-data"),
        mode: Mode::Dependent,
        state,
        epoch: Epoch(epoch),
        last_cut: (epoch > 0)
            .then_some(LastCut { id: cut, at: WallTime::from_unix_millis(1_001_059_200_250) }),
        chunk: ChunkSize::default(),
        chunks: ChunkCounts { total: 100, held: 10, pending: 20, lost: 3, differs: 40 },
        shadow_device: read("/dev/umbra/by-id/22222222-2222-4222-8222-222222222222"),
        paths: SetPaths { master: read("/dev/vdb"), shadow: read("/dev/vdc"), bitmap: read("/dev/vdd") },
        limits: CopyLimits::default(),
        deadlines: Deadlines::default(),
        unrecordable: Unrecordable::default(),
        waits: Waits::default(),
        flags: SetFlags { shadow_written: true, ..SetFlags::default() },
        stalled: None,
    }
}

fn master() -> MasterStatus {
    MasterStatus {
        id: read("11111111-1111-4111-8111-111111111111"),
        name: read("pg-data"),
        state: MasterState::Serving,
        device: read("/dev/disk/by-id/a\"b\\c"),
        identity: read("serial:S4EWNX0R"),
        presented: read("/dev/umbra/by-id/11111111-1111-4111-8111-111111111111"),
        size: ByteCount(10 << 30),
        block: ByteCount(512),
        ublk: None,
        queue_depth: QueueDepth::default(),
        sets: vec![read("22222222-2222-4222-8222-222222222222")],
        counters: MasterCounters::default(),
    }
}

fn snapshot() -> Snapshot {
    // Every field by name: one that is added must be among the metrics, too.
    let counters = Counters {
        asked: 1,
        write_copies: 2,
        write_copy_bytes: 3,
        background_copies: 4,
        background_bytes: 5,
        journal_blocks: 6,
        records: 7,
        flushes: 8,
        pages: 9,
        superblocks: 10,
        lost_chunks: 11,
        buffer_waits: 12,
        cuts: 13,
        write_restores: 14,
        last_drain_ms: 15,
        last_gate_ms: 16,
    };
    let io = IoCounts { reads: 21, read_bytes: 22, writes: 23, write_bytes: 24, flushes: 25 };
    let master = RequestCounters {
        reads: 31,
        writes: 32,
        flushes: 33,
        discards: 34,
        errors: 35,
        completed: 36,
        buffer_waits: 37,
    };
    Snapshot { sets: Vec::new(), counters, master, io }
}

fn rendered(sets: Vec<SetStatus>) -> String {
    render(&[Seen { master: master(), sets, snapshot: snapshot() }], 24 << 20, 7).unwrap()
}

fn wait() -> WaitingFor {
    WaitingFor { reason: WaitReason::Hung, what: "x".into(), since: WallTime::from_unix_millis(0) }
}

/// Every state that a set can be in.
fn states_of_sets() -> [SetState; 8] {
    let progress = Progress::new(80, 100, 1 << 20).unwrap();
    [
        SetState::Idle,
        SetState::Copying(progress),
        SetState::CopyAborted(progress),
        SetState::Restoring(progress),
        SetState::RestoreAborted(progress),
        SetState::Offline { which: Role::Shadow, reason: "slow".into(), since: Epoch(1) },
        SetState::GivenUp { reason: "gone".into() },
        SetState::Blocked(wait()),
    ]
}

#[test]
fn a_status_as_prometheus_reads_it() {
    let copying = SetState::Copying(Progress::new(80, 100, 1 << 20).unwrap());
    assert_snapshot!(rendered(vec![set("nightly", SetState::Idle, 0), set("weekly", copying, 7)]));
}

#[test]
fn an_idle_interposer_says_what_it_is() {
    let text = render(&[], 1, 2).unwrap();
    assert!(text.contains(concat!("umbra_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")));
    assert_eq!(text.lines().count(), 9, "{text}");
}

#[test]
fn each_state_is_shown_as_one_of_those_known() {
    for state in states_of_sets() {
        let word = state.word();
        let text = rendered(vec![set("x", state, 1)]);
        let shown: Vec<&str> =
            text.lines().filter(|l| l.starts_with("umbra_set_state{") && l.ends_with(" 1")).collect();
        assert_eq!(shown, [format!("umbra_set_state{{set=\"prod/x\",state=\"{word}\"}} 1")]);
        assert_eq!(text.matches("umbra_set_state{").count(), SET_STATES.len());
    }
    let wait = wait();
    for state in [
        MasterState::Serving,
        MasterState::Claiming(wait.clone()),
        MasterState::Recovering(wait.clone()),
        MasterState::Blocked(wait.clone()),
        MasterState::Failed { reason: "x".into() },
        MasterState::Detaching,
        MasterState::Quarantined(wait.clone()),
    ] {
        let line = format!("umbra_master_state{{master=\"pg-data\",state=\"{}\"}} 1\n", state.word());
        let master = MasterStatus { state, ..master() };
        let text = render(&[Seen { master, sets: vec![], snapshot: snapshot() }], 1, 2).unwrap();
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn counters_and_only_they_are_called_total() {
    let sets = states_of_sets().into_iter().enumerate();
    let text = rendered(sets.map(|(number, state)| set(&format!("set-{number}"), state, 1)).collect());
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let wrong: Vec<_> =
        kinds.filter(|(name, kind)| name.ends_with("_total") != (*kind == "counter")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(text.matches("umbra_set_info{").count(), states_of_sets().len());
}
