//! Where everything is on a bitmap volume.
//!
//! ```text
//!  0          64 KiB      1 MiB      2 MiB
//!  ├ slot A ──┼ reserved ─┼ slot B ──┼ journal ring ─┼ head of the shadow ─┼ planes, two places a page ─┤
//! ```

use crate::codec::BLOCK_BYTES;
use umbra_engine::{CHUNK_BYTES_MAX, Geometry, PAGE_BITS, Place, PlaneId, Sequence};

/// Offset of slot B: a scratch or a misdirected write does not reach both (E10).
pub const SLOT_B_OFFSET: u64 = 1 << 20;
/// Offset of the room for the hashes of used operation names.
pub const OPERATION_NAMES_OFFSET: u64 = 64 << 10;
/// Blocks of it: 256 hashes of 8 bytes in each, behind a header of 64 bytes.
pub const OPERATION_NAMES_BLOCKS: u64 = 4;
/// Offset of the journal ring.
pub const RING_OFFSET: u64 = 2 << 20;
/// Blocks of the ring where nothing else is asked: 8 MiB.
pub const RING_BLOCKS_DEFAULT: u64 = 2048;
/// Fewest blocks of a ring that can still be checkpointed in time.
pub const RING_BLOCKS_MIN: u64 = 8;
/// Most blocks of a ring, 256 MiB: recovery holds them in memory.
pub const RING_BLOCKS_MAX: u64 = 1 << 16;
/// Bytes of the shadow's head kept here while it is moved, at least.
pub const HEAD_BYTES_MIN: u64 = 1 << 20;
/// Most bytes of a head, one chunk of the largest size: it is moved through memory.
pub const HEAD_BYTES_MAX: u64 = CHUNK_BYTES_MAX;

const _: () = assert!(OPERATION_NAMES_OFFSET + OPERATION_NAMES_BLOCKS * BLOCK_BYTES as u64 <= SLOT_B_OFFSET);
const _: () = assert!(SLOT_B_OFFSET + BLOCK_BYTES as u64 <= RING_OFFSET && HEAD_BYTES_MIN <= HEAD_BYTES_MAX);

/// Offsets on one bitmap volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: Geometry,
    /// Blocks of the journal ring.
    pub ring_blocks: u64,
    /// Bytes of the shadow's head that can be kept here.
    pub head_bytes: u64,
}

impl Layout {
    /// The layout for a master of `geometry`.
    ///
    /// # Panics
    /// If ring or head are out of bounds: decoded ones were checked, and nobody may ask for such.
    pub fn new(geometry: Geometry, ring_blocks: u64, head_bytes: u64) -> Self {
        assert!(
            (RING_BLOCKS_MIN..=RING_BLOCKS_MAX).contains(&ring_blocks),
            "a ring of {ring_blocks} blocks is too small to checkpoint in time, or too large to recover"
        );
        assert!(head_bytes <= HEAD_BYTES_MAX, "a head of {head_bytes} bytes is more than one chunk");
        Self { geometry, ring_blocks, head_bytes }
    }

    /// The layout that a new set gets.
    pub fn standard(geometry: Geometry) -> Self {
        Self::new(geometry, RING_BLOCKS_DEFAULT, Self::standard_head(&geometry))
    }

    /// Bytes of the head for a new set: the first chunk, at least 1 MiB, at most the master.
    pub fn standard_head(geometry: &Geometry) -> u64 {
        let whole = geometry.chunk_count() * geometry.chunk_bytes();
        geometry.chunk_bytes().max(HEAD_BYTES_MIN).min(whole)
    }

    /// The shape of the master.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Offset of a superblock slot.
    pub fn superblock(&self, place: Place) -> u64 {
        match place {
            Place::A => 0,
            Place::B => SLOT_B_OFFSET,
        }
    }

    /// Offset of the journal block with this number.
    pub fn journal_block(&self, sequence: Sequence) -> u64 {
        RING_OFFSET + sequence.0 % self.ring_blocks * BLOCK_BYTES as u64
    }

    /// Offset of the shadow's head.
    pub fn head_offset(&self) -> u64 {
        (RING_OFFSET + self.ring_blocks * BLOCK_BYTES as u64).next_multiple_of(1 << 20)
    }

    /// Number of pages of a plane.
    pub fn pages(&self, plane: PlaneId) -> u64 {
        plane.bits(&self.geometry).div_ceil(PAGE_BITS)
    }

    /// Offset of one of the two places of a page.
    pub fn page(&self, plane: PlaneId, page: u32, place: Place) -> u64 {
        let before: u64 = PlaneId::ALL[..plane.index()].iter().map(|id| self.pages(*id)).sum();
        let pages = before + u64::from(page);
        let place = u64::from(place == Place::B);
        self.planes_offset() + (pages * 2 + place) * BLOCK_BYTES as u64
    }

    /// Offset of the first place of the first page.
    pub fn planes_offset(&self) -> u64 {
        (self.head_offset() + self.head_bytes).next_multiple_of(1 << 20)
    }

    /// Bytes that the bitmap volume must have.
    pub fn total_bytes(&self) -> u64 {
        let pages: u64 = PlaneId::ALL.iter().map(|id| self.pages(*id)).sum();
        (self.planes_offset() + pages * 2 * BLOCK_BYTES as u64).next_multiple_of(1 << 20)
    }
}
