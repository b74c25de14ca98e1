//! Who may bind, and what lies in the way.

use crate::node::Node;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use umbra_platform::socket::BindError;
use umbra_platform::{CallDeadlines, Client, ClientError, Socket};

#[tokio::test]
async fn only_the_owner_may_connect() {
    let node = Node::start().await;
    let mode = std::fs::metadata(&node.socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    node.stop().await;
}

/// The mode may have been changed; the kernel says who asks all the same.
#[tokio::test]
async fn another_user_is_told_that_it_may_not() {
    let node = Node::start().await;
    let directory = node.socket.parent().expect("a directory");
    for (path, mode) in [(directory, 0o755), (node.socket.as_path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }
    // As somebody else: only root can be that.
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    other
        .args(["socket::the_other_user", "--exact", "--ignored", "--nocapture"])
        .env("UMBRA_SOCKET", &node.socket);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        other.uid(65_534).gid(65_534);
    }
    let told =
        tokio::task::spawn_blocking(move || other.output()).await.expect("no panic").expect("it starts");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let expected = if is_root { "user 65534 may not use this socket" } else { "a list" };
    assert!(told.contains(expected), "{told}");
    node.client.list().await.expect("others are served");
    node.stop().await;
}

/// Not a test: the other user.
#[tokio::test]
#[ignore = "runs as another user for another test"]
async fn the_other_user() {
    let Some(socket) = std::env::var_os("UMBRA_SOCKET") else { return };
    let client = Client::connect(socket.as_ref(), CallDeadlines::default()).await.expect("it connects");
    match client.list().await {
        Ok(_) => println!("a list"),
        Err(error) => println!("{error} [{}]", error.reason()),
    }
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
