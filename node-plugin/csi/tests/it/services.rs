//! What the kubelet is told, and what it is refused before anything is looked at.

use crate::world::{Presented, World, block, capability, directory, may_mount, refusal};
use std::collections::HashMap;
use umbra_csi::SHADOW_ACCESS;
use umbra_csi::wire::csi;
use umbra_csi::wire::csi::volume_capability::access_mode::Mode;
use umbra_csi::wire::csi::volume_capability::{AccessType, MountVolume};
use umbra_platform::id::{MasterRef, SetRef};
use umbra_platform::status::{MasterState, Role, WaitReason, WaitingFor};
use umbra_platform::time::{Millis, WallTime};

fn stage(volume: &str, at: &str) -> csi::NodeStageVolumeRequest {
    csi::NodeStageVolumeRequest {
        volume_id: volume.into(),
        staging_target_path: at.into(),
        volume_capability: capability(directory(""), Mode::SingleNodeWriter),
        ..csi::NodeStageVolumeRequest::default()
    }
}

fn publish(volume: &str, staging: &str, at: &str) -> csi::NodePublishVolumeRequest {
    csi::NodePublishVolumeRequest {
        volume_id: volume.into(),
        staging_target_path: staging.into(),
        target_path: at.into(),
        volume_capability: capability(directory(""), Mode::SingleNodeWriter),
        ..csi::NodePublishVolumeRequest::default()
    }
}

#[tokio::test]
async fn the_plugin_says_what_it_is() {
    let world = World::new().await;
    let mut plugin = world.serve().await;
    let info = plugin.identity.get_plugin_info(csi::GetPluginInfoRequest {}).await.expect("an answer");
    assert_eq!(info.into_inner().name, "imaging.umbra.dev");
    let request = csi::GetPluginCapabilitiesRequest {};
    let found = plugin.identity.get_plugin_capabilities(request).await.expect("an answer").into_inner();
    let services: Vec<i32> = found
        .capabilities
        .into_iter()
        .map(|capability| match capability.r#type {
            Some(csi::plugin_capability::Type::Service(service)) => service.r#type,
            other => panic!("{other:?}"),
        })
        .collect();
    let constraints = csi::plugin_capability::service::Type::VolumeAccessibilityConstraints;
    assert_eq!(services, [i32::from(constraints)]);
    let info = plugin.node.node_get_info(csi::NodeGetInfoRequest {}).await.expect("an answer").into_inner();
    let topology = HashMap::from([("topology.imaging.umbra.dev/node".to_owned(), "node-a".to_owned())]);
    assert_eq!(
        (info.node_id.as_str(), info.accessible_topology.expect("one").segments),
        ("node-a", topology)
    );
    let grow = plugin.node.node_expand_volume(csi::NodeExpandVolumeRequest::default()).await;
    assert_eq!(grow.expect_err("no capability").code(), tonic::Code::Unimplemented);

    let probe = plugin.identity.probe(csi::ProbeRequest {}).await.expect("it lives");
    assert_eq!(probe.into_inner().ready, Some(false), "umbra-io is away");
    world.serve_platform().await;
    let probe = plugin.identity.probe(csi::ProbeRequest {}).await.expect("it lives");
    assert_eq!(probe.into_inner().ready, Some(true));
    plugin.stop().await;
}

