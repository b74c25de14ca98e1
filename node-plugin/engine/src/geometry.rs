//! The shape of a master: how many bytes, in chunks of what size.

use crate::units::{ByteRange, Chunk, ChunkRun};
use thiserror::Error;

/// Smallest chunk, in bytes.
pub const CHUNK_BYTES_MIN: u64 = 4 << 10;
/// Largest chunk, in bytes.
pub const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// Chunk size where none is asked for, in bytes.
pub const CHUNK_BYTES_DEFAULT: u64 = 64 << 10;
/// Bytes of one region of the write-intent log: the precision of *differs* after a crash.
pub const REGION_BYTES: u64 = 4 << 20;

/// Why a size cannot be the size of a master or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// The chunk size is no power of two in the allowed range.
    #[error("chunk size {0} is not a power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX} bytes")]
    ChunkSize(u64),
    /// The master is empty or its size is not a multiple of a sector.
    #[error("master size {0} is not a positive multiple of 512 bytes")]
    MasterSize(u64),
    /// More chunks than a record can number.
    #[error("master of {0} bytes has more than 2^40 chunks; use larger chunks")]
    TooManyChunks(u64),
}

/// Size of a master and of its chunks. The last chunk may be short (E17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    master_bytes: u64,
    chunk_shift: u32,
}

impl Geometry {
    /// A master of `master_bytes` in chunks of `chunk_bytes`.
    ///
    /// # Errors
    /// [`GeometryError`] says which of the two is impossible.
    pub fn new(master_bytes: u64, chunk_bytes: u64) -> Result<Self, GeometryError> {
        if !chunk_bytes.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
            return Err(GeometryError::ChunkSize(chunk_bytes));
        }
        if master_bytes == 0 || !master_bytes.is_multiple_of(crate::units::SECTOR) {
            return Err(GeometryError::MasterSize(master_bytes));
        }
        let geometry = Self { master_bytes, chunk_shift: chunk_bytes.trailing_zeros() };
        if geometry.chunk_count() > 1 << 40 {
            return Err(GeometryError::TooManyChunks(master_bytes));
        }
        Ok(geometry)
    }

    /// Bytes of the master.
    pub fn master_bytes(&self) -> u64 {
        self.master_bytes
    }

    /// Bytes of a whole chunk.
    pub fn chunk_bytes(&self) -> u64 {
        1 << self.chunk_shift
    }

    /// Number of chunks, a short last one included.
    pub fn chunk_count(&self) -> u64 {
        self.master_bytes.div_ceil(self.chunk_bytes())
    }

    /// Chunks of one region of the write-intent log.
    pub fn region_chunks(&self) -> u64 {
        REGION_BYTES / self.chunk_bytes()
    }

    /// Number of regions.
    pub fn region_count(&self) -> u64 {
        self.chunk_count().div_ceil(self.region_chunks())
    }

    /// The region that `chunk` lies in.
    pub fn region_of(&self, chunk: Chunk) -> u64 {
        chunk.0 / self.region_chunks()
    }

    /// The chunk that holds byte `offset`.
    pub fn chunk_at(&self, offset: u64) -> Chunk {
        Chunk(offset >> self.chunk_shift)
    }

    /// The chunks that a range of bytes touches.
    ///
    /// # Panics
    /// If the range is empty or ends behind the master: requests are checked where they enter.
    pub fn chunks_of(&self, range: ByteRange) -> ChunkRun {
        assert!(range.len > 0 && range.end() <= self.master_bytes, "{range:?} outside the master");
        let first = self.chunk_at(range.start);
        let last = self.chunk_at(range.end() - 1);
        ChunkRun::new(first, u32::try_from(last.0 - first.0 + 1).expect("requests are bounded"))
    }

    /// The bytes of a run, cut off at the end of the master.
    pub fn bytes_of(&self, run: ChunkRun) -> ByteRange {
        let start = run.first.0 << self.chunk_shift;
        let end = (run.end().0 << self.chunk_shift).min(self.master_bytes);
        ByteRange::new(start, end - start)
    }
}
