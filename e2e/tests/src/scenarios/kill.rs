//! `kill -9` under load: no error at the client, the data right, the image intact, the set online.

use crate::node::{NewSet, Node, attach, check_locked_memory, ctl, fill, hash, set_state};
use anyhow::{Result, ensure};
use std::time::Duration;
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;

/// Three kills while fio writes and verifies through the presented master.
pub(super) fn three_kills() -> Result<()> {
    let mut vm = Vm::builder("kill")
        .disk(Disk::blank("master", 128 * MIB))
        .disk(Disk::blank("shadow", 128 * MIB))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let mut node = Node::start(&mut vm)?;
    fill(&vm, "/dev/lab/master", 128 * MIB)?;
    let master = attach(&vm, "/dev/lab/master", "m")?;
    let shadow = NewSet::default().enable(&vm)?;
    let image = hash(&vm, &shadow)?;
    ensure!(image == hash(&vm, &master)?, "right after the cut both sides are equal");
    let load = vm.spawn(&format!(
        "fio --name=verify --filename={master} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
         --bsrange=4k-64k --size=96m --verify=crc32c --verify_fatal=1 --verify_backlog=512 --loops=2"
    ))?;
    for round in 1..=3 {
        std::thread::sleep(Duration::from_secs(3));
        node.kill(&vm)?;
        node.run(&vm)?;
        let state = set_state(&vm, "s")?;
        ensure!(state == "idle", "after kill {round} the set is {state}");
    }
    load.wait(Duration::from_secs(300))?.check()?;
    check_locked_memory(&vm, 128 * MIB)?;
    ensure!(hash(&vm, &shadow)? == image, "the image has changed");
    ctl(&vm, "disable s")?;
    ctl(&vm, "detach m")?;
    vm.finish()
}
