//! Garbage on the socket: the server goes on answering.

use crate::node::{Node, PATIENCE, attach};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use umbra_platform::server::REQUEST_BYTES_MAX;
use umbra_platform::{CallDeadlines, Client, ClientError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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

/// Sends bytes, and reads whatever comes until the server closes or a little time has passed.
async fn throw(socket: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).await.expect("the server listens");
    // The server may have had enough already.
    if stream.write_all(bytes).await.is_ok() {
        let mut answer = [0; 4096];
        drop(tokio::time::timeout(Duration::from_millis(20), stream.read(&mut answer)).await);
    }
}

#[tokio::test]
async fn random_bytes_do_no_harm() {
    let node = Node::start().await;
    for seed in 0..40_u64 {
        let garbage = noise(seed, 1 << (seed % 14));
        throw(&node.socket, &garbage).await;
        // A valid beginning gets the garbage past the first check.
        throw(&node.socket, &[PREFACE, &garbage].concat()).await;
    }
    throw(&node.socket, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    throw(&node.socket, &PREFACE[..10]).await;
    // A frame that announces 16 MiB, a header block without end, a ping of the wrong size.
    for frame in
        [&b"\xff\xff\xff\x00\x00\0\0\0\x01"[..], b"\0\x40\0\x01\0\0\0\0\x01AAAA", b"\0\0\x01\x06\0\0\0\0\0\0"]
    {
        throw(&node.socket, &[PREFACE, b"\0\0\0\x04\0\0\0\0\0", frame].concat()).await;
    }
    node.client.attach_master(attach("pg", "/dev/master")).await.expect("still served");
    node.stop().await;
}

/// More silent connections than there are places: the client that is there is served, the silent ones are
/// closed in time, and then there is room again.
#[tokio::test]
async fn silent_connections_are_closed() {
    let node = Node::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(UnixStream::connect(&node.socket).await.expect("the server listens"));
    }
    node.client.list().await.expect("still served");
    for stream in &mut silent {
        // The server speaks first; a reset is as good an end as any.
        let mut heard = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
        drop(end.expect("closed in time"));
    }
    let late = Client::connect(&node.socket, CallDeadlines::default()).await.expect("room again");
    late.list().await.expect("served");
    drop(silent);
    node.stop().await;
}

/// Half a preface keeps a place no longer than none does, and an unanswered connection does not keep the
/// server from ending.
#[tokio::test]
async fn a_half_open_connection_does_not_hold_up_the_end() {
    let node = Node::start().await;
    let mut half = UnixStream::connect(&node.socket).await.expect("the server listens");
    half.write_all(&PREFACE[..20]).await.expect("sent");
    node.client.list().await.expect("still served");
    node.stop().await;
}

pub(crate) async fn raw_channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://umbra.invalid").connect_with_connector(connector).await.expect("a server")
}

/// A request whose first field holds these bytes, whatever it should hold.
async fn ask_with(channel: &Channel, method: &'static str, field: Vec<u8>) -> Status {
    let mut rpc = tonic::client::Grpc::new(channel.clone());
    rpc.ready().await.expect("connected");
    let codec = ProstCodec::<Vec<u8>, ()>::default();
    rpc.unary(Request::new(field), PathAndQuery::from_static(method), codec).await.expect_err("garbage")
}

#[tokio::test]
async fn oversized_and_senseless_messages_are_refused() {
    let node = Node::start().await;
    let channel = raw_channel(&node.socket).await;
    let copy = "/umbra.platform.v1alpha1.Platform/Copy";
    let refused = ask_with(&channel, copy, vec![b'x'; 2 * REQUEST_BYTES_MAX]).await;
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refused = ask_with(&channel, copy, vec![0xff; 100]).await;
    assert_eq!(refused.code(), Code::Internal, "not UTF-8: {refused}");
    let refused = ask_with(&channel, copy, b"no uuid".to_vec()).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("request id"), "{refused}");
    let unknown = ask_with(&channel, "/umbra.platform.v1alpha1.Platform/Explode", Vec::new()).await;
    assert_eq!(unknown.code(), Code::Unimplemented, "{unknown}");
    node.client.list().await.expect("still served");
    drop(channel);
    node.stop().await;
}

/// A change goes on when its client has gone, and asking again tells how it ended.
#[tokio::test]
async fn a_change_outlives_its_client() {
    let node = Node::start().await;
    node.fake.slow_down(Duration::from_millis(300));
    let hasty = CallDeadlines { change: umbra_platform::time::Millis(50), ..CallDeadlines::default() };
    let client = Client::connect(&node.socket, hasty).await.expect("a server");
    let call = attach("pg", "/dev/master");
    let late = client.attach_master(call.clone()).await.expect_err("too slow for it");
    assert!(matches!(late, ClientError::NoAnswer { .. }), "{late:?}");
    drop(client);
    let answer = node.client.attach_master(call).await.expect("the same request");
    let listing = node.client.list().await.expect("a list");
    assert_eq!(listing.masters.len(), 1);
    assert_eq!(listing.masters[0].id, answer.id);
    node.stop().await;
}

/// A watch and a wait do not keep the server from ending; they are told.
#[tokio::test]
async fn the_end_of_the_server_ends_what_waits() {
    use crate::node::{copy, set};
    use umbra_platform::call::{Cadence, CopyKind, Direction, Scope, Wait, Watch};
    use umbra_platform::status::Mode;
    let (node, _set) = Node::with_set(Mode::Independent).await;
    node.fake.copy_some(u64::MAX);
    node.client.copy(copy("pg-1", Direction::ToShadow, CopyKind::Full)).await.expect("a cut");
    let watch = Watch { scope: Scope::All, cadence: Cadence::OnChange };
    let mut statuses = node.client.watch(watch).await.expect("a watch");
    let waiter = node.client.clone();
    let waiting = tokio::spawn(async move {
        waiter.wait(Wait { set: set("pg-1"), timeout: umbra_platform::time::Millis::from_secs(60) }).await
    });
    tokio_stream::StreamExt::next(&mut statuses).await.expect("one").expect("a status");
    node.stop().await;
    // Told to end, and not cut off when the server had waited for it long enough.
    let mut last = None;
    while let Some(said) = tokio_stream::StreamExt::next(&mut statuses).await {
        last = Some(said.map(drop).map_err(|error| error.reason()));
    }
    assert_eq!(last, Some(Err("STOPPING")));
    let told = waiting.await.expect("no panic").expect_err("the copy has not ended");
    assert_eq!(told.reason(), "STOPPING");
}
