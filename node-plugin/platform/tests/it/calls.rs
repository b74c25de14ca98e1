//! Every call, over a real socket: what it answers, what it refuses, and that it happens once.

use crate::node::{Node, attach, copy, enable, set, target};
use tokio_stream::StreamExt;
use umbra_platform::call::{
    Abort, AcceptMaster, AcceptedImages, Cadence, CopyKind, CopySets, DetachMaster, Direction, DisableSet,
    EnableSet, MapQuery, Reset, ResetDone, Scope, SetCopyLimits, SetTarget, SetTargets, Wait, Watch,
    WipeSignatures,
};
use umbra_platform::fake::{Content, FakeDevice};
use umbra_platform::id::{CutId, Epoch, MasterRef, RequestId};
use umbra_platform::status::{
    CopyLimits, MasterState, Mode, Role, SetState, SetStatus, WaitReason, WaitingFor,
};
use umbra_platform::time::{Millis, WallTime};
use umbra_platform::value::{ByteCount, ByteRate, ChunkSize, Columns, InFlight, Signature};
use umbra_platform::{ClientError, PlatformError};

const CHUNK: u64 = 64 << 10;

fn reason<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> &'static str {
    match answer {
        Err(ClientError::Refused(error)) => error.reason(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn status_of(node: &Node, name: &str) -> SetStatus {
    let status = node.client.status(Scope::Set(set(name))).await.expect("a status");
    assert_eq!((status.masters.len(), status.sets.len()), (1, 1));
    status.sets.into_iter().next().expect("one set")
}

fn abort(name: &str) -> Abort {
    Abort { request: RequestId::random(), target: target(name) }
}

fn reset(name: &str) -> Reset {
    Reset { request: RequestId::random(), target: target(name) }
}

fn disable(name: &str) -> DisableSet {
    DisableSet { request: RequestId::random(), target: target(name) }
}

#[tokio::test]
async fn a_dependent_set_lives_from_attach_to_detach() {
    let node = Node::start().await;
    let master = node.client.attach_master(attach("pg", "/dev/master")).await.expect("attach");
    assert_eq!(master.device.as_str(), format!("/dev/umbra/by-id/{}", master.id));
    let enabled = node.client.enable_set(enable("pg-1", Mode::Dependent)).await.expect("enable");
    assert_eq!(enabled.epoch, Epoch(1));

    node.fake.write_master(&master.id.into(), 0..2 * CHUNK).expect("a write");
    let set = status_of(&node, "pg-1").await;
    assert_eq!((set.state.clone(), set.chunks.held, set.chunks.total), (SetState::Idle, 2, 16));
    assert_eq!(set.last_cut.expect("a cut").id, enabled.cut);

    // A new point in time, then a restore of one changed chunk.
    let cut = CutId::random();
    let call = CopySets { cut: Some(cut), ..copy("pg-1", Direction::ToShadow, CopyKind::Update) };
    let copied = node.client.copy(call).await.expect("update");
    assert_eq!((copied.cut, copied.sets[0].epoch), (cut, Epoch(2)));
    node.fake.write_master(&master.id.into(), 3 * CHUNK..4 * CHUNK).expect("a bad migration");
    node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await.expect("restore");
    let restoring = status_of(&node, "pg-1").await;
    assert!(matches!(restoring.state, SetState::Restoring(p) if (p.done(), p.total()) == (0, 1)));
    assert_eq!(node.fake.copy_some(100), 1);
    assert_eq!(status_of(&node, "pg-1").await.state, SetState::Idle);

    node.client.disable_set(disable("pg-1")).await.expect("disable");
    let detach = DetachMaster { request: RequestId::random(), master: master.id.into() };
    node.client.detach_master(detach).await.expect("detach");
    let listing = node.client.list().await.expect("a list");
    assert!(listing.masters.is_empty() && listing.sets.is_empty());
    node.stop().await;
}

#[tokio::test]
async fn an_independent_copy_can_be_limited_aborted_and_waited_for() {
    let (node, _enabled) = Node::with_set(Mode::Independent).await;
    let limits = CopyLimits {
        bytes_per_second: Some(ByteRate::new(1 << 20).expect("not 0")),
        in_flight: InFlight::new(4).expect("in bounds"),
    };
    let call = SetCopyLimits { request: RequestId::random(), target: target("pg-1"), limits };
    node.client.set_copy_limits(call).await.expect("limits");
    node.fake.copy_some(6);
    let set = status_of(&node, "pg-1").await;
    assert_eq!(set.limits, limits);
    assert!(matches!(set.state, SetState::Copying(p) if (p.done(), p.total()) == (6, 16)), "{:?}", set.state);

    assert_eq!(reason(node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Full)).await), "COPYING");
    assert_eq!(reason(node.client.disable_set(disable("pg-1")).await), "COPYING");
    let endless = Wait { set: set.id.into(), timeout: Millis(u64::MAX) };
    let some_time = std::time::Duration::from_millis(30);
    tokio::time::timeout(some_time, node.client.wait(endless))
        .await
        .expect_err("it waits, and does not panic");
    let hasty = Wait { set: set.id.into(), timeout: Millis(30) };
    assert_eq!(reason(node.client.wait(hasty).await), "DEADLINE");

    node.client.abort(abort("pg-1")).await.expect("abort");
    node.client.abort(abort("pg-1")).await.expect("nothing left to abort is no error");
    assert!(matches!(status_of(&node, "pg-1").await.state, SetState::CopyAborted(_)));
    let back = node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await;
    assert_eq!(reason(back), "OPPOSITE_PENDING");
    assert_eq!(reason(node.client.disable_set(disable("pg-1")).await), "COPY_PENDING");

    node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await.expect("goes on");
    let client = node.client.clone();
    let waiting = tokio::spawn(async move {
        client.wait(Wait { set: set.id.into(), timeout: Millis::from_secs(30) }).await
    });
    while node.fake.copy_some(3) > 0 {
        tokio::task::yield_now().await;
    }
    let ended = waiting.await.expect("no panic").expect("it ended");
    assert_eq!((ended.state, ended.chunks.pending), (SetState::Idle, 0));
    node.client.disable_set(disable("pg-1")).await.expect("a plain image is left");
    node.stop().await;
}

