//! What goes wrong on a real node while it is used: processes are killed, the power fails. What was asked for is done, once;
//! images stay what they were; nobody has to repair anything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use umbra_lab::Job;

use super::machine::{BYTES, Machine, devices};
use super::story::{shadow, status};
use crate::kubernetes::installation::Installation;
use crate::kubernetes::server::Server;
use crate::node::{find, hash, load, replaced_after, set_state};

const END: Duration = Duration::from_secs(60);

fn end_of(machine: &Machine, load: Job) -> Result<()> {
    machine.vm.sh("touch /tmp/enough").run()?;
    load.wait(END)?.check().map(drop)
}

/// `umbra-io` and `umbra-node` are killed while cuts are asked for, under writes.
pub(super) fn kills(server: &Server) -> Result<()> {
    let umbra = Installation::new(server)?;
    let mut machine = Machine::boot(&umbra, "cluster-kills")?;
    let mut operator = umbra.start_operator("op-0")?;
    umbra.apply_volumes(&devices())?;
    let master = umbra.path("umaster/pg", ".status.devPath")?;
    let load = load(&machine.vm, &master, BYTES)?;
    let mut operations = Vec::new();
    for round in 1..=3 {
        for set in ["one", "two"] {
            let name = format!("{set}-{round}");
            let spec = json!({"target": {"kind": "VolumeSet", "name": set}, "command": "UpdateShadow"});
            umbra.apply("ImagingOperation", &name, &spec)?;
            operations.push(format!("uop/{name}"));
        }
        match round {
            1 => replaced_after(&machine.vm, "KILL")?,
            2 => {
                machine.kill_node()?;
                machine.start_node(&umbra)?;
            }
            _ => {
                operator.signal(rustix::process::Signal::KILL)?;
                operator = umbra.start_operator("op-1")?;
            }
        }
    }
    let names: Vec<&str> = operations.iter().map(String::as_str).collect();
    umbra.wait("Complete", &names)?;
    end_of(&machine, load)?;
    for set in ["one", "two"] {
        // The first image came with the set, and three were asked for.
        let status = status(&machine, &umbra, set)?;
        let epoch = find(&status, "epoch").and_then(serde_json::Value::as_u64);
        ensure!(epoch == Some(4), "every cut of {set} was made once: {status}");
    }
    umbra.delete_all()?;
    drop(operator);
    machine.finish()
}

/// The node loses its power under writes. It comes back with the images it had, and is ready by itself.
pub(super) fn power_cut(server: &Server) -> Result<()> {
    let umbra = Installation::new(server)?;
    let mut machine = Machine::boot(&umbra, "cluster-power-cut")?;
    let _operator = umbra.start_operator("one")?;
    umbra.apply_volumes(&devices())?;
    umbra.umbra(&["cut", "two", "--wait"], 0)?;
    let image = hash(&machine.vm, &shadow(&machine, &umbra, "two")?)?;
    let cut = umbra.path("uset/two", ".status.image.cutID")?;
    let load = load(&machine.vm, &umbra.path("umaster/pg", ".status.devPath")?, BYTES)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!load.is_finished(), "the load has ended: {}", load.stderr());
    drop(load);
    machine.power_cut(&umbra).context("after the power cut")?;
    let objects = ["umaster/pg", "uset/one", "uset/two"];
    // The objects may still say what was so before.
    for set in ["one", "two"] {
        let state = set_state(&machine.vm, &umbra.path(&format!("uset/{set}"), ".status.setID")?)?;
        ensure!(state == "idle" || state == "copying", "after the power cut set {set} is {state}");
    }
    umbra.wait("Ready", &objects)?;
    ensure!(umbra.path("uset/two", ".status.image.cutID")? == cut, "the image is of another cut");
    ensure!(hash(&machine.vm, &shadow(&machine, &umbra, "two")?)? == image, "the image has changed");
    umbra.umbra(&["cut", "two", "--wait"], 0)?;
    let master = umbra.path("umaster/pg", ".status.devPath")?;
    ensure!(
        hash(&machine.vm, &shadow(&machine, &umbra, "two")?)? == hash(&machine.vm, &master)?,
        "a new image"
    );
    umbra.delete_all()?;
    machine.finish()
}
