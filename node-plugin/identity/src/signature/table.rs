//! Marks that are some fixed bytes at a fixed place. Structures are those of the kernel unless it says otherwise.

use super::Mark;
use crate::edges::Edges;

/// Where a UUID is, and how it is written.
#[derive(Clone, Copy, Debug)]
enum UuidAt {
    /// There is none.
    None,
    /// 16 bytes in order.
    Bytes(u64),
    /// Text of 36 characters.
    Text(u64),
    /// A number of 32 bits, written as `12AB-34CD` (file systems of DOS).
    Short(u64),
    /// A number of 64 bits, in 16 digits.
    Long(u64),
}

struct Row {
    kind: &'static str,
    at: u64,
    magic: &'static [u8],
    uuid: UuidAt,
}

const fn row(kind: &'static str, at: u64, magic: &'static [u8], uuid: UuidAt) -> Row {
    Row { kind, at, magic, uuid }
}

const TABLE: &[Row] = &[
    // struct xfs_dsb, fs/xfs/libxfs/xfs_format.h
    row("xfs", 0, b"XFSB", UuidAt::Bytes(32)),
    // struct btrfs_super_block, include/uapi/linux/btrfs_tree.h: fsid, magic
    row("btrfs", 0x10040, b"_BHRfS_M", UuidAt::Bytes(0x10020)),
    // struct f2fs_super_block, include/linux/f2fs_fs.h: uuid after 27 numbers of 4 bytes
    row("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2], UuidAt::Bytes(1024 + 108)),
    // struct boot_sector, fs/exfat/exfat_raw.h: fs_name, vol_serial
    row("exfat", 3, b"EXFAT   ", UuidAt::Short(100)),
    // struct NTFS_BOOT, fs/ntfs3/ntfs.h: system_id, serial_num
    row("ntfs", 3, b"NTFS    ", UuidAt::Long(72)),
    // BitLocker volume header, [MS-FVE]: signature in the place of the OEM name
    row("bitlocker", 3, b"-FVE-FS-", UuidAt::None),
    // LUKS1 and LUKS2 on-disk format: magic, version (big-endian), uuid at 168 in both
    row("crypto_luks", 0, b"LUKS\xba\xbe", UuidAt::Text(168)),
    // struct bch_sb / struct cache_sb, fs/bcachefs and include/trace/bcache: sector 8, magic at 24, uuid at 40
    row(
        "bcache",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
        UuidAt::Bytes(4096 + 40),
    ),
    row(
        "bcachefs",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef],
        UuidAt::Bytes(4096 + 56),
    ),
    // bluestore_bdev_label_t, Ceph src/os/bluestore: a line, then the UUID as text
    row("ceph_bluestore", 0, b"bluestore block device\n", UuidAt::Text(23)),
    // ECMA-119 (ISO 9660): volume descriptors from sector 16
    row("iso9660", 32769, b"CD001", UuidAt::None),
    // ECMA-167 (UDF): volume recognition sequence from sector 16
    row("udf", 32769, b"BEA01", UuidAt::None),
    // struct squashfs_super_block, fs/squashfs/squashfs_fs.h
    row("squashfs", 0, b"hsqs", UuidAt::None),
    // struct erofs_super_block, fs/erofs/erofs_fs.h
    row("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0], UuidAt::Bytes(1024 + 48)),
    // struct jfs_superblock, fs/jfs/jfs_superblock.h
    row("jfs", 32768, b"JFS1", UuidAt::Bytes(32768 + 136)),
    // struct nilfs_super_block, include/uapi/linux/nilfs2_ondisk.h: s_magic, s_uuid
    row("nilfs2", 1024 + 6, &[0x34, 0x34], UuidAt::Bytes(1024 + 152)),
    // struct gfs2_meta_header, include/uapi/linux/gfs2_ondisk.h: magic and type of a superblock
    row("gfs2", 65536, &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1], UuidAt::None),
    // reiserfs: magic at 52 of the superblock at 64 KiB, uuid at 84
    row("reiserfs", 65536 + 52, b"ReIsEr", UuidAt::Bytes(65536 + 84)),
    // struct nx_superblock, Apple File System Reference: nx_magic, nx_uuid
    row("apfs", 32, b"NXSB", UuidAt::Bytes(72)),
    // HFS Plus volume header, Apple TN1150: signatures H+ and HX with versions 4 and 5
    row("hfsplus", 1024, &[b'H', b'+', 0, 4], UuidAt::None),
    row("hfsplus", 1024, &[b'H', b'X', 0, 5], UuidAt::None),
    // OCFS2_SUPER_BLOCK_SIGNATURE, fs/ocfs2/ocfs2_fs.h: block 2, of 512 bytes to 4 KiB
    row("ocfs2", 1024, b"OCFSV2", UuidAt::None),
    row("ocfs2", 2048, b"OCFSV2", UuidAt::None),
    row("ocfs2", 4096, b"OCFSV2", UuidAt::None),
    row("ocfs2", 8192, b"OCFSV2", UuidAt::None),
    // Oracle ASM disk label
    row("oracleasm", 32, b"ORCLDISK", UuidAt::None),
    // struct superblock of dm-integrity, drivers/md/dm-integrity.c
    row("dm_integrity", 0, b"integrt\0", UuidAt::None),
    // struct verity superblock, cryptsetup lib/verity/verity.c
    row("dm_verity", 0, b"verity\0\0", UuidAt::Bytes(16)),
    // struct geometry_block of VDO, drivers/md/dm-vdo/encodings.h
    row("vdo", 0, b"dmvdo001", UuidAt::None),
    // struct disk_header of persistent snapshots, drivers/md/dm-snap-persistent.c
    row("dm_snapshot_cow", 0, b"SnAp", UuidAt::None),
    // struct thin_disk_superblock, drivers/md/dm-thin-metadata.c: magic 27022010
    row("dm_thin_metadata", 32, &27_022_010_u64.to_le_bytes(), UuidAt::None),
    // struct cache_disk_superblock, drivers/md/dm-cache-metadata.c: magic 06142003
    row("dm_cache_metadata", 32, &6_142_003_u64.to_le_bytes(), UuidAt::None),
    // Stratis static header: magic at 4 of sectors 1 and 9
    row("stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh", UuidAt::None),
    row("stratis", 4612, b"!Stra0tis\x86\xff\x02^\x41rh", UuidAt::None),
];

