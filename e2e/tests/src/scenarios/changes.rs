//! Changes under what somebody holds open, changes that are interrupted, and faults that cost one thing.

use crate::node::{
    LOG, NewSet, Node, attach, ctl, fill, find_text, hash, load, master_state, refused, refused_text,
    scribble, set_state, stat,
};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use umbra_lab::{Disk, Job, Vm, static_example};

const MIB: u64 = 1 << 20;
const BYTES: u64 = 32 * MIB;
const PROGRESS: Duration = Duration::from_secs(60);

fn machine(name: &str, masters: usize) -> Result<Vm> {
    let mut builder = Vm::builder(name).modules(&["loop"]).disk(Disk::blank("state", 64 * MIB));
    for number in 1..=masters {
        builder = builder
            .disk(Disk::blank(&format!("master{number}"), BYTES))
            .disk(Disk::blank(&format!("shadow{number}"), BYTES))
            .disk(Disk::blank(&format!("bitmap{number}"), 64 * MIB));
    }
    builder.boot()
}

/// Master and shadow as they are presented.
fn set_up(vm: &Vm, number: usize) -> Result<(String, String)> {
    let volume = |role: &str| format!("/dev/lab/{role}{number}");
    let (name, of) = (format!("s{number}"), format!("m{number}"));
    let (shadow, bitmap) = (volume("shadow"), volume("bitmap"));
    let master = attach(vm, &volume("master"), &of)?;
    Ok((master, NewSet { name: &name, master: &of, shadow: &shadow, bitmap: &bitmap }.enable(vm)?))
}

/// A restore is refused as long as anything holds the master or the shadow, and a cut as long as anything holds the shadow:
/// a loop device, an open partition, a mapping whose descriptor is closed. Nothing has changed, and what holds it is named.
pub(super) fn restore_under_holders() -> Result<()> {
    const OF_MASTER: [&str; 2] = ["update to-master s1 --yes", "detach m1"];
    const OF_SHADOW: [&str; 3] = ["update to-shadow s1", "update to-master s1 --yes", "detach m1"];
    let mut vm = machine("holders", 1)?;
    let _node = Node::start(&mut vm)?;
    vm.put(static_example("memdisk")?, "/usr/bin/memdisk")?;
    vm.sh("echo 'start=2048,size=16384' | sfdisk -q /dev/lab/master1").run()?;
    let (presented, shadow) = set_up(&vm, 1)?;
    let master = vm.sh(&format!("readlink -f {presented}")).run()?.text().to_owned();
    let refuses = |commands: &[&str], what: &str| -> Result<()> {
        let (before, image) = (hash(&vm, &master)?, hash(&vm, &shadow)?);
        for command in commands {
            let text = refused_text(&vm, command)?;
            ensure!(text.contains("HAS_OPENERS"), "{command} under {what}: {text}");
            let name = what.trim_start_matches("/dev/");
            ensure!(text.contains(name), "{command} does not name {name}: {text}");
        }
        ensure!(
            hash(&vm, &master)? == before && hash(&vm, &shadow)? == image,
            "a refused call changed something"
        );
        Ok(())
    };
    vm.sh(&format!(
        "mkfs.ext4 -q {master} 16M && losetup /dev/loop0 {master} && mount -o ro /dev/loop0 /mnt"
    ))
    .run()?;
    refuses(&OF_MASTER, "loop0")?;
    vm.sh("umount /mnt && losetup -d /dev/loop0").run()?;
    vm.sh(&format!("echo 'start=2048,size=16384' | sfdisk -q {master}; test -b {master}p1")).run()?;
    let opener = vm.spawn(&format!("exec sleep 600 <{master}p1"))?;
    refuses(&OF_MASTER, &format!("{master}p1"))?;
    vm.sh(&format!("kill {}", opener.pid())).run()?;
    opener.wait(PROGRESS)?;
    let mapping = vm.spawn(&format!("exec memdisk map {master}"))?;
    mapping.wait_for("mapped", PROGRESS)?;
    refuses(&OF_MASTER, &mapping.pid().to_string())?;
    vm.sh(&format!("kill {}", mapping.pid())).run()?;
    mapping.wait(PROGRESS)?;
    vm.sh(&format!("losetup /dev/loop1 {shadow}")).run()?;
    refuses(&OF_SHADOW, "loop1")?;
    vm.sh("losetup -d /dev/loop1").run()?;
    let mapping = vm.spawn(&format!("exec memdisk map {shadow}"))?;
    mapping.wait_for("mapped", PROGRESS)?;
    refuses(&OF_SHADOW, &mapping.pid().to_string())?;
    vm.sh(&format!("kill {}", mapping.pid())).run()?;
    mapping.wait(PROGRESS)?;
    // Without any of them it goes through, and the kernel knows the partitions of what is there now.
    let image = hash(&vm, &shadow)?;
    ctl(&vm, "update to-master s1 --yes")?;
    ensure!(hash(&vm, &master)? == image, "the master is not what the image was");
    vm.sh(&format!("test $(cat /sys/block/$(basename {master})/$(basename {master})p1/size) = 16384"))
        .run()?;
    vm.finish()
}

