//! The steps of a restored run, and of a chunk that is overwritten instead.

use super::copier::BATCH;
use super::{Head, Hold, Overwrite, Recorded, RestoreRun, Stage};
use crate::action::{
    Action, CopyBuf, CopyId, Device, FlushTicket, IoKind, Memory, OpId, RequestId, SetIndex,
};
use crate::copy::{Copy, Job};
use crate::journal::Purpose;
use crate::owner::{Owner, OwnerOutput};
use crate::record::{Mode, PlaneId, Record};
use crate::requests::Ticket;
use crate::units::{Chunk, ChunkRun};

impl Owner {
    /// Locks a chunk, which cannot be read from the shadow, for a request that overwrites all of it. The lock is kept
    /// until the record behind the write is durable, or the request has failed.
    pub(crate) fn start_overwrite(&mut self, chunk: Chunk, ticket: Ticket, out: &mut OwnerOutput) {
        let job = Job::Overwrite(Overwrite::new(ticket));
        let id = self.start_copy(ChunkRun::new(chunk, 1), None, job, out);
        self.copies.of_mut(id).wait(ticket);
    }

    /// The chunks that a request holds to overwrite them.
    fn held_by(&self, ticket: Ticket) -> Vec<CopyId> {
        let holds = |copy: &Copy| copy.overwrite().is_some_and(|overwrite| overwrite.by() == Some(ticket));
        match self.restore {
            Some(_) => self.copies.ids(holds),
            None => Vec::new(),
        }
    }

    /// Whether the request overwrites chunks that it has locked.
    pub(crate) fn overwrites(&self, ticket: Ticket) -> bool {
        !self.held_by(ticket).is_empty()
    }

    /// A request ends without having been written: what it was to overwrite stays as it is.
    pub(crate) fn let_go(&mut self, ticket: Ticket) {
        for id in self.held_by(ticket) {
            if self.copies.of_mut(id).overwrite_mut().is_some_and(Overwrite::let_go) {
                self.finish_copy(id);
            }
        }
    }

    /// What a request overwrites is on the master, perhaps in a cache; or not.
    pub(crate) fn overwritten(&mut self, request: RequestId, ok: bool, out: &mut OwnerOutput) {
        let ticket = self.requests.of_port(request).expect("a request is kept until it is finished");
        for id in self.held_by(ticket) {
            if ok {
                self.advance_overwrite(id, Hold::Written);
                self.restored.written(id);
            } else {
                self.fail_restored(id, out);
            }
        }
    }

    fn advance(&mut self, id: CopyId, to: Stage) {
        self.copies.of_mut(id).restore_mut().expect("a run that is restored").advance(to);
    }

    fn advance_overwrite(&mut self, id: CopyId, to: Hold) {
        self.copies.of_mut(id).overwrite_mut().expect("a chunk that is overwritten").advance(to);
    }

    /// Siblings are ready for the run.
    pub(crate) fn siblings_ready(&mut self, id: CopyId) {
        if self.copies.of(id).restore().is_some() {
            self.advance(id, Stage::Regions);
        } else {
            self.advance_overwrite(id, Hold::Regions);
        }
        self.restore_of().waiting.push(id);
    }

    /// Runs whose regions are active go on: to the shadow, or to the request that overwrites them.
    pub(super) fn pass_regions(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = self.restore.as_mut() else { return };
        let waiting = std::mem::take(&mut restore.waiting);
        for id in waiting {
            let run = self.copies.of(id).run();
            let by = match self.copies.of(id).overwrite() {
                Some(overwrite) => overwrite.by(),
                None if self.is_restorable(run.first) => None,
                None => {
                    self.finish_copy(id);
                    continue;
                }
            };
            let restored = self.copies.of(id).restore().is_some();
            if !restored && by.is_none() {
                // Whoever was to overwrite it has failed.
                self.finish_copy(id);
                continue;
            }
            self.want_regions(run);
            if !self.are_regions_active(run) {
                self.restore_of().waiting.push(id);
                continue;
            }
            match by {
                None => {
                    self.advance(id, Stage::Queued);
                    self.queue_for_buffer(id, out);
                }
                Some(ticket) => {
                    self.advance_overwrite(id, Hold::Granted);
                    if self.copies.of_mut(id).stop_waiting(ticket) {
                        self.requests.wake(ticket);
                    }
                }
            }
        }
    }

    /// The run has a buffer.
    pub(crate) fn read_from_shadow(&mut self, id: CopyId, buffer: CopyBuf, out: &mut OwnerOutput) {
        let index = self.restore_of().set;
        self.advance(id, Stage::Reading);
        let run = self.copies.of(id).run();
        let bytes = self.geometry.bytes_of(run);
        let from_memory =
            self.restore_of().head == Head::Kept && bytes.start < self.set(index).maps.head_bytes();
        let op = OpId::RestoreRead(id, index);
        let (device, range) = match from_memory {
            true => (Device::Head(index), bytes),
            false => self.copy_target(index, run),
        };
        if from_memory {
            self.copies.of_mut(id).restore_mut().expect("a run that is restored").read_from(true);
        } else {
            let now = self.now;
            self.set_mut(index).watch(device).submitted(op, now);
        }
        self.buffers.lend(op, buffer);
        let kind = IoKind::Read { hash: false };
        out.actions.push(Action::Io { op, device, kind, range, memory: Memory::Copy(buffer) });
    }

