//! Fixed places for operations in flight, named by user data.

use crate::limits::SLAB_INDEX_BITS;

/// Place of an operation, and a serial number that tells it from earlier ones at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    serial: u32,
}

impl Key {
    pub(crate) fn to_low_bits(self) -> u64 {
        (u64::from(self.serial) << SLAB_INDEX_BITS) | u64::from(self.index)
    }

    pub(crate) fn from_low_bits(low: u64) -> Option<Self> {
        let index = u32::try_from(low & ((1 << SLAB_INDEX_BITS) - 1)).ok()?;
        let serial = u32::try_from(low >> SLAB_INDEX_BITS).ok()?;
        Some(Self { index, serial })
    }
}

/// Never grows and never moves what it holds: the kernel may be writing to it.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Option<(u32, T)>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn with_capacity(capacity: u32) -> Self {
        assert!(capacity < 1 << SLAB_INDEX_BITS, "an index fits its bits of the user data");
        Self { places: (0..capacity).map(|_| None).collect(), free: (0..capacity).rev().collect() }
    }

    /// # Panics
    /// If it is full: the callers' limits add up to its capacity.
    pub(crate) fn insert(&mut self, serial: u32, value: T) -> Key {
        let index = self.free.pop().expect("the limits of all devices add up to the slab's capacity");
        let place = &mut self.places[index as usize];
        assert!(place.is_none(), "a free place is empty");
        *place = Some((serial, value));
        Key { index, serial }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.places.get_mut(key.index as usize)? {
            Some((serial, value)) if *serial == key.serial => Some(value),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let (_, value) = self.places[key.index as usize].take()?;
        self.free.push(key.index);
        Some(value)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slab = Slab::with_capacity(1);
        let old = slab.insert(7, 'a');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert(8, 'b');
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
        assert!(!slab.is_empty());
        assert_eq!(slab.remove(new), Some('b'));
        assert!(slab.is_empty());
    }

    #[test]
    fn keys_survive_the_user_data() {
        for key in [Key { index: 0, serial: 0 }, Key { index: (1 << 24) - 1, serial: u32::MAX }] {
            assert!(key.to_low_bits() <= crate::Owner::LOW_MASK);
            assert_eq!(Key::from_low_bits(key.to_low_bits()), Some(key));
        }
        assert_eq!(Key::from_low_bits(u64::MAX), None);
    }
}
