//! A volume set as its owner holds it: planes, journal, flush tickets, superblock, checkpoint, copier.

use crate::action::{
    CommandId, CopyId, CopyLimits, Device, HeadMove, Now, OpId, Place, SetIndex, SetParameters,
};
use crate::bits::Plane;
use crate::flush::Flusher;
use crate::geometry::Geometry;
use crate::journal::Journal;
use crate::record::{Mode, OfflineCause, PLANES, PlaneId, SetHeader, SetState};
use crate::shared::{MasterMaps, ShadowMaps};
use crate::units::{Chunk, Epoch, Sequence, SuperblockGeneration};
use std::collections::VecDeque;
use std::sync::Arc;

/// A set as it is read from its bitmap volume, or as it is made for a new one.
#[derive(Clone, Debug)]
pub struct SetImage {
    /// The engine's part of the superblock.
    pub header: SetHeader,
    /// Generation of the superblock that was read.
    pub generation: SuperblockGeneration,
    /// The newest journal block that was ever written.
    pub last: Sequence,
    /// Planes, in the order of [`PlaneId::ALL`]; pages not dirty are on disk as they are here.
    pub planes: Vec<Plane>,
}

impl SetImage {
    /// A set that has no point in time yet.
    pub fn prepared(geometry: &Geometry, header: SetHeader, generation: SuperblockGeneration) -> Self {
        let planes = PlaneId::ALL.iter().map(|id| Plane::new(id.bits(geometry), false)).collect();
        Self { header, generation, last: header.checkpoint_upto, planes }
    }
}

/// Why the superblock is committed. One at a time, in order; nothing is coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// A cut, a completion, an end: the gate's header replaces ours.
    Gate(SetHeader),
    /// A cut over several sets is not decided: ours stays, and what it may become is named beside it.
    Doubt(SetHeader),
    /// It is decided that nothing happens.
    Void,
    /// Pages up to here are written.
    Checkpoint { upto: Sequence, merged: bool },
    /// The set's state changes.
    State(SetState),
    /// The shadow was written through.
    ShadowWritten,
    /// Nothing changes but what is said to be durable.
    Confirm,
}

impl Commit {
    /// Whether a gate waits for it.
    pub(crate) fn is_of_gate(self) -> bool {
        matches!(self, Self::Gate(_) | Self::Doubt(_) | Self::Void)
    }
}

/// Where a superblock commit is: first slot A (this is the commit), then slot B, before the next one (E10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committing {
    Idle,
    Slot { place: Place, commit: Commit },
}

/// A checkpoint: dirty pages to disk, then a superblock that lets the ring's tail advance (J4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    Idle,
    /// The pages are written to one place, flushed, then to the other, flushed: whatever becomes of one place
    /// later, the other is as good.
    Pages {
        upto: Sequence,
        place: Place,
        next: usize,
        merged: bool,
    },
    Committing,
}

/// One round of flushes that a gate waits for; never used twice, so what an earlier gate has left behind proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushRound(u64);

impl FlushRound {
    /// The round after this one.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What waits for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    CopyData(CopyId),
    Block(Sequence),
    Pages,
    Superblock(Place),
    /// A round of flushes of a gate.
    Gate(FlushRound),
}

/// Operations on a device of the set, with the time of their submission (E11).
#[derive(Debug, Default)]
pub(crate) struct Watch {
    in_flight: Vec<(OpId, Now)>,
    abandoned: Vec<OpId>,
}

impl Watch {
    pub(crate) fn submitted(&mut self, op: OpId, now: Now) {
        self.in_flight.push((op, now));
    }

    /// The operation has ended; false if it was given up before.
    pub(crate) fn ended(&mut self, op: OpId) -> bool {
        if let Some(index) = self.in_flight.iter().position(|(other, _)| *other == op) {
            self.in_flight.swap_remove(index);
            return true;
        }
        if let Some(index) = self.abandoned.iter().position(|other| *other == op) {
            self.abandoned.swap_remove(index);
        }
        false
    }

    pub(crate) fn oldest(&self) -> Option<Now> {
        self.in_flight.iter().map(|(_, since)| *since).min()
    }

    /// Gives up everything in flight.
    pub(crate) fn abandon(&mut self) {
        self.abandoned.extend(self.in_flight.drain(..).map(|(op, _)| op));
    }

    pub(crate) fn is_abandoned(&self, op: OpId) -> bool {
        self.abandoned.contains(&op)
    }

