//! Bytes that nobody would write: no decoder panics, and none accepts what it would not write itself.
//!
//! Half of the cases get a fitting hash, so that the fields behind it are reached. Seeds are fixed: a failure
//! names its case.

use crate::features::sealed;
use crate::samples::{
    STATES, bare_superblock, encoded, full_journal, full_label, full_page, full_superblock, journal, page,
    superblock_in_doubt,
};
use umbra_engine::JournalBlock;
use umbra_format::{
    Label, Superblock, SuperblockError, decode_journal, decode_page, encode_journal, encode_page,
};

const CASES: u64 = 20_000;
type Block = [u8; 4096];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// What goes wrong at the edges.
    fn extreme(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX >> 1,
            3 => 1 << self.below(64),
            4 => (1u64 << self.below(64)).wrapping_sub(1),
            5 => self.next() & 0xff,
            6 => u64::MAX - (self.next() & 0xff),
            _ => self.next(),
        }
    }
}

/// Fields are where they are mutated most: in the first bytes, as far as `busy`.
fn mutate(rng: &mut Rng, block: &mut Block, busy: usize) {
    for _ in 0..=rng.below(3) {
        let at = if rng.below(4) > 0 { rng.below(busy) } else { rng.below(4096) };
        match rng.below(4) {
            0 => block[at] ^= 1 << rng.below(8),
            1 => block[at..].fill(0),
            2 => {
                let from = rng.below(4096);
                let len = rng.below(64).min(4096 - at.max(from));
                block.copy_within(from..from + len, at);
            }
            _ => {
                let width = [1, 2, 4, 8][rng.below(4)];
                let at = at / width * width;
                let value = rng.extreme().to_le_bytes();
                block[at..at + width].copy_from_slice(&value[..width]);
            }
        }
    }
}

/// Runs `check` on mutations of `samples`; it says whether it accepted the block.
fn attack(samples: &[Block], (hash_at, busy): (usize, usize), check: impl Fn(&Block) -> bool) {
    let (mut accepted, mut rejected) = (0, 0);
    for case in 0..CASES {
        let mut rng = Rng(case);
        let mut block = samples[rng.below(samples.len())];
        let valid = block;
        mutate(&mut rng, &mut block, busy);
        let fits = rng.below(2) == 0;
        if fits {
            block = sealed(block, hash_at);
        }
        let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&block)))
            .unwrap_or_else(|_| panic!("case {case}"));
        assert!(fits || block == valid || !ok, "case {case}: accepted without a fitting hash");
        if ok { accepted += 1 } else { rejected += 1 }
    }
    assert!(
        accepted > CASES / 50 && rejected > CASES / 4,
        "{accepted} accepted, {rejected} rejected: too tame"
    );
}

#[test]
fn superblocks() {
    let mut samples = vec![full_superblock(), bare_superblock(), superblock_in_doubt()];
    samples.extend(STATES.map(|(mode, state)| {
        let mut sample = bare_superblock();
        (sample.identity.mode, sample.header.state) = (mode, state);
        sample
    }));
    let blocks: Vec<Block> = samples.iter().map(|sample| encoded(|block| sample.encode(block))).collect();
    for (sample, block) in samples.iter().zip(&blocks) {
        assert_eq!(Superblock::decode(block).as_ref(), Ok(sample));
    }
    attack(&blocks, (16, 512), |block| match Superblock::inspect(block) {
        Ok((superblock, features)) => {
            let served = Superblock::decode(block);
            assert_eq!(served.is_ok(), features.read_only_compatible == 0);
            if features.unknown().is_empty() && features.compatible == 0 {
                assert_eq!(&encoded(|block| superblock.encode(block)), block);
            }
            // What follows from the fields can be computed.
            let identity = &superblock.identity;
            let layout =
                umbra_format::Layout::new(identity.geometry, identity.ring_blocks, identity.head_bytes);
            assert!(layout.total_bytes() > layout.planes_offset());
            true
        }
        Err(error) => {
            assert_eq!(error == SuperblockError::Foreign, &block[..8] != b"UMBRASUP");
            false
        }
    });
}

#[test]
fn pages() {
    let (header, ones) = full_page();
    let blocks = [page(&header, &ones), page(&header, &[])];
    attack(&blocks, (8, 96), |block| match decode_page(block) {
        Ok(found) => {
            assert_eq!(&encoded(|block| encode_page(&found.header, &found.words, block)), block);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn journal_blocks() {
    let full = full_journal();
    let short = JournalBlock { records: full.records[..3].to_vec(), ..full.clone() };
    let empty = JournalBlock { records: vec![], ..full.clone() };
    let set = crate::samples::SET;
    attack(&[journal(&full), journal(&short), journal(&empty)], (8, 256), |block| {
        match decode_journal(set, block) {
            Ok(found) => {
                assert_eq!(&encoded(|block| encode_journal(set, &found, block)), block);
                assert!(found.records.iter().all(|record| record.run.count > 0));
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn labels() {
    let blocks = [encoded(|block| full_label().encode(block))];
    attack(&blocks, (16, 128), |block| match Label::decode(block) {
        Ok(found) => {
            assert!(found.epoch.0 <= umbra_format::COUNTER_MAX);
            // What stands behind the fields is for people.
            assert_eq!(encoded(|block| found.encode(block))[24..80], block[24..80]);
            true
        }
        Err(_) => false,
    });
}

#[test]
fn noise() {
    let mut rng = Rng(1);
    for _ in 0..200 {
        let mut block = [0; 4096];
        block.fill_with(|| u8::try_from(rng.next() & 0xff).unwrap());
        assert_eq!(Superblock::inspect(&block).err(), Some(SuperblockError::Foreign));
        assert!(decode_page(&block).is_err() && Label::decode(&block).is_err());
        assert!(decode_journal(crate::samples::SET, &block).is_err());
    }
}
