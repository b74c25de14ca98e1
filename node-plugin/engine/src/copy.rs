//! A copy: a run of chunks from the physical master to every shadow that needs it, with the records that say so.
//!
//! ```text
//!            ┌ CopyWrite to shadow 1 ── flush ┐
//!  CopyRead ─┤ record in journal 1 ──── flush ├─ published: held ─┐
//!            │                                │                   ├─ locks fall, waiters go on
//!            └ the same for shadow 2 …        ┘  (or lost)       ─┘
//! ```
//!
//! One read whatever the number of siblings; data and record in parallel, the record with the data's hash so
//! that replay can tell whether the data arrived (E1). A step that fails makes the run *lost* for that set
//! alone; that is recorded durably before the waiters go on (common rule 4, invariant 1).
//!
//! Crash, for each leg: before the record is durable: unheld, the master is still old. Record without data: the
//! hash does not match, the record is dropped for ever, the master is still old. Both: held.

use crate::action::{
    Action, CopyBuf, CopyId, Device, IoKind, Memory, OpId, RequestId, SETS_MAX, SetIndex, Side,
};
use crate::journal::Purpose;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{Mode, PlaneId, Record};
use crate::restore::Stage;
use crate::set::{Durable, Ending};
use crate::units::{ByteRange, ChunkRun, Sequence};

/// What a copy does for one set.
#[derive(Debug)]
struct Leg {
    set: SetIndex,
    state: LegState,
    /// The block that the *held* record is in, once it is sealed.
    sequence: Option<Sequence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LegState {
    /// The old data is not there yet.
    Reading,
    /// Data and record are on their way.
    Copying { data_durable: bool, record_durable: bool },
    /// It failed: the record that says lost is on its way.
    Losing,
    /// The set's image is ending: waits until that is recorded.
    Ending,
    /// Held, lost or ended, durably.
    Settled,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) run: ChunkRun,
    legs: Vec<Leg>,
    buffer: Option<CopyBuf>,
    hash: u64,
    /// The set whose copier wanted it.
    pub(crate) background: Option<SetIndex>,
    /// What comes after the legs, where the run is to be restored.
    pub(crate) restoring: Option<Stage>,
    /// The request that overwrites the run, which cannot be read from the shadow.
    pub(crate) overwriter: Option<RequestId>,
    pub(crate) waiters: Vec<RequestId>,
}

impl Copy {
    /// Whether its records wait for company: nobody waits for the shadow's copier, but siblings of a restore are
    /// waited for.
    fn is_batched(&self) -> bool {
        self.background.is_some() && self.restoring.is_none()
    }

