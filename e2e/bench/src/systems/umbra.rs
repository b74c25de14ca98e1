//! Umbra as it is used: `umbra-io supervise`, `attach`, `enable`, and a workload on the presented device.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use umbra_lab::Job;

use super::{STAMP, System};
use crate::bed::{Bed, Medium, UMBRA_IO};

/// Log of the data plane.
pub(crate) const LOG: &str = "/run/umbra-io.log";
/// Name of the master.
const NAME: &str = "bench";
/// How long the data plane may take to start.
const START: Duration = Duration::from_secs(60);

/// A copy of everything there is to copy.
const LONG: Duration = Duration::from_secs(120);

/// Takes away from `$volume` what it is known by: both its ends, and the second superblock of an earlier set.
const FORGET: &str = "last=$(($(blockdev --getsize64 $volume) / 1048576 - 1))
dd if=/dev/zero of=$volume bs=1M count=2 oflag=direct status=none
dd if=/dev/zero of=$volume bs=1M count=1 seek=$last oflag=direct status=none";

/// A master attached to a data plane of its own, with dependent sets.
#[derive(Debug)]
pub struct Umbra {
    device: String,
    sets: Vec<String>,
    supervisor: Job,
}

impl Umbra {
    pub(super) fn present(bed: &Bed, medium: Medium, shadows: usize) -> Result<Self> {
        let supervisor = bed.vm().spawn(&format!(
            "rm -rf /var/lib/umbra; mkdir -p /run/umbra; exec {UMBRA_IO} supervise >>{LOG} 2>&1"
        ))?;
        wait_until_served(bed, "list")?;
        let master = bed.device(medium, "master")?;
        // Not every disk here has a name that is unique in the world; none is going to be replaced.
        let attached = ctl(bed, &format!("attach {master} --name {NAME} --accept-weak-identity"))?;
        let device =
            attached.get("device").and_then(Value::as_str).context("attach answers with a device")?;
        let mut this = Self { device: device.to_owned(), sets: Vec::new(), supervisor };
        for number in 1..=shadows {
            let set = format!("set{number}");
            let shadow = bed.device(medium, &format!("shadow{number}"))?;
            let bitmap = bed.device(medium, &format!("bitmap{number}"))?;
            // What another system has left there is not to be confirmed away each time, by its name.
            bed.sh(&format!("for volume in {shadow} {bitmap}; do\n{FORGET}\ndone"))?;
            ctl(
                bed,
                &format!("enable {set} --master {NAME} --mode dependent --shadow {shadow} --bitmap {bitmap}"),
            )?;
            this.sets.push(set);
        }
        Ok(this)
    }

    /// Kills the process that does the I/O; its supervisor starts the next one.
    pub(crate) fn kill_script() -> String {
        format!("{STAMP}\nstamp killing; pkill -KILL -f '^{UMBRA_IO} run'; stamp killed")
    }

    /// Waits until every set is served again.
    pub(crate) fn wait_until_served(bed: &Bed) -> Result<()> {
        wait_until_served(bed, "status set1")
    }

    /// How long the drain of the last cut took and how long its gate was closed, in milliseconds; none from a data
    /// plane that does not say.
    pub(crate) fn gate(bed: &Bed) -> Result<Option<(f64, f64)>> {
        let status = ctl(bed, &format!("status --master {NAME}"))?;
        let counter =
            |name: &str| status.pointer(&format!("/masters/0/counters/{name}")).and_then(Value::as_f64);
        Ok(counter("lastDrainMs").zip(counter("lastGateMs")))
    }
}

impl System for Umbra {
    fn device(&self) -> &str {
        &self.device
    }

    fn renew(&mut self, bed: &Bed) -> Result<()> {
        self.sets.iter().try_for_each(|set| ctl(bed, &format!("update to-shadow {set}")).map(drop))
    }

    fn cut_script(&mut self, _bed: &Bed) -> Result<Option<String>> {
        let Some(set) = self.sets.first() else { return Ok(None) };
        Ok(Some(format!(
            "{STAMP}\nstamp asked; {UMBRA_IO} ctl --json update to-shadow {set} >/dev/null; stamp answered"
        )))
    }

    fn restore(&mut self, bed: &Bed) -> Result<bool> {
        let Some(set) = self.sets.first() else { return Ok(false) };
        let command = format!("{UMBRA_IO} ctl --json update to-master {set} --yes --wait");
        let output = bed.vm().sh(&command).timeout(LONG).output()?;
        output.check().map(|_| true)
    }

    fn remove(self: Box<Self>, bed: &Bed) -> Result<()> {
        for set in &self.sets {
            ctl(bed, &format!("disable {set}"))?;
        }
        ctl(bed, &format!("detach {NAME}"))?;
        self.supervisor.kill(umbra_lab::Signal::TERM)?;
        self.supervisor.wait(START).map(drop)
    }
}

fn ctl(bed: &Bed, arguments: &str) -> Result<Value> {
    let output = bed.sh(&format!("{UMBRA_IO} ctl --json {arguments}"))?;
    match output.text() {
        "" => Ok(Value::Null),
        text => serde_json::from_str(text).with_context(|| format!("ctl {arguments}: {text}")),
    }
}

fn wait_until_served(bed: &Bed, question: &str) -> Result<()> {
    let deadline = Instant::now() + START;
    loop {
        let answer = bed.vm().sh(&format!("{UMBRA_IO} ctl --json {question}")).output()?;
        if answer.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let log = bed.sh(&format!("tail -n 30 {LOG}"))?;
            bail!("umbra-io does not serve: {}\n{}", answer.stderr, log.text());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
