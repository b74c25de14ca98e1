//! Nothing is mistaken for something else: disks that change places, devices of others, file systems that lie where a
//! volume is to be.

use crate::node::{NewSet, Node, attach, ctl, fill, find_text, hash, refused_text, set_state};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use umbra_lab::{Disk, Vm, VmBuilder, static_example};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 32 * MIB;
/// What is not there by then does not come.
const PROGRESS: Duration = Duration::from_secs(60);

/// Where the kernel put a disk of the lab at this boot.
fn kernel_name(vm: &Vm, disk: &str) -> Result<String> {
    Ok(vm.sh(&format!("readlink -f /dev/lab/{disk}")).run()?.text().to_owned())
}

/// Puts the disks in another order, so that the kernel's names lead elsewhere at the next boot.
fn exchange(mut off: VmBuilder, one: &str, other: &str) -> Result<VmBuilder> {
    let (first, second) = (off.take_disk(one), off.take_disk(other));
    // Disks are named in the order they are added; those two change places at the end of it.
    Ok(off.disk(second.context("the second disk")?).disk(first.context("the first disk")?))
}

/// The volumes of two sets change their names at a reboot. Whatever a path leads to, no set is served with the other's
/// image, and no volume is written to for the sake of the other.
pub(super) fn volumes_exchanged() -> Result<()> {
    let mut vm = Vm::builder("exchanged")
        .disk(Disk::blank("state", 64 * MIB))
        .disk(Disk::blank("master1", BYTES))
        .disk(Disk::blank("master2", BYTES))
        .disk(Disk::blank("bitmap1", 64 * MIB))
        .disk(Disk::blank("bitmap2", 64 * MIB))
        .disk(Disk::blank("shadow1", BYTES))
        .disk(Disk::blank("shadow2", BYTES))
        .boot()?;
    let node = Node::start(&mut vm)?;
    let mut images = Vec::new();
    for number in 1..=2 {
        fill(&vm, &format!("/dev/lab/master{number}"), BYTES)?;
        let name = |what: &str| kernel_name(&vm, &format!("{what}{number}"));
        let master = attach(&vm, &name("master")?, &format!("m{number}"))?;
        let (set, of) = (format!("s{number}"), format!("m{number}"));
        let (shadow, bitmap) = (name("shadow")?, name("bitmap")?);
        let shadow = NewSet { name: &set, master: &of, shadow: &shadow, bitmap: &bitmap }.enable(&vm)?;
        images.push(hash(&vm, &shadow)?);
        fill(&vm, &master, BYTES)?;
    }
    node.stop(&vm)?;
    let off = vm.power_cut()?;
    let mut vm = exchange(exchange(off, "shadow1", "shadow2")?, "bitmap1", "bitmap2")?.boot()?;
    let raw = |vm: &Vm| {
        let disks = ["master1", "master2", "shadow1", "shadow2"];
        disks.iter().map(|disk| hash(vm, &format!("/dev/lab/{disk}"))).collect::<Result<Vec<_>>>()
    };
    let before = raw(&vm)?;
    let node = Node::start(&mut vm)?;
    let deadline = Instant::now() + PROGRESS;
    // Either the identities lead the sets to their own volumes, or both wait and say so.
    loop {
        let states = (set_state(&vm, "s1")?, set_state(&vm, "s2")?);
        if states.0 == "idle" && states.1 == "idle" {
            break;
        }
        if states.0 == "blocked" && states.1 == "blocked" {
            let status = ctl(&vm, "status s1")?.to_string();
            ensure!(status.contains("shadow"), "it is not said what s1 waits for: {status}");
            break;
        }
        ensure!(Instant::now() < deadline, "the sets are {states:?}");
    }
    ensure!(raw(&vm)? == before, "a volume was written to under the wrong name");
    node.stop(&vm)?;

    let off = vm.power_cut()?;
    let mut vm = exchange(exchange(off, "shadow2", "shadow1")?, "bitmap2", "bitmap1")?.boot()?;
    let _node = Node::start(&mut vm)?;
    for (number, image) in (1..).zip(&images) {
        let set = format!("s{number}");
        let state = set_state(&vm, &set)?;
        ensure!(state == "idle", "put right, set {set} is {state}");
        let status = ctl(&vm, &format!("status {set}"))?;
        let shadow = find_text(&status, "shadowDevice").context("a status has the shadow's device")?;
        ensure!(hash(&vm, &shadow)? == *image, "the image of {set} has changed");
    }
    vm.finish()
}

