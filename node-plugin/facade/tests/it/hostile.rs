//! Whatever is sent, the server answers with a refusal that says why, and goes on.

use crate::authority::NOW;
use crate::node::{Node, OPERATOR, fence};
use crate::raw;
use prost::Message;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use umbra_facade::server::REQUEST_BYTES_MAX;
use umbra_platform::call::Scope;
use umbra_platform::id::{MasterId, SetId};
use umbra_platform::status::Mode;
use umbra_platform::wire::pb;

/// A request of the facade, with any fence and call.
macro_rules! requests {
    ($($name:ident = $call:ident),+) => {
        $(#[derive(Clone, PartialEq, Message)]
        struct $name {
            #[prost(uint64, tag = "1")]
            fence: u64,
            #[prost(message, optional, tag = "2")]
            call: Option<pb::$call>,
        }

        impl From<pb::$call> for $name {
            fn from(call: pb::$call) -> Self {
                Self { fence: 1, call: Some(call) }
            }
        })+
    };
}

requests!(
    Attach = AttachMasterRequest,
    Accept = AcceptMasterRequest,
    Detach = DetachMasterRequest,
    Enable = EnableSetRequest,
    Disable = DisableSetRequest,
    Copy = CopyRequest,
    Abort = AbortRequest,
    Limits = SetCopyLimitsRequest,
    Reset = ResetRequest
);

const UUID: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

fn attach(change: impl FnOnce(&mut pb::AttachMasterRequest)) -> Attach {
    let mut call = pb::AttachMasterRequest {
        request_id: UUID.into(),
        device: "/dev/other".into(),
        name: "x".into(),
        queue_depth: 8,
        ..Default::default()
    };
    change(&mut call);
    call.into()
}

fn enable(change: impl FnOnce(&mut pb::EnableSetRequest)) -> Enable {
    let mut call = pb::EnableSetRequest {
        request_id: UUID.into(),
        master: UUID.into(),
        name: Some(pb::SetName { name: "x".into(), ..Default::default() }),
        mode: 1,
        shadow: "/dev/shadow".into(),
        bitmap: "/dev/bitmap".into(),
        deadlines: Some(pb::Deadlines { shadow_ms: 5000, bitmap_ms: 5000 }),
        unrecordable: Some(pb::Unrecordable { timeout_ms: 5000, policy: 1 }),
        ..Default::default()
    };
    change(&mut call);
    call.into()
}

fn target(set: &str) -> pb::SetTarget {
    pb::SetTarget { set: set.into(), expected_epoch: None }
}

fn copy(change: impl FnOnce(&mut pb::CopyRequest)) -> Copy {
    let sets = vec![target(UUID)];
    let mut call = pb::CopyRequest { request_id: UUID.into(), sets, direction: 1, kind: 1, cut: None };
    change(&mut call);
    call.into()
}

fn limits(change: impl FnOnce(&mut pb::CopyLimits)) -> Limits {
    let mut limits = pb::CopyLimits { bytes_per_second: None, in_flight: 1 };
    change(&mut limits);
    let target = Some(target(UUID));
    pb::SetCopyLimitsRequest { request_id: UUID.into(), target, limits: Some(limits) }.into()
}

/// Sends messages and collects how each was refused.
struct Sender {
    channel: Channel,
    refused: Vec<(&'static str, Status)>,
}

impl Sender {
    async fn send<M: Message + std::fmt::Debug + 'static>(
        &mut self,
        method: &'static str,
        messages: impl IntoIterator<Item = M>,
    ) {
        for message in messages {
            let text = format!("{message:?}");
            let answer = raw::ask::<M, ()>(&self.channel, method, message).await;
            self.refused.push((method, answer.expect_err(&text)));
        }
    }
}

