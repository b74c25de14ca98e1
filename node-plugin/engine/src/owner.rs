//! The owner of a master: the one place where state changes.
//!
//! It answers a port's Need with Go once every set is ready for the write, and does the rest by itself:
//! copies, records, regions, checkpoints, cuts. Nothing here blocks, reads a clock or allocates per pass-through
//! request; the workload's own buffers are never touched.
//!
//! | file | what |
//! |---|---|
//! | `owner.rs` | requests that need something, completions |
//! | `copy.rs` | a run of chunks from the master to the shadows that need it |
//! | `copier.rs` | the background copier of independent sets |
//! | `durable.rs` | journal blocks, flush tickets, superblock commits, checkpoints |
//! | `gate.rs` | cut, completion, disable, detach: everything done under the closed gate |
//! | `restore.rs` | runs of chunks from a shadow back to the master |
//! | `failure.rs` | deadlines, offline, giving up |

use crate::action::{
    Action, Command, CommandId, CopyId, CutMember, Device, Durability, Event, Now, OpId, Refusal, Request,
    RequestError, RequestKind, SETS_MAX, SetIndex, SetParameters, Side,
};
use crate::buffers::Buffers;
use crate::copy::Copies;
use crate::flush::Flusher;
use crate::gate::Gate;
use crate::geometry::Geometry;
use crate::mutation::{Rule, is_off};
use crate::port::{ToOwner, ToPort};
use crate::record::{PlaneId, Record};
use crate::regions::Regions;
use crate::requests::{Requests, Ticket};
use crate::restore::Restore;
use crate::set::{Commit, Ending, FlushRound, SetImage, VolumeSet};
use crate::shared::MasterMaps;
use crate::units::{ByteRange, Chunk, ChunkRun, Sequence};
use std::collections::VecDeque;
use std::sync::Arc;

/// Fixed sizes of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at a time.
    pub requests: usize,
    /// Copy buffers for first writes.
    pub write_buffers: u16,
    /// Copy buffers for the background copier.
    pub copier_buffers: u16,
    /// Bytes of a first-write buffer, at least a chunk.
    pub write_buffer_bytes: u64,
    /// Bytes of a copier's buffer, at least a chunk.
    pub copier_buffer_bytes: u64,
    /// A cut whose drain takes longer is void, in milliseconds.
    pub drain_deadline_ms: u64,
}

/// Counters since the start; what a person needs to see what a volume costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that had to ask the owner.
    pub asked: u64,
    /// Copies made because a write needed them.
    pub write_copies: u64,
    /// Bytes copied because a write needed them.
    pub write_copy_bytes: u64,
    /// Runs restored because a write needed them.
    pub write_restores: u64,
    /// Copies made in the background, either way.
    pub background_copies: u64,
    /// Bytes copied in the background.
    pub background_bytes: u64,
    /// Journal blocks.
    pub journal_blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Flushes of shadows and bitmap volumes.
    pub flushes: u64,
    /// Bitmap pages.
    pub pages: u64,
    /// Superblock slots.
    pub superblocks: u64,
    /// Chunks marked lost.
    pub lost_chunks: u64,
    /// Copies that had to wait for a buffer.
    pub buffer_waits: u64,
    /// Cuts taken, restores included.
    pub cuts: u64,
    /// Milliseconds from the closing of the gate of the last cut to the end of its drain.
    pub last_drain_ms: u64,
    /// Milliseconds from the closing of the gate of the last cut to its opening.
    pub last_gate_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) geometry: Geometry,
    pub(crate) limits: Limits,
    pub(crate) maps: Arc<MasterMaps>,
    pub(crate) sets: Vec<Option<VolumeSet>>,
    pub(crate) now: Now,
    pub(crate) requests: Requests,
    confirm_waiters: Vec<(SetIndex, Sequence, Ticket)>,
    pub(crate) copies: Copies,
    pub(crate) buffers: Buffers,
    pub(crate) regions: Regions,
    pub(crate) gate: Option<Gate>,
    pub(crate) commands: VecDeque<(CommandId, Command)>,
    pub(crate) detached: bool,
    pub(crate) master_ticket: u64,
    /// The last round of flushes that a gate has asked for.
    pub(crate) flush_round: FlushRound,
    /// Restored runs that wait for a flush of the master. Older than any restore: its tickets are never used twice.
    pub(crate) restored: Flusher<CopyId>,
    pub(crate) counters: Counters,
    /// The restore of this master, from its flip until nothing is pending.
    pub(crate) restore: Option<Restore>,
}

