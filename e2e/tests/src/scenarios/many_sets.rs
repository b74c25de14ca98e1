//! More sets on one master than a ring had room for: all are served, also by the next process.

use crate::node::{Node, ctl, find_text, hash, set_state};
use anyhow::{Context, Result, ensure};
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
const SETS: usize = 5;

/// Five sets, a kill, and five images as they were.
pub(super) fn five_sets() -> Result<()> {
    let mut builder =
        Vm::builder("five-sets").disk(Disk::blank("master", 16 * MIB)).disk(Disk::blank("state", 64 * MIB));
    for set in 0..SETS {
        builder = builder
            .disk(Disk::blank(&format!("shadow{set}"), 16 * MIB))
            .disk(Disk::blank(&format!("bitmap{set}"), 64 * MIB));
    }
    let mut vm = builder.boot()?;
    let mut node = Node::start(&mut vm)?;
    let attached = ctl(&vm, "attach /dev/lab/master --name m")?;
    let master = find_text(&attached, "device").context("attach answers with a device")?;
    let queue = |device: &str| {
        let script = format!("cat /sys/block/$(basename $(readlink -f {device}))/queue/optimal_io_size");
        Ok::<_, anyhow::Error>(vm.sh(&script).run()?.text().to_owned())
    };
    ensure!(queue(&master)? == queue("/dev/lab/master")?, "the master's best size of I/O is not presented");
    let mut images = Vec::new();
    for set in 0..SETS {
        vm.sh(&format!("dd if=/dev/urandom of={master} bs=1M count=16 oflag=direct status=none")).run()?;
        let enabled = ctl(
            &vm,
            &format!(
                "enable s{set} --master m --mode dependent --shadow /dev/lab/shadow{set} --bitmap /dev/lab/bitmap{set}"
            ),
        )?;
        let shadow = find_text(&enabled, "shadowDevice").context("enable answers with a device")?;
        images.push((shadow.clone(), hash(&vm, &shadow)?));
    }
    node.kill(&vm)?;
    node.run(&vm)?;
    vm.sh(&format!("dd if=/dev/urandom of={master} bs=1M count=16 oflag=direct status=none")).run()?;
    for (set, (shadow, image)) in images.iter().enumerate() {
        let state = set_state(&vm, &format!("s{set}"))?;
        ensure!(state == "idle", "set {set} is {state} after a kill");
        ensure!(hash(&vm, shadow)? == *image, "the image of set {set} has changed");
        ctl(&vm, &format!("disable s{set}"))?;
    }
    ctl(&vm, "detach m")?;
    vm.finish()
}
