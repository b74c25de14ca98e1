//! The steps of a copy that touch more than the copy: sets, journals, buffers, requests.

use super::{Copy, Job, Leg, OldData};
use crate::action::{
    Action, CopyBuf, CopyId, Device, IoKind, Memory, OpId, Request, SETS_MAX, SetIndex, Side,
};
use crate::ending::Ending;
use crate::journal::Purpose;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{Mode, PlaneId, Record};
use crate::requests::Ticket;
use crate::restore::RestoreRun;
use crate::set::{Durable, VolumeSet};
use crate::units::{ByteRange, Chunk, ChunkRun, Sequence};

impl Owner {
    /// Starts a copy of the first part of `wanted` for all sets that need it, or for one.
    pub(crate) fn start_write_copy(
        &mut self,
        wanted: ChunkRun,
        only: Option<SetIndex>,
        out: &mut OwnerOutput,
    ) -> CopyId {
        let run = self.copyable_run(wanted, only, self.limits.write_buffer_bytes);
        self.counters.write_copies += 1;
        self.counters.write_copy_bytes += self.geometry.bytes_of(run).len;
        self.start_copy(run, only, Job::Write, out)
    }

    /// The longest run from the start of `wanted` in which every chunk is unlocked and needed by the same sets.
    pub(crate) fn copyable_run(&self, wanted: ChunkRun, only: Option<SetIndex>, bytes_max: u64) -> ChunkRun {
        let needed = |chunk| {
            let needs =
                |set: &&VolumeSet| only.is_none_or(|only| only == set.index) && !set.is_satisfied(chunk);
            // Of what is pending only a part may be there to be restored.
            let pending = self.maps.pending.get(chunk.0);
            let restorable = pending && self.is_restorable(chunk);
            let pending = (u32::from(pending) | u32::from(restorable) << 1) << SETS_MAX;
            self.sets.iter().flatten().filter(needs).fold(pending, |mask, set| mask | 1 << set.index.0)
        };
        let first = needed(wanted.first);
        let chunks_max = u32::try_from((bytes_max / self.geometry.chunk_bytes()).max(1)).unwrap_or(u32::MAX);
        let crosses_head = |chunk: Chunk| {
            let start = chunk.0 * self.geometry.chunk_bytes();
            self.sets.iter().flatten().any(|set| set.maps.head_bytes() == start && start != 0)
        };
        let same = wanted.chunks().skip(1).take_while(|chunk| {
            self.copies.lock(*chunk).is_none() && needed(*chunk) == first && !crosses_head(*chunk)
        });
        let count = 1 + u32::try_from(same.count()).expect("a run is counted in 32 bits");
        ChunkRun::new(wanted.first, count.min(chunks_max))
    }

    /// Locks the run and starts the copy as soon as there is a buffer.
    pub(crate) fn start_copy(
        &mut self,
        run: ChunkRun,
        only: Option<SetIndex>,
        job: Job,
        out: &mut OwnerOutput,
    ) -> CopyId {
        let needs =
            |set: &&VolumeSet| only.is_none_or(|only| only == set.index) && !set.is_satisfied(run.first);
        let leg = |set: &VolumeSet| Leg::new(set.index, set.ending != Ending::No);
        let legs: Vec<Leg> = self.sets.iter().flatten().filter(needs).map(leg).collect();
        let restores = matches!(job, Job::Restore(_) | Job::Overwrite(_));
        assert!(!legs.is_empty() || restores, "a copy is started for somebody");
        let id = self.copies.add(Copy::new(run, legs, job));
        self.copy_begun(id, out);
        id
    }

    /// Sees to what a new copy needs first.
    fn copy_begun(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let copy = self.copies.of(id);
        if copy.old == OldData::Queued {
            self.queue_for_buffer(id, out);
        } else if copy.are_legs_over() {
            self.legs_over(id);
        }
    }

    /// A copy waits for a buffer, or has it at once.
    pub(crate) fn queue_for_buffer(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let pool = self.copies.of(id).pool();
        self.buffers.enqueue(id, pool);
        self.give_buffers(out);
        self.counters.buffer_waits += u64::from(self.buffers.is_waiting(id));
    }

    /// Gives free buffers to the copies that wait for one.
    pub(crate) fn give_buffers(&mut self, out: &mut OwnerOutput) {
        while let Some((id, buffer)) = self.buffers.give() {
            let copy = self.copies.of_mut(id);
            if copy.old != OldData::Queued {
                self.read_from_shadow(id, buffer, out);
                continue;
            }
            copy.old = OldData::Reading(buffer);
            let range = self.geometry.bytes_of(copy.run);
            out.actions.push(Action::Io {
                op: OpId::CopyRead(id),
                device: Device::Master,
                kind: IoKind::Read { hash: true },
                range,
                memory: Memory::Copy(buffer),
            });
        }
    }