/// Output of the owner, in order.
#[derive(Debug, Default)]
pub(crate) struct OwnerOutput {
    /// For the shell.
    pub actions: Vec<Action>,
    /// For the port.
    pub messages: Vec<ToPort>,
}

impl Owner {
    /// An owner of a master without sets.
    pub(crate) fn new(geometry: Geometry, limits: Limits, maps: Arc<MasterMaps>) -> Self {
        assert!(limits.write_buffer_bytes >= geometry.chunk_bytes(), "a copy buffer holds a chunk");
        assert!(limits.copier_buffer_bytes >= geometry.chunk_bytes(), "a copy buffer holds a chunk");
        Self {
            geometry,
            limits,
            maps,
            sets: (0..SETS_MAX).map(|_| None).collect(),
            now: Now(0),
            requests: Requests::new(limits.requests),
            confirm_waiters: Vec::with_capacity(limits.requests),
            copies: Copies::new(limits.requests * 2),
            buffers: Buffers::new(limits.write_buffers, limits.copier_buffers, limits.requests * 2),
            regions: Regions::new(limits.requests),
            gate: None,
            commands: VecDeque::new(),
            detached: false,
            master_ticket: 0,
            flush_round: FlushRound::default(),
            restored: Flusher::new(Durability::Flush),
            counters: Counters::default(),
            restore: None,
        }
    }

    /// Adds a set: a prepared one, or one that was read from its bitmap volume. Before the first request, or
    /// for a prepared set, whose first cut brings it to life, at any time.
    pub(crate) fn add_set(&mut self, index: SetIndex, parameters: SetParameters, image: SetImage) {
        assert!(self.sets[usize::from(index.0)].is_none(), "a set index is used once");
        let set = VolumeSet::new(index, &self.geometry, parameters, image);
        let (serving, restoring) = (set.is_serving(), set.header.state.is_restoring());
        self.sets[usize::from(index.0)] = Some(set);
        if restoring {
            self.begin_restore(index);
        }
        if serving {
            self.publish_pass();
        }
    }

    /// Forgets a set that has no image.
    pub(crate) fn remove_set(&mut self, index: SetIndex) {
        let set = self.sets[usize::from(index.0)].take();
        assert!(set.is_none_or(|set| !set.is_serving()), "a set with an image is disabled first");
    }

    /// Invariants that can be seen from inside, whatever is in flight.
    pub(crate) fn self_check(&self) {
        if self.is_flipping() {
            return;
        }
        for chunk in (0..self.geometry.chunk_count()).map(Chunk) {
            assert!(
                !self.maps.wpass.get(chunk.0) || self.may_pass(chunk),
                "invariant 2: chunk {chunk} may pass too early"
            );
            let pending = |restore: &Restore| self.set(restore.set()).plane(PlaneId::Pending).get(chunk.0);
            assert_eq!(
                self.maps.pending.get(chunk.0),
                self.restore.as_ref().is_some_and(pending),
                "invariant 5: chunk {chunk} is routed as it is recorded"
            );
        }
        self.copies.self_check();
        for region in 0..self.geometry.region_count() {
            let active = self.is_region_active(region);
            assert!(!self.maps.region.get(region) || active, "invariant 6: region {region} passes too early");
        }
    }

