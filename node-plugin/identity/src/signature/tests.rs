//! Handmade superblocks, each with the fields that its structure has at these places.

use super::*;
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const UUID: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

fn uuid_bytes() -> [u8; 16] {
    *uuid::Uuid::parse_str(UUID).unwrap().as_bytes()
}

/// A device that is zero but for some pieces; those of negative places count from its end.
fn device(size: usize, pieces: &[(i64, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, piece) in pieces {
        let at = if *at < 0 { size - usize::try_from(-at).unwrap() } else { usize::try_from(*at).unwrap() };
        bytes[at..at + piece.len()].copy_from_slice(piece);
    }
    bytes
}

fn scan_bytes(bytes: &[u8]) -> Vec<String> {
    let first = &bytes[..bytes.len().min(MIB + 4096)];
    let last = &bytes[bytes.len() - bytes.len().min(MIB)..];
    scan(&Edges::new(bytes.len() as u64, first, last)).iter().map(|found| found.id.to_string()).collect()
}

fn on(pieces: &[(i64, &[u8])]) -> Vec<String> {
    scan_bytes(&device(8 * MIB + 512 * 7, pieces))
}

#[test]
fn a_device_is_empty_if_both_ends_are_zero() {
    assert_eq!(on(&[]), Vec::<String>::new());
    assert_eq!(on(&[(3 << 20, b"in the middle")]), Vec::<String>::new());
    for size in [0, 512, 4096, MIB, 2 * MIB - 512] {
        assert_eq!(scan_bytes(&vec![0; size]), Vec::<String>::new(), "{size} bytes");
    }
}

#[test]
fn what_is_not_recognised_is_a_signature_too_and_names_its_content() {
    let first = on(&[(7, b"x")]);
    assert!(first[0].starts_with("unknown:") && first[0].len() == "unknown:".len() + 16, "{first:?}");
    assert_ne!(first, on(&[(7, b"y")]), "a confirmation is of one content");
    assert!(on(&[(-1, b"x")])[0].starts_with("unknown:"), "the last MiB counts");
    assert!(scan_bytes(&[1; 512])[0].starts_with("unknown:"));
}

#[test]
fn simple_marks_are_recognised_with_their_uuid() {
    let uuid = uuid_bytes();
    let one = |kind: &str, pieces: &[(i64, &[u8])]| assert_eq!(on(pieces), [format!("{kind}:{UUID}")]);
    one("xfs", &[(0, b"XFSB"), (32, &uuid)]);
    one("btrfs", &[(0x10040, b"_BHRfS_M"), (0x10020, &uuid)]);
    one("f2fs", &[(1024, &0xf2f5_2010_u32.to_le_bytes()), (1024 + 108, &uuid)]);
    one("crypto_luks", &[(0, b"LUKS\xba\xbe\0\x02"), (168, UUID.as_bytes())]);
    one("ceph_bluestore", &[(0, b"bluestore block device\n"), (23, UUID.as_bytes())]);
    one("jfs", &[(32768, b"JFS1"), (32768 + 136, &uuid)]);
    assert_eq!(on(&[(3, b"NTFS    "), (72, &0x12ab_u64.to_le_bytes())]), ["ntfs:00000000000012AB"]);
    assert_eq!(on(&[(3, b"EXFAT   "), (100, &0x12ab_34cd_u32.to_le_bytes())]), ["exfat:12AB-34CD"]);
    assert!(on(&[(32769, b"CD001")])[0].starts_with("iso9660:"));
    assert!(on(&[(0, b"XFSB")])[0].starts_with("xfs:"), "a nil UUID is none: the content's hash is taken");
    assert!(on(&[(168, UUID.as_bytes()), (0, b"LUKS\xba\xbe"), (170, b"\x1b[2J")])[0].is_ascii());
}

fn ext(compatible: u32, incompatible: u32, read_only: u32) -> Vec<String> {
    let (c, i, r) = (compatible.to_le_bytes(), incompatible.to_le_bytes(), read_only.to_le_bytes());
    on(&[
        (1024 + 0x38, &[0x53, 0xef]),
        (1024 + 0x5c, &c),
        (1024 + 0x60, &i),
        (1024 + 0x64, &r),
        (1024 + 0x68, &uuid_bytes()),
    ])
}

#[test]
fn the_ext_family_is_told_apart_by_its_features() {
    assert_eq!(ext(0, 0x2, 0x1), [format!("ext2:{UUID}")]);
    assert_eq!(ext(0x4, 0x2, 0x3), [format!("ext3:{UUID}")]);
    assert_eq!(ext(0x3c, 0x2c2, 0x46b), [format!("ext4:{UUID}")]);
    assert_eq!(ext(0, 0x8, 0), [format!("jbd:{UUID}")]);
}

#[test]
fn swap_is_found_whatever_the_page_size() {
    for page in [4096i64, 65536] {
        assert_eq!(on(&[(page - 10, b"SWAPSPACE2"), (1036, &uuid_bytes())]), [format!("swap:{UUID}")]);
    }
    assert!(on(&[(4086, b"S1SUSPEND\0")])[0].starts_with("swsuspend:"));
}

fn partition_entry() -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = 0x83;
    entry
}

