//! A claim is taken over and given back, with everything that can come between.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use umbra_crds::raw_volume::is_bound;
use umbra_crds::{MasterVolume, VolumeSet};
use umbra_operator::cluster::Key;

use crate::bench::{Bench, Kill, NAMESPACE, device};
use crate::sweep::at_any;

/// The raw volume, and the claim that is taken over.
const RAW: &str = "raw";
const CLAIM: &str = "data";

fn volume(source: &Value) -> Value {
    let mut spec = json!({"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
        "persistentVolumeReclaimPolicy": "Delete", "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
            [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-a"]}]}]}}});
    spec.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
    json!({"metadata": {"name": RAW}, "spec": spec})
}

fn claim() -> Value {
    json!({"metadata": {"name": CLAIM, "namespace": NAMESPACE, "labels": {"app": "pg"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "pg", "uid": "s-1"}]},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": "1Mi"}}}})
}

/// A claim on a raw device of node a, as a StatefulSet has made it.
pub(crate) async fn furnished() -> Bench {
    of_volume(&json!({"local": {"path": device(0), "fsType": "ext4"}})).await
}

async fn of_volume(source: &Value) -> Bench {
    let bench = Bench::with_controllers();
    bench.make::<PersistentVolume>(&volume(source));
    bench.make::<PersistentVolumeClaim>(&claim());
    bench.settle().await;
    bench
}

fn take(bench: &Bench, policy: Option<&str>) {
    let mut spec = json!({"source": {"pvc": {"claimName": CLAIM}}});
    if let Some(policy) = policy {
        spec["takeover"] = json!({"policy": policy});
    }
    bench.make::<MasterVolume>(&json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "MasterVolume",
        "metadata": {"name": "pg", "namespace": NAMESPACE}, "spec": spec}));
}

fn taken_over(bench: &Bench) -> String {
    bench.condition::<MasterVolume>("pg", "TakenOver").unwrap_or_default()
}

fn message(bench: &Bench) -> String {
    bench.message::<MasterVolume>("pg", "TakenOver")
}

fn raw(bench: &Bench) -> PersistentVolume {
    bench.objects.get(&Key::cluster(RAW)).expect("nothing takes it away")
}

fn the_claim(bench: &Bench) -> PersistentVolumeClaim {
    bench.object(CLAIM).expect("somebody has made it")
}

fn uid_of_claim(bench: &Bench) -> Option<String> {
    bench.object::<PersistentVolumeClaim>(CLAIM)?.uid()
}

/// From the first pod on the raw volume to one on Umbra's, with an image.
pub(crate) async fn taking(bench: &Bench) {
    bench.pod("db", CLAIM);
    take(bench, Some("WhenFree"));
    bench.settle().await;
    bench.remove::<Pod>("db");
    bench.settle().await;
    bench.pod("db", CLAIM);
    bench.set("one", "pg", "Dependent", "a", 1);
    bench.settle().await;
}

/// From there back to the raw volume.
pub(crate) async fn returning(bench: &Bench) {
    bench.remove::<Pod>("db");
    bench.remove::<VolumeSet>("one");
    bench.settle().await;
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
}

const TAKEN: &[&str] = &[
    "MasterVolume pg InUse=True/PodsUsing Ready=True/Live TakenOver=True/Done false",
    "VolumeSet one ImageTrusted=True/Exact Ready=True/Dependent Resynchronizing=False/Idle \
     ShadowPublished=True/ClaimBound false",
    "claim data",
    "claim one-image",
    "3 volumes",
    "on a node: master prod.pg Serving",
    "on a node: set prod/one 1 Idle",
];

/// Whether everything is as it was before anything was taken over.
async fn expect_returned(bench: &Bench, before: &PersistentVolume) -> Result<(), String> {
    let picture = bench.picture().await;
    if picture != ["claim data", "1 volumes"] {
        return Err(format!("{picture:#?}"));
    }
    let (claim, raw) = (the_claim(bench), raw(bench));
    let marks = |volume: &PersistentVolume| (volume.labels().clone(), volume.finalizers().to_vec());
    let policy = |volume: &PersistentVolume| {
        volume.spec.clone().and_then(|spec| spec.persistent_volume_reclaim_policy)
    };
    if !is_bound(&claim, &raw) || marks(&raw) != marks(before) || policy(&raw) != policy(before) {
        return Err(format!("{claim:#?} {raw:#?}"));
    }
    if !bench.wiped_volumes().is_empty() {
        return Err(format!("{:?} was wiped", bench.wiped_volumes()));
    }
    Ok(())
}

async fn expect_taken(bench: &Bench) -> Result<(), String> {
    let picture = bench.picture().await;
    let claim = the_claim(bench);
    let named = claim.spec.clone().and_then(|spec| spec.volume_name).unwrap_or_default();
    let own: Option<PersistentVolume> = bench.objects.get(&Key::cluster(&named));
    if picture == TAKEN && own.is_some_and(|own| is_bound(&claim, &own) && own.name_any() != RAW) {
        return Ok(());
    }
    Err(format!("{picture:#?} {claim:#?}"))
}

#[tokio::test]
async fn a_claim_is_taken_over_and_given_back() {
    let bench = furnished().await;
    let (before, claim_before) = (raw(&bench), the_claim(&bench));
    bench.pod("db", CLAIM);
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/WaitingForPods");
    assert!(message(&bench).contains("pod db"), "{}", message(&bench));
    assert_eq!(the_claim(&bench).uid(), claim_before.uid());
    let policy = raw(&bench).spec.unwrap().persistent_volume_reclaim_policy;
    assert_eq!(policy.as_deref(), Some("Retain"), "before anything is scaled");
    bench.remove::<Pod>("db");
    bench.settle().await;
    assert_eq!(
        (taken_over(&bench), bench.condition::<MasterVolume>("pg", "Ready").unwrap()),
        ("True/Done".into(), "True/Live".into())
    );
    let status = bench.object::<MasterVolume>("pg").unwrap().status.unwrap();
    assert_eq!(status.original_pv_name.unwrap().as_str(), RAW);
    assert_eq!(status.device_id.unwrap().as_str(), device(0));
    let after = the_claim(&bench);
    assert_eq!(
        (after.labels(), after.owner_references()),
        (claim_before.labels(), claim_before.owner_references())
    );
    bench.pod("db", CLAIM);
    bench.set("one", "pg", "Dependent", "a", 1);
    bench.settle().await;
    expect_taken(&bench).await.unwrap();

    // At rest nothing is written.
    let version = bench.objects.version();
    for _ in 0..5 {
        bench.pass(60);
        bench.round().await;
    }
    assert_eq!(bench.objects.version(), version);

    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("pod db"));
    bench.remove::<Pod>("db");
    bench.settle().await;
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("one"));
    bench.remove::<VolumeSet>("one");
    bench.settle().await;
    expect_returned(&bench, &before).await.unwrap();
    let after = the_claim(&bench);
    assert_eq!(
        (after.labels(), after.owner_references()),
        (claim_before.labels(), claim_before.owner_references())
    );
}

