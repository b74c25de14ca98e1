//! What keeps an operation, a set or a master from being carried out, and what becomes of it then.

use serde_json::json;
use umbra_crds::{DeviceGrant, ImagingOperation, MasterVolume, SetGroup, VolumeSet};
use umbra_operator::cluster::Key;
use umbra_platform::id::SetRef;
use umbra_platform::status::{MasterState, WaitReason, WaitingFor};
use umbra_platform::time::WallTime;

use crate::bench::Bench;

async fn ready() -> Bench {
    let bench = Bench::new();
    bench.master("pg", "a", 0);
    bench.set("one", "pg", "Independent", "a", 1);
    bench.set("two", "pg", "Dependent", "a", 4);
    bench.settle().await;
    bench
}

fn failed(bench: &Bench, name: &str) -> String {
    bench.condition::<ImagingOperation>(name, "Failed").unwrap_or_else(|| "not failed".into())
}

fn set_ref(name: &str) -> SetRef {
    format!("prod/{name}").parse().expect("a name")
}

/// Operations that are refused with this reason, and change nothing.
#[tokio::test]
async fn refused_operations_change_nothing() {
    let bench = ready().await;
    bench.pod("db", "pg-data");
    bench.edit::<VolumeSet>("two", |spec| spec["shadow"]["protected"] = true.into());
    bench.settle().await;
    let (one, two) = (bench.cut_of("one"), bench.cut_of("two"));
    let guard = json!({"expectCutID": one});
    let stale = json!({"expectCutID": "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77"});
    let target = |name: &str| json!({"kind": "VolumeSet", "name": name});
    let late = json!({"kind": "VolumeSet", "name": "none"});
    for (name, spec, reason) in [
        ("r1", json!({"target": target("one"), "command": "UpdateMaster", "guard": guard}), "InUse"),
        ("r2", json!({"target": target("one"), "command": "UpdateMaster", "guard": stale}), "StaleGuard"),
        ("r3", json!({"target": target("one"), "command": "UpdateShadow", "guard": stale}), "StaleGuard"),
        ("r4", json!({"target": target("two"), "command": "UpdateShadow"}), "Protected"),
        ("r5", json!({"target": target("two"), "command": "Reset"}), "Protected"),
        ("r6", json!({"target": late, "command": "UpdateShadow", "activeDeadline": "1s"}), "NotFound"),
        (
            "r7",
            json!({"target": target("one"), "command": "UpdateShadow", "quiesce": {"fileSystem": "Freeze"}}),
            "NotSupported",
        ),
        (
            "r8",
            json!({"target": target("one"), "command": "UpdateMaster", "guard": guard,
                "safety": {"volumeSetRef": {"name": "two"}}}),
            "Protected",
        ),
    ] {
        if name == "r8" {
            bench.remove::<k8s_openapi::api::core::v1::Pod>("db");
        }
        bench.operation(name, &spec);
        for _ in 0..4 {
            bench.settle().await;
        }
        assert_eq!(
            failed(&bench, name),
            format!("True/{reason}"),
            "{name}: {}",
            bench.message::<ImagingOperation>(name, "Failed")
        );
        let current = bench.object::<VolumeSet>("one").unwrap().status.unwrap().current_operation;
        assert_eq!(current, None, "{name}");
    }
    assert_eq!((bench.cut_of("one"), bench.cut_of("two")), (one, two));
    assert_eq!((bench.epoch("one").await, bench.epoch("two").await), (1, 1));
}

#[tokio::test]
async fn an_image_that_was_written_or_is_not_whole_is_restored_only_if_that_is_said() {
    let bench = ready().await;
    bench.fake("a").write_shadow(&set_ref("one"), 0..4096).unwrap();
    bench.settle().await;
    let restore = |allow: bool| {
        json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster",
            "guard": {"expectCutID": bench.cut_of("one"), "allowWrittenShadow": allow}})
    };
    bench.operation("no", &restore(false));
    bench.settle().await;
    assert_eq!(failed(&bench, "no"), "True/ShadowWritten");
    bench.operation("yes", &restore(true));
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("yes", "Complete").unwrap(), "True/CopyDone");

    bench.fake("a").write_master(&"prod.pg".parse().unwrap(), 0..4096).unwrap();
    bench.fake("a").lose(&set_ref("two"), 0..4096).unwrap();
    bench.settle().await;
    assert_eq!(bench.condition::<VolumeSet>("two", "ImageTrusted").unwrap(), "False/LostChunks");
    bench.operation(
        "lost",
        &json!({"target": {"kind": "VolumeSet", "name": "two"}, "command": "UpdateMaster",
            "guard": {"expectCutID": bench.cut_of("two")}}),
    );
    bench.settle().await;
    assert_eq!(failed(&bench, "lost"), "True/Untrusted");
}

