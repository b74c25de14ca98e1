//! What a workload feels of a cut, and of the death of the data plane.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::bed::{Drive, Medium, samples};
use crate::plan::{Load, case};
use crate::run::On;
use crate::samples::Samples;
use crate::systems::umbra::Umbra;
use crate::systems::{Kind, System};

/// Requests in flight meanwhile.
const DEPTH: u16 = 8;
/// Chunks that the load writes to, one after the other.
const CHUNKS: usize = 1500;
/// Seconds of load, and when in it things happen.
const SECONDS: u64 = 6;
const INTO: Duration = Duration::from_secs(2);
const END: Duration = Duration::from_secs(60);

/// A cut under load.
#[derive(Debug, Clone, Serialize)]
pub struct Cut {
    /// Whose.
    pub system: Kind,
    /// On which disks.
    pub medium: Medium,
    /// From the order to the answer, in device operations.
    pub command: f64,
    /// Time from the closing of the gate until no write was under way, in device operations.
    pub drain: Option<f64>,
    /// Time the gate was closed.
    pub gate: Option<f64>,
    /// The longest write that met the cut.
    pub longest: f64,
    /// The longest that did not.
    pub otherwise: f64,
}

/// A death of the data plane under load.
#[derive(Debug, Clone, Serialize)]
pub struct Recovery {
    /// On which disks.
    pub medium: Medium,
    /// What a device operation took, in milliseconds.
    pub unit_ms: u32,
    /// The longest write that met it, in milliseconds.
    pub longest_ms: f64,
    /// The longest that did not: what was in flight took no longer.
    pub otherwise_ms: f64,
}

/// One cut of the system's first shadow in the middle of a load of first writes; none where there is nothing to cut.
pub(crate) fn cut(on: &On<'_>, system: &mut dyn System) -> Result<Option<Cut>> {
    system.renew(on.bed)?;
    let Some(script) = system.cut_script(on.bed)? else { return Ok(None) };
    on.at_rest()?;
    let (samples, stamps) = on.slowly(|| meanwhile(on, system.device(), &script))?;
    let unit = f64::from(on.bed.unit_ms()) * 1000.0;
    let units = |us: u64| us as f64 / unit;
    let first = stamps.first().context("a cut without a beginning")?.1;
    let last = stamps.last().context("a cut without an end")?.1;
    let at = |word: &str| stamps.iter().find(|(stamp, _)| stamp == word).map(|(_, at)| *at);
    let mut cut = Cut {
        system: on.kind,
        medium: on.medium,
        command: units(last - first),
        drain: at("closed").zip(at("drained")).map(|(from, to)| units(to - from)),
        gate: at("closed").zip(at("opened")).map(|(from, to)| units(to - from)),
        longest: units(samples.longest_between(first, last).context("no write met the cut")?),
        otherwise: units(samples.longest_outside(&[(first, last)]).unwrap_or(0)),
    };
    if on.kind == Kind::Umbra
        && let Some(gate) = Umbra::gate(on.bed)?
    {
        let ms = |key: &str| gate.get(key).and_then(serde_json::Value::as_f64).context("a gate's time");
        let of = |from: f64, to: f64| (to - from) / f64::from(on.bed.unit_ms());
        let closed = ms("closedMs")?;
        cut.drain = Some(of(closed, ms("drainedMs")?));
        cut.gate = Some(of(closed, ms("openedMs")?));
    }
    Ok(Some(cut))
}

/// `kill -9` under a load that needs no copies: with disks that answer at once, and with slow ones.
pub(crate) fn recoveries(on: &On<'_>, system: &mut dyn System) -> Result<Vec<Recovery>> {
    let case = case(on.medium, Load::Second, DEPTH);
    system.renew(on.bed)?;
    on.bed.load(system.device(), &Drive::closed(&case.requests(CHUNKS), 32))?;
    on.at_rest()?;
    let fast = meanwhile(on, system.device(), &Umbra::kill_script())?;
    Umbra::wait_until_served(on.bed)?;
    let slow = on.slowly(|| {
        let seen = meanwhile(on, system.device(), &Umbra::kill_script())?;
        Umbra::wait_until_served(on.bed)?;
        Ok(seen)
    })?;
    [(0, fast), (on.bed.unit_ms(), slow)]
        .into_iter()
        .map(|(unit_ms, (samples, stamps))| {
            let killed = stamps.first().context("nothing was killed")?.1;
            let ms = |us: u64| us as f64 / 1000.0;
            // The stamp counts hundredths of a second: the write that was under way may seem to have ended before.
            let met = (killed, killed + 20_000);
            Ok(Recovery {
                medium: on.medium,
                unit_ms,
                longest_ms: ms(samples.longest_between(met.0, met.1).context("no write met the kill")?),
                otherwise_ms: ms(samples.longest_outside(&[met]).unwrap_or(0)),
            })
        })
        .collect()
}

/// Runs a script in the middle of a load. Returns what the load measured, and the script's words with their times in
/// microseconds since boot.
fn meanwhile(on: &On<'_>, device: &str, script: &str) -> Result<(Samples, Vec<(String, u64)>)> {
    let requests = case(on.medium, Load::First, DEPTH).requests(CHUNKS);
    let drive = Drive { seconds: Some(SECONDS), ..Drive::closed(&requests, DEPTH) };
    let load = on.bed.vm().spawn(&format!("exec {}", on.bed.load_command(device, &drive)?))?;
    thread::sleep(INTO);
    if load.is_finished() {
        bail!("the load ended early: {}", load.stderr());
    }
    let said = on.bed.sh(script)?;
    let stamps = said.text().lines().map(stamp).collect::<Result<_>>()?;
    Ok((samples(&load.wait(END)?.check()?)?, stamps))
}

/// A word and a time in seconds.
fn stamp(line: &str) -> Result<(String, u64)> {
    let (word, seconds) = line.split_once(' ').with_context(|| format!("{line:?} is no stamp"))?;
    let at = Duration::try_from_secs_f64(seconds.parse()?)?;
    Ok((word.to_owned(), u64::try_from(at.as_micros())?))
}