#[tokio::test]
async fn repeated_requests_happen_once() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let call = copy("pg-1", Direction::ToShadow, CopyKind::Update);
    let first = node.client.copy(call.clone()).await.expect("a cut");
    assert_eq!(node.client.copy(call.clone()).await.expect("the same answer"), first);
    assert_eq!(status_of(&node, "pg-1").await.epoch, Epoch(2), "one cut more than enable's");
    let other = CopySets { direction: Direction::ToMaster, ..call };
    assert_eq!(reason(node.client.copy(other).await), "REQUEST_REUSED");
    node.stop().await;
}

#[tokio::test]
async fn a_stale_epoch_changes_nothing() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let stale = |epoch| SetTarget { set: set("pg-1"), expected_epoch: Some(Epoch(epoch)) };
    let call = copy("pg-1", Direction::ToShadow, CopyKind::Update);
    let refused = node.client.copy(CopySets { sets: stale(9).into(), ..call.clone() }).await;
    let expected = PlatformError::StaleEpoch { set: set("pg-1"), expected: Epoch(9), actual: Epoch(1) };
    assert_eq!(refused, Err(ClientError::Refused(expected)));
    node.client.copy(CopySets { sets: stale(1).into(), ..call }).await.expect("the right epoch");
    node.stop().await;
}

