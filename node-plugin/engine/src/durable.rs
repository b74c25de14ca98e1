//! What makes a set's state durable: journal blocks, flush tickets, superblock commits, checkpoints.

use crate::action::{Action, Device, Done, Now, OpId, Place, SetIndex};
use crate::journal::Purpose;
use crate::owner::{Owner, OwnerOutput};
use crate::record::{PlaneId, SetHeader, SetState};
use crate::set::{Checkpoint, Commit, Committing, Durable, Ending, VolumeSet};
use crate::units::Sequence;

/// Bitmap pages in flight per set: a checkpoint is background work.
const PAGES_IN_FLIGHT_MAX: usize = 16;

/// After this long without a record the superblock says what is durable, in milliseconds: what the newest block holds is
/// said by nothing else, and its rot would look like a block that was never written.
const QUIET_MS: u64 = 1000;

impl Owner {
    /// Handles everything that has become durable, and lets out everything that is ready, until nothing moves.
    pub(crate) fn settle(&mut self, out: &mut OwnerOutput) {
        for index in self.set_indexes() {
            while let Some(item) = self.next_durable(index) {
                self.became_durable(index, item, out);
            }
            self.seal_journal(index, out);
            self.start_commit(index, out);
            self.run_checkpoint(index, out);
            while let Some(item) = self.next_durable(index) {
                self.became_durable(index, item, out);
            }
            self.issue_flushes(index, out);
        }
    }

    fn next_durable(&mut self, index: SetIndex) -> Option<Durable> {
        let set = self.sets[usize::from(index.0)].as_mut()?;
        set.shadow.pop_ready().or_else(|| set.bitmap.pop_ready())
    }

    fn became_durable(&mut self, index: SetIndex, item: Durable, out: &mut OwnerOutput) {
        match item {
            Durable::CopyData(copy) => self.copy_data_durable(copy, index),
            Durable::Block(sequence) => self.block_durable(index, sequence, out),
            Durable::Pages => self.pages_durable(index, out),
            Durable::Superblock(place) => self.superblock_durable(index, place, out),
            Durable::Gate(round) => self.gate_flushed(round, out),
        }
    }

    fn issue_flushes(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        for device in [Device::Shadow(index), Device::Bitmap(index)] {
            let flusher = if device == Device::Shadow(index) { &mut set.shadow } else { &mut set.bitmap };
            if let Some(ticket) = flusher.issue() {
                let op = OpId::Flush(device, ticket);
                set.watch(device).submitted(op, now);
                out.actions.push(Action::Flush { op, device });
                self.counters.flushes += 1;
            }
        }
    }

    /// A flush of a shadow or bitmap volume has ended. A failed flush is a failed device: never retried (E8).
    pub(crate) fn device_flushed(
        &mut self,
        device: Device,
        index: SetIndex,
        ticket: u64,
        ok: bool,
        out: &mut OwnerOutput,
    ) {
        let set = self.set_mut(index);
        match (ok, device == Device::Shadow(index)) {
            (true, true) => set.shadow.flushed(ticket),
            (true, false) => set.bitmap.flushed(ticket),
            (false, true) => self.shadow_failed(index, out),
            (false, false) => self.bitmap_failed(index, out),
        }
    }

    fn seal_journal(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        loop {
            let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
            if matches!(set.ending, Ending::Elsewhere { .. } | Ending::Recorded) {
                set.stalled_since = None;
                return;
            }
            let Some(block) = set.journal.seal(set.header.epoch) else {
                let since = set.stalled_since.unwrap_or(now);
                set.stalled_since = set.journal.is_stalled().then_some(since);
                return;
            };
            let sequence = block.sequence;
            set.sealed_at = now;
            let op = OpId::Journal(index, sequence);
            set.bitmap_watch.submitted(op, now);
            let fua = set.bitmap.fua();
            let purposes = set.journal.sealed().to_vec();
            self.counters.journal_blocks += 1;
            self.counters.records += block.records.len() as u64;
            out.actions.push(Action::Journal { op, set: index, fua, block });
            for purpose in purposes {
                if let Purpose::Held(copy) = purpose {
                    self.copy_sealed(copy, index, sequence);
                }
            }
        }
    }

