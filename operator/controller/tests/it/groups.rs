//! A database on two volumes: cut, restored and brought back as one.

use serde_json::json;
use umbra_crds::{ImagingOperation, SetGroup, VolumeSet};

use crate::bench::{Bench, Kill};
use crate::sweep::at_any;

const MEMBERS: [&str; 2] = ["data-one", "log-one"];
const KEEPERS: [&str; 2] = ["data-two", "log-two"];

fn group(name: &str) -> serde_json::Value {
    json!({"kind": "SetGroup", "name": name})
}

/// Two masters with two sets each, and a group of one set of each, twice.
async fn database(bench: &Bench) {
    for (master, at) in [("data", 0), ("log", 6)] {
        bench.master(master, "a", at);
        bench.set(&format!("{master}-one"), master, "Dependent", "a", at + 1);
        bench.set(&format!("{master}-two"), master, "Dependent", "a", at + 4);
    }
    bench.group("now", &MEMBERS);
    bench.group("before", &KEEPERS);
    bench.settle().await;
}

/// A cut, a restore that keeps what was, and the way back.
async fn story(bench: &Bench) {
    bench.operation("cut", &json!({"target": group("now"), "command": "UpdateShadow"}));
    bench.settle().await;
    for (name, of, keeper) in [("restore", "now", "before"), ("undo", "before", "now")] {
        let guard = json!({"expectCutID": bench.cut_of(if of == "now" { MEMBERS[0] } else { KEEPERS[0] })});
        let spec = json!({"target": group(of), "command": "UpdateMaster", "guard": guard,
            "safety": {"setGroupRef": {"name": keeper}}});
        bench.operation(name, &spec);
        bench.settle().await;
    }
}

async fn expect_end(bench: &Bench) -> Result<(), String> {
    for name in ["cut", "restore", "undo"] {
        let ended = bench.condition::<ImagingOperation>(name, "Complete");
        if ended.as_deref() != Some("True/CopyDone") {
            return Err(format!("{name}: {ended:?} {}", bench.message::<ImagingOperation>(name, "Failed")));
        }
    }
    let safety = |name: &str| {
        let status = bench.object::<ImagingOperation>(name).and_then(|operation| operation.status);
        status.and_then(|status| status.safety)
    };
    let (restore, undo) = (safety("restore"), safety("undo"));
    let members = |safety: &Option<umbra_crds::SafetyStatus>| -> Vec<String> {
        safety.iter().flat_map(|safety| &safety.members).map(|name| name.as_str().to_owned()).collect()
    };
    if (members(&restore), members(&undo))
        != (KEEPERS.map(str::to_owned).to_vec(), MEMBERS.map(str::to_owned).to_vec())
    {
        return Err(format!("the sets that kept what was: {restore:?}, {undo:?}"));
    }
    // Each set was cut when it was made, and by every operation but one, once.
    for (set, epoch) in [("data-one", 4), ("log-one", 4), ("data-two", 3), ("log-two", 3)] {
        if bench.epoch(set).await != epoch {
            return Err(format!("{set} is at epoch {}", bench.epoch(set).await));
        }
    }
    for (name, made) in [
        ("now", undo.map(|safety| safety.cut_id)),
        ("before", Some(bench.cut_of(KEEPERS[0]).parse().map_err(|error| format!("{error:?}"))?)),
    ] {
        let last = bench.object::<SetGroup>(name).and_then(|group| group.status?.last_cut);
        if last.as_ref().map(|cut| cut.id) != made {
            return Err(format!("the last cut of group {name}: {last:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_group_is_restored_and_brought_back_as_one() {
    let bench = Bench::new();
    database(&bench).await;
    story(&bench).await;
    expect_end(&bench).await.unwrap();
    let restore: ImagingOperation = bench.object("restore").unwrap();
    let hint = restore.status.unwrap().undo_hint;
    assert_eq!(hint.as_deref(), Some("kubectl umbra undo restore --namespace prod"));
}

#[tokio::test]
async fn a_kill_at_every_eleventh_call_changes_nothing_of_the_end() {
    let whole = Bench::new();
    database(&whole).await;
    let begin = whole.calls();
    story(&whole).await;
    // What comes before is the sweep's of one set. Step by step it takes minutes, and most calls are alike.
    at_any((begin..whole.calls()).step_by(11), async |kill: Kill| {
        let bench = Bench::new();
        bench.kill(kill);
        database(&bench).await;
        story(&bench).await;
        expect_end(&bench).await
    });
}

#[tokio::test]
async fn a_group_that_does_not_keep_every_master_once_keeps_none() {
    let bench = Bench::new();
    database(&bench).await;
    bench.operation("cut", &json!({"target": group("now"), "command": "UpdateShadow"}));
    bench.group("half", &["data-two"]);
    bench.settle().await;
    let guard = json!({"expectCutID": bench.cut_of(MEMBERS[0])});
    let restore = |keeper: &str| {
        json!({"target": group("now"), "command": "UpdateMaster", "guard": guard,
            "safety": {"setGroupRef": {"name": keeper}}})
    };
    bench.operation("half-kept", &restore("half"));
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("half-kept", "Failed").unwrap(), "True/NotSupported");
    let said = bench.message::<ImagingOperation>("half-kept", "Failed");
    assert!(said.contains("log-one"), "{said}");

    bench.edit::<VolumeSet>("log-two", |spec| spec["shadow"]["protected"] = json!(true));
    bench.operation("protected", &restore("before"));
    bench.settle().await;
    assert_eq!(bench.condition::<ImagingOperation>("protected", "Failed").unwrap(), "True/Protected");
    assert_eq!((bench.epoch("data-two").await, bench.epoch("log-one").await), (1, 2), "nothing was done");
    for set in MEMBERS.iter().chain(&KEEPERS) {
        let status = bench.object::<VolumeSet>(set).unwrap().status.unwrap();
        assert_eq!(status.current_operation, None, "{set}");
    }
}
