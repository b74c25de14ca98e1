use serde_json::{Value, json};
use umbra_crds::raw_volume::HOSTNAME;

use super::*;
use crate::examples;

fn claim() -> PersistentVolumeClaim {
    serde_json::from_value(json!({"metadata": {"name": "data", "uid": "c"}, "spec": {"volumeName": "raw"},
        "status": {"phase": "Bound"}}))
    .unwrap()
}

fn volume(path: &str) -> PersistentVolume {
    serde_json::from_value(json!({"metadata": {"name": "raw"}, "spec": {"local": {"path": path},
        "claimRef": {"name": "data", "uid": "c"}, "nodeAffinity": {"required": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["node-a"]}]}]}}}}))
    .unwrap()
}

fn pod(name: &str, phase: &str) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": name}, "status": {"phase": phase}, "spec": {"containers": [],
        "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}),
    )
    .unwrap()
}

fn master(name: &str, spec: &Value) -> MasterVolume {
    serde_json::from_value(json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "MasterVolume",
        "metadata": {"name": name}, "spec": spec}))
    .unwrap()
}

fn of_claim(name: &str, policy: Option<&str>) -> MasterVolume {
    let mut spec = json!({"source": {"pvc": {"claimName": "data"}}});
    if let Some(policy) = policy {
        spec["takeover"] = json!({"policy": policy});
    }
    master(name, &spec)
}

fn plan(
    claim: Option<&PersistentVolumeClaim>,
    volume: Option<&PersistentVolume>,
    masters: &[MasterVolume],
) -> TakeoverPlan {
    let pods = [pod("b", "Running"), pod("a", "Pending"), pod("done", "Succeeded")];
    let (claim_name, name) = (&ClaimName::new("data"), &ObjectName::new("pg"));
    takeover(&TakeoverRequest { claim_name, name, claim, volume, pods: &pods, masters })
}

#[test]
fn a_takeover_says_what_it_takes_and_who_must_stop() {
    let plan = plan(Some(&claim()), Some(&volume("/dev/disk/by-id/d0")), &[]);
    assert_eq!(plan.pods, ["pod/a", "pod/b"]);
    let raw = plan.raw.clone().unwrap();
    assert_eq!((raw.device.as_str(), raw.hostname.as_str()), ("/dev/disk/by-id/d0", "node-a"));
    let Ok(Ask::Create(made)) = plan.ask() else { panic!("{plan:?}") };
    assert_eq!(made.spec, of_claim("pg", Some("WhenFree")).spec, "what is not said is what the kinds say");
}

#[test]
fn a_master_that_waits_for_the_word_gets_it() {
    let (claim, volume) = (claim(), volume("/dev/disk/by-id/d0"));
    for policy in [None, Some("Manual")] {
        let masters = [of_claim("pg", policy)];
        let plan = plan(Some(&claim), Some(&volume), &masters);
        let Ok(Ask::Approve(approved)) = plan.ask() else { panic!("{plan:?}") };
        assert_eq!(approved.spec, of_claim("pg", Some("WhenFree")).spec);
    }
    let masters = [of_claim("pg", Some("WhenFree"))];
    // The claim may be gone for a moment while it is swapped.
    assert!(matches!(plan(None, None, &masters).ask(), Ok(Ask::Nothing(_))));
}

#[test]
fn what_cannot_be_taken_over_is_refused() {
    let raw = volume("/dev/disk/by-id/d0");
    let refused =
        |claim: Option<&PersistentVolumeClaim>,
         volume: Option<&PersistentVolume>,
         masters: &[MasterVolume]| { plan(claim, volume, masters).ask().unwrap_err()[0].clone() };
    assert!(matches!(refused(None, None, &[]), Refusal::NoClaim { .. }));
    let mut unbound = claim();
    unbound.spec.as_mut().unwrap().volume_name = None;
    assert!(matches!(refused(Some(&unbound), None, &[]), Refusal::ClaimUnbound { .. }));
    let directory = volume("/mnt/one");
    let refusal = refused(Some(&claim()), Some(&directory), &[]);
    assert!(matches!(refusal, Refusal::NotRaw(_)) && refusal.to_string().contains("/mnt/one"));
    let mut taken = raw.clone();
    taken.metadata.labels = Some([(TAKEN_BY.to_owned(), "m".to_owned())].into());
    assert!(matches!(refused(Some(&claim()), Some(&taken), &[]), Refusal::VolumeTaken { .. }));
    let other = [of_claim("other", None)];
    assert!(matches!(refused(Some(&claim()), Some(&raw), &other), Refusal::ClaimOfMaster { .. }));
    let same_name = [master("pg", &json!({"source": {"pvc": {"claimName": "else"}}}))];
    assert!(matches!(refused(Some(&claim()), Some(&raw), &same_name), Refusal::OtherMaster { .. }));
    // Who may not see volumes leaves that to the operator.
    assert!(plan(Some(&claim()), None, &[]).ask().is_ok());
}

#[test]
fn a_release_is_refused_while_images_lean_on_the_master() {
    let mut objects = Objects { masters: vec![examples::master("pg", &["db"])], ..Objects::default() };
    let name = ObjectName::new("pg");
    let plan = release(&objects, &name);
    assert_eq!((plan.refusals.len(), plan.pods), (0, vec!["pod/db".to_owned()]));
    assert_eq!(plan.goes_to, GoesTo::Claim { volume: None });
    objects.masters[0].spec.deletion_policy = DeletionPolicy::Keep;
    assert_eq!(release(&objects, &name).goes_to, GoesTo::Volume { volume: None });
    objects.sets = vec![examples::set("nightly", "pg", json!({})), examples::set("else", "other", json!({}))];
    let refused = release(&objects, &name).refusals;
    let [Refusal::HasSets { sets, .. }] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(sets, &[ObjectName::new("nightly")]);
    let missing = release(&objects, &ObjectName::new("none")).refusals;
    assert!(matches!(missing[..], [Refusal::NoMaster { .. }]));
}