#[test]
fn partition_tables_are_found_also_where_only_the_backup_is_left() {
    let mut disk = [0; 92];
    disk[..8].copy_from_slice(b"EFI PART");
    disk[56..72].copy_from_slice(&uuid::Uuid::parse_str(UUID).unwrap().to_bytes_le());
    let gpt = [format!("gpt:{UUID}")];
    let protective = partition_entry();
    assert_eq!(on(&[(512, &disk), (446, &protective), (510, &[0x55, 0xaa]), (-512, &disk)]), gpt);
    assert_eq!(on(&[(-512, &disk)]), gpt);
    assert_eq!(on(&[(4096, &disk)]), gpt, "4 KiB blocks");
    let id = 0x1234_abcd_u32.to_le_bytes();
    assert_eq!(on(&[(440, &id), (446, &partition_entry()), (510, &[0x55, 0xaa])]), ["dos:1234abcd"]);
    assert!(on(&[(510, &[0x55, 0xaa])])[0].starts_with("unknown:"), "no entry: a boot sector, but no table");
    let fat = on(&[
        (54, b"FAT16   "),
        (39, &0x12ab_34cd_u32.to_le_bytes()),
        (446, &partition_entry()),
        (510, &[0x55, 0xaa]),
    ]);
    assert_eq!(fat, ["vfat:12AB-34CD"]);
    assert_eq!(on(&[(82, b"FAT32   "), (67, &1u32.to_le_bytes())]), ["vfat:0000-0001"]);
}

#[test]
fn members_of_volume_managers_are_found_at_both_ends() {
    let id = b"0123456789ABCDEFGHIJKLMNOPQRSTUV";
    let label =
        [(512i64, &b"LABELONE"[..]), (512 + 20, &[32, 0, 0, 0]), (512 + 24, b"LVM2 001"), (512 + 32, id)];
    assert_eq!(on(&label), ["lvm2_member:012345-6789-ABCD-EFGH-IJKL-MNOP-QRSTUV"]);
    let magic = 0xa92b_4efc_u32.to_le_bytes();
    let raid = [format!("linux_raid_member:{UUID}")];
    let mut superblock = [0; 32];
    superblock[..4].copy_from_slice(&magic);
    superblock[4] = 1;
    superblock[16..].copy_from_slice(&uuid_bytes());
    for at in [0, 4096] {
        assert_eq!(on(&[(at, &superblock)]), raid, "at {at}");
    }
    // 1.0: 8 KiB from the end, rounded down to 4 KiB; this device ends 7 sectors after such a boundary.
    assert_eq!(on(&[(-(16 + 7) * 512, &superblock)]), raid);
    let mut old = [0; 64];
    old[..4].copy_from_slice(&magic);
    old[20..24].copy_from_slice(&uuid_bytes()[..4]);
    old[52..64].copy_from_slice(&uuid_bytes()[4..]);
    assert_eq!(on(&[(-65536 - 7 * 512, &old)]), raid, "0.90");
    let mut drbd = [0; 64];
    drbd[40..48].copy_from_slice(&0xabcd_u64.to_be_bytes());
    drbd[60..].copy_from_slice(&0x8374_026b_u32.to_be_bytes());
    assert_eq!(on(&[(-4096 - 7 * 512, &drbd)]), ["drbd:000000000000abcd"]);
}

