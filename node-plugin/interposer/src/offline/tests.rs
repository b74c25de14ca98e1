//! On the golden images of the format, whole, damaged and mended; recovery is the judge of what is said.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use super::check::{CheckError, judge};
use super::findings::CheckReport;
use super::image::{Image, ImageError, Volume};
use super::repair::apply;
use super::{inspect, json, size};
use flate2::read::GzDecoder;
use std::io::{self, Read};
use std::path::Path;
use umbra_engine::{Geometry, Id128, PlaneId, SetImage, SetState};
use umbra_format::{ImageEnd, Label, Superblock, data_hash};
use umbra_store::{Known, MemStore, RecoverError, Session, SetDevices, SetOptions, SimRng, recover_set};

const BLOCK: usize = 4096;
const SLOTS: [usize; 2] = [0, 1 << 20];
const RING: usize = 2 << 20;
const PAGES: usize = 4 << 20;
const IMAGES: [&str; 2] = ["v1-dependent.img.gz", "v1-independent.img.gz"];

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/testdata").join(name);
    let mut image = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut image).unwrap();
    image
}

fn check(image: &Vec<u8>) -> CheckReport {
    judge(image, None).unwrap()
}

fn texts(report: &CheckReport) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

/// Chunks hold their number; a label stands at the start where the head is elsewhere.
fn shadow(given_up: bool) -> Vec<u8> {
    let mut shadow: Vec<u8> = (0..=255).flat_map(|chunk| [chunk; BLOCK]).collect();
    let superblock = Superblock::decode(golden(IMAGES[0])[..BLOCK].try_into().unwrap()).unwrap();
    let identity = superblock.identity;
    Label {
        set: identity.set,
        shadow: identity.shadow.uuid,
        epoch: superblock.header.epoch,
        session: identity.session,
        end: given_up.then_some(ImageEnd::GivenUp),
    }
    .encode(&mut shadow);
    shadow
}

fn recover(image: &[u8]) -> Result<SetImage, RecoverError> {
    let mut store = MemStore::new();
    let devices =
        SetDevices { shadow: store.add_device(shadow(false)), bitmap: store.add_device(image.to_vec()) };
    let session = Session { node: Id128([6; 16]), session: Id128([9; 16]) };
    recover_set(&mut store, devices, session, Known::default(), SetOptions::default()).map(|(_, image)| image)
}

fn ones(image: &SetImage) -> Vec<(PlaneId, u64)> {
    let bits = |plane: PlaneId| {
        let bits = &image.planes[plane.index()];
        (0..bits.len()).filter(|bit| bits.get(*bit)).map(move |bit| (plane, bit)).collect::<Vec<_>>()
    };
    PlaneId::ALL.into_iter().flat_map(bits).collect()
}

/// Changes bytes of the block at `at` and makes its hash fit again.
fn forge(image: &mut [u8], at: usize, hash_at: usize, change: impl FnOnce(&mut [u8])) {
    let block = &mut image[at..at + BLOCK];
    change(block);
    block[hash_at..hash_at + 8].fill(0);
    let hash = data_hash(block);
    block[hash_at..hash_at + 8].copy_from_slice(&hash.to_le_bytes());
}

#[test]
fn golden_images_are_clean() {
    for name in IMAGES {
        let report = check(&golden(name));
        assert_eq!(texts(&report), [""; 0], "{name}");
        assert!(report.to_string().ends_with("is clean\n"));
    }
    let notes = check(&golden(IMAGES[1])).notes;
    let objects: Vec<&str> = notes.iter().map(|note| note.object.as_str()).collect();
    assert_eq!(objects, ["superblock slot B", "pages", "session", "journal records"]);
}

#[test]
fn a_damaged_slot_is_named_and_mended() {
    for (slot, name) in SLOTS.into_iter().zip(["A", "B"]) {
        let mut image = golden(IMAGES[0]);
        let whole = image.clone();
        image[slot + 700] ^= 4;
        let report = check(&image);
        let expected = format!(
            "superblock slot {name} at {slot:#x}: superblock is damaged: its hash does not match: the other copy is \
             good: --repair writes this one anew from it"
        );
        assert_eq!(texts(&report), [expected]);
        assert_eq!(apply(&mut image, &report, false).unwrap().len(), 1);
        assert_eq!(image, whole);
    }
}

#[test]
fn a_damaged_page_is_named_and_mended_and_a_lost_one_is_not_guessed() {
    let mut image = golden(IMAGES[0]);
    let whole = image.clone();
    image[PAGES + 5] ^= 1;
    let report = check(&image);
    assert_eq!(report.problems[0].object, "page held/0 place A");
    apply(&mut image, &report, false).unwrap();
    assert_eq!(image, whole);
    image[PAGES..PAGES + 2 * BLOCK].fill(0);
    let report = check(&image);
    assert_eq!(report.problems[0].object, "page held/0");
    assert_eq!(
        report.problems[0].remedy,
        "the next start counts chunks 0 to 255 as lost; a new cut brings them back"
    );
    let damaged = image.clone();
    assert_eq!(apply(&mut image, &report, false).unwrap(), [""; 0]);
    assert_eq!(image, damaged);
}

