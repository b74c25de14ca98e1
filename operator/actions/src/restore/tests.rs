use serde_json::{Value, json};

use super::*;
use crate::examples::{CUT, OTHER_CUT, group, image, master, set};
use crate::refusal::Unfit;
use crate::written::target;

fn now() -> Time {
    Time("2026-11-22T12:00:00Z".parse().unwrap())
}

fn wish(text: &str) -> RestoreRequest {
    RestoreRequest {
        target: target(text).unwrap(),
        cut: None,
        full: false,
        safety: SafetyWish::Propose,
        allow_written: false,
        allow_untrusted: false,
        wait_for: WaitFor::Cut,
    }
}

fn plan(objects: &Objects, request: &RestoreRequest) -> RestorePlan {
    restore(objects, request, &ObjectName::new("restore-1"), &now())
}

/// A set with an image of which this is said, and a sibling.
fn with(more: Value) -> Objects {
    Objects {
        masters: vec![master("m", &["pg-0"])],
        sets: vec![set("s", "m", image(CUT, more)), set("t", "m", image(OTHER_CUT, json!({})))],
        ..Objects::default()
    }
}

#[test]
fn a_plan_says_what_becomes_of_the_master_and_how_to_go_back() {
    let objects = with(json!({}));
    let plan = plan(&objects, &wish("s"));
    assert_eq!(plan.refusals, []);
    let image = &plan.images[0];
    assert_eq!((image.master.as_str(), image.age_seconds, image.written), ("m", 7800, false));
    assert_eq!(image.users, ["pod/pg-0"]);
    assert_eq!(plan.safety, Some(target("t").unwrap()));
    assert_eq!(plan.safety_gives_up, Some(OTHER_CUT.parse().unwrap()));
    assert_eq!(plan.undo.as_deref(), Some("kubectl umbra undo restore-1 -n prod"));
    let spec = plan.spec().unwrap();
    assert_eq!(spec.command, Command::UpdateMaster);
    let guard = spec.guard.unwrap();
    assert_eq!(guard.expect_cut_id, Some(CUT.parse().unwrap()));
    assert!(!guard.allow_written_shadow && !guard.allow_untrusted_image);
    assert_eq!(spec.safety.unwrap().target(), Some(target("t").unwrap()));
}

#[test]
fn without_a_safety_cut_there_is_no_way_back() {
    let request = RestoreRequest { safety: SafetyWish::Without, full: true, ..wish("s") };
    let plan = plan(&with(json!({})), &request);
    assert_eq!(plan.undo, None);
    let spec = plan.spec().unwrap();
    assert_eq!((spec.command, spec.safety), (Command::CopyToMaster, None));
}

#[test]
fn every_doubt_about_an_image_must_be_waived_in_words() {
    let written = with(json!({"written": true}));
    assert_eq!(plan(&written, &wish("s")).refusals, [Refusal::Written { set: ObjectName::new("s") }]);
    let allowed = RestoreRequest { allow_written: true, ..wish("s") };
    assert!(plan(&written, &allowed).spec().unwrap().guard.unwrap().allow_written_shadow);

    let untrusted = with(json!({"trusted": false}));
    let refusals = plan(&untrusted, &allowed).refusals;
    assert!(matches!(refusals[..], [Refusal::Untrusted { .. }]), "{refusals:?}");
    let allowed = RestoreRequest { allow_untrusted: true, ..wish("s") };
    assert!(plan(&untrusted, &allowed).spec().is_ok());

    let lost = with(json!({"trusted": false, "lostChunks": 2}));
    let refusals = plan(&lost, &allowed).refusals;
    assert!(
        matches!(refusals[..], [Refusal::Incomplete { chunks: 2, .. }]),
        "nothing waives that: {refusals:?}"
    );
}

#[test]
fn all_that_speaks_against_it_is_said_at_once() {
    let mut objects = with(json!({"written": true}));
    objects.sets[0].status.as_mut().unwrap().current_operation = Some(ObjectName::new("cut-1"));
    objects.sets[1].spec.shadow.protected = true;
    let plan = plan(&objects, &wish("s"));
    assert!(
        matches!(
            plan.refusals[..],
            [Refusal::Busy { .. }, Refusal::Written { .. }, Refusal::SafetyNone { .. }]
        ),
        "{:?}",
        plan.refusals
    );
    assert_eq!(plan.spec(), Err(&plan.refusals[..]));
    assert_eq!(plan.images.len(), 1, "the plan is shown all the same");
}

#[test]
fn the_cut_that_is_named_must_be_the_one_that_is_held() {
    let objects = with(json!({}));
    let of = |cut: &str| plan(&objects, &RestoreRequest { cut: Some(cut.to_owned()), ..wish("s") }).refusals;
    assert_eq!(of(CUT), []);
    assert_eq!(of("7C1E4A"), []);
    assert!(matches!(of("7c1e")[..], [Refusal::VagueCut { .. }]));
    assert!(matches!(of(OTHER_CUT)[..], [Refusal::OtherCut { .. }]));
}

#[test]
fn what_holds_no_image_or_half_of_one_is_not_restored() {
    let empty = Objects { sets: vec![set("s", "m", json!({}))], ..Objects::default() };
    let request = RestoreRequest { safety: SafetyWish::Without, ..wish("s") };
    let refused = plan(&empty, &request);
    assert_eq!(refused.refusals, [Refusal::NoImage { set: ObjectName::new("s") }]);
    assert!(refused.spec().is_err());
    let mut copying = image(CUT, json!({}));
    copying["copy"] = json!({"state": "Running", "direction": "ToShadow", "percent": 3});
    let copying = Objects { sets: vec![set("s", "m", copying)], ..Objects::default() };
    assert_eq!(plan(&copying, &request).refusals, [Refusal::CopyPending { set: ObjectName::new("s") }]);
}

