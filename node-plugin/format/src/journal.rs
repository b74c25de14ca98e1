//! A block of the journal ring: 125 records of 32 bytes behind a 96-byte header.
//!
//! ```text
//!  record:  0 kind  1 flags  2 block mask  4 run length  8 chunk (48 bit)  14 set  15 clear  16 slot  24 hash
//! ```
//! Kind, block mask and slot have one value each in this version (whole chunks, identity slots); later ones
//! need the fields.

use crate::codec::{BLOCK_BYTES, Reader, Writer};
use crate::superblock::COUNTER_MAX;
use thiserror::Error;
use umbra_engine::{
    Chunk, ChunkRun, Epoch, Id128, JournalBlock, PLANES, PlaneId, RECORDS_PER_BLOCK, Record, RingGeneration,
    Sequence,
};

const MAGIC: [u8; 4] = *b"UJRN";
const VERSION: u16 = 1;
const HASH_AT: usize = 8;
const SET_AT: usize = 16;
const HEADER_END: usize = SET_AT + 16 + 4 * 8;
const RECORDS_AT: usize = 96;
const RECORD_BYTES: usize = 32;
const _: () =
    assert!(HEADER_END <= RECORDS_AT && RECORDS_AT + RECORDS_PER_BLOCK * RECORD_BYTES <= BLOCK_BYTES);
const KIND_PLANES: u8 = 1;
const FLAG_HASH: u8 = 1;
const ALL_BLOCKS: u16 = u16::MAX;
/// Chunks are numbered in 48 bits.
const CHUNKS_END: u64 = 1 << 48;

/// Why a block is not part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Another magic number or another set: never written since the ring was made.
    #[error("not a journal block of this set")]
    Foreign,
    /// Torn or rotten.
    #[error("journal block is damaged: its hash does not match")]
    Damaged,
    /// The hash matches, but the header makes no sense: written by a faulty program.
    #[error("journal block has an impossible {0}")]
    Header(&'static str),
    /// The hash matches, but a record makes no sense: written by a faulty or later program.
    #[error("journal record {0} is impossible")]
    Record(usize),
}

impl JournalError {
    /// Whether somebody wrote the block as it is, into this set's ring: what it says is not known, but it says
    /// something, and records in it may have been relied upon.
    pub const fn is_whole(&self) -> bool {
        match self {
            Self::Foreign | Self::Damaged => false,
            Self::Header(_) | Self::Record(_) => true,
        }
    }
}

/// Writes a journal block.
pub fn encode_journal(set: Id128, journal: &JournalBlock, block: &mut [u8]) {
    assert!(journal.records.len() <= RECORDS_PER_BLOCK, "a block has a fixed size");
    let mut w = Writer::new(&mut block[..BLOCK_BYTES]);
    w.bytes(&MAGIC);
    w.u16(VERSION);
    w.u16(u16::try_from(journal.records.len()).expect("checked above"));
    w.at(SET_AT);
    w.id(set);
    w.u64(journal.ring_generation.0);
    w.u64(journal.epoch.0);
    w.u64(journal.sequence.0);
    w.u64(journal.confirmed_upto.0);
    w.at(RECORDS_AT);
    for record in &journal.records {
        w.u8(KIND_PLANES);
        w.u8(if record.hash.is_some() { FLAG_HASH } else { 0 });
        w.u16(ALL_BLOCKS);
        w.u32(record.run.count);
        assert!(record.run.end().0 < CHUNKS_END, "chunks are numbered in 48 bits");
        w.bytes(&record.run.first.0.to_le_bytes()[..6]);
        w.u8(record.set);
        w.u8(record.clear);
        w.u64(record.run.first.0);
        w.u64(record.hash.unwrap_or_default());
    }
    w.seal(HASH_AT);
}

/// Reads a journal block of `set`.
///
/// # Errors
/// [`JournalError`]; a block of another set counts as never written.
pub fn decode_journal(set: Id128, block: &[u8; BLOCK_BYTES]) -> Result<JournalBlock, JournalError> {
    let mut r = Reader::new(block);
    if r.array::<4>() != MAGIC {
        return Err(JournalError::Foreign);
    }
    if !r.hash_matches(HASH_AT) {
        return Err(JournalError::Damaged);
    }
    let (version, count) = (r.u16(), usize::from(r.u16()));
    r.at(SET_AT);
    if version != VERSION || r.id() != set {
        return Err(JournalError::Foreign);
    }
    if count > RECORDS_PER_BLOCK {
        return Err(JournalError::Header("number of records"));
    }
    let ring_generation = RingGeneration(r.u64());
    let epoch = Epoch(r.u64());
    let sequence = Sequence(r.u64());
    let confirmed_upto = Sequence(r.u64());
    if [ring_generation.0, epoch.0, sequence.0].iter().any(|counter| *counter > COUNTER_MAX) {
        return Err(JournalError::Header("counter"));
    }
    // A block speaks of those before it.
    if confirmed_upto >= sequence {
        return Err(JournalError::Header("confirmed sequence"));
    }
    let used = RECORDS_AT + count * RECORD_BYTES;
    if !r.is_zero(HEADER_END..RECORDS_AT) || !r.is_zero(used..BLOCK_BYTES) {
        return Err(JournalError::Header("reserved area"));
    }
    r.at(RECORDS_AT);
    let records =
        (0..count).map(|n| decode_record(&mut r).ok_or(JournalError::Record(n))).collect::<Result<_, _>>()?;
    Ok(JournalBlock { ring_generation, epoch, sequence, confirmed_upto, records })
}

fn decode_record(r: &mut Reader<'_>) -> Option<Record> {
    let (kind, flags, blocks, count) = (r.u8(), r.u8(), r.u16(), r.u32());
    let mut first = [0; 8];
    first[..6].copy_from_slice(&r.array::<6>());
    let first = u64::from_le_bytes(first);
    let (set, clear) = (r.u8(), r.u8());
    let (slot, hash) = (r.u64(), r.u64());
    let planes = (1u16 << PLANES) - 1;
    let regions = PlaneId::Region0.mask() | PlaneId::Region1.mask();
    // A run is of chunks or of regions.
    let touched = set | clear;
    let of_one_kind = touched & regions == 0 || touched & !regions == 0;
    let known = kind == KIND_PLANES
        && flags & !FLAG_HASH == 0
        && blocks == ALL_BLOCKS
        && count > 0
        && first + u64::from(count) < CHUNKS_END
        && touched != 0
        && u16::from(touched) & !planes == 0
        && of_one_kind
        && set & clear == 0
        && slot == first
        && (flags & FLAG_HASH != 0 || hash == 0);
    let hash = (flags & FLAG_HASH != 0).then_some(hash);
    known.then(|| Record { run: ChunkRun::new(Chunk(first), count), set, clear, hash })
}