/// Both ways, with the operator killed at every call, before and after it.
#[tokio::test]
async fn a_kill_at_any_call_changes_nothing_of_the_end() {
    let whole = furnished().await;
    let (first, before) = (whole.calls(), raw(&whole));
    taking(&whole).await;
    expect_taken(&whole).await.unwrap();
    returning(&whole).await;
    expect_returned(&whole, &before).await.unwrap();
    let calls = whole.calls();
    assert!(calls - first > 200, "the story has {} calls only", calls - first);
    at_any(first..calls, async |kill| {
        let bench = furnished().await;
        bench.kill(kill);
        taking(&bench).await;
        expect_taken(&bench).await?;
        returning(&bench).await;
        expect_returned(&bench, &before).await
    });
}

/// Whoever changes their mind gets the raw volume back, wherever the takeover was.
#[tokio::test]
async fn a_release_begins_wherever_the_takeover_was_left() {
    let mut call = 0;
    loop {
        let bench = furnished().await;
        let before = raw(&bench);
        take(&bench, Some("WhenFree"));
        let last = bench.calls() + call;
        bench.kill(Kill::After(last));
        for _ in 0..4 {
            bench.round().await;
            bench.controllers();
        }
        let is_over = bench.calls() <= last;
        bench.revive();
        bench.remove::<MasterVolume>("pg");
        bench.settle().await;
        expect_returned(&bench, &before)
            .await
            .unwrap_or_else(|picture| panic!("after call {call}: {picture}"));
        if is_over {
            return;
        }
        call += 1;
    }
}

