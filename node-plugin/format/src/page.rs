//! A page of a plane: 4,032 bytes of bits behind a 64-byte header, written to two places in turn.

use crate::codec::{BLOCK_BYTES, Reader, Writer};
use crate::superblock::COUNTER_MAX;
use thiserror::Error;
use umbra_engine::{Epoch, Id128, PAGE_WORDS, PlaneId, Sequence, SuperblockGeneration};

const MAGIC: [u8; 4] = *b"UPAG";
const VERSION: u16 = 1;
const HASH_AT: usize = 8;
const RESERVED_BYTE_AT: usize = 7;
const SET_AT: usize = 16;
const PAYLOAD_AT: usize = 64;
const _: () =
    assert!(SET_AT + 16 + 2 * 8 + 2 * 4 + 8 == PAYLOAD_AT && PAYLOAD_AT + PAGE_WORDS * 8 == BLOCK_BYTES);

/// What a page says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// Whose.
    pub set: Id128,
    /// Which plane.
    pub plane: PlaneId,
    /// Which page of it.
    pub index: u32,
    /// The set's epoch when it was written.
    pub epoch: Epoch,
    /// Records up to this block are in it; of those after it some may be.
    pub sequence: Sequence,
    /// Of two valid places the one with the higher stamp is the newer.
    pub stamp: SuperblockGeneration,
}

/// A page that was read and is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What it says.
    pub header: PageHeader,
    /// Number of its bits that are 1.
    pub ones: u32,
    /// Its bits.
    pub words: Vec<u64>,
}

/// Why a block is not a page that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageError {
    /// Another magic number, or a page of another set, plane or place.
    #[error("not the page that belongs here")]
    Foreign,
    /// Torn or rotten.
    #[error("page is damaged: its hash does not match")]
    Damaged,
    /// The hash matches, but a field makes no sense: written by a faulty program.
    #[error("page has an impossible {0}")]
    Field(&'static str),
}

/// Writes a page.
pub fn encode_page(header: &PageHeader, words: &[u64], block: &mut [u8]) {
    assert_eq!(words.len(), PAGE_WORDS, "a page has a fixed number of words");
    let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
    let mut w = Writer::new(&mut block[..BLOCK_BYTES]);
    w.bytes(&MAGIC);
    w.u16(VERSION);
    w.u8(u8::try_from(header.plane.index()).expect("few planes"));
    w.at(SET_AT);
    w.id(header.set);
    w.u64(header.epoch.0);
    w.u64(header.sequence.0);
    w.u32(header.index);
    w.u32(ones);
    w.u64(header.stamp.0);
    w.at(PAYLOAD_AT);
    for word in words {
        w.u64(*word);
    }
    w.seal(HASH_AT);
}

/// Reads a page.
///
/// # Errors
/// [`PageError`], where "foreign" also means a page that was never written.
pub fn decode_page(block: &[u8; BLOCK_BYTES]) -> Result<Page, PageError> {
    let mut r = Reader::new(block);
    if r.array::<4>() != MAGIC {
        return Err(PageError::Foreign);
    }
    if !r.hash_matches(HASH_AT) {
        return Err(PageError::Damaged);
    }
    if r.u16() != VERSION {
        return Err(PageError::Foreign);
    }
    let plane = usize::from(r.u8());
    let plane = *PlaneId::ALL.get(plane).ok_or(PageError::Foreign)?;
    if !r.is_zero(RESERVED_BYTE_AT..HASH_AT) {
        return Err(PageError::Field("reserved byte"));
    }
    r.at(SET_AT);
    let set = r.id();
    let epoch = Epoch(r.u64());
    let sequence = Sequence(r.u64());
    let index = r.u32();
    let ones = r.u32();
    let stamp = SuperblockGeneration(r.u64());
    if [epoch.0, sequence.0, stamp.0].iter().any(|counter| *counter > COUNTER_MAX) {
        return Err(PageError::Field("counter"));
    }
    r.at(PAYLOAD_AT);
    let words: Vec<u64> = (0..PAGE_WORDS).map(|_| r.u64()).collect();
    if words.iter().map(|word| word.count_ones()).sum::<u32>() != ones {
        return Err(PageError::Field("count of its bits"));
    }
    Ok(Page { header: PageHeader { set, plane, index, epoch, sequence, stamp }, ones, words })
}
