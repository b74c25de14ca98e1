//! Cuts over two masters at one instant, under writes that are ordered from one to the other.

use crate::node::{LOG, NewSet, Node, attach, ctl, find, find_text, refused, set_state};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use umbra_lab::{Disk, Vm};

const MIB: u64 = 1 << 20;
/// Writers, each with a block of its own on both masters.
const WRITERS: usize = 4;
/// Kills at any moment, while one cut follows the other.
const KILLS: u64 = 3;
/// While it is there, no decision on a cut gets on record.
const HOLD: &str = "/var/lib/umbra/hold";
/// Writes a number to a block of the first master, and only then to the same block of the second.
const WRITER: &str = r#"
n=0
put() { printf '%4095d\n' "$n" | dd of="$1" bs=4096 seek="$2" iflag=fullblock oflag=direct conv=notrunc status=none; }
while [ ! -e /tmp/stop ]; do n=$((n + 1)); put "$1" "$3" && put "$2" "$3" || exit 1; done
"#;

struct Pair {
    vm: Vm,
    shadows: [String; 2],
}

impl Pair {
    /// What the writers had written, as an image has it.
    fn counters(&self, which: usize) -> Result<Vec<u64>> {
        let read = format!(
            "dd if={} bs=4096 count={WRITERS} iflag=direct status=none | tr -d ' '",
            self.shadows[which]
        );
        let text = self.vm.sh(&read).run()?;
        let numbers = text.text().lines().map(str::parse);
        numbers.collect::<Result<_, _>>().with_context(|| format!("no counters in {:?}", text.text()))
    }

    /// Invariant 4, on the images as they are; returns the first one's counters.
    fn check_order(&self, when: &str) -> Result<Vec<u64>> {
        let (first, second) = (self.counters(0)?, self.counters(1)?);
        ensure!(first.len() == WRITERS && second.len() == WRITERS, "{when}: {first:?} and {second:?}");
        // Never more than one ahead either: the first waits for the second.
        let ordered = |(a, b): (&u64, &u64)| b <= a && *a <= b + 1;
        ensure!(first.iter().zip(&second).all(ordered), "{when} the images have {first:?} and {second:?}");
        Ok(first)
    }

    /// Both sets are before a cut or behind it, and so are their images.
    fn check_one_side(&self, when: &str) -> Result<()> {
        let [(a, cut_a), (b, cut_b)] = self.sides()?;
        ensure!(cut_a == cut_b && a == b, "{when}: epoch {a} of cut {cut_a}, epoch {b} of cut {cut_b}");
        self.check_order(when).map(drop)
    }

    /// Epoch and cut of both sets.
    fn sides(&self) -> Result<[(u64, String); 2]> {
        let of = |set: &str| -> Result<(u64, String)> {
            ensure!(set_state(&self.vm, set)? == "idle", "set {set} is not idle");
            let status = ctl(&self.vm, &format!("status {set}"))?;
            let sets = find(&status, "sets").with_context(|| format!("no sets in {status}"))?;
            let epoch = find(sets, "epoch").and_then(Value::as_u64).context("a set has an epoch")?;
            let cut = find(sets, "lastCut").and_then(|cut| find_text(cut, "id")).context("it has a cut")?;
            Ok((epoch, cut))
        };
        Ok([of("a")?, of("b")?])
    }
}

