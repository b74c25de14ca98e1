//! How often a file system was changed, by its own count (kubernetes-design rule 5, E19).
//!
//! A master that was mounted or repaired past Umbra has another count than when Umbra last served it. What is read
//! costs one block and moves with every mount for writing:
//!
//! | file system | fields | moves |
//! |---|---|---|
//! | ext2, ext3, ext4 | mount count, times of the last mount and superblock write, KiB written (ext4) | at a mount, an unmount, a check, and while mounted |
//! | XFS | LSN of the superblock (version 5), counts of inodes and free blocks | at an unmount, a freeze, a repair; the head of the log itself would have to be searched for |
//! | btrfs | generation | with every transaction |
//!
//! Whatever writes through Umbra moves the same counts: the recorded generation is right only if it was taken after
//! the last write to [`FsGeneration::PLACE`]. Equal counts prove nothing against a writer that bypasses
//! the file system; the sampled content (`umbra-uring`) is compared beside it.

use crate::edges::Edges;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use uuid::Uuid;

/// What a file system's superblock says about its last changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum FsGeneration {
    /// `struct ext4_super_block` (fs/ext4/ext4.h), at 1 KiB.
    Ext {
        /// `s_uuid`.
        uuid: Uuid,
        /// `s_mnt_count`: mounts since the last check.
        mounts: u16,
        /// `s_mtime`: last mount, in seconds.
        mounted: u64,
        /// `s_wtime`: last write of the superblock, in seconds.
        written: u64,
        /// `s_kbytes_written`.
        kib_written: u64,
    },
    /// `struct xfs_dsb` (`fs/xfs/libxfs/xfs_format.h`), at 0; big-endian.
    Xfs {
        /// `sb_uuid`.
        uuid: Uuid,
        /// `sb_lsn`: the log's last change of the superblock; 0 before version 5.
        lsn: u64,
        /// `sb_icount`: inodes allocated.
        inodes: u64,
        /// `sb_ifree`: inodes free.
        inodes_free: u64,
        /// `sb_fdblocks`: blocks free.
        blocks_free: u64,
    },
    /// `struct btrfs_super_block` (`include/uapi/linux/btrfs_tree.h`), at 64 KiB.
    Btrfs {
        /// `fsid`.
        uuid: Uuid,
        /// `generation`: transactions.
        generation: u64,
    },
}

const EXT_AT: u64 = 1024;
pub(crate) const BTRFS_AT: u64 = 64 << 10;
const BTRFS_BYTES: u64 = 4 << 10;

impl FsGeneration {
    /// Where these counts lie on a device. A generation that was taken before the last write to this range is of
    /// the past.
    pub const PLACE: Range<u64> = 0..BTRFS_AT + BTRFS_BYTES;

    /// That of the file system on a device; none if there is none that counts.
    pub fn of(edges: &Edges<'_>) -> Option<Self> {
        Self::ext(edges).or_else(|| Self::xfs(edges)).or_else(|| Self::btrfs(edges))
    }

    fn ext(edges: &Edges<'_>) -> Option<Self> {
        if !edges.has(EXT_AT + 0x38, &[0x53, 0xef]) {
            return None;
        }
        // Seconds have a fifth byte elsewhere, in what was reserved space before.
        let seconds = |low: u64, high: u64| {
            let [high] = edges.array(EXT_AT + high)?;
            Some(u64::from(edges.le32(EXT_AT + low)?) | u64::from(high) << 32)
        };
        Some(Self::Ext {
            uuid: edges.uuid(EXT_AT + 0x68)?,
            mounts: edges.le16(EXT_AT + 0x34)?,
            mounted: seconds(0x2c, 0x275)?,
            written: seconds(0x30, 0x274)?,
            kib_written: edges.le64(EXT_AT + 0x178)?,
        })
    }

    fn xfs(edges: &Edges<'_>) -> Option<Self> {
        if !edges.has(0, b"XFSB") {
            return None;
        }
        let version = u16::from_be_bytes(edges.array(100)?) & 0xf;
        Some(Self::Xfs {
            uuid: edges.uuid(32)?,
            lsn: if version >= 5 { edges.be64(240)? } else { 0 },
            inodes: edges.be64(128)?,
            inodes_free: edges.be64(136)?,
            blocks_free: edges.be64(144)?,
        })
    }

