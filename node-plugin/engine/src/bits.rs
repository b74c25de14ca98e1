//! Bit planes: one bit per chunk (or region).
//!
//! [`AtomicBits`] is what ports and owner share: the only shared memory of the engine. [`Plane`] is the
//! owner's exact copy of a plane that also lives on the bitmap volume; it knows which of its pages differ
//! from the disk and counts its bits, so that status costs no scan.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of one page of a plane on disk: 4,032 bytes of payload behind a 64-byte header.
pub const PAGE_BITS: u64 = 4032 * 8;
/// 64-bit words of one page.
pub const PAGE_WORDS: usize = 4032 / 8;

fn word_of(bit: u64) -> usize {
    usize::try_from(bit / 64).expect("planes fit in memory")
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
        debug_assert!(bit < self.len);
        self.words[word_of(bit)].load(Ordering::Acquire) & mask_of(bit) != 0
    }

    /// Sets the bit at `bit` to 1.
    pub fn set(&self, bit: u64) {
        debug_assert!(bit < self.len);
        let word = &self.words[word_of(bit)];
        // A plain load first: most writes hit chunks that are marked already, and a shared cache line stays shared.
        if word.load(Ordering::Acquire) & mask_of(bit) == 0 {
            word.fetch_or(mask_of(bit), Ordering::AcqRel);
        }
    }

    /// Sets the bit at `bit` to 0. Only while every port is closed, where the bit lets requests pass (F1).
    pub fn clear(&self, bit: u64) {
        debug_assert!(bit < self.len);
        self.words[word_of(bit)].fetch_and(!mask_of(bit), Ordering::AcqRel);
    }

    /// Sets every bit to `value`. Only while every port is closed, where `value` is 0 (F1).
    pub fn fill(&self, value: bool) {
        let fill = if value { u64::MAX } else { 0 };
        for word in &self.words {
            word.store(fill, Ordering::Release);
        }
    }

    /// The `index`-th group of 64 bits.
    pub fn word(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    /// Sets the `index`-th group of 64 bits. Bits may go from 1 to 0 only while every port is closed (F1).
    pub fn set_word(&self, index: usize, word: u64) {
        self.words[index].store(word, Ordering::Release);
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plane {
    words: Vec<u64>,
    len: u64,
    ones: u64,
    dirty: Vec<bool>,
}

impl Plane {
    /// `len` bits, all equal to `value`, no page dirty.
    pub fn new(len: u64, value: bool) -> Self {
        let pages = usize::try_from(len.div_ceil(PAGE_BITS)).expect("planes fit in memory");
        let mut plane = Self { words: vec![0; pages * PAGE_WORDS], len, ones: 0, dirty: vec![false; pages] };
        if value {
            plane.fill(true);
            plane.dirty.fill(false);
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
        self.words[word_of(bit)] & mask_of(bit) != 0
    }

    /// Changes one bit and marks its page dirty if that was a change.
    pub fn put(&mut self, bit: u64, value: bool) {
        if self.get(bit) == value {
            return;
        }
        self.words[word_of(bit)] ^= mask_of(bit);
        self.ones = if value { self.ones + 1 } else { self.ones - 1 };
        self.dirty[usize::try_from(bit / PAGE_BITS).expect("planes fit in memory")] = true;
    }

    /// Sets every bit to `value`; every page is dirty.
    pub fn fill(&mut self, value: bool) {
        self.words.fill(0);
        self.ones = 0;
        if value {
            let whole = word_of(self.len);
            self.words[..whole].fill(u64::MAX);
            if !self.len.is_multiple_of(64) {
                self.words[whole] = mask_of(self.len) - 1;
            }
            self.ones = self.len;
        }
        self.dirty.fill(true);
    }

    /// Says that what is on disk reads as this plane: after a fill that the superblock records (plane epoch).
    pub fn mark_all(&mut self, dirty: bool) {
        self.dirty.fill(dirty);
    }

    /// The first bit at or after `from` that is `value`.
    pub fn find(&self, from: u64, value: bool) -> Option<u64> {
        let mut bit = from;
        while bit < self.len {
            let word = self.words[word_of(bit)];
            let candidates = (if value { word } else { !word }) & (u64::MAX << (bit % 64));
            if candidates != 0 {
                let found = bit / 64 * 64 + u64::from(candidates.trailing_zeros());
                return (found < self.len).then_some(found);
            }
            bit = (bit / 64 + 1) * 64;
        }
        None
    }

    /// Number of 1 bits in `from..to`.
    pub fn count(&self, from: u64, to: u64) -> u64 {
        let mut total = 0;
        let mut bit = from;
        while bit < to {
            let end = ((bit / 64 + 1) * 64).min(to);
            let mask = (u64::MAX << (bit % 64)) & (u64::MAX >> ((64 - end % 64) % 64));
            total += u64::from((self.words[word_of(bit)] & mask).count_ones());
            bit = end;
        }
        total
    }

    /// The `index`-th group of 64 bits.
    pub fn word(&self, index: usize) -> u64 {
        self.words[index]
    }

    /// The words of page `page`.
    pub fn page_words(&self, page: usize) -> &[u64] {
        &self.words[page * PAGE_WORDS..(page + 1) * PAGE_WORDS]
    }

    /// Replaces page `page` by what was read from disk; bits behind the end are dropped.
    pub fn load_page(&mut self, page: usize, words: &[u64]) {
        let first = page as u64 * PAGE_BITS;
        for bit in 0..PAGE_BITS.min(self.len - first) {
            let value = words[word_of(bit)] & mask_of(bit) != 0;
            self.put(first + bit, value);
        }
        self.dirty[page] = false;
    }

    /// Takes the next dirty page at or after `from` off the dirty list.
    pub fn take_dirty(&mut self, from: usize) -> Option<usize> {
        let page = (from..self.dirty.len()).find(|&page| self.dirty[page])?;
        self.dirty[page] = false;
        Some(page)
    }

    /// Marks one page dirty.
    pub fn mark_dirty(&mut self, page: usize) {
        self.dirty[page] = true;
    }

    /// Whether any page is dirty.
    pub fn is_dirty(&self) -> bool {
        self.dirty.iter().any(|&dirty| dirty)
    }

    /// ORs shared bits of the same length into this plane.
    pub fn or_shared(&mut self, shared: &AtomicBits) {
        assert_eq!(self.len, shared.len(), "planes of one master have one length");
        for index in 0..word_of(self.len.div_ceil(64) * 64) {
            let mut new = shared.word(index) & !self.words[index];
            while new != 0 {
                let bit = index as u64 * 64 + u64::from(new.trailing_zeros());
                if bit < self.len {
                    self.put(bit, true);
                }
                new &= new - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn plane_equals_a_vector_of_bools(len in 1u64..70_000, ops in prop::collection::vec((0u64..70_000, any::<bool>()), 0..200), from in 0u64..70_000, to in 0u64..70_000, start in any::<bool>()) {
            let mut plane = Plane::new(len, start);
            let mut naive = vec![start; usize::try_from(len).unwrap()];
            for (bit, value) in ops {
                plane.put(bit % len, value);
                naive[usize::try_from(bit % len).unwrap()] = value;
            }
            let (from, to) = (from % len, to % len);
            prop_assert_eq!(plane.ones(), naive.iter().filter(|b| **b).count() as u64);
            for value in [false, true] {
                let expect = (from..len).find(|&b| naive[usize::try_from(b).unwrap()] == value);
                prop_assert_eq!(plane.find(from, value), expect);
            }
            let expect = (from..to.max(from)).filter(|&b| naive[usize::try_from(b).unwrap()]).count() as u64;
            prop_assert_eq!(plane.count(from, to.max(from)), expect);
        }
    }
}