#[tokio::test]
async fn a_restore_that_may_wait_waits_for_the_pods() {
    let bench = ready().await;
    bench.pod("db", "pg-data");
    bench.operation(
        "restore",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster", "inUsePolicy": "Wait",
            "guard": {"expectCutID": bench.cut_of("one")}}),
    );
    bench.settle().await;
    assert_eq!(
        bench.condition::<ImagingOperation>("restore", "Reconciling").unwrap(),
        "True/WaitingForUsers"
    );
    // Another must wait for its turn, and gets it.
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Reconciling").unwrap(), "True/WaitingForTurn");
    bench.remove::<k8s_openapi::api::core::v1::Pod>("db");
    bench.settle().await;
    // Its copy may have ended and been followed by the next cut before anybody looked.
    let restored = bench.condition::<ImagingOperation>("restore", "Complete").unwrap();
    assert!(["True/CopyDone", "True/CutDone"].contains(&restored.as_str()), "{restored}");
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Complete").unwrap(), "True/CopyDone");
    assert_eq!(bench.epoch("one").await, 3);
}

/// A node that does not answer makes everything wait, and nothing is done twice.
#[tokio::test]
async fn a_node_that_is_silent_is_waited_for() {
    let bench = ready().await;
    bench.silence(true);
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/NodeNotReady");
    assert_eq!(bench.condition::<VolumeSet>("one", "Ready").unwrap(), "False/MasterNotReady");
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Reconciling").unwrap(), "True/WaitingForNode");
    bench.silence(false);
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Complete").unwrap(), "True/CopyDone");
    assert_eq!(bench.epoch("one").await, 2);
    bench.silence(true);
    bench.operation(
        "late",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow", "activeDeadline": "10s"}),
    );
    bench.settle().await;
    bench.pass(11);
    bench.settle().await;
    assert_eq!(failed(&bench, "late"), "True/Deadline");
    bench.silence(false);
    bench.settle().await;
    assert_eq!(bench.epoch("one").await, 2);
}

#[tokio::test]
async fn a_grant_that_is_withdrawn_stops_nothing_that_runs() {
    let bench = ready().await;
    let key = Key::cluster("all");
    bench.objects.delete::<DeviceGrant>(&key).unwrap();
    bench.set("three", "pg", "Dependent", "a", 6);
    bench.master("other", "b", 0);
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/GrantRevoked");
    assert_eq!(bench.condition::<VolumeSet>("one", "Ready").unwrap(), "False/GrantRevoked");
    assert_eq!(bench.condition::<MasterVolume>("other", "Ready").unwrap(), "False/GrantMissing");
    assert_eq!(bench.condition::<VolumeSet>("three", "Ready").unwrap(), "False/GrantMissing");
    assert_eq!(bench.epoch("one").await, 1);
    assert!(bench.there("three").await.is_none());
}

#[tokio::test]
async fn what_the_node_refuses_is_said_on_the_object() {
    let bench = ready().await;
    // The same device in two roles; a device of another node; a bitmap volume that is too small for small chunks.
    bench.set("same", "pg", "Dependent", "a", 1);
    bench.set("far", "pg", "Dependent", "b", 1);
    bench.settle().await;
    assert_eq!(bench.condition::<VolumeSet>("same", "Ready").unwrap(), "False/VolumeRefused");
    assert!(bench.message::<VolumeSet>("same", "Ready").contains("prod/one"));
    assert_eq!(bench.condition::<VolumeSet>("far", "Ready").unwrap(), "False/VolumeRefused");
    assert!(bench.message::<VolumeSet>("far", "Ready").contains("node b"));
    bench.master("again", "a", 0);
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("again", "Ready").unwrap(), "False/ForeignMaster");
    // Freed, it is taken.
    bench.remove::<VolumeSet>("one");
    bench.settle().await;
    assert_eq!(bench.condition::<VolumeSet>("same", "Ready").unwrap(), "True/Dependent");
}