/// A StatefulSet makes its claim again as soon as it is gone, and names no volume.
#[tokio::test]
async fn whoever_makes_the_claim_again_first_is_right() {
    let bench = furnished().await;
    take(&bench, Some("WhenFree"));
    let first = uid_of_claim(&bench);
    bench.pod("db", CLAIM);
    bench.settle().await;
    bench.remove::<Pod>("db");
    let mut is_made = false;
    for _ in 0..20 {
        bench.round().await;
        bench.controllers();
        if uid_of_claim(&bench).is_none() {
            bench.make::<PersistentVolumeClaim>(&claim());
            is_made = true;
        }
    }
    assert!(is_made && uid_of_claim(&bench) != first);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
    assert_ne!(the_claim(&bench).spec.unwrap().volume_name.as_deref(), Some(RAW));

    // One that is let go while it is served, and made anew when it is needed.
    bench.remove::<PersistentVolumeClaim>(CLAIM);
    bench.controllers();
    bench.make::<PersistentVolumeClaim>(&claim());
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
    bench.remove::<PersistentVolumeClaim>(CLAIM);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
    assert!(the_claim(&bench).owner_references().is_empty(), "its owners have let it go");
    assert!(bench.wiped_volumes().is_empty());
}

#[tokio::test]
async fn a_claim_that_asks_for_what_the_volume_is_not_is_not_waited_for() {
    let bench = furnished().await;
    take(&bench, Some("WhenFree"));
    bench.round().await;
    bench.hold::<PersistentVolumeClaim>(CLAIM, false);
    let mut large = claim();
    large["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
    bench.make::<PersistentVolumeClaim>(&large);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/ClaimTaken");
    assert!(message(&bench).contains("1Gi"), "{}", message(&bench));
    bench.remove::<PersistentVolumeClaim>(CLAIM);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
}

#[tokio::test]
async fn a_claim_of_another_volume_is_left_alone() {
    let bench = furnished().await;
    take(&bench, Some("WhenFree"));
    bench.round().await;
    bench.hold::<PersistentVolumeClaim>(CLAIM, false);
    let mut other = claim();
    other["spec"]["volumeName"] = json!("else");
    bench.make::<PersistentVolumeClaim>(&other);
    let uid = uid_of_claim(&bench);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/ClaimTaken");
    assert!(message(&bench).contains("else"), "{}", message(&bench));
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert_eq!(uid_of_claim(&bench), uid);
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("Keep"));
    bench.edit::<MasterVolume>("pg", |spec| spec["deletionPolicy"] = "Keep".into());
    bench.settle().await;
    assert!(bench.object::<MasterVolume>("pg").is_none());
    assert_eq!((uid_of_claim(&bench), raw(&bench).labels().len()), (uid, 0));
}

