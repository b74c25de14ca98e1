//! The owner of a master: the one place where state changes.
//!
//! It answers a port's Need with Go once every set is ready for the write, and does the rest by itself:
//! copies, records, regions, checkpoints, cuts. Nothing here blocks, reads a clock or allocates per pass-through
//! request; the workload's own buffers are never touched.
//!
//! Each life cycle has a type of its own, with its states drawn at the top of its file and its fields closed; the owner
//! holds them and carries events from one to the other:
//!
//! | file | life cycle |
//! |---|---|
//! | `requests.rs` | a request that the owner keeps; tickets, which are never used twice |
//! | `writes.rs` | what a write needs before it may go |
//! | `copy/` | a run of chunks from the master to the shadows that need it; its legs, one per set |
//! | `restore/` | a restore; runs from the shadow to the master; chunks that are overwritten instead |
//! | `buffers.rs`, `regions.rs` | copy buffers, and regions of the write-intent log that become active |
//! | `copier.rs` | the background copier of a set, and its limits |
//! | `journal.rs`, `flush.rs`, `durable.rs` | records and flushes, and what they make durable |
//! | `superblock.rs`, `checkpoint.rs` | commits of a superblock; pages, and then such a commit |
//! | `gate.rs`, `gate/` | cut, completion, disable, detach: everything done under the closed gate |
//! | `watch.rs`, `failure.rs`, `ending.rs` | deadlines, devices that fail, the end of an image |

use crate::action::{
    Action, CopyId, Device, Durability, Event, Now, OpId, SETS_MAX, SetIndex, SetKey, SetParameters,
};
use crate::buffers::Buffers;
use crate::command::{Command, CommandId, CutMember, Done, Refusal};
use crate::copy::Copies;
use crate::flush::{Flusher, Tickets};
use crate::gate::Gate;
use crate::geometry::Geometry;
use crate::port::{ToOwner, ToPort};
use crate::record::PlaneId;
use crate::regions::Regions;
use crate::requests::{Requests, Ticket};
use crate::restore::Restore;
use crate::set::{FlushRound, SetImage, VolumeSet};
use crate::shared::MasterMaps;
use crate::units::{Chunk, Sequence};
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
    /// Writes through a shadow that wait until a record is confirmed durably (E1).
    pub(crate) confirm_waiters: Vec<(SetIndex, Sequence, Ticket)>,
    pub(crate) copies: Copies,
    pub(crate) buffers: Buffers,
    pub(crate) regions: Regions,
    pub(crate) gate: Option<Gate>,
    pub(crate) commands: VecDeque<(CommandId, Command)>,
    pub(crate) detached: bool,
    /// Sets that were ever added.
    sets_added: u64,
    pub(crate) tickets: Tickets,
    /// The last round of flushes that a gate has asked for.
    pub(crate) flush_round: FlushRound,
    /// Restored runs that wait for a flush of the master.
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
            sets_added: 0,
            tickets: Tickets::default(),
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
        let key = SetKey { index, serial: self.sets_added };
        self.sets_added += 1;
        let set = VolumeSet::new(key, &self.geometry, parameters, image);
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
            OpId::Journal(SetKey { index: set, .. }, sequence) => {
                if self.ended(Device::Bitmap(set), set, op) {
                    self.journal_written(set, sequence, ok, out);
                }
            }
            OpId::Page(SetKey { index: set, .. }, _) => {
                if self.ended(Device::Bitmap(set), set, op) {
                    self.page_written(set, ok, out);
                }
            }
            OpId::Superblock(SetKey { index: set, .. }, _, place) => {
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

    fn command(&mut self, id: CommandId, command: Command, out: &mut OwnerOutput) {
        let known = |set: SetIndex| self.sets[usize::from(set.0)].is_some();
        let refused = match &command {
            _ if self.detached => Some(Refusal::NoSuchSet),
            Command::Cut { member: CutMember { set, .. }, .. }
            | Command::Abort { set }
            | Command::Resume { set }
            | Command::SetCopyLimits { set, .. }
            | Command::Recovering { set, .. }
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
            Command::Recovering { set, lasts_ms } => {
                let until = Now(self.now.0.saturating_add(lasts_ms));
                let set = self.set_mut(set);
                set.recovering = Some((set.header.epoch, until));
                out.actions.push(Action::Answer { command: id, result: Ok(Done::Ok) });
            }
            Command::Cut { .. } | Command::Prepare { .. } | Command::Disable { .. } | Command::Detach => {
                self.commands.push_back((id, command));
            }
        }
    }
}
