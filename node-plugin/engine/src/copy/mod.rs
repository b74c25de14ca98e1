//! A copy: a run of chunks from the physical master to every shadow that needs it, with the records that say so.
//!
//! ```text
//!            ┌ CopyWrite to shadow 1 ── flush ┐
//!  CopyRead ─┤ record in journal 1 ──── flush ├─ published: held ─┐
//!            │                                │                   ├─ legs over ─> unlocked, waiters go on;
//!            └ the same for shadow 2 …        ┘  (or lost)       ─┘              or restored, or overwritten
//!
//!  old data:  Unneeded                                   a copy is over when all legs are settled
//!             Queued ──buffer──> Reading ──> Done        and its read of the master is not under way
//!                └─ nobody wants it any more ──^
//! ```
//!
//! One read whatever the number of siblings; data and record in parallel, the record with the data's hash so
//! that replay can tell whether the data arrived (E1). A step that fails makes the run *lost* for that set
//! alone; that is recorded durably before the waiters go on (common rule 4, invariant 1).
//!
//! A run that the master cannot give is split into its chunks, so that one bad chunk does not cost its neighbours.
//!
//! Crash, for each leg: before the record is durable: unheld, the master is still old. Record without data: the
//! hash does not match, the record is dropped for ever, the master is still old. Both: held.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | one copy |
//! | `leg.rs` | what it does for one set |
//! | `table.rs` | all copies, and the locks of their chunks |
//! | `steps.rs` | the steps of the owner |

mod leg;
mod steps;
mod table;

pub(crate) use leg::Leg;
pub(crate) use table::Copies;

use crate::action::{CopyBuf, SetIndex};
use crate::buffers::Pool;
use crate::requests::Ticket;
use crate::restore::{Overwrite, RestoreRun};
use crate::units::ChunkRun;

/// Why a run is copied, and what comes when its legs are over.
#[derive(Debug)]
pub(crate) enum Job {
    /// A write waits: the run is unlocked.
    Write,
    /// The copier of this set wants it: the run is unlocked.
    Background(SetIndex),
    /// The run is restored from a shadow.
    Restore(RestoreRun),
    /// A request overwrites the run, which cannot be restored.
    Overwrite(Overwrite),
}

/// Where the read of the old data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OldData {
    /// No leg wants it.
    Unneeded,
    /// Waits for a buffer.
    Queued,
    /// The master is read.
    Reading(CopyBuf),
    /// Read, or no longer wanted.
    Done,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Copy {
    run: ChunkRun,
    legs: Vec<Leg>,
    old: OldData,
    hash: u64,
    job: Job,
    waiters: Vec<Ticket>,
}

impl Copy {
    /// A copy of `run` for these sets.
    pub(crate) fn new(run: ChunkRun, legs: Vec<Leg>, job: Job) -> Self {
        let old = match legs.iter().any(Leg::is_reading) {
            true => OldData::Queued,
            false => OldData::Unneeded,
        };
        Self { run, legs, old, hash: 0, job, waiters: Vec::new() }
    }

    pub(crate) fn run(&self) -> ChunkRun {
        self.run
    }

    /// The run that is restored, if it is.
    pub(crate) fn restore(&self) -> Option<&RestoreRun> {
        match &self.job {
            Job::Restore(run) => Some(run),
            Job::Write | Job::Background(_) | Job::Overwrite(_) => None,
        }
    }

    /// The same, to change it.
    pub(crate) fn restore_mut(&mut self) -> Option<&mut RestoreRun> {
        match &mut self.job {
            Job::Restore(run) => Some(run),
            Job::Write | Job::Background(_) | Job::Overwrite(_) => None,
        }
    }

    /// What overwrites the run, if something does.
    pub(crate) fn overwrite(&self) -> Option<&Overwrite> {
        match &self.job {
            Job::Overwrite(overwrite) => Some(overwrite),
            Job::Write | Job::Background(_) | Job::Restore(_) => None,
        }
    }

    /// The same, to change it.
    pub(crate) fn overwrite_mut(&mut self) -> Option<&mut Overwrite> {
        match &mut self.job {
            Job::Overwrite(overwrite) => Some(overwrite),
            Job::Write | Job::Background(_) | Job::Restore(_) => None,
        }
    }

    /// The set whose copier wanted it, in either direction.
    pub(crate) fn background(&self) -> Option<SetIndex> {
        match &self.job {
            Job::Background(set) => Some(*set),
            Job::Restore(run) => run.background(),
            Job::Write | Job::Overwrite(_) => None,
        }
    }

    /// Which buffers it may have.
    pub(crate) fn pool(&self) -> Pool {
        if self.background().is_some() { Pool::Copier } else { Pool::Write }
    }

    /// Whether its records wait for company: nobody waits for the shadow's copier, but siblings of a restore are
    /// waited for.
    fn is_batched(&self) -> bool {
        matches!(self.job, Job::Background(_))
    }

    fn leg(&mut self, set: SetIndex) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.set() == set)
    }

    /// Whether nothing is left to be done for any set, and no operation of it reads the master.
    fn are_legs_over(&self) -> bool {
        let reading = matches!(self.old, OldData::Queued | OldData::Reading(_));
        !reading && self.legs.iter().all(Leg::is_settled)
    }

    /// Whether a buffer is waited for that nobody wants any more.
    fn waits_in_vain(&self) -> bool {
        self.old == OldData::Queued && self.legs.iter().all(Leg::is_settled)
    }

    /// Whether somebody waits for the run.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// A request waits until the run is unlocked, or until its own set has what it needs.
    pub(crate) fn wait(&mut self, ticket: Ticket) {
        self.waiters.push(ticket);
    }

    /// A request waits no longer; false if it did not.
    pub(crate) fn stop_waiting(&mut self, ticket: Ticket) -> bool {
        let before = self.waiters.len();
        self.waiters.retain(|waiter| *waiter != ticket);
        self.waiters.len() < before
    }

    /// Who waits.
    pub(crate) fn waiters(&self) -> &[Ticket] {
        &self.waiters
    }

    /// Whether a leg waits for the end of this set's image to be recorded.
    pub(crate) fn awaits_end_of(&self, set: SetIndex) -> bool {
        self.legs.iter().any(|leg| leg.set() == set && leg.is_ending())
    }
}