#[test]
fn a_zfs_member_is_named_by_its_pool() {
    let pair = b"\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01\0\0\0\0\0\0\x30\x39";
    let uberblock = 0x00ba_b10c_u64.to_le_bytes();
    assert_eq!(on(&[(0x4100, pair), (0x20400, &uberblock)]), ["zfs_member:12345"]);
    // 8 MiB and a bit: the last label is the last whole 256 KiB.
    let last = (8i64 << 20) - (256 << 10);
    assert!(on(&[(last + 0x20000, &uberblock)])[0].starts_with("zfs_member:"));
}

#[test]
fn several_owners_are_all_named_and_each_must_be_confirmed() {
    let mut disk = [0; 92];
    disk[..8].copy_from_slice(b"EFI PART");
    let found = on(&[(0, b"XFSB"), (32, &uuid_bytes()), (-512, &disk)]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], format!("xfs:{UUID}"));
    assert!(found[1].starts_with("gpt:"));
}

#[test]
fn our_own_blocks_are_named_by_their_set_damaged_or_not() {
    let set = umbra_engine::Id128(uuid_bytes());
    let label = Label {
        set,
        shadow: umbra_engine::Id128([2; 16]),
        epoch: umbra_engine::Epoch(1),
        session: umbra_engine::Id128([3; 16]),
        end: None,
    };
    let mut block = [0; BLOCK_BYTES];
    label.encode(&mut block);
    assert_eq!(on(&[(0, &block)]), [format!("umbra-label:{UUID}")]);
    block[100] ^= 1;
    assert!(on(&[(0, &block)])[0].starts_with("umbra-label:"), "a damaged label is still somebody's");
    assert!(on(&[(0, b"UMBRASUP")])[0].starts_with("umbra-bitmap:"));
}

proptest! {
    /// Whatever lies there, of whatever size: no panic, and not empty unless both ends are zero.
    #[test]
    fn no_content_confuses_the_scanner(
        size in prop_oneof![0usize..70_000, (MIB - 600)..(3 * MIB)],
        pieces in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..64)), 0..6),
        magics in prop::collection::vec((any::<prop::sample::Index>(), 0usize..PLANTED.len()), 0..4),
    ) {
        let mut bytes = vec![0u8; size];
        let mut plant = |at: usize, piece: &[u8]| {
            let len = piece.len().min(size - at);
            bytes[at..at + len].copy_from_slice(&piece[..len]);
        };
        if size > 0 {
            for (at, piece) in &pieces {
                plant(at.index(size), piece);
            }
            for (shift, magic) in &magics {
                let (at, magic) = PLANTED[*magic];
                // Mostly where it belongs, so that what follows is read.
                let at = if at < size { at } else { shift.index(size) };
                plant(at, magic);
            }
        }
        let zero = bytes[..size.min(MIB)].iter().chain(&bytes[size - size.min(MIB)..]).all(|byte| *byte == 0);
        prop_assert_eq!(scan_bytes(&bytes).is_empty(), zero);
    }
}

const PLANTED: &[(usize, &[u8])] = &[
    (0, b"XFSB"),
    (0, b"LUKS\xba\xbe"),
    (16384, b"SKUL\xba\xbe"),
    (512, b"LABELONE"),
    (536, b"LVM2 001"),
    (532, b"\xff\x01\0\0"),
    (512, b"EFI PART"),
    (510, b"\x55\xaa"),
    (1080, b"\x53\xef"),
    (4086, b"SWAPSPACE2"),
    (0x20000, b"\x0c\xb1\xba\0\0\0\0\0"),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    (0, b"UMBRASUP"),
    (0, b"UMBRALBL"),
    (23, b"bluestore"),
];
