//! Under `umbra-io supervise`: an I/O process that is killed or hangs is replaced, and the workload sees nothing of
//! it; after too many hangs the master goes on without its dependent set.

use crate::node::{
    NewSet, Node, attach, check_locked_memory, ctl, hash, http_get, metric, replaced_after, set_state,
};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 64 * MIB;
/// So many hangs within a minute end a dependent set.
const HANGS_MAX: u32 = 3;

/// Hangs, until too many within a minute have ended the set.
fn hangs_until_given_up(vm: &Vm) -> Result<()> {
    let mut hangs = 0;
    while set_state(vm, "s")? == "idle" && hangs < HANGS_MAX {
        replaced_after(vm, "STOP")?;
        hangs += 1;
    }
    let state = set_state(vm, "s")?;
    ensure!(state == "givenUp", "after {hangs} more hangs the set is {state}");
    ensure!(metric(vm, r#"umbra_set_state{set="s",state="given-up"}"#)? == 1.0, "metrics say so, too");
    Ok(())
}

/// One kill, then hangs until the set is given up, under fio.
pub(super) fn killed_and_hung() -> Result<()> {
    let mut vm = Vm::builder("supervised")
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("shadow", BYTES))
        .disk(Disk::blank("bitmap", BYTES))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let node = Node::supervised(&mut vm, "2s")?;
    let master = attach(&vm, "/dev/lab/master", "m")?;
    let shadow = NewSet::default().enable(&vm)?;
    let image = hash(&vm, &shadow)?;
    let load = vm.spawn(&format!(
        "until [ -e /tmp/enough ]; do
             fio --name=verify --filename={master} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
                 --bsrange=4k-64k --size={BYTES} --io_size=8m --verify=crc32c --verify_fatal=1
         done"
    ))?;

    replaced_after(&vm, "KILL")?;
    let state = set_state(&vm, "s")?;
    ensure!(state == "idle", "after a kill the set is {state}");
    replaced_after(&vm, "STOP")?;
    let state = set_state(&vm, "s")?;
    ensure!(state == "idle", "after a hang the set is {state}");
    ensure!(hash(&vm, &shadow)? == image, "the image has changed");
    let answer = http_get(&vm, "/healthz")?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "health: {answer}");
    ensure!(metric(&vm, r#"umbra_set_state{set="s",state="idle"}"#)? == 1.0, "an idle set is shown as one");
    let writes = metric(&vm, r#"umbra_master_requests_total{master="m",op="write"}"#)?;
    ensure!(writes > 0.0, "writes are counted");
    ensure!(metric(&vm, "umbra_locked_memory_bytes")? > 0.0, "locked memory is counted");
    // As many large requests at a time as the device takes.
    vm.sh(&format!(
        "fio --name=large --filename={master} --direct=1 --ioengine=libaio --iodepth=128 --rw=read --bs=256k \
             --size={BYTES}"
    ))
    .timeout(Duration::from_secs(120))
    .run()?;
    check_locked_memory(&vm, BYTES)?;

    hangs_until_given_up(&vm)?;
    vm.sh(&format!("! [ -e {shadow} ]")).run().context("the image's device is still there")?;
    let written = || metric(&vm, r#"umbra_master_requests_total{master="m",op="write"}"#);
    let before = written()?;
    while written()? <= before {
        ensure!(!load.is_finished(), "the load has ended: {}", load.stderr());
        std::thread::sleep(Duration::from_millis(200));
    }
    vm.sh("touch /tmp/enough").run()?;
    load.wait(Duration::from_secs(120))?.check()?;
    let deaths = vm.sh("cat /run/umbra/deaths.json").run()?.stdout;
    ensure!(deaths.contains("\"signal\": 9") && deaths.contains("\"hung\""), "deaths: {deaths}");
    node.stop(&vm)?;

    // As if the minute were over.
    vm.sh("rm /run/umbra/deaths.json").run()?;
    let node = Node::supervised(&mut vm, "2s")?;
    let state = set_state(&vm, "s")?;
    ensure!(state == "offline", "a set that was given up is {state} after an undisturbed start");
    ctl(&vm, "reset s")?;
    let state = set_state(&vm, "s")?;
    ensure!(state == "idle", "after a reset the set is {state}");
    ensure!(hash(&vm, &shadow)? == hash(&vm, &master)?, "the new image is not the master's content");
    ctl(&vm, "disable s")?;
    ctl(&vm, "detach m")?;
    node.stop(&vm)?;
    vm.finish()
}
