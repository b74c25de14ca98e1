//! What a workload feels of a cut, and of the death of the data plane.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::bed::{Drive, Medium, samples};
use crate::counts::ByDisk;
use crate::iolog::Request;
use crate::plan::AROUND;
use crate::run::On;
use crate::samples::Samples;
use crate::systems::umbra::Umbra;
use crate::systems::{Kind, System};

/// Seconds of load, and when in it things happen.
const SECONDS: u64 = 6;
const INTO: Duration = Duration::from_secs(2);
/// Copies in flight while the chunks are made ready.
const COPIES: u16 = 32;
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
    /// Operations of each disk, those of the load among them.
    pub disks: ByDisk,
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
    /// Operations of each disk. The load is on the master alone, so the others' are the recovery's.
    pub disks: ByDisk,
}

/// One cut of the system's first shadow in the middle of a load of first writes; none where there is nothing to cut.
pub(crate) fn cut(on: &On<'_>, system: &mut dyn System, requests: &[Request]) -> Result<Option<Cut>> {
    system.renew(on.bed)?;
    let Some(script) = system.cut_script(on.bed)? else { return Ok(None) };
    let before = on.at_rest()?;
    let (samples, stamps) = on.slowly(|| meanwhile(on, system.device(), requests, &script))?;
    let disks = on.at_rest()?.since(&before);
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
        disks,
    };
    if on.kind == Kind::Umbra
        && let Some((drain_ms, gate_ms)) = Umbra::gate(on.bed)?
    {
        let units = |ms: f64| ms / f64::from(on.bed.unit_ms());
        (cut.drain, cut.gate) = (Some(units(drain_ms)), Some(units(gate_ms)));
    }
    Ok(Some(cut))
}

/// `kill -9` under a load that needs no copies: with disks that answer at once, and with slow ones.
pub(crate) fn recoveries(
    on: &On<'_>,
    system: &mut dyn System,
    requests: &[Request],
) -> Result<Vec<Recovery>> {
    system.renew(on.bed)?;
    on.bed.load(system.device(), &Drive::closed(requests, COPIES))?;
    let device = system.device();
    let kill = || {
        let before = on.books.read(on.bed)?;
        let (samples, stamps) = meanwhile(on, device, requests, &Umbra::kill_script())?;
        Umbra::wait_until_served(on.bed)?;
        Ok((samples, stamps, on.books.read(on.bed)?.since(&before)))
    };
    on.at_rest()?;
    let (fast, slow) = (kill()?, on.slowly(kill)?);
    [(0, fast), (on.bed.unit_ms(), slow)]
        .into_iter()
        .map(|(unit_ms, (samples, stamps, disks))| {
            let from = stamps.first().context("nothing was killed")?.1;
            // Stamps count hundredths of a second: a write that was under way may seem to have ended before.
            let to = stamps.last().context("nothing was killed")?.1 + 10_000;
            let ms = |us: u64| us as f64 / 1000.0;
            Ok(Recovery {
                medium: on.medium,
                unit_ms,
                longest_ms: ms(samples.longest_between(from, to).context("no write met the kill")?),
                otherwise_ms: ms(samples.longest_outside(&[(from, to)]).unwrap_or(0)),
                disks,
            })
        })
        .collect()
}

/// Runs a script in the middle of a load. Returns what the load measured, and the script's words with their times in
/// microseconds since boot.
fn meanwhile(
    on: &On<'_>,
    device: &str,
    requests: &[Request],
    script: &str,
) -> Result<(Samples, Vec<(String, u64)>)> {
    let drive = Drive { seconds: Some(SECONDS), ..Drive::closed(requests, AROUND) };
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