    /// Chunks that may differ since the set's cut, with what ports have written and nobody has folded in yet.
    pub(crate) fn differing(&self, set: &VolumeSet) -> u64 {
        let differs = set.plane(set.differs_plane());
        if !set.is_tracking() {
            return differs.ones();
        }
        let both = |index: usize| differs.word(index) | self.maps.written.word(index);
        (0..self.maps.written.words()).map(|index| u64::from(both(index).count_ones())).sum()
    }

    /// The maps that a port needs of a set.
    pub(crate) fn shadow_maps(&self, index: SetIndex) -> Option<Arc<crate::shared::ShadowMaps>> {
        self.sets[usize::from(index.0)].as_ref().map(|set| Arc::clone(&set.maps))
    }

    /// Recomputes what may pass. Only while every port is closed, before there is one, or when bits can only
    /// go from 0 to 1 (F1).
    pub(crate) fn publish_pass(&mut self) {
        for index in 0..self.maps.wpass.words() {
            let ready = |set: &VolumeSet| match set.is_serving() {
                true => set.plane(PlaneId::Held).word(index) | set.plane(PlaneId::Lost).word(index),
                false => u64::MAX,
            };
            let pass = self.sets.iter().flatten().fold(u64::MAX, |pass, set| pass & ready(set));
            let pass = pass & !self.maps.pending.word(index);
            self.maps.wpass.set_word(index, pass);
        }
        self.maps.region.fill(false);
        for region in 0..self.geometry.region_count() {
            if self.is_region_active(region) {
                self.maps.region.set(region);
            }
        }
    }

    /// Whether a write to the chunk needs nothing for any set.
    pub(crate) fn may_pass(&self, chunk: Chunk) -> bool {
        !self.maps.pending.get(chunk.0) && self.sets.iter().flatten().all(|set| set.is_satisfied(chunk))
    }

    pub(crate) fn is_region_active(&self, region: u64) -> bool {
        self.sets.iter().flatten().all(|set| !set.is_tracking() || set.plane(set.region_plane()).get(region))
    }

    pub(crate) fn set(&self, index: SetIndex) -> &VolumeSet {
        self.sets[usize::from(index.0)].as_ref().expect("a set that exists")
    }

    pub(crate) fn set_mut(&mut self, index: SetIndex) -> &mut VolumeSet {
        self.sets[usize::from(index.0)].as_mut().expect("a set that exists")
    }

    pub(crate) fn set_indexes(&self) -> impl Iterator<Item = SetIndex> + use<> {
        let present: Vec<SetIndex> = self.sets.iter().flatten().map(|set| set.index).collect();
        present.into_iter()
    }

    /// A message of the port.
    pub(crate) fn message(&mut self, now: Now, message: ToOwner, out: &mut OwnerOutput) {
        self.now = now;
        match message {
            ToOwner::Need(request) => {
                self.counters.asked += 1;
                let ticket = self.requests.keep(request);
                self.consider(ticket, out);
            }
            ToOwner::FlushFailed(device) => self.flush_failed(device, out),
            ToOwner::Written(id, ok) => self.overwritten(id, ok, out),
            ToOwner::Closed => self.port_closed(out),
        }
    }

    /// An event of the shell, other than a request and its I/O.
    pub(crate) fn event(&mut self, now: Now, event: Event, out: &mut OwnerOutput) {
        self.now = now;
        match event {
            Event::Request(_) => unreachable!("requests enter through a port"),
            Event::Done { op, ok, hash } => self.done(op, ok, hash, out),
            Event::Command(id, command) => self.command(id, command, out),
            Event::GiveUpRecorded { set, ok } => self.give_up_recorded(set, ok, out),
            Event::HeadMoved { set, ok } => self.head_moved(set, ok, out),
            Event::FlushFailed(device) => self.flush_failed(device, out),
            Event::Tick => self.tick(out),
        }
    }

