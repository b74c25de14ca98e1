//! A volume set as its owner holds it: planes, journal, flush tickets, superblock, checkpoint, copier.

use crate::action::{CopyId, Device, HeadMove, Now, Place, SetIndex, SetKey, SetParameters};
use crate::bits::Plane;
use crate::checkpoint::Checkpoint;
use crate::command::CommandId;
use crate::copier::Copier;
use crate::ending::Ending;
use crate::flush::Flusher;
use crate::geometry::Geometry;
use crate::journal::Journal;
use crate::record::{Mode, PLANES, PlaneId, SetHeader, SetState};
use crate::shared::{MasterMaps, ShadowMaps};
use crate::superblock::Superblock;
use crate::units::{Chunk, Epoch, Sequence, SuperblockGeneration};
use crate::watch::Watch;
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

/// See the module.
#[derive(Debug)]
pub(crate) struct VolumeSet {
    pub(crate) index: SetIndex,
    pub(crate) key: SetKey,
    pub(crate) parameters: SetParameters,
    pub(crate) header: SetHeader,
    pub(crate) planes: Vec<Plane>,
    pub(crate) maps: Arc<ShadowMaps>,
    pub(crate) journal: Journal,
    pub(crate) shadow: Flusher<Durable>,
    pub(crate) bitmap: Flusher<Durable>,
    pub(crate) shadow_watch: Watch,
    pub(crate) bitmap_watch: Watch,
    pub(crate) superblock: Superblock,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) copier: Copier,
    pub(crate) ending: Ending,
    /// The newest image whose end is to be recorded elsewhere.
    pub(crate) given_up_epoch: Epoch,
    /// What is written through the shadow of this epoch until then is a file system's recovery.
    pub(crate) recovering: Option<(Epoch, Now)>,
    /// Waits for the state that is being committed.
    pub(crate) state_command: Option<CommandId>,
    /// Records wait for a place in the ring since then, and no checkpoint can free one (E8).
    pub(crate) stalled_since: Option<Now>,
    /// When the last journal block was sealed.
    pub(crate) sealed_at: Now,
    /// The shell moves the head, or still tries to though nobody waits for it any more.
    pub(crate) head_moving: Option<HeadMoving>,
}

/// A head on its way, which may be late (E11).
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadMoving {
    pub(crate) to: HeadMove,
    pub(crate) since: Now,
}

impl VolumeSet {
    pub(crate) fn new(key: SetKey, geometry: &Geometry, parameters: SetParameters, image: SetImage) -> Self {
        assert_eq!(image.planes.len(), PLANES, "an image has every plane");
        let header = image.header;
        let maps = Arc::new(ShadowMaps::new(geometry, parameters.head_offset));
        let mut set = Self {
            index: key.index,
            key,
            parameters,
            header,
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
            superblock: Superblock::new(image.generation),
            checkpoint: Checkpoint::new(),
            copier: Copier::new(),
            ending: if matches!(header.state, SetState::Offline(_)) { Ending::Recorded } else { Ending::No },
            given_up_epoch: header.epoch,
            recovering: None,
            state_command: None,
            stalled_since: None,
            sealed_at: Now(0),
            head_moving: None,
        };
        set.publish_maps();
        set
    }

    /// The device that keeps the head for too long, if one does. One that is only to be kept is only read, from the
    /// bitmap volume.
    pub(crate) fn late_head(&self, now: Now) -> Option<Device> {
        let HeadMoving { to, since } = self.head_moving?;
        let (device, deadline_ms) = match to {
            HeadMove::Keep => (Device::Bitmap(self.index), self.parameters.bitmap_deadline_ms),
            HeadMove::Out | HeadMove::Back => {
                (Device::Shadow(self.index), self.parameters.shadow_deadline_ms)
            }
        };
        (now.0 >= since.0 + deadline_ms).then_some(device)
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
        self.superblock.drop_states();
        self.ending = Ending::Recorded;
    }

    /// Whether the gate may act on the set: nothing in flight, everything confirmed, superblock settled.
    pub(crate) fn is_drained(&self) -> bool {
        self.journal.is_drained() && self.shadow.is_idle() && self.is_settled()
    }

    /// Whether nothing is on its way to the bitmap volume that would come behind the superblock of a gate. Also asked of
    /// an image that has ended: its last checkpoint knows nothing of the image that a reset begins.
    pub(crate) fn is_settled(&self) -> bool {
        self.bitmap.is_idle() && self.superblock.is_settled() && self.checkpoint.is_idle()
    }

    pub(crate) fn watch(&mut self, device: Device) -> &mut Watch {
        match device {
            Device::Shadow(_) => &mut self.shadow_watch,
            Device::Bitmap(_) => &mut self.bitmap_watch,
            Device::Master | Device::Head(_) => unreachable!("only devices of a set are watched"),
        }
    }
}
