//! The on-disk format of a bitmap volume: typed records to bytes and back. `docs/format.md` is normative.
//!
//! Everything is little-endian, in 4 KiB blocks that carry a magic number, the set's UUID and an XXH3-64 hash.
//! Decoding never panics and never believes a block whose hash does not match.
#![forbid(unsafe_code)]

mod codec;
mod journal;
mod label;
mod layout;
mod page;
mod superblock;

pub use codec::{BLOCK_BYTES, data_hash};
pub use journal::{JournalError, decode_journal, encode_journal};
pub use label::{Label, LabelError};
pub use layout::{
    HEAD_BYTES_MIN, Layout, OPERATION_NAMES_OFFSET, RING_BLOCKS_DEFAULT, RING_BLOCKS_MIN, RING_OFFSET,
    SLOT_B_OFFSET,
};
pub use page::{Page, PageError, PageHeader, decode_page, encode_page};
pub use superblock::{
    FORMAT_VERSION, HARDWARE_ID_MAX, NAME_MAX, SHORT_NAME_MAX, SetIdentity, Superblock, SuperblockError,
    VolumeIdentity,
};