/// Several sets at one instant, all or none.
#[tokio::test]
async fn a_cut_over_several_sets_is_all_or_none() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let mut second = enable("pg-2", Mode::Dependent);
    second.shadow = "/dev/shadow2".parse().expect("a path");
    second.bitmap = "/dev/bitmap2".parse().expect("a path");
    node.client.enable_set(second).await.expect("a sibling");
    let both = |direction| CopySets {
        request: RequestId::random(),
        sets: SetTargets::new(vec![target("pg-1"), target("pg-2")]).expect("two"),
        direction,
        kind: CopyKind::Update,
        cut: None,
    };
    node.fake.give_up(&set("pg-2"), "full").expect("a set");
    assert_eq!(reason(node.client.copy(both(Direction::ToShadow)).await), "GIVEN_UP");
    assert_eq!(status_of(&node, "pg-1").await.epoch, Epoch(1), "the other was not cut either");
    node.client.reset(reset("pg-2")).await.expect("reset");
    let copied = node.client.copy(both(Direction::ToShadow)).await.expect("both");
    assert_eq!(copied.sets.iter().map(|s| s.epoch).collect::<Vec<_>>(), [Epoch(2), Epoch(3)]);
    assert_eq!(reason(node.client.copy(both(Direction::ToMaster)).await), "SAME_MASTER");

    // While one is restored, nothing of that master is cut, enabled, reset or disabled.
    node.fake.write_master(&"pg".parse().expect("a name"), 0..CHUNK).expect("a write");
    node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await.expect("restore");
    let cut = node.client.copy(copy("pg-2", Direction::ToShadow, CopyKind::Update)).await;
    assert_eq!(reason(cut), "COPYING");
    assert_eq!(reason(node.client.disable_set(disable("pg-2")).await), "COPYING");
    node.client.abort(abort("pg-1")).await.expect("abort");
    assert_eq!(reason(node.client.disable_set(disable("pg-2")).await), "COPY_PENDING");
    let epoch = status_of(&node, "pg-1").await.epoch;
    let resumed =
        node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await.expect("goes on");
    assert_eq!(resumed.sets[0].epoch, epoch, "a restore goes on in its epoch");
    node.stop().await;
}

#[tokio::test]
async fn offline_and_lost_are_told_and_reset_brings_back() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    assert_eq!(node.client.reset(reset("pg-1")).await, Ok(ResetDone::NotNeeded));
    node.fake.lose(&set("pg-1"), 0..3 * CHUNK).expect("a set");
    let restore = node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await;
    let incomplete = PlatformError::Incomplete { set: set("pg-1"), lost: 3 };
    assert_eq!(restore, Err(ClientError::Refused(incomplete)));

    node.fake.fail_volume(&set("pg-1"), Role::Shadow, "timed out after 5s").expect("a set");
    let state = status_of(&node, "pg-1").await.state;
    let offline =
        SetState::Offline { which: Role::Shadow, reason: "timed out after 5s".into(), since: Epoch(1) };
    assert_eq!(state, offline);
    let cut = node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await;
    assert_eq!(reason(cut), "OFFLINE");
    let done = node.client.reset(reset("pg-1")).await.expect("reset");
    assert!(matches!(done, ResetDone::Cut { epoch: Epoch(2), .. }), "{done:?}");
    let set = status_of(&node, "pg-1").await;
    assert_eq!((set.state, set.chunks.lost), (SetState::Idle, 0));
    node.stop().await;
}

#[tokio::test]
async fn a_map_counts_runs_of_chunks() {
    let (node, enabled) = Node::with_set(Mode::Dependent).await;
    node.fake.write_master(&"pg".parse().expect("a name"), 0..4 * CHUNK).expect("a write");
    node.fake.lose(&enabled.id.into(), 15 * CHUNK..16 * CHUNK).expect("a set");
    let query = |columns| MapQuery { set: set("pg-1"), columns: Columns::new(columns).expect("in bounds") };
    let map = node.client.map(query(4)).await.expect("a map");
    let held: Vec<u64> = map.columns.iter().map(|c| c.held).collect();
    assert_eq!((held, map.columns[3].lost, map.sum().total), (vec![4, 0, 0, 0], 1, 16));
    let fine = node.client.map(query(1000)).await.expect("a map");
    assert_eq!(fine.columns.len(), 16, "no column without a chunk");
    assert_eq!(fine.sum(), map.sum());
    node.stop().await;
}

