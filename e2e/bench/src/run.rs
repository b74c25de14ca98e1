//! One run: every system on every family of disks, its counts first, then its times.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use umbra_lab::progress::say;

use crate::bed::{Bed, CHUNK, Drive, Medium};
use crate::counts::{Books, ByDisk, PerRequest};
use crate::interruptions::{self, Cut, Recovery};
use crate::iolog::Request;
use crate::plan::{Case, Entry, Load, case, plan};
use crate::samples::{Latency, Samples};
use crate::systems::{Kind, System};

/// Two looks at the books so far apart tell whether the disks are at rest.
const REST: Duration = Duration::from_millis(300);
/// A system that is busy by itself for longer is not measured.
const REST_LIMIT: Duration = Duration::from_secs(30);
/// A raw write takes one device operation and up to two ticks of the kernel's clock; more is another's work.
pub(crate) const RAW: std::ops::RangeInclusive<f64> = 1.00..=1.15;
/// Turns of a system and the device beneath it.
const ROUNDS: usize = 4;
/// Times that raw is measured again before the times of a family are given up.
const RAW_TRIES: u32 = 3;

/// What was measured of a system in a case.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Operations of all disks per request.
    pub counts: Option<PerRequest>,
    /// Operations of each disk while they were counted.
    pub disks: ByDisk,
    /// Times, in device operations.
    pub latency: Option<Latency>,
    /// Times of the device beneath, taken in turn with those, where the load passes through.
    pub beneath: Option<Latency>,
    /// Operations of each disk while times were taken; those on the device beneath are among them.
    pub timed_disks: ByDisk,
}

/// Everything measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Cases.
    pub outcomes: BTreeMap<(Case, Kind), Outcome>,
    /// Cuts under load.
    pub cuts: Vec<Cut>,
    /// Deaths of the data plane under load.
    pub recoveries: Vec<Recovery>,
    /// Families whose times were given up, and the raw write's mean that was the reason.
    pub aborted: BTreeMap<Medium, f64>,
}

/// What to measure.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// Counts alone, no times.
    pub quick: bool,
    /// These loads alone; all where none is named.
    pub only: Vec<Load>,
}

/// Measures everything.
///
/// # Errors
/// Where something broke; a figure that is bad is no error.
pub fn everything(bed: &mut Bed, extent: &Extent) -> Result<Measured> {
    let mut measured = Measured::default();
    let entries = plan(&extent.only);
    phase(bed, &entries, Phase::Counts, &mut measured)?;
    if !extent.quick {
        bed.put_delays()?;
        phase(bed, &entries, Phase::Times, &mut measured)?;
    }
    Ok(measured)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Counts,
    Times,
}

fn phase(bed: &Bed, plan: &[Entry], phase: Phase, measured: &mut Measured) -> Result<()> {
    for medium in [Medium::Virtio, Medium::NullBlk] {
        for kind in [Kind::Raw, Kind::DmSnapshot, Kind::DmThin, Kind::Umbra] {
            for shadows in [1, 4] {
                let entries: Vec<Entry> = plan
                    .iter()
                    .copied()
                    .filter(|entry| entry.case.medium == medium && entry.case.shadows == shadows)
                    .filter(|entry| entry.systems.contains(&kind))
                    .filter(|entry| if phase == Phase::Counts { entry.counted > 0 } else { entry.timed > 0 })
                    .collect();
                if entries.is_empty() || measured.aborted.contains_key(&medium) {
                    continue;
                }
                let begin = Instant::now();
                let on = On { bed, medium, books: Books::open(bed, medium)?, kind };
                let doing = format!("{} on {}, shadows: {shadows}", kind.word(), medium.word());
                on.system(&entries, shadows, phase, measured).with_context(|| doing.clone())?;
                say(format_args!("{phase:?}, {doing}: {:.0} s", begin.elapsed().as_secs_f64()));
            }
            if phase == Phase::Times && kind == Kind::Raw {
                check_raw(medium, measured);
            }
        }
    }
    Ok(())
}

/// Whether times of a family mean anything, from what a raw write took.
fn check_raw(medium: Medium, measured: &mut Measured) {
    let raw = measured.outcomes.get(&(case(medium, Load::First, 1), Kind::Raw));
    let mean = raw.and_then(|raw| raw.latency).map_or(f64::NAN, |latency| latency.mean);
    if !RAW.contains(&mean) {
        say(format_args!("a raw write took {mean:.2} D: no times on {}", medium.word()));
        measured.aborted.insert(medium, mean);
    }
}

/// A system at work on a family.
pub(crate) struct On<'a> {
    pub(crate) bed: &'a Bed,
    pub(crate) medium: Medium,
    pub(crate) books: Books,
    pub(crate) kind: Kind,
}

