//! The node's own socket: root reads there, and nobody does more.

use crate::node::Node;
use crate::raw;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tonic_types::StatusExt;
use umbra_platform::status::Mode;
use umbra_platform::wire::pb;

#[tokio::test]
async fn root_of_the_node_reads_and_changes_nothing() {
    let (node, _, set) = Node::with_set(Mode::Dependent).await;
    let mode = std::fs::metadata(node.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let channel = raw::local_channel(node.socket()).await;
    let status: Result<pb::StatusResponse, _> =
        raw::ask(&channel, "Status", pb::StatusRequest { scope: None }).await;
    if rustix::process::geteuid().is_root() {
        assert_eq!(status.expect("root may read").sets[0].id, set.id.to_string());
    } else {
        status.expect_err("only root may");
    }
    let refused = raw::ask::<_, ()>(&channel, "Fence", ()).await.expect_err("nobody changes anything here");
    assert_eq!(refused.get_details_error_info().expect("a reason").reason, "FORBIDDEN");
    drop(channel);
    node.stop().await;
}

/// The mode may have been changed; the kernel says who asks all the same.
#[tokio::test]
async fn another_user_is_told_that_it_may_not() {
    let node = Node::start().await;
    for (path, mode) in [(node.directory.path().to_owned(), 0o755), (node.socket(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }
    let (socket, is_root) = (node.socket(), rustix::process::geteuid().is_root());
    let asked = tokio::task::spawn_blocking(move || ask_as_other_user(socket, is_root));
    let told = asked.await.expect("no panic");
    assert!(told.contains("may not call anything on this node"), "{told}");
    node.operator().list().await.expect("others are served");
    node.stop().await;
}

/// What a client in a thread of its own is told. In the kernel each thread has its own user (setresuid(2)).
fn ask_as_other_user(socket: PathBuf, change: bool) -> String {
    let ask = move || {
        if change {
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(65_534));
            set_thread_res_gid(group, group, group).expect("root may");
            set_thread_res_uid(user, user, user).expect("root may");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let channel = raw::local_channel(socket).await;
            let list = raw::ask::<_, ()>(&channel, "List", ()).await;
            list.expect_err("it is nobody").message().to_owned()
        })
    };
    std::thread::scope(|scope| scope.spawn(ask).join().expect("no panic"))
}
