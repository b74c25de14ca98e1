//! The background copier: copies what an independent set does not hold yet.
//!
//! Each copy is an ordinary [`Copy`](crate::copy::Copy); only its record waits for company, so that 16 MiB
//! share one journal block and one flush of each device. Until the record is durable the run stays locked and
//! is read from the master; a write that waits for it makes the batch go out at once.

use crate::action::{Action, CopyId, Now, SetIndex};
use crate::command::{CommandId, CopyLimits, Done, Refusal};
use crate::copy::Job;
use crate::ending::Ending;
use crate::owner::{Owner, OwnerOutput};
use crate::record::{PlaneId, SetState};
use crate::superblock::Commit;
use crate::units::{Chunk, ChunkRun};

/// Copies whose records share a block: 16 of 1 MiB cost one record write and two flushes (performance plan, 2.7).
const BATCH: usize = 16;

/// Background copies in flight where nothing else is asked: 4 x 1 MiB keep a device busy (performance plan, 2.7).
pub const COPIES_IN_FLIGHT_DEFAULT: u16 = 4;

/// The background copier of a set, whichever way it copies: where it is, what it may do, what waits for company.
#[derive(Debug)]
pub(crate) struct Copier {
    limits: CopyLimits,
    cursor: u64,
    in_flight: u16,
    /// Copies to the shadow whose data is written and whose records wait for company.
    batch: Vec<CopyId>,
    /// Bytes that may be copied now, by the rate limit.
    allowance: u64,
    refilled: Now,
    /// Bytes copied since the epoch began.
    copied_bytes: u64,
}

impl Copier {
    /// One that has copied nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            limits: CopyLimits { bytes_per_second: None, in_flight: COPIES_IN_FLIGHT_DEFAULT },
            cursor: 0,
            in_flight: 0,
            batch: Vec::new(),
            allowance: 0,
            refilled: Now(0),
            copied_bytes: 0,
        }
    }

    /// A new epoch begins.
    pub(crate) fn restart(&mut self) {
        (self.cursor, self.copied_bytes) = (0, 0);
    }

    /// The chunk that it looks at next.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Runs that are on their way.
    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.in_flight)
    }

    /// Bytes copied since the epoch began.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Whether limits admit another run. Those that wait for company do not count as work in flight.
    pub(crate) fn admits(&self, waiting: usize, chunk_bytes: u64) -> bool {
        let limit = usize::from(self.limits.in_flight);
        let in_time = self.limits.bytes_per_second.is_none() || self.allowance >= chunk_bytes;
        self.in_flight() - waiting < limit && self.in_flight() < BATCH + limit && in_time
    }

    /// Bytes of a run through a buffer of this size: no more than the rate allows now.
    fn run_bytes(&self, buffer: u64) -> u64 {
        self.limits.bytes_per_second.map_or(buffer, |_| buffer.min(self.allowance))
    }

    /// A run has begun.
    pub(crate) fn begun(&mut self, end: Chunk, bytes: u64) {
        self.allowance = self.allowance.saturating_sub(bytes);
        self.in_flight += 1;
        self.cursor = end.0;
    }

    /// A run goes on as so many.
    pub(crate) fn split(&mut self, runs: u32) {
        self.in_flight += u16::try_from(runs - 1).expect("a buffer has few chunks");
    }

    /// A run is over.
    pub(crate) fn over(&mut self, bytes: u64) {
        self.in_flight -= 1;
        self.copied_bytes += bytes;
    }

    /// The data of a copy to the shadow is written; its record waits for company.
    pub(crate) fn await_company(&mut self, copy: CopyId) {
        self.batch.push(copy);
    }

    /// What waits for company goes out, or concerns nobody any more.
    pub(crate) fn take_batch(&mut self) -> Vec<CopyId> {
        std::mem::take(&mut self.batch)
    }

    /// Refills what the rate limit allows; at most a second's worth is saved up.
    fn refill(&mut self, now: Now, chunk_bytes: u64) {
        if let Some(rate) = self.limits.bytes_per_second {
            let earned = rate.saturating_mul(now.0.saturating_sub(self.refilled.0)) / 1000;
            self.allowance = self.allowance.saturating_add(earned).min(rate.max(chunk_bytes));
        }
        self.refilled = now;
    }
}

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
            let copier = &self.set(index).copier;
            let admitted = copier.admits(copier.batch.len(), self.geometry.chunk_bytes());
            if !admitted || !self.buffers.has_free_copier() {
                return;
            }
            let Some(run) = self.next_background_run(index) else { return };
            let bytes = self.geometry.bytes_of(run).len;
            self.set_mut(index).copier.begun(run.end(), bytes);
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
        self.set(index).copier.run_bytes(self.limits.copier_buffer_bytes) / self.geometry.chunk_bytes()
    }

    fn maybe_seal_batch(&mut self, index: SetIndex) {
        let copier = &self.set(index).copier;
        if copier.batch.is_empty() {
            return;
        }
        let all_written = copier.in_flight() == copier.batch.len();
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
                set.superblock.commit(Commit::State(to));
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

    /// Refills what the rate limits allow.
    pub(crate) fn refill_allowances(&mut self) {
        let (now, chunk) = (self.now, self.geometry.chunk_bytes());
        self.sets.iter_mut().flatten().for_each(|set| set.copier.refill(now, chunk));
    }
}
