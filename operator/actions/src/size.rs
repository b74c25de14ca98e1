//! How large the volumes of a set must be.

use serde::Serialize;
use thiserror::Error;
use umbra_crds::{ChunkSize, InvalidValue, Mode, Size};
use umbra_engine::{Geometry, GeometryError};
use umbra_format::Layout;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Size of the master.
    pub master: Size,
    /// Unit of tracking and copying.
    pub chunk: ChunkSize,
    /// How the image is kept.
    pub mode: Mode,
}

/// How large the volumes must be, at least, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// The master.
    pub master_bytes: u64,
    /// A chunk.
    pub chunk_bytes: u64,
    /// How many chunks the master has.
    pub chunks: u64,
    /// The bitmap volume.
    pub bitmap_bytes: u64,
    /// The shadow.
    pub shadow_bytes: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// The size of the master is no amount.
    #[error("size of the master: {0}")]
    Master(#[from] InvalidValue),
    /// A master of this size cannot be.
    #[error("a master of {master}: {error}")]
    Geometry {
        /// What was asked.
        master: Size,
        /// Why not.
        error: GeometryError,
    },
    /// The mode is not served.
    #[error("mode CompactDependent is not served by this version: ask for Independent or Dependent")]
    NotServed,
}

/// How large the volumes of a set must be.
///
/// # Errors
/// Where there can be no such master, or the mode is not served.
pub fn size(question: &Question) -> Result<Sizes, SizeError> {
    if question.mode == Mode::CompactDependent {
        return Err(SizeError::NotServed);
    }
    let master_bytes = question.master.bytes()?;
    let chunk_bytes = u64::from(question.chunk.bytes());
    let geometry = Geometry::new(master_bytes, chunk_bytes)
        .map_err(|error| SizeError::Geometry { master: question.master.clone(), error })?;
    Ok(Sizes {
        master_bytes,
        chunk_bytes,
        chunks: geometry.chunk_count(),
        bitmap_bytes: Layout::standard(geometry).total_bytes(),
        shadow_bytes: master_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(master: &str, chunk: ChunkSize, mode: Mode) -> Result<Sizes, SizeError> {
        size(&Question { master: Size::new(master), chunk, mode })
    }

    #[test]
    fn smaller_chunks_need_a_larger_bitmap_volume() {
        let fine = ask("1Ti", ChunkSize::KiB4, Mode::Dependent).unwrap();
        let usual = ask("1Ti", ChunkSize::KiB64, Mode::Dependent).unwrap();
        assert_eq!(usual.chunks, 1 << 24);
        assert_eq!(usual.shadow_bytes, 1 << 40);
        assert!(fine.bitmap_bytes > usual.bitmap_bytes);
        assert!(
            usual.bitmap_bytes > 1 << 23,
            "journal and bits of 16 Mi chunks fit in {}",
            usual.bitmap_bytes
        );
        assert_eq!(usual.bitmap_bytes % (1 << 20), 0);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let refused = |master: &str, mode| ask(master, ChunkSize::KiB64, mode).unwrap_err().to_string();
        assert!(refused("plenty", Mode::Dependent).starts_with("size of the master: \"plenty\" is not"));
        assert!(refused("0", Mode::Dependent).starts_with("a master of 0: "));
        assert!(refused("1Ti", Mode::CompactDependent).contains("not served"));
    }
}
