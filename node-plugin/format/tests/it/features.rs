//! What a program does with a volume of a later version.

use crate::samples::{bare_superblock, encoded};
use umbra_format::{
    Features, INCOMPATIBLE_COMPACT, OPERATIONS_AT, READ_ONLY_CHANGE_TRACKING, Superblock, SuperblockError,
    data_hash,
};

const FEATURES_AT: usize = 32;

/// Makes the hash fit again: the block is as a program of another version would have written it.
pub(crate) fn sealed(mut block: [u8; 4096], hash_at: usize) -> [u8; 4096] {
    block[hash_at..hash_at + 8].fill(0);
    let hash = data_hash(&block);
    block[hash_at..hash_at + 8].copy_from_slice(&hash.to_le_bytes());
    block
}

fn superblock_with(change: impl FnOnce(&mut [u8; 4096])) -> [u8; 4096] {
    let mut block = encoded(|block| bare_superblock().encode(block));
    change(&mut block);
    sealed(block, 16)
}

#[test]
fn an_unknown_compatible_feature_and_its_area_are_passed_over() {
    let block = superblock_with(|block| {
        block[FEATURES_AT + 7] = 0x80;
        block[OPERATIONS_AT] = 1;
        block[4095] = 1;
    });
    assert_eq!(Superblock::decode(&block).unwrap(), bare_superblock());
    let (_, features) = Superblock::inspect(&block).unwrap();
    assert_eq!(features, Features { compatible: 1 << 63, ..Features::default() });
}

#[test]
fn an_unknown_read_only_feature_may_be_inspected_and_not_served() {
    let block = superblock_with(|block| {
        block[FEATURES_AT + 8] = u8::try_from(READ_ONLY_CHANGE_TRACKING).unwrap();
        block[368] = 7;
    });
    let error = Superblock::decode(&block).unwrap_err();
    assert_eq!(error, SuperblockError::ReadOnly(2));
    assert!(error.is_whole());
    assert_eq!(
        error.to_string(),
        "superblock has features 0x2 that this program does not know: it may inspect the volume, but not serve \
         the set; use a later version"
    );
    let (superblock, features) = Superblock::inspect(&block).unwrap();
    assert_eq!((superblock, features.unknown().read_only_compatible), (bare_superblock(), 2));
}

#[test]
fn an_unknown_incompatible_feature_is_refused() {
    let block =
        superblock_with(|block| block[FEATURES_AT + 16] = u8::try_from(INCOMPATIBLE_COMPACT).unwrap());
    assert_eq!(Superblock::inspect(&block).unwrap_err(), SuperblockError::Features(1));
    assert!(SuperblockError::Features(1).is_whole());
}

#[test]
fn a_later_version_is_refused_before_its_fields_are_looked_at() {
    let block = superblock_with(|block| {
        block[8] = 2;
        block[184..].fill(0xff);
    });
    assert_eq!(Superblock::inspect(&block).unwrap_err(), SuperblockError::Version { found: 2 });
}

#[test]
fn without_a_feature_reserved_areas_are_empty() {
    for at in [251, 368, 511, 1280, 1535, 1536, 2560, 3072, 3200, 3712, 4095] {
        let block = superblock_with(|block| block[at] = 1);
        assert_eq!(Superblock::inspect(&block).unwrap_err(), SuperblockError::Field("reserved area"), "{at}");
    }
    let unknown_flag = superblock_with(|block| block[255] = 1);
    assert_eq!(Superblock::inspect(&unknown_flag).unwrap_err(), SuperblockError::Field("reserved area"));
}

#[test]
fn a_block_that_never_was_a_superblock_is_told_from_a_damaged_one() {
    assert_eq!(Superblock::decode(&[0; 4096]).unwrap_err(), SuperblockError::Foreign);
    let mut block = encoded(|block| bare_superblock().encode(block));
    block[3000] ^= 1;
    assert_eq!(Superblock::decode(&block).unwrap_err(), SuperblockError::Damaged);
    assert!(!SuperblockError::Damaged.is_whole() && !SuperblockError::Foreign.is_whole());
}
