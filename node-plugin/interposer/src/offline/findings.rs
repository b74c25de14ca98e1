//! What `check` finds, and what can be done about it.

use serde::Serialize;
use std::fmt;
use umbra_engine::{Epoch, RingGeneration, Sequence, SuperblockGeneration};
use umbra_format::Superblock;

/// Something that can be done about a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// Write the block at `to` anew from the one at `from`.
    Copy { from: u64, to: u64 },
    /// The superblock is older than the rest: commit one that ends the image and is newer than everything.
    GiveUp(Box<Superblock>),
    /// Nothing: it may be why the rest looks as it does, so the rest is not touched either.
    Refuse,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What it is about.
    pub(super) object: String,
    /// Where that is on the bitmap volume, or on the shadow if the object says so.
    pub(super) offset: Option<u64>,
    /// What is wrong.
    pub(super) what: String,
    /// What to do, or what the next start does.
    pub(super) remedy: String,
    #[serde(skip)]
    pub(super) repair: Option<Repair>,
}

/// The answer.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CheckReport {
    /// The set's UUID and name.
    pub(super) set: String,
    pub(super) problems: Vec<Finding>,
    /// Further problems than are listed: a volume may claim to be so large that not even they fit the memory.
    #[serde(skip_serializing_if = "is_none")]
    pub(super) more_problems: u64,
    pub(super) notes: Vec<Finding>,
    /// Further notes.
    #[serde(skip_serializing_if = "is_none")]
    pub(super) more_notes: u64,
    /// What `--repair` did, as far as it is listed.
    pub(super) repaired: Vec<String>,
}

/// Findings of one kind that are listed, at most.
pub(super) const FINDINGS_MAX: usize = 1000;

fn is_none(more: &u64) -> bool {
    *more == 0
}

impl CheckReport {
    pub(super) fn problem(
        &mut self,
        object: impl Into<String>,
        offset: Option<u64>,
        what: String,
        remedy: &str,
    ) {
        let finding =
            Finding { object: object.into(), offset, what, remedy: remedy.to_owned(), repair: None };
        self.list_problem(finding);
    }

    /// What decides whether anything may be written is always listed.
    pub(super) fn list_problem(&mut self, finding: Finding) {
        let decides = matches!(finding.repair, Some(Repair::Refuse | Repair::GiveUp(_)));
        if decides || self.problems.len() < FINDINGS_MAX {
            self.problems.push(finding);
        } else {
            self.more_problems += 1;
        }
    }

    /// A problem while which nothing may be written.
    pub(super) fn unrepairable(&mut self, object: String, offset: Option<u64>, what: String, remedy: &str) {
        let repair = Some(Repair::Refuse);
        self.list_problem(Finding { object, offset, what, remedy: remedy.to_owned(), repair });
    }

    pub(super) fn repairable(&mut self, object: String, (from, to): (u64, u64), what: String) {
        let remedy = "the other copy is good: --repair writes this one anew from it".to_owned();
        let repair = Some(Repair::Copy { from, to });
        self.list_problem(Finding { object, offset: Some(to), what, remedy, repair });
    }

    pub(super) fn note(&mut self, object: impl Into<String>, what: String, remedy: &str) {
        let (object, remedy) = (object.into(), remedy.to_owned());
        if self.notes.len() >= FINDINGS_MAX {
            self.more_notes += 1;
            return;
        }
        self.notes.push(Finding { object, offset: None, what, remedy, repair: None });
    }
}

/// The newest of everything that was seen, to find out whether the superblock is older (E10).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Newest {
    pub(super) epoch: Epoch,
    pub(super) ring_generation: RingGeneration,
    pub(super) sequence: Sequence,
    pub(super) stamp: SuperblockGeneration,
    /// A page says that the master is incomplete: part of its data is on the shadow only.
    pub(super) pending: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset.map(|offset| format!(" at {offset:#x}")).unwrap_or_default();
        write!(f, "{}{offset}: {}: {}", self.object, self.what, self.remedy)
    }
}

impl CheckReport {
    /// Problems, listed or not.
    pub(super) fn count(&self) -> u64 {
        self.problems.len() as u64 + self.more_problems
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for done in &self.repaired {
            writeln!(f, "repaired  {done}")?;
        }
        let more = |f: &mut fmt::Formatter<'_>, count: u64, what| {
            if count > 0 { writeln!(f, "          and {count} more {what}") } else { Ok(()) }
        };
        for finding in &self.problems {
            writeln!(f, "problem   {finding}")?;
        }
        more(f, self.more_problems, "problems")?;
        for finding in &self.notes {
            writeln!(f, "note      {finding}")?;
        }
        more(f, self.more_notes, "notes")?;
        let set = if self.set.is_empty() { "the volume" } else { &self.set };
        match self.count() {
            0 => writeln!(f, "{set} is clean"),
            1 => writeln!(f, "{set} has 1 problem"),
            count => writeln!(f, "{set} has {count} problems"),
        }
    }
}
