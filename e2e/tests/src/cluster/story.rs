//! The story on a real node: a file system that is there is imaged, restored and undone with `kubectl umbra`, and is there
//! when Umbra has gone again.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::machine::{Machine, devices};
use crate::kubernetes::installation::{Installation, until};
use crate::kubernetes::server::{NAMESPACE, Server};
use crate::node::{ctl, find_text};

/// What the node says of a set.
pub(super) fn status(machine: &Machine, umbra: &Installation<'_>, set: &str) -> Result<Value> {
    let id = umbra.path(&format!("uset/{set}"), ".status.setID")?;
    ctl(&machine.vm, &format!("status {id}"))
}

/// Where a set's shadow is presented.
pub(super) fn shadow(machine: &Machine, umbra: &Installation<'_>, set: &str) -> Result<String> {
    let status = status(machine, umbra, set)?;
    find_text(&status, "shadowDevice").with_context(|| format!("set {set} has no device: {status}"))
}

/// The name of the restore that was done.
fn restored(umbra: &Installation<'_>) -> Result<String> {
    let all = umbra.server().expect(&["get", "uop", "-n", NAMESPACE, "--output", "json"])?;
    let all: Value = serde_json::from_str(&all)?;
    let done = |operation: &&Value| {
        let conditions = operation["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        operation["spec"]["command"] == "UpdateMaster"
            && conditions
                .iter()
                .any(|condition| condition["type"] == "Complete" && condition["status"] == "True")
    };
    let found = all["items"].as_array().and_then(|operations| operations.iter().find(done));
    let name = found.and_then(|operation| operation["metadata"]["name"].as_str());
    name.map(str::to_owned).context("no restore was done")
}

pub(super) fn story(server: &Server) -> Result<()> {
    let umbra = Installation::new(server)?;
    let machine = Machine::boot(&umbra, "cluster-story")?;
    let _operator = umbra.start_operator("one")?;
    machine.write("/dev/lab/master", "before")?;
    umbra.apply_volumes(&devices())?;
    let master = umbra.path("umaster/pg", ".status.devPath")?;
    ensure!(machine.files(&master)? == ["before"], "the data is not what it was");

    machine.write(&master, "first")?;
    umbra.umbra(&["group", "create", "both", "one", "two"], 0)?;
    umbra.umbra(&["cut", "group:both", "--wait"], 0)?;
    machine.write(&master, "second")?;
    for set in ["one", "two"] {
        let files = machine.files(&shadow(&machine, &umbra, set)?)?;
        ensure!(files == ["before", "first"], "the image of {set} has {files:?}");
    }

    // Somebody has it mounted: refused, and nothing has changed.
    let refused = machine.mounted(&master, "rw", |_| {
        umbra.umbra(&["restore", "one", "--confirm=one", "--no-safety", "--wait"], 3)
    })?;
    ensure!(
        machine.files(&master)? == ["before", "first", "second"],
        "a refused restore changed something: {refused}"
    );

    umbra.umbra(&["restore", "one", "--confirm=one", "--wait"], 0)?;
    ensure!(machine.files(&master)? == ["before", "first"], "the master is not restored");
    until("the copy behind the restore is done", || {
        Ok(umbra.path("uset/one", ".status.copy.state")? == "None")
    })?;
    let restore = restored(&umbra)?;
    umbra.umbra(&["undo", &restore, "--confirm=two", "--wait"], 0)?;
    ensure!(machine.files(&master)? == ["before", "first", "second"], "the restore is not undone");
    until(
        "the copy behind the undo is done",
        || Ok(umbra.path("uset/two", ".status.copy.state")? == "None"),
    )?;

    // Umbra goes; the data stays, on the device that it was on.
    umbra.delete_all()?;
    ensure!(ctl(&machine.vm, "list")?["masters"].as_array().is_none_or(Vec::is_empty), "a master is left");
    ensure!(
        machine.files("/dev/lab/master")? == ["before", "first", "second"],
        "the raw device has lost data"
    );
    machine.finish()
}