#[test]
fn a_hole_in_the_confirmed_part_of_the_journal_is_a_problem_and_a_torn_tail_is_not() {
    let mut image = golden(IMAGES[0]);
    image[RING + 7 * BLOCK + 2000] ^= 1;
    let report = check(&image);
    assert_eq!(texts(&report), [""; 0]);
    assert!(report.notes.iter().any(|note| note.what.contains("nothing says that it was ever whole")));
    let mut image = golden(IMAGES[0]);
    image[RING + 5 * BLOCK + 2000] ^= 1;
    assert_eq!(
        texts(&check(&image)),
        [
            "journal block 21 at 0x205000: journal block is damaged: its hash does not match, but it was confirmed: the \
          next start gives the image up; then `umbra-io ctl reset SET` begins a new one"
        ]
    );
}

#[test]
fn an_older_superblock_is_chosen_only_when_told_so() {
    let mut image = golden(IMAGES[0]);
    for slot in SLOTS {
        forge(&mut image, slot, 16, |block| {
            block[24] = 5;
            block[256] = 2;
            for plane in 0..7 {
                block[312 + plane * 8] = block[312 + plane * 8].min(2);
            }
        });
    }
    assert_eq!(recover(&image).unwrap_err(), RecoverError::Stale);
    let report = check(&image);
    assert_eq!(report.problems.len(), 1);
    assert!(
        report.problems[0].what.starts_with("generation 5, epoch 2, is older than the rest of the volume")
    );
    let before = image.clone();
    assert_eq!(apply(&mut image, &report, false).unwrap(), [""; 0]);
    assert_eq!(image, before);
    assert_eq!(apply(&mut image, &report, true).unwrap(), ["superblock: the image is given up, epoch 4"]);
    assert_eq!(texts(&check(&image)), [""; 0]);
    let recovered = recover(&image).unwrap();
    assert!(matches!(recovered.header.state, SetState::Offline(_)));
    assert_eq!(ones(&recovered), []);
}

#[test]
fn an_older_superblock_is_never_chosen_while_the_master_needs_the_shadow() {
    let mut image = golden(IMAGES[0]);
    for slot in SLOTS {
        forge(&mut image, slot, 16, |block| block[24] = 5);
    }
    let pending = PAGES + 12 * BLOCK;
    forge(&mut image, pending, 8, |block| (block[52], block[64]) = (1, 1));
    let report = check(&image);
    let before = image.clone();
    assert_eq!(apply(&mut image, &report, true).unwrap(), [""; 0]);
    assert_eq!(image, before);
}

#[test]
fn volumes_of_later_versions_are_not_touched() {
    for (at, value) in [(8, 2), (40, 1), (48, 1)] {
        let mut image = golden(IMAGES[0]);
        forge(&mut image, 0, 16, |block| block[at] = value);
        image[PAGES + 5] ^= 1;
        let report = check(&image);
        assert!(!report.problems.is_empty());
        let before = image.clone();
        assert_eq!(apply(&mut image, &report, true).unwrap(), [""; 0]);
        assert_eq!(image, before);
    }
}

#[test]
fn what_is_no_bitmap_volume_is_refused() {
    for image in [vec![], vec![0; 4096], vec![0x55; 5 << 20]] {
        assert!(matches!(judge(&image, None), Err(CheckError::Foreign)));
    }
    let mut part = golden(IMAGES[0]);
    part.truncate(3 << 20);
    let problems = texts(&check(&part));
    assert_eq!(
        problems,
        [
            "volume: has 3145728 bytes, its layout needs 5242880: this is a part of the volume, or another one; name \
          the whole"
        ]
    );
}

#[test]
fn the_shadow_is_asked_for_its_label_and_for_unconfirmed_data() {
    let image = golden(IMAGES[0]);
    let problems = |shadow: &Vec<u8>| texts(&judge(&image, Some(shadow)).unwrap());
    assert_eq!(problems(&shadow(false)), [""; 0]);
    assert!(problems(&shadow(true))[0].contains("says that the images up to epoch 3 have ended"));
    assert!(problems(&vec![0; BLOCK])[0].contains("full-size shadow of this master needs 1048576"));
    let mut other = shadow(false);
    forge(&mut other, 0, 16, |block| block[30] ^= 1);
    assert!(problems(&other)[0].contains("this is the shadow of another set"));
    let mut early = shadow(false);
    early[51 * BLOCK] ^= 1;
    let notes = judge(&image, Some(&early)).unwrap().notes;
    assert!(notes.iter().any(|note| note.what == "chunk 50+2: its data had not arrived"), "{notes:?}");
}

/// A device with bad sectors.
struct Failing(Vec<u8>, usize);

impl Volume for Failing {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        if (at..at + buf.len()).contains(&self.1) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.read(offset, buf)
    }
}

