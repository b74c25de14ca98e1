//! A restore (E9): the master is from the flip on what the shadow is; what is *pending* is copied back behind it.
//!
//! ```text
//!  legs of siblings ─> regions active ─> read shadow ─> write master ─> flush master ─> J{pending 0} ─> published
//!  (copy.rs)           for those that                                   shared by a     shared by a
//!                      track                                            batch           batch
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

use crate::action::{
    Action, CopyBuf, CopyId, Device, Durability, IoKind, Memory, OpId, Refusal, RequestError, RequestId,
    SetIndex, Side,
};
use crate::journal::Purpose;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{Mode, OfflineCause, PlaneId, Record, SetState};
use crate::set::{Commit, Ending, VolumeSet};
use crate::units::{Chunk, ChunkRun};
use std::collections::BTreeSet;

/// Runs whose flush and records are shared: 16 of 1 MiB cost one flush and one record block (performance plan, 2.7).
const BATCH: usize = 16;

/// A shadow with more bad chunks than this has failed.
const UNREADABLE_MAX: usize = 1024;

/// Where a run that is restored is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Siblings are being made ready.
    Barrier,
    /// Regions of sets that track are being made active.
    Regions,
    /// The request that overwrites the run may go.
    Granted,
    /// Waits for a buffer.
    Queued,
    /// The shadow is read.
    Reading,
    /// The master is written.
    Writing,
    /// The master has it, perhaps in a cache.
    Written,
    /// The master has it durably; the record is on its way.
    Recording,
}

