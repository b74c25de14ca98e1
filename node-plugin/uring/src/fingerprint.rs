//! A sample of a device's content, to notice that it was written behind our back (E19).
//!
//! Notices, does not prove: what lies between the samples may have changed.

use std::fmt;
use umbra_store::AlignedBuf;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes hashed at either end: where file systems and partition tables keep what every mount changes.
const END_BYTES: u64 = 1 << 20;
/// Blocks sampled in between, one at a random place of each of as many equal parts.
const SAMPLES: u64 = 64;
/// Bytes of a sampled block; a multiple of every logical block in use.
const SAMPLE_BYTES: u64 = 4096;

/// Hashes of the content of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// Size in bytes that the samples' places follow from.
    pub size: u64,
    /// The first MiB.
    pub first: u128,
    /// The last MiB.
    pub last: u128,
    /// The 64 sampled blocks, in order.
    pub samples: u128,
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Fingerprint({} bytes, {:032x} {:032x} {:032x})",
            self.size, self.first, self.last, self.samples
        )
    }
}

/// The fingerprint of `size` bytes that `read(offset, buffer)` fills the buffer from. Offsets and lengths
/// are multiples of 4096, except at the end of a device whose size is not.
///
/// # Errors
/// The first of `read`.
pub fn fingerprint<E>(
    size: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Fingerprint, E> {
    let mut buffer = AlignedBuf::zeroed(usize::try_from(END_BYTES).expect("1 MiB is addressable"));
    let mut add = |hash: &mut Xxh3, start: u64, len: u64| {
        let part = &mut buffer[..usize::try_from(len).expect("at most 1 MiB")];
        read(start, part)?;
        hash.update(part);
        Ok(())
    };
    let end = END_BYTES.min(size);
    let (mut first, mut last, mut samples) = (Xxh3::new(), Xxh3::new(), Xxh3::new());
    add(&mut first, 0, end)?;
    let tail = round_down(size - end);
    // Rounded down, the last part may be longer than the buffer by less than a block: take it in two.
    let tail_len = size - tail;
    add(&mut last, tail, tail_len.min(end))?;
    if tail_len > end {
        add(&mut last, tail + end, tail_len - end)?;
    }
    for index in 0..SAMPLES {
        let start = sample_start(size, index);
        add(&mut samples, start, SAMPLE_BYTES.min(size - start))?;
    }
    Ok(Fingerprint { size, first: first.digest128(), last: last.digest128(), samples: samples.digest128() })
}

/// Where sample `index` begins: in its part of the device, at a place that depends on size and index
/// only. A regular grid would see nothing of what lies on another grid.
fn sample_start(size: u64, index: u64) -> u64 {
    let part = size / SAMPLES;
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&size.to_le_bytes());
    seed[8..].copy_from_slice(&index.to_le_bytes());
    let within = if part > SAMPLE_BYTES { xxh3_64(&seed) % (part - SAMPLE_BYTES + 1) } else { 0 };
    round_down(part * index + within)
}

fn round_down(bytes: u64) -> u64 {
    bytes - bytes % SAMPLE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Fingerprint {
        let read = |offset: u64, buffer: &mut [u8]| -> Result<(), ()> {
            assert!(offset.is_multiple_of(4096));
            let start = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
            Ok(())
        };
        fingerprint(bytes.len() as u64, read).unwrap()
    }

    #[test]
    fn every_size_can_be_read() {
        for size in [0, 512, 4096, 4608, 64 * 4096, (1 << 20) - 512, 1 << 20, (1 << 20) + 512, 5 << 20] {
            let bytes = vec![7u8; size];
            assert_eq!(of(&bytes), of(&bytes));
        }
    }

    #[test]
    fn a_change_at_an_end_or_in_a_sample_is_seen() {
        let size = 16 << 20;
        let mut bytes = vec![0u8; size];
        let clean = of(&bytes);
        let sampled = usize::try_from(sample_start(size as u64, 20)).unwrap();
        for at in [0, (1 << 20) - 1, sampled, sampled + 4095, size - (1 << 20), size - 1] {
            bytes[at] = 1;
            assert_ne!(of(&bytes), clean, "byte {at}");
            bytes[at] = 0;
        }
        assert_eq!(of(&bytes), clean);
    }

    #[test]
    fn samples_keep_their_places_for_ever() {
        // Fingerprints are stored: another place would look like a change of every device.
        assert_eq!(sample_start(1 << 40, 0), 1_377_837_056);
        assert_eq!(sample_start(1 << 40, 63), 1_093_292_490_752);
    }
}
