//! What a write needs before it may go, and how one ends that cannot have it.
//!
//! ```text
//!  master: every chunk that is not free ─> restored, or copied for those that need it ─> regions active ─> Go
//!                                          └ cannot be read: held and overwritten, one after the other
//!  shadow: every chunk ─> restored, or copied for this set ─> record confirmed (E1) ─> regions of this set ─> Go
//! ```

use crate::action::CopyId;
use crate::action::{Request, RequestError, RequestKind, SetIndex, Side};
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::port::ToPort;
use crate::record::{PlaneId, Record};
use crate::requests::Ticket;
use crate::set::VolumeSet;
use crate::superblock::Commit;
use crate::units::{ByteRange, Chunk, ChunkRun};

impl Owner {
    /// What a request still needs is started, or waited for; nothing missing: Go.
    pub(crate) fn consider(&mut self, ticket: Ticket, out: &mut OwnerOutput) {
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
        let recovers =
            set.recovering.is_some_and(|(epoch, until)| epoch == set.header.epoch && self.now < until);
        let (commit, said) = if recovers {
            (Commit::ShadowRecovered, set.header.recovered)
        } else {
            (Commit::ShadowWritten, set.header.shadow_written)
        };
        // A bitmap volume that has failed takes no superblock, also where a restore goes on from memory.
        if !said && !set.superblock.is_queued(commit) && set.ending == Ending::No {
            self.set_mut(index).superblock.commit(commit);
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
}

/// Whether a write replaces all of these bytes.
fn covers(request: &Request, bytes: ByteRange) -> bool {
    request.range.intersection(bytes) == Some(bytes)
}

fn count(from: Chunk, to: Chunk) -> u32 {
    u32::try_from(to.0 - from.0).expect("requests are bounded")
}
