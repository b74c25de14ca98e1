//! More sets on one master than a ring had room for: all are served, also by the next process.

use crate::node::{NewSet, Node, attach, ctl, fill, hash, queue, set_state};
use anyhow::{Result, ensure};
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
    let master = attach(&vm, "/dev/lab/master", "m")?;
    let best = |device: &str| queue(&vm, device, "optimal_io_size");
    ensure!(best(&master)? == best("/dev/lab/master")?, "the master's best size of I/O is not presented");
    let mut images = Vec::new();
    for set in 0..SETS {
        fill(&vm, &master, 16 * MIB)?;
        let volume = |role: &str| format!("/dev/lab/{role}{set}");
        let (name, shadow, bitmap) = (format!("s{set}"), volume("shadow"), volume("bitmap"));
        let shadow = NewSet { name: &name, master: "m", shadow: &shadow, bitmap: &bitmap }.enable(&vm)?;
        images.push((shadow.clone(), hash(&vm, &shadow)?));
    }
    node.kill(&vm)?;
    node.run(&vm)?;
    fill(&vm, &master, 16 * MIB)?;
    for (set, (shadow, image)) in images.iter().enumerate() {
        let state = set_state(&vm, &format!("s{set}"))?;
        ensure!(state == "idle", "set {set} is {state} after a kill");
        ensure!(hash(&vm, shadow)? == *image, "the image of set {set} has changed");
        ctl(&vm, &format!("disable s{set}"))?;
    }
    ctl(&vm, "detach m")?;
    vm.finish()
}