#[test]
fn a_group_is_restored_to_the_one_instant_of_its_last_cut() {
    let member =
        |name: &str, master: &str, of: &str| set(name, master, image(OTHER_CUT, json!({"groupCutID": of})));
    let objects =
        |sets: Vec<VolumeSet>| Objects { sets, groups: vec![group("g", &["a", "b"])], ..Objects::default() };
    let request = RestoreRequest { safety: SafetyWish::Without, ..wish("group:g") };

    let good = objects(vec![member("a", "m", CUT), member("b", "n", CUT)]);
    let spec = plan(&good, &request).spec().unwrap();
    assert_eq!(spec.guard.unwrap().expect_cut_id, Some(CUT.parse().unwrap()));
    let none = Refusal::SafetyGroupNone { group: ObjectName::new("g"), unfit: Vec::new() };
    assert_eq!(plan(&good, &wish("group:g")).refusals, [none]);

    let alone = objects(vec![member("a", "m", CUT), member("b", "n", OTHER_CUT)]);
    let sets = vec![ObjectName::new("b")];
    assert_eq!(plan(&alone, &request).refusals, [Refusal::NotOneInstant { sets }]);

    let shared = objects(vec![member("a", "m", CUT), member("b", "m", CUT)]);
    let sets = vec![ObjectName::new("a"), ObjectName::new("b")];
    assert_eq!(
        plan(&shared, &request).refusals,
        [Refusal::SharedMaster { master: ObjectName::new("m"), sets }]
    );
}

#[test]
fn a_group_is_kept_by_a_group_of_one_other_set_of_each_master() {
    let member = |name: &str, master: &str| set(name, master, image(CUT, json!({"groupCutID": CUT})));
    let objects = |keepers: &[&str]| Objects {
        sets: vec![member("a", "m"), member("b", "n"), member("c", "m"), member("d", "n"), member("e", "o")],
        groups: vec![group("g", &["a", "b"]), group("h", keepers)],
        ..Objects::default()
    };
    let kept = plan(&objects(&["c", "d"]), &wish("group:g"));
    assert_eq!((kept.safety.clone(), kept.safety_gives_up), (target("group:h").ok(), CUT.parse().ok()));
    let spec = kept.spec().unwrap();
    assert_eq!(spec.safety.unwrap().target(), target("group:h").ok());
    assert!(kept.undo.is_some());

    let refused = |keepers: &[&str]| plan(&objects(keepers), &wish("group:g")).refusals;
    let why = |keepers: &[&str]| match &refused(keepers)[..] {
        [Refusal::SafetyGroupNone { unfit, .. }] => unfit[0].1.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(why(&["c"]), Unfit::OtherMasters);
    assert_eq!(why(&["c", "e"]), Unfit::OtherMasters);
    assert_eq!(why(&["c", "d", "e"]), Unfit::OtherMasters);
    assert_eq!(why(&["a", "d"]), Unfit::Member(ObjectName::new("a"), Box::new(Unfit::IsRestored)));

    let named = |of: &str, keeper: &str| {
        let safety = SafetyWish::Into(target(keeper).unwrap());
        plan(&objects(&["c", "d"]), &RestoreRequest { safety, ..wish(of) }).refusals
    };
    assert_eq!(named("group:g", "group:h"), []);
    assert!(matches!(named("group:g", "c")[..], [Refusal::SafetyOfOtherKind { .. }]));
    assert!(matches!(named("a", "group:h")[..], [Refusal::SafetyOfOtherKind { .. }]));
    let own = named("group:g", "group:g");
    assert!(matches!(own[..], [Refusal::SafetyUnfit { why: Unfit::IsRestored, .. }]), "{own:?}");
}

#[test]
fn an_undo_restores_the_safety_cut_of_a_restore() {
    let operation = |command: &str, safety: Value, status: Value| -> ImagingOperation {
        let mut spec = json!({"target": {"kind": "VolumeSet", "name": "s"}, "command": command});
        if !safety.is_null() {
            spec["safety"] = safety;
        }
        let object = json!({
            "apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingOperation",
            "metadata": {"name": "restore-1"}, "spec": spec, "status": status,
        });
        serde_json::from_value(object).unwrap()
    };
    let safety = json!({"volumeSetRef": {"name": "t"}});
    let done = operation("UpdateMaster", safety.clone(), json!({"safety": {"cutID": OTHER_CUT}}));
    let request = undo(&done, wish("ignored")).unwrap();
    assert_eq!(request.target.name.as_str(), "t");
    let plan = plan(&with(json!({})), &request);
    assert_eq!(plan.spec().unwrap().guard.unwrap().expect_cut_id, Some(OTHER_CUT.parse().unwrap()));
    assert_eq!(plan.safety, Some(target("s").unwrap()), "the undo can be undone, too");

    let none = |done: &ImagingOperation| undo(done, wish("ignored")).unwrap_err();
    assert!(matches!(none(&operation("UpdateMaster", Value::Null, json!({}))), Refusal::NoSafetyCut { .. }));
    let unmade = operation("UpdateMaster", safety, json!({}));
    assert!(matches!(none(&unmade), Refusal::NoSafetyCut { .. }), "it was asked for, and not made");
    assert!(matches!(none(&operation("UpdateShadow", Value::Null, json!({}))), Refusal::NoRestore { .. }));
}
