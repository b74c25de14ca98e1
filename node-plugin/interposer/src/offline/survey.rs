//! What is on a bitmap volume, block by block, before anybody judges it: the pure base of `inspect` and `check`.
//!
//! Unlike recovery, which stops at the first reason not to start, a survey goes on as long as there is anything to
//! be read: an unreadable block is a finding, not an error.

use super::image::Volume;
use umbra_engine::{
    Epoch, Id128, JournalBlock, PAGE_BITS, PAGE_WORDS, Place, PlaneId, Record, Sequence, SuperblockGeneration,
};
use umbra_format::{
    BLOCK_BYTES, Features, JournalError, Layout, Page, PageError, RING_OFFSET, SLOT_B_OFFSET, Superblock,
    SuperblockError, decode_journal, decode_page,
};

/// Both places of a page or both slots, in this order.
pub(crate) const PLACES: [Place; 2] = [Place::A, Place::B];

/// A metadata block.
pub(crate) type Block = [u8; BLOCK_BYTES];

/// What was found where a superblock belongs.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// The device does not read it.
    Unreadable(String),
    /// It is none, or none for this program.
    Bad(SuperblockError),
    /// One that can be read, if perhaps not served.
    Good(Box<Superblock>, Features),
}

impl Slot {
    /// The superblock, if there is one.
    pub(crate) fn good(&self) -> Option<&Superblock> {
        match self {
            Self::Good(superblock, _) => Some(superblock),
            Self::Unreadable(_) | Self::Bad(_) => None,
        }
    }
}

/// The superblocks of a volume, and the one that counts.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// In the order of [`PLACES`].
    pub(crate) found: [Slot; 2],
    /// Their bytes; zeros where they are unreadable.
    pub(crate) bytes: [Box<Block>; 2],
}

impl Slots {
    /// Reads both. Behind the end of the volume there never was one.
    pub(crate) fn read(volume: &dyn Volume) -> Self {
        let read = PLACES.map(|place| match slot_offset(place) {
            offset if offset + BLOCK_BYTES as u64 > volume.size() => Ok(Box::new([0; BLOCK_BYTES])),
            offset => read_block(volume, offset),
        });
        let found = read.each_ref().map(|read| match read {
            Err(error) => Slot::Unreadable(error.clone()),
            Ok(block) => match Superblock::inspect(block) {
                Ok((superblock, features)) => Slot::Good(Box::new(superblock), features),
                Err(error) => Slot::Bad(error),
            },
        });
        Self { found, bytes: read.map(|read| read.unwrap_or_else(|_| Box::new([0; BLOCK_BYTES]))) }
    }

    /// Which of the two counts: as recovery chooses, but without its refusals.
    pub(crate) fn chosen(&self) -> Option<usize> {
        match self.found.each_ref().map(|slot| slot.good().map(|superblock| superblock.generation)) {
            [Some(a), Some(b)] => Some(usize::from(b > a)),
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [None, None] => None,
        }
    }

    /// The superblock that counts.
    pub(crate) fn superblock(&self) -> Option<&Superblock> {
        self.chosen().and_then(|chosen| self.found[chosen].good())
    }

    /// Whether neither slot was ever a superblock.
    pub(crate) fn are_foreign(&self) -> bool {
        self.found.iter().all(|slot| matches!(slot, Slot::Bad(SuperblockError::Foreign)))
    }
}

/// Offset of a slot; the same on every volume.
pub(crate) fn slot_offset(place: Place) -> u64 {
    match place {
        Place::A => 0,
        Place::B => SLOT_B_OFFSET,
    }
}

/// The layout that a superblock speaks of.
pub(crate) fn layout_of(superblock: &Superblock) -> Layout {
    let identity = &superblock.identity;
    Layout::new(identity.geometry, identity.ring_blocks, identity.head_bytes)
}

fn read_block(volume: &dyn Volume, offset: u64) -> Result<Box<Block>, String> {
    let mut block = Box::new([0; BLOCK_BYTES]);
    volume.read(offset, block.as_mut_slice()).map_err(|error| error.to_string())?;
    Ok(block)
}

