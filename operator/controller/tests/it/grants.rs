//! What a grant says that it covers.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use umbra_crds::{DeviceGrant, ImagingNode};
use umbra_operator::cluster::Key;

use crate::bench::Bench;

fn grant(bench: &Bench) -> DeviceGrant {
    bench.objects.get(&Key::cluster("all")).expect("it is there")
}

fn ready(bench: &Bench) -> (String, String) {
    let status = grant(bench).status.expect("a status");
    let found = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("a condition");
    (found.reason.clone(), found.message.clone())
}

/// The node says which devices it has.
fn devices(bench: &Bench, node: &str, devices: &Value) {
    let mut object: ImagingNode = bench.objects.get(&Key::cluster(node)).expect("it is there");
    object.status.get_or_insert_default().devices = serde_json::from_value(devices.clone()).expect("devices");
    bench.objects.replace(&object, true).expect("nobody else writes");
}

#[tokio::test]
async fn a_grant_says_what_it_covers_on_the_nodes_as_they_are() {
    let bench = Bench::new();
    let look = || bench.reconcile_all::<DeviceGrant>();
    look().await;
    assert_eq!(ready(&bench).0, "NoMatch");

    let used = json!({"id": "/dev/disk/by-id/nvme-1", "sizeBytes": 1, "role": "Shadow", "usedBy": "VolumeSet/prod/s"});
    let other = json!({"id": "/dev/disk/by-path/pci-1", "sizeBytes": 1});
    let free = json!({"id": "/dev/disk/by-id/nvme-2", "sizeBytes": 1});
    devices(&bench, "b", &json!([free]));
    devices(&bench, "a", &json!([used, other]));
    look().await;
    assert_eq!(ready(&bench), ("Matching".into(), String::new()));
    let matches = serde_json::to_value(grant(&bench).status.unwrap().matches).unwrap();
    let wanted = json!([
        {"node": "a", "id": "/dev/disk/by-id/nvme-1", "role": "Shadow", "usedBy": "VolumeSet/prod/s"},
        {"node": "b", "id": "/dev/disk/by-id/nvme-2"},
    ]);
    assert_eq!(matches, wanted);

    // At rest nothing is written.
    let version = bench.objects.version();
    look().await;
    assert_eq!(bench.objects.version(), version);

    // A pattern that is too wide says so, and names what will be refused.
    let system = json!({"id": "/dev/disk/by-id/nvme-0", "sizeBytes": 1, "denied": "System"});
    devices(&bench, "a", &json!([system, used]));
    look().await;
    let (reason, message) = ready(&bench);
    assert_eq!(reason, "OverlapsDenyList");
    assert!(message.contains("/dev/disk/by-id/nvme-0 of a (System)"), "{message}");
    assert_eq!(grant(&bench).status.unwrap().matches.len(), 2, "what can be used is named all the same");

    // A node that is not selected any more has nothing to give.
    let mut node: Node = bench.objects.get(&Key::cluster("a")).expect("it is there");
    node.metadata.labels = None;
    bench.objects.replace(&node, false).expect("nobody else writes");
    look().await;
    let matches = grant(&bench).status.unwrap().matches;
    assert_eq!(matches.iter().map(|found| found.node.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(ready(&bench).0, "Matching");
}

#[tokio::test]
async fn a_status_names_no_more_devices_than_it_may() {
    let bench = Bench::new();
    let many: Vec<Value> = (0..200)
        .map(|number| json!({"id": format!("/dev/disk/by-id/nvme-{number}"), "sizeBytes": 1}))
        .collect();
    devices(&bench, "a", &many.into());
    bench.reconcile_all::<DeviceGrant>().await;
    assert_eq!(grant(&bench).status.unwrap().matches.len(), 128);
    assert_eq!(ready(&bench), ("Matching".into(), "and 72 devices more".into()));
}
