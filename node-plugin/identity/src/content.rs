//! What lies on a device, as far as its first and last MiB tell.

use crate::edges::{EDGE_BYTES, Edges};
use crate::generation::FsGeneration;
use crate::signature::{self, Signature};
use std::fmt;
use umbra_engine::{Epoch, SetState};
use umbra_format::{BLOCK_BYTES, Label, SLOT_B_OFFSET, SetIdentity, Superblock, SuperblockError};
use umbra_store::AlignedBuf;

/// What was found on a device; the default is what a device of zeros has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// All that lies there; empty: the first and the last MiB are zero.
    pub signatures: Vec<Signature>,
    /// The label of a shadow whose head is on its bitmap volume. Only a set that is dependent or copying has
    /// one: in a plain image it is user data.
    pub label: Option<Label>,
    /// The superblock of a bitmap volume.
    pub superblock: Option<UmbraSuperblock>,
    /// How often the file system was changed, if it says so.
    pub generation: Option<FsGeneration>,
}

/// What identity needs of the newer superblock of a bitmap volume.
#[derive(Clone, Debug, PartialEq)]
pub enum UmbraSuperblock {
    /// It can be read.
    Readable(Box<SuperblockFacts>),
    /// It is Umbra's, and this program can do nothing with it.
    Unusable(SuperblockError),
}

/// Who a bitmap volume says it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SuperblockFacts {
    /// The set and its volumes.
    pub identity: SetIdentity,
    /// The set's durable state.
    pub state: SetState,
    /// Its cuts so far.
    pub epoch: Epoch,
    /// Whether the slot at the start of the volume is whole: whoever else used the volume would have overwritten it.
    pub first_slot: bool,
}

/// What is known about a content.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// It was read.
    Read(Box<Content>),
    /// It was not asked for.
    Unasked,
    /// It could not be read.
    Unread {
        /// Why.
        why: String,
    },
}

/// Bytes read at the start: the first MiB, and the second slot of a bitmap volume, which follows it.
const START_BYTES: u64 = SLOT_B_OFFSET + BLOCK_BYTES as u64;
const _: () = assert!(SLOT_B_OFFSET >= EDGE_BYTES);

impl Content {
    /// What lies on a device, by what was read of it.
    pub fn of(edges: &Edges<'_>) -> Self {
        Self {
            signatures: signature::scan(edges),
            label: signature::block(edges, 0).and_then(|block| Label::decode(&block).ok()),
            superblock: UmbraSuperblock::of(edges),
            generation: FsGeneration::of(edges),
        }
    }

    /// Reads what lies on a device of `size` bytes: some 2 MiB, in two operations, aligned for direct I/O as far as
    /// the device's size is.
    ///
    /// # Errors
    /// The first of `read(offset, buffer)`.
    pub fn read<E>(size: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let buffer = |bytes: u64| {
            AlignedBuf::zeroed(usize::try_from(bytes.min(size)).expect("little more than 1 MiB"))
        };
        let (mut first, mut last) = (buffer(START_BYTES), buffer(EDGE_BYTES));
        if size > 0 {
            read(0, &mut first)?;
            read(size - last.len() as u64, &mut last)?;
        }
        Ok(Self::of(&Edges::new(size, &first, &last)))
    }
}

impl UmbraSuperblock {
    /// The one that counts of the two slots.
    fn of(edges: &Edges<'_>) -> Option<Self> {
        let slot = |at| signature::block(edges, at).map(|block| Superblock::decode(&block));
        let slots = [slot(0)?, slot(SLOT_B_OFFSET).unwrap_or(Err(SuperblockError::Foreign))];
        // One that is whole and cannot be used may be the newer one.
        let unusable = |is: fn(&SuperblockError) -> bool| {
            slots.iter().find_map(|slot| slot.as_ref().err().filter(|error| is(error)).cloned())
        };
        if let Some(error) = unusable(SuperblockError::is_whole) {
            return Some(Self::Unusable(error));
        }
        let newest = slots.iter().flatten().max_by_key(|superblock| superblock.generation);
        let Some(superblock) = newest else {
            return unusable(|error| *error == SuperblockError::Damaged).map(Self::Unusable);
        };
        Some(Self::Readable(Box::new(SuperblockFacts {
            identity: superblock.identity.clone(),
            state: superblock.header.state,
            epoch: superblock.header.epoch,
            first_slot: slots[0].is_ok(),
        })))
    }
}

