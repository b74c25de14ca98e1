//! The start and the end of a device, as bytes.

use uuid::Uuid;

/// Bytes that are looked at, at either end.
pub const EDGE_BYTES: u64 = 1 << 20;

/// What was read of a device: a piece from its start, and a piece up to its end.
#[derive(Clone, Copy, Debug)]
pub struct Edges<'a> {
    size: u64,
    first: &'a [u8],
    last: &'a [u8],
}

impl<'a> Edges<'a> {
    /// Of a device of `size` bytes. Pieces that are longer than the device are cut.
    pub fn new(size: u64, first: &'a [u8], last: &'a [u8]) -> Self {
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        let first = &first[..first.len().min(most)];
        let last = &last[last.len() - last.len().min(most)..];
        Self { size, first, last }
    }

    /// The device's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The piece at the start.
    pub fn first(&self) -> &'a [u8] {
        self.first
    }

    /// The piece at the end.
    pub fn last(&self) -> &'a [u8] {
        self.last
    }

    /// `len` bytes from `at`, if both lie in one of the pieces.
    pub fn get(&self, at: u64, len: usize) -> Option<&'a [u8]> {
        let piece = |bytes: &'a [u8], start: u64| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            bytes.get(from..from.checked_add(len)?)
        };
        piece(self.first, 0).or_else(|| piece(self.last, self.size - self.last.len() as u64))
    }

    /// `N` bytes from `at`.
    pub(crate) fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        self.get(at, N)?.try_into().ok()
    }

    pub(crate) fn le16(&self, at: u64) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(crate) fn le32(&self, at: u64) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(crate) fn le64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(crate) fn be64(&self, at: u64) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }

    pub(crate) fn uuid(&self, at: u64) -> Option<Uuid> {
        self.array(at).map(Uuid::from_bytes)
    }

    /// Whether `magic` is at `at`.
    pub(crate) fn has(&self, at: u64, magic: &[u8]) -> bool {
        self.get(at, magic.len()) == Some(magic)
    }
}
