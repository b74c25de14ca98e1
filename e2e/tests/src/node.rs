//! Umbra in a virtual machine: the program, its state, and its command line.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};
use umbra_lab::{Job, Vm, static_binary};

/// Where the program is put.
const PROGRAM: &str = "/usr/bin/umbra-io";
/// Log of the data plane.
pub(crate) const LOG: &str = "/run/umbra-io.log";
/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// A data plane in a machine. The state directory is on the disk named `state`, so that it survives a power cut.
#[derive(Debug)]
pub struct Node {
    job: Option<Job>,
}

impl Node {
    /// Puts the program into a machine and starts it there.
    ///
    /// # Errors
    /// If it does not answer in time; its log is in the message.
    pub fn start(vm: &mut Vm) -> Result<Self> {
        vm.keep_on_failure(LOG);
        vm.put(static_binary("umbra-io")?, PROGRAM)?;
        vm.sh("mkdir -p /var/lib/umbra
             blkid /dev/lab/state >/dev/null 2>&1 || mkfs.ext4 -q /dev/lab/state
             mountpoint -q /var/lib/umbra || mount /dev/lab/state /var/lib/umbra")
            .run()?;
        let mut node = Self { job: None };
        node.run(vm)?;
        Ok(node)
    }

    /// Starts the program again after it was killed.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn run(&mut self, vm: &Vm) -> Result<()> {
        self.job = Some(vm.spawn(&format!("exec {PROGRAM} run >>{LOG} 2>&1"))?);
        let deadline = Instant::now() + START;
        loop {
            let listed = vm.sh(&format!("{PROGRAM} ctl list --json")).output()?;
            if listed.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = vm.sh(&format!("tail -n 30 {LOG}")).output()?;
                bail!("umbra-io does not answer:\n{}\n{}", listed.text(), log.text());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the process as the kernel's out-of-memory killer would.
    ///
    /// # Errors
    /// If it was not running.
    pub fn kill(&mut self, vm: &Vm) -> Result<()> {
        vm.sh("pkill -KILL -x umbra-io").run()?;
        if let Some(job) = self.job.take() {
            job.wait(Duration::from_secs(30))?;
        }
        Ok(())
    }
}

/// Gives a command to the data plane and returns what it answered.
///
/// # Errors
/// If the command was refused, with the text of the refusal.
pub fn ctl(vm: &Vm, arguments: &str) -> Result<Value> {
    let output =
        vm.sh(&format!("{PROGRAM} ctl --json {arguments}")).timeout(Duration::from_secs(60)).run()?;
    let text = output.text().trim();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).with_context(|| format!("umbra-io ctl {arguments}: no JSON in {text:?}"))
}

/// Gives a command that must be refused, and returns all that was said.
///
/// # Errors
/// If it was not refused.
pub fn refused_text(vm: &Vm, arguments: &str) -> Result<String> {
    let output = vm.sh(&format!("{PROGRAM} ctl --json {arguments} 2>&1")).output()?;
    if output.success() {
        bail!("umbra-io ctl {arguments} was not refused: {}", output.text());
    }
    Ok(output.text().to_owned())
}

/// Gives a command that must be refused, and returns the reason.
///
/// # Errors
/// If it was not refused, or without a reason.
pub fn refused(vm: &Vm, arguments: &str) -> Result<String> {
    let text = refused_text(vm, arguments)?;
    let reason = text.lines().find_map(|line| {
        let answer: Value = serde_json::from_str(line).ok()?;
        find_text(&answer, "reason")
    });
    reason.with_context(|| format!("umbra-io ctl {arguments}: no reason in {text:?}"))
}

/// The first text with this key, wherever it is.
pub fn find_text(value: &Value, key: &str) -> Option<String> {
    find(value, key).and_then(|found| found.as_str().map(str::to_owned))
}

/// The first value with this key, wherever it is.
pub fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(key).or_else(|| fields.values().find_map(|inner| find(inner, key)))
        }
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}

/// The state of a set, in one word. After a start the master's claim and recovery take a moment.
///
/// # Errors
/// If there is no such set in time.
pub fn set_state(vm: &Vm, set: &str) -> Result<String> {
    let deadline = Instant::now() + START;
    while !vm.sh(&format!("{PROGRAM} ctl --json status {set}")).output()?.success() {
        if Instant::now() > deadline {
            let log = vm.sh(&format!("tail -n 30 {LOG}")).output()?;
            bail!("set {set} is not served again:\n{}", log.text());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = ctl(vm, &format!("status {set}"))?;
    let sets = status.get("sets").and_then(|sets| sets.as_array()?.first());
    let state = sets.and_then(|set| find(set, "state")).context("a status has a state")?;
    find_text(state, "kind").with_context(|| format!("no state in {status}"))
}
