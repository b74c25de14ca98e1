//! The sets of a bench, as a start would find them.

use super::CHUNK;
use std::ops::Range;
use umbra_engine::{
    Durability, Epoch, Geometry, Id128, Mode, PlaneId, SetHeader, SetImage, SetParameters, SetState,
    SuperblockGeneration, Unrecordable,
};

/// A set with nothing held, nothing lost; its devices have caches and deadlines of a second.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    parameters: SetParameters,
    header: SetHeader,
    bits: Vec<(PlaneId, Range<u64>)>,
    dirty: bool,
}

impl Set {
    /// A dependent one, its head in place.
    pub(crate) fn dependent() -> Self {
        Self::of(Mode::Dependent, SetState::Dependent)
    }

    /// A dependent one that has no point in time yet.
    pub(crate) fn prepared() -> Self {
        Self::of(Mode::Dependent, SetState::Prepared)
    }

    /// An independent one whose copy is running.
    pub(crate) fn copying() -> Self {
        Self::of(Mode::Independent, SetState::Copying)
    }

    /// An independent one whose copy is complete: everything of `chunks` is held.
    pub(crate) fn complete(chunks: u64) -> Self {
        Self::of(Mode::Independent, SetState::Complete).held(0..chunks)
    }

    /// A dependent one that its master is being restored from: these chunks are held and pending.
    pub(crate) fn restoring(chunks: Range<u64>) -> Self {
        Self::of(Mode::Dependent, SetState::Restoring).held(chunks.clone()).bits(PlaneId::Pending, chunks)
    }

    /// An independent one in the middle of merging the planes of its last update; a page is dirty.
    pub(crate) fn merging(chunks: u64) -> Self {
        let mut set = Self::copying().held(0..chunks - 1);
        set.header.merging = true;
        set.dirty = true;
        set
    }

    /// The copier was stopped.
    pub(crate) fn aborted(mut self) -> Self {
        self.header.state = match self.header.state {
            SetState::Restoring => SetState::RestoreAborted,
            SetState::Copying => SetState::CopyAborted,
            other => panic!("{other:?} has no copier"),
        };
        self
    }

    fn of(mode: Mode, state: SetState) -> Self {
        let parameters = SetParameters {
            mode,
            shadow_durability: Durability::Flush,
            bitmap_durability: Durability::Flush,
            ring_blocks: 64,
            head_bytes: 2 * CHUNK,
            head_offset: 1 << 20,
            shadow_deadline_ms: 1000,
            bitmap_deadline_ms: 1000,
            unrecordable: Unrecordable::Block,
        };
        let header = SetHeader {
            epoch: Epoch(2),
            cut: Id128([0xff; 16]),
            state,
            head_moved: false,
            ..SetHeader::prepared()
        };
        Self { parameters, header, bits: Vec::new(), dirty: false }
    }

    /// The first two chunks of the shadow are on the bitmap volume.
    pub(crate) fn head_moved(mut self) -> Self {
        self.header.head_moved = true;
        self
    }

    /// These chunks are held.
    pub(crate) fn held(self, chunks: Range<u64>) -> Self {
        self.bits(PlaneId::Held, chunks)
    }

    /// These chunks are lost.
    pub(crate) fn lost(self, chunks: Range<u64>) -> Self {
        self.bits(PlaneId::Lost, chunks)
    }

    /// These bits of a plane are 1.
    pub(crate) fn bits(mut self, plane: PlaneId, bits: Range<u64>) -> Self {
        self.bits.push((plane, bits));
        self
    }

    /// Its ring has so many blocks.
    pub(crate) fn ring(mut self, blocks: u64) -> Self {
        self.parameters.ring_blocks = blocks;
        self
    }

    /// While nothing can be recorded, writes fail at once.
    pub(crate) fn fail_write(mut self) -> Self {
        self.parameters.unrecordable = Unrecordable::FailWrite(0);
        self
    }

    /// What the engine is told.
    pub(crate) fn build(self, geometry: &Geometry) -> (SetParameters, SetImage) {
        let mut image = SetImage::prepared(geometry, self.header, SuperblockGeneration(1));
        for (plane, bits) in self.bits {
            for bit in bits {
                image.planes[plane.index()].put(bit, true);
            }
        }
        for plane in &mut image.planes {
            plane.mark_all(false);
        }
        image.planes[PlaneId::Held.index()].mark_all(self.dirty);
        (self.parameters, image)
    }
}