#[tokio::test]
async fn a_master_that_waits_says_for_what_and_its_sets_with_it() {
    let bench = ready().await;
    let wait = WaitingFor {
        reason: WaitReason::WrittenOutside,
        what: "/dev/disk/by-id/d0 was written".to_owned().into(),
        since: WallTime::now(),
    };
    bench.fake("a").set_master_state(&"prod.pg".parse().unwrap(), MasterState::Quarantined(wait)).unwrap();
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/Quarantined");
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("was written"));
    assert_eq!(bench.condition::<VolumeSet>("one", "ImageTrusted").unwrap(), "False/MasterWrittenOutside");
}

/// A member on each node: no cut is of one instant then.
#[tokio::test]
async fn a_group_over_two_nodes_is_refused_with_the_reason() {
    let bench = ready().await;
    bench.master("wal", "b", 0);
    bench.set("wal-one", "wal", "Dependent", "b", 1);
    bench.group("both", &["one", "wal-one"]);
    bench.operation(
        "cut",
        &json!({"target": {"kind": "SetGroup", "name": "both"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_eq!(failed(&bench, "cut"), "True/NotSupported");
    assert!(bench.message::<umbra_crds::SetGroup>("both", "Ready").contains("nodes a, b"));
    assert_eq!((bench.epoch("one").await, bench.epoch("wal-one").await), (1, 1));
}

#[tokio::test]
async fn limits_are_changed_while_the_set_works() {
    let bench = ready().await;
    for rate in ["10Mi", "20Mi", "10Mi"] {
        bench.edit::<VolumeSet>("one", |spec| {
            spec["copy"] = json!({"maxBytesPerSecond": rate, "maxInFlight": 4})
        });
        bench.settle().await;
        let limits = bench.there("one").await.unwrap().limits;
        let expected = if rate == "10Mi" { 10 << 20 } else { 20 << 20 };
        assert_eq!(limits.bytes_per_second.map(|rate| rate.get()), Some(expected));
        assert_eq!(limits.in_flight.get(), 4);
    }
}

#[tokio::test]
async fn a_claim_of_somebody_else_is_left_alone() {
    let bench = Bench::new();
    bench.make::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(
        &json!({"metadata": {"name": "pg-data", "namespace": "prod"}, "spec": {}}),
    );
    bench.master("pg", "a", 0);
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/ClaimTaken");
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert!(bench.object::<MasterVolume>("pg").is_none());
    assert!(bench.object::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("pg-data").is_some());
}

/// What the node refused is not done when its time is over, whatever has become possible since.
#[tokio::test]
async fn a_restore_that_was_refused_is_given_up_in_time() {
    let bench = ready().await;
    let master = bench.there("one").await.unwrap().master;
    let presented = format!("/dev/umbra/by-id/{master}").parse().unwrap();
    bench.fake("a").set_opener(&presented, Some("an unmount that lags"));
    bench.operation(
        "restore",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster", "inUsePolicy": "Wait",
            "guard": {"expectCutID": bench.cut_of("one")}, "activeDeadline": "60s"}),
    );
    bench.settle().await;
    assert_eq!(
        bench.condition::<ImagingOperation>("restore", "Reconciling").unwrap(),
        "True/WaitingForUsers"
    );
    // Tried again, it writes nothing.
    let version = bench.objects.version();
    bench.round().await;
    assert_eq!(bench.objects.version(), version);
    // A pod comes, and the node would no longer mind.
    bench.pod("db", "pg-data");
    bench.fake("a").set_opener(&presented, None);
    bench.settle().await;
    assert_eq!(bench.epoch("one").await, 1, "a pod uses the master");
    bench.pass(61);
    bench.settle().await;
    assert_eq!(failed(&bench, "restore"), "True/InUse");
    bench.remove::<k8s_openapi::api::core::v1::Pod>("db");
    bench.settle().await;
    assert_eq!(bench.epoch("one").await, 1, "it was given up");
}

/// A pod on the claim that the volume was made for uses the volume, whatever claim is asked for by now.
#[tokio::test]
async fn a_pod_on_the_former_claim_still_uses_the_master() {
    let bench = ready().await;
    bench.pod("db", "pg-data");
    // As the cluster does while a pod uses it.
    bench.hold::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("pg-data", true);
    bench.settle().await;
    bench.edit::<MasterVolume>("pg", |spec| spec["publish"]["claimName"] = "elsewhere".into());
    bench.operation(
        "restore",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster",
            "guard": {"expectCutID": bench.cut_of("one")}}),
    );
    bench.settle().await;
    assert_eq!(failed(&bench, "restore"), "True/InUse");
    assert_eq!(bench.epoch("one").await, 1, "the master was overwritten under its pod");
}

