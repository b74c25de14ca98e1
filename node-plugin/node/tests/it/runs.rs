//! What the process does.

use crate::process::{Running, World};
use rustix::process::Signal;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use umbra_csi::wire::csi;
use umbra_csi::wire::csi::identity_client::IdentityClient;
use umbra_csi::wire::csi::node_client::NodeClient;
use umbra_facade::node::SeenFence;
use umbra_facade::{ClientError, Fence};
use umbra_platform::PlatformError;
use umbra_platform::call::{Answer, AttachMaster, Cadence, Outcome, Scope, Watch};
use umbra_platform::id::RequestId;
use umbra_platform::value::QueueDepth;

fn attach(name: &str) -> AttachMaster {
    AttachMaster {
        request: RequestId::random(),
        device: "/dev/master".parse().expect("a path"),
        name: name.parse().expect("a name"),
        expected_identity: None,
        accept_weak_identity: false,
        ublk: None,
        queue_depth: QueueDepth::default(),
    }
}

fn fence(number: u64) -> Fence {
    Fence::new(number).expect("above 0")
}

/// Asks until that is the answer: on a busy machine a probe may end before the interposer has answered it.
async fn ready_becomes(node: &Running, status: u16, text: &str) {
    loop {
        let (found, said) = node.get("/readyz").await;
        if found == status && said.contains(text) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_interposer_may_come_late_and_go_and_come_back() {
    let world = World::new();
    let node = world.start().await;
    let client = world.operator(&node);
    for round in 0..2 {
        // It is away: everything says so, with what to do, and nothing waits.
        let refused = client.status(Scope::All).await.expect_err("nobody is there");
        let away = matches!(&refused, ClientError::Refused(PlatformError::Unavailable { .. }));
        assert!(away && refused.remedy().contains("start umbra-io"), "round {round}: {refused:?}");
        let inventory = client.list().await.expect("the node is there");
        assert_eq!(inventory.about.name, "a");
        let problem = inventory.contents.expect_err("nobody is there");
        assert_eq!(problem.reason, "UNAVAILABLE");
        assert!(problem.text.contains("io.sock") && problem.remedy.contains("start umbra-io"), "{problem:?}");
        ready_becomes(&node, 503, "start umbra-io").await;
        assert_eq!(node.get("/healthz").await, (200, "ok\n".into()), "it is alive all the same");
        assert!(node.get("/metrics").await.1.contains("\numbra_platform_up 0\n"));

        // It is there: the same connections serve.
        let platform = world.platform().await;
        ready_becomes(&node, 200, "ok").await;
        client.status(Scope::All).await.expect("it answers");
        assert!(client.list().await.expect("a list").contents.is_ok());
        assert!(node.get("/metrics").await.1.contains("\numbra_platform_up 1\n"));
        let watch = Watch { scope: Scope::All, cadence: Cadence::OnChange };
        let mut statuses = client.watch(watch).await.expect("a watch");
        statuses.next().await.expect("one").expect("a status");
        platform.stop().await;
        // Whoever watched is told, and does not wait for ever.
        let told = loop {
            match statuses.next().await.expect("an end that says why") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(["STOPPING", "UNAVAILABLE"].contains(&told.reason()), "{told:?}");
    }
    let (ended, _) = node.end(Signal::TERM).await;
    assert!(ended.success(), "{ended}");
}

/// Killed between a call and the question what became of it.
#[tokio::test]
async fn a_kill_loses_neither_answers_nor_the_fence() {
    let world = World::new();
    let platform = world.platform().await;
    let node = world.start().await;
    let call = attach("pg");
    let master = world.operator(&node).attach(fence(5), call.clone()).await.expect("attach");
    let (_, log) = node.end(Signal::KILL).await;
    let request = call.request.to_string();
    assert!(log.iter().any(|line| line.contains(&request) && line.contains("Attach")), "{log:#?}");

    let node = world.start().await;
    let client = world.operator(&node);
    assert_eq!(client.query_op(call.request).await, Ok(Outcome::Done(Answer::Attached(master.clone()))));
    assert_eq!(client.attach(fence(5), call.clone()).await, Ok(master), "one effect");
    assert_eq!(client.list().await.expect("a list").fence, SeenFence::Highest(fence(5)));
    let stale = client.attach(fence(4), call).await.expect_err("a leader of before");
    assert_eq!(stale.reason(), "STALE_FENCE");
    let metrics = node.get("/metrics").await.1;
    for line in ["umbra_facade_calls_total{call=\"Attach\",ended=\"STALE_FENCE\"} 1", "umbra_facade_fence 5"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let (ended, log) = node.end(Signal::TERM).await;
    assert!(ended.success() && log.iter().any(|line| line.contains("stopped")), "{ended} {log:#?}");
    platform.stop().await;
}

/// The kubelet finds the plugin by a socket, and does not find one that is gone. What a killed process left is in nobody's way.
#[tokio::test]
async fn csi_is_served_beside_the_facade_and_goes_with_it() {
    let world = World::new();
    let platform = world.platform().await;
    let kubelet = world.directory.path().join("kubelet");
    let socket = kubelet.join("plugins/imaging.umbra.dev/csi.sock");
    let registration = kubelet.join("plugins_registry/imaging.umbra.dev-reg.sock");
    for signal in [Signal::KILL, Signal::TERM] {
        let node = world.start_for_kubelet(&kubelet).await;
        let at = format!("unix://{}", socket.display());
        let channel = Endpoint::try_from(at).expect("a path").connect().await.expect("it listens");
        let info = NodeClient::new(channel.clone()).node_get_info(csi::NodeGetInfoRequest {}).await;
        assert_eq!(info.expect("an answer").into_inner().node_id, "a");
        let ready = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
        assert_eq!(ready.expect("an answer").into_inner().ready, Some(true));
        assert!(registration.exists());
        world.operator(&node).fence(fence(1)).await.expect("the facade is served too");
        let (ended, log) = node.end(signal).await;
        assert_eq!(ended.success(), signal == Signal::TERM, "{ended} {log:#?}");
    }
    assert!(!socket.exists() && !registration.exists());
    platform.stop().await;
}

/// After a reboot without an API server: pods get their volumes, and callers of other hosts wait for the first certificate. One
/// that lies there serves without anybody.
#[tokio::test]
async fn a_certificate_is_waited_for_by_nobody_but_callers_of_other_hosts() {
    let world = World::new();
    let platform = world.platform().await;
    let kubelet = world.directory.path().join("kubelet");
    let node = world.start_enrolled(&kubelet).await;
    ready_becomes(&node, 503, "this node has no certificate").await;
    ready_becomes(&node, 503, "ask the API server").await;
    let at = format!("unix://{}", kubelet.join("plugins/imaging.umbra.dev/csi.sock").display());
    let channel = Endpoint::try_from(at).expect("a path").connect().await.expect("it listens");
    let ready = IdentityClient::new(channel).probe(csi::ProbeRequest {}).await;
    assert_eq!(ready.expect("an answer").into_inner().ready, Some(true));
    let here = std::os::unix::net::UnixStream::connect(world.directory.path().join("run/node.sock"));
    here.expect("root of this node is served");
    let (ended, log) = node.end(Signal::TERM).await;
    assert!(ended.success() && !log.iter().any(|line| line.contains("\"serving\"")), "{ended} {log:#?}");

    world.enrol();
    let node = world.start_enrolled(&kubelet).await;
    world.operator(&node).attach(fence(1), attach("pg")).await.expect("served");
    ready_becomes(&node, 200, "ok").await;
    let (ended, _) = node.end(Signal::TERM).await;
    assert!(ended.success(), "{ended}");
    platform.stop().await;
}

/// The cluster is told what the node is, and nothing else waits for it.
#[tokio::test]
async fn a_cluster_that_is_away_keeps_nobody_from_being_served() {
    let world = World::new();
    let platform = world.platform().await;
    let node = world.start_without_cluster().await;
    loop {
        let metrics = node.get("/metrics").await.1;
        let failed = metrics.lines().find_map(|line| {
            line.strip_prefix("umbra_node_published_total{ended=\"failed\"} ")?.parse::<u32>().ok()
        });
        if failed.is_some_and(|count| count >= 2) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ready_becomes(&node, 200, "ok").await;
    world.operator(&node).attach(fence(1), attach("pg")).await.expect("served");
    let (ended, log) = node.end(Signal::TERM).await;
    assert!(ended.success(), "{ended}");
    let told: Vec<&String> = log.iter().filter(|line| line.contains("cannot be published")).collect();
    assert!(told.len() == 1 && told[0].contains("ask the API server"), "once, and with the cause: {told:#?}");
    platform.stop().await;
}

/// A call that is on its way when the process is told to stop gets its answer.
#[tokio::test]
async fn the_end_waits_for_calls_that_change_something() {
    let world = World::new();
    let platform = world.platform().await;
    let node = world.start().await;
    let client = world.operator(&node);
    client.fence(fence(1)).await.expect("connected");
    world.fake.slow_down(std::time::Duration::from_secs(1));
    let call = attach("pg");
    let asking = {
        let (client, call) = (client.clone(), call.clone());
        tokio::spawn(async move { client.attach(fence(1), call).await })
    };
    while client.query_op(call.request).await.expect("an outcome") == Outcome::NotSeen {
        tokio::task::yield_now().await;
    }
    let (ended, _) = node.end(Signal::TERM).await;
    assert!(ended.success(), "{ended}");
    asking.await.expect("no panic").expect("attached");
    platform.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_named_at_the_start() {
    let world = World::new();
    let key = world.directory.path().join("server/tls.key");
    std::fs::remove_file(&key).expect("removed");
    let ended = world.command().output().await.expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains(&*key.to_string_lossy()), "{said}");
}

/// Nothing is published by accident: each of these means nothing without `--publish`.
#[tokio::test]
async fn what_is_published_is_asked_for() {
    let world = World::new();
    for arguments in [["--kubeconfig", "/x"], ["--advertise", "192.0.2.7:9751"]] {
        let ended = world.command().args(arguments).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains("--publish"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn preflight_says_what_is_wrong_and_what_to_do() {
    let mut preflight = tokio::process::Command::new(env!("CARGO_BIN_EXE_umbra-node"));
    let ended = preflight.arg("preflight").output().await.expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    // Whatever this host is: each finding is a line with its reason, and one with the remedy.
    if ended.status.success() {
        assert!(said.contains("nothing found"), "{said}");
    } else {
        let reasons = ["UblkMissing: ", "IoUringDisabled: ", "KernelKnownBad: ", "MemlockTooLow: "];
        assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
        assert_eq!(said.lines().filter(|line| line.starts_with("  ")).count() * 2, said.lines().count());
    }
}