    fn leg(&mut self, set: SetIndex) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.set == set)
    }
}

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
        self.start_copy(run, only, None, None, out)
    }

    /// The longest run from the start of `wanted` in which every chunk is unlocked and needed by the same sets.
    pub(crate) fn copyable_run(&self, wanted: ChunkRun, only: Option<SetIndex>, bytes_max: u64) -> ChunkRun {
        let needed = |chunk| {
            let needs = |set: &&crate::set::VolumeSet| {
                only.is_none_or(|only| only == set.index) && !set.is_satisfied(chunk)
            };
            // Of what is pending only a part may be there to be restored.
            let pending = self.maps.pending.get(chunk.0);
            let restorable = pending && self.is_restorable(chunk);
            let pending = (u32::from(pending) | u32::from(restorable) << 1) << SETS_MAX;
            self.sets.iter().flatten().filter(needs).fold(pending, |mask, set| mask | 1 << set.index.0)
        };
        let first = needed(wanted.first);
        let chunks_max = u32::try_from((bytes_max / self.geometry.chunk_bytes()).max(1)).unwrap_or(u32::MAX);
        let crosses_head = |chunk: crate::units::Chunk| {
            let start = chunk.0 * self.geometry.chunk_bytes();
            self.sets.iter().flatten().any(|set| set.maps.head_bytes() == start && start != 0)
        };
        let same = wanted.chunks().skip(1).take_while(|chunk| {
            !self.locks.contains_key(chunk) && needed(*chunk) == first && !crosses_head(*chunk)
        });
        let count = 1 + u32::try_from(same.count()).expect("a run is counted in 32 bits");
        ChunkRun::new(wanted.first, count.min(chunks_max))
    }

    /// Locks the run and starts the copy as soon as there is a buffer.
    pub(crate) fn start_copy(
        &mut self,
        run: ChunkRun,
        only: Option<SetIndex>,
        background: Option<SetIndex>,
        restoring: Option<Stage>,
        out: &mut OwnerOutput,
    ) -> CopyId {
        let id = self.next_copy;
        self.next_copy = CopyId(id.0 + 1);
        for chunk in run.chunks() {
            let was = self.locks.insert(chunk, id);
            assert!(was.is_none(), "common rule 1: one transition at a time per chunk");
        }
        let needs = |set: &&crate::set::VolumeSet| {
            only.is_none_or(|only| only == set.index) && !set.is_satisfied(run.first)
        };
        let leg = |set: &crate::set::VolumeSet| Leg {
            set: set.index,
            state: if set.ending == Ending::No { LegState::Reading } else { LegState::Ending },
            sequence: None,
        };
        let legs: Vec<Leg> = self.sets.iter().flatten().filter(needs).map(leg).collect();
        assert!(!legs.is_empty() || restoring.is_some(), "a copy is started for somebody");
        let reads = legs.iter().any(|leg| leg.state == LegState::Reading);
        let alone = legs.is_empty();
        let copy = Copy {
            run,
            legs,
            buffer: None,
            hash: 0,
            background,
            restoring,
            overwriter: None,
            waiters: Vec::new(),
        };
        self.copies.insert(id, copy);
        if reads {
            self.buffer_queue.push_back(id);
            self.give_buffers(out);
        } else if alone {
            self.legs_settled(id);
        }
        id
    }

    /// Gives free buffers to the copies that wait for one, in order; each pool by itself.
    pub(crate) fn give_buffers(&mut self, out: &mut OwnerOutput) {
        let mut at = 0;
        while at < self.buffer_queue.len() {
            let id = self.buffer_queue[at];
            let Some(copy) = self.copies.get_mut(&id) else {
                self.buffer_queue.remove(at);
                continue;
            };
            let pool = match copy.background {
                Some(_) => &mut self.free_copier_buffers,
                None => &mut self.free_write_buffers,
            };
            let Some(buffer) = pool.pop() else {
                at += 1;
                continue;
            };
            self.buffer_queue.remove(at);
            self.buffer_users[usize::from(buffer.0)] += 1;
            if copy.restoring.is_some_and(Stage::wants_buffer) {
                self.read_from_shadow(id, buffer, out);
                continue;
            }
            copy.buffer = Some(buffer);
            out.actions.push(Action::Io {
                op: OpId::CopyRead(id),
                device: Device::Master,
                kind: IoKind::Read { hash: true },
                range: self.geometry.bytes_of(copy.run),
                memory: Memory::Copy(buffer),
            });
        }
    }

    pub(crate) fn release_buffer(&mut self, buffer: CopyBuf, out: &mut OwnerOutput) {
        let users = &mut self.buffer_users[usize::from(buffer.0)];
        *users -= 1;
        if *users == 0 {
            if buffer.0 < self.limits.write_buffers {
                self.free_write_buffers.push(buffer);
            } else {
                self.free_copier_buffers.push(buffer);
            }
            self.give_buffers(out);
        }
    }

    /// E13, E18: what hangs at one set is not waited for by the others, so its buffers are used again under their
    /// numbers. The memory stays with the executor until the device is done with it.
    pub(crate) fn reclaim_buffers(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set(index);
        let hangs = |op: OpId| set.shadow_watch.is_abandoned(op) || set.bitmap_watch.is_abandoned(op);
        let is_of = |op: OpId| matches!(op, OpId::CopyWrite(_, of) | OpId::RestoreRead(_, of) if of == index);
        let is_hung = |op: OpId| is_of(op) && hangs(op);
        let hung: Vec<(OpId, CopyBuf)> =
            self.buffers_in_flight.iter().copied().filter(|(op, _)| is_hung(*op)).collect();
        for lent in hung {
            self.buffers_in_flight.retain(|other| *other != lent);
            self.release_buffer(lent.1, out);
        }
    }

    /// Where a set keeps its copy of a run. A run lies on one side of the head's end.
    pub(crate) fn copy_target(&self, index: SetIndex, run: ChunkRun) -> (Device, ByteRange) {
        self.set(index).maps.locate(index, self.geometry.bytes_of(run))
    }

    /// The old data has been read, or could not be.
    pub(crate) fn copy_read(&mut self, id: CopyId, ok: bool, hash: Option<u64>, out: &mut OwnerOutput) {
        let copy = self.copies.get_mut(&id).expect("a copy ends after its read");
        let (run, batched) = (copy.run, copy.is_batched());
        let buffer = copy.buffer.take().expect("a copy that reads has a buffer");
        copy.hash = hash.unwrap_or_default();
        let legs: Vec<SetIndex> =
            copy.legs.iter().filter(|leg| leg.state == LegState::Reading).map(|leg| leg.set).collect();
        for set in legs {
            if ok {
                self.spread(id, run, set, buffer, batched, out);
            } else {
                self.lose(id, set);
            }
        }
        self.release_buffer(buffer, out);
        self.settle_ended_legs(id);
    }

    /// Settles the legs of sets whose end was recorded while the old data was read.
    fn settle_ended_legs(&mut self, id: CopyId) {
        let Some(copy) = self.copies.get(&id) else { return };
        let over = |leg: &&Leg| leg.state == LegState::Ending && !self.set(leg.set).is_serving();
        let ended: Vec<SetIndex> = copy.legs.iter().filter(over).map(|leg| leg.set).collect();
        for set in ended {
            self.settle_leg(id, set);
        }
    }

    fn spread(
        &mut self,
        id: CopyId,
        run: ChunkRun,
        index: SetIndex,
        buffer: CopyBuf,
        batched: bool,
        out: &mut OwnerOutput,
    ) {
        if self.is_source_failed(index) {
            self.lose(id, index);
            return;
        }
        let (device, range) = self.copy_target(index, run);
        let op = OpId::CopyWrite(id, index);
        let now = self.now;
        self.buffer_users[usize::from(buffer.0)] += 1;
        self.buffers_in_flight.push((op, buffer));
        let set = self.set_mut(index);
        let flusher = if device == Device::Shadow(index) { &set.shadow } else { &set.bitmap };
        let kind = IoKind::Write { fua: flusher.fua() };
        set.watch(device).submitted(op, now);
        out.actions.push(Action::Io { op, device, kind, range, memory: Memory::Copy(buffer) });
        let copy = self.copies.get_mut(&id).expect("the copy is in progress");
        let leg = copy.leg(index).expect("the leg is in progress");
        leg.state = LegState::Copying { data_durable: false, record_durable: false };
        if !batched {
            self.record_held(id, index);
        }
    }

    /// Queues the record that the run is held.
    fn record_held(&mut self, id: CopyId, index: SetIndex) {
        let copy = &self.copies[&id];
        let record = Record { run: copy.run, set: PlaneId::Held.mask(), clear: 0, hash: Some(copy.hash) };
        self.set_mut(index).journal.push(record, Purpose::Held(id));
    }

    /// The data is on the shadow side, or the write failed.
    pub(crate) fn copy_written(&mut self, id: CopyId, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let op = OpId::CopyWrite(id, index);
        if let Some(at) = self.buffers_in_flight.iter().position(|(other, _)| *other == op) {
            let (_, buffer) = self.buffers_in_flight.swap_remove(at);
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
        let copying = |leg: &mut Leg| matches!(leg.state, LegState::Copying { .. });
        if !self.copies.get_mut(&id).and_then(|copy| copy.leg(index)).is_some_and(copying) {
            return;
        }
        if !ok {
            self.lose(id, index);
        } else if self.copies[&id].is_batched() {
            self.set_mut(index).copier.batch.push(id);
        } else {
            self.await_data(id, index);
        }
        let copy = self.copies.get_mut(&id).filter(|copy| !copy.is_batched());
        if is_off(Rule::DurableBeforeOverwrite)
            && let Some(leg) =
                copy.and_then(|copy| copy.leg(index)).filter(|leg| leg.state != LegState::Losing)
        {
            // The mutant takes what is only written for durable.
            if let Some(sequence) = leg.sequence {
                self.set_mut(index).journal.data_settled(sequence);
            }
            self.publish_held(id, index);
        }
    }

    fn await_data(&mut self, id: CopyId, index: SetIndex) {
        let (device, _) = self.copy_target(index, self.copies[&id].run);
        let set = self.set_mut(index);
        let flusher = if device == Device::Shadow(index) { &mut set.shadow } else { &mut set.bitmap };
        flusher.written(Durable::CopyData(id));
    }

    /// Lets the records of the background copies whose data is written go out, all in one block, and their
    /// data be flushed.
    pub(crate) fn seal_batch(&mut self, index: SetIndex) {
        let batch = std::mem::take(&mut self.set_mut(index).copier.batch);
        for id in &batch {
            self.record_held(*id, index);
            self.await_data(*id, index);
        }
        let copier = &mut self.set_mut(index).copier;
        copier.batch = batch;
        copier.batch.clear();
    }

    /// The record of a copy went into a block that is being written.
    pub(crate) fn copy_sealed(&mut self, id: CopyId, index: SetIndex, sequence: Sequence) {
        let Some(leg) = self.copies.get_mut(&id).and_then(|copy| copy.leg(index)) else {
            self.set_mut(index).journal.data_settled(sequence);
            return;
        };
        leg.sequence = Some(sequence);
        let settled = matches!(leg.state, LegState::Settled | LegState::Copying { data_durable: true, .. });
        if settled {
            self.set_mut(index).journal.data_settled(sequence);
        }
    }

    /// The data of a copy is durable.
    pub(crate) fn copy_data_durable(&mut self, id: CopyId, index: SetIndex) {
        let Some(leg) = self.copies.get_mut(&id).and_then(|copy| copy.leg(index)) else { return };
        let LegState::Copying { data_durable, record_durable } = &mut leg.state else { return };
        *data_durable = true;
        let (held, sequence) = (*record_durable, leg.sequence);
        if let Some(sequence) = sequence {
            self.set_mut(index).journal.data_settled(sequence);
        }
        if held {
            self.publish_held(id, index);
        }
    }

    /// The record of a copy is durable.
    pub(crate) fn copy_record_durable(&mut self, id: CopyId, index: SetIndex) {
        let Some(leg) = self.copies.get_mut(&id).and_then(|copy| copy.leg(index)) else { return };
        let LegState::Copying { data_durable, record_durable } = &mut leg.state else { return };
        *record_durable = true;
        if *data_durable {
            self.publish_held(id, index);
        }
    }

    /// Invariant 2: data and record are durable, so the master may be overwritten.
    fn publish_held(&mut self, id: CopyId, index: SetIndex) {
        let run = self.copies[&id].run;
        let set = self.set_mut(index);
        for chunk in run.chunks() {
            set.plane_mut(PlaneId::Held).put(chunk.0, true);
            set.maps.held.set(chunk.0);
        }
        self.settle_leg(id, index);
    }

    /// Common rule 4: the run's old data cannot be kept; that is recorded before anything goes on.
    pub(crate) fn lose(&mut self, id: CopyId, index: SetIndex) {
        let copy = self.copies.get_mut(&id).expect("the copy is in progress");
        let run = copy.run;
        let leg = copy.leg(index).expect("the leg is in progress");
        leg.state = LegState::Losing;
        let set = self.set_mut(index);
        let tracks = set.parameters.mode == Mode::Independent;
        let differs = if tracks { set.differs_plane().mask() } else { 0 };
        let record = Record { run, set: PlaneId::Lost.mask() | differs, clear: 0, hash: None };
        set.journal.push(record, Purpose::Lost(id));
    }

    /// The record that the run is lost is durable.
    pub(crate) fn copy_lost(&mut self, id: CopyId, index: SetIndex) {
        let Some(copy) = self.copies.get_mut(&id) else { return };
        let run = copy.run;
        let Some(leg) = copy.leg(index) else { return };
        if leg.state != LegState::Losing {
            return;
        }
        let sequence = leg.sequence;
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
        if let Some(sequence) = sequence {
            set.journal.data_settled(sequence);
        }
        self.settle_leg(id, index);
    }

    fn settle_leg(&mut self, id: CopyId, index: SetIndex) {
        let copy = self.copies.get_mut(&id).expect("the copy is in progress");
        let leg = copy.leg(index).expect("the leg is in progress");
        if leg.state == LegState::Settled {
            return;
        }
        leg.state = LegState::Settled;
        if is_off(Rule::SiblingBarrier) && copy.legs[0].state == LegState::Settled {
            let waiters = std::mem::take(&mut copy.waiters);
            waiters.into_iter().for_each(|waiter| self.wake(waiter));
        }
        self.wake_own(id, index);
        if self.copies[&id].legs.iter().all(|leg| leg.state == LegState::Settled) {
            self.legs_settled(id);
        }
    }

    /// E13: who writes through a shadow waits for that set alone, not for its siblings or what is restored behind them.
    fn wake_own(&mut self, id: CopyId, index: SetIndex) {
        let mut at = 0;
        while let Some(waiter) = self.copies[&id].waiters.get(at).copied() {
            if self.waiting_side(waiter) == Some(Side::Shadow(index)) {
                self.copies.get_mut(&id).expect("the copy is in progress").waiters.remove(at);
                self.wake(waiter);
            } else {
                at += 1;
            }
        }
    }

    /// Every set has what it needs of the run: the copy is over, or the restore of the run may begin.
    fn legs_settled(&mut self, id: CopyId) {
        if self.copies[&id].restoring.is_some() {
            self.restore_run(id);
        } else {
            self.finish_copy(id);
        }
    }

    /// Unlocks the run and wakes whoever waited for it.
    pub(crate) fn finish_copy(&mut self, id: CopyId) {
        for waiter in self.unlock_copy(id) {
            self.wake(waiter);
        }
    }

    /// Unlocks the run; returns whoever waited for it.
    pub(crate) fn unlock_copy(&mut self, id: CopyId) -> Vec<RequestId> {
        let copy = self.copies.remove(&id).expect("the copy is in progress");
        for chunk in copy.run.chunks() {
            let lock = self.locks.remove(&chunk);
            assert_eq!(lock, Some(id), "common rule 1: a lock is held by one copy");
            if self.may_pass(chunk) {
                self.maps.wpass.set(chunk.0);
            }
        }
        if let Some(index) = copy.background {
            let bytes = self.geometry.bytes_of(copy.run).len;
            self.counters.background_copies += 1;
            self.counters.background_bytes += bytes;
            if let Some(set) = self.sets[usize::from(index.0)].as_mut() {
                set.copier.in_flight -= 1;
                set.copier.copied_bytes += bytes;
            }
        }
        copy.waiters
    }

    /// The set's shadow takes nothing more while a restore keeps the set itself: its legs are lost.
    pub(crate) fn lose_legs(&mut self, index: SetIndex) {
        let copying =
            |leg: &Leg| leg.set == index && matches!(leg.state, LegState::Reading | LegState::Copying { .. });
        let concerned = |(id, copy): (&CopyId, &Copy)| copy.legs.iter().any(copying).then_some(*id);
        let mut ids: Vec<CopyId> = self.copies.iter().filter_map(concerned).collect();
        ids.sort_unstable();
        for id in ids {
            self.lose(id, index);
        }
    }

    /// The set's image is ending: its legs wait for that to be recorded.
    pub(crate) fn legs_await_end(&mut self, index: SetIndex) {
        for copy in self.copies.values_mut() {
            if let Some(leg) = copy.leg(index)
                && leg.state != LegState::Settled
            {
                leg.state = LegState::Ending;
            }
        }
        self.set_mut(index).copier.batch.clear();
    }

    /// Requests that wait until the end of the set's image is recorded.
    pub(crate) fn waiters_on_end(&self, index: SetIndex) -> impl Iterator<Item = RequestId> {
        let ends = move |leg: &Leg| leg.set == index && leg.state == LegState::Ending;
        self.copies
            .values()
            .filter(move |copy| copy.legs.iter().any(ends))
            .flat_map(|copy| copy.waiters.iter().copied())
    }

    /// The set's end is recorded: nothing is copied for it any more.
    pub(crate) fn legs_ended(&mut self, index: SetIndex) {
        let mut ended: Vec<CopyId> = self
            .copies
            .iter()
            .filter(|(_, copy)| {
                copy.legs.iter().any(|leg| leg.set == index && leg.state == LegState::Ending)
                    && copy.buffer.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        ended.sort_unstable();
        for id in ended {
            self.settle_leg(id, index);
        }
    }
}