    fn done(&mut self, op: OpId, ok: bool, hash: Option<u64>, out: &mut OwnerOutput) {
        match op {
            OpId::Request { .. } => unreachable!("the port's"),
            OpId::CopyRead(copy) => self.copy_read(copy, ok, hash, out),
            OpId::CopyWrite(copy, set) => self.copy_written(copy, set, ok, out),
            OpId::Flush(Device::Master | Device::Head(_), ticket) => self.master_flushed(ticket, ok, out),
            OpId::Flush(device @ (Device::Shadow(set) | Device::Bitmap(set)), ticket) => {
                if self.ended(device, set, op) {
                    self.device_flushed(device, set, ticket, ok, out);
                }
            }
            OpId::RestoreRead(copy, set) => self.restore_read(copy, set, ok, out),
            OpId::RestoreWrite(copy) => self.restore_written(copy, ok, out),
            OpId::RestoreFlush(ticket) => self.restore_flushed(ticket, ok, out),
            OpId::Journal(set, sequence) => {
                if self.ended(Device::Bitmap(set), set, op) {
                    self.journal_written(set, sequence, ok, out);
                }
            }
            OpId::Page(set, _) => {
                if self.ended(Device::Bitmap(set), set, op) {
                    self.page_written(set, ok, out);
                }
            }
            OpId::Superblock(set, _, place) => {
                if self.ended(Device::Bitmap(set), set, op) {
                    self.superblock_written(set, place, ok, out);
                }
            }
        }
    }

    /// A failed flush is a failed device, whoever asked for it; the next one would only seem to succeed (E8).
    fn flush_failed(&mut self, device: Device, out: &mut OwnerOutput) {
        match device {
            Device::Shadow(set) if self.sets[usize::from(set.0)].is_some() => self.shadow_failed(set, out),
            Device::Bitmap(set) if self.sets[usize::from(set.0)].is_some() => self.bitmap_failed(set, out),
            Device::Master | Device::Shadow(_) | Device::Bitmap(_) | Device::Head(_) => {}
        }
    }

    /// Takes an operation off its device's watch; false if it was given up before, or its set is gone.
    pub(crate) fn ended(&mut self, device: Device, set: SetIndex, op: OpId) -> bool {
        self.sets[usize::from(set.0)].as_mut().is_some_and(|set| set.watch(device).ended(op))
    }

    /// The end of a turn of the shell's loop: what was collected goes out together.
    pub(crate) fn end_turn(&mut self, now: Now, out: &mut OwnerOutput) {
        self.now = now;
        loop {
            self.settle(out);
            while let Some(ticket) = self.requests.next_ready() {
                self.consider(ticket, out);
                self.settle(out);
            }
            self.run_copiers(out);
            self.run_restore(out);
            self.settle(out);
            self.advance_gate(out);
            self.settle(out);
            if !self.requests.has_ready() {
                return;
            }
        }
    }

    /// What a request still needs is started, or waited for; nothing missing: Go.
    fn consider(&mut self, ticket: Ticket, out: &mut OwnerOutput) {
        let Some(request) = self.requests.get(ticket).copied() else { return };
        let outcome = match request.side {
            Side::Master => self.prepare_master_write(ticket, &request, out),
            Side::Shadow(set) => self.prepare_shadow_write(ticket, set, &request, out),
        };
        match outcome {
            Ok(0) if self.overwrites(ticket) => out.messages.push(ToPort::GoAndTell(request.id)),
            Ok(0) => {
                self.requests.end(ticket);
                out.messages.push(ToPort::Go(request.id));
            }
            Ok(things) => self.requests.wait(ticket, things),
            Err(error) => self.end_request(ticket, error, out),
        }
    }