fn attaches() -> Vec<Attach> {
    let long = "x".repeat(5000);
    vec![
        Attach::default(),
        Attach { fence: 0, ..attach(|_| {}) },
        attach(|call| call.request_id = String::new()),
        attach(|call| call.request_id = "no UUID".into()),
        attach(|call| call.device = String::new()),
        attach(|call| call.device = "dev/other".into()),
        attach(|call| call.device = "/dev/../etc/shadow".into()),
        attach(|call| call.device = "/dev/a\0b".into()),
        attach(|call| call.device = format!("/{long}")),
        attach(|call| call.device = "/dev/not-there".into()),
        attach(|call| call.name = String::new()),
        attach(|call| call.name = UUID.into()),
        attach(|call| call.name = "../x".into()),
        attach(|call| call.queue_depth = 0),
        attach(|call| call.queue_depth = u32::MAX),
        attach(|call| call.ublk_id = Some(3)),
        attach(|call| call.expected_identity = Some("wwid:".into())),
    ]
}

fn enables(master: MasterId) -> Vec<Enable> {
    vec![
        Enable::default(),
        enable(|_| {}),
        enable(|call| call.master = "pg".into()),
        enable(|call| call.master = String::new()),
        enable(|call| call.expected_epoch = Some(1)),
        enable(|call| call.name = None),
        enable(|call| call.mode = 0),
        enable(|call| call.mode = -7),
        enable(|call| call.chunk_bytes = 3),
        enable(|call| call.deadlines = None),
        enable(|call| call.deadlines = Some(pb::Deadlines { shadow_ms: u64::MAX, bitmap_ms: 1 })),
        enable(|call| call.unrecordable = None),
        enable(|call| call.wipe_signatures = vec!["ext4".into()]),
        enable(|call| call.wipe_signatures = vec!["ext4:1".into(); 1000]),
        enable(|call| {
            call.master = master.to_string();
            call.shadow = "/dev/bitmap2".into();
            call.bitmap = "/dev/bitmap2".into();
        }),
    ]
}

fn copies(set: SetId) -> Vec<Copy> {
    vec![
        Copy::default(),
        copy(|_| {}),
        copy(|call| call.sets.clear()),
        copy(|call| call.sets = vec![target("db/pg-1")]),
        copy(|call| call.sets = vec![target(&set.to_string()); 2]),
        copy(|call| call.sets = (0..17).map(|_| target(&uuid())).collect()),
        copy(|call| call.direction = 9),
        copy(|call| call.kind = 0),
        copy(|call| call.cut = Some("x".into())),
        copy(|call| call.sets = vec![pb::SetTarget { set: set.to_string(), expected_epoch: Some(77) }]),
    ]
}

#[tokio::test]
async fn bad_arguments_are_refused_each_with_its_reason() {
    let (node, master, set) = Node::with_set(Mode::Dependent).await;
    let before = node.operator().status(Scope::All).await.expect("a status");
    let channel = raw::channel(&node, node.caller_files(&[OPERATOR], NOW)).await;
    let mut sender = Sender { channel, refused: Vec::new() };
    sender.send("Attach", attaches()).await;
    sender.send("Enable", enables(master.id)).await;
    sender.send("Copy", copies(set.id)).await;
    let bad_limits = [
        limits(|limits| limits.in_flight = 0),
        limits(|limits| limits.in_flight = 100_000),
        limits(|limits| limits.bytes_per_second = Some(0)),
    ];
    sender.send("SetCopyParameters", bad_limits).await;
    sender
        .send(
            "Detach",
            [Detach::default(), pb::DetachMasterRequest { request_id: uuid(), master: "pg".into() }.into()],
        )
        .await;
    let accept = pb::AcceptMasterRequest { request_id: uuid(), master: uuid(), images: 0 };
    sender.send("AcceptMaster", [Accept::default(), accept.into()]).await;
    sender
        .send(
            "Disable",
            [Disable::default(), pb::DisableSetRequest { request_id: uuid(), target: None }.into()],
        )
        .await;
    sender
        .send(
            "Abort",
            [Abort::default(), pb::AbortRequest { request_id: uuid(), target: Some(target("x")) }.into()],
        )
        .await;
    sender
        .send(
            "Reset",
            [Reset::default(), pb::ResetRequest { request_id: uuid(), target: Some(target("")) }.into()],
        )
        .await;
    sender
        .send("QueryOp", [pb::OutcomeRequest::default(), pb::OutcomeRequest { request_id: "1".into() }])
        .await;
    sender
        .send("Wait", [pb::WaitRequest::default(), pb::WaitRequest { set: uuid(), timeout_ms: u64::MAX }])
        .await;
    sender
        .send(
            "ChangedRegions",
            [pb::MapRequest::default(), pb::MapRequest { set: set.id.to_string(), columns: 0 }],
        )
        .await;
    sender.send("Fence", [()]).await;

    assert!(sender.refused.len() >= 60, "{}", sender.refused.len());
    for (method, refused) in &sender.refused {
        let info = refused.get_details_error_info().unwrap_or_else(|| panic!("{method}: {refused}"));
        let expected = ["BAD_ARGUMENT", "NOT_FOUND", "SAME_DEVICE", "STALE_EPOCH"];
        assert!(expected.contains(&info.reason.as_str()), "{method}: {refused}");
        assert!(info.metadata.contains_key("remedy"), "{method}: {refused}");
    }
    assert_eq!(node.operator().status(Scope::All).await.expect("a status"), before, "nothing has changed");
    drop(sender);
    node.stop().await;
}

