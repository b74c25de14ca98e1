//! Recovery of volumes that rot, and of volumes that somebody made up: no panic, and never a state that says more
//! than what is left on the volume proves (E2, E8).
//!
//! The volumes are the golden images of the format. What is true of them is written out here, and what a damaged
//! one may still claim follows from the blocks that are whole.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod golden;

use golden::{
    BLOCK, CHUNKS, DEPENDENT, INDEPENDENT, PAGE_PLACES, PAGES, SESSION, SLOTS, block, golden, shadow_of,
};
use std::collections::BTreeSet;
use umbra_engine::{PlaneId, Sequence, SetImage, SetState};
use umbra_format::{Superblock, SuperblockError, data_hash, decode_journal};
use umbra_store::{Known, MemStore, RecoverError, SetDevices, SetOptions, SimRng, recover_set};

const RING: usize = 2 << 20;
const RING_BLOCKS: usize = 8;

/// A golden volume, its shadow, and what is true of it.
struct Truth {
    image: Vec<u8>,
    held: BTreeSet<u64>,
    lost: BTreeSet<u64>,
    /// Facts that rest on one journal block and on nothing else: its number and the chunks.
    recorded: Vec<(u64, Vec<u64>)>,
    differs: bool,
}

fn dependent() -> Truth {
    Truth {
        image: golden(DEPENDENT),
        held: (0..16).chain([40, 41, 50, 51]).collect(),
        lost: [200, 201, 202].into(),
        recorded: vec![(21, vec![41]), (22, vec![201, 202]), (23, vec![50, 51])],
        differs: false,
    }
}

fn independent() -> Truth {
    Truth {
        image: golden(INDEPENDENT),
        held: (0..CHUNKS).filter(|chunk| *chunk != 8).collect(),
        lost: BTreeSet::new(),
        recorded: vec![(65, vec![]), (66, vec![7])],
        differs: true,
    }
}

/// A store with the volume and a shadow whose chunks hold their number.
struct Bench {
    store: MemStore,
    devices: SetDevices,
}

impl Bench {
    fn new(image: &[u8]) -> Self {
        let mut store = MemStore::new();
        let devices = SetDevices {
            shadow: store.add_device(shadow_of(image)),
            bitmap: store.add_device(image.to_vec()),
        };
        Self { store, devices }
    }

    /// The volume as it was: recovery writes to slots and pages only.
    fn restore(&mut self, image: &[u8]) {
        let volume = self.store.content_mut(self.devices.bitmap);
        for at in places() {
            volume[at..at + BLOCK].copy_from_slice(&image[at..at + BLOCK]);
        }
    }

    fn bitmap(&mut self) -> &mut [u8] {
        self.store.content_mut(self.devices.bitmap)
    }

    fn recover(&mut self) -> Result<SetImage, RecoverError> {
        let recovered =
            recover_set(&mut self.store, self.devices, SESSION, Known::default(), SetOptions::default());
        recovered.map(|(_, image)| image)
    }
}

/// Every metadata block.
fn places() -> impl Iterator<Item = usize> {
    let ring = (0..RING_BLOCKS).map(|n| RING + n * BLOCK);
    SLOTS.into_iter().chain(ring).chain((0..PAGE_PLACES).map(|n| PAGES + n * BLOCK))
}

/// The highest sequence that anything whole on the volume says is confirmed.
fn confirmed(volume: &[u8]) -> Option<Sequence> {
    let slots = SLOTS.map(|at| Superblock::decode(block(volume, at)).ok());
    let chosen = slots.into_iter().flatten().max_by_key(|slot| slot.generation)?;
    let set = chosen.identity.set;
    let said = (0..RING_BLOCKS)
        .filter_map(|n| decode_journal(set, block(volume, RING + n * BLOCK)).ok())
        .map(|journal| journal.confirmed_upto);
    said.chain([chosen.header.confirmed_upto]).max()
}

fn ones(image: &SetImage, plane: PlaneId) -> BTreeSet<u64> {
    let plane = &image.planes[plane.index()];
    (0..plane.len()).filter(|bit| plane.get(*bit)).collect()
}

