//! A restore (E9): the master is from the flip on what the shadow is; what is *pending* is copied back behind it.
//!
//! ```text
//!  begun ──> Running ──nothing pending──> ended (set at rest, recorded)
//!              │  ^
//!   a device   v  │ resume, restart                                    recorded: on the bitmap volume
//!   fails    Stopped                                                       └─ it fails ──> from memory, to the end
//! ```
//!
//! A restored run is a write of the master: every sibling gets what it needs first (common rule 3). *Pending* is
//! cleared only after the master has the data durably, else a power cut would show what was there before the
//! restore. Until then both sides read the shadow. Whoever writes to a pending chunk has it restored first.
//!
//! A chunk that the copier restores is *unheld* again in a dependent set; one that is restored for a write stays
//! held, because the write makes the sides differ at once.
//!
//! The pages of *pending* are written under the gate, before the flip, and count only while the superblock says
//! that a restore runs: nothing about them has to be derived after a crash.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | one restore, from its flip until nothing is pending |
//! | `run.rs` | a run on its way from the shadow to the master |
//! | `overwrite.rs` | a chunk that a request replaces, because it cannot be read |
//! | `copier.rs` | which runs are restored in the background |
//! | `steps.rs` | the steps of a run |
//! | `failure.rs` | what cannot be read, or not be written |

mod copier;
mod failure;
mod overwrite;
mod run;
mod steps;

pub(crate) use overwrite::{Hold, Overwrite};
pub(crate) use run::{RestoreRun, Stage};

use crate::action::{Action, CopyId, Durability, HeadMove, RestoreStatus, RestoreStop, SetIndex};
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::port::ToPort;
use crate::record::{OfflineCause, PlaneId, SetState};
use crate::set::{HeadMoving, VolumeSet};
use crate::superblock::Commit;
use crate::units::Chunk;
use std::collections::BTreeSet;

/// Whether the copier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Running,
    /// A device has failed: waits for a resume or a restart.
    Stopped(RestoreStop),
}

/// Where it is recorded what is no longer pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    OnBitmap,
    /// The bitmap volume has failed, which is recorded elsewhere: the restore goes on from memory.
    InMemory,
}

/// Where the head of the shadow is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// Where it is: on the bitmap volume if it has moved there.
    OnDevice {
        /// It could not be read into memory as a whole; parts of it may be readable.
        tried: bool,
    },
    /// From memory: the bitmap volume may fail.
    Kept,
    /// It was on the bitmap volume, and that has failed.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Restore {
    set: SetIndex,
    progress: Progress,
    recorded: Recorded,
    /// Runs that wait for regions.
    waiting: Vec<CopyId>,
    /// Background runs that are written and wait for company.
    batch: Vec<CopyId>,
    head: Head,
    /// Chunks that the shadow could not give.
    unreadable: BTreeSet<Chunk>,
    /// After an error runs are single chunks, so that the bad ones are known.
    one_by_one: bool,
    /// The copier found nothing that it could restore.
    exhausted: bool,
}

impl Restore {
    fn new(set: SetIndex) -> Self {
        Self {
            set,
            progress: Progress::Running,
            recorded: Recorded::OnBitmap,
            waiting: Vec::new(),
            batch: Vec::new(),
            head: Head::OnDevice { tried: false },
            unreadable: BTreeSet::new(),
            one_by_one: false,
            exhausted: false,
        }
    }

    /// The set that the master is restored from.
    pub(crate) fn set(&self) -> SetIndex {
        self.set
    }

    /// How it goes, for people; `state` is its set's.
    pub(crate) fn status(&self, state: SetState) -> RestoreStatus {
        let stands = match self.progress {
            Progress::Stopped(cause) => Some(cause),
            Progress::Running if state == SetState::RestoreAborted => Some(RestoreStop::Aborted),
            Progress::Running if self.exhausted => Some(RestoreStop::Unreadable),
            Progress::Running => None,
        };
        RestoreStatus {
            stands,
            unreadable: self.unreadable.len() as u64,
            from_memory: self.recorded == Recorded::InMemory,
        }
    }
}

impl Owner {
    /// The set's *pending* plane is complete and its superblock says that a restore runs. Under the gate, or
    /// before the first request.
    pub(crate) fn begin_restore(&mut self, index: SetIndex) {
        assert!(self.restore.is_none(), "one restore per master");
        let pending =
            self.sets[usize::from(index.0)].as_ref().expect("a set that exists").plane(PlaneId::Pending);
        for word in 0..self.maps.pending.words() {
            self.maps.pending.set_word(word, pending.word(word));
        }
        self.maps.set_source_failed(false);
        self.maps.set_restored_from(Some(index));
        // How the master becomes durable is the device's business: a flush says so everywhere. The mutant takes what is
        // only written for durable.
        self.restored.restart(match is_off(Rule::FlushBeforePendingClear) {
            false => Durability::Flush,
            true => Durability::WriteThrough,
        });
        self.restore = Some(Restore::new(index));
    }

