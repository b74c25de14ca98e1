//! A restore in place: instant, right on both sides while it runs, and not forgotten by a process that dies.

use crate::node::{NewSet, Node, attach, ctl, fill, find, hash, refused, refused_text, scribble, set_state};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 32 * MIB;
/// So slow that the restore is under way for as long as the scenario looks at it.
const SLOW: &str = "512Ki";

/// The machine, its presented devices and what each of them must hold.
struct Stage {
    vm: Vm,
    master: String,
    shadow: String,
    sibling: String,
    first: String,
    second: String,
}

fn pending(vm: &Vm) -> Result<u64> {
    let status = ctl(vm, "status s")?;
    find(&status, "pending").and_then(Value::as_u64).with_context(|| format!("nothing pending in {status}"))
}

impl Stage {
    /// A master with two images: `s` of its first content, `t` of its second; by now it has a third.
    fn set(vm: Vm) -> Result<Self> {
        fill(&vm, "/dev/lab/master", SIZE)?;
        let master = attach(&vm, "/dev/lab/master", "m")?;
        let enable = |set: &str| -> Result<String> {
            let volume = |role: &str| format!("/dev/lab/{role}-{set}");
            let (shadow, bitmap) = (volume("shadow"), volume("bitmap"));
            NewSet { name: set, master: "m", shadow: &shadow, bitmap: &bitmap }.enable(&vm)
        };
        let first = hash(&vm, &master)?;
        let shadow = enable("s")?;
        scribble(&vm, &master, 4, 16)?;
        let second = hash(&vm, &master)?;
        let sibling = enable("t")?;
        scribble(&vm, &master, 8, 24)?;
        ensure!(hash(&vm, &master)? != second && second != first, "the three contents are three");
        Ok(Self { vm, master, shadow, sibling, first, second })
    }

    fn check(&self, when: &str, master: &str) -> Result<()> {
        for (what, device, expected) in [
            ("the master", &self.master, master),
            ("the shadow", &self.shadow, &self.first),
            ("the sibling", &self.sibling, &self.second),
        ] {
            ensure!(hash(&self.vm, device)? == expected, "{when}, {what} reads something else");
        }
        Ok(())
    }

    /// An opener of a device is named, and keeps it from being restored.
    fn check_opener(&self, device: &str) -> Result<()> {
        let holder = self.vm.sh(&format!("sleep 600 9<{device} >/dev/null 2>&1 & echo $!")).run()?;
        let pid = holder.text().trim().to_owned();
        let refusal = refused_text(&self.vm, "update to-master s --yes")?;
        self.vm.sh(&format!("kill {pid}; while test -e /proc/{pid}; do sleep 0.1; done")).run()?;
        let named = refusal.contains("HAS_OPENERS") && refusal.contains(&format!("process {pid}"));
        ensure!(named, "process {pid} has {device} open, and the refusal was {refusal}");
        Ok(())
    }

    fn expect(&self, arguments: &str, reason: &str) -> Result<()> {
        let found = refused(&self.vm, arguments)?;
        ensure!(found == reason, "umbra-io ctl {arguments}: refused with {found}, expected {reason}");
        Ok(())
    }
}

/// From the openers that are in the way to the raw device that is what the image was.
pub(super) fn in_place() -> Result<()> {
    let mut vm = Vm::builder("restore")
        .disk(Disk::blank("master", SIZE))
        .disk(Disk::blank("shadow-s", SIZE))
        .disk(Disk::blank("bitmap-s", 64 * MIB))
        .disk(Disk::blank("shadow-t", SIZE))
        .disk(Disk::blank("bitmap-t", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let mut node = Node::start(&mut vm)?;
    let stage = Stage::set(vm)?;
    let vm = &stage.vm;
    stage.check_opener(&stage.master)?;
    stage.check_opener(&stage.shadow)?;
    ctl(vm, &format!("limits s --rate {SLOW}"))?;
    // As udev does with devices that it is told of.
    let looked_at = format!("for device in {} {}; do sleep 2 9<$device & done", stage.master, stage.shadow);
    vm.sh(&format!("{looked_at}; umbra-io ctl update to-master s --yes")).run()?;
    stage.check("right after the flip", &stage.first)?;
    stage.expect("update to-shadow t", "COPYING")?;
    stage.expect("detach m", "COPYING")?;
    ctl(vm, "abort s")?;
    ensure!(set_state(vm, "s")? == "restoreAborted", "the restore was aborted");
    stage.expect("update to-shadow s", "OPPOSITE_PENDING")?;
    stage.expect("disable t", "COPY_PENDING")?;
    stage.check("while it is aborted", &stage.first)?;
    ctl(vm, "update to-master s --yes")?;

    node.kill(vm)?;
    node.run(vm)?;
    let (state, left) = (set_state(vm, "s")?, pending(vm)?);
    ensure!(
        state == "restoring" && left > 0,
        "after the kill the set is {state}, with {left} chunks pending"
    );
    stage.check("after a kill in the middle", &stage.first)?;
    // The last chunk has its turn last: the write comes before the copier.
    let to = format!("of={} bs=4k seek={} oflag=direct conv=notrunc", stage.master, SIZE / 4096 - 1);
    vm.sh(&format!("printf 'written while restoring %4070s' . | dd {to} status=none")).run()?;
    let written = hash(vm, &stage.master)?;
    ensure!(pending(vm)? > 0 && written != stage.first, "the write came while the restore ran");
    stage.check("after a write to what was pending", &written)?;

    ctl(vm, "limits s --rate none")?;
    ctl(vm, "wait s --timeout 2m")?;
    stage.check("after the restore", &written)?;
    // What is marked in the state directory goes when the restore does, or the next attach would insist on the set.
    vm.sh("while grep -q '\"restoring\": [0-9]' /var/lib/umbra/masters/*; do sleep 0.1; done").run()?;
    ctl(vm, "update to-shadow t")?;
    for command in ["disable s", "disable t", "detach m"] {
        ctl(vm, command)?;
    }
    ensure!(hash(vm, "/dev/lab/master")? == written, "the raw device is not what the master was");
    stage.vm.finish()
}