    pub(crate) fn has_abandoned(&self) -> bool {
        !self.abandoned.is_empty()
    }
}

/// The background copier of an independent set.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) limits: CopyLimits,
    pub(crate) cursor: u64,
    pub(crate) in_flight: u16,
    /// Copies whose data is written and whose records wait for company.
    pub(crate) batch: Vec<CopyId>,
    /// Bytes that may be copied now, by the rate limit.
    pub(crate) allowance: u64,
    pub(crate) refilled: Now,
    /// Bytes copied since the epoch began.
    pub(crate) copied_bytes: u64,
}

/// The set's image is ending: what is being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is not.
    No,
    /// The superblock is about to say so.
    Superblock(OfflineCause),
    /// The bitmap volume cannot: state directory and label are about to (E7).
    Elsewhere { cause: OfflineCause, since: Now, retry_at: Option<Now> },
    /// It is recorded.
    Recorded,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct VolumeSet {
    pub(crate) index: SetIndex,
    pub(crate) parameters: SetParameters,
    pub(crate) header: SetHeader,
    pub(crate) generation: SuperblockGeneration,
    pub(crate) planes: Vec<Plane>,
    pub(crate) maps: Arc<ShadowMaps>,
    pub(crate) journal: Journal,
    pub(crate) shadow: Flusher<Durable>,
    pub(crate) bitmap: Flusher<Durable>,
    pub(crate) shadow_watch: Watch,
    pub(crate) bitmap_watch: Watch,
    pub(crate) commits: VecDeque<Commit>,
    pub(crate) committing: Committing,
    /// What is being committed.
    pub(crate) pending_header: SetHeader,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) checkpoint_wanted: bool,
    pub(crate) page_writes: u64,
    /// Pages of the checkpoint in progress.
    pub(crate) checkpoint_pages: Vec<(PlaneId, u32)>,
    pub(crate) pages_in_flight: usize,
    pub(crate) copier: Copier,
    pub(crate) ending: Ending,
    /// The newest image whose end is to be recorded elsewhere.
    pub(crate) given_up_epoch: Epoch,
    /// Waits for the state that is being committed.
    pub(crate) state_command: Option<CommandId>,
    /// Records wait for a place in the ring since then, and no checkpoint can free one (E8).
    pub(crate) stalled_since: Option<Now>,
    /// When the last journal block was sealed.
    pub(crate) sealed_at: Now,
    /// The shell moves the head, or still tries to though nobody waits for it any more.
    pub(crate) head_moving: Option<HeadMove>,
}

impl VolumeSet {
    pub(crate) fn new(
        index: SetIndex,
        geometry: &Geometry,
        parameters: SetParameters,
        image: SetImage,
    ) -> Self {
        assert_eq!(image.planes.len(), PLANES, "an image has every plane");
        let header = image.header;
        let maps = Arc::new(ShadowMaps::new(geometry, parameters.head_offset));
        let mut set = Self {
            index,
            parameters,
            header,
            generation: image.generation,
            planes: image.planes,
            maps,
            journal: Journal::new(
                header.ring_generation,
                parameters.ring_blocks,
                header.checkpoint_upto,
                image.last,
            ),
            shadow: Flusher::new(parameters.shadow_durability),
            bitmap: Flusher::new(parameters.bitmap_durability),
            shadow_watch: Watch::default(),
            bitmap_watch: Watch::default(),
            commits: VecDeque::new(),
            committing: Committing::Idle,
            pending_header: header,
            checkpoint: Checkpoint::Idle,
            checkpoint_wanted: false,
            page_writes: 0,
            checkpoint_pages: Vec::new(),
            pages_in_flight: 0,
            copier: Copier {
                limits: CopyLimits { bytes_per_second: None, in_flight: COPIES_IN_FLIGHT_DEFAULT },
                cursor: 0,
                in_flight: 0,
                batch: Vec::new(),
                allowance: 0,
                refilled: Now(0),
                copied_bytes: 0,
            },
            ending: if matches!(header.state, SetState::Offline(_)) { Ending::Recorded } else { Ending::No },
            given_up_epoch: header.epoch,
            state_command: None,
            stalled_since: None,
            sealed_at: Now(0),
            head_moving: None,
        };
        set.publish_maps();
        set
    }

