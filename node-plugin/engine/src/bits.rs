//! Bit planes: one bit per chunk (or region).
//!
//! [`AtomicBits`] is what ports and owner share: the only shared memory of the engine. [`Plane`] is the
//! owner's exact copy of a plane that also lives on the bitmap volume; it knows which of its pages differ
//! from the disk and counts its bits, so that status costs no scan.
//!
//! A plane's bits are a `bitvec`. The shared ones are not: `bitvec` has atomic storage, but reads and changes
//! it with relaxed order, and a port that sees a bit must also see what was done before the bit was published
//! (F1); nor does it let a test put loom's atomics in their place.

mod sync;

use bitvec::order::Lsb0;
use bitvec::vec::BitVec;
use bitvec::view::BitView;
pub(crate) use sync::{AtomicBool, AtomicU64, acquire, acquire_release, release};
#[cfg(all(test, loom))]
pub(crate) use sync::{Weak, point, weaken};

/// Bits of one page of a plane on disk: 4,032 bytes of payload behind a 64-byte header.
pub const PAGE_BITS: u64 = 4032 * 8;
/// 64-bit words of one page.
pub const PAGE_WORDS: usize = 4032 / 8;

fn index(bit: u64) -> usize {
    usize::try_from(bit).expect("planes fit in memory")
}

fn word_of(bit: u64) -> usize {
    index(bit / 64)
}

fn mask_of(bit: u64) -> u64 {
    1 << (bit % 64)
}

/// A bitmap that ports read and write while the owner changes it.
///
/// Bits that let a request pass go only from 0 to 1 while any port is open, and back only when every port
/// has acknowledged Closed (rule F1); acquire and release are then enough.
#[derive(Debug)]
pub struct AtomicBits {
    words: Box<[AtomicU64]>,
    len: u64,
}

impl AtomicBits {
    /// `len` bits, all equal to `value`.
    pub fn new(len: u64, value: bool) -> Self {
        let fill = if value { u64::MAX } else { 0 };
        let words = (0..len.div_ceil(64)).map(|_| AtomicU64::new(fill)).collect();
        Self { words, len }
    }

    /// The bit at `bit`.
    pub fn get(&self, bit: u64) -> bool {
        assert!(bit < self.len);
        self.words[word_of(bit)].load(acquire()) & mask_of(bit) != 0
    }

    /// Sets the bit at `bit` to 1.
    pub fn set(&self, bit: u64) {
        assert!(bit < self.len);
        let word = &self.words[word_of(bit)];
        // A plain load first: most writes hit chunks that are marked already, and a shared cache line stays shared.
        if word.load(acquire()) & mask_of(bit) == 0 {
            word.fetch_or(mask_of(bit), acquire_release());
        }
    }

    /// Sets the bit at `bit` to 0. Only while every port is closed, where the bit lets requests pass (F1).
    pub fn clear(&self, bit: u64) {
        assert!(bit < self.len);
        self.words[word_of(bit)].fetch_and(!mask_of(bit), acquire_release());
    }

    /// Sets every bit to `value`. Only while every port is closed, where `value` is 0 (F1).
    pub fn fill(&self, value: bool) {
        let fill = if value { u64::MAX } else { 0 };
        for word in &self.words {
            word.store(fill, release());
        }
    }

    /// The `index`-th group of 64 bits.
    pub fn word(&self, index: usize) -> u64 {
        self.words[index].load(acquire())
    }

    /// Sets the `index`-th group of 64 bits. Bits may go from 1 to 0 only while every port is closed (F1).
    pub fn set_word(&self, index: usize, word: u64) {
        self.words[index].store(word, release());
    }

    /// Number of groups of 64 bits.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A plane as the owner holds it.
#[derive(Debug, PartialEq, Eq)]
pub struct Plane {
    /// Whole pages, in the words that they have on disk; from `len` on all bits are 0.
    bits: BitVec<u64, Lsb0>,
    len: u64,
    ones: u64,
    /// One bit per page.
    dirty: BitVec<u64, Lsb0>,
}

impl Clone for Plane {
    /// Word by word: a `bitvec` clones itself bit range by bit range, ten times as slow, and a restore clones under
    /// the closed gate.
    fn clone(&self) -> Self {
        let bits = BitVec::from_vec(self.bits.as_raw_slice().to_vec());
        Self { bits, len: self.len, ones: self.ones, dirty: self.dirty.clone() }
    }
}

impl Plane {
    /// `len` bits, all equal to `value`, no page dirty.
    pub fn new(len: u64, value: bool) -> Self {
        let pages = index(len.div_ceil(PAGE_BITS));
        let bits = BitVec::repeat(false, pages * PAGE_WORDS * 64);
        let mut plane = Self { bits, len, ones: 0, dirty: BitVec::repeat(false, pages) };
        if value {
            plane.fill(true);
            plane.mark_all(false);
        }
        plane
    }

