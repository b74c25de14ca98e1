//! Images of every version, kept for ever: this program opens them all, and writes those of its own version to
//! the byte.
//!
//! After a change of the format that was meant, `UMBRA_GOLDEN=write cargo test -p umbra-format golden` makes the
//! images of the *current* version anew. Those of a version that was released are never made anew.

use crate::samples::{
    bare_superblock, encoded, full_journal, full_label, full_page, full_superblock, journal, page,
    superblock_in_doubt, words,
};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use umbra_format::{Label, Superblock, decode_journal, decode_page};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// The image of that name; before that, it is written if that was asked for.
fn stored(name: &str, written_now: &[u8]) -> Vec<u8> {
    if std::env::var_os("UMBRA_GOLDEN").is_some_and(|asked| asked == "write") {
        let bytes = if name.ends_with(".gz") {
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            packed.write_all(written_now).unwrap();
            packed.finish().unwrap()
        } else {
            written_now.to_vec()
        };
        fs::write(path(name), bytes).unwrap();
    }
    let bytes = fs::read(path(name)).unwrap();
    if !name.ends_with(".gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// The image, which must be what this program writes.
pub(crate) fn golden(name: &str, written_now: &[u8]) -> Vec<u8> {
    let image = stored(name, written_now);
    assert_eq!(image.len(), written_now.len(), "{name}");
    let differs = image.iter().zip(written_now).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{name}: the first byte that this program writes otherwise");
    image
}

fn golden_block(name: &str, written_now: &[u8; 4096]) -> [u8; 4096] {
    golden(name, written_now).try_into().unwrap()
}

#[test]
fn superblocks() {
    for (name, expected) in [
        ("v1-superblock.img", full_superblock()),
        ("v1-superblock-bare.img", bare_superblock()),
        ("v1-superblock-in-doubt.img", superblock_in_doubt()),
    ] {
        let image = golden_block(name, &encoded(|block| expected.encode(block)));
        assert_eq!(Superblock::decode(&image).unwrap(), expected, "{name}");
    }
}

#[test]
fn pages() {
    let (header, ones) = full_page();
    let image = golden_block("v1-page.img", &page(&header, &ones));
    let found = decode_page(&image).unwrap();
    assert_eq!((found.header, found.ones, found.words), (header, 6, words(&ones)));
}

#[test]
fn journal_blocks() {
    let expected = full_journal();
    let image = golden_block("v1-journal.img", &journal(&expected));
    assert_eq!(decode_journal(crate::samples::SET, &image).unwrap(), expected);
}

#[test]
fn labels() {
    let image = golden_block("v1-label.img", &encoded(|block| full_label().encode(block)));
    assert_eq!(Label::decode(&image).unwrap(), full_label());
}

/// Where fields are, by the numbers of the document and not by those of the code.
#[test]
fn offsets_are_those_of_the_document() {
    let block = encoded(|block| full_superblock().encode(block));
    let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    assert_eq!(&block[..8], b"UMBRASUP");
    assert_eq!((u32_at(8), u32_at(12), u64_at(24)), (1, 4096, 0x0102_0304_0506));
    assert_eq!((u64_at(32), u64_at(40), u64_at(48)), (0, 0, 0));
    for (at, id) in [
        (56, b"golden set uuid."),
        (72, b"golden master id"),
        (88, b"golden shadow id"),
        (104, b"golden bitmap id"),
        (120, b"golden tracking."),
        (136, b"golden node uuid"),
        (152, b"golden session.."),
        (168, b"golden sealed by"),
        (264, b"golden cut uuid."),
    ] {
        assert_eq!(&block[at..at + 16], id, "{at}");
    }
    assert_eq!([184, 192, 208, 216].map(u64_at), [(1 << 40) - 512, 64 << 10, 2048, 1 << 20]);
    assert_eq!([200, 204].map(u32_at), [512, 16 << 10]);
    assert_eq!([224, 232, 240].map(u64_at), [1 << 40, 0x1111_2222_3333_4444, 0x5555_6666_7777_8888]);
    // Independent, copying, second pair, nothing; all flags but clean.
    assert_eq!(block[248..252], [1, 3, 1, 0]);
    assert_eq!(u32_at(252), 0b01_1111);
    assert_eq!([256, 280, 288, 296, 304].map(u64_at), [77, 1_774_000_000_123, 9, 100_000, 101_234]);
    assert_eq!([312, 320, 328, 336, 344, 352, 360].map(u64_at), [71, 72, 73, 74, 75, 76, 70]);
    for (at, text) in
        [(512, "prod-eu-1\0"), (576, "databases\0"), (640, "orders-nightly\0"), (896, "nvme-eui.")]
    {
        assert_eq!(&block[at..at + text.len()], text.as_bytes(), "{at}");
    }
    assert_eq!(&block[1088..1107], b"dm-uuid-LVM-Schatte");
    for reserved in [368..512, 1280..4096] {
        assert!(block[reserved].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn images_are_small() {
    let sizes = fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let total: u64 = sizes.sum();
    assert!(total < 200 << 10, "{total} bytes of golden images");
}