    /// Whether the master is being restored from this set.
    pub(crate) fn restores_from(&self, index: SetIndex) -> bool {
        self.restore.as_ref().is_some_and(|restore| restore.set == index)
    }

    /// How the restore from this set goes, if there is one.
    pub(crate) fn restore_status(&self, set: &VolumeSet) -> Option<RestoreStatus> {
        let restore = self.restore.as_ref().filter(|restore| restore.set == set.index)?;
        Some(restore.status(set.header.state))
    }

    /// The restore, which is known to run.
    fn restore_of(&mut self) -> &mut Restore {
        self.restore.as_mut().expect("a restore runs")
    }

    /// Starts background runs, lets out what is ready, and ends the restore when nothing is pending.
    pub(crate) fn run_restore(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = &self.restore else { return };
        let index = restore.set;
        let set = self.set(index);
        let recordable = set.ending == Ending::No || restore.recorded == Recorded::InMemory;
        if !recordable || self.detached {
            return;
        }
        let running = set.header.state == SetState::Restoring && restore.progress == Progress::Running;
        if running && self.gate.is_none() {
            self.start_background_restores(index, out);
        }
        self.keep_head(index, out);
        self.pass_regions(out);
        self.flush_restored(out);
        self.maybe_end_restore(index, out);
    }

    /// After a start the head is read into memory, once; after a cut it is there already.
    fn keep_head(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let wanted = self.restore_of().head == Head::OnDevice { tried: false };
        let since = self.now;
        let set = self.set_mut(index);
        if wanted && set.header.head_moved && set.head_moving.is_none() && set.ending == Ending::No {
            set.head_moving = Some(HeadMoving { to: HeadMove::Keep, since });
            out.actions.push(Action::MoveHead { set: index, to: HeadMove::Keep });
        }
    }

    /// The head is in memory, or could not be read: then a later failure of the bitmap volume takes it along.
    pub(crate) fn head_kept(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let Some(restore) = self.restore.as_mut().filter(|restore| restore.set == index) else {
            // It has ended without the head.
            out.actions.push(Action::ForgetHead { set: index });
            return;
        };
        match restore.head {
            // Also late, when the bitmap volume has been given up: what is pending does not change.
            Head::OnDevice { .. } | Head::Failed if ok => {
                restore.head = Head::Kept;
                out.messages.push(ToPort::HeadKept(true));
            }
            Head::OnDevice { .. } => restore.head = Head::OnDevice { tried: true },
            Head::Kept | Head::Failed => {}
        }
    }

    /// Chunks of the head that is on the bitmap volume.
    pub(crate) fn head_chunks(&self, index: SetIndex) -> u64 {
        self.set(index).maps.head_bytes().div_ceil(self.geometry.chunk_bytes())
    }

    /// Nothing is pending: the set is at rest again.
    fn maybe_end_restore(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Some(restore) = &self.restore else { return };
        let recorded = restore.recorded;
        let set = self.set(index);
        let restores = |copy: &crate::copy::Copy| copy.restore().is_some() || copy.overwrite().is_some();
        if set.plane(PlaneId::Pending).ones() > 0 || self.copies.iter().any(restores) {
            return;
        }
        if recorded == Recorded::InMemory {
            let (epoch, cause, since) = (set.given_up_epoch, OfflineCause::Bitmap, self.now);
            let set = self.set_mut(index);
            set.header.state = SetState::Offline(cause);
            // Tried until it is recorded: else the next start would refuse a master that is whole.
            set.ending = Ending::Elsewhere { cause, since, retry_at: None };
            self.restore_ended(index, out);
            out.actions.push(Action::GiveUp { set: index, cause, epoch, master_incomplete: false });
        } else if set.ending == Ending::No && !set.superblock.changes_state() {
            let state = set.parameters.mode.at_rest();
            if state != SetState::Complete || self.has_recorded_lost(index) {
                self.set_mut(index).superblock.commit(Commit::State(state));
            }
        }
    }

    /// The master is whole, and everything durable says so.
    pub(crate) fn restore_ended(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        if !self.restores_from(index) {
            return;
        }
        let failed = self.maps.is_source_failed();
        self.maps.set_source_failed(false);
        self.maps.set_restored_from(None);
        self.restore = None;
        out.messages.push(ToPort::HeadKept(false));
        out.actions.push(Action::ForgetHead { set: index });
        if failed {
            // Only the restore kept the set until now.
            self.shadow_failed(index, out);
        }
    }
}
