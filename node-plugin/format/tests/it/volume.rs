//! Whole bitmap volumes: everything where it belongs, in the middle of a set's life.

use crate::golden::golden;
use crate::samples::{CHUNK, SET, bare_superblock, encoded, journal, page, planes, record};
use umbra_engine::{
    Epoch, Id128, JournalBlock, Mode, PlaneId, RingGeneration, Sequence, SetHeader, SetState,
    SuperblockGeneration, TrackingPair,
};
use umbra_format::{
    DataHasher, Layout, PageHeader, SetIdentity, Superblock, data_hash, decode_journal, decode_page,
};

/// 256 chunks of 4 KiB, a ring of 8 blocks, a head of 64 KiB: 5 MiB.
const TOTAL: usize = 5 << 20;
const RING: usize = 2 << 20;
const HEAD: usize = 3 << 20;
const PLANES: usize = 4 << 20;

/// The bytes of a chunk on the shadow: its number.
fn shadow_chunk(chunk: u8) -> [u8; 4096] {
    [chunk; 4096]
}

struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn block(&self, at: usize) -> [u8; 4096] {
        self.0[at..at + 4096].try_into().unwrap()
    }
}

/// A page at one or both of its places.
struct GoldenPage {
    plane: PlaneId,
    /// Epoch, sequence and stamp.
    versions: [(u64, u64, u64); 2],
    ones: [Vec<u64>; 2],
}

impl GoldenPage {
    fn same(plane: PlaneId, version: (u64, u64, u64), ones: Vec<u64>) -> Self {
        Self { plane, versions: [version; 2], ones: [ones.clone(), ones] }
    }

    fn header(&self, place: usize) -> PageHeader {
        let (epoch, sequence, stamp) = self.versions[place];
        PageHeader {
            set: SET,
            plane: self.plane,
            index: 0,
            epoch: Epoch(epoch),
            sequence: Sequence(sequence),
            stamp: SuperblockGeneration(stamp),
        }
    }
}

struct Volume {
    slots: [Superblock; 2],
    ring: Vec<JournalBlock>,
    pages: Vec<GoldenPage>,
}

impl Volume {
    fn image(&self) -> Image {
        let mut image = Image(vec![0; TOTAL]);
        for (at, slot) in [0, 1 << 20].into_iter().zip(&self.slots) {
            image.put(at, &encoded(|block| slot.encode(block)));
        }
        for block in &self.ring {
            image.put(RING + usize::try_from(block.sequence.0 % 8).unwrap() * 4096, &journal(block));
        }
        for chunk in 0..16u8 {
            image.put(HEAD + usize::from(chunk) * 4096, &shadow_chunk(chunk));
        }
        for wanted in &self.pages {
            for place in 0..2 {
                let at = PLANES + (wanted.plane.index() * 2 + place) * 4096;
                image.put(at, &page(&wanted.header(place), &wanted.ones[place]));
            }
        }
        image
    }

    /// Everything is read as what it is written from.
    fn check(&self, name: &str) {
        let image = Image(golden(name, &self.image().0));
        let layout = Layout::new(self.slots[0].identity.geometry, 8, 64 << 10);
        assert_eq!(layout.total_bytes(), TOTAL as u64);
        assert_eq!((layout.head_offset(), layout.planes_offset()), (HEAD as u64, PLANES as u64));
        for (at, slot) in [0, 1 << 20].into_iter().zip(&self.slots) {
            assert_eq!(&Superblock::decode(&image.block(at)).unwrap(), slot, "{name}");
        }
        for block in &self.ring {
            let at = RING + usize::try_from(block.sequence.0 % 8).unwrap() * 4096;
            assert_eq!(layout.journal_block(block.sequence), at as u64);
            assert_eq!(&decode_journal(SET, &image.block(at)).unwrap(), block, "{name}");
        }
        for wanted in &self.pages {
            for (place, ones) in wanted.ones.iter().enumerate() {
                let at = PLANES + (wanted.plane.index() * 2 + place) * 4096;
                let found = decode_page(&image.block(at)).unwrap();
                assert_eq!(found.header, wanted.header(place), "{name}");
                assert_eq!(usize::try_from(found.ones).unwrap(), ones.len());
                assert!(
                    ones.iter()
                        .all(|bit| found.words[usize::try_from(bit / 64).unwrap()] >> (bit % 64) & 1 == 1)
                );
            }
        }
    }
}

fn block(
    (ring_generation, epoch): (u64, u64),
    (sequence, confirmed_upto): (u64, u64),
    records: Vec<umbra_engine::Record>,
) -> JournalBlock {
    JournalBlock {
        ring_generation: RingGeneration(ring_generation),
        epoch: Epoch(epoch),
        sequence: Sequence(sequence),
        confirmed_upto: Sequence(confirmed_upto),
        records,
    }
}

fn hash_of(chunks: &[u8]) -> Option<u64> {
    Some(data_hash(&chunks.iter().copied().flat_map(shadow_chunk).collect::<Vec<u8>>()))
}

fn empty(plane: PlaneId) -> GoldenPage {
    GoldenPage::same(plane, (0, 0, 0), vec![])
}

