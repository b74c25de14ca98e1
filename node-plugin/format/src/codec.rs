//! Reading and writing fields of fixed blocks, little-endian, and the hash that every block carries.

use std::fmt;
use std::ops::Range;
use umbra_engine::Id128;
use xxhash_rust::xxh3::Xxh3;

/// Bytes of every metadata block.
pub const BLOCK_BYTES: usize = 4096;

/// XXH3-64 of a block whose own hash field (8 bytes at `at`) counts as zero.
pub(crate) fn block_hash(block: &[u8], at: usize) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&block[..at]);
    hasher.update(&[0; 8]);
    hasher.update(&block[at + 8..]);
    hasher.digest()
}

/// XXH3-64 of data, as in the records of copies.
pub fn data_hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// As [`data_hash`], of data that comes in pieces.
#[derive(Clone, Default)]
pub struct DataHasher(Xxh3);

impl DataHasher {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

impl fmt::Debug for DataHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataHasher({:#x})", self.finish())
    }
}

/// Writes fields one after the other into a block that is zero elsewhere.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    block: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(block: &'a mut [u8]) -> Self {
        block.fill(0);
        Self { block, at: 0 }
    }

    /// Goes to a stated offset; fields never overlap.
    pub(crate) fn at(&mut self, offset: usize) {
        assert!(offset >= self.at, "fields are written in order");
        self.at = offset;
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.block[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn id(&mut self, id: Id128) {
        self.bytes(&id.0);
    }

    /// A string in a field of `len` bytes, padded with zeros. It ends before a zero of its own: what is written
    /// can be read.
    pub(crate) fn string(&mut self, text: &str, len: usize) {
        let text = text.split('\0').next().unwrap_or_default();
        assert!(text.len() <= len, "names are checked before they get here");
        self.bytes(text.as_bytes());
        self.at += len - text.len();
    }

    /// Writes the block's hash to `at`, last.
    pub(crate) fn seal(self, at: usize) {
        let hash = block_hash(self.block, at);
        self.block[at..at + 8].copy_from_slice(&hash.to_le_bytes());
    }
}

/// Reads fields one after the other. The block is long enough by its type.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    block: &'a [u8; BLOCK_BYTES],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(block: &'a [u8; BLOCK_BYTES]) -> Self {
        Self { block, at: 0 }
    }

    pub(crate) fn at(&mut self, offset: usize) {
        self.at = offset;
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.block[self.at..self.at + N]);
        self.at += N;
        bytes
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn id(&mut self) -> Id128 {
        Id128(self.array())
    }

    /// Whether an area holds nothing.
    pub(crate) fn is_zero(&self, area: Range<usize>) -> bool {
        self.block[area].iter().all(|byte| *byte == 0)
    }

    /// A zero-padded string of at most `len` bytes; none if it is not UTF-8 or not padded with zeros.
    pub(crate) fn string(&mut self, len: usize) -> Option<String> {
        let field = &self.block[self.at..self.at + len];
        self.at += len;
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(len);
        let padded = field[end..].iter().all(|byte| *byte == 0);
        std::str::from_utf8(&field[..end]).ok().filter(|_| padded).map(str::to_owned)
    }

    /// Whether the hash at `at` is the block's.
    pub(crate) fn hash_matches(&self, at: usize) -> bool {
        let mut stored = [0; 8];
        stored.copy_from_slice(&self.block[at..at + 8]);
        u64::from_le_bytes(stored) == block_hash(self.block, at)
    }
}