    /// A buffer has one user less.
    pub(crate) fn release_buffer(&mut self, buffer: CopyBuf, out: &mut OwnerOutput) {
        if self.buffers.release(buffer) {
            self.give_buffers(out);
        }
    }

    /// Buffers of operations that a set has given up are used again.
    pub(crate) fn reclaim_buffers(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set(index);
        let hangs = |op: OpId| set.shadow_watch.is_abandoned(op) || set.bitmap_watch.is_abandoned(op);
        let is_of = |op: OpId| matches!(op, OpId::CopyWrite(_, of) | OpId::RestoreRead(_, of) if of == index);
        let hung: Vec<OpId> = self.buffers.lent().filter(|op| is_of(*op) && hangs(*op)).collect();
        if self.buffers.reclaim(&hung) {
            self.give_buffers(out);
        }
    }

    /// Where a set keeps its copy of a run. A run lies on one side of the head's end.
    pub(crate) fn copy_target(&self, index: SetIndex, run: ChunkRun) -> (Device, ByteRange) {
        self.set(index).maps.locate(index, self.geometry.bytes_of(run))
    }

    /// The old data has been read, or could not be.
    pub(crate) fn copy_read(&mut self, id: CopyId, ok: bool, hash: Option<u64>, out: &mut OwnerOutput) {
        let copy = self.copies.of_mut(id);
        let OldData::Reading(buffer) = copy.old else { unreachable!("a copy reads the master once") };
        copy.old = OldData::Done;
        copy.hash = hash.unwrap_or_default();
        let reading: Vec<SetIndex> = copy.legs.iter().filter(|leg| leg.is_reading()).map(Leg::set).collect();
        if !ok && copy.run.count > 1 && !reading.is_empty() {
            self.release_buffer(buffer, out);
            self.split_copy(id, out);
            return;
        }
        for set in reading {
            if ok {
                self.spread(id, set, buffer, out);
            } else {
                self.lose(id, set);
            }
        }
        self.release_buffer(buffer, out);
        self.maybe_legs_over(id);
    }

    /// The master could not give the run: each chunk is tried by itself, for the sets that are not settled yet.
    fn split_copy(&mut self, id: CopyId, out: &mut OwnerOutput) {
        let copy = self.copies.remove(id);
        let background = copy.background();
        let Copy { run, legs, job, waiters, .. } = copy;
        let mut parts = Vec::new();
        for chunk in run.chunks() {
            let open = legs.iter().filter(|leg| !leg.is_settled()).map(Leg::set);
            let open = open.map(|set| Leg::new(set, self.set(set).ending != Ending::No)).collect();
            let job = match &job {
                Job::Write => Job::Write,
                Job::Background(set) => Job::Background(*set),
                Job::Restore(_) => Job::Restore(RestoreRun::new(background)),
                Job::Overwrite(_) => unreachable!("chunks are overwritten one by one"),
            };
            let part = self.copies.add(Copy::new(ChunkRun::new(chunk, 1), open, job));
            parts.push(part);
            for waiter in waiters.iter().copied() {
                let waits = |request: &Request| self.geometry.chunks_of(request.range).contains(chunk);
                if self.requests.get(waiter).is_some_and(waits) {
                    self.requests.wait(waiter, 1);
                    self.copies.of_mut(part).wait(waiter);
                }
            }
        }
        if let Some(set) = background {
            self.set_mut(set).copier.split(run.count);
        }
        waiters.into_iter().for_each(|waiter| self.requests.wake(waiter));
        for part in parts {
            // A leg whose loss was on its way is lost again: the record of the run names no copy any more.
            let losing = legs.iter().filter(|leg| leg.is_losing()).map(Leg::set);
            losing.for_each(|set| self.lose(part, set));
            self.copy_begun(part, out);
        }
    }

    fn spread(&mut self, id: CopyId, index: SetIndex, buffer: CopyBuf, out: &mut OwnerOutput) {
        if self.is_source_failed(index) {
            self.lose(id, index);
            return;
        }
        let copy = self.copies.of_mut(id);
        copy.leg(index).expect("the leg is in progress").spread();
        let (run, batched) = (copy.run, copy.is_batched());
        let (device, range) = self.copy_target(index, run);
        let op = OpId::CopyWrite(id, index);
        let now = self.now;
        self.buffers.share(op, buffer);
        let set = self.set_mut(index);
        let flusher = if device == Device::Shadow(index) { &set.shadow } else { &set.bitmap };
        let kind = IoKind::Write { fua: flusher.fua() };
        set.watch(device).submitted(op, now);
        out.actions.push(Action::Io { op, device, kind, range, memory: Memory::Copy(buffer) });
        if !batched {
            self.record_held(id, index);
        }
    }