/// A dependent set in use: a checkpoint, then three blocks, the last of which nobody has confirmed.
fn dependent() -> Volume {
    let bare = bare_superblock();
    let identity = SetIdentity {
        node: Id128([6; 16]),
        session: Id128([7; 16]),
        namespace: "golden".to_owned(),
        name: "dependent".to_owned(),
        ..bare.identity
    };
    let header = SetHeader {
        epoch: Epoch(3),
        cut: Id128(*b"golden cut three"),
        cut_unix_ms: 1_774_000_000_000,
        state: SetState::Dependent,
        planes: planes([3, 3, 3, 3, 0, 0, 0]),
        head_moved: true,
        shadow_written: true,
        clean: false,
        ring_generation: RingGeneration(2),
        checkpoint_upto: Sequence(20),
        confirmed_upto: Sequence(20),
        ..bare.header
    };
    let superblock =
        Superblock { generation: SuperblockGeneration(9), identity, header, doubt: None, labelled: false };
    let held = |chunk, count, hash| vec![record(PlaneId::Held, chunk, count, hash)];
    Volume {
        slots: [superblock.clone(), superblock],
        ring: vec![
            block((2, 3), (16, 15), held(0, 16, hash_of(&[0; 16]))),
            block((2, 3), (17, 16), vec![]),
            block((2, 3), (18, 17), held(40, 1, hash_of(&[40]))),
            block((2, 3), (19, 17), vec![record(PlaneId::Lost, 200, 1, None)]),
            block((2, 3), (20, 19), vec![]),
            block((2, 3), (21, 20), held(41, 1, hash_of(&[41]))),
            block((2, 3), (22, 21), vec![record(PlaneId::Lost, 201, 2, None)]),
            block((2, 3), (23, 22), held(50, 2, hash_of(&[50, 51]))),
        ],
        pages: vec![
            GoldenPage::same(PlaneId::Held, (3, 20, 8), (0..16).chain([40]).collect()),
            GoldenPage::same(PlaneId::Lost, (3, 20, 8), vec![200]),
            empty(PlaneId::Differs0),
            empty(PlaneId::Region0),
            empty(PlaneId::Differs1),
            empty(PlaneId::Region1),
            empty(PlaneId::Pending),
        ],
    }
}

/// An independent set just after an update, killed between the two slots of a commit and in the middle of the
/// checkpoint that merges the frozen pair into *held*.
fn independent() -> Volume {
    let bare = bare_superblock();
    let identity = SetIdentity {
        mode: Mode::Independent,
        node: Id128([6; 16]),
        session: Id128([8; 16]),
        protected: true,
        namespace: "golden".to_owned(),
        name: "independent".to_owned(),
        ..bare.identity
    };
    let older = SetHeader {
        epoch: Epoch(5),
        cut: Id128(*b"golden cut five."),
        cut_unix_ms: 1_774_000_000_500,
        state: SetState::Copying,
        planes: planes([1, 5, 4, 4, 5, 5, 0]),
        tracking: TrackingPair::Second,
        merging: true,
        head_moved: true,
        clean: false,
        ring_generation: RingGeneration(4),
        checkpoint_upto: Sequence(64),
        confirmed_upto: Sequence(64),
        ..bare.header
    };
    let newer = SetHeader { shadow_written: true, confirmed_upto: Sequence(65), ..older };
    let slot = |generation, header| Superblock {
        generation: SuperblockGeneration(generation),
        identity: identity.clone(),
        header,
        doubt: None,
        labelled: false,
    };
    let all: Vec<u64> = (0..256).collect();
    let merged: Vec<u64> = (0..256).filter(|chunk| !(7..9).contains(chunk)).collect();
    Volume {
        slots: [slot(13, newer), slot(12, older)],
        ring: vec![
            block((4, 4), (64, 63), vec![record(PlaneId::Region0, 0, 1, None)]),
            block((4, 5), (65, 64), vec![record(PlaneId::Region1, 0, 1, None)]),
            block((4, 5), (66, 65), vec![record(PlaneId::Held, 7, 1, hash_of(&[7]))]),
        ],
        pages: vec![
            GoldenPage { plane: PlaneId::Held, versions: [(5, 65, 12), (4, 64, 10)], ones: [merged, all] },
            empty(PlaneId::Lost),
            GoldenPage::same(PlaneId::Differs0, (4, 64, 10), vec![7, 8]),
            GoldenPage::same(PlaneId::Region0, (4, 64, 10), vec![0]),
            empty(PlaneId::Differs1),
            empty(PlaneId::Region1),
            empty(PlaneId::Pending),
        ],
    }
}

#[test]
fn a_dependent_set_in_use() {
    assert_eq!(hash_of(&[50, 51]), Some(2_055_033_745_153_906_588));
    dependent().check("v1-dependent.img.gz");
}

#[test]
fn an_independent_set_between_two_slots() {
    independent().check("v1-independent.img.gz");
}

/// The first is the published value of XXH3-64 with seed 0.
#[test]
fn hashes_are_xxh3() {
    assert_eq!(data_hash(b""), 0x2d06_8005_38d3_94c2);
    let mut pieces = DataHasher::default();
    for piece in shadow_chunk(9).chunks(1000) {
        pieces.update(piece);
    }
    assert_eq!(pieces.finish(), data_hash(&shadow_chunk(9)));
}

#[test]
fn chunks_are_those_of_the_geometry() {
    assert_eq!(bare_superblock().identity.geometry.chunk_count(), (1 << 20) / CHUNK);
}