    /// A journal block has been written.
    pub(crate) fn journal_written(
        &mut self,
        index: SetIndex,
        sequence: Sequence,
        ok: bool,
        out: &mut OwnerOutput,
    ) {
        if ok {
            self.set_mut(index).bitmap.written(Durable::Block(sequence));
        } else {
            self.bitmap_failed(index, out);
        }
    }

    fn block_durable(&mut self, index: SetIndex, sequence: Sequence, out: &mut OwnerOutput) {
        let mut purposes = Vec::new();
        self.set_mut(index).journal.durable(sequence, &mut purposes);
        for (purpose, _) in purposes {
            match purpose {
                Purpose::Held(copy) => self.copy_record_durable(copy, index),
                Purpose::Lost(copy) => self.copy_lost(copy, index),
                Purpose::Restored(copy) => self.run_restored(copy, out),
                Purpose::RegionActive(region) => {
                    let set = self.set_mut(index);
                    let plane = set.region_plane();
                    set.plane_mut(plane).put(region, true);
                    self.region_settled(region);
                }
            }
        }
        self.wake_confirmed(index);
    }

    /// Starts the next superblock commit: slot A, flush (this is the commit), slot B, flush (E10).
    fn start_commit(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        if set.committing != Committing::Idle || matches!(set.ending, Ending::Elsewhere { .. }) {
            return;
        }
        let Some(commit) = set.commits.pop_front() else { return };
        set.pending_header =
            SetHeader { confirmed_upto: set.journal.confirmed(), ..next_header(set, commit) };
        set.generation = set.generation.next();
        set.committing = Committing::Slot { place: Place::A, commit };
        self.write_superblock(index, Place::A, out);
    }

    /// Says what is durable in the superblock of a set that has been quiet for a while.
    pub(crate) fn confirm_quiet(&mut self, index: SetIndex) {
        let Now(now) = self.now;
        let gate = self.gate.is_some() || self.detached;
        let set = self.set_mut(index);
        let unsaid = set.journal.confirmed() > set.header.confirmed_upto;
        let quiet = now >= set.sealed_at.0 + QUIET_MS;
        if unsaid && quiet && !gate && set.is_serving() && set.ending == Ending::No && set.is_settled() {
            set.commits.push_back(Commit::Confirm);
        }
    }

