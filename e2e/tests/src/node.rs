//! Umbra in a virtual machine: the program, its state, and its command line.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use umbra_lab::{Job, Vm, static_binary_with_faults};

/// Where the program is put.
const PROGRAM: &str = "/usr/bin/umbra-io";
/// Log of the data plane.
pub(crate) const LOG: &str = "/run/umbra-io.log";
/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// Where a supervised process serves its metrics.
const METRICS_PORT: u16 = 9750;
const MIB: u64 = 1 << 20;
/// What a process may lock, whatever it serves: code, stacks, and the buffers of one master.
const LOCKED_BYTES: u64 = 34 * MIB;
/// What it may lock besides, for each TiB and set.
const LOCKED_BYTES_PER_TIB: u64 = 12 * MIB;

/// A data plane in a machine. The state directory is on the disk named `state`, so that it survives a power cut.
#[derive(Debug)]
pub struct Node {
    job: Option<Job>,
    arguments: String,
}

impl Node {
    /// Puts the program into a machine and starts it there.
    ///
    /// # Errors
    /// If it does not answer in time; its log is in the message.
    pub fn start(vm: &mut Vm) -> Result<Self> {
        Self::start_as(vm, "run".to_owned())
    }

    /// As [`start`](Self::start), under a supervisor and with metrics.
    ///
    /// # Errors
    /// As there.
    pub fn supervised(vm: &mut Vm, hang_after: &str) -> Result<Self> {
        vm.sh("ip link set lo up").run()?;
        let metrics = format!("--metrics 127.0.0.1:{METRICS_PORT}");
        Self::start_as(vm, format!("supervise --hang-after {hang_after} -- {metrics}"))
    }