/// A group says beforehand what no node would do.
#[tokio::test]
async fn a_group_of_more_sets_than_one_cut_can_hold_is_not_ready() {
    let bench = ready().await;
    let names: Vec<String> = (0..17).map(|number| format!("many-{number:02}")).collect();
    for name in &names {
        bench.set(name, "pg", "Dependent", "b", 1);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.group("many", &names);
    bench.group("most", &names[..16]);
    bench.round().await;
    assert_eq!(bench.condition::<SetGroup>("many", "Ready").unwrap(), "False/TooManyMembers");
    assert_eq!(bench.condition::<SetGroup>("most", "Ready").unwrap(), "False/MemberNotReady");
}

/// Who may write a status can name anything there.
#[tokio::test]
async fn a_status_gives_nobody_what_is_anothers() {
    let bench = ready().await;
    let victim = bench.there("one").await.unwrap();
    bench.set("thief", "pg", "Independent", "b", 1);
    bench.forge::<VolumeSet>("thief", &json!({"setID": victim.id, "nodeName": "a"}));
    bench.master("other", "b", 0);
    bench.forge::<MasterVolume>("other", &json!({"masterID": victim.master, "nodeName": "a"}));
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "thief"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_ne!(bench.condition::<MasterVolume>("other", "Ready").unwrap(), "True/Live");
    assert!(bench.object::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("other-data").is_none());
    bench.remove::<ImagingOperation>("cut");
    bench.remove::<VolumeSet>("thief");
    bench.remove::<MasterVolume>("other");
    bench.settle().await;
    assert_eq!(bench.there("one").await.unwrap().epoch.0, 1);
    assert_eq!(bench.condition::<VolumeSet>("one", "Ready").unwrap(), "True/InSync");
}

/// An object that was lost, and comes again with other volumes under its name.
#[tokio::test]
async fn another_device_under_a_name_is_not_taken_for_it() {
    let bench = ready().await;
    let after = bench.wiped();
    after.master("pg", "a", 3);
    after.settle().await;
    assert_eq!(after.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/ForeignMaster");
    assert!(after.object::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("pg-data").is_none());
    let again = bench.wiped();
    again.master("pg", "a", 0);
    again.set("one", "pg", "Dependent", "a", 1);
    again.set("two", "pg", "Dependent", "a", 6);
    again.settle().await;
    for (name, said) in [("one", "its mode is independent"), ("two", "its shadow is")] {
        assert_eq!(again.condition::<VolumeSet>(name, "Ready").unwrap(), "False/ForeignBitmap");
        assert!(again.message::<VolumeSet>(name, "Ready").contains(said), "{name}");
        again.remove::<VolumeSet>(name);
    }
    again.settle().await;
    assert_eq!((again.epoch("one").await, again.epoch("two").await), (1, 1), "they are another's");
}

#[tokio::test]
async fn a_copy_is_broken_off_while_its_operation_waits_for_it() {
    let bench = ready().await;
    bench.fake("a").write_master(&"prod.pg".parse().unwrap(), 0..(1 << 20)).unwrap();
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "CopyToShadow"}),
    );
    bench.round().await;
    bench.operation("abort", &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "Abort"}));
    bench.round().await;
    bench.round().await;
    assert_eq!(bench.condition::<ImagingOperation>("abort", "Complete").unwrap(), "True/CopyAborted");
    bench.settle().await;
    assert_eq!(failed(&bench, "cut"), "True/Incomplete");
    // The set that is to go can be cut once more, which the node asks for, and goes.
    bench.remove::<VolumeSet>("one");
    bench.settle().await;
    assert!(bench.message::<VolumeSet>("one", "Ready").contains("again"));
    bench.operation(
        "whole",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert!(bench.object::<VolumeSet>("one").is_none(), "{:#?}", bench.picture().await);
    // Its copy was not waited for to the end of all days.
    assert!(bench.condition::<ImagingOperation>("whole", "Complete").unwrap().starts_with("True"));
}

