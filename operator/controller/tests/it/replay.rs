//! Manifests that are applied again, under the same and under new circumstances (rule 7).

use serde_json::json;
use umbra_crds::{ImagingOperation, VolumeSet};

use crate::bench::{Bench, Kill};
use crate::life::story;

#[tokio::test]
async fn an_operation_is_carried_out_once_under_its_name() {
    let bench = Bench::new();
    story(&bench).await;
    let epoch = bench.epoch("one").await;
    bench.remove::<ImagingOperation>("cut");
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("cut", "Failed").unwrap(), "True/NameUsed");
    assert_eq!(bench.epoch("one").await, epoch);
    // It has not kept the set to itself.
    bench.operation(
        "next",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("next", "Complete").unwrap(), "True/CopyDone");
    assert_eq!(bench.epoch("one").await, epoch + 1);
}

#[tokio::test]
async fn a_cluster_that_has_lost_everything_keeps_every_image() {
    let bench = Bench::new();
    story(&bench).await;
    let (one, two) = (bench.cut_of("one"), bench.cut_of("two"));
    let after = bench.wiped();
    after.operation(
        "together",
        &json!({"target": {"kind": "SetGroup", "name": "both"}, "command": "UpdateShadow"}),
    );
    after.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    after.group("both", &["one", "two"]);
    after.set("two", "pg", "Dependent", "a", 4);
    after.set("one", "pg", "Independent", "a", 1);
    after.master("pg", "a", 0);
    after.settle().await;
    assert_eq!((after.cut_of("one"), after.cut_of("two")), (one, two));
    for name in ["together", "cut"] {
        assert_eq!(after.condition::<ImagingOperation>(name, "Failed").unwrap(), "True/NameUsed");
    }
    assert_eq!(after.condition::<VolumeSet>("one", "Ready").unwrap(), "True/InSync");
}

#[tokio::test]
async fn a_set_that_is_there_is_refused_where_that_is_asked_for() {
    let bench = Bench::new();
    story(&bench).await;
    let epoch = bench.epoch("one").await;
    let after = bench.wiped();
    after.master("pg", "a", 0);
    let mut manifest = crate::bench::set("one", "pg", "Independent", "a", 1);
    manifest["spec"]["onExisting"] = "Refuse".into();
    after.make::<VolumeSet>(&manifest);
    after.settle().await;
    assert_eq!(after.condition::<VolumeSet>("one", "Ready").unwrap(), "False/ForeignBitmap");
    assert_eq!(after.epoch("one").await, epoch);
    after.remove::<VolumeSet>("one");
    after.settle().await;
    assert!(after.object::<VolumeSet>("one").is_none());
    assert_eq!(after.epoch("one").await, epoch, "it was another's, and is still there");
    // One that it makes itself is its own, also where the leader that made it is gone.
    manifest["metadata"]["name"] = "three".into();
    manifest["spec"]["shadow"]["source"]["device"]["id"] = crate::bench::device(6).into();
    manifest["spec"]["bitmap"]["source"]["device"]["id"] = crate::bench::device(7).into();
    manifest["spec"]["shadow"]["publish"]["claimName"] = "three-image".into();
    after.make::<VolumeSet>(&manifest);
    after.settle().await;
    assert_eq!(after.condition::<VolumeSet>("three", "Ready").unwrap(), "True/InSync");
}

/// A set whose object goes before anything is on record of it.
#[tokio::test]
async fn a_set_that_was_made_is_ended_whatever_its_object_knows() {
    for call in 0..60 {
        let bench = Bench::new();
        bench.master("pg", "a", 0);
        bench.settle().await;
        bench.set("one", "pg", "Independent", "a", 1);
        bench.kill(Kill::After(bench.calls() + call));
        bench.round().await;
        bench.remove::<VolumeSet>("one");
        bench.settle().await;
        assert!(bench.object::<VolumeSet>("one").is_none(), "killed after call {call}");
        assert!(bench.there("one").await.is_none(), "killed after call {call}");
    }
}
