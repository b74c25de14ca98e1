//! Writes that must be durable when they are answered (FUA), as every journal commit of ext4 and XFS is, on disks that
//! know no FUA: carried out to the end, and no `kill -9` under them leaves the device waiting for ever (E24).

use crate::node::{NewSet, Node, attach, ctl, hash, queue, set_state, stat};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 128 * MIB;
/// Where the block layer emulated FUA one kill in some 25 hung; fifty without a hang are no accident.
const KILLS_PER_LOAD: u32 = 25;
/// A device that has not answered by then will not.
const ANSWER: Duration = Duration::from_secs(90);

/// Every such write has been flushed below when it is answered.
fn is_carried_out(vm: &Vm, presented: &str, disk: &str) -> Result<()> {
    let (ours, below) = (queue(vm, presented, "fua")?, queue(vm, disk, "fua")?);
    ensure!(ours == "1" && below == "0", "{presented} has FUA {ours}, {disk} below it {below}");
    let flushes = |device: &str| stat(vm, device, 16);
    let before = (flushes(presented)?, flushes(disk)?);
    // Behind the head of the image, which lies elsewhere, and asynchronous, for a synchronous write is followed by a flush in any case.
    vm.sh(&format!(
        "fio --name=fua --filename={presented} --direct=1 --ioengine=libaio --sync=dsync --rw=write --bs=4k \
             --offset=16m --size=256k"
    ))
    .timeout(ANSWER)
    .run()?;
    let after = (flushes(presented)?, flushes(disk)?);
    ensure!(after.0 < before.0 + 64, "{presented} got flushes instead of FUA: {before:?}, {after:?}");
    ensure!(after.1 >= before.1 + 64, "{disk} was flushed too seldom: {before:?}, {after:?}");
    Ok(())
}

/// Kills, one after another, as soon as the load goes on after the one before.
fn kills(vm: &Vm, node: &mut Node, master: &str, load: &umbra_lab::Job) -> Result<()> {
    for kill in 1..=KILLS_PER_LOAD {
        node.kill(vm)?;
        let before = stat(vm, master, 5)?;
        node.run(vm)?;
        let begin = Instant::now();
        while stat(vm, master, 5)? <= before {
            ensure!(!load.is_finished(), "the load ended after kill {kill}: {}", load.stderr());
            ensure!(begin.elapsed() < ANSWER, "no write has ended since kill {kill}: the device hangs");
            std::thread::sleep(Duration::from_millis(50));
        }
        let state = set_state(vm, "s")?;
        ensure!(state == "idle", "after kill {kill} the set is {state}");
    }
    Ok(())
}

/// Ends a load that runs until it is told to, and wants to know that nothing of it failed.
fn end(vm: &Vm, load: umbra_lab::Job) -> Result<()> {
    vm.sh("touch /tmp/enough").run()?;
    load.wait(Duration::from_secs(180))?.check()?;
    vm.sh("rm /tmp/enough").run().map(drop)
}

/// Fifty kills: half under synchronous writes to the device, half under a mounted ext4 whose files are synchronised.
pub(super) fn fifty_kills() -> Result<()> {
    let mut vm = Vm::builder("fua")
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("shadow", BYTES))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let mut node = Node::start(&mut vm)?;
    let master = attach(&vm, "/dev/lab/master", "m")?;
    is_carried_out(&vm, &master, "/dev/lab/master")?;
    vm.sh(&format!("mkfs.ext4 -q {master}")).run()?;
    let shadow = NewSet::default().enable(&vm)?;
    is_carried_out(&vm, &shadow, "/dev/lab/shadow")?;
    let image = hash(&vm, &shadow)?;

    vm.sh(&format!("mount {master} /mnt")).run()?;
    // Of fio's own accord a file is synchronised after each write: the journal commits with FUA each time.
    let load = vm.spawn(
        "until [ -e /tmp/enough ]; do
             fio --name=fsync --directory=/mnt --numjobs=4 --size=4m --rw=randwrite --bs=4k --fsync=1 \
                 --time_based --runtime=5 --verify=crc32c --do_verify=0 --verify_state_save=0 >/dev/null
         done",
    )?;
    kills(&vm, &mut node, &master, &load)?;
    end(&vm, load)?;
    vm.sh(&format!("umount /mnt && fsck.ext4 -fn {master}")).timeout(ANSWER).run()?;

    let load = vm.spawn(&format!(
        "until [ -e /tmp/enough ]; do
             fio --name=dsync --filename={master} --direct=1 --ioengine=libaio --iodepth=16 --sync=dsync \
                 --rw=randwrite --bsrange=4k-16k --size=64m --io_size=8m --verify=crc32c --verify_fatal=1 >/dev/null
         done"
    ))?;
    kills(&vm, &mut node, &master, &load)?;
    end(&vm, load)?;
    ensure!(hash(&vm, &shadow)? == image, "the image has changed");
    ctl(&vm, "disable s")?;
    ctl(&vm, "detach m")?;
    vm.finish()
}