    fn btrfs(edges: &Edges<'_>) -> Option<Self> {
        if !edges.has(BTRFS_AT + 0x40, b"_BHRfS_M") {
            return None;
        }
        Some(Self::Btrfs { uuid: edges.uuid(BTRFS_AT + 0x20)?, generation: edges.le64(BTRFS_AT + 0x48)? })
    }
}

impl fmt::Display for FsGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ext { uuid, mounts, mounted, written, kib_written } => write!(
                f,
                "ext:{uuid} mounted {mounts} times, last at {mounted} s, written at {written} s, {kib_written} KiB \
                 in all"
            ),
            Self::Xfs { uuid, lsn, inodes, inodes_free, blocks_free } => write!(
                f,
                "xfs:{uuid} at log position {lsn:#x}, {inodes} inodes, {inodes_free} of them and {blocks_free} \
                 blocks free"
            ),
            Self::Btrfs { uuid, generation } => write!(f, "btrfs:{uuid} at generation {generation}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn of(pieces: &[(usize, &[u8])]) -> Option<FsGeneration> {
        let mut bytes = vec![0; MIB];
        for (at, piece) in pieces {
            bytes[*at..at + piece.len()].copy_from_slice(piece);
        }
        FsGeneration::of(&Edges::new(8 << 20, &bytes, &[]))
    }

    const UUID: [u8; 16] = [7; 16];

    #[test]
    fn every_count_is_read_from_its_place() {
        let ext = of(&[
            (1024 + 0x38, &[0x53, 0xef]),
            (1024 + 0x68, &UUID),
            (1024 + 0x34, &3u16.to_le_bytes()),
            (1024 + 0x2c, &0xf000_0001_u32.to_le_bytes()),
            (1024 + 0x275, &[1]),
            (1024 + 0x30, &9u32.to_le_bytes()),
            (1024 + 0x178, &10u64.to_le_bytes()),
        ]);
        let uuid = Uuid::from_bytes(UUID);
        let expected =
            FsGeneration::Ext { uuid, mounts: 3, mounted: 0x1_f000_0001, written: 9, kib_written: 10 };
        assert_eq!(ext, Some(expected));
        let xfs = |version: u8| {
            of(&[
                (0, b"XFSB"),
                (32, &UUID),
                (100, &[0xb4, 0xa0 | version]),
                (128, &64u64.to_be_bytes()),
                (136, &61u64.to_be_bytes()),
                (144, &5000u64.to_be_bytes()),
                (240, &0x2_0000_0010_u64.to_be_bytes()),
            ])
        };
        let expected = |lsn| FsGeneration::Xfs { uuid, lsn, inodes: 64, inodes_free: 61, blocks_free: 5000 };
        assert_eq!(xfs(5), Some(expected(0x2_0000_0010)));
        assert_eq!(xfs(4), Some(expected(0)), "something else lies there before version 5");
        let btrfs = of(&[(0x10040, b"_BHRfS_M"), (0x10020, &UUID), (0x10048, &12u64.to_le_bytes())]);
        assert_eq!(btrfs, Some(FsGeneration::Btrfs { uuid, generation: 12 }));
        assert_eq!(of(&[(0, b"LUKS")]), None);
    }

    #[test]
    fn a_piece_that_is_too_short_has_no_generation() {
        let mut bytes = vec![0; 1024 + 0x40];
        bytes[1024 + 0x38..].fill(0xff);
        bytes[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(FsGeneration::of(&Edges::new(1 << 20, &bytes, &[])), None);
    }

    #[test]
    fn it_is_the_same_after_it_was_recorded() {
        let generation = of(&[(0x10040, b"_BHRfS_M"), (0x10048, &u64::MAX.to_le_bytes())]).unwrap();
        let text = serde_json::to_string(&generation).unwrap();
        assert_eq!(serde_json::from_str::<FsGeneration>(&text).unwrap(), generation, "{text}");
    }
}