    fn start_as(vm: &mut Vm, arguments: String) -> Result<Self> {
        vm.keep_on_failure(LOG);
        vm.put(static_binary_with_faults("umbra-io")?, PROGRAM)?;
        vm.sh("mkdir -p /var/lib/umbra
             blkid /dev/lab/state >/dev/null 2>&1 || mkfs.ext4 -q /dev/lab/state
             mountpoint -q /var/lib/umbra || mount /dev/lab/state /var/lib/umbra")
            .run()?;
        let mut node = Self { job: None, arguments };
        node.run(vm)?;
        Ok(node)
    }

    /// Starts the program again after it was killed.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn run(&mut self, vm: &Vm) -> Result<()> {
        self.job = Some(vm.spawn(&format!("exec {PROGRAM} {} >>{LOG} 2>&1", self.arguments))?);
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

impl Node {
    /// Tells the process to end, and waits until it has ended in order.
    ///
    /// # Errors
    /// If it was not running, does not end, or not in order.
    pub fn stop(mut self, vm: &Vm) -> Result<()> {
        let job = self.job.take().context("it was started")?;
        vm.sh(&format!("kill -TERM {}", job.pid())).run()?;
        job.wait(Duration::from_secs(60))?.check().map(drop)
    }
}

/// The process that does the I/O, which a supervisor may have started.
///
/// # Errors
/// If there is none, or more than one.
pub fn io_process(vm: &Vm) -> Result<u32> {
    let output = vm.sh(&format!("pgrep -f '^{PROGRAM} run'")).run()?;
    output.text().parse().with_context(|| format!("not one process: {:?}", output.text()))
}

/// Sends a signal to the process that does the I/O, and waits until the supervisor has put another in its place.
///
/// # Errors
/// If it does not do that in time.
pub fn replaced_after(vm: &Vm, signal: &str) -> Result<()> {
    let before = io_process(vm)?;
    vm.sh(&format!("kill -{signal} {before}")).run()?;
    let deadline = Instant::now() + START;
    while io_process(vm).is_ok_and(|now| now == before) {
        ensure!(Instant::now() < deadline, "process {before} is still there after SIG{signal}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Answer to a GET of the metrics server, head and body.
///
/// # Errors
/// If there is none.
pub fn http_get(vm: &Vm, path: &str) -> Result<String> {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{METRICS_PORT}
         printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3
         cat <&3"
    );
    Ok(vm.cmd(&["bash", "-euc", &script]).run()?.stdout)
}

/// A metric's value, by its name and labels as they are written.
///
/// # Errors
/// If it is not served.
pub fn metric(vm: &Vm, series: &str) -> Result<f64> {
    let answer = http_get(vm, "/metrics")?;
    let value = answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no {series} in {answer}"))
}

/// Holds the process to what it may lock for so many bytes of masters, counted once for each set.
///
/// # Errors
/// If it locks more, or nothing.
pub fn check_locked_memory(vm: &Vm, bytes_of_sets: u64) -> Result<()> {
    let process = io_process(vm)?;
    let smaps = |file: &str, script: &str| vm.sh(&format!("{script} /proc/{process}/{file}")).run();
    let rollup = smaps("smaps_rollup", "awk '/^Locked:/ {print $2}'")?;
    let locked: u64 = rollup.text().parse::<u64>().context("the kernel says how much is locked")? * 1024;
    let most = LOCKED_BYTES + (LOCKED_BYTES_PER_TIB * bytes_of_sets).div_ceil(1 << 40);
    if locked == 0 || locked > most {
        let largest = smaps(
            "smaps",
            "awk '/^[0-9a-f]+-/ {what = $1 \" \" $6} /^Locked:/ && $2 >= 256 {print $2, \"KiB\", what}'",
        )?;
        bail!("{locked} bytes are locked, at most {most} may be:\n{}", largest.stdout);
    }
    println!("locked: {} KiB of {} KiB", locked / 1024, most / 1024);
    Ok(())
}

/// The hash of a device's content.
///
/// # Errors
/// If it cannot be read.
pub fn hash(vm: &Vm, device: &str) -> Result<String> {
    let script = format!("set -o pipefail; dd if={device} bs=1M iflag=direct status=none | sha256sum");
    Ok(vm.cmd(&["bash", "-euc", &script]).timeout(Duration::from_secs(120)).run()?.text().to_owned())
}

/// A dependent set that is to be made, by default the one of a machine that has one of each.
#[derive(Clone, Copy, Debug)]
pub struct NewSet<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its master's.
    pub master: &'a str,
    /// The shadow volume.
    pub shadow: &'a str,
    /// The bitmap volume.
    pub bitmap: &'a str,
}

impl Default for NewSet<'_> {
    fn default() -> Self {
        Self { name: "s", master: "m", shadow: "/dev/lab/shadow", bitmap: "/dev/lab/bitmap" }
    }
}

impl NewSet<'_> {
    /// The command that enables it.
    pub fn command(&self) -> String {
        let Self { name, master, shadow, bitmap } = self;
        format!("enable {name} --master {master} --mode dependent --shadow {shadow} --bitmap {bitmap}")
    }

    /// Enables it, and returns where its shadow is presented.
    ///
    /// # Errors
    /// As [`enable`].
    pub fn enable(&self, vm: &Vm) -> Result<String> {
        enable(vm, &self.command())
    }
}

/// Gives a command that enables a set, and returns where its shadow is presented.
///
/// # Errors
/// If it was refused.
pub fn enable(vm: &Vm, command: &str) -> Result<String> {
    find_text(&ctl(vm, command)?, "shadowDevice").context("enable answers with a device")
}

/// Attaches a device, and returns where it is presented.
///
/// # Errors
/// If it was refused.
pub fn attach(vm: &Vm, device: &str, name: &str) -> Result<String> {
    let attached = ctl(vm, &format!("attach {device} --name {name}"))?;
    find_text(&attached, "device").context("attach answers with a device")
}

/// Overwrites a part of a device with what is there nowhere else.
///
/// # Errors
/// If it cannot be written.
pub fn scribble(vm: &Vm, device: &str, from_mib: u64, count_mib: u64) -> Result<()> {
    let to = format!("of={device} bs=1M oflag=direct conv=notrunc status=none");
    vm.sh(&format!("dd if=/dev/urandom {to} seek={from_mib} count={count_mib}")).run().map(drop)
}

/// Overwrites a device of so many bytes as [`scribble`] does.
///
/// # Errors
/// As there.
pub fn fill(vm: &Vm, device: &str, bytes: u64) -> Result<()> {
    scribble(vm, device, 0, bytes / MIB)
}

/// Begins writes that verify what they read on the first so many bytes of a device, until `/tmp/enough` exists.
///
/// # Errors
/// If they cannot begin.
pub fn load(vm: &Vm, device: &str, bytes: u64) -> Result<Job> {
    vm.spawn(&format!(
        "until [ -e /tmp/enough ]; do
             fio --name=verify --filename={device} --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k \
                 --size={bytes} --io_size=4m --verify=crc32c --verify_fatal=1 >/dev/null
         done"
    ))
}

/// A field of a device's `/sys/block/…/stat`, counted from 1: the fifth is its writes, the sixteenth its flushes.
///
/// # Errors
/// If there is no such device.
pub fn stat(vm: &Vm, device: &str, field: u32) -> Result<u64> {
    let script = format!("awk '{{print ${field}}}' /sys/block/$(basename $(readlink -f {device}))/stat");
    let output = vm.sh(&script).run()?;
    output.text().parse().with_context(|| format!("no number in {:?}", output.text()))
}

/// An attribute of a device's queue.
///
/// # Errors
/// If there is no such device.
pub fn queue(vm: &Vm, device: &str, attribute: &str) -> Result<String> {
    let script = format!("cat /sys/block/$(basename $(readlink -f {device}))/queue/{attribute}");
    Ok(vm.sh(&script).run()?.text().to_owned())
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

/// A status, once the process answers.
fn status(vm: &Vm, of: &str, deadline: Instant) -> Result<Value> {
    loop {
        let output = vm.sh(&format!("{PROGRAM} ctl --json status {of}")).output()?;
        if output.success() {
            return Ok(serde_json::from_str(output.text())?);
        }
        if Instant::now() > deadline {
            let log = vm.sh(&format!("tail -n 30 {LOG}")).output()?;
            bail!("there is no status of {of}: {}\n{}", output.text(), log.text());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The state of the first of `kind`, in one word.
fn state_of(status: &Value, kind: &str) -> Result<String> {
    let first = status.get(kind).and_then(|of| of.as_array()?.first());
    let state = first.and_then(|first| find(first, "state")).context("a status has a state")?;
    find_text(state, "kind").with_context(|| format!("no state in {status}"))
}

/// The state of a set, in one word. After a start the master's claim and recovery take a moment.
///
/// # Errors
/// If there is no such set in time.
pub fn set_state(vm: &Vm, set: &str) -> Result<String> {
    let deadline = Instant::now() + START;
    loop {
        let state = state_of(&status(vm, set, deadline)?, "sets")?;
        // While its master starts nothing is known of it.
        if state != "blocked" || Instant::now() > deadline {
            return Ok(state);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The state of a master, once it is one of these.
///
/// # Errors
/// If it is not in time.
pub fn master_state(vm: &Vm, master: &str, wanted: &[&str]) -> Result<String> {
    let deadline = Instant::now() + START;
    loop {
        let status = status(vm, &format!("--master {master}"), deadline)?;
        let state = state_of(&status, "masters")?;
        if wanted.contains(&state.as_str()) {
            return Ok(state);
        }
        ensure!(Instant::now() < deadline, "master {master} does not become {wanted:?}: {status}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
