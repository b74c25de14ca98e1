//! Memory for direct I/O without `unsafe`: a page more than needed, entered at the first page boundary.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};

/// Alignment of every buffer, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Page-aligned bytes, owned by whoever holds them: moved into an operation, handed back with its completion.
pub struct AlignedBuf {
    // Boxed: the bytes never move, so the alignment found at allocation holds for ever.
    memory: Box<[u8]>,
    skip: usize,
    len: usize,
}

impl AlignedBuf {
    /// `len` zero bytes, starting at a page boundary.
    pub fn zeroed(len: usize) -> Self {
        let memory = vec![0u8; len + PAGE_BYTES].into_boxed_slice();
        let skip = memory.as_ptr().align_offset(PAGE_BYTES);
        assert!(skip <= PAGE_BYTES, "the page boundary lies within the spare page");
        Self { memory, skip, len }
    }

    /// A buffer that holds `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.skip..self.skip + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + self.len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// The part of a buffer that one operation reads or fills.
#[derive(Debug)]
pub struct IoBuf {
    /// The whole buffer.
    pub buf: AlignedBuf,
    /// The bytes of it that the operation concerns; as long as the operation.
    pub range: Range<usize>,
}

impl IoBuf {
    /// All of `buf`.
    pub fn whole(buf: AlignedBuf) -> Self {
        let range = 0..buf.len();
        Self { buf, range }
    }

    /// The first `len` bytes of `buf`.
    pub fn head(buf: AlignedBuf, len: usize) -> Self {
        Self { buf, range: 0..len }
    }

    /// The bytes concerned.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.range.clone()]
    }

    /// The bytes concerned, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.range.clone()]
    }
}
