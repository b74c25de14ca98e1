//! The values that stand in the golden images. Written out by hand: they are the promise, not the code.

use umbra_engine::{
    Chunk, ChunkRun, Epoch, Geometry, Id128, InDoubt, JournalBlock, Mode, OfflineCause, PAGE_WORDS,
    PlaneHeader, PlaneId, Record, RingGeneration, Sequence, SetHeader, SetState, SuperblockGeneration,
    TrackingPair,
};
use umbra_format::{
    ImageEnd, Label, PageHeader, SetIdentity, Superblock, VolumeIdentity, encode_journal, encode_page,
};

pub(crate) const SET: Id128 = Id128(*b"golden set uuid.");
pub(crate) const CHUNK: u64 = 4096;

pub(crate) fn encoded(encode: impl FnOnce(&mut [u8])) -> [u8; 4096] {
    // Not zero: whatever is not written would show.
    let mut block = [0xa5; 4096];
    encode(&mut block);
    block
}

pub(crate) fn page(header: &PageHeader, ones: &[u64]) -> [u8; 4096] {
    encoded(|block| encode_page(header, &words(ones), block))
}

pub(crate) fn journal(value: &JournalBlock) -> [u8; 4096] {
    encoded(|block| encode_journal(SET, value, block))
}

/// The words of a page whose bits are 1 at these places.
pub(crate) fn words(ones: &[u64]) -> Vec<u64> {
    let mut words = vec![0; PAGE_WORDS];
    for bit in ones {
        words[usize::try_from(bit / 64).unwrap()] |= 1 << (bit % 64);
    }
    words
}

pub(crate) fn record(plane: PlaneId, first: u64, count: u32, hash: Option<u64>) -> Record {
    Record { run: ChunkRun::new(Chunk(first), count), set: plane.mask(), clear: 0, hash }
}

pub(crate) fn planes(epochs: [u64; 7]) -> [PlaneHeader; 7] {
    epochs.map(|epoch| PlaneHeader { epoch: Epoch(epoch) })
}

/// Every field has a value of its own, so that no two can be mixed up.
pub(crate) fn full_superblock() -> Superblock {
    Superblock {
        generation: SuperblockGeneration(0x0102_0304_0506),
        identity: SetIdentity {
            set: SET,
            master: VolumeIdentity {
                uuid: Id128(*b"golden master id"),
                size: (1 << 40) - 512,
                fingerprint: 0x1111_2222_3333_4444,
                hardware_id: "nvme-eui.0025385b21404321-part2".to_owned(),
            },
            shadow: VolumeIdentity {
                uuid: Id128(*b"golden shadow id"),
                size: 1 << 40,
                fingerprint: 0x5555_6666_7777_8888,
                hardware_id: "dm-uuid-LVM-Schatten-ü".to_owned(),
            },
            bitmap: Id128(*b"golden bitmap id"),
            tracking: Id128(*b"golden tracking."),
            node: Id128(*b"golden node uuid"),
            session: Id128(*b"golden session.."),
            seal_owner: Id128(*b"golden sealed by"),
            mode: Mode::Independent,
            geometry: Geometry::new((1 << 40) - 512, 64 << 10).unwrap(),
            logical_block: 512,
            physical_block: 16 << 10,
            ring_blocks: 2048,
            head_bytes: 1 << 20,
            protected: true,
            cluster: "prod-eu-1".to_owned(),
            namespace: "databases".to_owned(),
            name: "orders-nightly".to_owned(),
        },
        header: SetHeader {
            epoch: Epoch(77),
            cut: Id128(*b"golden cut uuid."),
            cut_unix_ms: 1_774_000_000_123,
            state: SetState::Copying,
            planes: planes([71, 72, 73, 74, 75, 76, 70]),
            tracking: TrackingPair::Second,
            merging: true,
            head_moved: true,
            ring_generation: RingGeneration(9),
            checkpoint_upto: Sequence(100_000),
            confirmed_upto: Sequence(101_234),
            shadow_written: true,
            recovered: true,
            clean: false,
        },
        doubt: None,
        labelled: false,
    }
}

