//! A master: its owner and its port, with the messages between them.
//!
//! The shell calls [`Master::apply`] for every event of a turn of its loop and then [`Master::end_turn`]; what
//! comes out is executed in order. One port on the owner's thread is what there is now; the two only talk by
//! messages and shared bits, so more ports on other threads change nothing inside either.

use crate::action::{Action, Event, Now, OpId, RestoreStatus, SetIndex, SetParameters};
use crate::geometry::Geometry;
use crate::owner::{Counters, Limits, Owner, OwnerOutput};
use crate::port::{Port, PortOutput, ToPort};
use crate::record::{PLANES, PlaneId, SetHeader, SetState};
use crate::set::SetImage;
use crate::shared::MasterMaps;
use crate::units::{Chunk, Sequence};
use std::sync::Arc;

/// Rounds of messages in one turn: each round answers requests or moves a gate, and of both there are few.
const ROUNDS_MAX: usize = 10_000;

/// What a set is doing, in numbers; costs no scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetStatus {
    /// The durable header as it is in memory.
    pub header: SetHeader,
    /// Chunks that the shadow side holds.
    pub held: u64,
    /// Chunks that are lost.
    pub lost: u64,
    /// Chunks that the copier has still to copy, in either direction.
    pub pending: u64,
    /// Chunks that may differ since the cut.
    pub differs: u64,
    /// All chunks.
    pub chunks: u64,
    /// Bytes copied in the background since the epoch began.
    pub copied_bytes: u64,
    /// Operations that were given up and have not come back.
    pub abandoned: bool,
    /// The restore from the set, from its flip until nothing is pending.
    pub restore: Option<RestoreStatus>,
    /// Its superblock may say that a cut over several sets is in doubt (E4).
    pub in_doubt: bool,
}

/// Chunks of a run, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounts {
    /// The shadow side has its own copy.
    pub held: u64,
    /// To be copied by the present copy, or restored by the present restore.
    pub pending: u64,
    /// The old data could not be kept.
    pub lost: u64,
    /// May differ since the cut.
    pub differs: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Master {
    geometry: Geometry,
    owner: Owner,
    port: Port,
    owner_out: OwnerOutput,
    port_out: PortOutput,
}

impl Master {
    /// A master without sets. Requests that are no multiples of `block_bytes`, its logical block, are refused.
    pub fn new(geometry: Geometry, block_bytes: u64, limits: Limits) -> Self {
        let maps = Arc::new(MasterMaps::new(&geometry));
        Self {
            geometry,
            owner: Owner::new(geometry, limits, Arc::clone(&maps)),
            port: Port::new(geometry, block_bytes, maps, limits.requests),
            owner_out: OwnerOutput::default(),
            port_out: PortOutput::default(),
        }
    }

    /// Adds a set that was read from its bitmap volume before the first request, or a prepared one at any time.
    pub fn add_set(&mut self, index: SetIndex, parameters: SetParameters, image: SetImage) {
        let prepared = image.header.state == SetState::Prepared;
        self.owner.add_set(index, parameters, image);
        if !prepared {
            let maps = self.owner.shadow_maps(index);
            self.port.message(ToPort::Close { reads: false }, &mut self.port_out);
            self.port.message(ToPort::Maps(index, maps), &mut self.port_out);
            self.port.message(ToPort::Open, &mut self.port_out);
            self.port_out.messages.clear();
        }
    }

    /// Forgets a set that was disabled or is offline for good, or whose first cut failed.
    pub fn remove_set(&mut self, index: SetIndex) {
        self.owner.remove_set(index);
    }

