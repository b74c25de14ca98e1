//! What a run prints, and its JSON.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::interruptions::{Cut, Recovery};
use crate::iolog::SEED;
use crate::plan::{Case, Load};
use crate::run::{Measured, Outcome, RAW};
use crate::scoreboard::{self, Row};
use crate::systems::Kind;

/// A run, for people and for programs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The kernel of the machine.
    pub kernel: String,
    /// One device operation when it is slowed down (D), in milliseconds.
    pub unit_ms: u32,
    /// Where the places of all writes come from.
    pub seed: u64,
    /// Cases.
    pub cases: Vec<Entry>,
    /// Cuts under load.
    pub cuts: Vec<Cut>,
    /// Deaths of the data plane under load.
    pub recoveries: Vec<Recovery>,
    /// The scoreboard.
    pub scoreboard: Vec<Row>,
}

/// A case of a system.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// Whose.
    pub system: Kind,
    /// What was measured.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Report {
    /// Puts a run's figures together.
    #[must_use]
    pub fn new(kernel: String, unit_ms: u32, measured: Measured) -> Self {
        let scoreboard = scoreboard::rows(&measured);
        let entry = |((case, system), outcome)| Entry { case, system, outcome };
        Self {
            kernel,
            unit_ms,
            seed: SEED,
            cases: measured.outcomes.into_iter().map(entry).collect(),
            cuts: measured.cuts,
            recoveries: measured.recoveries,
            scoreboard,
        }
    }

    /// The tables.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "kernel {}, emulated or not; D = {} ms; operations of all disks per request\n\n{}\n",
            self.kernel,
            self.unit_ms,
            trimmed(&self.case_table())
        );
        for (mode, p99) in self.disturbed() {
            text += &format!(
                "\nmode {mode}: 99 of 100 raw writes took up to {p99:.2} D; the host was busy, and times are too high\n"
            );
        }
        if !self.cuts.is_empty() {
            text += &format!("\ncut under load, in D\n{}\n", trimmed(&self.cut_table()));
        }
        if !self.recoveries.is_empty() {
            text += &format!("\nkill -9 under load, in ms\n{}\n", trimmed(&self.recovery_table()));
        }
        text + &format!("\nscoreboard\n{}\n", trimmed(&self.scoreboard_table()))
    }

    /// The families on which raw writes were as long as they should be in the mean, but not all of them.
    fn disturbed(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        let raw = |entry: &&Entry| entry.system == Kind::Raw && entry.case.load == Load::First;
        let alone = self.cases.iter().filter(raw).filter(|entry| entry.case.depth == 1);
        alone.filter_map(|entry| {
            let p99 = entry.outcome.latency?.p99;
            (!RAW.contains(&p99)).then_some((entry.case.medium.word(), p99))
        })
    }

    fn case_table(&self) -> Table {
        let mut table = plain(&[
            "case",
            "N",
            "QD",
            "mode",
            "system",
            "R/op",
            "KiB",
            "W/op",
            "KiB",
            "flush/op",
            "mean D",
            "p50",
            "p99",
            "max",
            "vs raw",
            "vs dm-snap",
            "vs dm-thin",
        ]);
        right(&mut table, &[1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        for entry in &self.cases {
            let (case, counts, latency) = (entry.case, entry.outcome.counts, entry.outcome.latency);
            let against = |kind: Kind| {
                let other = self.cases.iter().find(|other| other.case == case && other.system == kind)?;
                let ratio = latency?.mean / other.outcome.latency?.mean;
                (entry.system != kind).then(|| format!("{ratio:.2}x"))
            };
            let cell = |kind| against(kind).unwrap_or_default();
            table.add_row([
                case.load.word().to_owned(),
                case.shadows.to_string(),
                case.depth.to_string(),
                case.medium.word().to_owned(),
                entry.system.word().to_owned(),
                number(counts.map(|counts| counts.reads), 3),
                number(counts.map(|counts| counts.read_kib), 1),
                number(counts.map(|counts| counts.writes), 3),
                number(counts.map(|counts| counts.written_kib), 1),
                number(counts.map(|counts| counts.flushes), 3),
                number(latency.map(|latency| latency.mean), 2),
                number(latency.map(|latency| latency.p50), 2),
                number(latency.map(|latency| latency.p99), 2),
                number(latency.map(|latency| latency.max), 2),
                cell(Kind::Raw),
                cell(Kind::DmSnapshot),
                cell(Kind::DmThin),
            ]);
        }
        table
    }

    fn cut_table(&self) -> Table {
        let head = ["system", "mode", "command", "drain", "gate", "longest write", "longest otherwise"];
        let mut table = plain(&head);
        right(&mut table, &[2, 3, 4, 5, 6]);
        for cut in &self.cuts {
            let untold =
                |value: Option<f64>| value.map_or("not built".into(), |value| number(Some(value), 2));
            table.add_row([
                cut.system.word().to_owned(),
                cut.medium.word().to_owned(),
                number(Some(cut.command), 2),
                untold(cut.drain),
                untold(cut.gate),
                number(Some(cut.longest), 2),
                number(Some(cut.otherwise), 2),
            ]);
        }
        table
    }

    fn recovery_table(&self) -> Table {
        let mut table =
            plain(&["mode", "device operation", "longest write", "longest otherwise", "difference"]);
        right(&mut table, &[1, 2, 3, 4]);
        for recovery in &self.recoveries {
            table.add_row([
                recovery.medium.word().to_owned(),
                recovery.unit_ms.to_string(),
                number(Some(recovery.longest_ms), 0),
                number(Some(recovery.otherwise_ms), 0),
                number(Some(recovery.longest_ms - recovery.otherwise_ms), 0),
            ]);
        }
        table
    }

    fn scoreboard_table(&self) -> Table {
        let mut table =
            plain(&["row", "figure", "mode", "unit", "umbra", "dm-snapshot", "dm-thin", "target", ""]);
        right(&mut table, &[0, 4, 5, 6, 7]);
        for row in &self.scoreboard {
            table.add_row([
                if row.row == 0 { "-".to_owned() } else { row.row.to_string() },
                row.what.to_owned(),
                row.mode.word().to_owned(),
                row.unit.to_owned(),
                number(row.umbra, 3),
                number(row.dm_snapshot, 3),
                number(row.dm_thin, 3),
                row.target.map_or_else(String::new, |target| format!("<= {target}")),
                row.verdict.word().to_owned(),
            ]);
        }
        table
    }
}

fn plain(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head.to_vec());
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for &index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}