    /// Queues the record that the run is held.
    fn record_held(&mut self, id: CopyId, index: SetIndex) {
        let copy = self.copies.of(id);
        let record = Record { run: copy.run, set: PlaneId::Held.mask(), clear: 0, hash: Some(copy.hash) };
        self.set_mut(index).journal.push(record, Purpose::Held(id));
    }

    fn leg(&mut self, id: CopyId, index: SetIndex) -> Option<&mut Leg> {
        self.copies.get_mut(id).and_then(|copy| copy.leg(index))
    }

    /// The data is on the shadow side, or the write failed.
    pub(crate) fn copy_written(&mut self, id: CopyId, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let op = OpId::CopyWrite(id, index);
        if let Some(buffer) = self.buffers.back(op) {
            self.release_buffer(buffer, out);
        }
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        let on_shadow = set.shadow_watch.ended(op);
        if !on_shadow && !set.bitmap_watch.ended(op) {
            return;
        }
        if !ok && !on_shadow {
            self.bitmap_failed(index, out);
        }
        if !self.leg(id, index).is_some_and(|leg| leg.is_copying()) {
            return;
        }
        if !ok {
            self.lose(id, index);
        } else if self.copies.of(id).is_batched() {
            self.set_mut(index).copier.await_company(id);
        } else {
            self.await_data(id, index);
        }
        let batched = self.copies.get(id).is_none_or(Copy::is_batched);
        if is_off(Rule::DurableBeforeOverwrite)
            && !batched
            && self.leg(id, index).is_some_and(|leg| !leg.is_losing())
        {
            // The mutant takes what is only written for durable.
            self.data_over(id, index);
            self.publish_held(id, index);
        }
    }

    fn await_data(&mut self, id: CopyId, index: SetIndex) {
        let (device, _) = self.copy_target(index, self.copies.of(id).run);
        let set = self.set_mut(index);
        let flusher = if device == Device::Shadow(index) { &mut set.shadow } else { &mut set.bitmap };
        flusher.written(Durable::CopyData(id));
    }

    /// Lets the records of the background copies whose data is written go out, all in one block, and their
    /// data be flushed.
    pub(crate) fn seal_batch(&mut self, index: SetIndex) {
        for id in self.set_mut(index).copier.take_batch() {
            self.record_held(id, index);
            self.await_data(id, index);
        }
    }

    /// The record of a copy went into a block that is being written.
    pub(crate) fn copy_sealed(&mut self, id: CopyId, index: SetIndex, sequence: Sequence) {
        let told = match self.leg(id, index) {
            Some(leg) => leg.sealed(sequence),
            None => Some(sequence),
        };
        if let Some(sequence) = told {
            self.set_mut(index).journal.data_settled(sequence);
        }
    }

    /// The data of the *held* record is durable, or given up durably: its block may be confirmed.
    fn data_over(&mut self, id: CopyId, index: SetIndex) {
        if let Some(sequence) = self.leg(id, index).and_then(Leg::data_over) {
            self.set_mut(index).journal.data_settled(sequence);
        }
    }

    /// The data of a copy is durable.
    pub(crate) fn copy_data_durable(&mut self, id: CopyId, index: SetIndex) {
        let Some(leg) = self.leg(id, index).filter(|leg| leg.is_copying()) else { return };
        let held = leg.data_durable();
        self.data_over(id, index);
        if held {
            self.publish_held(id, index);
        }
    }

    /// The record of a copy is durable.
    pub(crate) fn copy_record_durable(&mut self, id: CopyId, index: SetIndex) {
        if self.leg(id, index).is_some_and(Leg::record_durable) {
            self.publish_held(id, index);
        }
    }

    /// Invariant 2: data and record are durable, so the master may be overwritten.
    fn publish_held(&mut self, id: CopyId, index: SetIndex) {
        let run = self.copies.of(id).run;
        let set = self.set_mut(index);
        for chunk in run.chunks() {
            set.plane_mut(PlaneId::Held).put(chunk.0, true);
            set.maps.held.set(chunk.0);
        }
        self.settle_leg(id, index);
    }

    /// Common rule 4: the run's old data cannot be kept; that is recorded before anything goes on.
    pub(crate) fn lose(&mut self, id: CopyId, index: SetIndex) {
        let copy = self.copies.of_mut(id);
        let run = copy.run;
        copy.leg(index).expect("the leg is in progress").lose();
        let set = self.set_mut(index);
        let tracks = set.parameters.mode == Mode::Independent;
        let differs = if tracks { set.differs_plane().mask() } else { 0 };
        let record = Record { run, set: PlaneId::Lost.mask() | differs, clear: 0, hash: None };
        set.journal.push(record, Purpose::Lost(id));
    }

