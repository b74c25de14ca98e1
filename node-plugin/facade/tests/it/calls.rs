//! Every call, once, and what it answers.

use crate::node::{Node, about, attach, copy, enable, fence, target};
use tokio_stream::StreamExt;
use umbra_facade::node::SeenFence;
use umbra_facade::{ClientError, FacadeError};
use umbra_platform::PlatformError;
use umbra_platform::call::{
    Abort, AcceptMaster, AcceptedImages, Answer, Cadence, CopyKind, CopySets, DetachMaster, Direction,
    DisableSet, EnableSet, MapQuery, Outcome, Reset, ResetDone, Scope, SetCopyLimits, SetTarget, SetTargets,
    Wait, Watch,
};
use umbra_platform::id::{CutId, Epoch, RequestId, SetId};
use umbra_platform::status::{
    CopyLimits, MasterState, Mode, Role, SetState, SetStatus, Status, WaitReason, WaitingFor,
};
use umbra_platform::time::{Millis, WallTime};
use umbra_platform::value::{ByteRate, Columns, DevicePath, InFlight};

const CHUNK: u64 = 64 << 10;

async fn set_status(node: &Node, set: SetId) -> SetStatus {
    let status: Status = node.console().status(Scope::Set(set.into())).await.expect("a status");
    assert_eq!((status.masters.len(), status.sets.len()), (1, 1));
    assert_eq!(status.masters[0].ublk, None, "how a device is presented is the node's affair");
    status.sets.into_iter().next().expect("one")
}

#[tokio::test]
async fn a_set_lives_from_attach_to_detach() {
    let node = Node::start().await;
    let client = node.operator();
    let call = attach("pg", "/dev/master");
    let master = client.attach(fence(4), call.clone()).await.expect("attach");
    let done = |answer| Ok(Outcome::Done(answer));
    assert_eq!(client.query_op(call.request).await, done(Answer::Attached(master.clone())));

    let call = enable("pg-1", master.id, Mode::Dependent);
    let set = client.enable(fence(4), call.clone()).await.expect("enable");
    assert_eq!(client.query_op(call.request).await, done(Answer::Enabled(set.clone())));

    // A write, a new cut under an id of the caller's, another write, a restore.
    node.fake.write_master(&master.id.into(), 0..2 * CHUNK).expect("a write");
    let columns = Columns::new(4).expect("in bounds");
    let map = client.changed_regions(MapQuery { set: set.id.into(), columns }).await.expect("a map");
    assert_eq!(map.columns.iter().map(|run| run.held).collect::<Vec<_>>(), [2, 0, 0, 0]);
    let cut = CutId::random();
    let sets = SetTarget { set: set.id.into(), expected_epoch: Some(Epoch(1)) }.into();
    let call = CopySets { sets, cut: Some(cut), ..copy(set.id, Direction::ToShadow, CopyKind::Update) };
    let copied = client.copy(fence(4), call.clone()).await.expect("update");
    assert_eq!((copied.cut, copied.sets[0].epoch), (cut, Epoch(2)));
    assert_eq!(client.query_op(call.request).await, done(Answer::Copied(copied)));
    node.fake.write_master(&master.id.into(), 3 * CHUNK..4 * CHUNK).expect("a write");
    let restore = copy(set.id, Direction::ToMaster, CopyKind::Update);
    client.copy(fence(4), restore).await.expect("restore");
    assert!(matches!(set_status(&node, set.id).await.state, SetState::Restoring(_)));
    assert_eq!(node.fake.copy_some(100), 1);
    let wait = Wait { set: set.id.into(), timeout: Millis::from_secs(30) };
    assert_eq!(client.wait(wait).await.expect("it has ended").state, SetState::Idle);

    let inventory = client.list().await.expect("a list");
    assert_eq!((inventory.about, inventory.fence), (about(), SeenFence::Highest(fence(4))));
    let listing = inventory.contents.expect("the platform answers");
    assert_eq!((listing.masters[0].id, listing.sets[0].id), (master.id, set.id));

    let call = DisableSet { request: RequestId::random(), target: target(set.id) };
    client.disable(fence(4), call.clone()).await.expect("disable");
    assert_eq!(client.query_op(call.request).await, done(Answer::Done(())));
    let call = DetachMaster { request: RequestId::random(), master: master.id.into() };
    client.detach(fence(4), call).await.expect("detach");
    assert!(client.list().await.expect("a list").contents.expect("listed").masters.is_empty());
    assert_eq!(client.query_op(RequestId::random()).await, Ok(Outcome::NotSeen));
    node.stop().await;
}