#[tokio::test]
async fn a_group_that_goes_takes_nothing_from_its_operation() {
    let bench = ready().await;
    bench.fake("a").write_master(&"prod.pg".parse().unwrap(), 0..(1 << 20)).unwrap();
    bench.group("both", &["one", "two"]);
    bench.operation(
        "cut",
        &json!({"target": {"kind": "SetGroup", "name": "both"}, "command": "UpdateShadow"}),
    );
    bench.round().await;
    bench.remove::<umbra_crds::SetGroup>("both");
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Complete").unwrap(), "True/CopyDone");
    for name in ["one", "two"] {
        assert_eq!(bench.object::<VolumeSet>(name).unwrap().status.unwrap().current_operation, None);
    }
}

#[tokio::test]
async fn a_claim_is_made_anew_with_its_volume() {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
    let bench = ready().await;
    let volume = || {
        bench.objects.list::<PersistentVolume>(None).into_iter().find(|one| {
            one.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().name.as_deref() == Some("one-image")
        })
    };
    // The binder writes the claim's UID into the volume, for ever.
    let mut bound = volume().unwrap();
    bound.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("old".into());
    bench.objects.replace(&bound, false).unwrap();
    bench.remove::<PersistentVolumeClaim>("one-image");
    bench.settle().await;
    assert!(bench.object::<PersistentVolumeClaim>("one-image").is_some());
    assert_eq!(volume().unwrap().spec.unwrap().claim_ref.unwrap().uid, None);
    // No longer asked for, both go, once no pod uses them.
    bench.pod("reader", "one-image");
    bench.edit::<VolumeSet>("one", |spec| {
        spec["shadow"].as_object_mut().unwrap().remove("publish");
    });
    bench.settle().await;
    assert_eq!(bench.object::<VolumeSet>("one").unwrap().status.unwrap().roles.len(), 3);
    bench.remove::<k8s_openapi::api::core::v1::Pod>("reader");
    bench.settle().await;
    assert!(bench.object::<PersistentVolumeClaim>("one-image").is_none() && volume().is_none());
    bench.edit::<VolumeSet>("one", |spec| {
        spec["shadow"]["publish"] = json!({"claimName": "new", "readOnly": true})
    });
    bench.settle().await;
    assert!(bench.object::<PersistentVolumeClaim>("new").is_some());
}

/// A restore that goes on does so in its cut.
#[tokio::test]
async fn a_restore_that_was_broken_off_goes_on() {
    let bench = ready().await;
    bench.fake("a").write_master(&"prod.pg".parse().unwrap(), 0..(1 << 20)).unwrap();
    let restore = |cut: &str| {
        json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster",
            "guard": {"expectCutID": cut}})
    };
    bench.operation("first", &restore(&bench.cut_of("one")));
    bench.round().await;
    bench.operation("abort", &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "Abort"}));
    bench.round().await;
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("abort", "Complete").unwrap(), "True/CopyAborted");
    let (cut, epoch) = (bench.cut_of("one"), bench.epoch("one").await);
    bench.operation("again", &restore(&cut));
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("again", "Complete").unwrap(), "True/CopyDone");
    let made = bench.object::<ImagingOperation>("again").unwrap().status.unwrap().cut.unwrap();
    assert_eq!((made.id.to_string(), bench.epoch("one").await), (cut, epoch), "it is no new cut");
}
