//! Volumes that somebody made up, behind hashes that fit: decoders and recovery refuse or read them, and never panic.
//!
//! Shared by the fuzz targets, which run for hours, and by `store/tests/forged.rs`, which runs some hundred cases.

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
/// Bytes of one change: the block, where in it, how wide, and the value.
const CHANGE_BYTES: usize = 12;
/// More changes than this say nothing new.
const CHANGES_MAX: usize = 64;
/// Of the golden sets.
const NODE: Id128 = Id128([6; 16]);

fn golden(which: u8) -> &'static [u8] {
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
fn seal(block: &mut [u8], at: usize) {
    block[at..at + 8].fill(0);
    let hash = data_hash(block);
    block[at..at + 8].copy_from_slice(&hash.to_le_bytes());
}

/// Every metadata block: on the bitmap volume, or on the shadow; with the place of its hash.
fn place(number: u8) -> (bool, usize, usize) {
    let slots = [0, usize::try_from(SLOT_B_OFFSET).expect("1 MiB")];
    let number = usize::from(number) % (2 + RING_BLOCKS + PAGE_PLACES + 1);
    match number {
        0 | 1 => (true, slots[number], 16),
        2..10 => (true, RING + (number - 2) * BLOCK_BYTES, 8),
        10..24 => (true, PAGES + (number - 10) * BLOCK_BYTES, 8),
        _ => (false, 0, 16),
    }
}

fn shadow_of(image: &[u8]) -> Vec<u8> {
    let mut shadow: Vec<u8> =
        (0..SHADOW_BYTES / BLOCK_BYTES).flat_map(|chunk| [chunk.to_le_bytes()[0]; BLOCK_BYTES]).collect();
    let slot = image[..BLOCK_BYTES].try_into().expect("a whole block");
    if let Ok(superblock) = Superblock::decode(slot) {
        let (set, shadow_id) = (superblock.identity.set, superblock.identity.shadow.uuid);
        Label { set, shadow: shadow_id, epoch: Epoch(0), session: NODE, end: None }.encode(&mut shadow);
    }
    shadow
}

/// Changes fields of a golden volume and of its shadow's label as `data` says, makes every hash fit, and recovers
/// twice. Whether the first recovery found a set.
pub(crate) fn recover_forged(data: &[u8]) -> bool {
    let Some((which, changes)) = data.split_first() else { return false };
    let mut image = golden(*which).to_vec();
    let mut shadow = shadow_of(&image);
    for change in changes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
        let (on_bitmap, at, hash_at) = place(change[0]);
        let volume = if on_bitmap { &mut image } else { &mut shadow };
        let block = &mut volume[at..at + BLOCK_BYTES];
        let width = [1, 2, 4, 8][usize::from(change[1] & 3)];
        let offset = usize::from(u16::from_le_bytes([change[2], change[3]])) % (BLOCK_BYTES / width) * width;
        block[offset..offset + width].copy_from_slice(&change[4..4 + width]);
        if change[1] & 128 == 0 {
            seal(block, hash_at);
        }
    }
    let mut store = MemStore::new();
    let devices = SetDevices { shadow: store.add_device(shadow), bitmap: store.add_device(image) };
    let found = recover(&mut store, devices, which & 2 != 0);
    if let Ok(image) = &found {
        assert_eq!(image.planes[0].len(), 256, "the volume has room for no other geometry");
        // What a recovery has written, the next one reads.
        recover(&mut store, devices, false).expect("a second recovery finds the set");
    }
    found.is_ok()
}

fn recover(store: &mut MemStore, devices: SetDevices, ended: bool) -> Result<SetImage, RecoverError> {
    let session = Session { node: NODE, session: Id128([9; 16]) };
    let ended = ended.then_some(Ended { epoch: Epoch(u64::MAX), master_incomplete: false });
    let known = Known { ended, ..Known::default() };
    recover_set(store, devices, session, known, SetOptions::default()).map(|(_, image)| image)
}

/// Reads one block as everything that it could be, with a hash that fits. What is accepted can be written again.
pub(crate) fn decode_forged(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let mut block = [0; BLOCK_BYTES];
    let len = data.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&data[..len]);
    let (magic, hash_at): (&[u8], usize) = match kind & 3 {
        0 => (b"UMBRASUP", 16),
        1 => (b"UJRN", 8),
        2 => (b"UPAG", 8),
        _ => (b"UMBRALBL", 16),
    };
    block[..magic.len()].copy_from_slice(magic);
    seal(&mut block, hash_at);
    let mut again = [0; BLOCK_BYTES];
    if let Ok(superblock) = Superblock::decode(&block) {
        superblock.encode(&mut again);
        assert_eq!(Superblock::decode(&again).as_ref(), Ok(&superblock), "what is written can be read");
    }
    let mut set = [0; 16];
    set.copy_from_slice(&block[16..32]);
    let _read = decode_journal(Id128(set), &block);
    let _read = decode_page(&block);
    let _owner = Label::owner(&block);
    if let Ok(label) = Label::decode(&block) {
        label.encode(&mut again);
        assert_eq!(Label::decode(&again), Ok(label), "what is written can be read");
    }
}