    /// Common rule 3, the barrier: the number of things the write has to wait for.
    fn prepare_master_write(
        &mut self,
        ticket: Ticket,
        request: &Request,
        out: &mut OwnerOutput,
    ) -> Result<u32, RequestError> {
        let run = self.geometry.chunks_of(request.range);
        let mut outstanding = 0;
        let mut unreadable = None;
        if request.kind != RequestKind::Discard {
            let mut at = run.first;
            while at < run.end() {
                if self.maps.wpass.get(at.0) || self.mutant_passes(at) {
                    at = at.next();
                    continue;
                }
                let rest = ChunkRun::new(at, count(at, run.end()));
                let copy = match self.copies.lock(at) {
                    Some(copy) if self.is_held_by(copy, ticket) => {
                        at = self.copies.of(copy).run().end();
                        continue;
                    }
                    Some(copy) => copy,
                    None if self.maps.pending.get(at.0) && !self.is_restorable(at) => {
                        // E9: nothing of it need be read if all of it is written.
                        if !covers(request, self.geometry.bytes_of(ChunkRun::new(at, 1))) {
                            return Err(RequestError::Io);
                        }
                        unreadable.get_or_insert(at);
                        at = at.next();
                        continue;
                    }
                    None if self.maps.pending.get(at.0) => self.start_restore(rest, out),
                    None => self.start_write_copy(rest, None, out),
                };
                at = self.wait_for_copy(copy, ticket);
                outstanding += 1;
            }
        }
        outstanding += self.activate_regions(run, ticket);
        // Locks that are kept until the request is written are taken last, and one after the other from the front: who
        // has one waits for nobody but those behind it.
        if outstanding == 0
            && let Some(at) = unreadable
        {
            self.start_overwrite(at, ticket, out);
            outstanding = 1;
        }
        Ok(outstanding)
    }

    /// Returns the chunk behind the copy's run.
    fn wait_for_copy(&mut self, copy: CopyId, ticket: Ticket) -> Chunk {
        let copy = self.copies.of_mut(copy);
        copy.wait(ticket);
        copy.run().end()
    }

    /// Whether the request has the copy's chunk locked, to overwrite it.
    fn is_held_by(&self, copy: CopyId, ticket: Ticket) -> bool {
        self.copies.of(copy).overwrite().is_some_and(|overwrite| overwrite.by() == Some(ticket))
    }

    /// The mutant of the barrier waits for the first sibling only.
    fn mutant_passes(&self, chunk: Chunk) -> bool {
        is_off(Rule::SiblingBarrier)
            && self
                .sets
                .iter()
                .flatten()
                .find(|set| set.is_serving())
                .is_none_or(|set| set.is_satisfied(chunk))
    }

    fn prepare_shadow_write(
        &mut self,
        ticket: Ticket,
        index: SetIndex,
        request: &Request,
        out: &mut OwnerOutput,
    ) -> Result<u32, RequestError> {
        let run = self.geometry.chunks_of(request.range);
        let set = self.sets[usize::from(index.0)].as_ref().ok_or(RequestError::Io)?;
        let lost = run.chunks().any(|chunk| set.plane(PlaneId::Lost).get(chunk.0));
        if !set.is_serving() || set.maps.is_offline() || lost {
            return Err(RequestError::Io);
        }
        // A bitmap volume that has failed takes no superblock, also where a restore goes on from memory.
        let unsaid = !set.header.shadow_written && !set.commits.contains(&Commit::ShadowWritten);
        if unsaid && set.ending == Ending::No {
            self.set_mut(index).commits.push_back(Commit::ShadowWritten);
        }
        let mut outstanding = 0;
        let mut at = run.first;
        while at < run.end() {
            let set = self.set(index);
            let pending = self.restores_from(index) && self.maps.pending.get(at.0);
            let held = set.plane(PlaneId::Held).get(at.0) && !pending;
            let rest = ChunkRun::new(at, count(at, run.end()));
            let copy = match self.copies.lock(at) {
                _ if held => {
                    outstanding += u32::from(self.await_confirmation(index, at, ticket));
                    at = at.next();
                    continue;
                }
                Some(copy) => copy,
                None if pending && !self.is_restorable(at) => return Err(RequestError::Io),
                None if pending => self.start_restore(rest, out),
                None => self.start_write_copy(rest, Some(index), out),
            };
            at = self.wait_for_copy(copy, ticket);
            outstanding += 1;
        }
        // E13: the log of another set is not this shadow's.
        let set = self.set(index);
        let logged = |region| set.plane(set.region_plane()).get(region);
        if !set.is_tracking() || self.regions_of(run).all(logged) {
            return Ok(outstanding);
        }
        Ok(outstanding + self.activate_regions(run, ticket))
    }

