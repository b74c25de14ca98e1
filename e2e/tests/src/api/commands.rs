//! That `kubectl umbra` asks for what was said, waits for it, and refuses what must not be done. The test plays the operator: it
//! writes the status of what is asked for.

use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Case, examples, status};
use crate::kubernetes::plugin::{Said, begin, good, line, said, typed, umbra};
use crate::kubernetes::server::{NAMESPACE, Server};

const CUT: &str = "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77";
const OTHER_CUT: &str = "02d9e7a1-30c9-4a6a-8f0d-5f0f3c1b9a77";
const TIME: &str = "2026-11-22T02:15:00Z";

const FAILED: i32 = 2;
const REFUSED: i32 = 3;
const TIMED_OUT: i32 = 4;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("plugin/set", set_lives),
        Case::new("plugin/set-rehearsed", rehearses),
        Case::new("plugin/set-delete", deletes),
        Case::new("plugin/group", group_lives),
        Case::new("plugin/cut", cuts),
        Case::new("plugin/cut-waits", waits_for_a_cut),
        Case::new("plugin/restore", restores),
        Case::new("plugin/restore-asks", asks_on_a_terminal),
        Case::new("plugin/restore-safety", finds_the_safety_set),
        Case::new("plugin/restore-stale", tells_a_stale_guard),
        Case::new("plugin/undo", undoes),
        Case::new("plugin/abort-and-reset", aborts),
        Case::new("plugin/wait", waits_for_a_set),
        Case::new("plugin/ops-and-tree", lists),
        Case::new("plugin/nodes-and-grants", nodes),
        Case::new("plugin/events", events),
    ]
}

/// Runs the plugin in the namespace, which must end with this code.
fn ends(server: &Server, arguments: &[&str], code: i32) -> Result<Said> {
    let arguments = [arguments, &["-n", NAMESPACE]].concat();
    let said = umbra(&mut server.plugin_host(), &arguments)?;
    ensure!(said.code == Some(code), "kubectl umbra {} ended not with {code}: {said:?}", arguments.join(" "));
    Ok(said)
}

/// Runs the plugin in the namespace, which must go well, and returns the object it answers.
fn object(server: &Server, arguments: &[&str]) -> Result<Value> {
    let text = ends(server, &[arguments, &["-o", "json"]].concat(), 0)?.stdout;
    serde_json::from_str(&text).with_context(|| text.clone())
}

fn condition(about: &str, status: &str, reason: &str) -> Value {
    json!({"type": about, "status": status, "reason": reason, "message": "so it is", "lastTransitionTime": TIME})
}