#[tokio::test]
async fn a_watch_tells_of_changes_and_by_the_clock() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let scope = Scope::Set(set("pg-1"));
    let on_change = Watch { scope: scope.clone(), cadence: Cadence::OnChange };
    let mut changes = node.client.watch(on_change).await.expect("a watch");
    let first = changes.next().await.expect("one").expect("a status");
    assert_eq!(first.sets[0].chunks.held, 0);
    node.fake.write_master(&"pg".parse().expect("a name"), 0..CHUNK).expect("a write");
    let second = changes.next().await.expect("one").expect("a status");
    assert_eq!(second.sets[0].chunks.held, 1);

    let by_the_clock = Watch { scope, cadence: Cadence::Every(Millis(1)) };
    let mut ticks = node.client.watch(by_the_clock).await.expect("a watch");
    for _ in 0..3 {
        assert_eq!(ticks.next().await.expect("one").expect("a status").sets, second.sets);
    }
    let nobody = Watch { scope: Scope::Set(set("nobody")), cadence: Cadence::OnChange };
    assert_eq!(node.client.watch(nobody).await.err().expect("refused").reason(), "NOT_FOUND");
    drop((changes, ticks));
    node.stop().await;
}

#[tokio::test]
async fn bad_devices_are_refused_by_name() {
    let node = Node::start().await;
    let fake = &node.fake;
    let disk = || FakeDevice::disk(ByteCount(1 << 20), "x");
    fake.add_device("/dev/mounted", FakeDevice { mounted_on: Some("/srv".into()), ..disk() });
    fake.add_device("/dev/ro", FakeDevice { read_only: true, ..disk() });
    fake.add_device("/dev/loop0", FakeDevice { identity: None, ..disk() });
    let attached = async |device: &str| reason(node.client.attach_master(attach("m", device)).await);
    assert_eq!(attached("/dev/none").await, "NOT_FOUND");
    assert_eq!(attached("/dev/mounted").await, "MOUNTED");
    assert_eq!(attached("/dev/ro").await, "READ_ONLY_DEVICE");
    assert_eq!(attached("/dev/loop0").await, "IDENTITY_WEAK");
    fake.set_opener(&"/dev/other".parse().expect("a path"), Some("mdadm[12]"));
    assert_eq!(attached("/dev/other").await, "VOLUME_IN_USE");
    let mut other = attach("m", "/dev/master");
    other.expected_identity = Some("serial:another".parse().expect("valid"));
    assert_eq!(reason(node.client.attach_master(other).await), "IDENTITY_CHANGED");
    let mut weak = attach("weak", "/dev/loop0");
    weak.accept_weak_identity = true;
    node.client.attach_master(weak).await.expect("accepted");
    node.client.attach_master(attach("pg", "/dev/master")).await.expect("attach");
    assert_eq!(attached("/dev/master").await, "ALREADY_IN_ROLE");
    node.stop().await;
}