    /// Makes the shared maps equal to the planes. Only while every port is closed, or before there is one.
    pub(crate) fn publish_maps(&mut self) {
        self.maps.set_offline(!self.header.state.is_online());
        self.maps.set_failing(self.ending != Ending::No);
        self.maps.set_head_bytes(if self.header.head_moved { self.parameters.head_bytes } else { 0 });
        for (plane, bits) in [(PlaneId::Held, &self.maps.held), (PlaneId::Lost, &self.maps.lost)] {
            for index in 0..bits.words() {
                bits.set_word(index, self.planes[plane.index()].word(index));
            }
        }
    }

    pub(crate) fn plane(&self, id: PlaneId) -> &Plane {
        &self.planes[id.index()]
    }

    pub(crate) fn plane_mut(&mut self, id: PlaneId) -> &mut Plane {
        &mut self.planes[id.index()]
    }

    /// Whether the set needs nothing more of `chunk` before the master's is overwritten (common rule 3).
    pub(crate) fn is_satisfied(&self, chunk: Chunk) -> bool {
        !self.is_serving() || self.plane(PlaneId::Held).get(chunk.0) || self.plane(PlaneId::Lost).get(chunk.0)
    }

    /// Whether the set has an image that has not ended, as far as anything durable says.
    pub(crate) fn is_serving(&self) -> bool {
        self.header.state.is_online() && self.ending != Ending::Recorded
    }

    /// Whether writes are tracked in *differs* and the write-intent log.
    pub(crate) fn is_tracking(&self) -> bool {
        self.parameters.mode == Mode::Independent && self.is_serving()
    }

    /// Chunks that the copier has still to copy.
    pub(crate) fn pending_chunks(&self) -> u64 {
        let held = self.plane(PlaneId::Held);
        let lost = self.plane(PlaneId::Lost);
        let mut unheld = held.len() - held.ones();
        let mut next = lost.find(0, true);
        while let Some(chunk) = next {
            unheld -= u64::from(!held.get(chunk));
            next = lost.find(chunk + 1, true);
        }
        unheld
    }

    pub(crate) fn differs_plane(&self) -> PlaneId {
        PlaneId::differs(self.header.tracking)
    }

    pub(crate) fn region_plane(&self) -> PlaneId {
        PlaneId::region(self.header.tracking)
    }

    /// Adds what ports have written to *differs*.
    pub(crate) fn fold_written(&mut self, maps: &MasterMaps) {
        if self.parameters.mode == Mode::Independent {
            let plane = self.differs_plane();
            self.plane_mut(plane).or_shared(&maps.written);
        }
    }

    /// Adds what is lost to *differs*: an update ends the loss, and what *held* says of a lost chunk may be left from an
    /// earlier image (a recovery that could not tell leaves it), so the chunk must be copied anew.
    pub(crate) fn fold_lost(&mut self) {
        let plane = self.differs_plane();
        let mut next = self.plane(PlaneId::Lost).find(0, true);
        while let Some(chunk) = next {
            self.plane_mut(plane).put(chunk, true);
            next = self.plane(PlaneId::Lost).find(chunk + 1, true);
        }
    }

    /// A superblock says that the image has ended. Another end that waits for its turn would say something else.
    pub(crate) fn has_ended(&mut self) {
        self.commits.retain(|commit| !matches!(commit, Commit::State(_)));
        self.ending = Ending::Recorded;
    }

    /// Whether a change of the state is being committed.
    pub(crate) fn is_committing_state(&self) -> bool {
        matches!(self.committing, Committing::Slot { commit: Commit::State(_), .. })
    }

    /// Whether the gate may act on the set: nothing in flight, everything confirmed, superblock settled.
    pub(crate) fn is_drained(&self) -> bool {
        self.journal.is_drained() && self.shadow.is_idle() && self.is_settled()
    }

    /// Whether nothing is on its way to the bitmap volume that would come behind the superblock of a gate. Also asked of
    /// an image that has ended: its last checkpoint knows nothing of the image that a reset begins.
    pub(crate) fn is_settled(&self) -> bool {
        self.bitmap.is_idle()
            && self.committing == Committing::Idle
            && self.commits.is_empty()
            && self.checkpoint == Checkpoint::Idle
    }

    pub(crate) fn watch(&mut self, device: Device) -> &mut Watch {
        match device {
            Device::Shadow(_) => &mut self.shadow_watch,
            Device::Bitmap(_) => &mut self.bitmap_watch,
            Device::Master | Device::Head(_) => unreachable!("only devices of a set are watched"),
        }
    }
}

/// Background copies in flight where nothing else is asked: 4 x 1 MiB keep a device busy (performance plan, 2.7).
pub const COPIES_IN_FLIGHT_DEFAULT: u16 = 4;