    /// Number of bits.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bits that are 1.
    pub fn ones(&self) -> u64 {
        self.ones
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.dirty.len()
    }

    /// The bit at `bit`.
    pub fn get(&self, bit: u64) -> bool {
        assert!(bit < self.len, "bit {bit} of a plane of {}", self.len);
        self.bits[index(bit)]
    }

    /// Changes one bit and marks its page dirty if that was a change.
    pub fn put(&mut self, bit: u64, value: bool) {
        if self.get(bit) == value {
            return;
        }
        self.bits.set(index(bit), value);
        self.ones = if value { self.ones + 1 } else { self.ones - 1 };
        self.mark_dirty(index(bit / PAGE_BITS));
    }

    /// Sets every bit to `value`; every page is dirty.
    pub fn fill(&mut self, value: bool) {
        let len = index(self.len);
        self.bits[..len].fill(value);
        self.ones = if value { self.len } else { 0 };
        self.mark_all(true);
    }

    /// Says that what is on disk reads as this plane: after a fill that the superblock records (plane epoch).
    pub fn mark_all(&mut self, dirty: bool) {
        self.dirty.fill(dirty);
    }

    /// The first bit at or after `from` that is `value`.
    pub fn find(&self, from: u64, value: bool) -> Option<u64> {
        if from >= self.len {
            return None;
        }
        let bits = &self.bits[index(from)..index(self.len)];
        let ahead = if value { bits.first_one() } else { bits.first_zero() };
        ahead.map(|ahead| from + ahead as u64)
    }

    /// Number of 1 bits in `from..to`.
    pub fn count(&self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        self.bits[index(from)..index(to)].count_ones() as u64
    }

    /// The `index`-th group of 64 bits.
    pub fn word(&self, index: usize) -> u64 {
        self.bits.as_raw_slice()[index]
    }

    /// The words of page `page`.
    pub fn page_words(&self, page: usize) -> &[u64] {
        &self.bits.as_raw_slice()[page * PAGE_WORDS..(page + 1) * PAGE_WORDS]
    }

    /// Replaces page `page` by what was read from disk; bits behind the end are dropped.
    pub fn load_page(&mut self, page: usize, words: &[u64]) {
        let first = page as u64 * PAGE_BITS;
        let end = (first + PAGE_BITS).min(self.len);
        let old = self.count(first, end);
        let bits = &mut self.bits[index(first)..index(end)];
        bits.copy_from_bitslice(&words.view_bits()[..bits.len()]);
        self.ones = self.ones - old + self.count(first, end);
        self.dirty.set(page, false);
    }

    /// Takes the next dirty page at or after `from` off the dirty list.
    pub fn take_dirty(&mut self, from: usize) -> Option<usize> {
        let page = from + self.dirty.get(from..)?.first_one()?;
        self.dirty.set(page, false);
        Some(page)
    }

    /// Marks one page dirty.
    pub fn mark_dirty(&mut self, page: usize) {
        self.dirty.set(page, true);
    }

    /// Whether any page is dirty.
    pub fn is_dirty(&self) -> bool {
        self.dirty.any()
    }

    /// ORs shared bits of the same length into this plane.
    pub fn or_shared(&mut self, shared: &AtomicBits) {
        assert_eq!(self.len, shared.len(), "planes of one master have one length");
        for (index, (word, shared)) in self.bits.as_raw_mut_slice().iter_mut().zip(&shared.words).enumerate()
        {
            let new = shared.load(acquire()) & !*word;
            if new == 0 {
                continue;
            }
            let left = self.len - index as u64 * 64;
            let new = if left < 64 { new & (mask_of(left) - 1) } else { new };
            *word |= new;
            self.ones += u64::from(new.count_ones());
            if new != 0 {
                self.dirty.set(index / PAGE_WORDS, true);
            }
        }
    }
}

#[cfg(test)]
mod tests;
