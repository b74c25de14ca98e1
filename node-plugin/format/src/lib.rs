//! The on-disk format of a bitmap volume: typed records to bytes and back. `docs/format.md` is normative.
//!
//! Everything is little-endian, in 4 KiB blocks that carry a magic number, the set's UUID and an XXH3-64 hash.
//! Decoding never panics and never believes a block whose hash does not match.
#![forbid(unsafe_code)]

mod codec;
mod features;
mod in_doubt;
mod journal;
mod label;
mod layout;
mod page;
mod superblock;

pub use codec::{BLOCK_BYTES, DataHasher, data_hash};
pub use features::{
    COMPATIBLE_LABELLED, COMPATIBLE_OPERATION_RESULTS, Features, INCOMPATIBLE_CHAIN, INCOMPATIBLE_COMPACT,
    INCOMPATIBLE_EXPORT, INCOMPATIBLE_IN_DOUBT, INCOMPATIBLE_LARGE_BLOCKS, INCOMPATIBLE_PARTIAL_CHUNKS,
    READ_ONLY_CHANGE_TRACKING, READ_ONLY_OPERATION_NAMES,
};
pub use journal::{JournalError, decode_journal, encode_journal};
pub use label::{ImageEnd, Label, LabelError};
pub use layout::{
    HEAD_BYTES_MAX, HEAD_BYTES_MIN, Layout, OPERATION_NAMES_BLOCKS, OPERATION_NAMES_OFFSET,
    RING_BLOCKS_DEFAULT, RING_BLOCKS_MAX, RING_BLOCKS_MIN, RING_OFFSET, SLOT_B_OFFSET,
};
pub use page::{Page, PageError, PageHeader, decode_page, encode_page};
pub use superblock::{
    COUNTER_MAX, EXPORT_AT, EXPORT_BYTES, FAMILY_AT, FAMILY_ENTRY_BYTES, FAMILY_ROOM, FORMAT_VERSION,
    HARDWARE_ID_MAX, IN_DOUBT_AT, IN_DOUBT_BYTES, NAME_MAX, OPERATION_ENTRY_BYTES, OPERATIONS_AT,
    OPERATIONS_ROOM, PLANE_ROOM, SHORT_NAME_MAX, SetIdentity, Superblock, SuperblockError, VolumeIdentity,
};
