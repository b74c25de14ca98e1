//! A device of any size with marks of anybody on it, whole, cut off and upon each other.

use crate::choices::Choices;
use crate::volume;
use std::collections::BTreeSet;
use umbra_format::{BLOCK_BYTES, SLOT_B_OFFSET};
use umbra_identity::{Content, EDGE_BYTES, Signature};
use umbra_platform::value;

/// Where a mark is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start(u64),
    /// So many bytes before the end.
    End(u64),
}

use Place::{End, Start};

/// Marks that others leave, each with what is read near it.
const MARKS: &[(Place, &[u8])] = &[
    (Start(0), b"XFSB"),
    (Start(0), b"LUKS\xba\xbe\0\x02"),
    (Start(16384), b"SKUL\xba\xbe"),
    (Start(0), b"bluestore block device\n"),
    (Start(3), b"NTFS    "),
    (Start(3), b"EXFAT   "),
    (Start(54), b"FAT16   "),
    (Start(82), b"FAT32   "),
    (Start(510), &[0x55, 0xaa]),
    (Start(446), &[0x80, 0, 2, 0, 0x83]),
    (Start(512), b"EFI PART"),
    (End(512), b"EFI PART"),
    (End(4096), b"EFI PART"),
    (Start(512), b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001"),
    (Start(1024), &[0x10, 0x20, 0xf5, 0xf2]),
    (Start(1024 + 0x38), &[0x53, 0xef]),
    (Start(4096), &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]),
    (End(8192), &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]),
    (End(65536), &[0xfc, 0x4e, 0x2b, 0xa9]),
    (Start(4086), b"SWAPSPACE2"),
    (Start(4086), b"S1SUSPEND\0"),
    (Start(32769), b"CD001"),
    (Start(65536 + 0x40), b"_BHRfS_M"),
    (Start(131_072), &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]),
    (Start(16384), b"\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01"),
    (End(4096 - 60), &[0x83, 0x74, 0x02, 0x6d]),
];

const SIZES: [u64; 9] =
    [0, 512, 4096, 65536, EDGE_BYTES, EDGE_BYTES + 4096, 3 << 20, (8 << 20) + 512, 1 << 40];

struct Device {
    size: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Device {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.size) {
            self.pieces.push((at, bytes.to_vec()));
        }
    }

    /// A mark, or something near one.
    fn put_mark(&mut self, choices: &mut Choices<'_>, near: bool) {
        let (place, magic) = choices.pick(MARKS);
        let at = match place {
            Start(at) => at,
            End(before) => self.size.saturating_sub(before),
        };
        if near {
            let value = choices.edge().to_le_bytes();
            let offset = choices.below(512) as u64;
            self.put(at + offset, &value);
        } else {
            self.put(at, magic);
        }
    }

    /// One of Umbra's own, with a field changed.
    fn put_ours(&mut self, choices: &mut Choices<'_>) {
        let golden = volume::golden(choices.byte());
        let mut block = vec![0; BLOCK_BYTES];
        let at = match choices.byte() % 3 {
            0 => {
                volume::label(golden, &mut block);
                0
            }
            1 => {
                block.copy_from_slice(&golden[..BLOCK_BYTES]);
                0
            }
            _ => {
                let slot = usize::try_from(SLOT_B_OFFSET).expect("1 MiB");
                block.copy_from_slice(&golden[slot..slot + BLOCK_BYTES]);
                SLOT_B_OFFSET
            }
        };
        if choices.byte() % 2 == 1 {
            volume::change(&mut block, volume::SLOT_HASH_AT, choices);
        }
        self.put(at, &block);
    }

    fn read(&self, at: u64, out: &mut [u8]) -> Result<(), ()> {
        let end = at + out.len() as u64;
        assert!(end <= self.size, "a read past the end");
        for (place, bytes) in &self.pieces {
            for (place, byte) in (*place..).zip(bytes).filter(|(place, _)| (at..end).contains(place)) {
                out[usize::try_from(place - at).expect("in the buffer")] = *byte;
            }
        }
        Ok(())
    }

    fn is_zero(&self) -> bool {
        let ends = |at: u64| at < EDGE_BYTES || at >= self.size.saturating_sub(EDGE_BYTES);
        let mut seen = BTreeSet::new();
        // Of pieces upon each other the last one counts.
        self.pieces.iter().rev().all(|(at, bytes)| {
            (*at..).zip(bytes).filter(|(at, _)| ends(*at)).all(|(at, byte)| !seen.insert(at) || *byte == 0)
        })
    }
}

/// Whether anything was recognised.
pub(crate) fn run(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let size = match choices.byte() % 3 {
        0 => choices.number() % (4 << 20),
        _ => choices.pick(&SIZES),
    };
    let mut device = Device { size, pieces: Vec::new() };
    for _ in 0..choices.byte() % 8 {
        match choices.byte() % 4 {
            0 => device.put_ours(&mut choices),
            near => device.put_mark(&mut choices, near == 1),
        }
    }
    let content =
        Content::read(size, |at, out: &mut [u8]| device.read(at, out)).expect("its reads do not fail");
    check(&device, &content);
    content.signatures.iter().any(|signature| signature.id.kind() != "unknown")
}

fn check(device: &Device, content: &Content) {
    let signatures = &content.signatures;
    // The second slot of a superblock is the only thing that is looked for further in.
    let ours_alone = signatures.iter().all(|signature| signature.id.is_umbra());
    assert!(device.is_zero() || !signatures.is_empty(), "nothing is what zeros are, and only they");
    assert!(!device.is_zero() || ours_alone, "zeros are nothing: {signatures:?}");
    assert!(signatures.is_sorted_by_key(|signature| signature.at), "in order: {signatures:?}");
    let ids: BTreeSet<_> = signatures.iter().map(|signature| &signature.id).collect();
    assert_eq!(ids.len(), signatures.len(), "each once: {signatures:?}");
    for Signature { id, at } in signatures {
        // What a refusal prints, somebody types to confirm it.
        let typed: value::Signature = id.to_string().parse().expect("it can be typed");
        assert_eq!(typed.to_string().parse(), Ok(id.clone()));
        assert!(*at < device.size, "{id} past the end");
    }
    let ours = signatures.iter().any(|signature| signature.id.is_umbra());
    assert!(ours || content.superblock.is_none() && content.label.is_none(), "ours without a mark of ours");
    let text = serde_json::to_string(&content.generation).expect("plain data");
    assert_eq!(serde_json::from_str::<Option<_>>(&text).expect("our own text"), content.generation);
}
