//! What goes out comes back, and what nobody sent is refused and harms nothing.

use super::{BadField, pb};
use crate::call::{
    AcceptMaster, AcceptedImages, AttachMaster, Cadence, CopyKind, CopySets, Direction, EnableSet, MapQuery,
    RecoverShadow, ResetDone, Scope, SetCopyLimits, SetTarget, SetTargets, Watch, WipeSignatures,
};
use crate::id::{CutId, DeviceIdentity, Epoch, IdentityKind, MasterId, RequestId, SetId, SetName, SetRef};
use crate::map::ChunkMap;
use crate::status::*;
use crate::time::{IoDeadline, Millis, WallTime};
use crate::value::*;
use proptest::option::of;
use proptest::prelude::*;
use prost::Message;
use uuid::Uuid;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn label() -> impl Strategy<Value = Label> {
    "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}".prop_map(|text| text.parse().expect("a valid name"))
}

fn path() -> impl Strategy<Value = DevicePath> {
    "/dev/[a-z]{1,12}".prop_map(|text| text.parse().expect("a valid path"))
}

fn detail() -> impl Strategy<Value = Detail> {
    "\\PC{0,60}".prop_map(Detail::from)
}

fn set_name() -> impl Strategy<Value = SetName> {
    (of(label()), of(label()), label()).prop_map(|(cluster, namespace, name)| SetName {
        cluster,
        namespace,
        name,
    })
}

fn deadline() -> impl Strategy<Value = IoDeadline> {
    (1_u64..=3_600_000).prop_map(|ms| IoDeadline::new(Millis(ms)).expect("in bounds"))
}

fn chunk() -> impl Strategy<Value = ChunkSize> {
    (12_u32..=22).prop_map(|shift| ChunkSize::new(1 << shift).expect("in bounds"))
}

fn unrecordable() -> impl Strategy<Value = Unrecordable> {
    (deadline(), any::<bool>()).prop_map(|(timeout, block)| Unrecordable {
        timeout,
        then: if block { UnrecordablePolicy::Block } else { UnrecordablePolicy::FailWrite },
    })
}

fn limits() -> impl Strategy<Value = CopyLimits> {
    (of(1_u64..), 1_u64..=256).prop_map(|(rate, in_flight)| CopyLimits {
        bytes_per_second: rate.map(|rate| ByteRate::new(rate).expect("not 0")),
        in_flight: InFlight::new(in_flight).expect("in bounds"),
    })
}

fn progress() -> impl Strategy<Value = Progress> {
    (any::<u64>(), any::<u64>(), any::<u64>())
        .prop_map(|(a, b, speed)| Progress::new(a.min(b), a.max(b), speed).expect("ordered"))
}

fn waiting_for() -> impl Strategy<Value = WaitingFor> {
    (prop::sample::select(WaitReason::ALL), detail(), 0_u64..1 << 47).prop_map(|(reason, what, since)| {
        WaitingFor { reason, what, since: WallTime::from_unix_millis(since) }
    })
}

fn master_state() -> impl Strategy<Value = MasterState> {
    prop_oneof![
        Just(MasterState::Serving),
        Just(MasterState::Detaching),
        waiting_for().prop_map(MasterState::Claiming),
        waiting_for().prop_map(MasterState::Recovering),
        waiting_for().prop_map(MasterState::Blocked),
        waiting_for().prop_map(MasterState::Quarantined),
        detail().prop_map(|reason| MasterState::Failed { reason }),
    ]
}

fn state() -> impl Strategy<Value = SetState> {
    let role = prop_oneof![Just(Role::Master), Just(Role::Shadow), Just(Role::Bitmap)];
    prop_oneof![
        Just(SetState::Idle),
        progress().prop_map(SetState::Copying),
        progress().prop_map(SetState::CopyAborted),
        progress().prop_map(SetState::Restoring),
        progress().prop_map(SetState::RestoreAborted),
        (role, detail(), any::<u64>()).prop_map(|(which, reason, since)| SetState::Offline {
            which,
            reason,
            since: Epoch(since)
        }),
        detail().prop_map(|reason| SetState::GivenUp { reason }),
        waiting_for().prop_map(SetState::Blocked),
    ]
}