    fn write_superblock(&mut self, index: SetIndex, place: Place, out: &mut OwnerOutput) {
        let now = self.now;
        self.counters.superblocks += 1;
        let set = self.set_mut(index);
        let op = OpId::Superblock(index, set.generation, place);
        let fua = set.bitmap.fua();
        let header = set.pending_header;
        set.bitmap_watch.submitted(op, now);
        let doubt = match set.committing {
            Committing::Slot { commit: Commit::Doubt(then), .. } => self.doubt(then),
            Committing::Slot { .. } | Committing::Idle => None,
        };
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

    fn superblock_durable(&mut self, index: SetIndex, place: Place, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        let Committing::Slot { commit, .. } = set.committing else { return };
        if place == Place::B {
            set.committing = Committing::Idle;
            return;
        }
        set.committing = Committing::Slot { place: Place::B, commit };
        let header = set.pending_header;
        set.header = header;
        set.journal.say_confirmed(header.confirmed_upto);
        self.wake_confirmed(index);
        self.write_superblock(index, Place::B, out);
        match commit {
            Commit::Gate(_) | Commit::Doubt(_) | Commit::Void => self.gate_committed(index, commit, out),
            Commit::Checkpoint { upto, .. } => {
                let set = self.set_mut(index);
                set.journal.checkpointed(upto);
                set.checkpoint = Checkpoint::Idle;
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
            Commit::ShadowWritten | Commit::Confirm => {}
        }
    }

    /// Starts and drives checkpoints: dirty pages to their older places, then a superblock that lets the ring's
    /// tail advance.
    fn run_checkpoint(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let due = {
            let Some(set) = self.sets[usize::from(index.0)].as_ref() else { return };
            let asked = set.journal.wants_checkpoint() || set.header.merging || set.checkpoint_wanted;
            !self.detached
                && set.checkpoint == Checkpoint::Idle
                && asked
                && set.ending == Ending::No
                && set.header.state.is_online()
        };
        if due && !self.gate_is_committing() {
            let maps = std::sync::Arc::clone(&self.maps);
            let set = self.set_mut(index);
            set.fold_written(&maps);
            if set.is_tracking() {
                set.fold_lost();
            }
            set.checkpoint_wanted = false;
            let upto = set.journal.confirmed();
            set.checkpoint = Checkpoint::Pages { upto, place: Place::A, next: 0, merged: set.header.merging };
            let ids =
                [PlaneId::Held, PlaneId::Lost, set.differs_plane(), set.region_plane(), PlaneId::Pending];
            set.checkpoint_pages.clear();
            for id in ids {
                let mut from = 0;
                while let Some(page) = set.plane_mut(id).take_dirty(from) {
                    from = page + 1;
                    set.checkpoint_pages
                        .push((id, u32::try_from(page).expect("pages are counted in 32 bits")));
                }
            }
            self.write_pages(index, out);
        }
    }

    /// Sends pages out until enough are in flight or none is left for this place.
    fn write_pages(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let set = self.sets[usize::from(index.0)].as_mut().expect("a set that exists");
        let Checkpoint::Pages { upto, place, mut next, merged } = set.checkpoint else { return };
        while set.pages_in_flight < PAGES_IN_FLIGHT_MAX
            && let Some((plane, page)) = set.checkpoint_pages.get(next).copied()
        {
            next += 1;
            set.pages_in_flight += 1;
            set.page_writes += 1;
            let op = OpId::Page(index, set.page_writes);
            set.bitmap_watch.submitted(op, now);
            let (fua, stamp, sequence) = (set.bitmap.fua(), set.generation, upto);
            out.actions.push(Action::Page { op, set: index, plane, page, place, stamp, fua, sequence });
            self.counters.pages += 1;
        }
        if set.pages_in_flight == 0 {
            set.bitmap.written(Durable::Pages);
        }
        set.checkpoint = Checkpoint::Pages { upto, place, next, merged };
    }

    /// A page has been written to one of its places.
    pub(crate) fn page_written(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        if ok {
            self.set_mut(index).pages_in_flight -= 1;
            self.write_pages(index, out);
        } else {
            self.bitmap_failed(index, out);
        }
    }

    /// All pages are durable at one place: now the other, then the superblock.
    fn pages_durable(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        match set.checkpoint {
            Checkpoint::Pages { upto, place: Place::A, merged, .. } => {
                set.checkpoint = Checkpoint::Pages { upto, place: Place::B, next: 0, merged };
                self.write_pages(index, out);
            }
            Checkpoint::Pages { upto, place: Place::B, merged, .. } => {
                set.commits.push_back(Commit::Checkpoint { upto, merged });
                set.checkpoint = Checkpoint::Committing;
            }
            Checkpoint::Idle | Checkpoint::Committing => {}
        }
    }
}

/// The header that a commit makes of the current one.
fn next_header(set: &VolumeSet, commit: Commit) -> SetHeader {
    match commit {
        Commit::Gate(header) => header,
        Commit::Doubt(_) | Commit::Void | Commit::Confirm => set.header,
        Commit::Checkpoint { upto, merged } => {
            let merging = set.header.merging && !merged;
            SetHeader { checkpoint_upto: upto, merging, ..set.header }
        }
        // The copy may have become complete while the abort waited for its turn: then there is nothing to stop.
        Commit::State(state) if state.is_copying() && !set.header.state.is_copying() => set.header,
        Commit::State(state) if state.is_restoring() && !set.header.state.is_restoring() => set.header,
        Commit::State(state) => SetHeader { state, ..set.header },
        Commit::ShadowWritten => SetHeader { shadow_written: true, ..set.header },
    }
}
