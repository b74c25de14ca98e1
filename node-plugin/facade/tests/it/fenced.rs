//! A stale leader changes nothing.

use crate::node::{Node, attach, copy, enable, fence, target};
use std::os::unix::fs::PermissionsExt;
use umbra_facade::node::SeenFence;
use umbra_facade::{Client, ClientError, FacadeError, Fence};
use umbra_platform::call::{
    Abort, AcceptMaster, AcceptedImages, CopyKind, DetachMaster, Direction, DisableSet, Reset, Scope,
    SetCopyLimits,
};
use umbra_platform::id::{MasterId, RequestId, SetId};
use umbra_platform::status::{CopyLimits, Mode};

/// Why each call that changes something is refused, by name.
pub(crate) async fn every_change(
    client: &Client,
    fence: Fence,
    master: MasterId,
    set: SetId,
) -> Vec<(&'static str, Result<(), ClientError>)> {
    let (request, target) = (RequestId::random, target(set));
    let accept = AcceptMaster { request: request(), master: master.into(), images: AcceptedImages::Lost };
    let limits = SetCopyLimits { request: request(), target: target.clone(), limits: CopyLimits::default() };
    let copy = copy(set, Direction::ToShadow, CopyKind::Update);
    vec![
        ("Attach", client.attach(fence, attach("other", "/dev/other")).await.map(drop)),
        ("Enable", client.enable(fence, enable("pg-9", master, Mode::Dependent)).await.map(drop)),
        ("AcceptMaster", client.accept_master(fence, accept).await),
        ("Copy", client.copy(fence, copy).await.map(drop)),
        ("Abort", client.abort(fence, Abort { request: request(), target: target.clone() }).await),
        ("SetCopyParameters", client.set_copy_parameters(fence, limits).await),
        ("Reset", client.reset(fence, Reset { request: request(), target: target.clone() }).await.map(drop)),
        ("Disable", client.disable(fence, DisableSet { request: request(), target }).await),
        ("Detach", client.detach(fence, DetachMaster { request: request(), master: master.into() }).await),
        ("Fence", client.fence(fence).await),
    ]
}

#[tokio::test]
async fn a_stale_fence_is_refused_by_every_change_also_after_a_restart() {
    let (mut node, master, set) = Node::with_set(Mode::Dependent).await;
    node.operator().fence(fence(9)).await.expect("a new leader");
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        let client = node.operator();
        let before = client.status(Scope::All).await.expect("a status");
        let stale = FacadeError::StaleFence { sent: fence(8), highest: fence(9) };
        for (name, refused) in every_change(&client, fence(8), master.id, set.id).await {
            assert_eq!(refused, Err(ClientError::Denied(stale.clone())), "{name}");
        }
        assert_eq!(client.status(Scope::All).await.expect("a status"), before, "nothing has changed");
        assert_eq!(client.list().await.expect("a list").fence, SeenFence::Highest(fence(9)));
    }
    let cut = copy(set.id, Direction::ToShadow, CopyKind::Update);
    node.operator().copy(fence(9), cut).await.expect("the leader goes on");
    node.stop().await;
}

#[tokio::test]
async fn a_fence_that_cannot_be_kept_stops_changes_and_no_reads() {
    let (mut node, _, set) = Node::with_set(Mode::Dependent).await;
    let file = node.directory.path().join("fence");
    std::fs::write(&file, "damaged").expect("written");
    node.restart().await;
    let client = node.operator();
    let refused = client.copy(fence(100), copy(set.id, Direction::ToShadow, CopyKind::Update)).await;
    let refused = refused.expect_err("nobody knows whether 100 is the highest");
    assert_eq!(refused.reason(), "FENCE_NOT_KEPT");
    assert!(refused.remedy().contains(&*file.to_string_lossy()), "{}", refused.remedy());
    let inventory = client.list().await.expect("a list");
    assert_eq!((inventory.fence, inventory.contents.expect("listed").sets.len()), (SeenFence::Unreadable, 1));

    // A directory in its place cannot be replaced by a file, whoever asks.
    std::fs::remove_file(&file).expect("removed");
    std::fs::create_dir(&file).expect("made");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let refused = client.fence(fence(100)).await.expect_err("it cannot be kept");
    assert_eq!(refused.reason(), "FENCE_NOT_KEPT");
    std::fs::remove_dir(&file).expect("removed");
    client.fence(fence(2)).await.expect("100 was never taken");
    node.stop().await;
}