impl On<'_> {
    fn system(&self, entries: &[Entry], shadows: usize, phase: Phase, into: &mut Measured) -> Result<()> {
        let mut system = self.kind.present(self.bed, self.medium, shadows)?;
        let on = system.as_mut();
        for entry in entries {
            let case = &entry.case;
            let requests = case.requests(if phase == Phase::Counts { entry.counted } else { entry.timed });
            match case.load {
                Load::Cut => into.cuts.extend(interruptions::cut(self, on, &requests)?),
                Load::Kill => into.recoveries.extend(interruptions::recoveries(self, on, &requests)?),
                _ => self.uninterrupted(on, entry, &requests, phase, into)?,
            }
        }
        system.remove(self.bed)
    }

    fn uninterrupted(
        &self,
        system: &mut dyn System,
        entry: &Entry,
        requests: &[Request],
        phase: Phase,
        into: &mut Measured,
    ) -> Result<()> {
        let outcome = into.outcomes.entry((entry.case, self.kind)).or_default();
        match phase {
            Phase::Counts if entry.case.load == Load::Restore => {
                self.restore(system, &entry.case, requests, outcome)
            }
            Phase::Counts => self.counts(system, &entry.case, requests, outcome),
            Phase::Times => self.times_of_entry(system, entry, requests, outcome),
        }
    }

    /// Raw is the measure of the others: what disturbed it is given time to pass.
    fn times_of_entry(
        &self,
        system: &mut dyn System,
        entry: &Entry,
        requests: &[Request],
        outcome: &mut Outcome,
    ) -> Result<()> {
        let tries = if self.kind == Kind::Raw && entry.tells_the_unit() { RAW_TRIES } else { 1 };
        for _ in 0..tries {
            self.times(system, &entry.case, requests, outcome)?;
            if outcome.latency.is_some_and(|latency| RAW.contains(&latency.mean)) {
                break;
            }
        }
        Ok(())
    }

    fn counts(
        &self,
        system: &mut dyn System,
        case: &Case,
        requests: &[Request],
        outcome: &mut Outcome,
    ) -> Result<()> {
        let drive = case.drive(self.bed, requests);
        self.prepare(system, case, &drive)?;
        let before = self.at_rest()?;
        self.bed.load(system.device(), &drive)?;
        self.bed.sh("sync")?;
        // What is written late belongs to the requests that caused it.
        thread::sleep(system.late());
        outcome.disks = self.at_rest()?.since(&before);
        outcome.counts = Some(outcome.disks.total().per(requests.len()));
        Ok(())
    }

    fn times(
        &self,
        system: &mut dyn System,
        case: &Case,
        requests: &[Request],
        outcome: &mut Outcome,
    ) -> Result<()> {
        let drive = case.drive(self.bed, requests);
        self.prepare(system, case, &drive)?;
        let before = self.at_rest()?;
        if case.load == Load::Second {
            self.slowly(|| self.in_turn(system.device(), case, requests, outcome))?;
        } else {
            let samples = self.slowly(|| self.bed.load(system.device(), &drive))?;
            outcome.latency = samples.latency(self.bed.unit_ms());
        }
        outcome.timed_disks = self.books.read(self.bed)?.since(&before);
        Ok(())
    }

    /// Takes times of a load that passes through in turn with times of the device beneath: their difference is small,
    /// and whatever else the host does must meet both.
    fn in_turn(&self, device: &str, case: &Case, requests: &[Request], outcome: &mut Outcome) -> Result<()> {
        let beneath = self.bed.device(self.medium, "master")?;
        let (mut above, mut below) = (Samples::default(), Samples::default());
        for round in requests.chunks(requests.len().div_ceil(ROUNDS)) {
            let drive = case.drive(self.bed, round);
            above.append(self.bed.load(device, &drive)?);
            if self.kind != Kind::DmThin {
                below.append(self.bed.load(&beneath, &drive)?);
            }
        }
        outcome.latency = above.latency(self.bed.unit_ms());
        outcome.beneath = below.latency(self.bed.unit_ms());
        Ok(())
    }

    /// Counts the operations of a restore, per MiB, where the system can do one.
    fn restore(
        &self,
        system: &mut dyn System,
        case: &Case,
        requests: &[Request],
        outcome: &mut Outcome,
    ) -> Result<()> {
        system.renew(self.bed)?;
        self.bed.load(system.device(), &case.drive(self.bed, requests))?;
        let before = self.at_rest()?;
        if system.restore(self.bed)? {
            outcome.disks = self.at_rest()?.since(&before);
            let restored = requests.len() as u64 * CHUNK;
            outcome.counts = Some(outcome.disks.total().per(usize::try_from(restored >> 20)?));
        }
        Ok(())
    }

    /// A new point in time, and chunks that are copied already where the load wants them so.
    fn prepare(&self, system: &mut dyn System, case: &Case, drive: &Drive<'_>) -> Result<()> {
        system.renew(self.bed)?;
        if case.load == Load::Second {
            self.bed.load(system.device(), drive)?;
        }
        Ok(())
    }

    /// While `work` runs, every device operation takes its time.
    pub(crate) fn slowly<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.bed.set_delay(self.medium, self.bed.unit_ms())?;
        let result = work();
        self.bed.set_delay(self.medium, 0)?;
        result
    }

    /// Waits until the disks do nothing any more, and returns their books.
    pub(crate) fn at_rest(&self) -> Result<ByDisk> {
        let deadline = Instant::now() + REST_LIMIT;
        let mut before = self.books.read(self.bed)?;
        loop {
            thread::sleep(REST);
            let now = self.books.read(self.bed)?;
            if now == before {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "the disks do not come to rest");
            before = now;
        }
    }
}