/// A place of the journal ring that is not empty.
#[derive(Clone, Debug)]
pub(crate) struct RingBlock {
    /// Where.
    pub(crate) offset: u64,
    /// What; its records are read when they are needed, see [`records`].
    pub(crate) found: Result<JournalBlock, RingError>,
}

/// Why a place of the ring has no block of this set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RingError {
    /// The device does not read it.
    Unreadable(String),
    /// It does not decode.
    Bad(JournalError),
    /// It is whole, but its number belongs to another place.
    Misplaced(Sequence),
}

/// Reads the ring, leaving out places that were never written.
pub(crate) fn read_ring(volume: &dyn Volume, layout: &Layout, set: Id128) -> Vec<RingBlock> {
    let mut blocks = Vec::new();
    let bytes = layout.ring_blocks * BLOCK_BYTES as u64;
    scan(volume, RING_OFFSET, bytes, &mut |offset, read| {
        let found = match read {
            Err(error) => Err(RingError::Unreadable(error)),
            Ok(block) => match decode_journal(set, block) {
                Err(JournalError::Foreign) => return,
                Err(error) => Err(RingError::Bad(error)),
                Ok(journal) if layout.journal_block(journal.sequence) != offset => {
                    Err(RingError::Misplaced(journal.sequence))
                }
                // A ring of the largest size has hundreds of megabytes of them.
                Ok(journal) => Ok(JournalBlock { records: Vec::new(), ..journal }),
            },
        };
        blocks.push(RingBlock { offset, found });
    });
    blocks
}

/// The records of a block of the ring; none if there is no block of this set.
pub(crate) fn records(volume: &dyn Volume, set: Id128, block: &RingBlock) -> Vec<Record> {
    let read = block.found.as_ref().ok().and_then(|_| read_block(volume, block.offset).ok());
    read.and_then(|bytes| decode_journal(set, &bytes).ok()).map(|journal| journal.records).unwrap_or_default()
}

/// A page at one of its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PagePlace {
    /// The device does not read it.
    Unreadable(String),
    /// It does not decode.
    Bad(PageError),
    /// It is whole, but belongs elsewhere.
    Misplaced,
    /// A page.
    Good(PageVersion),
}

/// What a page says, without its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageVersion {
    /// The set's epoch when it was written.
    pub(crate) epoch: Epoch,
    /// Records up to this block are in it.
    pub(crate) sequence: Sequence,
    /// The newer of two has the higher.
    pub(crate) stamp: SuperblockGeneration,
    /// Bits that are 1.
    pub(crate) ones: u32,
    /// Of those, bits behind the end of the plane.
    pub(crate) behind_end: u32,
}

impl PagePlace {
    /// The page, if there is one.
    pub(crate) fn good(&self) -> Option<PageVersion> {
        match self {
            Self::Good(version) => Some(*version),
            Self::Unreadable(_) | Self::Bad(_) | Self::Misplaced => None,
        }
    }
}

/// Both places of a page.
#[derive(Clone, Debug)]
pub(crate) struct PagePair {
    /// Which plane.
    pub(crate) plane: PlaneId,
    /// Which page of it.
    pub(crate) index: u32,
    /// In the order of [`PLACES`].
    pub(crate) places: [PagePlace; 2],
    /// Whether the bits of the two are the same.
    pub(crate) same_bits: bool,
}

impl PagePair {
    /// The place that recovery would take, and what is there.
    pub(crate) fn chosen(&self) -> Option<(Place, PageVersion)> {
        match self.places.each_ref().map(PagePlace::good) {
            [Some(a), Some(b)] if b.stamp > a.stamp => Some((Place::B, b)),
            [Some(a), _] => Some((Place::A, a)),
            [None, Some(b)] => Some((Place::B, b)),
            [None, None] => None,
        }
    }
}