    /// The record that the run is lost is durable.
    pub(crate) fn copy_lost(&mut self, id: CopyId, index: SetIndex) {
        if !self.leg(id, index).is_some_and(|leg| leg.is_losing()) {
            return;
        }
        let run = self.copies.of(id).run;
        self.counters.lost_chunks += u64::from(run.count);
        let set = self.set_mut(index);
        let differs = set.differs_plane();
        for chunk in run.chunks() {
            if !is_off(Rule::LostMark) {
                set.plane_mut(PlaneId::Lost).put(chunk.0, true);
                set.maps.lost.set(chunk.0);
            } else {
                // The mutant takes the chunk for held, as the ancestor's successors of a full overflow did.
                set.plane_mut(PlaneId::Held).put(chunk.0, true);
                set.maps.held.set(chunk.0);
            }
            if set.parameters.mode == Mode::Independent {
                set.plane_mut(differs).put(chunk.0, true);
            }
        }
        self.data_over(id, index);
        self.settle_leg(id, index);
    }

    fn settle_leg(&mut self, id: CopyId, index: SetIndex) {
        let copy = self.copies.of_mut(id);
        if !copy.leg(index).expect("the leg is in progress").settle() {
            return;
        }
        if is_off(Rule::SiblingBarrier) && copy.legs[0].is_settled() {
            let waiters = std::mem::take(&mut copy.waiters);
            waiters.into_iter().for_each(|waiter| self.requests.wake(waiter));
        }
        self.wake_own(id, index);
        let copy = self.copies.of_mut(id);
        if copy.waits_in_vain() {
            copy.old = OldData::Done;
            self.buffers.cancel(id);
        }
        self.maybe_legs_over(id);
    }

    /// E13: who writes through a shadow waits for that set alone, not for its siblings or what is restored behind them.
    fn wake_own(&mut self, id: CopyId, index: SetIndex) {
        let mut at = 0;
        while let Some(waiter) = self.copies.of(id).waiters.get(at).copied() {
            if self.requests.side(waiter) == Some(Side::Shadow(index)) {
                self.copies.of_mut(id).waiters.remove(at);
                self.requests.wake(waiter);
            } else {
                at += 1;
            }
        }
    }

    fn maybe_legs_over(&mut self, id: CopyId) {
        if self.copies.get(id).is_some_and(Copy::are_legs_over) {
            self.legs_over(id);
        }
    }

    /// Every set has what it needs of the run: the copy is over, or the restore of the run may begin.
    fn legs_over(&mut self, id: CopyId) {
        match self.copies.of(id).job {
            Job::Write | Job::Background(_) => self.finish_copy(id),
            Job::Restore(_) | Job::Overwrite(_) => self.siblings_ready(id),
        }
    }

    /// Unlocks the run and wakes whoever waited for it.
    pub(crate) fn finish_copy(&mut self, id: CopyId) {
        for waiter in self.unlock_copy(id) {
            self.requests.wake(waiter);
        }
    }

    /// Unlocks the run; returns whoever waited for it.
    pub(crate) fn unlock_copy(&mut self, id: CopyId) -> Vec<Ticket> {
        let copy = self.copies.remove(id);
        for chunk in copy.run.chunks() {
            if self.may_pass(chunk) {
                self.maps.wpass.set(chunk.0);
            }
        }
        if let Some(index) = copy.background() {
            let bytes = self.geometry.bytes_of(copy.run).len;
            self.counters.background_copies += 1;
            self.counters.background_bytes += bytes;
            if let Some(set) = self.sets[usize::from(index.0)].as_mut() {
                set.copier.over(bytes);
            }
        }
        copy.waiters
    }

    /// The set's shadow takes nothing more while a restore keeps the set itself: its legs are lost.
    pub(crate) fn lose_legs(&mut self, index: SetIndex) {
        let concerned = |leg: &Leg| leg.set() == index && (leg.is_reading() || leg.is_copying());
        for id in self.copies.ids(|copy| copy.legs.iter().any(concerned)) {
            self.lose(id, index);
        }
    }

    /// The set's image is ending: its legs wait for that to be recorded.
    pub(crate) fn legs_await_end(&mut self, index: SetIndex) {
        self.copies.each(|copy| copy.leg(index).into_iter().for_each(Leg::await_end));
        self.set_mut(index).copier.take_batch();
    }

    /// Requests that wait until the end of the set's image is recorded.
    pub(crate) fn waiters_on_end(&self, index: SetIndex) -> impl Iterator<Item = Ticket> {
        self.copies.waiters_on(move |copy| copy.awaits_end_of(index))
    }

    /// The set's end is recorded: nothing is copied for it any more.
    pub(crate) fn legs_ended(&mut self, index: SetIndex) {
        for id in self.copies.ids(|copy| copy.awaits_end_of(index)) {
            self.settle_leg(id, index);
        }
    }
}
