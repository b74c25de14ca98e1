//! Marks that need a look at more than one field, or that lie at the end of the device.

use super::Mark;
use super::table::{short, text};
use crate::edges::Edges;

/// All of them.
pub(super) fn scan(edges: &Edges<'_>) -> Vec<Mark> {
    let finders: [fn(&Edges<'_>) -> Vec<Mark>; 9] =
        [ext, fat_or_partitions, swap, luks_backup, lvm, md_old, md_new, zfs, drbd];
    finders.iter().flat_map(|find| find(edges)).collect()
}

fn mark(kind: &'static str, uuid: Option<String>, at: u64) -> Vec<Mark> {
    vec![Mark { kind, uuid, at }]
}

/// 16 bytes as a UUID, unless they are zero.
fn uuid(edges: &Edges<'_>, at: u64) -> Option<String> {
    edges.uuid(at).filter(|uuid| !uuid.is_nil()).map(|uuid| uuid.to_string())
}

/// `struct ext4_super_block`, `fs/ext4/ext4.h`: which of the family, by its features.
fn ext(edges: &Edges<'_>) -> Vec<Mark> {
    const AT: u64 = 1024;
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    /// What ext3 understands: `filetype`, recovery, `meta_bg`.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    /// `sparse_super`, `large_file`, `btree_dir`.
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    if !edges.has(AT + 0x38, &[0x53, 0xef]) {
        return Vec::new();
    }
    let features = |at| edges.le32(AT + at).unwrap_or(0);
    let (compatible, incompatible, read_only) = (features(0x5c), features(0x60), features(0x64));
    let kind = if incompatible & JOURNAL_DEVICE != 0 {
        "jbd"
    } else if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if compatible & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    mark(kind, uuid(edges, AT + 0x68), AT)
}

/// A boot sector: a FAT file system (`struct fat_boot_sector`, `include/uapi/linux/msdos_fs.h`), or partition tables:
/// MBR, and GPT (UEFI specification, 5.3) with its backup in the last block.
fn fat_or_partitions(edges: &Edges<'_>) -> Vec<Mark> {
    let mut marks = gpt(edges);
    let boots = edges.has(510, &[0x55, 0xaa]);
    let fat32 = edges.has(82, b"FAT32   ");
    let fat16 = [b"FAT12   ", b"FAT16   ", b"FAT     "].iter().any(|name| edges.has(54, *name));
    if fat32 || fat16 {
        let number = edges.le32(if fat32 { 67 } else { 39 }).filter(|number| *number != 0);
        marks.extend(mark("vfat", number.map(short), 0));
    } else if boots && marks.is_empty() && has_partitions(edges) {
        let disk = edges.le32(440).filter(|number| *number != 0);
        marks.extend(mark("dos", disk.map(|number| format!("{number:08x}")), 0));
    }
    marks
}

/// Whether the four entries at 446 could be those of a partition table: a sector that merely ends like one (the boot
/// code of NTFS) has other bytes there.
fn has_partitions(edges: &Edges<'_>) -> bool {
    let entries = (0..4).filter_map(|index| edges.array::<16>(446 + 16 * index));
    let mut used = false;
    for entry in entries {
        if entry[0] & 0x7f != 0 {
            return false;
        }
        used |= entry[4] != 0;
    }
    used
}

fn gpt(edges: &Edges<'_>) -> Vec<Mark> {
    // Primary in block 1, backup in the last: of 512 or of 4,096 bytes.
    let places = [Some(512), Some(4096), edges.size().checked_sub(512), edges.size().checked_sub(4096)];
    let found = places.into_iter().flatten().filter(|at| edges.has(*at, b"EFI PART"));
    // The first three fields are little-endian numbers.
    let disk = |at: u64| edges.array(at + 56).map(uuid::Uuid::from_bytes_le).filter(|uuid| !uuid.is_nil());
    found.map(|at| Mark { kind: "gpt", uuid: disk(at).map(|uuid| uuid.to_string()), at }).collect()
}

/// `union swap_header`, `include/linux/swap.h`: the magic ends the first page, whatever its size; UUID at 1,036.
/// `S1SUSPEND` and its like: an image of a hibernated machine.
fn swap(edges: &Edges<'_>) -> Vec<Mark> {
    for page in [4096u64, 8192, 16384, 32768, 65536] {
        let at = page - 10;
        let kind = match edges.get(at, 10) {
            Some(b"SWAPSPACE2" | b"SWAP-SPACE") => "swap",
            Some([b'S', b'1' | b'2', b'S', b'U', b'S', b'P', b'E', b'N', b'D', _]) => "swsuspend",
            Some(b"ULSUSPEND\0" | b"LINHIB0001") => "swsuspend",
            _ => continue,
        };
        return mark(kind, uuid(edges, 1036), at);
    }
    Vec::new()
}

/// LUKS2 on-disk format: the second header, where the first is gone.
fn luks_backup(edges: &Edges<'_>) -> Vec<Mark> {
    let places = (14..20).map(|power| 1u64 << power);
    let at = places.into_iter().find(|at| edges.has(*at, b"SKUL\xba\xbe"));
    at.map_or_else(Vec::new, |at| mark("crypto_luks", text(edges, at + 168, 36), at))
}

/// `struct label_header` and `pv_header`, LVM2 lib/label/label.h and `lib/format_text/layout.h`: in one of the first
/// four sectors.
fn lvm(edges: &Edges<'_>) -> Vec<Mark> {
    let at = (0..4)
        .map(|sector| sector * 512)
        .find(|at| edges.has(*at, b"LABELONE") && edges.has(*at + 24, b"LVM2 001"));
    let Some(at) = at else { return Vec::new() };
    let header = edges.le32(at + 20).map(u64::from).filter(|offset| *offset < 512);
    let id = header.and_then(|offset| text(edges, at + offset, 32)).filter(|id| id.len() == 32);
    let grouped = id.map(|id| {
        let groups = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
        groups.map(|range| id[range].to_owned()).join("-")
    });
    mark("lvm2_member", grouped, at)
}

const MD_MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// `mdp_super_t`, `include/uapi/linux/raid/md_p.h`: version 0.90, in the last 64 KiB but one boundary.
fn md_old(edges: &Edges<'_>) -> Vec<Mark> {
    let Some(at) = (edges.size() & !0xffff).checked_sub(0x10000) else { return Vec::new() };
    let mut magic = MD_MAGIC;
    let little = edges.has(at, &magic);
    magic.reverse();
    if !little && !edges.has(at, &magic) {
        return Vec::new();
    }
    // Four numbers, the first apart from the others.
    let words = [20, 52, 56, 60].map(|offset| edges.array::<4>(at + offset));
    let mut id = [0; 16];
    for (place, word) in id.chunks_exact_mut(4).zip(words.into_iter().flatten()) {
        place.copy_from_slice(&word);
    }
    let id = uuid::Uuid::from_bytes(id);
    mark("linux_raid_member", (!id.is_nil()).then(|| id.to_string()), at)
}

/// `struct mdp_superblock_1`: versions 1.1 and 1.2 at the start, 1.0 at the end.
fn md_new(edges: &Edges<'_>) -> Vec<Mark> {
    let at_end = (edges.size() / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    let places = [Some(0), Some(4096), at_end];
    let is_one = |at: &u64| edges.has(*at, &MD_MAGIC) && edges.le32(*at + 4) == Some(1);
    let found = places.into_iter().flatten().filter(is_one);
    found.map(|at| Mark { kind: "linux_raid_member", uuid: uuid(edges, at + 16), at }).collect()
}

/// `vdev_label_t` and `uberblock`, OpenZFS `include/sys/vdev_impl.h`, `uberblock_impl.h`: four labels of 256 KiB, two
/// at either end; the pool's number is in the list of names and values, in XDR.
fn zfs(edges: &Edges<'_>) -> Vec<Mark> {
    const LABEL: u64 = 256 << 10;
    const RING: std::ops::Range<u64> = 128 << 10..256 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let end = edges.size() & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
    let is_label = |label: &u64| {
        let mut blocks = RING.step_by(1024).map(|offset| label + offset);
        blocks.any(|at| edges.le64(at) == Some(MAGIC) || edges.be64(at) == Some(MAGIC))
    };
    let Some(at) = labels.into_iter().flatten().find(is_label) else { return Vec::new() };
    mark("zfs_member", zfs_pool(edges, at), at)
}

fn zfs_pool(edges: &Edges<'_>, label: u64) -> Option<String> {
    // Name with its length and padding, type uint64, one element.
    const NAME: &[u8] = b"\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01";
    let list = edges.get(label + (16 << 10), 112 << 10)?;
    let at = list.windows(NAME.len()).position(|bytes| bytes == NAME)?;
    let number: [u8; 8] = list.get(at + NAME.len()..at + NAME.len() + 8)?.try_into().ok()?;
    Some(u64::from_be_bytes(number).to_string())
}

/// `struct meta_data_on_disk`, drivers/block/drbd: the last 4 KiB; magic 60 bytes in, in versions 8 and 9, where it
/// was before. The number of the device is before the flags.
fn drbd(edges: &Edges<'_>) -> Vec<Mark> {
    let Some(at) = (edges.size() & !4095).checked_sub(4096) else { return Vec::new() };
    let device = match edges.array(at + 60).map(u32::from_be_bytes) {
        Some(0x8374_026b | 0x8374_026c) => 40,
        Some(0x8374_026d) => 48,
        Some(_) | None => return Vec::new(),
    };
    let number = edges.be64(at + device).filter(|number| *number != 0);
    mark("drbd", number.map(|number| format!("{number:016x}")), at)
}
