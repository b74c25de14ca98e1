//! The engine.
#![forbid(unsafe_code)]

mod geometry;
mod units;

pub use geometry::{CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Geometry, GeometryError, REGION_BYTES};
pub use units::{
    ByteRange, Chunk, ChunkRun, Epoch, Id128, RingGeneration, SECTOR, Sequence, SuperblockGeneration,
};