    /// The shape of the master.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Takes one event; appends what is to be done.
    pub fn apply(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Request(request) => self.port.request(request, &mut self.port_out),
            Event::Done { op: OpId::Request { id, piece, attempt }, ok, .. } => {
                self.port.done(id, piece, attempt, ok, &mut self.port_out);
            }
            event => self.owner.event(now, event, &mut self.owner_out),
        }
        self.exchange(now, actions);
    }

    /// The end of a turn: everything that was collected goes out together.
    pub fn end_turn(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.owner.end_turn(now, &mut self.owner_out);
        let mut rounds = 0;
        while self.exchange(now, actions) {
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "port and owner never settle: {:?}", self.owner.gate);
            self.owner.end_turn(now, &mut self.owner_out);
        }
    }

    /// Carries messages until there are none; true if there were any.
    fn exchange(&mut self, now: Now, actions: &mut Vec<Action>) -> bool {
        let mut any = false;
        loop {
            actions.append(&mut self.port_out.actions);
            actions.append(&mut self.owner_out.actions);
            if self.port_out.messages.is_empty() && self.owner_out.messages.is_empty() {
                return any;
            }
            any = true;
            let mut to_port = std::mem::take(&mut self.owner_out.messages);
            for message in to_port.drain(..) {
                self.port.message(message, &mut self.port_out);
            }
            if self.owner_out.messages.is_empty() {
                self.owner_out.messages = to_port;
            }
            let mut to_owner = std::mem::take(&mut self.port_out.messages);
            for message in to_owner.drain(..) {
                self.owner.message(now, message, &mut self.owner_out);
            }
            if self.port_out.messages.is_empty() {
                self.port_out.messages = to_owner;
            }
        }
    }

    /// The words of a page, for [`Action::Page`].
    pub fn page_words(&self, set: SetIndex, plane: PlaneId, page: u32) -> &[u64] {
        self.owner.set(set).plane(plane).page_words(page as usize)
    }

    /// The newest block that is confirmed, for tests and status.
    pub fn confirmed(&self, set: SetIndex) -> Sequence {
        self.owner.set(set).journal.confirmed()
    }

    /// What a set is doing.
    pub fn status(&self, index: SetIndex) -> Option<SetStatus> {
        let set = self.owner.sets[usize::from(index.0)].as_ref()?;
        Some(SetStatus {
            header: set.header,
            held: set.plane(PlaneId::Held).ones(),
            lost: set.plane(PlaneId::Lost).ones(),
            pending: match set.header.state {
                SetState::Copying | SetState::CopyAborted => set.pending_chunks(),
                SetState::Restoring | SetState::RestoreAborted => set.plane(PlaneId::Pending).ones(),
                SetState::Prepared
                | SetState::Dependent
                | SetState::Complete
                | SetState::Offline(_)
                | SetState::Disabled => 0,
            },
            differs: self.owner.differing(set),
            chunks: self.geometry.chunk_count(),
            copied_bytes: set.copier.copied_bytes(),
            abandoned: set.shadow_watch.has_abandoned() || set.bitmap_watch.has_abandoned(),
            restore: self.owner.restore_status(set),
            in_doubt: self.owner.doubtful_epoch(index).is_some(),
        })
    }

    /// Counts of chunks by kind in a run, for a map of the set.
    pub fn count(&self, set: SetIndex, from: Chunk, to: Chunk) -> Option<RunCounts> {
        let set = self.owner.sets[usize::from(set.0)].as_ref()?;
        let count = |plane| set.plane(plane).count(from.0, to.0);
        let (held, lost) = (count(PlaneId::Held), count(PlaneId::Lost));
        let pending = match set.header.state {
            SetState::Copying | SetState::CopyAborted => (to.0 - from.0).saturating_sub(held + lost),
            SetState::Restoring | SetState::RestoreAborted => count(PlaneId::Pending),
            SetState::Prepared
            | SetState::Dependent
            | SetState::Complete
            | SetState::Offline(_)
            | SetState::Disabled => 0,
        };
        Some(RunCounts { held, pending, lost, differs: count(set.differs_plane()) })
    }

    /// What the volume has cost so far.
    pub fn counters(&self) -> Counters {
        self.owner.counters
    }

    /// Whether everything was closed in order.
    pub fn is_detached(&self) -> bool {
        self.owner.detached
    }

    /// Requests in flight or held back.
    pub fn requests_in_flight(&self) -> usize {
        self.port.in_flight()
    }

    /// Walks everything that can be checked from inside.
    ///
    /// # Panics
    /// If an invariant does not hold; the message names it.
    pub fn self_check(&self) {
        self.owner.self_check();
        const { assert!(PLANES == PlaneId::ALL.len()) };
    }
}
