//! Who an entry of a shared ring belongs to: the top byte of its user data.

/// Tag of one user of a ring; its completions carry it in the top byte of the user data.
///
/// The thread that owns the ring allots the tags 0 to 127, one per store. The
/// low 56 bits are the owner's own. The upper half of the tags belongs to the ublk queues of the ring, which
/// set the top bit of their user data and tell each other apart by bits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(u8);

impl Owner {
    const SHIFT: u32 = 56;

    /// Bits of the user data that are the owner's own.
    pub const LOW_MASK: u64 = (1 << Self::SHIFT) - 1;

    /// The tag of completions that belong to a ublk queue.
    pub const UBLK: Self = Self(0x80);

    /// The owner with this tag.
    ///
    /// # Panics
    /// If the tag is above 127: those are the ublk queues'.
    pub const fn new(tag: u8) -> Self {
        assert!(tag < Self::UBLK.0, "the upper half of the tags belongs to the ublk queues");
        Self(tag)
    }

    /// The tag.
    pub const fn tag(self) -> u8 {
        self.0
    }

    /// User data of this owner.
    ///
    /// # Panics
    /// If `low` needs more than 56 bits.
    pub const fn user_data(self, low: u64) -> u64 {
        assert!(low <= Self::LOW_MASK, "the top byte of the user data is the owner's tag");
        ((self.0 as u64) << Self::SHIFT) | low
    }

    /// Whose completion carries `user_data`.
    pub const fn of(user_data: u64) -> Self {
        Self(user_data.to_be_bytes()[0])
    }

    /// The owner's own part of `user_data`.
    pub const fn low(user_data: u64) -> u64 {
        user_data & Self::LOW_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_and_the_low_bits_come_back() {
        for tag in [0, 1, 0x7f] {
            for low in [0, 1, 0x1234_5678_9abc, Owner::LOW_MASK] {
                let user_data = Owner::new(tag).user_data(low);
                assert_eq!(Owner::of(user_data), Owner::new(tag));
                assert_eq!(Owner::low(user_data), low);
            }
        }
    }

    #[test]
    fn a_ublk_queue_is_told_by_the_top_bit() {
        assert_eq!(Owner::of(1 << 63 | 3 << 16 | 77), Owner::UBLK);
    }

    #[test]
    #[should_panic(expected = "upper half")]
    fn no_other_owner_has_the_top_bit() {
        let _ = Owner::new(0x80);
    }

    #[test]
    #[should_panic(expected = "top byte")]
    fn low_bits_cannot_reach_into_the_tag() {
        let _ = Owner::new(1).user_data(1 << 56);
    }
}