#[tokio::test]
async fn bad_volumes_of_a_set_are_refused_by_name() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let fake = &node.fake;
    let disk = |size| FakeDevice::disk(ByteCount(size), "x");
    fake.add_device("/dev/small", disk(1 << 19));
    fake.add_device("/dev/native4k", FakeDevice { block: ByteCount(4096), ..disk(1 << 20) });
    fake.add_device(
        "/dev/ext4",
        FakeDevice { content: Content::Foreign("ext4:77-1".parse().expect("a signature")), ..disk(1 << 25) },
    );
    fake.add_device(
        "/dev/rotten",
        FakeDevice { content: Content::Damaged("both superblocks".into()), ..disk(1 << 25) },
    );
    let enabled = async |shadow: &str, bitmap: &str| {
        let mut call = enable("pg-2", Mode::Dependent);
        (call.shadow, call.bitmap) = (shadow.parse().expect("a path"), bitmap.parse().expect("a path"));
        reason(node.client.enable_set(call).await)
    };
    assert_eq!(enabled("/dev/small", "/dev/bitmap2").await, "SHADOW_TOO_SMALL");
    assert_eq!(enabled("/dev/native4k", "/dev/bitmap2").await, "BLOCK_SIZE_MISMATCH");
    assert_eq!(enabled("/dev/shadow2", "/dev/small").await, "BITMAP_TOO_SMALL");
    assert_eq!(enabled("/dev/shadow2", "/dev/ext4").await, "HAS_SIGNATURE");
    assert_eq!(enabled("/dev/shadow2", "/dev/rotten").await, "BITMAP_DAMAGED");
    assert_eq!(enabled("/dev/shadow2", "/dev/shadow2").await, "SAME_DEVICE");
    assert_eq!(enabled("/dev/master", "/dev/bitmap2").await, "SAME_DEVICE");
    assert_eq!(enabled("/dev/shadow", "/dev/bitmap2").await, "ALREADY_IN_ROLE");
    assert_eq!(reason(node.client.enable_set(enable("pg-1", Mode::Dependent)).await), "ALREADY_EXISTS");
    let mut nowhere = enable("x", Mode::Dependent);
    nowhere.master = "nobody".parse().expect("a name");
    nowhere.chunk = Some(ChunkSize::new(4096).expect("in bounds"));
    assert_eq!(reason(node.client.enable_set(nowhere).await), "NOT_FOUND");
    node.stop().await;
}

/// A master that is not served is there all the same: an operator that reads NOT_FOUND would make it anew.
#[tokio::test]
async fn a_master_that_waits_is_listed_and_its_calls_say_for_what() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let master: MasterRef = "pg".parse().expect("a name");
    let wait = WaitingFor {
        reason: WaitReason::NotThere,
        what: "shadow /dev/shadow of set pg-1 is not there".into(),
        since: WallTime::from_unix_millis(1_001_059_200_250),
    };
    node.fake.set_master_state(&master, MasterState::Blocked(wait.clone())).expect("a master");
    let status = node.client.status(Scope::Set(set("pg-1"))).await.expect("a status");
    assert_eq!(status.masters[0].state, MasterState::Blocked(wait.clone()));
    assert_eq!(status.sets[0].state, SetState::Blocked(wait.clone()));
    assert_eq!((status.sets[0].epoch, status.sets[0].state.word()), (Epoch(1), "blocked"));
    let listing = node.client.list().await.expect("a list");
    assert_eq!((listing.masters.len(), listing.sets.len()), (1, 1));
    let blocked = PlatformError::blocked(master.clone(), &wait);
    let refused = node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await;
    assert_eq!(refused, Err(ClientError::Refused(blocked)));
    let query = MapQuery { set: set("pg-1"), columns: Columns::default() };
    assert_eq!(reason(node.client.map(query).await), "BLOCKED");
    let waiting = Wait { set: set("pg-1"), timeout: Millis::from_secs(60) };
    assert_eq!(reason(node.client.wait(waiting).await), "BLOCKED");
    assert_eq!(reason(node.client.disable_set(disable("pg-1")).await), "BLOCKED");
    assert_eq!(reason(node.client.disable_set(disable("pg-9")).await), "NOT_FOUND");
    node.fake.set_master_state(&master, MasterState::Serving).expect("a master");
    node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await.expect("served again");
    node.stop().await;
}

