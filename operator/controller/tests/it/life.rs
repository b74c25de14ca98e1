//! The story of a database's volume, from its first claim to its last.

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;
use umbra_crds::{ImagingOperation, MasterVolume, SetGroup, VolumeSet};
use umbra_operator::cluster::Key;
use umbra_operator::removal;

use crate::bench::Bench;

/// What a user does, step by step; everything comes to rest between the steps.
pub(crate) async fn story(bench: &Bench) {
    bench.master("pg", "a", 0);
    bench.set("one", "pg", "Independent", "a", 1);
    bench.set("two", "pg", "Dependent", "a", 4);
    bench.settle().await;
    bench.operation(
        "cut",
        &json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
    let restore = json!({"target": {"kind": "VolumeSet", "name": "one"}, "command": "UpdateMaster",
        "guard": {"expectCutID": bench.cut_of("one")}, "safety": {"volumeSetRef": {"name": "two"}}});
    bench.operation("restore", &restore);
    bench.settle().await;
    let undo = json!({"target": {"kind": "VolumeSet", "name": "two"}, "command": "UpdateMaster",
        "guard": {"expectCutID": bench.cut_of("two")}, "waitFor": "Cut"});
    bench.operation("undo", &undo);
    bench.settle().await;
    bench.group("both", &["one", "two"]);
    bench.operation(
        "together",
        &json!({"target": {"kind": "SetGroup", "name": "both"}, "command": "UpdateShadow"}),
    );
    bench.settle().await;
}

/// How the story ends, in what people see.
const END: &[&str] = &[
    "MasterVolume pg InUse=False/Free Ready=True/Live false",
    "VolumeSet one ImageTrusted=True/Exact Independent=True/CopyDone Ready=True/InSync Resynchronizing=False/Idle \
     ShadowPublished=True/ClaimBound false",
    "VolumeSet two ImageTrusted=True/Exact Ready=True/Dependent Resynchronizing=False/Idle \
     ShadowPublished=True/ClaimBound false",
    "SetGroup both Consistent=True/OneInstant Ready=True/AllMembersReady false",
    "ImagingOperation cut Complete=True/CopyDone Ready=True/CopyDone false",
    "ImagingOperation restore Complete=True/CopyDone Ready=True/CopyDone false",
    "ImagingOperation together Complete=True/CopyDone Ready=True/CopyDone false",
    "ImagingOperation undo Complete=True/CutDone Ready=True/CutDone false",
    "claim one-image",
    "claim pg-data",
    "claim two-image",
    "3 volumes",
    "on a node: master prod.pg Serving",
    "on a node: set prod/one 4 Idle",
    "on a node: set prod/two 4 Idle",
];

/// Whether the story has ended as it should.
pub(crate) async fn expect_end(bench: &Bench) -> Result<(), String> {
    let picture = bench.picture().await;
    if picture == END {
        return Ok(());
    }
    Err(format!("{picture:#?}"))
}

#[tokio::test]
async fn the_story_is_told() {
    let bench = Bench::new();
    story(&bench).await;
    expect_end(&bench).await.unwrap();
    let in_use = removal::left(&bench).await.unwrap();
    assert_eq!(in_use, ["MasterVolume prod/pg", "VolumeSet prod/one", "VolumeSet prod/two"]);
    let restore: ImagingOperation = bench.object("restore").unwrap();
    let status = restore.status.unwrap();
    assert_eq!(status.undo_hint.as_deref(), Some("kubectl umbra undo restore --namespace prod"));
    assert!(status.completion_time.is_some() && status.percent == Some(100));

    let group: SetGroup = bench.object("both").unwrap();
    let cut = group.status.unwrap().last_cut.unwrap();
    assert_eq!(cut.operation_name.unwrap().as_str(), "together");
    let image = bench.object::<VolumeSet>("one").unwrap().status.unwrap().image.unwrap();
    assert_eq!((image.cut_id, image.group_cut_id), (cut.id, Some(cut.id)));

    // At rest nothing is written.
    let version = bench.objects.version();
    for _ in 0..5 {
        bench.pass(60);
        bench.round().await;
    }
    assert_eq!(bench.objects.version(), version);

    // What stands on something keeps it.
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/DeletionBlockedInUse");
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("one, two"));
    bench.pod("reader", "one-image");
    bench.remove::<SetGroup>("both");
    bench.remove::<VolumeSet>("one");
    bench.remove::<VolumeSet>("two");
    bench.settle().await;
    assert!(bench.object::<VolumeSet>("two").is_none());
    assert!(bench.message::<VolumeSet>("one", "Ready").contains("reader"));
    bench.remove::<k8s_openapi::api::core::v1::Pod>("reader");
    // Something keeps its claim for a while.
    bench.hold::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("one-image", true);
    bench.settle().await;
    assert!(bench.message::<VolumeSet>("one", "Ready").contains("claim one-image is gone"));
    bench.hold::<k8s_openapi::api::core::v1::PersistentVolumeClaim>("one-image", false);
    bench.settle().await;
    let left = bench.picture().await;
    let operations = left.iter().filter(|line| line.starts_with("ImagingOperation")).count();
    assert_eq!((left.len(), operations), (5, 4), "{left:#?}");
    bench.pass(8 * 24 * 3600);
    bench.settle().await;
    assert_eq!(bench.picture().await, ["0 volumes"]);
    assert!(removal::left(&bench).await.unwrap().is_empty());
}

/// The node lets nobody write an image unless its volume says so.
#[tokio::test]
async fn only_the_volume_of_a_writable_image_says_that_it_may_be_written() {
    let bench = Bench::new();
    bench.master("pg", "a", 0);
    bench.set("one", "pg", "Independent", "a", 1);
    bench.set("two", "pg", "Dependent", "a", 4);
    bench.edit::<VolumeSet>("two", |spec| {
        spec["shadow"]["access"] = "ReadWrite".into();
        spec["shadow"]["publish"]["readOnly"] = false.into();
    });
    bench.settle().await;
    for (name, access) in [("one", None), ("two", Some("ReadWrite"))] {
        let id = bench.there(name).await.unwrap().id;
        let volume: PersistentVolume =
            bench.objects.get(&Key::cluster(&format!("umbra-s-{id}"))).expect("published");
        let attributes = volume.spec.unwrap().csi.unwrap().volume_attributes.unwrap_or_default();
        assert_eq!(attributes.get("imaging.umbra.dev/shadow-access").map(String::as_str), access, "{name}");
    }
}
