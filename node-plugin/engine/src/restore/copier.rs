//! Which runs are restored in the background, in what order.

use super::RestoreRun;
use crate::action::{CopyId, SetIndex};
use crate::copy::Job;
use crate::owner::{Owner, OwnerOutput};
use crate::record::PlaneId;
use crate::units::{Chunk, ChunkRun};

/// Runs whose flush and records are shared: 16 of 1 MiB cost one flush and one record block (performance plan, 2.7).
pub(super) const BATCH: usize = 16;

impl Owner {
    /// Restores the first part of `wanted`, which can be read from the shadow, for a write that comes behind it.
    pub(crate) fn start_restore(&mut self, wanted: ChunkRun, out: &mut OwnerOutput) -> CopyId {
        let run = self.copyable_run(wanted, None, self.run_bytes(self.limits.write_buffer_bytes));
        self.start_copy(run, None, Job::Restore(RestoreRun::new(None)), out)
    }

    /// Bytes of a run that goes through a buffer of this size.
    fn run_bytes(&self, buffer_bytes: u64) -> u64 {
        let one_by_one = self.restore.as_ref().is_some_and(|restore| restore.one_by_one);
        if one_by_one { self.geometry.chunk_bytes() } else { buffer_bytes }
    }

    /// Starts background runs as far as limits and buffers allow.
    pub(super) fn start_background_restores(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        loop {
            let batched = self.restore.as_ref().map_or(0, |restore| restore.batch.len());
            let admitted = self.set(index).copier.admits(batched, self.geometry.chunk_bytes());
            if !admitted || !self.buffers.has_free_copier() {
                return;
            }
            let run = self.next_restore_run(index);
            let idle = self.set(index).copier.in_flight() == 0;
            let unread = self.set(index).plane(PlaneId::Pending).ones() > 0;
            self.restore_of().exhausted = run.is_none() && idle && unread;
            let Some(run) = run else { return };
            let bytes = self.geometry.bytes_of(run).len;
            self.set_mut(index).copier.begun(run.end(), bytes);
            self.start_copy(run, None, Job::Restore(RestoreRun::new(Some(index))), out);
        }
    }

    /// The next run that is pending and not locked, from the cursor on and around the end; the head comes first.
    fn next_restore_run(&self, index: SetIndex) -> Option<ChunkRun> {
        let set = self.set(index);
        let pending = set.plane(PlaneId::Pending);
        let free = |chunk: u64| self.copies.lock(Chunk(chunk)).is_none() && self.is_restorable(Chunk(chunk));
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
        let first = from(set.copier.cursor(), pending.len()).or_else(|| from(0, set.copier.cursor()))?;
        let most = self.background_chunks(index).min(pending.len() - first);
        let run = ChunkRun::new(Chunk(first), u32::try_from(most).expect("bounded by a buffer"));
        Some(self.copyable_run(run, None, self.run_bytes(self.limits.copier_buffer_bytes)))
    }
}