/// What is claimed is true, and what is known is not forgotten.
fn check(truth: &Truth, damaged: &[u8], image: &SetImage, case: u64) {
    if matches!(image.header.state, SetState::Offline(_)) {
        return;
    }
    let confirmed = confirmed(damaged).unwrap();
    // Nobody can miss a block that rotted before anything said that it was there.
    let forgotten: BTreeSet<u64> = truth
        .recorded
        .iter()
        .filter(|(sequence, _)| *sequence > confirmed.0)
        .flat_map(|(_, chunks)| chunks.iter().copied())
        .collect();
    let (held, lost) = (ones(image, PlaneId::Held), ones(image, PlaneId::Lost));
    for chunk in 0..CHUNKS {
        let (is_held, is_lost) = (held.contains(&chunk), lost.contains(&chunk));
        let known = !forgotten.contains(&chunk);
        assert!(!is_held || is_lost || truth.held.contains(&chunk), "case {case}: {chunk} is not held");
        if known && truth.held.contains(&chunk) {
            assert!(is_held || is_lost, "case {case}: forgot that {chunk} is held");
        }
        if known && truth.lost.contains(&chunk) {
            assert!(is_lost, "case {case}: forgot that {chunk} is lost");
        }
    }
    if truth.differs && confirmed >= Sequence(65) {
        let differs = ones(image, PlaneId::differs(image.header.tracking));
        assert_eq!(differs.len() as u64, CHUNKS, "case {case}: the region was active");
    }
}

/// Rot, torn and misdirected writes: none of them makes a hash fit.
fn damage(rng: &mut SimRng, volume: &mut [u8]) {
    let all: Vec<usize> = places().collect();
    for _ in 0..=rng.index(3) {
        let at = rng.pick(&all);
        let target = at..at + BLOCK;
        match rng.index(4) {
            0 => volume[at + rng.index(BLOCK)] ^= 1 << rng.index(8),
            1 => volume[target].fill(0),
            2 => {
                let torn = at + 512 * rng.index(8);
                volume[torn..target.end].fill(0x5a);
            }
            _ => {
                let from = rng.pick(&all);
                volume.copy_within(from..from + BLOCK, at);
            }
        }
    }
}

fn rot(truth: &Truth, cases: u64) {
    let mut bench = Bench::new(&truth.image);
    let whole = bench.recover().unwrap();
    assert_eq!(ones(&whole, PlaneId::Held), truth.held);
    assert_eq!(ones(&whole, PlaneId::Lost), truth.lost);
    let (mut refused, mut served) = (0, 0);
    for case in 0..cases {
        bench.restore(&truth.image);
        let mut rng = SimRng::new(case);
        damage(&mut rng, bench.bitmap());
        let damaged = bench.bitmap().to_vec();
        match bench.recover() {
            Err(_) => refused += 1,
            Ok(image) => {
                check(truth, &damaged, &image, case);
                served += 1;
                let again = bench.recover().unwrap();
                assert_eq!(again.header.state, image.header.state, "case {case}");
                if !matches!(image.header.state, SetState::Offline(_)) {
                    let same = PlaneId::ALL.iter().all(|plane| ones(&again, *plane) == ones(&image, *plane));
                    assert!(same, "case {case}: a second recovery finds the same");
                }
            }
        }
    }
    assert!(served > cases / 2 && refused > 0, "{served} served, {refused} refused");
}

#[test]
fn a_dependent_set_never_claims_more_than_is_left() {
    rot(&dependent(), 6000);
}

#[test]
fn an_independent_set_never_claims_more_than_is_left() {
    rot(&independent(), 6000);
}

