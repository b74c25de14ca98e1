//! The scoreboard: for each figure that is promised, what was measured, and whether it holds.

use serde::Serialize;

use crate::bed::Medium::{self, NullBlk, Virtio};
use crate::plan::{Case, FOUR, Load, OPEN_THREADS, RESTORE, case};
use crate::run::Measured;
use crate::systems::Kind;

/// Operations are counted exactly; at depth 1 nothing but the background work of others adds to them.
const COUNTED: f64 = 0.01;
/// How requests are grouped at depth depends on when they meet.
const GROUPED: f64 = 0.10;

/// Something measured of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Operations,
    Reads,
    Writes,
    Kib,
    WrittenKib,
    Flushes,
    Mean,
    P99,
}

/// How a row's figure comes from what was measured.
#[derive(Debug, Clone, Copy)]
enum Figure {
    /// Of the case itself.
    Plain(Case, Metric),
    /// Divided by the same of the raw device.
    OverRaw(Case, Metric),
    /// The mean time, less that of the device beneath, taken in turn with it.
    AboveBeneath(Case),
    /// Of the first case divided by the second's.
    Ratio(Case, Case, Metric),
    /// Of the first case less the second's.
    Difference(Case, Case, Metric),
    /// Time that the gate of a cut was closed beyond the drain.
    Gate(Medium),
    /// The longest write that met a cut: told, not judged.
    LongestAtCut(Medium),
    /// The client's longest wait for a killed data plane beyond the slowest I/O in flight: told, not judged.
    Recovery(Medium),
}

/// A promise.
#[derive(Debug, Clone, Copy)]
struct Promise {
    row: u8,
    what: &'static str,
    unit: &'static str,
    mode: Medium,
    figure: Figure,
    /// No more than this.
    target: Option<f64>,
    tolerance: f64,
}

/// How a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The target is met.
    Ok,
    /// It is missed.
    No,
    /// Told without a target.
    Told,
    /// The data plane cannot do it, or cannot tell, yet.
    NotBuilt,
    /// Not part of this run.
    NotRun,
    /// Given up, because the raw device was not as it should be.
    Aborted,
}

impl Verdict {
    /// In tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::No => "no",
            Verdict::Told => "-",
            Verdict::NotBuilt => "not built",
            Verdict::NotRun => "not run",
            Verdict::Aborted => "aborted",
        }
    }
}

/// A row of the scoreboard.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its number in the plan.
    pub row: u8,
    /// The figure.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The disks.
    pub mode: Medium,
    /// Of Umbra.
    pub umbra: Option<f64>,
    /// Of the peers.
    pub dm_snapshot: Option<f64>,
    /// Of the peers.
    pub dm_thin: Option<f64>,
    /// No more than this is promised.
    pub target: Option<f64>,
    /// How it stands.
    pub verdict: Verdict,
}