impl Stage {
    pub(crate) fn wants_buffer(self) -> bool {
        self == Self::Queued
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Restore {
    set: SetIndex,
    /// Runs that wait for regions.
    waiting: Vec<CopyId>,
    /// Background runs that are written and wait for company.
    batch: Vec<CopyId>,
    /// A device has failed: the copier waits for a resume or a restart.
    stopped: bool,
    /// The bitmap volume has failed, which is recorded elsewhere: the restore goes on from memory.
    unrecorded: bool,
    /// The bitmap volume has failed, and the shadow's head is there.
    head_failed: bool,
    /// Chunks that the shadow could not give.
    unreadable: BTreeSet<Chunk>,
    /// After an error runs are single chunks, so that the bad ones are known.
    one_by_one: bool,
}

impl Restore {
    pub(crate) fn set(&self) -> SetIndex {
        self.set
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
        self.restore = Some(Restore {
            set: index,
            waiting: Vec::new(),
            batch: Vec::new(),
            stopped: false,
            unrecorded: false,
            head_failed: false,
            unreadable: BTreeSet::new(),
            one_by_one: false,
        });
    }

    /// Whether the master is being restored from this set.
    pub(crate) fn restores_from(&self, index: SetIndex) -> bool {
        self.restore.as_ref().is_some_and(|restore| restore.set == index)
    }

    /// Whether the set is restored from and its shadow has failed.
    pub(crate) fn is_source_failed(&self, index: SetIndex) -> bool {
        self.restores_from(index) && self.maps.is_source_failed()
    }

    /// Restores the first part of `wanted`, which can be read from the shadow, for a write that comes behind it.
    pub(crate) fn start_restore(&mut self, wanted: ChunkRun, out: &mut OwnerOutput) -> CopyId {
        let run = self.copyable_run(wanted, None, self.run_bytes(self.limits.write_buffer_bytes));
        self.start_copy(run, None, None, Some(Stage::Barrier), out)
    }

    /// Bytes of a run that goes through a buffer of this size.
    fn run_bytes(&self, buffer_bytes: u64) -> u64 {
        let one_by_one = self.restore.as_ref().is_some_and(|restore| restore.one_by_one);
        if one_by_one { self.geometry.chunk_bytes() } else { buffer_bytes }
    }

    /// Locks the first chunk of `wanted`, which cannot be read from the shadow, for a request that overwrites all of
    /// it. The lock is kept until the record behind the write is durable. The number of things to wait for.
    pub(crate) fn start_overwrite(
        &mut self,
        wanted: ChunkRun,
        request: RequestId,
        out: &mut OwnerOutput,
    ) -> u32 {
        let id = self.start_copy(ChunkRun::new(wanted.first, 1), None, None, Some(Stage::Barrier), out);
        let copy = self.copies.get_mut(&id).expect("just started");
        copy.overwriter = Some(request);
        copy.waiters.push(request);
        1
    }

    /// Whether the request overwrites runs that it has locked.
    pub(crate) fn overwrites(&self, request: RequestId) -> bool {
        self.restore.is_some() && self.copies.values().any(|copy| copy.overwriter == Some(request))
    }

    /// What a request overwrites is on the master, perhaps in a cache; or not.
    pub(crate) fn overwritten(&mut self, request: RequestId, ok: bool, out: &mut OwnerOutput) {
        let of =
            |(id, copy): (&CopyId, &crate::copy::Copy)| (copy.overwriter == Some(request)).then_some(*id);
        let mut runs: Vec<CopyId> = self.copies.iter().filter_map(of).collect();
        runs.sort_unstable();
        for id in runs {
            if ok {
                self.copies.get_mut(&id).expect("listed").restoring = Some(Stage::Written);
                self.restored.written(id);
            } else {
                self.fail_restored(id, out);
            }
        }
    }

    /// Whether the chunk's data can be had from the shadow.
    pub(crate) fn is_restorable(&self, chunk: Chunk) -> bool {
        let restore = self.restore.as_ref().expect("a restore runs");
        let set = self.set(restore.set);
        let in_head = chunk.0 * self.geometry.chunk_bytes() < set.maps.head_bytes();
        let head_gone = restore.head_failed && in_head;
        let unreadable = head_gone || restore.unreadable.contains(&chunk);
        !self.maps.is_source_failed() && !unreadable && !set.plane(PlaneId::Lost).get(chunk.0)
    }

    /// Starts background runs, lets out what is ready, and ends the restore when nothing is pending.
    pub(crate) fn run_restore(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = &self.restore else { return };
        let index = restore.set;
        let set = self.set(index);
        let recordable = set.ending == Ending::No || restore.unrecorded;
        if !recordable || self.detached {
            return;
        }
        let runs = set.header.state == SetState::Restoring && !restore.stopped && self.gate.is_none();
        if runs {
            self.start_background_restores(index, out);
        }
        self.pass_regions(out);
        self.flush_restored(out);
        self.maybe_end_restore(index, out);
    }

    fn start_background_restores(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        loop {
            let batched = self.restore.as_ref().map_or(0, |restore| restore.batch.len());
            let copier = &self.set(index).copier;
            let working = usize::from(copier.in_flight) - batched;
            let room = usize::from(copier.in_flight) < BATCH + usize::from(copier.limits.in_flight);
            let limited =
                copier.limits.bytes_per_second.is_some() && copier.allowance < self.geometry.chunk_bytes();
            if working >= usize::from(copier.limits.in_flight)
                || !room
                || limited
                || self.free_copier_buffers.is_empty()
            {
                return;
            }
            let Some(run) = self.next_restore_run(index) else { return };
            let bytes = self.geometry.bytes_of(run).len;
            let copier = &mut self.set_mut(index).copier;
            copier.allowance = copier.allowance.saturating_sub(bytes);
            copier.in_flight += 1;
            copier.cursor = run.end().0;
            self.start_copy(run, None, Some(index), Some(Stage::Barrier), out);
        }
    }

    /// The next run that is pending and not locked, from the cursor on and around the end; the head comes first.
    fn next_restore_run(&self, index: SetIndex) -> Option<ChunkRun> {
        let set = self.set(index);
        let pending = set.plane(PlaneId::Pending);
        let free = |chunk: u64| !self.locks.contains_key(&Chunk(chunk)) && self.is_restorable(Chunk(chunk));
        let from = |start: u64, end: u64| {
            let mut at = pending.find(start, true);
            while let Some(chunk) = at.filter(|chunk| *chunk < end) {
                if free(chunk) {
                    return Some(chunk);
                }
                at = pending.find(chunk + 1, true);
            }
            None
        };
        let first = from(set.copier.cursor, pending.len()).or_else(|| from(0, set.copier.cursor))?;
        let most = self.background_chunks(index).min(pending.len() - first);
        let run = ChunkRun::new(Chunk(first), u32::try_from(most).expect("bounded by a buffer"));
        Some(self.copyable_run(run, None, self.run_bytes(self.limits.copier_buffer_bytes)))
    }

    /// Siblings are ready for the run.
    pub(crate) fn restore_run(&mut self, id: CopyId) {
        self.copies.get_mut(&id).expect("the copy is in progress").restoring = Some(Stage::Regions);
        self.restore.as_mut().expect("a restore runs").waiting.push(id);
    }

    /// Runs whose regions are active go on: to the shadow, or to the request that overwrites them.
    fn pass_regions(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = self.restore.as_mut() else { return };
        let waiting = std::mem::take(&mut restore.waiting);
        for id in waiting {
            let (run, overwriter) = (self.copies[&id].run, self.copies[&id].overwriter);
            if overwriter.is_none() && !self.is_restorable(run.first) {
                self.finish_copy(id);
                continue;
            }
            self.want_regions(run);
            if !self.are_regions_active(run) {
                self.restore.as_mut().expect("looked at").waiting.push(id);
                continue;
            }
            let copy = self.copies.get_mut(&id).expect("looked at");
            match overwriter {
                None => {
                    copy.restoring = Some(Stage::Queued);
                    self.buffer_queue.push_back(id);
                }
                Some(request) => {
                    copy.restoring = Some(Stage::Granted);
                    copy.waiters.retain(|waiter| *waiter != request);
                    self.wake(request);
                }
            }
        }
        self.give_buffers(out);
    }

    /// The run has a buffer.
    pub(crate) fn read_from_shadow(&mut self, id: CopyId, buffer: CopyBuf, out: &mut OwnerOutput) {
        let index = self.restore.as_ref().expect("a restore runs").set;
        let copy = self.copies.get_mut(&id).expect("the copy is in progress");
        copy.restoring = Some(Stage::Reading);
        let (device, range) = self.copy_target(index, self.copies[&id].run);
        let op = OpId::RestoreRead(id, index);
        let now = self.now;
        self.set_mut(index).watch(device).submitted(op, now);
        self.buffers_in_flight.push((op, buffer));
        let kind = IoKind::Read { hash: false };
        out.actions.push(Action::Io { op, device, kind, range, memory: Memory::Copy(buffer) });
    }

    /// The shadow's data is there, or not.
    pub(crate) fn restore_read(&mut self, id: CopyId, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let op = OpId::RestoreRead(id, index);
        let at = self.buffers_in_flight.iter().position(|(other, _)| *other == op);
        let lent = at.map(|at| self.buffers_in_flight.swap_remove(at));
        let set = self.sets[usize::from(index.0)].as_mut();
        let in_time = set.is_some_and(|set| set.shadow_watch.ended(op) || set.bitmap_watch.ended(op));
        // A read that was given up has no buffer any more.
        let Some((_, buffer)) = lent else { return };
        if !in_time || !self.copies.contains_key(&id) {
            self.release_buffer(buffer, out);
        } else if ok {
            self.write_to_master(id, buffer, out);
        } else {
            self.release_buffer(buffer, out);
            self.run_unreadable(id, index, out);
        }
    }

    /// The shadow answered with an error. One bad chunk is not all of the shadow: it is found, and the others go on.
    fn run_unreadable(&mut self, id: CopyId, index: SetIndex, out: &mut OwnerOutput) {
        let run = self.copies[&id].run;
        let restore = self.restore.as_mut().expect("a restore runs");
        restore.one_by_one = true;
        if run.count == 1 {
            restore.unreadable.insert(run.first);
        }
        let too_many = restore.unreadable.len() > UNREADABLE_MAX;
        self.finish_copy(id);
        if too_many {
            self.shadow_failed(index, out);
        }
    }

    fn write_to_master(&mut self, id: CopyId, buffer: CopyBuf, out: &mut OwnerOutput) {
        let copy = self.copies.get_mut(&id).expect("the copy is in progress");
        copy.restoring = Some(Stage::Writing);
        let run = copy.run;
        let from = self.restore.as_ref().expect("a restore runs").set;
        // Common rule 3: for a sibling that tracks this is a write like any other.
        for set in self.sets.iter_mut().flatten().filter(|set| set.index != from && set.is_tracking()) {
            let differs = set.differs_plane();
            run.chunks().for_each(|chunk| set.plane_mut(differs).put(chunk.0, true));
        }
        let op = OpId::RestoreWrite(id);
        self.buffers_in_flight.push((op, buffer));
        out.actions.push(Action::Io {
            op,
            device: Device::Master,
            kind: IoKind::Write { fua: false },
            range: self.geometry.bytes_of(run),
            memory: Memory::Copy(buffer),
        });
    }

    /// The master has the data, perhaps in a cache; or not.
    pub(crate) fn restore_written(&mut self, id: CopyId, ok: bool, out: &mut OwnerOutput) {
        let op = OpId::RestoreWrite(id);
        let at = self.buffers_in_flight.iter().position(|(other, _)| *other == op);
        let (_, buffer) = self.buffers_in_flight.swap_remove(at.expect("a write has a buffer"));
        self.release_buffer(buffer, out);
        if !ok {
            self.stop_restore();
            self.fail_restored(id, out);
            return;
        }
        let copy = self.copies.get_mut(&id).expect("nothing ends a run that is being written");
        copy.restoring = Some(Stage::Written);
        if copy.background.is_some() {
            self.restore.as_mut().expect("a restore runs").batch.push(id);
        } else {
            self.restored.written(id);
        }
    }

    /// Lets the batch go if it is full or nothing more will come for now, and issues what flushes are due.
    fn flush_restored(&mut self, out: &mut OwnerOutput) {
        let closing = self.gate.is_some();
        let Some(restore) = &self.restore else { return };
        let in_flight = usize::from(self.set(restore.set).copier.in_flight);
        let awaited = || restore.batch.iter().any(|id| !self.copies[id].waiters.is_empty());
        let due = !restore.batch.is_empty()
            && (restore.batch.len() >= BATCH || restore.batch.len() == in_flight || closing || awaited());
        let restore = self.restore.as_mut().expect("looked at");
        if due {
            for id in std::mem::take(&mut restore.batch) {
                self.restored.written(id);
            }
        }
        if let Some(ticket) = self.restored.issue() {
            out.actions.push(Action::Flush { op: OpId::RestoreFlush(ticket), device: Device::Master });
        }
        self.record_flushed(out);
    }

    /// A flush of the master for restored runs has ended.
    pub(crate) fn restore_flushed(&mut self, ticket: u64, ok: bool, out: &mut OwnerOutput) {
        if self.restore.is_none() {
            return;
        }
        if ok {
            self.restored.flushed(ticket);
            self.record_flushed(out);
            return;
        }
        // What was written may be gone: all of it stays pending, and is written again.
        self.restored.fail();
        self.stop_restore();
        let written = |id: &CopyId| self.copies[id].restoring == Some(Stage::Written);
        let mut lost: Vec<CopyId> = self.copies.keys().copied().filter(written).collect();
        lost.sort_unstable();
        self.restore.as_mut().expect("looked at").batch.clear();
        for id in lost {
            self.fail_restored(id, out);
        }
    }

    fn record_flushed(&mut self, out: &mut OwnerOutput) {
        while let Some(id) = self.restored.pop_ready() {
            let restore = self.restore.as_ref().expect("a restore runs");
            let (index, unrecorded) = (restore.set, restore.unrecorded);
            self.copies.get_mut(&id).expect("a run ends after its record").restoring = Some(Stage::Recording);
            if unrecorded {
                self.restored(id, out);
                continue;
            }
            let (run, overwriter) = (self.copies[&id].run, self.copies[&id].overwriter);
            let clear = PlaneId::Pending.mask() | if self.unholds(id) { PlaneId::Held.mask() } else { 0 };
            // The shadow's side of what was overwritten unread is lost (E9).
            let set = if overwriter.is_some() { PlaneId::Lost.mask() } else { 0 };
            self.set_mut(index).journal.push(Record { run, set, clear, hash: None }, Purpose::Restored(id));
        }
    }

    /// Whether the run is unheld once it is restored: nobody waits for it to write.
    fn unholds(&self, id: CopyId) -> bool {
        let index = self.restore.as_ref().expect("a restore runs").set;
        self.copies[&id].background.is_some() && self.set(index).parameters.mode == Mode::Dependent
    }

    /// The record is durable, or the restore goes on without: from here on the run is the master's own.
    pub(crate) fn restored(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let Some(copy) = self.copies.get(&id) else { return };
        let (run, background, overwriter) = (copy.run, copy.background.is_some(), copy.overwriter);
        let unheld = self.unholds(id);
        let index = self.restore.as_ref().expect("a restore runs").set;
        let set = self.set_mut(index);
        for chunk in run.chunks() {
            set.plane_mut(PlaneId::Pending).put(chunk.0, false);
            if unheld {
                set.plane_mut(PlaneId::Held).put(chunk.0, false);
                set.maps.held.clear(chunk.0);
            }
            if overwriter.is_some() {
                set.plane_mut(PlaneId::Lost).put(chunk.0, true);
                set.maps.lost.set(chunk.0);
            }
        }
        for chunk in run.chunks() {
            self.maps.pending.clear(chunk.0);
        }
        if !background {
            self.counters.write_restores += 1;
        }
        self.finish_copy(id);
        if let Some(request) = overwriter.filter(|request| !self.overwrites(*request)) {
            self.finish_request(request, Ok(()), out);
        }
        self.maybe_end_restore(index, out);
    }

    /// The master did not take the run: it stays pending, and who wanted to write to it, from either side, gets an
    /// error. A sibling's shadow only waited for the lock.
    fn fail_restored(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let overwriter = self.copies[&id].overwriter;
        if let Some(request) = overwriter {
            // Whoever waits for the run may have better luck, or overwrite it as well.
            self.finish_copy(id);
            return self.finish_request(request, Err(RequestError::Io), out);
        }
        for waiter in self.unlock_copy(id) {
            match self.waiting_side(waiter) {
                Some(Side::Shadow(set)) if !self.restores_from(set) => self.wake(waiter),
                Some(Side::Master | Side::Shadow(_)) | None => self.fail_request(waiter, out),
            }
        }
    }

    /// The copier stops until somebody says that it may go on.
    fn stop_restore(&mut self) {
        if let Some(restore) = &mut self.restore {
            restore.stopped = true;
        }
    }

    /// The shadow that is restored from has failed: what is pending is an error on both sides, and stays pending.
    pub(crate) fn source_failed(&mut self, index: SetIndex) {
        self.maps.set_source_failed(true);
        self.set(index).maps.set_offline(true);
        self.stop_restore();
        self.lose_legs(index);
        self.end_unreadable();
    }

    /// The bitmap volume of the set that is restored from has failed: it takes the shadow's head along.
    pub(crate) fn head_failed(&mut self, index: SetIndex) {
        if let Some(restore) = self.restore.as_mut().filter(|restore| restore.set == index) {
            restore.head_failed = true;
            self.end_unreadable();
        }
    }

    /// Ends the runs that cannot be read any more; whoever waits for one judges anew. Those that wait for siblings end
    /// behind them; those that the master has already need the shadow no more.
    fn end_unreadable(&mut self) {
        let waits = |stage: Stage| matches!(stage, Stage::Regions | Stage::Queued | Stage::Reading);
        let unreadable = |id: &CopyId| {
            let copy = &self.copies[id];
            copy.restoring.is_some_and(waits)
                && copy.overwriter.is_none()
                && !self.is_restorable(copy.run.first)
        };
        let mut failed: Vec<CopyId> = self.copies.keys().copied().filter(unreadable).collect();
        failed.sort_unstable();
        if let Some(restore) = &mut self.restore {
            restore.waiting.retain(|id| !failed.contains(id));
        }
        failed.into_iter().for_each(|id| self.finish_copy(id));
    }

    /// Somebody says that the restore may be tried again.
    ///
    /// # Errors
    /// While I/O that was given up has not come back.
    pub(crate) fn retry_restore(&mut self, index: SetIndex) -> Result<(), Refusal> {
        if !self.restores_from(index) {
            return Ok(());
        }
        let set = self.set(index);
        if set.shadow_watch.has_abandoned() {
            return Err(Refusal::AbandonedIo(Device::Shadow(index)));
        }
        if set.bitmap_watch.has_abandoned() {
            return Err(Refusal::AbandonedIo(Device::Bitmap(index)));
        }
        if set.ending == Ending::No {
            set.maps.set_failing(false);
            set.maps.set_offline(false);
        }
        self.maps.set_source_failed(false);
        let restore = self.restore.as_mut().expect("just asked");
        (restore.stopped, restore.head_failed, restore.one_by_one) = (false, false, false);
        restore.unreadable.clear();
        Ok(())
    }

    /// The end of the image of a set that is restored from is recorded away from its bitmap volume: what is
    /// pending is copied all the same, from memory.
    pub(crate) fn restore_unrecorded(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = &mut self.restore else { return };
        restore.unrecorded = true;
        let recording = |id: &CopyId| self.copies[id].restoring == Some(Stage::Recording);
        let mut waiting: Vec<CopyId> = self.copies.keys().copied().filter(recording).collect();
        waiting.sort_unstable();
        for id in waiting {
            self.restored(id, out);
        }
    }

    /// Nothing is pending: the set is at rest again.
    fn maybe_end_restore(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Some(restore) = &self.restore else { return };
        let unrecorded = restore.unrecorded;
        let set = self.set(index);
        let pending = set.plane(PlaneId::Pending).ones();
        if pending > 0 || self.copies.values().any(|copy| copy.restoring.is_some()) {
            return;
        }
        if unrecorded {
            let (epoch, cause, since) = (set.given_up_epoch, OfflineCause::Bitmap, self.now);
            let set = self.set_mut(index);
            set.header.state = SetState::Offline(cause);
            // Tried until it is recorded: else the next start would refuse a master that is whole.
            set.ending = Ending::Elsewhere { cause, since, retry_at: None };
            self.restore_ended(index, out);
            out.actions.push(Action::GiveUp { set: index, cause, epoch, master_incomplete: false });
        } else if set.ending == Ending::No && !has_state_commit(set) {
            let state = set.parameters.mode.at_rest();
            self.set_mut(index).commits.push_back(Commit::State(state));
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
        if failed {
            // Only the restore kept the set until now.
            self.shadow_failed(index, out);
        }
    }
}

/// Whether a change of the set's state is on its way already.
fn has_state_commit(set: &VolumeSet) -> bool {
    set.commits.iter().any(|commit| matches!(commit, Commit::State(_))) || set.is_committing_state()
}