    /// E1: a chunk is written in place only after its record is confirmed durably. True if that must be waited for.
    fn await_confirmation(&mut self, index: SetIndex, chunk: Chunk, ticket: Ticket) -> bool {
        if is_off(Rule::ConfirmBeforeInPlace) {
            return false;
        }
        let set = self.set_mut(index);
        let Some(sequence) = set.journal.unconfirmed(chunk) else { return false };
        set.journal.want_confirmed(sequence);
        self.confirm_waiters.push((index, sequence, ticket));
        true
    }

    /// Everything that waited for a confirmation and has it now goes on.
    pub(crate) fn wake_confirmed(&mut self, index: SetIndex) {
        let upto = self.set(index).journal.confirmed_durably();
        let serving = self.set(index).is_serving();
        let mut at = 0;
        while at < self.confirm_waiters.len() {
            let (set, sequence, ticket) = self.confirm_waiters[at];
            if set == index && (sequence <= upto || !serving) {
                self.confirm_waiters.swap_remove(at);
                self.requests.wake(ticket);
            } else {
                at += 1;
            }
        }
    }

    /// Makes the regions of `run` active for every set that tracks; the number that must be waited for.
    fn activate_regions(&mut self, run: ChunkRun, ticket: Ticket) -> u32 {
        let mut outstanding = 0;
        for region in self.want_regions(run) {
            self.regions.wait(region, ticket);
            outstanding += 1;
        }
        outstanding
    }

    /// Whether the regions of `run` are active for every set that tracks.
    pub(crate) fn are_regions_active(&self, run: ChunkRun) -> bool {
        self.regions_of(run).all(|region| self.maps.region.get(region))
    }

    fn regions_of(&self, run: ChunkRun) -> std::ops::RangeInclusive<u64> {
        self.geometry.region_of(run.first)..=self.geometry.region_of(Chunk(run.end().0 - 1))
    }

    /// Asks for the regions of `run` in the log of every set that tracks; returns those that are not there yet.
    pub(crate) fn want_regions(&mut self, run: ChunkRun) -> Vec<u64> {
        let missing: Vec<u64> =
            self.regions_of(run).filter(|region| !self.maps.region.get(*region)).collect();
        for region in missing.iter().copied() {
            if self.regions.is_wanted(region) {
                continue;
            }
            let mut sets = 0;
            for set in self.sets.iter_mut().flatten() {
                let plane = set.region_plane();
                if set.is_tracking() && !set.plane(plane).get(region) {
                    let run = ChunkRun::new(Chunk(region), 1);
                    let record = Record { run, set: plane.mask(), clear: 0, hash: None };
                    set.journal.push(record, crate::journal::Purpose::RegionActive(region));
                    sets += 1;
                }
            }
            self.regions.want(region, sets);
        }
        missing
    }

    /// One set has the region in its log.
    pub(crate) fn region_settled(&mut self, region: u64) {
        if let Some(waiters) = self.regions.settled(region) {
            self.region_active(region, waiters);
        }
    }

    fn region_active(&mut self, region: u64, waiters: Vec<Ticket>) {
        self.maps.region.set(region);
        waiters.into_iter().for_each(|waiter| self.requests.wake(waiter));
    }

