//! When a restore cannot go on as it is: a shadow, a master or a bitmap volume that fails in it (E9).

use super::{Head, Hold, Progress, Recorded, Restore, RestoreRun, Stage};
use crate::action::{CopyId, Device, RequestError, RestoreStop, SetIndex, Side};
use crate::command::Refusal;
use crate::copy::Copy;
use crate::ending::Ending;
use crate::owner::{Owner, OwnerOutput};
use crate::record::PlaneId;
use crate::units::Chunk;

/// A shadow with more bad chunks than this has failed.
const UNREADABLE_MAX: usize = 1024;

impl Owner {
    /// Whether the set is restored from and its shadow has failed.
    pub(crate) fn is_source_failed(&self, index: SetIndex) -> bool {
        self.restores_from(index) && self.maps.is_source_failed()
    }

    /// Whether the chunk's data can be had from the shadow.
    pub(crate) fn is_restorable(&self, chunk: Chunk) -> bool {
        let restore = self.restore.as_ref().expect("a restore runs");
        let set = self.set(restore.set);
        let head_gone = restore.head == Head::Failed && self.is_in_head(chunk);
        let unreadable = head_gone || restore.unreadable.contains(&chunk);
        !self.maps.is_source_failed() && !unreadable && !set.plane(PlaneId::Lost).get(chunk.0)
    }

    /// Whether the chunk is in the head that is on the bitmap volume of the set that is restored from.
    fn is_in_head(&self, chunk: Chunk) -> bool {
        let set = self.restore.as_ref().map(|restore| self.set(restore.set));
        set.is_some_and(|set| chunk.0 * self.geometry.chunk_bytes() < set.maps.head_bytes())
    }

    /// The shadow answered with an error. One bad chunk is not all of the shadow: it is found, and the others go on.
    pub(super) fn run_unreadable(&mut self, id: CopyId, index: SetIndex, out: &mut OwnerOutput) {
        let run = self.copies.of(id).run();
        let restore = self.restore_of();
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

    /// The master did not take a run.
    pub(super) fn master_failed(&mut self, id: CopyId, out: &mut OwnerOutput) {
        self.stop_restore(RestoreStop::Master);
        self.fail_restored(id, out);
    }

    /// What was written may be gone: all of it stays pending, and is written again.
    pub(super) fn master_flush_failed(&mut self, out: &mut OwnerOutput) {
        self.restored.fail();
        self.stop_restore(RestoreStop::Master);
        let written = |copy: &Copy| {
            copy.restore().is_some_and(|run| run.stage() == Stage::Written)
                || copy.overwrite().is_some_and(|overwrite| overwrite.hold() == Hold::Written)
        };
        let lost = self.copies.ids(written);
        self.restore_of().batch.clear();
        for id in lost {
            self.fail_restored(id, out);
        }
    }

    /// The master did not take the run: it stays pending, and who wanted to write to it, from either side, gets an
    /// error. A sibling's shadow only waited for the lock.
    pub(super) fn fail_restored(&mut self, id: CopyId, out: &mut OwnerOutput) {
        if let Some(overwrite) = self.copies.of(id).overwrite() {
            let by = overwrite.by();
            // Whoever waits for the run may have better luck, or overwrite it as well.
            self.finish_copy(id);
            if let Some(ticket) = by {
                self.finish_request(ticket, Err(RequestError::Io), out);
            }
            return;
        }
        for waiter in self.unlock_copy(id) {
            match self.requests.side(waiter) {
                Some(Side::Shadow(set)) if !self.restores_from(set) => self.requests.wake(waiter),
                Some(Side::Master | Side::Shadow(_)) | None => self.fail_request(waiter, out),
            }
        }
    }

    /// The copier stops until somebody says that it may go on.
    fn stop_restore(&mut self, cause: RestoreStop) {
        if let Some(restore) = &mut self.restore {
            restore.progress = Progress::Stopped(cause);
        }
    }

    /// The shadow that is restored from has failed: what is pending is an error on both sides, and stays pending.
    pub(crate) fn source_failed(&mut self, index: SetIndex) {
        self.maps.set_source_failed(true);
        self.set(index).maps.set_offline(true);
        self.stop_restore(RestoreStop::Shadow);
        self.lose_legs(index);
        self.end_unreadable();
    }

    /// The bitmap volume of the set that is restored from has failed: it takes the shadow's head along, if that is not in
    /// memory. What was being read there will not come.
    pub(crate) fn head_failed(&mut self, index: SetIndex) {
        let Some(restore) = self.restore.as_mut().filter(|restore| restore.set == index) else { return };
        if matches!(restore.head, Head::OnDevice { .. }) {
            restore.head = Head::Failed;
        }
        self.end_unreadable();
        let reads = |copy: &Copy| {
            let device = |run: &RestoreRun| run.stage() == Stage::Reading && !run.is_from_memory();
            copy.restore().is_some_and(device) && self.is_in_head(copy.run().first)
        };
        for id in self.copies.ids(reads) {
            self.finish_copy(id);
        }
    }

    /// Ends the runs that cannot be read any more; whoever waits for one judges anew. Those that wait for siblings end
    /// behind them; those that the master has already need the shadow no more.
    fn end_unreadable(&mut self) {
        let unreadable = |copy: &Copy| {
            copy.restore().is_some_and(RestoreRun::wants_shadow) && !self.is_restorable(copy.run().first)
        };
        let failed = if self.restore.is_some() { self.copies.ids(unreadable) } else { Vec::new() };
        if let Some(restore) = &mut self.restore {
            restore.waiting.retain(|id| !failed.contains(id));
        }
        for id in failed {
            self.buffers.cancel(id);
            self.finish_copy(id);
        }
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
            // What a failed flush took is not brought back by a later one: the shadow's own flushes go on failing until a
            // new image begins (E8).
            set.maps.set_offline(false);
        }
        self.maps.set_source_failed(false);
        self.restore_of().retry();
        Ok(())
    }

    /// The end of the image of a set that is restored from is recorded away from its bitmap volume: what is
    /// pending is copied all the same, from memory.
    pub(crate) fn restore_unrecorded(&mut self, out: &mut OwnerOutput) {
        let Some(restore) = &mut self.restore else { return };
        restore.recorded = Recorded::InMemory;
        let recording = |copy: &Copy| {
            copy.restore().is_some_and(|run| run.stage() == Stage::Recording)
                || copy.overwrite().is_some_and(|overwrite| overwrite.hold() == Hold::Recording)
        };
        for id in self.copies.ids(recording) {
            self.run_restored(id, out);
        }
    }
}

impl Restore {
    /// Everything is tried again.
    fn retry(&mut self) {
        self.progress = Progress::Running;
        if self.head == Head::Failed {
            self.head = Head::OnDevice { tried: false };
        }
        (self.one_by_one, self.exhausted) = (false, false);
        self.unreadable.clear();
    }
}