/// The marks of the table.
pub(super) fn scan(edges: &Edges<'_>) -> Vec<Mark> {
    let found = TABLE.iter().filter(|row| edges.has(row.at, row.magic));
    found.map(|row| Mark { kind: row.kind, uuid: uuid(edges, row.uuid), at: row.at }).collect()
}

/// A UUID, if there is one that is not nil.
fn uuid(edges: &Edges<'_>, place: UuidAt) -> Option<String> {
    match place {
        UuidAt::None => None,
        UuidAt::Bytes(at) => edges.uuid(at).filter(|uuid| !uuid.is_nil()).map(|uuid| uuid.to_string()),
        UuidAt::Text(at) => text(edges, at, 36),
        UuidAt::Short(at) => edges.le32(at).filter(|number| *number != 0).map(short),
        UuidAt::Long(at) => {
            edges.le64(at).filter(|number| *number != 0).map(|number| format!("{number:016X}"))
        }
    }
}

/// The form in which volume serial numbers of DOS are written.
pub(super) fn short(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}

/// Text that is safe to print and to type.
pub(super) fn text(edges: &Edges<'_>, at: u64, len: usize) -> Option<String> {
    let text = std::str::from_utf8(edges.get(at, len)?).ok()?.trim_end_matches('\0');
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain.then(|| text.to_owned())
}
