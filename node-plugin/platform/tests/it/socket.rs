//! Who may bind, and what lies in the way.

use crate::node::Node;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
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
    let is_root = rustix::process::geteuid().is_root();
    let socket = node.socket.clone();
    let told =
        tokio::task::spawn_blocking(move || ask_as_other_user(&socket, is_root)).await.expect("no panic");
    let expected = if is_root { "user 65534 may not use this socket" } else { "a list" };
    assert!(told.contains(expected), "{told}");
    node.client.list().await.expect("others are served");
    node.stop().await;
}

/// What a client in a thread of its own is told. In the kernel each thread has its own user (setresuid(2)).
fn ask_as_other_user(socket: &Path, change: bool) -> String {
    let ask = || {
        if change {
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            set_thread_res_gid(group, group, group).expect("root may");
            set_thread_res_uid(user, user, user).expect("root may");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = Client::connect(socket, CallDeadlines::default()).await.expect("it connects");
            match client.list().await {
                Ok(_) => "a list".to_owned(),
                Err(error) => format!("{error} [{}]", error.reason()),
            }
        })
    };
    std::thread::scope(|scope| scope.spawn(ask).join().expect("no panic"))
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