/// The least that a superblock says.
pub(crate) fn bare_superblock() -> Superblock {
    let volume = |uuid| VolumeIdentity { uuid, size: 1 << 20, ..VolumeIdentity::default() };
    let identity = SetIdentity {
        set: SET,
        master: volume(Id128([2; 16])),
        shadow: volume(Id128([3; 16])),
        bitmap: Id128([4; 16]),
        tracking: Id128([5; 16]),
        node: Id128::default(),
        session: Id128::default(),
        seal_owner: Id128::default(),
        mode: Mode::Dependent,
        geometry: Geometry::new(1 << 20, CHUNK).unwrap(),
        logical_block: 512,
        physical_block: 4096,
        ring_blocks: 8,
        head_bytes: 64 << 10,
        protected: false,
        cluster: String::new(),
        namespace: String::new(),
        name: String::new(),
    };
    let header = SetHeader {
        epoch: Epoch(0),
        cut: Id128::default(),
        cut_unix_ms: 0,
        state: SetState::Prepared,
        planes: planes([0; 7]),
        tracking: TrackingPair::First,
        merging: false,
        head_moved: false,
        ring_generation: RingGeneration(1),
        checkpoint_upto: Sequence(0),
        confirmed_upto: Sequence(0),
        shadow_written: false,
        recovered: false,
        clean: true,
    };
    Superblock { generation: SuperblockGeneration(1), identity, header, doubt: None, labelled: false }
}

/// A member of a cut over two sets that is not decided.
pub(crate) fn superblock_in_doubt() -> Superblock {
    let now = full_superblock();
    let then = SetHeader {
        epoch: Epoch(79),
        cut: Id128(*b"golden cut 2 is."),
        cut_unix_ms: 0x0203_0405_0607,
        state: SetState::Copying,
        planes: planes([70, 79, 12, 13, 79, 78, 7]),
        tracking: TrackingPair::First,
        merging: true,
        head_moved: true,
        checkpoint_upto: Sequence(101_000),
        shadow_written: false,
        recovered: false,
        clean: false,
        ..now.header
    };
    let members = [SET, Id128(*b"golden sibling..")];
    Superblock { doubt: Some(InDoubt { members: members.into(), then }), ..now }
}

/// Every state, each with the mode that can have it.
pub(crate) const STATES: [(Mode, SetState); 10] = [
    (Mode::Dependent, SetState::Prepared),
    (Mode::Dependent, SetState::Dependent),
    (Mode::Independent, SetState::Copying),
    (Mode::Independent, SetState::CopyAborted),
    (Mode::Independent, SetState::Complete),
    (Mode::Dependent, SetState::Offline(OfflineCause::Shadow)),
    (Mode::Independent, SetState::Offline(OfflineCause::Bitmap)),
    (Mode::Independent, SetState::Disabled),
    (Mode::Dependent, SetState::Restoring),
    (Mode::Independent, SetState::RestoreAborted),
];

pub(crate) fn full_page() -> (PageHeader, Vec<u64>) {
    let header = PageHeader {
        set: SET,
        plane: PlaneId::Differs1,
        index: 519,
        epoch: Epoch(77),
        sequence: Sequence(100_000),
        stamp: SuperblockGeneration(0x0102_0304_0505),
    };
    (header, vec![0, 1, 63, 64, 4097, 32_255])
}

pub(crate) fn full_journal() -> JournalBlock {
    let mut records = vec![
        record(PlaneId::Held, 0x0000_1234_5678_9abc, 16, Some(0xfeed_face_cafe_beef)),
        record(PlaneId::Region1, 511, 1, None),
        Record {
            run: ChunkRun::new(Chunk(7), u32::MAX),
            set: PlaneId::Lost.mask() | PlaneId::Differs0.mask() | PlaneId::Differs1.mask(),
            clear: PlaneId::Held.mask() | PlaneId::Pending.mask(),
            hash: None,
        },
    ];
    records.extend((3..125).map(|n| record(PlaneId::Held, n * 3, 2, Some(n))));
    JournalBlock {
        ring_generation: RingGeneration(9),
        epoch: Epoch(77),
        sequence: Sequence(101_236),
        confirmed_upto: Sequence(101_234),
        records,
    }
}

pub(crate) fn full_label() -> Label {
    Label {
        set: SET,
        shadow: Id128(*b"golden shadow id"),
        epoch: Epoch(77),
        session: Id128(*b"golden session.."),
        end: Some(ImageEnd::GivenUp),
    }
}