/// After a reboot a server of somebody else has the number that was our master's, and a mounted file system on it.
pub(super) fn foreign_device_with_our_number() -> Result<()> {
    let mut vm = Vm::builder("foreign")
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let node = Node::start(&mut vm)?;
    attach(&vm, "/dev/lab/master", "m")?;
    ensure!(vm.sh("ls /dev/ublkb*").run()?.text() == "/dev/ublkb0", "the master has the first number");
    drop(node);
    vm.reset()?;
    vm.put(static_example("memdisk")?, "/usr/bin/memdisk")?;
    let foreign = vm.spawn("exec memdisk serve --dev-id 0")?;
    foreign.wait_for("serving /dev/ublkb0", PROGRESS)?;
    vm.sh("mkfs.ext4 -q /dev/ublkb0 && mount /dev/ublkb0 /mnt && echo theirs >/mnt/file && sync").run()?;
    let mut node = Node::start(&mut vm)?;
    let named = "until readlink -e /dev/umbra/by-id/* 2>/dev/null; do sleep 0.1; done";
    let master = vm.sh(&format!("timeout 60 sh -c '{named}'")).run()?.text().to_owned();
    ensure!(master.starts_with("/dev/ublkb") && master != "/dev/ublkb0", "the master is {master}");
    fill(&vm, &master, BYTES)?;
    node.kill(&vm)?;
    node.run(&vm)?;
    ctl(&vm, "detach m")?;
    ensure!(!foreign.is_finished(), "the other server was ended: {}", foreign.stderr());
    vm.sh("echo 3 >/proc/sys/vm/drop_caches; grep -q theirs /mnt/file && echo more >/mnt/more && sync")
        .run()?;
    vm.finish()
}

/// A disk with something on it is no volume of a set, unless somebody says what it is that may be lost.
pub(super) fn file_system_offered_as_shadow() -> Result<()> {
    let mut vm = Vm::builder("signature")
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("shadow", BYTES))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let _node = Node::start(&mut vm)?;
    attach(&vm, "/dev/lab/master", "m")?;
    let command = NewSet::default().command();
    for (disk, other) in [("shadow", "bitmap"), ("bitmap", "shadow")] {
        vm.sh(&format!("mkfs.ext4 -q /dev/lab/{disk}; wipefs -qa /dev/lab/{other}")).run()?;
        let before = hash(&vm, &format!("/dev/lab/{disk}"))?;
        let uuid = vm.sh(&format!("blkid -o value -s UUID /dev/lab/{disk}")).run()?.text().to_owned();
        let text = refused_text(&vm, &command)?;
        let confirmation = format!("ext4:{uuid}");
        ensure!(text.contains(&confirmation), "the refusal does not name {confirmation}: {text}");
        let wrong = refused_text(&vm, &format!("{command} --wipe-signature ext4:{}", "0".repeat(8)))?;
        ensure!(wrong.contains(&confirmation), "a wrong confirmation was taken: {wrong}");
        ensure!(hash(&vm, &format!("/dev/lab/{disk}"))? == before, "a refused {disk} was written to");
        ctl(&vm, &format!("{command} --wipe-signature {confirmation}"))?;
        ctl(&vm, "disable s")?;
    }
    vm.finish()
}

/// Shadow and master that appear two seconds after the start: the image lives, the master is served.
pub(super) fn two_seconds_late() -> Result<()> {
    let mut vm = Vm::builder("late")
        .modules(&["dm_mod"])
        .disk(Disk::blank("master", BYTES))
        .disk(Disk::blank("shadow", BYTES))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let mapped = |vm: &Vm, disk: &str| {
        let table = format!("0 {} linear /dev/lab/{disk} 0", BYTES / 512);
        let create =
            format!("dmsetup --noudevrules --noudevsync create {disk} --uuid lab-{disk} --table '{table}'");
        vm.sh(&create).run().map(drop)
    };
    mapped(&vm, "master")?;
    mapped(&vm, "shadow")?;
    let node = Node::start(&mut vm)?;
    let master = attach(&vm, "/dev/dm-0", "m")?;
    let shadow = NewSet { shadow: "/dev/dm-1", ..NewSet::default() }.enable(&vm)?;
    let image = hash(&vm, &shadow)?;
    fill(&vm, &master, BYTES)?;
    let written = hash(&vm, &master)?;
    drop(node);
    for late in ["master", "shadow"] {
        vm.reset()?;
        vm.sh("modprobe dm_mod").run()?;
        if late == "shadow" {
            mapped(&vm, "master")?;
        }
        let node = Node::start(&mut vm)?;
        std::thread::sleep(Duration::from_secs(2));
        let status = ctl(&vm, "status")?.to_string();
        ensure!(status.contains("\"m\""), "a master that is waited for is not in status: {status}");
        if late == "master" {
            mapped(&vm, "master")?;
        }
        mapped(&vm, "shadow")?;
        let deadline = Instant::now() + PROGRESS;
        while set_state(&vm, "s")? != "idle" {
            ensure!(Instant::now() < deadline, "with a late {late} the set stays {}", set_state(&vm, "s")?);
        }
        let find = |key: &str| ctl(&vm, "status s").map(|status| find_text(&status, key));
        let shadow = find("shadowDevice")?.context("a status has the shadow's device")?;
        ensure!(hash(&vm, &shadow)? == image, "a late {late} cost the image");
        let master = vm.sh("readlink -f /dev/umbra/by-id/*").run()?.stdout;
        ensure!(
            master.lines().any(|device| hash(&vm, device).is_ok_and(|found| found == written)),
            "the master's content is gone"
        );
        drop(node);
    }
    vm.finish()
}
