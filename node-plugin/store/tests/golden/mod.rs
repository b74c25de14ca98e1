//! The golden volumes of the format, with the shadows that go with them.

#![allow(dead_code, reason = "each test uses its part")]

use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::Path;
use umbra_engine::{Epoch, Id128};
use umbra_format::{Label, Superblock};
use umbra_store::Session;

pub(crate) const BLOCK: usize = 4096;
pub(crate) const SLOTS: [usize; 2] = [0, 1 << 20];
pub(crate) const PAGES: usize = 4 << 20;
pub(crate) const PAGE_PLACES: usize = 14;
pub(crate) const CHUNKS: u64 = 256;
pub(crate) const DEPENDENT: &str = "v1-dependent.img.gz";
pub(crate) const INDEPENDENT: &str = "v1-independent.img.gz";
/// Of the golden sets.
pub(crate) const SESSION: Session = Session { node: Id128([6; 16]), session: Id128([9; 16]) };

pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/testdata").join(name);
    let mut image = Vec::new();
    GzDecoder::new(&fs::read(path).unwrap()[..]).read_to_end(&mut image).unwrap();
    image
}

pub(crate) fn block(volume: &[u8], at: usize) -> &[u8; BLOCK] {
    volume[at..at + BLOCK].try_into().unwrap()
}

/// A shadow whose chunks hold their number, labelled by whatever set the volume is of.
pub(crate) fn shadow_of(image: &[u8]) -> Vec<u8> {
    let mut shadow: Vec<u8> = (0..CHUNKS).flat_map(|chunk| [u8::try_from(chunk).unwrap(); BLOCK]).collect();
    if image.len() >= SLOTS[1] + BLOCK
        && let Some(slot) = SLOTS.iter().find_map(|at| Superblock::decode(block(image, *at)).ok())
    {
        label(slot.identity.set, slot.identity.shadow.uuid).encode(&mut shadow);
    }
    shadow
}

pub(crate) fn label(set: Id128, shadow: Id128) -> Label {
    Label { set, shadow, epoch: Epoch(0), session: SESSION.session, end: None }
}