impl Default for Contents {
    /// An empty device.
    fn default() -> Self {
        Self::Read(Box::default())
    }
}

impl Contents {
    /// The content, or why there is none.
    pub(crate) fn get(&self) -> Result<&Content, &str> {
        match self {
            Self::Read(content) => Ok(content),
            Self::Unasked => Err("nobody looked"),
            Self::Unread { why } => Err(why),
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => f.write_str("content not looked at"),
            Self::Unread { why } => write!(f, "content cannot be read: {why}"),
            Self::Read(content) if content.signatures.is_empty() => f.write_str("empty"),
            Self::Read(content) => {
                for (index, signature) in content.signatures.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { ", " }, signature.id)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_engine::{Id128, SuperblockGeneration};

    const SIZE: u64 = 8 << 20;

    /// Bytes of a superblock of this set and generation: any readable one, made by the crate that defines it.
    fn slot(generation: u64) -> Vec<u8> {
        let mut superblock = crate::testing::superblock(Id128([8; 16]));
        superblock.generation = SuperblockGeneration(generation);
        superblock.header.epoch = Epoch(generation);
        let mut block = vec![0; BLOCK_BYTES];
        superblock.encode(&mut block);
        block
    }

    fn read(pieces: &[(u64, &[u8])]) -> Content {
        let read = |at: u64, buffer: &mut [u8]| -> Result<(), ()> {
            assert!(at.is_multiple_of(512) && buffer.len().is_multiple_of(512), "direct I/O");
            for (place, piece) in pieces {
                if let Some(from) =
                    place.checked_sub(at).and_then(|from| buffer.get_mut(usize::try_from(from).unwrap()..))
                {
                    let len = piece.len().min(from.len());
                    from[..len].copy_from_slice(&piece[..len]);
                }
            }
            Ok(())
        };
        Content::read(SIZE, read).unwrap()
    }

    fn epoch(content: &Content) -> (u64, bool) {
        match &content.superblock {
            Some(UmbraSuperblock::Readable(facts)) => (facts.epoch.0, facts.first_slot),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_newer_of_two_slots_counts_wherever_it_is() {
        assert_eq!(epoch(&read(&[(0, &slot(3)), (SLOT_B_OFFSET, &slot(4))])), (4, true));
        assert_eq!(epoch(&read(&[(0, &slot(5)), (SLOT_B_OFFSET, &slot(4))])), (5, true));
        assert_eq!(epoch(&read(&[(SLOT_B_OFFSET, &slot(4))])), (4, false));
    }

    #[test]
    fn a_slot_that_is_whole_and_cannot_be_used_is_not_passed_over() {
        let torn = &slot(6)[..300];
        assert_eq!(epoch(&read(&[(0, torn), (SLOT_B_OFFSET, &slot(4))])), (4, false));
        let both = read(&[(0, torn), (SLOT_B_OFFSET, torn)]);
        assert_eq!(both.superblock, Some(UmbraSuperblock::Unusable(SuperblockError::Damaged)));
        assert_eq!(read(&[]).superblock, None);
    }

    #[test]
    fn an_empty_device_is_what_the_default_says() {
        assert_eq!(read(&[]), Content::default());
    }

    #[test]
    fn a_device_of_any_size_can_be_read() {
        for size in [0, 512, 4096, EDGE_BYTES, START_BYTES, EDGE_BYTES + 512, 3 << 20] {
            let content = Content::read(size, |at, buffer: &mut [u8]| {
                assert!(at + buffer.len() as u64 <= size);
                Ok::<(), ()>(())
            });
            assert_eq!(content.unwrap().signatures, []);
        }
    }
}