/// Images of three cuts keep the order of the writes; kills, at any moment and with a cut to be decided, leave both sets on
/// one side.
pub(super) fn two_masters() -> Result<()> {
    let disks = ["a", "b"].map(|name| {
        [("master", 16), ("shadow", 16), ("bitmap", 64)]
            .map(|(role, mib)| Disk::blank(&format!("{role}-{name}"), mib * MIB))
    });
    let builder = Vm::builder("group").disk(Disk::blank("state", 64 * MIB));
    let mut vm = disks.into_iter().flatten().fold(builder, umbra_lab::VmBuilder::disk).boot()?;
    let mut node = Node::start(&mut vm)?;
    let mut presented = Vec::new();
    for set in ["a", "b"] {
        let volume = |role: &str| format!("/dev/lab/{role}-{set}");
        let (name, shadow, bitmap) = (format!("m{set}"), volume("shadow"), volume("bitmap"));
        let master = attach(&vm, &volume("master"), &name)?;
        let set = NewSet { name: set, master: &name, shadow: &shadow, bitmap: &bitmap };
        presented.push((master, set.enable(&vm)?));
    }
    let [(first, a), (second, b)] = presented.try_into().ok().context("two were made")?;
    let pair = Pair { vm, shadows: [a, b] };
    pair.vm.put_text(WRITER, "/tmp/writer.sh", 0o755)?;
    let writers = (0..WRITERS)
        .map(|slot| pair.vm.spawn(&format!("exec sh /tmp/writer.sh {first} {second} {slot}")))
        .collect::<Result<Vec<_>>>()?;
    // Every writer has been round once, so that every block has a number.
    let written = |device: &str| format!("dd if={device} bs=4096 count={WRITERS} iflag=direct status=none");
    let lines = format!("test $({} | tr -d ' ' | grep -c .) -ge {WRITERS}", written(&second));
    pair.vm.sh(&format!("until {lines} 2>/dev/null; do sleep 0.1; done")).run()?;

    let mut before = vec![0; WRITERS];
    for round in 1..=3 {
        std::thread::sleep(Duration::from_millis(700));
        ctl(&pair.vm, "update to-shadow a b")?;
        let counters = pair.check_order(&format!("after cut {round}"))?;
        let newer = counters.iter().zip(&before).any(|(now, then)| now > then);
        ensure!(newer, "cut {round} has nothing new: the writers stood still");
        before = counters;
    }
    same_cut_twice(&pair)?;
    for round in 1..=KILLS {
        let cuts = "while umbra-io ctl update to-shadow a b; do :; done >/dev/null 2>&1";
        let cutting = pair.vm.spawn(cuts)?;
        std::thread::sleep(Duration::from_millis(500 + 37 * round));
        node.kill(&pair.vm)?;
        cutting.wait(Duration::from_secs(30))?;
        node.run(&pair.vm)?;
        pair.check_one_side(&format!("after kill {round}"))?;
    }
    killed_before_the_decision(&pair, &mut node)?;
    pair.vm.sh("touch /tmp/stop").run()?;
    for writer in writers {
        writer.wait(Duration::from_secs(30))?.check()?;
    }
    for command in ["disable a", "disable b", "detach ma", "detach mb"] {
        ctl(&pair.vm, command)?;
    }
    let left = pair.vm.sh("ls /var/lib/umbra/cuts").run()?;
    ensure!(left.text().trim().is_empty(), "cuts are still on record: {}", left.text());
    pair.vm.finish()
}

/// Between the record of a cut and the decision on it, both sets are in doubt. The start decides.
fn killed_before_the_decision(pair: &Pair, node: &mut Node) -> Result<()> {
    let found = || {
        let found = pair.vm.sh(&format!("grep -c 'was left undecided' {LOG} || true")).run()?;
        found.text().trim().parse::<u64>().context("a number of lines")
    };
    let before = found()?;
    pair.vm.sh(&format!("touch {HOLD}")).run()?;
    let cutting = pair.vm.spawn("umbra-io ctl update to-shadow a b >/dev/null 2>&1")?;
    // The newer record lies beside the one that it would replace.
    pair.vm.sh("until [ $(ls -A /var/lib/umbra/cuts | wc -l) = 2 ]; do sleep 0.05; done").run()?;
    node.kill(&pair.vm)?;
    cutting.wait(Duration::from_secs(30))?;
    pair.vm.sh(&format!("rm {HOLD}")).run()?;
    node.run(&pair.vm)?;
    pair.check_one_side("after the kill before the decision")?;
    ensure!(found()? > before, "no cut was left to be decided");
    Ok(())
}

/// A cut that is asked for twice is taken once; a set that is named twice is refused.
fn same_cut_twice(pair: &Pair) -> Result<()> {
    let again = "update to-shadow a b --cut 6f1c1f0e-96c1-4f5e-8f0a-6b8f4c1d2e3f";
    let (once, twice) = (ctl(&pair.vm, again)?, ctl(&pair.vm, again)?);
    ensure!(once == twice, "the same cut gave {once} and {twice}");
    let sets = find(&once, "sets").with_context(|| format!("no sets in {once}"))?;
    let id = find_text(sets, "id").context("a set has an id")?;
    let reason = refused(&pair.vm, &format!("update to-shadow a {id}"))?;
    ensure!(reason == "BAD_ARGUMENT", "a set that is named twice was refused with {reason}");
    Ok(())
}