#[tokio::test]
async fn a_master_that_was_written_outside_is_served_once_that_is_accepted() {
    let (node, _enabled) = Node::with_set(Mode::Dependent).await;
    let master: MasterRef = "pg".parse().expect("a name");
    let accept = |images| AcceptMaster { request: RequestId::random(), master: master.clone(), images };
    assert_eq!(reason(node.client.accept_master(accept(AcceptedImages::Lost)).await), "BAD_ARGUMENT");
    node.fake.write_master(&master, 0..CHUNK).expect("a write");
    let quarantine = || {
        let what = "the file system on /dev/master was mounted without Umbra".into();
        let since = WallTime::from_unix_millis(0);
        let wait = WaitingFor { reason: WaitReason::WrittenOutside, what, since };
        node.fake.set_master_state(&master, MasterState::Quarantined(wait)).expect("a master");
    };
    quarantine();
    let error = node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await;
    assert!(error.expect_err("quarantined").remedy().contains("umbra-io ctl accept pg --images lost"));
    node.client.accept_master(accept(AcceptedImages::Changed)).await.expect("accepted");
    // What the shadow holds itself it keeps; the rest of the image was the master's, which is not what it was.
    let chunks = status_of(&node, "pg-1").await.chunks;
    assert_eq!((chunks.held, chunks.lost, chunks.differs), (1, 15, 16));
    quarantine();
    node.client.accept_master(accept(AcceptedImages::Lost)).await.expect("accepted");
    assert_eq!(status_of(&node, "pg-1").await.state.word(), "given-up");
    node.stop().await;
}

/// The chunk size is that of the master's first set; what is on a volume goes only if it is named.
#[tokio::test]
async fn a_second_set_takes_the_first_ones_chunks_and_a_used_volume_a_word() {
    let node = Node::start().await;
    node.client.attach_master(attach("pg", "/dev/master")).await.expect("attach");
    let chunk = |bytes| Some(ChunkSize::new(bytes).expect("in bounds"));
    let first = EnableSet { chunk: chunk(128 << 10), ..enable("pg-1", Mode::Dependent) };
    node.client.enable_set(first).await.expect("the first chooses");
    let second = |chunk| EnableSet {
        shadow: "/dev/shadow2".parse().expect("a path"),
        bitmap: "/dev/used".parse().expect("a path"),
        chunk,
        ..enable("pg-2", Mode::Dependent)
    };
    let found: Signature = "ext4:1b4e28ba".parse().expect("a signature");
    let used = FakeDevice {
        content: Content::Foreign(found.clone()),
        ..FakeDevice::disk(ByteCount(32 << 20), "used")
    };
    node.fake.add_device("/dev/used", used);
    assert_eq!(reason(node.client.enable_set(second(chunk(CHUNK))).await), "CHUNK_SIZE_FIXED");
    assert_eq!(reason(node.client.enable_set(second(None)).await), "HAS_SIGNATURE");
    let wipe = |text: &str| WipeSignatures::new(vec![text.parse().expect("a signature")]).expect("one");
    let another = EnableSet { wipe: wipe("ext4:other"), ..second(None) };
    assert_eq!(reason(node.client.enable_set(another).await), "HAS_SIGNATURE");
    node.client.enable_set(EnableSet { wipe: wipe(found.as_str()), ..second(None) }).await.expect("named");
    assert_eq!(status_of(&node, "pg-2").await.chunk.bytes(), 128 << 10);
    node.stop().await;
}

#[tokio::test]
async fn what_is_open_or_protected_is_not_replaced() {
    let node = Node::start().await;
    let master = node.client.attach_master(attach("pg", "/dev/master")).await.expect("attach");
    let mut call = enable("pg-1", Mode::Dependent);
    call.protected = true;
    let set = node.client.enable_set(call).await.expect("enable");
    assert_eq!(reason(node.client.disable_set(disable("pg-1")).await), "PROTECTED");
    let update = node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Update)).await;
    assert_eq!(reason(update), "PROTECTED");
    node.fake.set_opener(&master.device, Some("postgres[4711]"));
    let restore = node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await;
    assert_eq!(reason(restore), "HAS_OPENERS");
    let detach = DetachMaster { request: RequestId::random(), master: master.id.into() };
    assert_eq!(reason(node.client.detach_master(detach).await), "HAS_OPENERS");
    node.fake.set_opener(&master.device, None);
    node.fake.set_opener(&set.shadow_device, Some("fsck[4712]"));
    let restore = node.client.copy(copy("pg-1", Direction::ToMaster, CopyKind::Update)).await;
    assert_eq!(reason(restore), "HAS_OPENERS");
    node.stop().await;
}
