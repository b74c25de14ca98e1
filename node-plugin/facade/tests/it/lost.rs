//! Answers that are lost: a request has one effect, and what became of it can be found out.

use crate::authority::NOW;
use crate::node::{Node, OPERATOR, PATIENCE, attach, copy, fence};
use std::time::Duration;
use umbra_facade::{Client, ClientError};
use umbra_platform::CallDeadlines;
use umbra_platform::call::{Answer, CopyKind, CopySets, Direction, Outcome, Scope};
use umbra_platform::id::{Epoch, RequestId};
use umbra_platform::status::Mode;
use umbra_platform::time::Millis;

fn hasty() -> CallDeadlines {
    CallDeadlines { change: Millis(50), ..CallDeadlines::default() }
}

async fn until_running(client: &Client, request: RequestId) {
    let seen = async {
        while client.query_op(request).await.expect("an outcome") != Outcome::Running {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("it is on its way");
}

#[tokio::test]
async fn a_change_outlives_its_client_and_is_found_again() {
    let node = Node::start().await;
    // Longer than anybody here is ready to wait: the answer is lost whatever the machine does.
    node.fake.slow_down(Duration::from_secs(2));
    let client = node.client_with(node.caller_files(&[OPERATOR], NOW), hasty());
    let call = attach("pg", "/dev/master");
    let patient = node.operator();
    patient.list().await.expect("connected");
    let lost = client.attach(fence(1), call.clone()).await.expect_err("too slow for it");
    assert!(matches!(lost, ClientError::NoAnswer { .. }), "{lost:?}");
    drop(client);
    let answer = patient.attach(fence(1), call.clone()).await.expect("the same request");
    assert_eq!(patient.query_op(call.request).await, Ok(Outcome::Done(Answer::Attached(answer.clone()))));
    let listing = patient.list().await.expect("a list").contents.expect("listed");
    assert_eq!(listing.masters.iter().map(|master| master.id).collect::<Vec<_>>(), [answer.id]);
    node.stop().await;
}

#[tokio::test]
async fn a_call_on_its_way_is_running_and_not_unknown() {
    let (node, _, set) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    node.fake.slow_down(Duration::from_secs(3600));
    let call = copy(set.id, Direction::ToShadow, CopyKind::Update);
    let asking = {
        let (client, call) = (client.clone(), call.clone());
        tokio::spawn(async move { client.copy(fence(1), call).await })
    };
    until_running(&client, call.request).await;
    // A newer leader sees it too.
    client.fence(fence(2)).await.expect("a new leader");
    assert_eq!(client.query_op(call.request).await, Ok(Outcome::Running));
    asking.abort();
    drop(node);
}

/// The platform knows nothing of a call that waits for its fence to be kept; the facade does.
#[tokio::test]
async fn a_call_that_is_not_admitted_yet_is_running_and_not_unknown() {
    let (node, _, set) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    let lock = std::fs::File::open(node.directory.path().join("fence.lock")).expect("the keeper's");
    lock.lock().expect("nobody is admitted now");
    let call = copy(set.id, Direction::ToShadow, CopyKind::Update);
    let asking = {
        let (client, call) = (client.clone(), call.clone());
        tokio::spawn(async move { client.copy(fence(1), call).await })
    };
    until_running(&client, call.request).await;
    drop(lock);
    let copied = asking.await.expect("no panic").expect("admitted");
    assert_eq!(client.query_op(call.request).await, Ok(Outcome::Done(Answer::Copied(copied))));
    node.stop().await;
}

#[tokio::test]
async fn a_repeated_request_has_one_effect() {
    let (node, _, set) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    let call = copy(set.id, Direction::ToShadow, CopyKind::Update);
    let first = client.copy(fence(1), call.clone()).await.expect("a cut");
    for _ in 0..3 {
        assert_eq!(client.copy(fence(1), call.clone()).await.expect("the same answer"), first);
    }
    let status = client.status(Scope::Set(set.id.into())).await.expect("a status");
    assert_eq!(status.sets[0].epoch, Epoch(2), "one cut more than enable's");
    let other = CopySets { direction: Direction::ToMaster, ..call };
    assert_eq!(client.copy(fence(1), other).await.expect_err("another call").reason(), "REQUEST_REUSED");
    node.stop().await;
}

/// The process of the node holds nothing that a call needs: not the answer, and not the connection.
#[tokio::test]
async fn a_restart_of_the_node_turns_no_done_into_unknown() {
    let (mut node, _, set) = Node::with_set(Mode::Dependent).await;
    let client = node.operator();
    let call = copy(set.id, Direction::ToShadow, CopyKind::Update);
    let copied = client.copy(fence(1), call.clone()).await.expect("a cut");
    node.restart().await;
    assert_eq!(client.query_op(call.request).await, Ok(Outcome::Done(Answer::Copied(copied.clone()))));
    assert_eq!(client.copy(fence(1), call).await, Ok(copied));
    let status = client.status(Scope::Set(set.id.into())).await.expect("a status");
    assert_eq!(status.sets[0].epoch, Epoch(2));
    node.stop().await;
}