/// They cannot start, and keep the claim until they are stopped once more.
#[tokio::test]
async fn pods_that_come_between_are_said_and_waited_for() {
    let bench = furnished().await;
    take(&bench, Some("WhenFree"));
    let first = uid_of_claim(&bench);
    // The node needs its time to present the device.
    bench.silence(true);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/Preparing");
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/NodeNotReady");
    bench.silence(false);
    bench.round().await;
    bench.pod("early", CLAIM);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/WaitingForPods");
    assert!(message(&bench).contains("pod early"), "{}", message(&bench));
    assert_eq!(uid_of_claim(&bench), first);
    bench.remove::<Pod>("early");
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
    assert_ne!(uid_of_claim(&bench), first);
}

/// A StatefulSet with whenScaled: Delete deletes the claim when the pods are stopped for the takeover.
#[tokio::test]
async fn a_claim_that_its_owner_deletes_meanwhile_costs_nothing() {
    let bench = furnished().await;
    bench.pod("db", CLAIM);
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    bench.remove::<PersistentVolumeClaim>(CLAIM);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/WaitingForPods");
    bench.remove::<Pod>("db");
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
    assert!(bench.wiped_volumes().is_empty(), "the volume was retained before");
    assert!(the_claim(&bench).owner_references().is_empty());
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_left_as_it_is() {
    for (source, reason) in [
        (json!({"local": {"path": "/mnt/disks/one"}}), "False/DirectoryVolume"),
        (json!({"local": {"path": "/dev/sdb"}}), "False/NotLocalVolume"),
        (json!({"hostPath": {"path": "/srv"}}), "False/NotLocalVolume"),
        (json!({"csi": {"driver": "other", "volumeHandle": "v"}}), "False/NotLocalVolume"),
    ] {
        let bench = of_volume(&source).await;
        let (before, uid) = (raw(&bench), uid_of_claim(&bench));
        take(&bench, Some("WhenFree"));
        bench.settle().await;
        assert_eq!(taken_over(&bench), reason);
        assert_eq!(bench.condition::<MasterVolume>("pg", "Stalled").unwrap(), "True/NotSupported");
        assert_eq!((raw(&bench), uid_of_claim(&bench)), (before.clone(), uid));
        bench.remove::<MasterVolume>("pg");
        bench.settle().await;
        expect_returned(&bench, &before).await.unwrap();
        assert_eq!(raw(&bench), before);
    }
}

#[tokio::test]
async fn nothing_is_taken_over_before_somebody_says_so() {
    for policy in [None, Some("Manual")] {
        let bench = furnished().await;
        let before = raw(&bench);
        take(&bench, policy);
        bench.settle().await;
        assert_eq!(taken_over(&bench), "False/WaitingForApproval");
        assert!(message(&bench).contains("kubectl umbra takeover data --name pg -n prod"));
        assert_eq!(raw(&bench), before);
        bench.edit::<MasterVolume>("pg", |spec| spec["takeover"] = json!({"policy": "WhenFree"}));
        bench.settle().await;
        assert_eq!(taken_over(&bench), "True/Done");
    }
}

#[tokio::test]
async fn one_claim_is_taken_over_once() {
    let bench = furnished().await;
    bench.pod("db", CLAIM);
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    let second = |name: &str| {
        bench.make::<MasterVolume>(
            &json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "MasterVolume",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"source": {"pvc": {"claimName": CLAIM}}, "takeover": {"policy": "WhenFree"}}}),
        );
    };
    second("second");
    bench.settle().await;
    let told = || bench.condition::<MasterVolume>("second", "TakenOver").unwrap();
    assert_eq!(told(), "False/VolumeTaken");
    assert!(bench.message::<MasterVolume>("second", "TakenOver").contains("prod/pg"));
    bench.remove::<Pod>("db");
    bench.settle().await;
    assert_eq!((taken_over(&bench), told()), ("True/Done".into(), "False/VolumeTaken".into()));
    bench.remove::<MasterVolume>("second");
    bench.settle().await;
    assert!(bench.object::<MasterVolume>("second").is_none());
    assert_eq!(taken_over(&bench), "True/Done");
}

