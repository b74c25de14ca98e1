//! Newtypes for every number that could be swapped for another: bytes, chunks, epochs, sequences.
//!
//! The engine speaks bytes at its edges (requests are ranges of bytes, aligned to the master's logical
//! block) and chunks inside. Conversions are named and live here.

use std::fmt;

/// Bytes per sector, the unit of the block layer whatever the device's logical block is.
pub const SECTOR: u64 = 512;

/// A non-negative range of bytes on a device or inside a buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl ByteRange {
    /// The range of `len` bytes from `start`.
    pub const fn new(start: u64, len: u64) -> Self {
        Self { start, len }
    }

    /// First byte after the range.
    pub const fn end(self) -> u64 {
        self.start + self.len
    }

    /// The part that lies in both ranges, if any.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self::new(start, end - start))
    }

    /// Whether at least one byte lies in both ranges.
    pub fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start, self.len)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);
        impl $name {
            /// The next value.
            #[must_use]
            pub const fn next(self) -> Self { Self(self.0 + 1) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

counter!(
    /// Index of a chunk of the master.
    Chunk
);
counter!(
    /// Counts the cuts of one volume set; 0 before the first.
    Epoch
);
counter!(
    /// Number of a journal block; grows for ever, its place in the ring is the remainder.
    Sequence
);
counter!(
    /// Counts the recoveries of a set; blocks of another ring generation are not replayed (E8).
    RingGeneration
);
counter!(
    /// Counts the commits of a superblock.
    SuperblockGeneration
);

/// 128 random bits that name a master, a set, a volume or a cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id128(pub [u8; 16]);

impl fmt::Display for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Id128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of adjacent chunks; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRun {
    /// First chunk.
    pub first: Chunk,
    /// Number of chunks, at least 1.
    pub count: u32,
}

impl ChunkRun {
    /// The run of `count` chunks from `first`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn new(first: Chunk, count: u32) -> Self {
        assert!(count > 0, "a chunk run is never empty");
        Self { first, count }
    }

    /// The chunk after the last.
    pub fn end(self) -> Chunk {
        Chunk(self.first.0 + u64::from(self.count))
    }

    /// The chunks of the run, ascending.
    pub fn chunks(self) -> impl Iterator<Item = Chunk> {
        (self.first.0..self.end().0).map(Chunk)
    }

    /// Whether `chunk` lies in the run.
    pub fn contains(self, chunk: Chunk) -> bool {
        (self.first..self.end()).contains(&chunk)
    }
}

impl fmt::Debug for ChunkRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}+{}", self.first, self.count)
    }
}
