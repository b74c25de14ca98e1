//! Who may bind, and what lies in the way.

use crate::node::Node;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use umbra_platform::socket::BindError;
use umbra_platform::{CallDeadlines, Client, ClientError, Socket};

#[tokio::test]
async fn only_the_owner_may_connect() {
    let node = Node::start().await;
    let mode = std::fs::metadata(&node.socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    node.stop().await;
}

#[tokio::test]
async fn a_live_server_is_not_displaced() {
    let node = Node::start().await;
    let refused = Socket::bind(&node.socket).await.expect_err("the path is taken");
    assert!(matches!(refused, BindError::InUse(_)), "{refused}");
    node.client.list().await.expect("still served");
    node.stop().await;
}

/// A server of another make holds no lock of ours, but it answers.
#[tokio::test]
async fn a_stranger_that_listens_is_not_displaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("io.sock");
    let stranger = UnixListener::bind(&path).expect("a free path");
    let refused = Socket::bind(&path).await.expect_err("the path is taken");
    assert!(matches!(refused, BindError::InUse(_)), "{refused}");
    drop(stranger);
    // The stranger's socket file is still there, and nobody listens.
    Socket::bind(&path).await.expect("a stale socket is no obstacle");
    assert!(!path.exists(), "an unused socket goes away with its owner");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("io.sock");
    std::fs::write(&path, "precious").expect("a file");
    let refused = Socket::bind(&path).await.expect_err("a file is in the way");
    assert!(matches!(refused, BindError::NotASocket(_)), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).expect("the file"), "precious");
}

#[tokio::test]
async fn without_a_server_the_client_says_so_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("io.sock");
    let nobody = Client::connect(&path, CallDeadlines::default()).await.expect_err("nobody is there");
    assert!(matches!(nobody, ClientError::NotRunning { .. }), "{nobody}");
    assert!(nobody.to_string().contains("io.sock"), "{nobody}");
}

/// After a restart the same client goes on.
#[tokio::test]
async fn a_client_survives_a_restart_of_the_server() {
    let node = Node::start().await;
    let (client, path) = (node.client.clone(), node.socket.clone());
    node.stop().await;
    let gone = client.list().await.expect_err("the server is stopped");
    assert!(matches!(gone, ClientError::NotRunning { .. } | ClientError::ConnectionLost { .. }), "{gone:?}");
    // The directory went with the node; make it anew for the second server.
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    let socket = Socket::bind(&path).await.expect("a free path");
    let served = tokio::spawn(umbra_platform::serve(
        socket,
        umbra_platform::fake::Fake::new(),
        std::future::pending(),
    ));
    client.list().await.expect("served again");
    served.abort();
    std::fs::remove_dir_all(path.parent().expect("a directory")).expect("clean up");
}
