//! The background copier: copies what an independent set does not hold yet.
//!
//! Each copy is an ordinary [`Copy`](crate::copy::Copy); only its record waits for company, so that 16 MiB
//! share one journal block and one flush of each device. Until the record is durable the run stays locked and
//! is read from the master; a write that waits for it makes the batch go out at once.

use crate::action::{Action, CommandId, CopyLimits, Done, Now, Refusal, SetIndex};
use crate::copy::Job;
use crate::owner::{Owner, OwnerOutput};
use crate::record::{PlaneId, SetState};
use crate::set::{Commit, Ending};
use crate::units::{Chunk, ChunkRun};

/// Copies whose records share a block: 16 of 1 MiB cost one record write and two flushes (performance plan, 2.7).
const BATCH: usize = 16;

impl Owner {
    /// Starts background copies as far as limits and buffers allow; asks for completion when there is nothing left.
    pub(crate) fn run_copiers(&mut self, out: &mut OwnerOutput) {
        for index in self.set_indexes() {
            if self.set(index).ending != Ending::No || self.detached {
                continue;
            }
            let copying = self.set(index).header.state == SetState::Copying;
            if copying && self.gate.is_none() {
                self.start_background_copies(index, out);
            }
            // What was begun ends, also after an abort.
            self.maybe_seal_batch(index);
            let copier = &self.set(index).copier;
            let idle = copier.in_flight == 0 && copier.batch.is_empty();
            if copying && idle && self.set(index).pending_chunks() == 0 {
                self.want_completion(index);
            }
        }
    }

    fn start_background_copies(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        loop {
            let set = self.set(index);
            let copier = &set.copier;
            // Copies in the batch wait for company: they do not count as work in flight.
            let working = usize::from(copier.in_flight) - copier.batch.len();
            let room = usize::from(copier.in_flight) < BATCH + usize::from(copier.limits.in_flight);
            if working >= usize::from(copier.limits.in_flight) || !room || !self.buffers.has_free_copier() {
                return;
            }
            if copier.limits.bytes_per_second.is_some() && copier.allowance < self.geometry.chunk_bytes() {
                return;
            }
            let Some(run) = self.next_background_run(index) else { return };
            let bytes = self.geometry.bytes_of(run).len;
            let copier = &mut self.set_mut(index).copier;
            copier.allowance = copier.allowance.saturating_sub(bytes);
            copier.in_flight += 1;
            copier.cursor = run.end().0;
            self.start_copy(run, Some(index), Job::Background(index), out);
        }
    }

    /// The next run that is neither held nor lost nor locked, from the cursor on and around the end.
    fn next_background_run(&self, index: SetIndex) -> Option<ChunkRun> {
        let set = self.set(index);
        let held = set.plane(PlaneId::Held);
        let free = |chunk: u64| !set.is_satisfied(Chunk(chunk)) && self.copies.lock(Chunk(chunk)).is_none();
        let from = |start: u64, end: u64| {
            let mut at = held.find(start, false);
            while let Some(chunk) = at.filter(|chunk| *chunk < end) {
                if free(chunk) {
                    return Some(chunk);
                }
                at = held.find(chunk + 1, false);
            }
            None
        };
        let first = from(set.copier.cursor, held.len()).or_else(|| from(0, set.copier.cursor))?;
        let head_chunks = set.maps.head_bytes() / self.geometry.chunk_bytes();
        let chunks_max = self.background_chunks(index);
        let mut end = first + 1;
        while end < held.len() && end - first < chunks_max && end != head_chunks && free(end) {
            end += 1;
        }
        Some(ChunkRun::new(Chunk(first), u32::try_from(end - first).expect("bounded by a buffer")))
    }

    /// Most chunks of one background run: a buffer's worth, and no more than the rate allows now.
    pub(crate) fn background_chunks(&self, index: SetIndex) -> u64 {
        let copier = &self.set(index).copier;
        let buffer = self.limits.copier_buffer_bytes;
        let bytes = copier.limits.bytes_per_second.map_or(buffer, |_| buffer.min(copier.allowance));
        bytes / self.geometry.chunk_bytes()
    }

    fn maybe_seal_batch(&mut self, index: SetIndex) {
        let copier = &self.set(index).copier;
        if copier.batch.is_empty() {
            return;
        }
        let all_written = usize::from(copier.in_flight) == copier.batch.len();
        let awaited = || copier.batch.iter().any(|id| self.copies.of(*id).is_awaited());
        if copier.batch.len() >= BATCH || all_written || self.gate.is_some() || awaited() {
            self.seal_batch(index);
        }
    }

    /// Abort and resume: the same set, copier stopped or running.
    pub(crate) fn set_copying(&mut self, id: CommandId, index: SetIndex, run: bool, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        let to = match (set.header.state, run) {
            (SetState::Copying | SetState::CopyAborted, true) => Ok(SetState::Copying),
            (SetState::Copying | SetState::CopyAborted, false) => Ok(SetState::CopyAborted),
            (SetState::Restoring | SetState::RestoreAborted, true) => Ok(SetState::Restoring),
            (SetState::Restoring | SetState::RestoreAborted, false) => Ok(SetState::RestoreAborted),
            (SetState::Offline(cause), _) => Err(Refusal::Offline(cause)),
            (SetState::Prepared | SetState::Dependent | SetState::Complete | SetState::Disabled, _) => {
                Err(Refusal::NoCopy)
            }
        };
        let busy = set.state_command.is_some() || self.is_in_doubt(index);
        let retried = if run { self.retry_restore(index) } else { Ok(()) };
        match to.and_then(|to| retried.map(|()| to)) {
            Err(refusal) => out.actions.push(Action::Answer { command: id, result: Err(refusal) }),
            Ok(_) if busy => out.actions.push(Action::Answer { command: id, result: Err(Refusal::Busy) }),
            // Its bitmap volume takes no superblock any more: the restore goes on from memory, and so does its state.
            Ok(to) if self.restores_from(index) && self.set(index).ending != Ending::No => {
                self.set_mut(index).header.state = to;
                out.actions.push(Action::Answer { command: id, result: Ok(Done::Ok) });
            }
            Ok(to) if to == self.set(index).header.state => {
                out.actions.push(Action::Answer { command: id, result: Ok(Done::Ok) });
            }
            Ok(to) => {
                let set = self.set_mut(index);
                set.state_command = Some(id);
                set.commits.push_back(Commit::State(to));
            }
        }
    }

    pub(crate) fn set_copy_limits(
        &mut self,
        id: CommandId,
        index: SetIndex,
        limits: CopyLimits,
        out: &mut OwnerOutput,
    ) {
        let limits = CopyLimits { in_flight: limits.in_flight.max(1), ..limits };
        self.set_mut(index).copier.limits = limits;
        out.actions.push(Action::Answer { command: id, result: Ok(Done::Ok) });
    }

    /// Refills what the rate limits allow; at most a second's worth is saved up.
    pub(crate) fn refill_allowances(&mut self) {
        let now = self.now;
        let chunk = self.geometry.chunk_bytes();
        for set in self.sets.iter_mut().flatten() {
            let copier = &mut set.copier;
            if let Some(rate) = copier.limits.bytes_per_second {
                let Now(ms) = now;
                let earned = rate.saturating_mul(ms.saturating_sub(copier.refilled.0)) / 1000;
                copier.allowance = copier.allowance.saturating_add(earned).min(rate.max(chunk));
            }
            copier.refilled = now;
        }
    }
}
