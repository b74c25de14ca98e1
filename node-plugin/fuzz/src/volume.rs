//! Volumes that somebody made up, behind hashes that fit: the golden sets of `format/testdata` with fields changed.

use crate::choices::Choices;
use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;
use umbra_engine::{Epoch, Id128, SetImage};
use umbra_format::{BLOCK_BYTES, Label, SLOT_B_OFFSET, Superblock, data_hash, decode_journal, decode_page};
use umbra_store::{Ended, Known, MemStore, RecoverError, Session, SetDevices, SetOptions, recover_set};

const RING: usize = 2 << 20;
const RING_BLOCKS: usize = 8;
const PAGES: usize = 4 << 20;
const PAGE_PLACES: usize = 14;
const SHADOW_BYTES: usize = 1 << 20;
/// Fields of a block that are worth a change lie before this.
const FIELDS: usize = 512;
/// Of the golden sets.
const NODE: Id128 = Id128([6; 16]);
/// Where the hash of a superblock or label is.
pub(crate) const SLOT_HASH_AT: usize = 16;
/// Where that of a journal block or page is.
const BLOCK_HASH_AT: usize = 8;

pub(crate) fn golden(which: u8) -> &'static [u8] {
    static IMAGES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        ["v1-dependent.img.gz", "v1-independent.img.gz"].map(|name| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/testdata").join(name);
            let mut image = Vec::new();
            let packed = fs::read(path).expect("the golden images are in the repository");
            GzDecoder::new(&packed[..]).read_to_end(&mut image).expect("they can be unpacked");
            image
        })
    });
    &images[usize::from(which & 1)]
}

/// Makes the hash of a block fit; where it stands is the same in every version.
pub(crate) fn seal(block: &mut [u8], at: usize) {
    block[at..at + 8].fill(0);
    let hash = data_hash(block);
    block[at..at + 8].copy_from_slice(&hash.to_le_bytes());
}

/// Changes a field of a block; of eight changes seven come with a hash that fits.
pub(crate) fn change(block: &mut [u8], hash_at: usize, choices: &mut Choices<'_>) {
    let width = choices.pick(&[1, 2, 4, 8]);
    let offset = choices.below(FIELDS / width) * width;
    let value = choices.edge();
    block[offset..offset + width].copy_from_slice(&value.to_le_bytes()[..width]);
    if choices.byte() % 8 != 7 {
        seal(block, hash_at);
    }
}

/// Every metadata block: on the bitmap volume, or on the shadow; with the place of its hash.
fn place(number: usize) -> (bool, usize, usize) {
    let slots = [0, usize::try_from(SLOT_B_OFFSET).expect("1 MiB")];
    match number % (2 + RING_BLOCKS + PAGE_PLACES + 1) {
        number @ 0..2 => (true, slots[number], SLOT_HASH_AT),
        number @ 2..10 => (true, RING + (number - 2) * BLOCK_BYTES, BLOCK_HASH_AT),
        number @ 10..24 => (true, PAGES + (number - 10) * BLOCK_BYTES, BLOCK_HASH_AT),
        _ => (false, 0, SLOT_HASH_AT),
    }
}

/// The label of the shadow of a golden set.
pub(crate) fn label(image: &[u8], block: &mut [u8]) {
    let slot = image[..BLOCK_BYTES].try_into().expect("a whole block");
    if let Ok(superblock) = Superblock::decode(slot) {
        let (set, shadow) = (superblock.identity.set, superblock.identity.shadow.uuid);
        Label { set, shadow, epoch: Epoch(0), session: NODE, end: None }.encode(block);
    }
}

fn shadow_of(image: &[u8]) -> Vec<u8> {
    let mut shadow: Vec<u8> =
        (0..SHADOW_BYTES / BLOCK_BYTES).flat_map(|chunk| [chunk.to_le_bytes()[0]; BLOCK_BYTES]).collect();
    label(image, &mut shadow);
    shadow
}

/// Changes fields of a golden volume and of its shadow's label, makes hashes fit, and recovers twice. Whether the first
/// recovery found a set.
pub(crate) fn recover(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let which = choices.byte();
    let mut image = golden(which).to_vec();
    let mut shadow = shadow_of(&image);
    for _ in 0..choices.byte() % 12 {
        let (on_bitmap, at, hash_at) = place(choices.byte().into());
        let volume = if on_bitmap { &mut image } else { &mut shadow };
        change(&mut volume[at..at + BLOCK_BYTES], hash_at, &mut choices);
    }
    let mut store = MemStore::new();
    let devices = SetDevices { shadow: store.add_device(shadow), bitmap: store.add_device(image) };
    let found = recover_once(&mut store, devices, which & 2 != 0);
    if let Ok(image) = &found {
        assert_eq!(image.planes[0].len(), 256, "the volume has room for no other geometry");
        // What a recovery has written, the next one reads.
        recover_once(&mut store, devices, false).expect("a second recovery finds the set");
    }
    found.is_ok()
}

fn recover_once(store: &mut MemStore, devices: SetDevices, ended: bool) -> Result<SetImage, RecoverError> {
    let session = Session { node: NODE, session: Id128([9; 16]) };
    let ended = ended.then_some(Ended { epoch: Epoch(u64::MAX), master_incomplete: false });
    let known = Known { ended, ..Known::default() };
    recover_set(store, devices, session, known, SetOptions::default()).map(|(_, image)| image)
}

/// Reads one block as everything that it could be, with a hash that fits. What is accepted can be written again.
pub(crate) fn decode(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let image = golden(choices.byte());
    let (on_bitmap, at, hash_at) = place(choices.byte().into());
    let mut block = [0; BLOCK_BYTES];
    if on_bitmap {
        block.copy_from_slice(&image[at..at + BLOCK_BYTES]);
    } else {
        label(image, &mut block);
    }
    for _ in 0..choices.byte() % 8 {
        change(&mut block, hash_at, &mut choices);
    }
    if choices.byte().is_multiple_of(8) {
        // Anything at all behind what says which kind of block it is.
        block[hash_at + 8..FIELDS].iter_mut().for_each(|byte| *byte = choices.byte());
        seal(&mut block, hash_at);
    }
    let mut again = [0; BLOCK_BYTES];
    let superblock = Superblock::decode(&block);
    if let Ok(superblock) = &superblock {
        superblock.encode(&mut again);
        assert_eq!(Superblock::decode(&again).as_ref(), Ok(superblock), "what is written can be read");
    }
    let mut set = [0; 16];
    set.copy_from_slice(&block[16..32]);
    let journal = decode_journal(Id128(set), &block);
    let page = decode_page(&block);
    let _owner = Label::owner(&block);
    let label = Label::decode(&block);
    if let Ok(label) = &label {
        label.encode(&mut again);
        assert_eq!(Label::decode(&again).as_ref(), Ok(label), "what is written can be read");
    }
    superblock.is_ok() || journal.is_ok() || page.is_ok() || label.is_ok()
}
