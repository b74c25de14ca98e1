//! `umbra-io size`: how large the bitmap volume of a master must be, and what the bytes are for.

use super::plane_name;
use crate::failure::Failure;
use clap::Args;
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;
use umbra_engine::{Geometry, Place, PlaneId};
use umbra_format::{BLOCK_BYTES, Layout, RING_OFFSET};
use umbra_platform::value::{ByteCount, ChunkSize};

/// Say how large the bitmap volume of a master must be. Opens nothing.
#[derive(Debug, Args)]
pub(crate) struct Size {
    /// Size of the master: 1Ti, 500Gi (powers of 1024), or bytes.
    #[arg(long, value_name = "SIZE")]
    master: ByteCount,
    /// Chunk size of the set, a power of two from 4Ki to 4Mi.
    #[arg(long, value_name = "SIZE", default_value_t)]
    chunk: ChunkSize,
    /// Print JSON for programs: every value in bytes.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Part {
    what: String,
    offset: u64,
    bytes: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SizeReport {
    master: u64,
    chunk: u64,
    chunks: u64,
    /// What the bitmap volume must have.
    pub(super) bytes: u64,
    /// In the order of the volume, alignment left out.
    parts: Vec<Part>,
}

pub(super) fn report(geometry: Geometry) -> SizeReport {
    let layout = Layout::standard(geometry);
    let part = |what: &str, offset, bytes| Part { what: what.to_owned(), offset, bytes };
    let mut parts = vec![
        part("superblocks and reserved room", 0, RING_OFFSET),
        part("journal ring", RING_OFFSET, layout.ring_blocks * BLOCK_BYTES as u64),
        part("head of the shadow", layout.head_offset(), layout.head_bytes),
    ];
    parts.extend(PlaneId::ALL.map(|plane| {
        let bytes = layout.pages(plane) * 2 * BLOCK_BYTES as u64;
        part(&format!("plane {}", plane_name(plane)), layout.page(plane, 0, Place::A), bytes)
    }));
    SizeReport {
        master: geometry.master_bytes(),
        chunk: geometry.chunk_bytes(),
        chunks: geometry.chunk_count(),
        bytes: layout.total_bytes(),
        parts,
    }
}

impl fmt::Display for SizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes| ByteCount(bytes).to_string();
        let (bytes, exact) = (size(self.bytes), self.bytes);
        writeln!(
            f,
            "{bytes} ({exact} bytes) for a master of {} in {} chunks of {}",
            size(self.master),
            self.chunks,
            size(self.chunk)
        )?;
        writeln!(f, "  {:>9}  {:>9}  WHAT", "OFFSET", "BYTES")?;
        for part in &self.parts {
            writeln!(f, "  {:>9}  {:>9}  {}", size(part.offset), size(part.bytes), part.what)?;
        }
        Ok(())
    }
}

/// Runs the command.
pub(crate) fn main(args: &Size) -> ExitCode {
    match Geometry::new(args.master.0, args.chunk.bytes()).map(report) {
        Ok(report) if args.json => super::show(&super::json(&report), 0),
        Ok(report) => super::show(&report.to_string(), 0),
        Err(error) => {
            let failure = Failure::new("BAD_ARGUMENT", error, "correct --master or --chunk");
            super::unusable(&failure, args.json)
        }
    }
}