    /// Regions that only waited for sets that track no more are active.
    pub(crate) fn recount_regions(&mut self) {
        let wanting = |region: u64| {
            let wants = |set: &&VolumeSet| set.is_tracking() && !set.plane(set.region_plane()).get(region);
            u32::try_from(self.sets.iter().flatten().filter(wants).count()).expect("at most 16 sets")
        };
        for (region, waiters) in self.regions.recount(wanting) {
            self.region_active(region, waiters);
        }
    }

    /// A request that the owner has kept, and that was written, is over.
    pub(crate) fn finish_request(
        &mut self,
        ticket: Ticket,
        result: Result<(), RequestError>,
        out: &mut OwnerOutput,
    ) {
        if self.requests.end(ticket) {
            out.messages.push(ToPort::Finish(ticket.id(), result));
        }
    }

    /// Fails a request that waits.
    pub(crate) fn fail_request(&mut self, ticket: Ticket, out: &mut OwnerOutput) {
        self.end_request(ticket, RequestError::Io, out);
    }

    /// A request ends without having been written: what it holds it lets go, and nothing wakes it any more.
    fn end_request(&mut self, ticket: Ticket, error: RequestError, out: &mut OwnerOutput) {
        if self.requests.end(ticket) {
            self.let_go(ticket);
            out.messages.push(ToPort::Fail(ticket.id(), error));
        }
    }

    /// Fails what waits for the end of a set to be recorded, by its policy for when nothing can be. Writes through the
    /// shadow of another set go on waiting: it is not theirs (E13).
    pub(crate) fn fail_waiting(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set(index);
        let inactive = |region: u64| set.is_tracking() && !set.plane(set.region_plane()).get(region);
        let confirmed = self.confirm_waiters.iter().filter(|(set, ..)| *set == index);
        let mut waiters: Vec<Ticket> = self
            .waiters_on_end(index)
            .chain(self.regions.waiters_on(inactive))
            .chain(confirmed.map(|(.., ticket)| *ticket))
            .collect();
        waiters.sort_unstable();
        waiters.dedup();
        for ticket in waiters {
            let side = self.requests.side(ticket);
            if side.is_some_and(|side| side == Side::Master || side == Side::Shadow(index)) {
                self.fail_request(ticket, out);
            }
        }
    }

    fn command(&mut self, id: CommandId, command: Command, out: &mut OwnerOutput) {
        let known = |set: SetIndex| self.sets[usize::from(set.0)].is_some();
        let refused = match &command {
            _ if self.detached => Some(Refusal::NoSuchSet),
            Command::Cut { member: CutMember { set, .. }, .. }
            | Command::Abort { set }
            | Command::Resume { set }
            | Command::SetCopyLimits { set, .. }
            | Command::Disable { set, .. } => (!known(*set)).then_some(Refusal::NoSuchSet),
            Command::Prepare { members, .. } => {
                (!members.iter().all(|member| known(member.set))).then_some(Refusal::NoSuchSet)
            }
            Command::Flip { .. } | Command::Decide { .. } | Command::Detach => None,
        };
        if let Some(refusal) = refused {
            out.actions.push(Action::Answer { command: id, result: Err(refusal) });
            return;
        }
        match command {
            Command::Abort { set } => self.set_copying(id, set, false, out),
            Command::Resume { set } => self.set_copying(id, set, true, out),
            Command::Flip { cut } => self.flip_gate(id, cut, out),
            Command::Decide { cut, commit } => self.decide_gate(id, cut, commit, out),
            Command::SetCopyLimits { set, limits } => self.set_copy_limits(id, set, limits, out),
            Command::Cut { .. } | Command::Prepare { .. } | Command::Disable { .. } | Command::Detach => {
                self.commands.push_back((id, command));
            }
        }
    }
}

/// Whether a write replaces all of these bytes.
fn covers(request: &Request, bytes: ByteRange) -> bool {
    request.range.intersection(bytes) == Some(bytes)
}

fn count(from: Chunk, to: Chunk) -> u32 {
    u32::try_from(to.0 - from.0).expect("requests are bounded")
}
