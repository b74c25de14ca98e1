//! Volumes that fail or hang under a set: the master goes on, the image or its chunks are given up, status says so,
//! and a new point in time makes a new one (invariant 1). The device mapper swaps what lies under them while they are in use.

use crate::node::{NewSet, Node, attach, ctl, enable, find, find_text, hash, io_process, refused, set_state};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 64 * MIB;
const SECTORS: u64 = BYTES / 512;

/// A mapped device with a disk of the lab below it.
struct Mapped<'a> {
    vm: &'a Vm,
    disk: &'a str,
}

impl Mapped<'_> {
    fn dmsetup(&self, command: &str) -> Result<()> {
        // There is no udev in the machine to wait for.
        self.vm.sh(&format!("dmsetup --noudevrules --noudevsync {command}")).run().map(drop)
    }

    fn table(&self, table: &str) -> String {
        format!("--table '0 {SECTORS} {table}'").replace("DISK", &format!("/dev/lab/{}", self.disk))
    }

    fn create(&self) -> Result<()> {
        self.dmsetup(&format!("create {} {}", self.disk, self.table("linear DISK 0")))
    }

    /// Requests meet this table from now on.
    fn becomes(&self, table: &str) -> Result<()> {
        self.dmsetup(&format!("suspend --nolockfs {}", self.disk))?;
        self.dmsetup(&format!("load {} {}", self.disk, self.table(table)))?;
        self.dmsetup(&format!("resume {}", self.disk))
    }
}

/// A verified overwrite of the whole master.
fn overwrite(vm: &Vm, master: &str) -> Result<()> {
    let fio = format!(
        "fio --name=verify --filename={master} --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite \
         --bs=64k --size={BYTES} --verify=crc32c --verify_fatal=1"
    );
    vm.sh(&fio).timeout(Duration::from_secs(180)).run().map(drop).context("the master does not go on")
}

/// Which volume's failure has ended the image.
fn culprit(vm: &Vm) -> Result<String> {
    let state = set_state(vm, "s")?;
    ensure!(state == "offline", "the set is {state}");
    let status = ctl(vm, "status s")?;
    let sets = find(&status, "sets").context("a status has sets")?;
    find_text(sets, "which").with_context(|| format!("no volume named in {status}"))
}

fn lost_chunks(vm: &Vm) -> Result<u64> {
    let status = ctl(vm, "status s")?;
    find(&status, "lost").and_then(serde_json::Value::as_u64).with_context(|| format!("no lost in {status}"))
}

/// After a new point in time the image is the master's content of now.
fn check_new_image(vm: &Vm, master: &str, shadow: &str) -> Result<()> {
    let (state, lost) = (set_state(vm, "s")?, lost_chunks(vm)?);
    ensure!(state == "idle" && lost == 0, "with a new image the set is {state} and has lost {lost} chunks");
    ensure!(hash(vm, shadow)? == hash(vm, master)?, "the new image is not the master's content");
    Ok(())
}

/// The shadow flakes, the bitmap volume fails, the shadow hangs.
pub(super) fn volumes_fail() -> Result<()> {
    let mut vm = Vm::builder("flaky")
        .modules(&["dm_mod", "dm_flakey"])
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("shadow", BYTES))
        .disk(Disk::blank("bitmap", BYTES))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let node = Node::supervised(&mut vm, "2s")?;
    let under_shadow = Mapped { vm: &vm, disk: "shadow" };
    let under_bitmap = Mapped { vm: &vm, disk: "bitmap" };
    under_shadow.create()?;
    under_bitmap.create()?;
    let master = attach(&vm, "/dev/lab/master", "m")?;
    let set = NewSet { shadow: "/dev/dm-0", bitmap: "/dev/dm-1", ..NewSet::default() };
    let shadow = enable(&vm, &format!("{} --shadow-deadline 1s", set.command()))?;
    let process = io_process(&vm)?;

    // Never up, always down: reads and writes fail at once, each for itself, so chunks are given up one by one.
    under_shadow.becomes("flakey DISK 0 0 3600")?;
    overwrite(&vm, &master)?;
    let lost = lost_chunks(&vm)?;
    ensure!(lost > 0, "no chunk is lost on a shadow that takes no writes");
    under_shadow.becomes("linear DISK 0")?;
    let read = vm.sh(&format!("dd if={shadow} of=/dev/null bs=64k skip=64 iflag=direct 2>&1")).output()?;
    ensure!(!read.success(), "a lost chunk can be read");
    ctl(&vm, "update to-shadow s")?;
    check_new_image(&vm, &master, &shadow)?;

    under_bitmap.becomes("error")?;
    overwrite(&vm, &master)?;
    let which = culprit(&vm)?;
    ensure!(which == "bitmap", "the {which} is blamed for a bitmap volume that fails");
    under_bitmap.becomes("linear DISK 0")?;
    ctl(&vm, "reset s")?;
    check_new_image(&vm, &master, &shadow)?;

    under_shadow.dmsetup("suspend --nolockfs --noflush shadow")?;
    overwrite(&vm, &master)?;
    let which = culprit(&vm)?;
    ensure!(which == "shadow", "the {which} is blamed for a shadow that hangs");
    let reason = refused(&vm, "reset s")?;
    ensure!(reason == "VOLUME_IN_USE", "a reset beside requests that may still land: {reason}");
    ensure!(io_process(&vm)? == process, "a device that hangs was taken for a reactor that does");
    under_shadow.dmsetup("resume shadow")?;
    ctl(&vm, "reset s")?;
    check_new_image(&vm, &master, &shadow)?;

    ctl(&vm, "disable s")?;
    ctl(&vm, "detach m")?;
    node.stop(&vm)?;
    vm.finish()
}