/// A set of a master, ready and with the image of a cut, as the operator would say of it.
fn add_set(server: &Server, name: &str, master: &str, cut: &str, more: &Value) -> Result<()> {
    let mut set = examples::valid("volumeset-dependent")?;
    set["spec"]["masterRef"]["name"] = master.into();
    let answer = server.apply_as(name, &set)?;
    ensure!(answer.success, "{}", answer.stderr);
    let mut all = json!({
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", "Dependent")],
        "image": {
            "cutID": cut, "time": TIME, "consistency": "FileSystem", "gateMillis": 4, "trusted": true, "written": false,
            "recovered": false, "lostChunks": 0, "changedPercent": 3,
        },
    });
    merge(&mut all, more);
    status::patch(server, "volumesets", name, &all)
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn add_master(server: &Server, name: &str) -> Result<()> {
    let answer = server.apply_as(name, &examples::valid("mastervolume-claim")?)?;
    ensure!(answer.success, "{}", answer.stderr);
    let users = json!([{"kind": "Pod", "namespace": NAMESPACE, "name": "pg-0", "readOnly": false}]);
    status::patch(server, "mastervolumes", name, &json!({"users": users}))
}

/// The operations on a target.
fn operations(server: &Server, target: &str) -> Result<Vec<Value>> {
    let text = server.expect(&["get", "imagingoperations", "--namespace", NAMESPACE, "--output", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let items = list["items"].as_array().context("no list")?;
    Ok(items.iter().filter(|item| item["spec"]["target"]["name"] == target).cloned().collect())
}

/// Waits until the one operation on a target is there, and writes its status.
fn play_operator(server: &Server, child: &mut Child, target: &str, status: &Value) -> Result<String> {
    while child.try_wait()?.is_none() {
        if let [operation] = &operations(server, target)?[..] {
            let name = operation["metadata"]["name"].as_str().context("no name")?;
            status::patch(server, "imagingoperations", name, status)?;
            return Ok(name.to_owned());
        }
        sleep(Duration::from_millis(100));
    }
    bail!("kubectl umbra ended before it had asked for anything");
}

fn set_lives(server: &Server) -> Result<()> {
    let create = [
        "set",
        "create",
        "lives",
        "--master",
        "pg-data",
        "--mode",
        "independent",
        "--chunk",
        "16Ki",
        "--shadow",
        "device:spares/node-a/nvme-KIOXIA_S1",
        "--bitmap",
        "pvc:bits",
        "--publish",
        "lives-image",
    ];
    let said = ends(server, &create, 0)?;
    ensure!(said.stdout == "volumeset/lives created\n", "{said:?}");
    let spec = server.get("volumesets", "lives")?["spec"].clone();
    let device =
        json!({"grantRef": {"name": "spares"}, "nodeName": "node-a", "id": "/dev/disk/by-id/nvme-KIOXIA_S1"});
    ensure!(spec["shadow"]["source"]["device"] == device, "{spec}");
    ensure!(spec["bitmap"]["source"]["pvc"]["claimName"] == "bits", "{spec}");
    ensure!(spec["mode"] == "Independent" && spec["chunkSize"] == "16Ki", "{spec}");
    ensure!(spec["shadow"]["publish"]["readOnly"] == true, "{spec}");
    // What is there is never written over.
    let said = ends(server, &create, FAILED)?;
    ensure!(said.stderr.contains("already exists"), "{said:?}");

    ends(server, &["set", "limits", "lives", "--rate", "100Mi", "--inflight", "4"], 0)?;
    ends(server, &["set", "limits", "lives", "--inflight", "8"], 0)?;
    let copy = server.get("volumesets", "lives")?["spec"]["copy"].clone();
    ensure!(
        copy == json!({"maxBytesPerSecond": "100Mi", "maxInFlight": 8, "yieldToWorkload": true}),
        "{copy}"
    );
    ends(server, &["set", "limits", "lives", "--rate", "none"], 0)?;
    let copy = server.get("volumesets", "lives")?["spec"]["copy"].clone();
    ensure!(copy.get("maxBytesPerSecond").is_none(), "{copy}");
    ends(server, &["set", "limits", "lives", "--rate", "0"], 1)?;
    let after = server.get("volumesets", "lives")?["spec"].clone();
    ensure!(after["shadow"] == spec["shadow"], "a change of limits left {}", after["shadow"]);
    Ok(())
}

fn rehearses(server: &Server) -> Result<()> {
    let create =
        |mode| ["set", "create", "rehearsed", "--master", "pg-data", "--shadow", "pvc:s", "--mode", mode];
    for place in ["client", "server"] {
        let dry_run = format!("--dry-run={place}");
        let shown = object(server, &[&create("dependent")[..], &[&dry_run]].concat())?;
        ensure!(shown["kind"] == "VolumeSet" && shown["spec"]["masterRef"]["name"] == "pg-data", "{shown}");
        ensure!(server.get("volumesets", "rehearsed").is_err(), "{dry_run} has stored it");
    }
    // What only the API server knows, only it finds.
    ends(server, &[&create("compact")[..], &["--dry-run=client"]].concat(), 0)?;
    let said = ends(server, &[&create("compact")[..], &["--dry-run=server"]].concat(), FAILED)?;
    ensure!(said.stderr.contains("CompactDependent is not served by this version"), "{said:?}");
    let yaml =
        ends(server, &[&create("dependent")[..], &["--dry-run=client", "-o", "yaml"]].concat(), 0)?.stdout;
    ensure!(yaml.contains("kind: VolumeSet") && yaml.contains("claimName: s"), "{yaml}");
    let name = ends(server, &[&create("dependent")[..], &["-o", "name"]].concat(), 0)?.stdout;
    ensure!(name == "volumeset/rehearsed\n", "{name}");
    let all = umbra(&mut server.plugin_host(), &["set", "protect", "rehearsed", "-A"])?;
    ensure!(all.code == Some(1), "what changes something changes it in one namespace: {all:?}");
    Ok(())
}

fn deletes(server: &Server) -> Result<()> {
    add_set(server, "deleted", "deleted-master", CUT, &json!({}))?;
    let said = ends(server, &["set", "delete", "deleted"], REFUSED)?;
    ensure!(said.stderr.contains("--confirm=deleted"), "there is no terminal to ask on: {said:?}");
    ends(server, &["set", "delete", "deleted", "--yes"], REFUSED)?;
    ends(server, &["set", "delete", "deleted", "--confirm", "delete"], REFUSED)?;
    ends(server, &["set", "protect", "deleted"], 0)?;
    let said = ends(server, &["set", "delete", "deleted", "--confirm=deleted"], REFUSED)?;
    ensure!(said.stderr.contains("set protect deleted --off"), "{said:?}");
    ends(server, &["set", "protect", "deleted", "--off"], 0)?;
    ends(server, &["set", "delete", "deleted", "--dry-run=server"], 0)?;
    server.get("volumesets", "deleted").context("a rehearsal, or what was refused, has deleted it")?;
    ends(server, &["set", "delete", "deleted", "--confirm=deleted"], 0)?;
    ensure!(server.get("volumesets", "deleted").is_err(), "it is still there");
    ends(server, &["set", "delete", "deleted", "--confirm=deleted"], FAILED)?;
    Ok(())
}

fn group_lives(server: &Server) -> Result<()> {
    ends(server, &["group", "create", "lives", "a", "b"], 0)?;
    ends(server, &["group", "add", "lives", "c", "b"], 0)?;
    ends(server, &["group", "remove", "lives", "a"], 0)?;
    let sets = server.get("setgroups", "lives")?["spec"]["volumeSets"].clone();
    ensure!(sets == json!([{"name": "b"}, {"name": "c"}]), "{sets}");
    let said = ends(server, &["group", "remove", "lives", "b", "c"], FAILED)?;
    ensure!(said.stderr.contains("group delete lives"), "{said:?}");
    ends(server, &["group", "create", "by-labels", "--selector", "rotation=pg-nightly"], 0)?;
    let selector = server.get("setgroups", "by-labels")?["spec"]["selector"].clone();
    ensure!(selector == json!({"matchLabels": {"rotation": "pg-nightly"}}), "{selector}");
    let said = ends(server, &["group", "add", "by-labels", "a"], FAILED)?;
    ensure!(said.stderr.contains("by labels"), "{said:?}");
    let members = json!([{"name": "b", "ready": true}, {"name": "c", "ready": false}]);
    let found = json!({"members": members, "conditions": [condition("Ready", "False", "MemberNotReady")]});
    status::patch(server, "setgroups", "lives", &found)?;
    let table = ends(server, &["group", "list"], 0)?.stdout;
    let shown = line(&table, "lives ")?;
    ensure!(shown.contains("MemberNotReady") && shown.contains("b c"), "{table}");
    ends(server, &["group", "delete", "lives"], 0)?;
    ensure!(server.get("setgroups", "lives").is_err(), "it is still there");
    Ok(())
}

fn cuts(server: &Server) -> Result<()> {
    add_set(server, "cut-a", "cut-m", CUT, &json!({}))?;
    add_set(server, "cut-b", "cut-n", CUT, &json!({}))?;
    let first = object(server, &["cut", "cut-a"])?;
    ensure!(first["spec"]["command"] == "UpdateShadow" && first["spec"]["waitFor"] == "Copy", "{first}");
    let second = object(server, &["cut", "set:cut-a", "--full", "--freeze"])?;
    ensure!(second["spec"]["command"] == "CopyToShadow", "{second}");
    ensure!(second["spec"]["quiesce"]["fileSystem"] == "Freeze", "{second}");
    ensure!(first["metadata"]["name"] != second["metadata"]["name"], "a name was used twice");
    ensure!(operations(server, "cut-a")?.len() == 2, "each is an operation of its own");

    ends(server, &["group", "create", "cut-g", "cut-a", "cut-b"], 0)?;
    let said = ends(server, &["cut", "group:cut-g"], REFUSED)?;
    ensure!(said.stderr.contains("operator"), "nobody has said who is in the group: {said:?}");
    let members = json!([{"name": "cut-a", "ready": true}, {"name": "cut-b", "ready": true}]);
    status::patch(server, "setgroups", "cut-g", &json!({"observedGeneration": 1, "members": members}))?;
    let of_group = object(server, &["cut", "group:cut-g", "--wait-for", "cut"])?;
    ensure!(of_group["spec"]["target"] == json!({"kind": "SetGroup", "name": "cut-g"}), "{of_group}");
    ensure!(of_group["spec"]["waitFor"] == "Cut", "{of_group}");

    ends(server, &["set", "protect", "cut-b"], 0)?;
    for target in ["cut-b", "group:cut-g"] {
        let said = ends(server, &["cut", target], REFUSED)?;
        ensure!(said.stderr.contains("image of cut-b is protected"), "{said:?}");
    }
    ensure!(operations(server, "cut-b")?.is_empty(), "it was refused, and asked for all the same");
    ends(server, &["cut", "no-such-set"], FAILED)?;
    Ok(())
}

fn waits_for_a_cut(server: &Server) -> Result<()> {
    let tries = [
        ("waited-done", condition("Complete", "True", "CutDone"), 0),
        ("waited-void", condition("Failed", "True", "CutVoid"), FAILED),
        ("waited-used", condition("Failed", "True", "InUse"), REFUSED),
    ];
    for (set, end, code) in tries {
        add_set(server, set, set, CUT, &json!({}))?;
        let arguments = ["cut", set, "--wait", "--timeout", "5m", "-n", NAMESPACE];
        let mut child = begin(&mut server.plugin_host(), &arguments)?;
        let running = json!({"startTime": TIME, "percent": 40});
        let operation = play_operator(server, &mut child, set, &running)?;
        status::patch(server, "imagingoperations", &operation, &json!({"conditions": [end]}))?;
        let said = said(child)?;
        ensure!(said.code == Some(code), "{set}: {said:?}");
        let told = if code == 0 { &said.stdout } else { &said.stderr };
        ensure!(told.contains(&operation), "{set}: {said:?}");
    }
    // Nobody plays the operator.
    add_set(server, "waited-alone", "waited-alone", CUT, &json!({}))?;
    let said = ends(server, &["cut", "waited-alone", "--wait", "--timeout", "1s"], TIMED_OUT)?;
    ensure!(said.stderr.contains("umbra-operator"), "{said:?}");
    Ok(())
}

fn restores(server: &Server) -> Result<()> {
    add_master(server, "res-m")?;
    add_set(server, "res-a", "res-m", CUT, &json!({"image": {"written": true}}))?;
    add_set(server, "res-b", "res-m", OTHER_CUT, &json!({}))?;
    let said = ends(server, &["restore", "res-a", "--confirm=res-a"], REFUSED)?;
    ensure!(said.stderr.contains("--allow-written"), "{said:?}");
    ensure!(said.stderr.contains("WRITTEN since"), "the plan is shown all the same: {said:?}");

    let said = ends(server, &["restore", "res-a", "--allow-written"], REFUSED)?;
    for part in
        [CUT, "USED BY pod/pg-0", "res-b keeps what the master is now", OTHER_CUT, "kubectl umbra undo"]
    {
        ensure!(said.stderr.contains(part), "no {part} in the plan: {said:?}");
    }
    ensure!(said.stderr.contains("--confirm=res-a"), "{said:?}");
    ends(server, &["restore", "res-a", "--allow-written", "--confirm=res-b"], REFUSED)?;
    ends(server, &["restore", "res-a", "--allow-written", "--confirm=res-a", "--cut", "02d9e7"], REFUSED)?;
    ends(server, &["restore", "res-a", "--allow-written", "--dry-run=server"], 0)?;
    ensure!(
        operations(server, "res-a")?.is_empty(),
        "it was refused or rehearsed, and asked for all the same"
    );

    let restore = ["restore", "res-a", "--allow-written", "--cut", "7c1e4a", "--confirm=res-a"];
    let said = ends(server, &restore, 0)?;
    let [operation] = &operations(server, "res-a")?[..] else { bail!("not one operation") };
    let name = operation["metadata"]["name"].as_str().context("no name")?;
    let undo = format!("undo with: kubectl umbra undo {name} -n {NAMESPACE}\n");
    ensure!(said.stdout.ends_with(&undo), "{said:?}");
    let spec = &operation["spec"];
    ensure!(spec["command"] == "UpdateMaster" && spec["waitFor"] == "Cut", "{spec}");
    let guard = json!({"expectCutID": CUT, "allowWrittenShadow": true, "allowUntrustedImage": false});
    ensure!(spec["guard"] == guard, "{spec}");
    ensure!(spec["safety"]["volumeSetRef"]["name"] == "res-b", "{spec}");
    Ok(())
}

fn asks_on_a_terminal(server: &Server) -> Result<()> {
    add_set(server, "asked", "asked-m", CUT, &json!({}))?;
    let restore = ["restore", "asked", "--no-safety", "-n", NAMESPACE];
    for wrong in ["yes\n", "\n", "asked-m\n"] {
        let said = typed(server, &restore, wrong)?;
        ensure!(said.code == Some(REFUSED), "{wrong:?}: {said:?}");
        ensure!(said.stdout.contains("To go on, write its name") && said.stdout.contains(CUT), "{said:?}");
    }
    ensure!(operations(server, "asked")?.is_empty(), "it was not agreed to, and asked for all the same");
    let said = typed(server, &restore, "asked\n")?;
    ensure!(said.code == Some(0), "{said:?}");
    ensure!(
        typed(server, &[&restore[..], &["--yes"]].concat(), "")?.code == Some(0),
        "--yes agrees on a terminal"
    );
    ensure!(operations(server, "asked")?.len() == 2, "each was asked for once");
    Ok(())
}

fn finds_the_safety_set(server: &Server) -> Result<()> {
    add_set(server, "safe-a", "safe-m", CUT, &json!({}))?;
    let restore = ["restore", "safe-a", "--confirm=safe-a"];
    let said = ends(server, &restore, REFUSED)?;
    ensure!(said.stderr.contains("--no-safety") && said.stderr.contains("no other set"), "{said:?}");
    add_set(server, "safe-b", "safe-m", OTHER_CUT, &json!({"currentOperation": "cut-1"}))?;
    add_set(server, "safe-c", "safe-m", OTHER_CUT, &json!({}))?;
    let proposed = object(server, &[&restore[..], &["--dry-run=client"]].concat())?;
    ensure!(proposed["spec"]["safety"]["volumeSetRef"]["name"] == "safe-c", "{proposed}");
    status::patch(server, "volumesets", "safe-b", &json!({"currentOperation": null}))?;
    let said = ends(server, &restore, REFUSED)?;
    ensure!(said.stderr.contains("any of safe-b, safe-c"), "{said:?}");
    ends(server, &["set", "protect", "safe-b"], 0)?;
    let named = ends(server, &[&restore[..], &["--safety", "safe-b"]].concat(), REFUSED)?;
    ensure!(named.stderr.contains("safe-b cannot take the safety cut: its image is protected"), "{named:?}");
    ensure!(operations(server, "safe-a")?.is_empty(), "it was refused, and asked for all the same");
    let without = ends(server, &[&restore[..], &["--no-safety", "--full"]].concat(), 0)?;
    ensure!(without.stdout.contains("cannot be undone"), "{without:?}");
    let [operation] = &operations(server, "safe-a")?[..] else { bail!("not one operation") };
    ensure!(operation["spec"].get("safety").is_none(), "{operation}");
    ensure!(operation["spec"]["command"] == "CopyToMaster", "{operation}");
    Ok(())
}

/// The set was cut between the plan and the act, which only the operator can see.
fn tells_a_stale_guard(server: &Server) -> Result<()> {
    add_set(server, "stale", "stale-m", CUT, &json!({}))?;
    let restore =
        ["restore", "stale", "--no-safety", "--confirm=stale", "--wait", "--timeout=5m", "-n", NAMESPACE];
    let mut child = begin(&mut server.plugin_host(), &restore)?;
    let stale = json!({"conditions": [condition("Failed", "True", "StaleGuard")]});
    play_operator(server, &mut child, "stale", &stale)?;
    let said = said(child)?;
    ensure!(said.code == Some(REFUSED) && said.stderr.contains("StaleGuard"), "{said:?}");
    Ok(())
}

fn undoes(server: &Server) -> Result<()> {
    add_set(server, "undo-a", "undo-m", CUT, &json!({}))?;
    add_set(server, "undo-b", "undo-m", OTHER_CUT, &json!({}))?;
    let restore = ["restore", "undo-a", "--confirm=undo-a", "--wait", "--timeout=5m", "-n", NAMESPACE];
    let mut child = begin(&mut server.plugin_host(), &restore)?;
    let safety = "11111111-30c9-4a6a-8f0d-5f0f3c1b9a77";
    let done = json!({"conditions": [condition("Complete", "True", "CutDone")], "safety": {"cutID": safety}});
    let name = play_operator(server, &mut child, "undo-a", &done)?;
    ensure!(said(child)?.code == Some(0), "the restore did not end well");

    let undo = ["undo", &name, "--no-safety", "--confirm=undo-b"];
    let early = ends(server, &undo, REFUSED)?;
    ensure!(early.stderr.contains("not 11111111"), "the set does not hold the safety cut: {early:?}");
    status::patch(server, "volumesets", "undo-b", &json!({"image": {"cutID": safety}}))?;
    let undone = object(server, &undo)?;
    ensure!(undone["spec"]["target"]["name"] == "undo-b", "{undone}");
    ensure!(undone["spec"]["guard"]["expectCutID"] == safety, "{undone}");
    ensure!(undone["spec"]["command"] == "UpdateMaster", "{undone}");
    let undone = undone["metadata"]["name"].as_str().context("no name")?;
    let again = ends(server, &["undo", undone, "--no-safety", "--confirm=undo-a"], REFUSED)?;
    ensure!(again.stderr.contains("made no safety cut"), "{again:?}");
    ends(server, &["undo", "no-such-operation", "--confirm=x"], FAILED)?;
    Ok(())
}

fn aborts(server: &Server) -> Result<()> {
    add_set(server, "aborted", "aborted-m", CUT, &json!({}))?;
    let abort = object(server, &["abort", "aborted"])?;
    ensure!(abort["spec"]["command"] == "Abort", "{abort}");
    ends(server, &["set", "reset", "aborted"], REFUSED)?;
    let reset = object(server, &["set", "reset", "aborted", "--confirm=aborted"])?;
    ensure!(reset["spec"]["command"] == "Reset", "{reset}");
    ensure!(operations(server, "aborted")?.len() == 2, "what was refused was asked for all the same");
    ends(server, &["abort", "no-such-set"], FAILED)?;
    Ok(())
}

fn waits_for_a_set(server: &Server) -> Result<()> {
    let copying = json!({"copy": {"state": "Running", "direction": "ToShadow", "percent": 61}});
    add_set(server, "at-work", "at-work-m", CUT, &copying)?;
    let said_late = ends(server, &["wait", "at-work", "--timeout=1s"], TIMED_OUT)?;
    ensure!(said_late.stderr.contains("copying to shadow, 61%"), "{said_late:?}");
    let shown = typed(server, &["wait", "at-work", "--timeout=1s", "-n", NAMESPACE], "")?;
    ensure!(
        shown.code == Some(TIMED_OUT) && shown.stdout.contains("===="),
        "a terminal sees a bar: {shown:?}"
    );
    ensure!(!said_late.stderr.contains("===="), "only a terminal does: {said_late:?}");
    let arguments = ["wait", "at-work", "--timeout=5m", "-n", NAMESPACE];
    let child = begin(&mut server.plugin_host(), &arguments)?;
    status::patch(server, "volumesets", "at-work", &json!({"copy": {"state": "None"}}))?;
    let rested = said(child)?;
    ensure!(rested.code == Some(0) && rested.stdout == "volumeset/at-work at rest\n", "{rested:?}");

    status::patch(server, "volumesets", "at-work", &json!({"copy": {"state": "Running"}}))?;
    let child = begin(&mut server.plugin_host(), &arguments)?;
    server.expect(&["delete", "volumesets", "at-work", "--namespace", NAMESPACE])?;
    let gone = said(child)?;
    ensure!(gone.code == Some(FAILED), "what is deleted will not be done: {gone:?}");

    add_set(server, "both", "at-work-m", CUT, &json!({}))?;
    let operation = examples::valid("imagingoperation-cut")?;
    ensure!(server.apply_as("both", &operation)?.success, "no operation");
    let said = ends(server, &["wait", "both"], 1)?;
    ensure!(said.stderr.contains("set:both or op:both"), "{said:?}");
    ends(server, &["wait", "set:both"], 0)?;
    ends(server, &["wait", "op:both", "--timeout=1s"], TIMED_OUT)?;
    ends(server, &["wait", "neither"], FAILED)?;
    Ok(())
}

fn lists(server: &Server) -> Result<()> {
    add_master(server, "listed-m")?;
    add_set(server, "listed-a", "listed-m", CUT, &json!({}))?;
    let cut = object(server, &["cut", "listed-a"])?;
    let name = cut["metadata"]["name"].as_str().context("no name")?;
    let done = json!({"conditions": [condition("Complete", "True", "CopyDone")], "percent": 100, "cut": {"id": CUT}});
    status::patch(server, "imagingoperations", name, &done)?;
    let table = ends(server, &["ops", "listed-a"], 0)?.stdout;
    let shown = line(&table, name)?;
    for part in ["UpdateShadow", "complete", "CopyDone", "7c1e4a ", "100%"] {
        ensure!(shown.contains(part), "no {part} in: {table}");
    }
    let names = ends(server, &["ops", "listed-a", "-o", "name"], 0)?.stdout;
    ensure!(names == format!("imagingoperation/{name}\n"), "{names}");
    ensure!(ends(server, &["ops", "group:listed-a"], 0)?.stdout.lines().count() <= 1, "a group is no set");

    let tree = ends(server, &["tree", "listed-m"], 0)?.stdout;
    let expected = "mastervolume/listed-m\n|- source pvc/data-pg-0\n`- volumeset/listed-a\n   \
                    |- shadow pvc/pg-shadow-1\n   `- bitmap managed\n";
    ensure!(tree == expected, "{tree}");
    ends(server, &["tree", "no-such-master"], FAILED)?;
    Ok(())
}

fn nodes(server: &Server) -> Result<()> {
    let answer = server.apply_as("node-listed", &examples::one_of("ImagingNode")?)?;
    ensure!(answer.success, "{}", answer.stderr);
    let device = |name: &str| json!({"id": format!("/dev/disk/by-id/{name}"), "sizeBytes": 1_u64 << 40});
    let (mut used, mut mounted) = (device("used"), device("mounted"));
    merge(&mut used, &json!({"role": "Master", "usedBy": "MasterVolume/prod/pg-data", "serial": "S5H9"}));
    merge(&mut mounted, &json!({"denied": "Mounted"}));
    let found = json!({
        "conditions": [condition("Ready", "True", "Serving")],
        "kernel": "6.12.95",
        "masterCount": 1,
        "devices": [used, mounted, device("free")],
    });
    status::patch(server, "imagingnodes", "node-listed", &found)?;
    let nodes = good(server, &["node", "list"])?;
    let shown = line(&nodes, "node-listed")?;
    ensure!(shown.contains("True") && shown.contains("Serving") && shown.contains("6.12.95"), "{nodes}");

    let all = good(server, &["devices", "--node", "node-listed", "-o", "wide"])?;
    ensure!(line(&all, "by-id/mounted")?.contains("Mounted"), "{all}");
    ensure!(line(&all, "by-id/used")?.contains("S5H9"), "{all}");
    let eligible = good(server, &["devices", "--node", "node-listed", "--eligible", "-o", "name"])?;
    ensure!(eligible == "node-listed/dev/disk/by-id/free\n", "{eligible}");
    ends(server, &["devices", "--node", "no-such-node"], FAILED)?;

    let create = [
        "grant",
        "create",
        "by-command",
        "--node-selector",
        "pool=yes",
        "--device",
        "nvme-KIOXIA_*",
        "--roles",
        "shadow,Overflow",
        "--namespaces",
        "prod,dev",
    ];
    good(server, &create)?;
    let text = server.expect(&["get", "devicegrants", "by-command", "--output", "json"])?;
    let spec = serde_json::from_str::<Value>(&text)?["spec"].clone();
    let expected = json!({
        "nodeSelector": {"matchLabels": {"pool": "yes"}},
        "devices": [{"idPattern": "/dev/disk/by-id/nvme-KIOXIA_*"}],
        "roles": ["Shadow", "Overflow"],
        "namespaces": ["prod", "dev"],
    });
    ensure!(spec == expected, "{spec}");
    Ok(())
}

fn events(server: &Server) -> Result<()> {
    add_set(server, "told", "told-m", CUT, &json!({}))?;
    let cut = object(server, &["cut", "told"])?;
    let operation = cut["metadata"]["name"].as_str().context("no name")?;
    let of = [
        ("VolumeSet", "told", "Adopted"),
        ("ImagingOperation", operation, "GateClosed"),
        ("VolumeSet", "told-2", "OfAnother"),
        ("ImagingOperation", "told", "OfAnotherOperation"),
    ];
    for (kind, name, reason) in of {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"namespace": NAMESPACE},
            "involvedObject": {"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": kind, "name": name, "namespace": NAMESPACE},
            "reason": reason, "type": "Normal", "message": "it was so", "firstTimestamp": TIME, "lastTimestamp": TIME, "count": 3,
            "source": {"component": "umbra-operator"},
        });
        let answer = server.apply_as(&format!("event-{}", reason.to_lowercase()), &event)?;
        ensure!(answer.success, "{}", answer.stderr);
    }
    let told = object(server, &["events", "told"])?;
    let told = told.as_array().context("no list")?;
    let mut reasons: Vec<&str> = told.iter().filter_map(|event| event["reason"].as_str()).collect();
    reasons.sort_unstable();
    ensure!(reasons == ["Adopted", "GateClosed"], "{told:?}");
    ensure!(told.iter().all(|event| event["count"] == 3), "{told:?}");
    // Without a name it is everything of Umbra's, and of nobody else's.
    let foreign = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"namespace": NAMESPACE},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "told", "namespace": NAMESPACE},
        "reason": "Pulled", "type": "Normal", "message": "an image", "firstTimestamp": TIME, "lastTimestamp": TIME,
    });
    let answer = server.apply_as("event-foreign", &foreign)?;
    ensure!(answer.success, "{}", answer.stderr);
    let all = object(server, &["events"])?.to_string();
    ensure!(of.iter().all(|(_, _, reason)| all.contains(reason)) && !all.contains("Pulled"), "{all}");
    Ok(())
}