fn counts() -> impl Strategy<Value = ChunkCounts> {
    (any::<u64>(), any::<[u64; 4]>()).prop_map(|(total, [held, pending, lost, differs])| ChunkCounts {
        total,
        held: held.min(total),
        pending: pending.min(total),
        lost: lost.min(total),
        differs: differs.min(total),
    })
}

fn waits() -> impl Strategy<Value = Waits> {
    any::<[u64; 3]>().prop_map(|[count, total, longest]| Waits {
        count,
        total: Millis(total),
        longest: Millis(longest),
    })
}

prop_compose! {
    fn set_status()(
        (id, name, master, master_name) in (uuid(), set_name(), uuid(), label()),
        (independent, state, epoch, cut) in (any::<bool>(), state(), any::<u64>(), of((uuid(), 0_u64..1 << 47))),
        (chunk, chunks, shadow_device, paths) in (chunk(), counts(), path(), (path(), path(), path())),
        (limits, shadow, bitmap, unrecordable) in (limits(), deadline(), deadline(), unrecordable()),
        (waits, [shadow_written, recovered, protected], stalled) in (waits(), any::<[bool; 3]>(), of(waiting_for())),
    ) -> SetStatus {
        SetStatus {
            id: SetId(id),
            name,
            master: MasterId(master),
            master_name,
            mode: if independent { Mode::Independent } else { Mode::Dependent },
            state,
            epoch: Epoch(epoch),
            last_cut: cut.map(|(id, at)| LastCut { id: CutId(id), at: WallTime::from_unix_millis(at) }),
            chunk,
            chunks,
            shadow_device,
            paths: SetPaths { master: paths.0, shadow: paths.1, bitmap: paths.2 },
            limits,
            deadlines: Deadlines { shadow, bitmap },
            unrecordable,
            waits,
            flags: SetFlags { shadow_written, recovered, protected },
            stalled,
        }
    }
}

prop_compose! {
    fn master_status()(
        (id, name, state, device) in (uuid(), label(), master_state(), path()),
        (serial, presented, size, block) in ("[A-Z0-9]{1,20}", path(), any::<u64>(), any::<u64>()),
        (ublk, depth, sets) in (of(0_u64..1 << 20), 1_u64..=128, prop::collection::vec(uuid(), 0..4)),
        (n, waits) in (any::<[u64; 9]>(), waits()),
    ) -> MasterStatus {
        let [reads, writes, flushes, discards, first_writes, copies, records, last_drain_ms, last_gate_ms] = n;
        MasterStatus {
            id: MasterId(id),
            name,
            state,
            device,
            identity: DeviceIdentity::new(IdentityKind::Serial, &serial).expect("valid"),
            presented,
            size: ByteCount(size),
            block: ByteCount(block),
            ublk: ublk.map(|id| UblkId::new(id).expect("in bounds")),
            queue_depth: QueueDepth::new(depth).expect("in bounds"),
            sets: sets.into_iter().map(SetId).collect(),
            counters: MasterCounters { reads, writes, flushes, discards, first_writes, copies, records, waits, last_drain_ms, last_gate_ms },
        }
    }
}

/// Out through bytes, and in again.
fn through<D, W>(value: D) -> D
where
    W: From<D> + Message + Default,
    D: TryFrom<W, Error = BadField>,
{
    let bytes = W::from(value).encode_to_vec();
    W::decode(bytes.as_slice()).expect("our own bytes").try_into().expect("our own message")
}

