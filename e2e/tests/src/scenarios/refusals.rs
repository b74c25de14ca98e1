//! Bad input on a real machine: a clear reason, and nothing changed.

use crate::node::{NewSet, Node, ctl, refused};
use anyhow::{Result, ensure};
use umbra_lab::{Disk, Vm, static_binary};

const MIB: u64 = 1 << 20;

/// Devices in use, mounted, too small, the same twice; garbage on the socket.
pub(super) fn bad_input() -> Result<()> {
    let mut vm = Vm::builder("refusals")
        .disk(Disk::blank("master", 64 * MIB))
        .disk(Disk::blank("shadow", 64 * MIB))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("small", 4 * MIB))
        .disk(Disk::blank("big-blocks", 64 * MIB).logical_block(4096))
        .disk(Disk::blank("read-only", 64 * MIB).read_only())
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let _node = Node::start(&mut vm)?;
    let expect = |arguments: &str, reason: &str| -> Result<()> {
        let found = refused(&vm, arguments)?;
        ensure!(found == reason, "umbra-io ctl {arguments}: refused with {found}, expected {reason}");
        Ok(())
    };
    vm.sh("mkfs.ext4 -q /dev/lab/master && mount /dev/lab/master /mnt").run()?;
    expect("attach /dev/lab/master --name m", "MOUNTED")?;
    vm.sh("umount /mnt").run()?;
    expect("attach /dev/lab/nothing --name m", "NOT_FOUND")?;
    expect("attach /proc --name m", "NOT_A_VOLUME")?;
    expect("attach /dev/lab/read-only --name m", "READ_ONLY_DEVICE")?;
    vm.sh("truncate -s 64M /var/lib/umbra/weak.img").run()?;
    expect("attach /var/lib/umbra/weak.img --name m", "IDENTITY_WEAK")?;
    ctl(&vm, "attach /dev/lab/master --name m")?;
    expect("attach /dev/lab/master --name other", "SAME_DEVICE_AS")?;
    expect("attach /dev/lab/shadow --name m", "ALREADY_EXISTS")?;
    let enable = |shadow: &str, bitmap: &str| {
        let (shadow, bitmap) = (format!("/dev/lab/{shadow}"), format!("/dev/lab/{bitmap}"));
        NewSet { shadow: &shadow, bitmap: &bitmap, ..NewSet::default() }.command()
    };
    expect(&enable("shadow", "shadow"), "SAME_DEVICE")?;
    expect(&enable("small", "bitmap"), "SHADOW_TOO_SMALL")?;
    expect(&enable("shadow", "small"), "BITMAP_TOO_SMALL")?;
    expect(&enable("big-blocks", "bitmap"), "BLOCK_SIZE_MISMATCH")?;
    expect("disable s", "NOT_FOUND")?;
    ctl(&vm, &enable("shadow", "bitmap"))?;
    expect(&enable("shadow", "bitmap"), "ALREADY_EXISTS")?;
    expect("copy to-shadow s@7", "STALE_EPOCH")?;
    vm.sh(
        "head -c 100000 /dev/urandom | timeout 5 busybox nc local:/run/umbra/io.sock >/dev/null 2>&1 || true",
    )
    .run()?;

    let holder = vm.spawn("for d in /dev/umbra/by-id/*; do exec 9<$d; sleep 60 9<$d & done; wait")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    expect("update to-shadow s", "HAS_OPENERS")?;
    expect("detach m", "HAS_OPENERS")?;
    vm.sh("pkill sleep; true").run()?;
    holder.wait(std::time::Duration::from_secs(30))?;
    ctl(&vm, "update to-shadow s")?;
    ctl(&vm, "disable s")?;
    ctl(&vm, "detach m")?;
    vm.sh("mount /dev/lab/master /mnt && umount /mnt").run()?;
    vm.finish()
}

/// Without the driver the program says what is missing and how to get it.
pub(super) fn no_ublk() -> Result<()> {
    let vm = Vm::builder("no-ublk").without_ublk().boot()?;
    vm.put(static_binary("umbra-io")?, "/usr/bin/umbra-io")?;
    let output = vm.sh("umbra-io run --state-dir /tmp/state --socket /tmp/io.sock 2>&1").output()?;
    ensure!(!output.success(), "umbra-io started without ublk");
    ensure!(output.text().contains("ublk_drv"), "the refusal does not name the module: {}", output.text());
    vm.finish()
}