#[tokio::test]
async fn a_stage_that_cannot_be_meant_is_refused_by_the_field() {
    let world = World::new().await;
    let mut plugin = world.serve().await;
    let (master, at) = (format!("m/{}", world.master), world.text("staging"));
    let with = |capability: Option<csi::VolumeCapability>| csi::NodeStageVolumeRequest {
        volume_capability: capability,
        ..stage(&master, &at)
    };
    let mounted = |mount| with(capability(Some(AccessType::Mount(mount)), Mode::SingleNodeWriter));
    let grouped = MountVolume { volume_mount_group: "1".into(), ..MountVolume::default() };
    let odd = MountVolume { mount_flags: vec!["a\0b".into()], ..MountVolume::default() };
    let context = HashMap::from([("imaging.umbra.dev/shadow-access".to_owned(), "yes".to_owned())]);
    for (request, reason, field) in [
        (stage("", &at), "BAD_REQUEST", "volume_id"),
        (stage(&master, ""), "BAD_REQUEST", "staging_target_path"),
        (stage(&master, "some/path"), "BAD_REQUEST", "staging_target_path"),
        (stage(&master, "/a/../b"), "BAD_REQUEST", "staging_target_path"),
        (stage("fake-vol-id", &at), "NO_SUCH_VOLUME", "fake-vol-id"),
        (stage("m/../../etc", &at), "NO_SUCH_VOLUME", "m/../../etc"),
        (with(None), "BAD_REQUEST", "volume_capability"),
        (with(capability(None, Mode::SingleNodeWriter)), "BAD_REQUEST", "access_type"),
        (with(capability(directory(""), Mode::Unknown)), "BAD_REQUEST", "access_mode"),
        (mounted(grouped), "BAD_REQUEST", "volume_mount_group"),
        (mounted(odd), "BAD_REQUEST", "mount_flags"),
        (
            csi::NodeStageVolumeRequest { volume_context: context, ..stage(&master, &at) },
            "BAD_REQUEST",
            "shadow-access",
        ),
    ] {
        let refusal = refusal(plugin.node.node_stage_volume(request).await);
        assert!(refusal.reason() == reason && refusal.to_string().contains(field), "{field}: {refusal}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn other_calls_that_cannot_be_meant_are_refused_by_the_field() {
    let world = World::new().await;
    let mut plugin = world.serve().await;
    let (master, at, pod) = (format!("m/{}", world.master), world.text("staging"), world.text("pod"));
    for (request, field) in [
        (publish(&master, &at, ""), "target_path"),
        (publish(&master, "", &pod), "staging_target_path"),
        (publish(&master, &at, &at), "target_path"),
        (
            csi::NodePublishVolumeRequest { volume_capability: None, ..publish(&master, &at, &pod) },
            "capability",
        ),
    ] {
        let refusal = refusal(plugin.node.node_publish_volume(request).await);
        assert!(refusal.reason() == "BAD_REQUEST" && refusal.to_string().contains(field), "{refusal}");
    }
    let stats = |volume: &str, path: &str| csi::NodeGetVolumeStatsRequest {
        volume_id: volume.into(),
        volume_path: path.into(),
        ..csi::NodeGetVolumeStatsRequest::default()
    };
    for (request, reason) in [
        (stats("", "/x"), "BAD_REQUEST"),
        (stats(&master, ""), "BAD_REQUEST"),
        (stats("fake-vol-id", "/x"), "NO_SUCH_VOLUME"),
        (stats(&master, "some/path"), "NOT_THERE"),
        (stats(&master, &pod), "NOT_THERE"),
    ] {
        assert_eq!(refusal(plugin.node.node_get_volume_stats(request).await).reason(), reason);
    }
    plugin.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_not_served_is_waited_for_or_refused() {
    let world = World::new().await;
    let mut plugin = world.serve().await;
    let (master, set) = (format!("m/{}", world.master), format!("s/{}", world.set));
    let at = world.text("staging");
    let away = refusal(plugin.node.node_stage_volume(stage(&master, &at)).await);
    assert_eq!(away.reason(), "INTERPOSER_AWAY");
    assert_eq!(away.code(), tonic::Code::Unavailable);
    // Leaving needs nobody.
    let leave = csi::NodeUnstageVolumeRequest { volume_id: master.clone(), staging_target_path: at.clone() };
    plugin.node.node_unstage_volume(leave).await.expect("it is not there");
    world.serve_platform().await;

    let unknown = refusal(plugin.node.node_stage_volume(stage(&set.replacen('s', "m", 1), &at)).await);
    assert_eq!((unknown.reason(), unknown.code()), ("NO_SUCH_VOLUME", tonic::Code::NotFound));
    let wait = || WaitingFor {
        reason: WaitReason::NotThere,
        what: "the master /dev/master is not there".into(),
        since: WallTime::now(),
    };
    let by_id = MasterRef::Id(world.master);
    for (state, reason, code) in [
        (MasterState::Claiming(wait()), "NOT_SERVED", tonic::Code::Unavailable),
        (MasterState::Recovering(wait()), "NOT_SERVED", tonic::Code::Unavailable),
        (MasterState::Blocked(wait()), "NOT_SERVED", tonic::Code::Unavailable),
        (MasterState::Failed { reason: "a panic".into() }, "NOT_SERVED", tonic::Code::Unavailable),
        (MasterState::Detaching, "LEAVING", tonic::Code::FailedPrecondition),
        (MasterState::Quarantined(wait()), "QUARANTINED", tonic::Code::FailedPrecondition),
        // Served, and there is no device at the path of the presented one.
        (MasterState::Serving, "NOT_PRESENTED", tonic::Code::Unavailable),
    ] {
        world.fake.set_master_state(&by_id, state.clone()).expect("it is attached");
        for volume in [&master, &set] {
            let refusal = refusal(plugin.node.node_stage_volume(stage(volume, &at)).await);
            assert_eq!((refusal.reason(), refusal.code()), (reason, code), "{state:?} {volume}: {refusal}");
            let refusal =
                crate::world::refusal(plugin.node.node_publish_volume(publish(volume, &at, "/x")).await);
            assert_eq!(refusal.reason(), reason, "{state:?} {volume}: {refusal}");
        }
    }
    let by_id = SetRef::Id(world.set);
    world.fake.fail_volume(&by_id, Role::Shadow, "it fell out").expect("it is there");
    let gone = refusal(plugin.node.node_stage_volume(stage(&set, &at)).await);
    assert!(gone.reason() == "NO_IMAGE" && gone.to_string().contains("it fell out"), "{gone}");
    world.fake.give_up(&by_id, "no space").expect("it is there");
    let gone = refusal(plugin.node.node_stage_volume(stage(&set, &at)).await);
    assert!(gone.reason() == "NO_IMAGE" && gone.to_string().contains("no space"), "{gone}");
    assert_eq!(gone.code(), tonic::Code::FailedPrecondition);
    plugin.stop().await;
}

/// Whatever comes of the mount: there is no device here. What is not a read-only mount of an image tells of none.
#[tokio::test]
async fn umbra_io_is_told_of_a_recovery_before_and_after_the_mount_of_an_image() {
    let world = World::new().await;
    world.serve_platform().await;
    let mut plugin = world.serve().await;
    let at = world.text("staging");
    let told = || world.fake.recoveries(&SetRef::Id(world.set)).expect("it is there");
    let set = format!("s/{}", world.set);

    let mut writable = stage(&set, &at);
    writable.volume_context = HashMap::from([(SHADOW_ACCESS.to_owned(), "ReadWrite".to_owned())]);
    let mut as_device = stage(&set, &at);
    as_device.volume_capability = capability(block(), Mode::SingleNodeReaderOnly);
    for other in [stage(&format!("m/{}", world.master), &at), writable, as_device] {
        plugin.node.node_stage_volume(other).await.expect_err("nothing is presented");
        assert_eq!(told(), []);
    }
    plugin.node.node_stage_volume(stage(&set, &at)).await.expect_err("nothing is presented");
    assert!(matches!(told()[..], [Millis(1..), Millis(0)]), "{:?}", told());
    plugin.stop().await;
}

/// As a pod without a file system would have it; also where nothing may be mounted, devices are looked at.
#[tokio::test]
async fn a_device_in_block_mode_is_staged_by_the_ledger_alone() {
    if !may_mount("a_device_in_block_mode_is_staged_by_the_ledger_alone") {
        return;
    }
    let world = World::new().await;
    world.serve_platform().await;
    let _device = Presented::new(world.path("disk"), world.master);
    let mut plugin = world.serve().await;
    let mut ask = stage(&format!("m/{}", world.master), &world.text("staging"));
    ask.volume_capability = capability(block(), Mode::SingleNodeWriter);
    plugin.node.node_stage_volume(ask.clone()).await.expect("staged");
    assert!(!world.path("staging").exists(), "nothing is made for it");
    let handle = ask.volume_id.parse().expect("a handle");
    assert!(plugin.ledger.in_use(handle).expect("known").staged.is_some());
    plugin.stop().await;
}