#[tokio::test]
async fn a_copy_is_limited_aborted_and_watched() {
    let (node, _, set) = Node::with_set(Mode::Independent).await;
    let client = node.operator();
    let watch = Watch { scope: Scope::All, cadence: Cadence::OnChange };
    let mut statuses = node.console().watch(watch).await.expect("a watch");
    let first = statuses.next().await.expect("one").expect("a status");
    assert!(matches!(first.sets[0].state, SetState::Copying(_)), "{:?}", first.sets[0].state);
    assert_eq!(first.masters[0].ublk, None);
    let limits = CopyLimits {
        bytes_per_second: Some(ByteRate::new(1 << 20).expect("not 0")),
        in_flight: InFlight::new(4).expect("in bounds"),
    };
    let call = SetCopyLimits { request: RequestId::random(), target: target(set.id), limits };
    client.set_copy_parameters(fence(1), call).await.expect("limits");
    let hasty = Wait { set: set.id.into(), timeout: Millis(1) };
    let late = client.wait(hasty).await.expect_err("nobody copies");
    assert_eq!(late.reason(), "DEADLINE");
    let call = Abort { request: RequestId::random(), target: target(set.id) };
    client.abort(fence(1), call).await.expect("abort");
    let stopped = loop {
        let status = statuses.next().await.expect("more").expect("a status");
        if let SetState::CopyAborted(progress) = status.sets[0].state {
            break (progress, status.sets[0].limits);
        }
    };
    assert_eq!((stopped.0.done(), stopped.1), (0, limits));
    drop(statuses);
    node.stop().await;
}

#[tokio::test]
async fn a_cut_over_several_sets_is_all_or_none() {
    let (node, master, first) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    let mut call = enable("pg-2", master.id, Mode::Dependent);
    call.shadow = "/dev/shadow2".parse().expect("a path");
    call.bitmap = "/dev/bitmap2".parse().expect("a path");
    let second = client.enable(fence(1), call).await.expect("a sibling");
    let both = || CopySets {
        sets: SetTargets::new(vec![target(first.id), target(second.id)]).expect("two"),
        ..copy(first.id, Direction::ToShadow, CopyKind::Update)
    };
    node.fake.give_up(&second.id.into(), "full").expect("a set");
    assert_eq!(client.copy(fence(1), both()).await.expect_err("one is given up").reason(), "GIVEN_UP");
    assert_eq!(set_status(&node, first.id).await.epoch, Epoch(1), "the other was not cut either");
    let call = Reset { request: RequestId::random(), target: target(second.id) };
    let done = client.reset(fence(1), call.clone()).await.expect("reset");
    assert!(matches!(done, ResetDone::Cut { .. }), "{done:?}");
    assert_eq!(client.query_op(call.request).await, Ok(Outcome::Done(Answer::Reset(done))));
    let copied = client.copy(fence(1), both()).await.expect("both");
    assert_eq!(copied.sets.iter().map(|set| set.epoch).collect::<Vec<_>>(), [Epoch(2), Epoch(3)]);
    node.stop().await;
}

#[tokio::test]
async fn offline_and_quarantine_are_told_and_ended() {
    let (node, master, set) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    node.fake.fail_volume(&set.id.into(), Role::Shadow, "timed out").expect("a set");
    let offline = client.copy(fence(1), copy(set.id, Direction::ToShadow, CopyKind::Full)).await;
    assert_eq!(offline.expect_err("offline").reason(), "OFFLINE");
    let wait = WaitingFor {
        reason: WaitReason::WrittenOutside,
        what: "it was written".into(),
        since: WallTime::from_unix_millis(7),
    };
    let quarantined = MasterState::Quarantined(wait.clone());
    node.fake.set_master_state(&master.id.into(), quarantined).expect("a master");
    let refused =
        client.abort(fence(1), Abort { request: RequestId::random(), target: target(set.id) }).await;
    let expected = PlatformError::blocked("pg".parse().expect("a name"), &wait);
    assert_eq!(refused, Err(ClientError::Refused(expected)), "the error arrives as it was");
    let images = AcceptedImages::Lost;
    let call = AcceptMaster { request: RequestId::random(), master: master.id.into(), images };
    client.accept_master(fence(1), call).await.expect("accepted");
    node.stop().await;
}

/// What the node's administrator keeps out is refused in every role, and nothing has changed.
#[tokio::test]
async fn a_device_that_is_not_allowed_is_never_brought_into_use() {
    let mut node = Node::start().await;
    node.allow(|device| !device.as_str().ends_with("other")).await;
    let client = node.operator();
    let denied = |error: ClientError| match error {
        ClientError::Denied(FacadeError::DeviceNotAllowed { device }) => device.to_string(),
        other => panic!("{other}"),
    };
    let refused = client.attach(fence(1), attach("other", "/dev/other")).await.expect_err("as a master");
    assert_eq!(denied(refused), "/dev/other");
    let master = client.attach(fence(1), attach("pg", "/dev/master")).await.expect("this one may");
    let set = enable("pg-1", master.id, Mode::Dependent);
    let other: DevicePath = "/dev/other".parse().expect("a path");
    for set in [EnableSet { shadow: other.clone(), ..set.clone() }, EnableSet { bitmap: other, ..set }] {
        let refused = client.enable(fence(1), set).await.expect_err("as a volume of a set");
        assert_eq!(denied(refused), "/dev/other");
    }
    let status = client.status(Scope::All).await.expect("a status");
    assert_eq!((status.masters.len(), status.sets.len()), (1, 0));
    node.stop().await;
}