proptest! {
    #[test]
    fn statuses_come_back(
        sets in prop::collection::vec(set_status(), 0..4),
        masters in prop::collection::vec(master_status(), 0..3),
    ) {
        let status = Status { masters, sets };
        prop_assert_eq!(through::<_, pb::StatusResponse>(status.clone()), status);
    }

    #[test]
    fn statuses_come_back_from_json(set in set_status(), master in master_status()) {
        let status = Status { masters: vec![master], sets: vec![set] };
        let text = serde_json::to_string(&status).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<Status>(&text).expect("our own text"), status);
    }

    #[test]
    fn maps_come_back(set in uuid(), epoch: u64, chunk in chunk(), columns in prop::collection::vec(counts(), 0..9)) {
        let map = ChunkMap { set: SetId(set), epoch: Epoch(epoch), chunk, columns };
        prop_assert_eq!(through::<_, pb::MapResponse>(map.clone()), map);
    }

    #[test]
    fn enables_come_back(
        (request, master, name) in (uuid(), label(), set_name()),
        (shadow, bitmap, chunk, unrecordable) in (path(), path(), of(chunk()), unrecordable()),
        (limit, protected) in (deadline(), any::<bool>()),
        wipe in prop::collection::vec("[a-z0-9_]{1,20}:[A-Za-z0-9._-]{1,40}", 0..4),
    ) {
        let call = EnableSet {
            request: RequestId(request),
            master: crate::id::MasterRef::Name(master),
            name,
            mode: Mode::Dependent,
            shadow,
            bitmap,
            chunk,
            deadlines: Deadlines { shadow: limit, bitmap: IoDeadline::default() },
            unrecordable,
            protected,
            wipe: WipeSignatures::new(wipe.iter().map(|text| text.parse().expect("valid")).collect()).expect("few"),
        };
        prop_assert_eq!(through::<_, pb::EnableSetRequest>(call.clone()), call);
    }

    #[test]
    fn no_bytes_upset_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fn take<D: TryFrom<W, Error = BadField>, W: Message + Default>(bytes: &[u8]) {
            if let Ok(message) = W::decode(bytes) {
                drop(D::try_from(message));
            }
        }
        take::<Status, pb::StatusResponse>(&bytes);
        take::<EnableSet, pb::EnableSetRequest>(&bytes);
        take::<CopySets, pb::CopyRequest>(&bytes);
        take::<AttachMaster, pb::AttachMasterRequest>(&bytes);
        take::<ChunkMap, pb::MapResponse>(&bytes);
    }

    #[test]
    fn mutated_requests_never_upset_the_decoder(at in 0_usize..200, to: u8, cut in 0_usize..200) {
        let mut bytes = pb::CopyRequest::from(copy()).encode_to_vec();
        let index = at % bytes.len();
        bytes[index] = to;
        bytes.truncate(bytes.len() - cut % bytes.len());
        if let Ok(message) = pb::CopyRequest::decode(bytes.as_slice()) {
            drop(CopySets::try_from(message));
        }
    }
}

fn copy() -> CopySets {
    let first = SetTarget { set: SetRef::Id(SetId::random()), expected_epoch: Some(Epoch(0)) };
    let second = SetTarget { set: "prod/pg-1".parse().expect("a valid name"), expected_epoch: None };
    CopySets {
        request: RequestId::random(),
        sets: SetTargets::new(vec![first, second]).expect("two sets"),
        direction: Direction::ToMaster,
        kind: CopyKind::Update,
        cut: Some(CutId::random()),
    }
}

#[test]
fn other_calls_come_back() {
    let cut = copy();
    assert_eq!(through::<_, pb::CopyRequest>(cut.clone()), cut);
    let target = SetTarget { set: SetRef::Id(SetId::random()), expected_epoch: Some(Epoch(7)) };
    let call = SetCopyLimits { request: RequestId::random(), target, limits: CopyLimits::default() };
    assert_eq!(through::<_, pb::SetCopyLimitsRequest>(call.clone()), call);
    let call = RecoverShadow { set: SetRef::Id(SetId::random()), lasts: Millis(30_000) };
    assert_eq!(through::<_, pb::RecoverShadowRequest>(call.clone()), call);
    let attach = AttachMaster {
        request: RequestId::random(),
        device: "/dev/sda".parse().expect("valid"),
        name: "pg".parse().expect("valid"),
        expected_identity: Some("wwid:naa.5".parse().expect("valid")),
        accept_weak_identity: true,
        ublk: Some(UblkId::default()),
        queue_depth: QueueDepth::default(),
    };
    assert_eq!(through::<_, pb::AttachMasterRequest>(attach.clone()), attach);
    for scope in
        [Scope::All, Scope::Master("m".parse().expect("valid")), Scope::Set("s".parse().expect("valid"))]
    {
        for cadence in [Cadence::OnChange, Cadence::Every(Millis(5))] {
            let call = Watch { scope: scope.clone(), cadence };
            assert_eq!(through::<_, pb::WatchRequest>(call.clone()), call);
        }
    }
    for images in [AcceptedImages::Lost, AcceptedImages::Changed] {
        let call = AcceptMaster { request: RequestId::random(), master: "m".parse().expect("valid"), images };
        assert_eq!(through::<_, pb::AcceptMasterRequest>(call.clone()), call);
    }
    let map = MapQuery { set: "s".parse().expect("valid"), columns: Columns::default() };
    assert_eq!(through::<_, pb::MapRequest>(map.clone()), map);
    for done in [ResetDone::NotNeeded, ResetDone::Cut { cut: CutId::random(), epoch: Epoch(3) }] {
        assert_eq!(through::<_, pb::ResetResponse>(done.clone()), done);
    }
}