/// The raw device is mounted and written while umbra-io is down, as udev's links invite to: nothing of that goes
/// unnoticed, and with umbra-io's rule the links do not invite.
pub(super) fn raw_device_written_while_down() -> Result<()> {
    let mut vm = machine("by-pass", 1)?;
    vm.sh("/lib/systemd/systemd-udevd --daemon && udevadm settle && mkfs.ext4 -q /dev/lab/master1").run()?;
    let mut node = Node::start(&mut vm)?;
    let (presented, shadow) = set_up(&vm, 1)?;
    let master = vm.sh(&format!("readlink -f {presented}")).run()?.text().to_owned();
    let image = hash(&vm, &shadow)?;
    let uuid = vm.sh(&format!("blkid -o value -s UUID {master}")).run()?.text().to_owned();
    let link = || {
        // Not the presented ones: with umbra-io down a look at them waits for it.
        let raw = "$(readlink -f /dev/lab/master1) $(readlink -f /dev/lab/shadow1)";
        vm.sh(&format!("udevadm trigger {raw} && udevadm settle --timeout=30")).run()?;
        Ok::<_, anyhow::Error>(
            vm.sh(&format!("readlink -f /dev/disk/by-uuid/{uuid} || true")).run()?.text().to_owned(),
        )
    };
    // udev reads its rules again every three seconds.
    let noticed = Instant::now() + Duration::from_secs(30);
    while link()? != master {
        ensure!(Instant::now() < noticed, "the link leads to {}, not to the presented master", link()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    node.kill(&vm)?;
    let leads_to = link()?;
    ensure!(leads_to == master || leads_to.is_empty(), "with umbra-io down the link leads to {leads_to}");
    // Somebody who knows the raw name all the same. File systems count in seconds, and those next to the last service
    // are not suspected.
    vm.sh("sleep 3; mount /dev/lab/master1 /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=4 && umount /mnt")
        .run()?;
    node.run(&vm)?;
    let state = master_state(&vm, "m1", &["quarantined", "serving"])?;
    ensure!(state == "quarantined", "nobody noticed that the master was written");
    ctl(&vm, "accept m1 --images lost")?;
    master_state(&vm, "m1", &["serving"])?;
    let state = set_state(&vm, "s1")?;
    ensure!(state == "offline", "the image of a master that was written is {state}");
    let read = vm.sh(&format!("dd if={shadow} of=/dev/null bs=64k count=1 iflag=direct 2>&1")).output()?;
    ensure!(!read.success() || hash(&vm, &shadow)? == image, "the changed image is served");
    vm.finish()
}

/// XFS does not say when it was written: after a kill its first bytes are others than they were. What went through Umbra
/// up to a kill is suspected by nobody.
pub(super) fn raw_xfs_written_while_down() -> Result<()> {
    const XFS_BYTES: u64 = 320 * MIB;
    const DIGESTS: &str = "/run/umbra/digests";
    let mut vm = Vm::builder("by-pass-xfs")
        .modules(&["xfs"])
        .disk(Disk::blank("state", 64 * MIB))
        .disk(Disk::blank("master1", XFS_BYTES))
        .disk(Disk::blank("shadow1", XFS_BYTES))
        .disk(Disk::blank("bitmap1", 64 * MIB))
        .boot()?;
    vm.sh("mkfs.xfs -q /dev/lab/master1").run()?;
    let mut node = Node::start(&mut vm)?;
    let (presented, _) = set_up(&vm, 1)?;
    let write = |device: &str, name: &str| {
        let copy = format!("dd if=/dev/urandom of=/mnt/{name} bs=1M count=4 status=none");
        vm.sh(&format!("mount {device} /mnt && {copy} && umount /mnt")).run().map(drop)
    };
    write(&presented, "ours")?;
    // In the midst of writes to where it counts, too.
    let load = vm.spawn(&format!(
        "until test -e /run/enough; do mount {presented} /mnt && date > /mnt/now && umount /mnt || exit 1; done"
    ))?;
    for _ in 0..3 {
        goes_on(&vm, &presented, &load)?;
        node.kill(&vm)?;
        node.run(&vm)?;
        master_state(&vm, "m1", &["serving"])?;
    }
    goes_on(&vm, &presented, &load)?;
    vm.sh("touch /run/enough").run()?;
    ensure!(load.wait(PROGRESS)?.success(), "the load has failed: {}", load.stderr());
    let known =
        format!("i=0; until ls {DIGESTS} | grep -q -v new; do sleep 0.2; i=$((i+1)); test $i -lt 300; done");
    vm.sh(&known).run()?;
    node.kill(&vm)?;
    write("/dev/lab/master1", "theirs")?;
    node.run(&vm)?;
    let state = master_state(&vm, "m1", &["quarantined", "serving"])?;
    ensure!(state == "quarantined", "nobody noticed that the master was written");
    ctl(&vm, "accept m1 --images lost")?;
    master_state(&vm, "m1", &["serving"])?;
    ensure!(set_state(&vm, "s1")? == "offline", "the image of a master that was written is served");
    vm.sh(&format!("mount {presented} /mnt && test -s /mnt/ours && test -s /mnt/theirs && umount /mnt"))
        .run()?;
    vm.finish()
}

fn goes_on(vm: &Vm, device: &str, load: &Job) -> Result<()> {
    let writes = || stat(vm, device, 5);
    let (before, deadline) = (writes()?, Instant::now() + PROGRESS);
    while writes()? <= before {
        ensure!(!load.is_finished(), "the load on {device} has ended: {}", load.stderr());
        ensure!(Instant::now() < deadline, "{device} does not go on");
    }
    Ok(())
}

/// The thread of one of two masters panics under fio on both: it is served again by the same process, the images of both
/// are what they were, and its neighbour's counters go on in between.
pub(super) fn panic_in_one_of_two() -> Result<()> {
    let mut vm = machine("panic-in-one", 2)?;
    let _node = Node::supervised(&mut vm, "10s")?;
    let (one, two) = (set_up(&vm, 1)?, set_up(&vm, 2)?);
    let images = (hash(&vm, &one.1)?, hash(&vm, &two.1)?);
    let loads = (load(&vm, &one.0, BYTES)?, load(&vm, &two.0, BYTES)?);
    let process = crate::node::io_process(&vm)?;
    // A third death within a minute would cost the set, as a third one of the process does.
    for _ in 0..2 {
        // Builds for tests take it from there.
        vm.sh("echo m1 >/run/umbra/panic; while [ -e /run/umbra/panic ]; do sleep 0.1; done").run()?;
        goes_on(&vm, &two.0, &loads.1)?;
        goes_on(&vm, &one.0, &loads.0)?;
        goes_on(&vm, &two.0, &loads.1)?;
        for set in ["s1", "s2"] {
            let state = set_state(&vm, set)?;
            ensure!(state == "idle", "after a panic of the first master set {set} is {state}");
        }
    }
    ensure!(crate::node::io_process(&vm)? == process, "the panic ended the process");
    vm.sh("touch /tmp/enough").run()?;
    loads.0.wait(PROGRESS)?.check()?;
    loads.1.wait(PROGRESS)?.check()?;
    ensure!((hash(&vm, &one.1)?, hash(&vm, &two.1)?) == images, "an image has changed");
    vm.finish()
}

/// The disk of the log is full: lines are lost, nothing else.
pub(super) fn log_disk_full() -> Result<()> {
    let mut vm = machine("log-full", 1)?;
    let directory = LOG.rsplit_once('/').map_or("/", |(directory, _)| directory);
    vm.sh(&format!("mkdir -p {directory}/small && mount -t tmpfs -o size=64k tmpfs {directory}/small && ln -sf {directory}/small/log {LOG}"))
        .run()?;
    let node = Node::supervised(&mut vm, "2s")?;
    let (master, shadow) = set_up(&vm, 1)?;
    let image = hash(&vm, &shadow)?;
    vm.sh(&format!("dd if=/dev/zero of={directory}/small/fill bs=4k || true")).run()?;
    let busy = load(&vm, &master, BYTES)?;
    goes_on(&vm, &master, &busy)?;
    crate::node::replaced_after(&vm, "KILL")?;
    goes_on(&vm, &master, &busy)?;
    crate::node::replaced_after(&vm, "STOP")?;
    goes_on(&vm, &master, &busy)?;
    let state = set_state(&vm, "s1")?;
    ensure!(state == "idle", "with a full log disk the set is {state}");
    vm.sh("touch /tmp/enough").run()?;
    busy.wait(PROGRESS)?.check()?;
    ensure!(hash(&vm, &shadow)? == image, "the image has changed");
    node.stop(&vm)?;
    vm.finish()
}

/// The image is the master's content, and stays so when that is overwritten.
fn check_image(vm: &Vm, master: &str, shadow: &str) -> Result<()> {
    let image = hash(vm, master)?;
    ensure!(hash(vm, shadow)? == image, "the image is not the master's content");
    scribble(vm, master, 1, 4)?;
    ensure!(hash(vm, master)? != image, "the master was overwritten");
    ensure!(hash(vm, shadow)? == image, "the image follows the master");
    Ok(())
}

/// Killed at every moment of an enable: afterwards there is the set, whole, or nothing of it, and it can be enabled.
pub(super) fn enable_killed() -> Result<()> {
    const STEP_MS: u32 = 15;
    let mut vm = machine("enable-killed", 1)?;
    let mut node = Node::start(&mut vm)?;
    // Blank volumes are equal whatever was done to them.
    fill(&vm, "/dev/lab/master1", BYTES)?;
    let master = attach(&vm, "/dev/lab/master1", "m1")?;
    let set = NewSet { name: "s1", master: "m1", shadow: "/dev/lab/shadow1", bitmap: "/dev/lab/bitmap1" };
    let (mut whole, mut nothing, mut step) = (0, 0, 0);
    // Until a few in a row were over before the kill came.
    while whole < 3 {
        vm.sh(&format!(
            "umbra-io ctl {} >/dev/null 2>&1 & sleep {}.{:03}; pkill -KILL -x umbra-io; wait || true",
            set.command(),
            step * STEP_MS / 1000,
            step * STEP_MS % 1000
        ))
        .run()?;
        node.kill(&vm).ok();
        node.run(&vm)?;
        master_state(&vm, "m1", &["serving"])?;
        let listed = ctl(&vm, "list")?.to_string();
        if listed.contains("\"s1\"") {
            let state = set_state(&vm, "s1")?;
            ensure!(state == "idle", "killed at step {step} the set is {state}");
            let status = ctl(&vm, "status s1")?;
            let shadow = find_text(&status, "shadowDevice").context("an idle set has a device")?;
            check_image(&vm, &master, &shadow).with_context(|| format!("killed at step {step}"))?;
            ctl(&vm, "disable s1")?;
            whole += 1;
        } else {
            let reason = refused(&vm, "status s1")?;
            ensure!(reason == "NOT_FOUND", "killed at step {step}: {reason}");
            (nothing, whole) = (nothing + 1, 0);
        }
        step += 1;
        ensure!(step < 200, "an enable takes three seconds");
    }
    ensure!(nothing > 0, "every kill came too late");
    let shadow = set.enable(&vm)?;
    check_image(&vm, &master, &shadow)?;
    ctl(&vm, "disable s1")?;
    ctl(&vm, "detach m1")?;
    vm.finish()
}
