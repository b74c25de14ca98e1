//! The ublk layer alone, with its example server: what the kernel lets a process, or one of its threads, survive.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use umbra_lab::{Vm, static_example};

const PROGRAM: &str = "/usr/bin/memdisk";
const START: Duration = Duration::from_secs(60);
/// What is not there by then does not come.
const PROGRESS: Duration = Duration::from_secs(60);

fn machine(name: &str) -> Result<Vm> {
    let vm = Vm::builder(name).boot()?;
    vm.put(static_example("memdisk")?, PROGRAM)?;
    Ok(vm)
}

/// The tag of a device's owner outlives the server, and a foreign device has none.
pub(super) fn a_device_tells_whose_it_is() -> Result<()> {
    let vm = machine("owner")?;
    let ours = vm.spawn(&format!("exec {PROGRAM} serve --tag 1311768467463790320"))?;
    ours.wait_for("serving", START)?;
    let foreign = vm.spawn(&format!("exec {PROGRAM} serve"))?;
    foreign.wait_for("serving", START)?;
    let listed = || Ok::<_, anyhow::Error>(vm.sh(&format!("{PROGRAM} list")).run()?.text().to_owned());
    let expected = ["tag 123456789abcdef0", "tag none"];
    let alive = listed()?;
    ensure!(
        alive.lines().zip(expected).all(|(line, tag)| line.contains(tag)),
        "the tags are not right: {alive}"
    );
    vm.sh(&format!("kill -9 {}", ours.pid())).run()?;
    ours.wait(START)?;
    let dead = listed()?;
    ensure!(dead.contains(expected[0]), "the tag went with the server: {dead}");
    vm.sh(&format!("{PROGRAM} remove 0; {PROGRAM} remove 1")).run()?;
    foreign.wait(START)?.check()?;
    vm.finish()
}

/// Writes a partition table with one partition, from sector 2048 on, without a word to the kernel, as a restore does.
fn write_table(vm: &Vm, device: &str, sectors: u32) -> Result<()> {
    let mut bytes = [0_u8; 512];
    bytes[450] = 0x83;
    bytes[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    bytes[458..462].copy_from_slice(&sectors.to_le_bytes());
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let write =
        format!("printf '{escaped}' | dd of={device} bs=512 iflag=fullblock oflag=direct status=none");
    vm.sh(&write).run().map(drop)
}

/// The kernel keeps a partition table until it is told to look again, and does not look while a partition is open.
pub(super) fn a_partition_table_is_read_again() -> Result<()> {
    let vm = machine("partitions")?;
    let server = vm.spawn(&format!("exec {PROGRAM} serve"))?;
    server.wait_for("serving", START)?;
    let table = |sectors: u32| write_table(&vm, "/dev/ublkb0", sectors);
    let reread = || Ok::<_, anyhow::Error>(vm.sh(&format!("{PROGRAM} reread 0")).run()?.text().to_owned());
    let size =
        || Ok::<_, anyhow::Error>(vm.sh("cat /sys/block/ublkb0/ublkb0p1/size").output()?.text().to_owned());
    table(4096)?;
    ensure!(reread()? == "Read" && size()? == "4096", "the first table is not known");
    table(8192)?;
    let holder = vm.spawn("exec sleep 600 </dev/ublkb0p1")?;
    let begin = Instant::now();
    while reread()? != "PartitionOpen" {
        ensure!(begin.elapsed() < PROGRESS, "an open partition is not told of");
    }
    ensure!(size()? == "4096", "the kernel has let go of a table in use");
    vm.sh(&format!("kill {}", holder.pid())).run()?;
    holder.wait(START)?;
    ensure!(reread()? == "Read" && size()? == "8192", "the second table is not known");

    // A server that stands still holds up the one that asked, for its deadline, and nobody else.
    vm.sh(&format!("kill -STOP {}", server.pid())).run()?;
    ensure!(reread()? == "Late", "a device that does not answer was read");
    vm.sh(&format!("kill -CONT {}", server.pid())).run()?;
    vm.sh(&format!("{PROGRAM} remove 0")).run()?;
    server.wait(START)?.check()?;
    vm.finish()
}

/// START_DEV waits for the partition table, and so for a server that is killed meanwhile. What sent it hangs for ever
/// on kernels that cannot leave the table alone; the server does not, and another device can be made.
pub(super) fn a_kill_while_a_device_starts() -> Result<()> {
    let mut vm = Vm::builder("start-kill").allow_hung_tasks().boot()?;
    vm.put(static_example("memdisk")?, PROGRAM)?;
    vm.keep_on_failure("/tmp/first.log");
    let server = vm.spawn(&format!("exec {PROGRAM} serve --read-ms 600000 >/tmp/first.log 2>&1"))?;
    // The node is there before the table is read.
    vm.sh("until [ -e /sys/block/ublkb0 ]; do sleep 0.05; done").timeout(START).run()?;
    vm.sh(&format!("kill -9 {}", server.pid())).run()?;
    server.wait(START).context("a server that is killed while its device starts cannot die")?;
    let stuck = vm.sh("ps -eo stat,args | grep '[u]blk-helper' || true").run()?;
    println!("left behind: {:?}", stuck.text());
    let second = vm.spawn(&format!("exec {PROGRAM} serve"))?;
    second.wait_for("serving /dev/ublkb1", START)?;
    vm.sh("dd if=/dev/ublkb1 of=/dev/null bs=1M count=8 status=none").run()?;
    vm.sh(&format!("{PROGRAM} remove 1")).run()?;
    second.wait(START)?.check()?;
    // The first device is lost until the machine starts anew, which is the kernel's doing.
    vm.discard();
    Ok(())
}