/// Hands out both places of every page, in the order of the volume.
pub(crate) fn scan_pages(volume: &dyn Volume, layout: &Layout, set: Id128, mut each: impl FnMut(PagePair)) {
    let mut wanted = PlaneId::ALL
        .into_iter()
        .flat_map(|plane| (0..layout.pages(plane)).map(move |index| (plane, index)))
        .map(|(plane, index)| (plane, u32::try_from(index).expect("pages are counted in 32 bits")));
    let pages: u64 = PlaneId::ALL.iter().map(|plane| layout.pages(*plane)).sum();
    let mut first: Option<(PlaneId, u32, PagePlace, Vec<u64>)> = None;
    scan(volume, layout.planes_offset(), pages * 2 * BLOCK_BYTES as u64, &mut |_, read| match first.take() {
        None => {
            let (plane, index) = wanted.next().expect("two blocks for each page");
            let (place, words) = page_place(read, layout, set, (plane, index));
            first = Some((plane, index, place, words));
        }
        Some((plane, index, a, words_a)) => {
            let (b, words_b) = page_place(read, layout, set, (plane, index));
            each(PagePair { plane, index, places: [a, b], same_bits: words_a == words_b });
        }
    });
}

fn page_place(
    read: Result<&Block, String>,
    layout: &Layout,
    set: Id128,
    (plane, index): (PlaneId, u32),
) -> (PagePlace, Vec<u64>) {
    let place = match read.map(decode_page) {
        Err(error) => PagePlace::Unreadable(error),
        Ok(Err(error)) => PagePlace::Bad(error),
        Ok(Ok(page)) => {
            let header = page.header;
            if (header.set, header.plane, header.index) == (set, plane, index) {
                let behind_end = behind_end(&page, layout);
                let version = PageVersion {
                    epoch: header.epoch,
                    sequence: header.sequence,
                    stamp: header.stamp,
                    ones: page.ones,
                    behind_end,
                };
                return (PagePlace::Good(version), page.words);
            }
            PagePlace::Misplaced
        }
    };
    (place, Vec::new())
}

/// Bits that are 1 and stand for nothing.
fn behind_end(page: &Page, layout: &Layout) -> u32 {
    let first = u64::from(page.header.index) * PAGE_BITS;
    let bits = page.header.plane.bits(layout.geometry()).saturating_sub(first).min(PAGE_BITS);
    let whole = usize::try_from(bits / 64).unwrap_or(PAGE_WORDS);
    let rest = page.words.get(whole).map_or(0, |word| (word >> (bits % 64)).count_ones());
    let behind = page.words.iter().skip(whole + 1).map(|word| word.count_ones()).sum::<u32>();
    behind + rest
}

/// Reads a range block by block, in large pieces where the device lets it.
fn scan(volume: &dyn Volume, from: u64, bytes: u64, each: &mut dyn FnMut(u64, Result<&Block, String>)) {
    const PIECE: u64 = 1 << 20;
    let mut buf = vec![0; 1 << 20];
    let mut at = from;
    while at < from + bytes {
        let len = usize::try_from(PIECE.min(from + bytes - at)).expect("at most 1 MiB");
        let whole = volume.read(at, &mut buf[..len]).is_ok();
        for block in 0..len / BLOCK_BYTES {
            let offset = at + (block * BLOCK_BYTES) as u64;
            let bytes = &mut buf[block * BLOCK_BYTES..][..BLOCK_BYTES];
            let read = if whole { Ok(()) } else { volume.read(offset, bytes) };
            let block: &Block = (&*bytes).try_into().expect("a block's length");
            each(offset, read.map(|()| block).map_err(|error| error.to_string()));
        }
        at += len as u64;
    }
}

/// The highest sequence that the superblock or any block that is left says is confirmed (E1).
pub(crate) fn confirmed(superblock: &Superblock, ring: &[RingBlock]) -> Sequence {
    let header = &superblock.header;
    let current = ring
        .iter()
        .filter_map(|block| block.found.as_ref().ok())
        .filter(|block| block.ring_generation == header.ring_generation)
        .filter(|block| block.sequence > header.checkpoint_upto);
    current.map(|block| block.confirmed_upto).fold(header.confirmed_upto, Sequence::max)
}