fn uuid() -> String {
    SetId::random().to_string()
}

#[tokio::test]
async fn oversized_and_senseless_messages_are_refused() {
    #[derive(Clone, PartialEq, Message)]
    struct Anything {
        #[prost(bytes = "vec", tag = "2")]
        call: Vec<u8>,
    }
    let node = Node::start().await;
    let channel = raw::channel(&node, node.caller_files(&[OPERATOR], NOW)).await;
    for (call, code) in [
        (vec![b'x'; 2 * REQUEST_BYTES_MAX], Code::OutOfRange),
        (vec![0xff; 100], Code::Internal),
        (vec![0x0a, 0x7f, 1], Code::Internal),
    ] {
        let refused = raw::ask::<_, ()>(&channel, "Copy", Anything { call }).await.expect_err("garbage");
        assert_eq!(refused.code(), code, "{refused}");
    }
    let unknown = raw::ask::<_, ()>(&channel, "Explode", ()).await.expect_err("there is none");
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown}");
    node.operator().fence(fence(1)).await.expect("still served");
    drop(channel);
    node.stop().await;
}

/// Bytes that look like nothing, the same in every run (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

#[tokio::test]
async fn noise_at_the_door_and_behind_it_does_no_harm() {
    let node = Node::start().await;
    let files = node.caller_files(&[OPERATOR], NOW);
    for seed in 0..20_u64 {
        let garbage = noise(seed, 1 << (seed % 14));
        let mut plain = TcpStream::connect(&node.address).await.expect("a door");
        let mut within = raw::stream(&node, files.clone()).await;
        // The server may have had enough already.
        let _sent = (plain.write_all(&garbage).await, within.write_all(&garbage).await);
        let mut answer = [0; 256];
        let little = Duration::from_millis(20);
        drop(tokio::time::timeout(little, plain.read(&mut answer)).await);
        drop(tokio::time::timeout(little, within.read(&mut answer)).await);
    }
    let mut hello = TcpStream::connect(&node.address).await.expect("a door");
    hello.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    node.operator().fence(fence(1)).await.expect("still served");
    node.stop().await;
}

/// More silent connections than there are places for handshakes: they are closed, some at once and the others in time, and
/// callers are served and let in all the while.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let node = Node::start().await;
    let client = node.operator();
    client.list().await.expect("connected");
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&node.address).await.expect("a door"));
    }
    client.fence(fence(1)).await.expect("served");
    node.operator().list().await.expect("let in");
    for stream in &mut silent {
        let mut heard = Vec::new();
        // A reset is as good an end as any.
        let end = tokio::time::timeout(crate::node::PATIENCE, stream.read_to_end(&mut heard)).await;
        drop(end.expect("closed in time"));
    }
    drop(silent);
    node.stop().await;
}