    /// The shadow's data is there, or not.
    pub(crate) fn restore_read(&mut self, id: CopyId, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let op = OpId::RestoreRead(id, index);
        let lent = self.buffers.back(op);
        let set = self.sets[usize::from(index.0)].as_mut();
        let watched = set.is_some_and(|set| set.shadow_watch.ended(op) || set.bitmap_watch.ended(op));
        let run = self.copies.get(id).and_then(Copy::restore);
        let in_time = watched || run.is_some_and(RestoreRun::is_from_memory);
        // A read that was given up has no buffer any more.
        let Some(buffer) = lent else { return };
        if !in_time || self.copies.get(id).is_none() {
            self.release_buffer(buffer, out);
        } else if ok {
            self.write_to_master(id, buffer, out);
        } else {
            self.release_buffer(buffer, out);
            self.run_unreadable(id, index, out);
        }
    }

    fn write_to_master(&mut self, id: CopyId, buffer: CopyBuf, out: &mut OwnerOutput) {
        self.advance(id, Stage::Writing);
        let run = self.copies.of(id).run();
        let from = self.restore_of().set;
        // Common rule 3: for a sibling that tracks this is a write like any other.
        for set in self.sets.iter_mut().flatten().filter(|set| set.index != from && set.is_tracking()) {
            let differs = set.differs_plane();
            run.chunks().for_each(|chunk| set.plane_mut(differs).put(chunk.0, true));
        }
        let op = OpId::RestoreWrite(id);
        self.buffers.lend(op, buffer);
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
        let buffer = self.buffers.back(OpId::RestoreWrite(id)).expect("a write has a buffer");
        self.release_buffer(buffer, out);
        if !ok {
            self.master_failed(id, out);
            return;
        }
        self.advance(id, Stage::Written);
        if self.copies.of(id).background().is_some() {
            self.restore_of().batch.push(id);
        } else {
            self.restored.written(id);
        }
    }

    /// Lets the batch go if it is full or nothing more will come for now, and issues what flushes are due.
    pub(super) fn flush_restored(&mut self, out: &mut OwnerOutput) {
        let closing = self.gate.is_some();
        let Some(restore) = &self.restore else { return };
        let in_flight = self.set(restore.set).copier.in_flight();
        let awaited = || restore.batch.iter().any(|id| self.copies.of(*id).is_awaited());
        let due = !restore.batch.is_empty()
            && (restore.batch.len() >= BATCH || restore.batch.len() == in_flight || closing || awaited());
        if due {
            for id in std::mem::take(&mut self.restore_of().batch) {
                self.restored.written(id);
            }
        }
        if let Some(ticket) = self.restored.issue(&mut self.tickets) {
            out.actions.push(Action::Flush { op: OpId::RestoreFlush(ticket), device: Device::Master });
        }
        self.record_flushed(out);
    }

    /// A flush of the master for restored runs has ended.
    pub(crate) fn restore_flushed(&mut self, ticket: FlushTicket, ok: bool, out: &mut OwnerOutput) {
        if self.restore.is_none() {
            return;
        }
        if ok {
            self.restored.flushed(ticket);
            self.record_flushed(out);
        } else {
            self.master_flush_failed(out);
        }
    }

    fn record_flushed(&mut self, out: &mut OwnerOutput) {
        while let Some(id) = self.restored.pop_ready() {
            let (index, recorded) = (self.restore_of().set, self.restore_of().recorded);
            let overwritten = self.copies.of(id).overwrite().is_some();
            if overwritten {
                self.advance_overwrite(id, Hold::Recording);
            } else {
                self.advance(id, Stage::Recording);
            }
            if recorded == Recorded::InMemory {
                self.run_restored(id, out);
                continue;
            }
            let run = self.copies.of(id).run();
            let clear = PlaneId::Pending.mask() | if self.unholds(id) { PlaneId::Held.mask() } else { 0 };
            // The shadow's side of what was overwritten unread is lost (E9).
            let set = if overwritten { PlaneId::Lost.mask() } else { 0 };
            self.set_mut(index).journal.push(Record { run, set, clear, hash: None }, Purpose::Restored(id));
        }
    }

    /// Whether the run is unheld once it is restored: nobody waits for it to write.
    fn unholds(&mut self, id: CopyId) -> bool {
        let index = self.restore_of().set;
        self.copies.of(id).background().is_some() && self.set(index).parameters.mode == Mode::Dependent
    }

    /// The record is durable, or the restore goes on without: from here on the run is the master's own.
    pub(crate) fn run_restored(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let Some(copy) = self.copies.get(id) else { return };
        let (run, overwrite) = (copy.run(), copy.overwrite());
        let (overwritten, by) = (overwrite.is_some(), overwrite.and_then(Overwrite::by));
        let background = copy.background().is_some();
        let unheld = self.unholds(id);
        let index = self.restore_of().set;
        let set = self.set_mut(index);
        for chunk in run.chunks() {
            set.plane_mut(PlaneId::Pending).put(chunk.0, false);
            if unheld {
                set.plane_mut(PlaneId::Held).put(chunk.0, false);
                set.maps.held.clear(chunk.0);
            }
            if overwritten {
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
        if let Some(ticket) = by.filter(|ticket| !self.overwrites(*ticket)) {
            self.finish_request(ticket, Ok(()), out);
        }
        self.maybe_end_restore(index, out);
    }
}