/// Fields at their edges, behind hashes that fit.
fn forge(rng: &mut SimRng, volume: &mut [u8]) {
    let all: Vec<usize> = places().collect();
    for _ in 0..=rng.index(2) {
        let at = rng.pick(&all);
        let hash_at = if SLOTS.contains(&at) { 16 } else { 8 };
        let busy = if SLOTS.contains(&at) { 440 } else { 160 };
        let block = &mut volume[at..at + BLOCK];
        for _ in 0..=rng.index(2) {
            let width = rng.pick(&[1, 2, 4, 8]);
            let field = (hash_at + 8 + rng.index(busy)) / width * width;
            let value = match rng.index(5) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << rng.index(64),
                3 => (1 << rng.index(64)) - 1,
                _ => rng.bits(),
            };
            block[field..field + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        block[hash_at..hash_at + 8].fill(0);
        let hash = data_hash(block);
        block[hash_at..hash_at + 8].copy_from_slice(&hash.to_le_bytes());
    }
}

#[test]
fn a_forged_volume_is_refused_or_read_but_never_panics() {
    let mut read = 0;
    for truth in [dependent(), independent()] {
        let mut bench = Bench::new(&truth.image);
        for case in 0..6000 {
            bench.restore(&truth.image);
            forge(&mut SimRng::new(case), bench.bitmap());
            if let Ok(image) = bench.recover() {
                read += 1;
                let chunks = image.planes[PlaneId::Held.index()].len();
                assert_eq!(chunks, CHUNKS, "case {case}: the volume has room for no other");
                bench.recover().unwrap();
            }
        }
    }
    assert!(read > 1000, "{read} read: too wild");
}

#[test]
fn volumes_of_any_size_and_content_are_refused() {
    let mut rng = SimRng::new(0);
    for size in [512, 4096, 1 << 20, (1 << 20) + 4096, 2 << 20, 5 << 20] {
        for fill in [0, 0xff, 0x55] {
            let mut bench = Bench::new(&vec![fill; size]);
            bench.bitmap()[rng.index(size)] ^= 1;
            assert!(bench.recover().is_err());
        }
    }
}

/// What was found wrong once: the page of *lost* took back what a damaged page of *held* had made lost.
#[test]
fn chunks_of_a_damaged_page_of_held_are_lost() {
    let truth = dependent();
    let mut bench = Bench::new(&truth.image);
    bench.bitmap()[PAGES..PAGES + 2 * BLOCK].fill(0);
    let image = bench.recover().unwrap();
    assert_eq!(ones(&image, PlaneId::Lost).len() as u64, CHUNKS);
}

/// While a frozen pair is merged its *differs* is exact: a chunk wrongly pending would be copied over its image.
#[test]
fn chunks_of_a_damaged_frozen_page_are_lost_until_it_is_merged() {
    let truth = independent();
    let mut bench = Bench::new(&truth.image);
    let frozen = PAGES + 2 * 2 * BLOCK;
    bench.bitmap()[frozen..frozen + 2 * BLOCK].fill(0);
    let image = bench.recover().unwrap();
    assert!(ones(&image, PlaneId::Lost).is_empty(), "the newer page of held has it all");
    bench.restore(&truth.image);
    bench.bitmap()[frozen..frozen + 2 * BLOCK].fill(0);
    bench.bitmap()[PAGES..PAGES + BLOCK].fill(0);
    let image = bench.recover().unwrap();
    assert_eq!(ones(&image, PlaneId::Lost).len() as u64, CHUNKS);
}

/// A slot that a later program wrote is newer than the one that this program could read.
#[test]
fn a_slot_of_a_later_version_is_not_passed_over() {
    let truth = dependent();
    let mut bench = Bench::new(&truth.image);
    let seal = |block: &mut [u8]| {
        block[16..24].fill(0);
        let hash = data_hash(block);
        block[16..24].copy_from_slice(&hash.to_le_bytes());
    };
    for (at, value, expected) in [
        (8, 2, SuperblockError::Version { found: 2 }),
        (40, 4, SuperblockError::ReadOnly(4)),
        (48, 1, SuperblockError::Features(1)),
    ] {
        for slot in SLOTS {
            bench.restore(&truth.image);
            let block = &mut bench.bitmap()[slot..slot + BLOCK];
            block[at] = value;
            seal(block);
            let RecoverError::Unusable { source, .. } = bench.recover().unwrap_err() else { panic!("{at}") };
            assert_eq!(source, expected);
        }
    }
}