/// What is missing, empty, unknown or out of bounds is refused by the field's name.
#[test]
fn bad_fields_are_named() {
    let good = || pb::CopyRequest::from(copy());
    let field = |request: pb::CopyRequest| CopySets::try_from(request).expect_err("bad").field;
    assert_eq!(field(pb::CopyRequest { request_id: String::new(), ..good() }), "request_id");
    assert_eq!(field(pb::CopyRequest { sets: Vec::new(), ..good() }), "sets");
    assert_eq!(field(pb::CopyRequest { direction: 0, ..good() }), "direction");
    assert_eq!(field(pb::CopyRequest { direction: 99, ..good() }), "direction");
    assert_eq!(field(pb::CopyRequest { kind: 0, ..good() }), "kind");
    assert_eq!(field(pb::CopyRequest { cut: Some("x".into()), ..good() }), "cut");
    let mut twice = good();
    twice.sets.push(twice.sets[0].clone());
    assert_eq!(field(twice), "sets");
    // What an argument cannot do is refused, not passed over.
    let enable = pb::EnableSetRequest { expected_epoch: Some(1), ..pb::EnableSetRequest::default() };
    assert_eq!(EnableSet::try_from(enable).expect_err("no epoch yet").field, "expected_epoch");
    let deep = pb::AttachMasterRequest {
        request_id: good().request_id,
        device: "/dev/sda".into(),
        name: "pg".into(),
        queue_depth: 4096,
        ..pb::AttachMasterRequest::default()
    };
    assert_eq!(AttachMaster::try_from(deep).expect_err("more than 128").field, "queue_depth");
    let map = pb::MapRequest { set: "s".into(), columns: 0 };
    assert_eq!(MapQuery::try_from(map).expect_err("bad").field, "columns");
    let counts = pb::ChunkCounts { total: 1, held: 2, pending: 0, lost: 0, differs: 0 };
    ChunkCounts::try_from(counts).expect_err("more held than there are");
    let state = pb::SetState { state: None };
    SetState::try_from(state).expect_err("a state of no kind");
}

#[test]
fn outcomes_are_the_same_on_both_ends() {
    use crate::call::{Answer, AttachedMaster, Copied, EnabledSet, Outcome, ResetDone};
    use crate::id::{CutId, MasterId, SetId};
    let device = || "/dev/umbra/by-id/x".parse().expect("a path");
    let (cut, epoch) = (CutId::random(), Epoch(3));
    for outcome in [
        Outcome::NotSeen,
        Outcome::Running,
        Outcome::Unanswered,
        Outcome::Done(Answer::Done(())),
        Outcome::Done(Answer::Attached(AttachedMaster { id: MasterId::random(), device: device() })),
        Outcome::Done(Answer::Enabled(EnabledSet {
            id: SetId::random(),
            shadow_device: device(),
            cut,
            epoch,
        })),
        Outcome::Done(Answer::Copied(Copied { cut, sets: Vec::new() })),
        Outcome::Done(Answer::Reset(ResetDone::NotNeeded)),
        Outcome::Done(Answer::Reset(ResetDone::Cut { cut, epoch })),
    ] {
        assert_eq!(Outcome::try_from(pb::OutcomeResponse::from(outcome.clone())), Ok(outcome));
    }
    assert!(Outcome::try_from(pb::OutcomeResponse { outcome: None }).is_err());
}