#[test]
fn a_block_that_cannot_be_read_is_a_problem_like_any_other() {
    for (at, object) in [
        (1 << 20, "superblock slot B"),
        (RING + 5 * BLOCK, "journal block 21"),
        (PAGES, "page held/0 place A"),
    ] {
        let report = judge(&Failing(golden(IMAGES[0]), at), None).unwrap();
        assert_eq!(report.problems.len(), 1, "{report}");
        assert_eq!(report.problems[0].object, object);
        assert!(report.problems[0].what.contains("os error 5"), "{report}");
    }
}

/// Rot of up to three metadata blocks.
fn rot(rng: &mut SimRng, image: &mut [u8]) {
    for _ in 0..=rng.index(3) {
        let at = match rng.index(3) {
            0 => SLOTS[rng.index(2)],
            1 => RING + rng.index(8) * BLOCK,
            _ => PAGES + rng.index(14) * BLOCK,
        };
        if rng.chance(500) {
            image[at..at + BLOCK].fill(0);
        } else {
            image[at + rng.index(BLOCK)] ^= 1 << rng.index(8);
        }
    }
}

#[test]
fn what_is_called_clean_recovers_and_what_is_mended_recovers_to_the_same() {
    for name in IMAGES {
        let whole = golden(name);
        // The last blocks may go without a trace: nothing that is left says that they were there.
        let at_the_end = [(PlaneId::Held, 7), (PlaneId::Held, 50), (PlaneId::Held, 51)];
        let unconfirmed = |bit: &(PlaneId, u64)| {
            at_the_end.contains(bit) || [(PlaneId::Lost, 201), (PlaneId::Lost, 202)].contains(bit)
        };
        let settled =
            |image: &SetImage| ones(image).into_iter().filter(|bit| !unconfirmed(bit)).collect::<Vec<_>>();
        let expected = settled(&recover(&whole).unwrap());
        let (mut clean, mut mended) = (0, 0);
        for case in 0..400 {
            let mut image = whole.clone();
            rot(&mut SimRng::new(case), &mut image);
            let Ok(report) = judge(&image, None) else {
                assert!(recover(&image).is_err(), "{name} {case}");
                continue;
            };
            let before = recover(&image);
            if report.problems.is_empty() {
                assert_eq!(settled(before.as_ref().unwrap()), expected, "{name} {case}");
                clean += 1;
            }
            if !apply(&mut image, &report, false).unwrap().is_empty() {
                let (before, after) = (before.unwrap(), recover(&image).unwrap());
                assert_eq!((before.header, ones(&before)), (after.header, ones(&after)), "{name} {case}");
                let left = check(&image).problems;
                assert!(left.iter().all(|problem| problem.repair.is_none()), "{name} {case}: {left:?}");
                mended += 1;
            }
        }
        assert!(clean > 20 && mended > 100, "{clean} clean, {mended} mended");
    }
}

#[test]
fn inspect_shows_what_is_there() {
    let image = golden(IMAGES[1]);
    let shown = inspect::inspection(&image, true, true).to_string();
    for part in [
        "A            0B          13         5  chosen",
        "golden/independent",
        "flags     merging headMoved shadowWritten protected",
        "checkpoint 64, confirmed 65; 2 blocks to replay, 1 of them unconfirmed",
        "block 66 at 0x202000: unconfirmed, epoch 5, confirms 65",
        "  7+1 +held hash ",
        "held/0 A               0x400000         5          65          12     254",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let document: serde_json::Value =
        serde_json::from_str(&json(&inspect::inspection(&image, false, false))).unwrap();
    assert_eq!(document["set"]["state"], "copying");
    assert_eq!(document["slots"][1]["generation"], 12);
    assert!(document.get("pages").is_none() && document.get("blocks").is_none());
}

#[test]
fn inspect_shows_names_without_their_escapes() {
    let mut image = golden(IMAGES[0]);
    forge(&mut image, 0, 16, |block| block[640..649].copy_from_slice(b"\x1b[2Jnaked"));
    let shown = inspect::inspection(&image, false, false).to_string();
    assert!(!shown.contains('\x1b') && shown.contains("\\u{1b}[2Jnaked"));
}

#[test]
fn sizes_are_those_of_the_layout() {
    let report = |master, chunk| size::report(Geometry::new(master, chunk).unwrap());
    assert_eq!(report(1 << 40, 64 << 10).bytes, 32 << 20);
    assert_eq!(report(1 << 20, 4096).bytes, 12 << 20);
    let text = report(1 << 40, 64 << 10).to_string();
    assert!(
        text.starts_with("32Mi (33554432 bytes) for a master of 1Ti in 16777216 chunks of 64Ki\n"),
        "{text}"
    );
}

#[test]
fn an_image_is_claimed_and_a_packed_one_is_read_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bitmap.img");
    std::fs::write(&path, golden(IMAGES[0])).unwrap();
    let held = Image::open(&path, true).unwrap();
    assert!(matches!(Image::open(&path, false), Err(ImageError::InUse(_))));
    drop(held);
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/testdata").join(IMAGES[0]);
    assert!(matches!(Image::open(&packed, true), Err(ImageError::Packed(_))));
    assert_eq!(Image::open(&packed, false).unwrap().size(), 5 << 20);
    assert!(matches!(Image::open(folder.path(), false), Err(ImageError::Kind(_))));
}
