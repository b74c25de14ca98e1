//! Commits of a set's superblock: one after the other, nothing coalesced, each to both slots (E10).
//!
//! ```text
//!  queued ──> slot A ──flush──> slot B ──flush──> idle, the next
//!                       │
//!                       └ this is the commit: the header in memory follows
//!
//!  the bitmap volume fails: what is queued or being written is dropped. A write that was under way may have landed:
//!  an end that is recorded elsewhere has to name the epoch that it would have begun
//! ```

use crate::action::{Action, Now, OpId, Place, SetIndex};
use crate::command::Done;
use crate::ending::Ending;
use crate::owner::{Owner, OwnerOutput};
use crate::record::{SetHeader, SetState};
use crate::set::{Durable, VolumeSet};
use crate::units::{Epoch, Sequence, SuperblockGeneration};
use std::collections::VecDeque;

/// Why the superblock is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// A cut, a completion, an end: the gate's header replaces ours.
    Gate(SetHeader),
    /// A cut over several sets is not decided: ours stays, and what it may become is named beside it.
    Doubt(SetHeader),
    /// It is decided that nothing happens.
    Void,
    /// Pages up to here are written.
    Checkpoint { upto: Sequence, merged: bool },
    /// The set's state changes.
    State(SetState),
    /// The shadow was written through.
    ShadowWritten,
    /// It was, by a file system that recovered its journal.
    ShadowRecovered,
    /// Nothing changes but what is said to be durable.
    Confirm,
}

impl Commit {
    /// Whether a gate waits for it.
    pub(crate) fn is_of_gate(self) -> bool {
        matches!(self, Self::Gate(_) | Self::Doubt(_) | Self::Void)
    }

    /// The header that it makes of the current one.
    fn header(self, set: &VolumeSet) -> SetHeader {
        let header = match self {
            Self::Gate(header) => header,
            Self::Doubt(_) | Self::Void | Self::Confirm => set.header,
            Self::Checkpoint { upto, merged } => {
                let merging = set.header.merging && !merged;
                SetHeader { checkpoint_upto: upto, merging, ..set.header }
            }
            // The copy may have become complete while the abort waited for its turn: then there is nothing to stop.
            Self::State(state) if state.is_copying() && !set.header.state.is_copying() => set.header,
            Self::State(state) if state.is_restoring() && !set.header.state.is_restoring() => set.header,
            Self::State(state) => SetHeader { state, ..set.header },
            Self::ShadowWritten => SetHeader { shadow_written: true, ..set.header },
            Self::ShadowRecovered => SetHeader { recovered: true, ..set.header },
        };
        SetHeader { confirmed_upto: set.journal.confirmed(), ..header }
    }
}

/// A commit on its way: first slot A, then slot B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Writing {
    commit: Commit,
    header: SetHeader,
    place: Place,
}

/// What a failed bitmap volume has cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// A commit of a gate waited for its turn.
    pub gate_waited: bool,
    /// A commit of a gate was being written: the epoch that it would have begun.
    pub gate_epoch: Option<Epoch>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Superblock {
    generation: SuperblockGeneration,
    queue: VecDeque<Commit>,
    writing: Option<Writing>,
}

impl Superblock {
    /// The superblock that was read.
    pub(crate) fn new(generation: SuperblockGeneration) -> Self {
        Self { generation, queue: VecDeque::new(), writing: None }
    }

    /// The generation that was written last.
    pub(crate) fn generation(&self) -> SuperblockGeneration {
        self.generation
    }

    /// Queues a commit.
    pub(crate) fn commit(&mut self, commit: Commit) {
        self.queue.push_back(commit);
    }

    /// Whether nothing is queued or being written.
    pub(crate) fn is_settled(&self) -> bool {
        self.writing.is_none() && self.queue.is_empty()
    }