/// A device that the host has mounted, or that something else holds: the node refuses it, and says so.
#[tokio::test]
async fn a_device_that_is_held_elsewhere_is_waited_for() {
    let bench = furnished().await;
    let path = device(0).parse().expect("a path");
    bench.fake("a").set_opener(&path, Some("mounted at /srv"));
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/WaitingForPods");
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "False/DeviceBusy");
    assert!(message(&bench).contains("/srv"), "{}", message(&bench));
    bench.fake("a").set_opener(&path, None);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");
}

#[tokio::test]
async fn a_record_that_somebody_damaged_costs_no_claim() {
    let damage = |bench: &Bench| {
        let mut volume = raw(bench);
        volume.annotations_mut().insert("imaging.umbra.dev/taken-claim".to_owned(), "{}".to_owned());
        bench.objects.replace(&volume, false).expect("nobody else writes");
    };
    let bench = furnished().await;
    bench.pod("db", CLAIM);
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    let (first, whole) = (uid_of_claim(&bench), raw(&bench));
    damage(&bench);
    bench.remove::<Pod>("db");
    bench.settle().await;
    assert_eq!((taken_over(&bench), uid_of_claim(&bench)), ("False/RecordUnreadable".into(), first));
    let mut repaired = raw(&bench);
    repaired.metadata.annotations = whole.metadata.annotations;
    bench.objects.replace(&repaired, false).expect("nobody else writes");
    bench.settle().await;
    assert_eq!(taken_over(&bench), "True/Done");

    damage(&bench);
    bench.settle().await;
    assert_eq!(taken_over(&bench), "False/RecordUnreadable");
    assert_eq!(bench.condition::<MasterVolume>("pg", "Ready").unwrap(), "True/Live");
    let second = uid_of_claim(&bench);
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert_eq!(uid_of_claim(&bench), second);
    assert!(bench.message::<MasterVolume>("pg", "Ready").contains("Keep"));
    // Whoever gives the claim up says so.
    bench.edit::<MasterVolume>("pg", |spec| spec["deletionPolicy"] = "Keep".into());
    bench.remove::<PersistentVolumeClaim>(CLAIM);
    bench.settle().await;
    assert_eq!(bench.picture().await, ["1 volumes"]);
    let spec = raw(&bench).spec.unwrap();
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    assert!(bench.wiped_volumes().is_empty());
}

#[tokio::test]
async fn what_is_kept_is_left_retained_without_a_claim() {
    let bench = furnished().await;
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    bench.edit::<MasterVolume>("pg", |spec| spec["deletionPolicy"] = "Keep".into());
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert_eq!(bench.picture().await, ["1 volumes"]);
    let left = raw(&bench);
    assert_eq!(left.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    assert_eq!(left.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    assert_eq!(left.status.unwrap().phase.as_deref(), Some("Released"));
}

/// A release waits for the node, and a status that somebody forged gives nothing away.
#[tokio::test]
async fn a_node_that_is_silent_keeps_what_it_presents() {
    let bench = furnished().await;
    let before = raw(&bench);
    take(&bench, Some("WhenFree"));
    bench.settle().await;
    bench.silence(true);
    bench.settle().await;
    assert_eq!(
        (taken_over(&bench), bench.condition::<MasterVolume>("pg", "Ready").unwrap()),
        ("True/Done".into(), "False/NodeNotReady".into())
    );
    bench.remove::<MasterVolume>("pg");
    bench.settle().await;
    assert_eq!(raw(&bench).labels().len(), 1);
    assert!(bench.object::<PersistentVolumeClaim>(CLAIM).is_none());
    let status = bench.object::<MasterVolume>("pg").unwrap().status.unwrap();
    let mut forged = serde_json::to_value(&status).unwrap();
    forged["originalPVName"] = json!("else");
    forged["nodeName"] = json!("b");
    bench.forge::<MasterVolume>("pg", &forged);
    bench.silence(false);
    bench.settle().await;
    expect_returned(&bench, &before).await.unwrap();
}