/// The promises; where they differ by the cost of durability, one for each family of disks.
fn promises() -> Vec<Promise> {
    let each = |row, what, unit, mode, figure, target| Promise {
        row,
        what,
        unit,
        mode,
        figure,
        target: Some(target),
        tolerance: 0.0,
    };
    let counted = |promise: Promise, tolerance| Promise { tolerance, ..promise };
    let mut promises = Vec::new();
    for mode in [Virtio, NullBlk] {
        let by_mode = |flush: f64, fua: f64| if mode == Virtio { flush } else { fua };
        let of = |load, depth| case(mode, load, depth);
        let (first, deep, second) = (of(Load::First, 1), of(Load::First, 32), of(Load::Second, 1));
        let (open, sync) = (of(Load::FirstOpen, OPEN_THREADS), of(Load::FirstSync, 1));
        use Figure::{AboveBeneath, OverRaw, Plain};
        use Metric::{Flushes, Kib, Mean, Operations, P99, WrittenKib};
        promises.extend([
            counted(
                each(1, "pass-through: operations", "x raw", mode, OverRaw(second, Operations), 1.0),
                COUNTED,
            ),
            counted(each(1, "pass-through: bytes", "x raw", mode, OverRaw(second, Kib), 1.0), COUNTED),
            each(2, "pass-through: time over raw", "D", mode, AboveBeneath(second), 0.05),
            counted(each(3, "first write: written", "KiB", mode, Plain(first, WrittenKib), 72.0), COUNTED),
            counted(
                each(3, "first write: flushes", "", mode, Plain(first, Flushes), by_mode(2.0, 0.0)),
                COUNTED,
            ),
            each(4, "first write", "D", mode, Plain(first, Mean), by_mode(4.6, 3.4)),
            each(5, "first write, depth 32", "D", mode, Plain(deep, Mean), by_mode(4.8, 3.6)),
            counted(
                each(5, "first write, depth 32: flushes", "", mode, Plain(deep, Flushes), by_mode(0.45, 0.0)),
                GROUPED,
            ),
            each(6, "first write, open loop 8 per D", "D", mode, Plain(open, Mean), by_mode(4.8, 3.7)),
            each(6, "the same, 99 of 100", "D", mode, Plain(open, P99), by_mode(5.5, 5.2)),
            each(7, "write + fdatasync", "D", mode, Plain(sync, Mean), by_mode(5.6, 4.6)),
        ]);
    }
    let one = case(Virtio, Load::First, 1);
    let reads = Figure::Ratio(FOUR, one, Metric::Reads);
    let restore = |metric| Figure::Plain(RESTORE, metric);
    promises.extend([
        counted(each(8, "4 shadows against 1: reads", "x", Virtio, reads, 1.0), COUNTED),
        each(
            8,
            "4 shadows against 1: time",
            "D more",
            Virtio,
            Figure::Difference(FOUR, one, Metric::Mean),
            0.5,
        ),
        counted(each(12, "restore, per MiB: reads", "", Virtio, restore(Metric::Reads), 1.0), GROUPED),
        counted(each(12, "restore, per MiB: writes", "", Virtio, restore(Metric::Writes), 1.1), GROUPED),
        counted(each(12, "restore, per MiB: flushes", "", Virtio, restore(Metric::Flushes), 0.13), GROUPED),
    ]);
    for mode in [Virtio, NullBlk] {
        let gate = if mode == Virtio { 3.4 } else { 2.3 };
        let told =
            |row, what, unit, figure| Promise { target: None, ..each(row, what, unit, mode, figure, 0.0) };
        promises.extend([
            each(13, "cut: gate less drain", "D", mode, Figure::Gate(mode), gate),
            told(13, "cut: longest write", "D", Figure::LongestAtCut(mode)),
            told(0, "kill -9: wait beyond I/O in flight", "ms", Figure::Recovery(mode)),
        ]);
    }
    promises.sort_by_key(|promise| (promise.row == 0, promise.row));
    promises
}

/// Fills the scoreboard.
#[must_use]
pub fn rows(measured: &Measured) -> Vec<Row> {
    promises().iter().map(|promise| row(promise, measured)).collect()
}

fn row(promise: &Promise, measured: &Measured) -> Row {
    let of = |kind| figure(promise.figure, kind, measured);
    let umbra = of(Kind::Umbra);
    let verdict = match (umbra, promise.target) {
        (Some(_), None) => Verdict::Told,
        (Some(value), Some(target)) if value <= target * (1.0 + promise.tolerance) => Verdict::Ok,
        (Some(_), Some(_)) => Verdict::No,
        (None, _) if promise.figure.was_tried(measured) => Verdict::NotBuilt,
        (None, _) if measured.aborted.contains_key(&promise.mode) => Verdict::Aborted,
        (None, _) => Verdict::NotRun,
    };
    Row {
        row: promise.row,
        what: promise.what,
        unit: promise.unit,
        mode: promise.mode,
        umbra,
        dm_snapshot: of(Kind::DmSnapshot),
        dm_thin: of(Kind::DmThin),
        target: promise.target,
        verdict,
    }
}

impl Figure {
    /// Whether the data plane was asked for it, and could not do it or not tell.
    fn was_tried(self, measured: &Measured) -> bool {
        match self {
            Figure::Gate(medium) => {
                measured.cuts.iter().any(|cut| cut.system == Kind::Umbra && cut.medium == medium)
            }
            Figure::Plain(RESTORE, _) => measured.outcomes.contains_key(&(RESTORE, Kind::Umbra)),
            _ => false,
        }
    }
}