    /// Whether nothing is being written.
    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_none()
    }

    /// Whether this commit waits for its turn.
    pub(crate) fn is_queued(&self, commit: Commit) -> bool {
        self.queue.contains(&commit)
    }

    /// Whether a change of the set's state is on its way.
    pub(crate) fn changes_state(&self) -> bool {
        let of_state = |commit: &Commit| matches!(commit, Commit::State(_));
        self.queue.iter().any(of_state) || self.writing.is_some_and(|writing| of_state(&writing.commit))
    }

    /// Nobody waits for what a gate has queued any more.
    pub(crate) fn drop_gate(&mut self) {
        self.queue.retain(|commit| !commit.is_of_gate());
    }

    /// The image has ended: a state that waits for its turn would say something else.
    pub(crate) fn drop_states(&mut self) {
        self.queue.retain(|commit| !matches!(commit, Commit::State(_)));
    }

    /// The bitmap volume has failed.
    pub(crate) fn fail(&mut self) -> Dropped {
        let writing = self.writing.take().filter(|writing| writing.commit.is_of_gate());
        let gate_waited = self.queue.iter().any(|commit| commit.is_of_gate());
        self.queue.clear();
        Dropped { gate_waited, gate_epoch: writing.map(|writing| writing.header.epoch) }
    }

    /// A slot is durable: what was committed by that, if it was the first.
    fn slot_durable(&mut self, place: Place) -> Option<(Commit, SetHeader)> {
        let writing = self.writing.as_mut()?;
        if place == Place::B {
            self.writing = None;
            return None;
        }
        writing.place = Place::B;
        Some((writing.commit, writing.header))
    }
}

impl Owner {
    /// Starts the next commit.
    pub(crate) fn start_commit(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        if !set.superblock.is_idle() || set.ending.is_elsewhere() {
            return;
        }
        let Some(commit) = set.superblock.queue.pop_front() else { return };
        let header = commit.header(set);
        set.superblock.generation = set.superblock.generation.next();
        set.superblock.writing = Some(Writing { commit, header, place: Place::A });
        self.write_superblock(index, out);
    }

    fn write_superblock(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let set = self.set_mut(index);
        let Some(Writing { commit, header, place }) = set.superblock.writing else { return };
        let op = OpId::Superblock(set.key, set.superblock.generation, place);
        let fua = set.bitmap.fua();
        set.bitmap_watch.submitted(op, now);
        let doubt = match commit {
            Commit::Doubt(then) => self.doubt(then),
            Commit::Gate(_)
            | Commit::Void
            | Commit::Checkpoint { .. }
            | Commit::State(_)
            | Commit::ShadowWritten
            | Commit::ShadowRecovered
            | Commit::Confirm => None,
        };
        self.counters.superblocks += 1;
        out.actions.push(Action::Superblock { op, set: index, header, doubt, fua });
    }

    /// A superblock slot has been written. A write that failed leaves the state unknown: the set is given up,
    /// and whoever waits (a gate among them) waits until that is recorded.
    pub(crate) fn superblock_written(
        &mut self,
        index: SetIndex,
        place: Place,
        ok: bool,
        out: &mut OwnerOutput,
    ) {
        if ok {
            self.set_mut(index).bitmap.written(Durable::Superblock(place));
        } else {
            self.bitmap_failed(index, out);
        }
    }

    /// A superblock slot is durable.
    pub(crate) fn superblock_durable(&mut self, index: SetIndex, place: Place, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        let Some((commit, header)) = set.superblock.slot_durable(place) else { return };
        set.header = header;
        set.journal.say_confirmed(header.confirmed_upto);
        self.wake_confirmed(index);
        self.write_superblock(index, out);
        match commit {
            Commit::Gate(_) | Commit::Doubt(_) | Commit::Void => self.gate_committed(index, commit, out),
            Commit::Checkpoint { upto, .. } => {
                let set = self.set_mut(index);
                set.journal.checkpointed(upto);
                set.checkpoint.committed();
            }
            Commit::State(SetState::Offline(cause)) => self.end_recorded(index, cause, out),
            Commit::State(_) => {
                if !header.state.is_restoring() {
                    self.restore_ended(index, out);
                }
                if let Some(command) = self.set_mut(index).state_command.take() {
                    out.actions.push(Action::Answer { command, result: Ok(Done::Ok) });
                }
            }
            Commit::ShadowWritten | Commit::ShadowRecovered | Commit::Confirm => {}
        }
    }

    /// Says what is durable in the superblock of a set that has been quiet for a while.
    pub(crate) fn confirm_quiet(&mut self, index: SetIndex) {
        let Now(now) = self.now;
        let gate = self.gate.is_some() || self.detached;
        let set = self.set_mut(index);
        let unsaid = set.journal.confirmed() > set.header.confirmed_upto;
        let quiet = now >= set.sealed_at.0 + QUIET_MS;
        if unsaid && quiet && !gate && set.is_serving() && set.ending == Ending::No && set.is_settled() {
            set.superblock.commit(Commit::Confirm);
        }
    }
}

/// After this long without a record the superblock says what is durable, in milliseconds: what the newest block holds is
/// said by nothing else, and its rot would look like a block that was never written.
const QUIET_MS: u64 = 1000;