fn figure(figure: Figure, kind: Kind, measured: &Measured) -> Option<f64> {
    let of = |case, kind, metric| metric_of(measured, case, kind, metric);
    match figure {
        Figure::Plain(case, metric) => of(case, kind, metric),
        Figure::OverRaw(case, metric) => Some(of(case, kind, metric)? / of(case, Kind::Raw, metric)?),
        Figure::AboveBeneath(case) => {
            let outcome = measured.outcomes.get(&(case, kind))?;
            Some(outcome.latency?.mean - outcome.beneath?.mean)
        }
        Figure::Ratio(a, b, metric) => Some(of(a, kind, metric)? / of(b, kind, metric)?),
        Figure::Difference(a, b, metric) => Some(of(a, kind, metric)? - of(b, kind, metric)?),
        Figure::Gate(medium) => {
            let cut = measured.cuts.iter().find(|cut| cut.system == kind && cut.medium == medium)?;
            Some(cut.gate? - cut.drain?)
        }
        Figure::LongestAtCut(medium) => {
            let cut = measured.cuts.iter().find(|cut| cut.system == kind && cut.medium == medium)?;
            Some(cut.longest)
        }
        Figure::Recovery(medium) => {
            let mut seen = measured.recoveries.iter().filter(|recovery| recovery.medium == medium);
            let slow = seen.find(|recovery| recovery.unit_ms > 0 && kind == Kind::Umbra)?;
            Some(slow.longest_ms - slow.otherwise_ms)
        }
    }
}

fn metric_of(measured: &Measured, case: Case, kind: Kind, metric: Metric) -> Option<f64> {
    let outcome = measured.outcomes.get(&(case, kind))?;
    let counts = outcome.counts;
    Some(match metric {
        Metric::Operations => counts?.reads + counts?.writes + counts?.flushes,
        Metric::Reads => counts?.reads,
        Metric::Writes => counts?.writes,
        Metric::Kib => counts?.read_kib + counts?.written_kib,
        Metric::WrittenKib => counts?.written_kib,
        Metric::Flushes => counts?.flushes,
        Metric::Mean => outcome.latency?.mean,
        Metric::P99 => outcome.latency?.p99,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::PerRequest;
    use crate::run::Outcome;

    fn with_flushes(flushes: f64) -> Measured {
        let counts = PerRequest { reads: 1.0, read_kib: 64.0, writes: 3.0, written_kib: 72.0, flushes };
        let outcome = Outcome { counts: Some(counts), ..Outcome::default() };
        let key = (case(Virtio, Load::First, 1), Kind::Umbra);
        Measured { outcomes: [(key, outcome)].into(), ..Measured::default() }
    }

    fn verdict(measured: &Measured, what: &str) -> Verdict {
        let rows = rows(measured);
        rows.iter().find(|row| row.what == what && row.mode == Virtio).unwrap().verdict
    }

    #[test]
    fn a_target_is_met_within_the_tolerance_of_counts() {
        assert_eq!(verdict(&with_flushes(2.01), "first write: flushes"), Verdict::Ok);
        assert_eq!(verdict(&with_flushes(2.1), "first write: flushes"), Verdict::No);
    }

    #[test]
    fn what_the_data_plane_refuses_is_not_built() {
        let refused = ((RESTORE, Kind::Umbra), Outcome::default());
        let measured = Measured { outcomes: [refused].into(), ..Measured::default() };
        assert_eq!(verdict(&measured, "restore, per MiB: reads"), Verdict::NotBuilt);
    }

    #[test]
    fn what_was_not_measured_never_passes() {
        let measured = with_flushes(2.0);
        assert_eq!(verdict(&measured, "first write"), Verdict::NotRun);
        assert_eq!(verdict(&measured, "restore, per MiB: reads"), Verdict::NotRun);
        let none = rows(&Measured::default());
        assert!(none.iter().all(|row| row.verdict != Verdict::Ok));
    }
}
