//! Decoding of request descriptors, which the kernel writes and we do not trust to be what we expect.

use crate::Errno;
use crate::uapi::{
    IO_F_FUA, IO_F_NO_UNMAP, IoDesc, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES,
};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Fill the request with the device's data.
    Read,
    /// Put the request's data on the device.
    Write,
    /// Make every completed write durable.
    Flush,
    /// The range's content is not needed any more. Advice.
    Discard,
    /// The range must read as zeroes. A write.
    WriteZeroes {
        /// The space must stay allocated.
        no_unmap: bool,
    },
}

impl Op {
    /// True if the request has bytes to be copied.
    #[must_use]
    pub const fn has_data(self) -> bool {
        matches!(self, Op::Read | Op::Write)
    }
}

/// Why a descriptor was refused. Such a request is answered by the queue itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDescriptor {
    /// An operation that no device of ours offers.
    #[error("operation {op} is not offered")]
    UnknownOp {
        /// The kernel's number of it.
        op: u8,
    },
    /// No sectors where there must be some, or more than one request may have.
    #[error("{sectors} sectors in one request")]
    Length {
        /// How many.
        sectors: u32,
    },
    /// The range does not lie within the device.
    #[error("{sectors} sectors from {start_sector} lie outside the device")]
    Range {
        /// Where it begins.
        start_sector: u64,
        /// How long it is.
        sectors: u32,
    },
}

impl BadDescriptor {
    pub(crate) const fn errno(self) -> Errno {
        match self {
            BadDescriptor::UnknownOp { .. } => Errno::EOPNOTSUPP,
            BadDescriptor::Length { .. } | BadDescriptor::Range { .. } => Errno::EINVAL,
        }
    }
}

/// What a request may be at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) capacity_sectors: u64,
    pub(crate) data_sectors_max: u32,
}

/// A descriptor that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) op: Op,
    pub(crate) fua: bool,
    pub(crate) start_sector: u64,
    pub(crate) sectors: u32,
}

pub(crate) fn decode(raw: IoDesc, limits: Limits) -> Result<Decoded, BadDescriptor> {
    let [number, ..] = raw.op_flags.to_le_bytes();
    let op = match number {
        OP_READ => Op::Read,
        OP_WRITE => Op::Write,
        OP_FLUSH => {
            // The range of a flush means nothing; the kernel leaves whatever was there.
            return Ok(Decoded { op: Op::Flush, fua: false, start_sector: 0, sectors: 0 });
        }
        OP_DISCARD => Op::Discard,
        OP_WRITE_ZEROES => Op::WriteZeroes { no_unmap: raw.op_flags & IO_F_NO_UNMAP != 0 },
        op => return Err(BadDescriptor::UnknownOp { op }),
    };
    let (start_sector, sectors) = (raw.start_sector, raw.nr_sectors);
    if sectors == 0 || (op.has_data() && sectors > limits.data_sectors_max) {
        return Err(BadDescriptor::Length { sectors });
    }
    match start_sector.checked_add(u64::from(sectors)) {
        Some(end) if end <= limits.capacity_sectors => {
            Ok(Decoded { op, fua: raw.op_flags & IO_F_FUA != 0, start_sector, sectors })
        }
        _ => Err(BadDescriptor::Range { start_sector, sectors }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { capacity_sectors: 131_072, data_sectors_max: 1024 };

    fn raw(op_flags: u32, start_sector: u64, nr_sectors: u32) -> IoDesc {
        IoDesc { op_flags, nr_sectors, start_sector, addr: 0 }
    }

    #[test]
    fn every_operation_is_decoded_with_its_flags() {
        let fua = 1 << 13;
        let no_unmap = 1 << 15;
        let table = [
            (raw(0, 8, 16), Op::Read, false, 8, 16),
            (raw(1, 0, 1024), Op::Write, false, 0, 1024),
            (raw(1 | fua, 0, 8), Op::Write, true, 0, 8),
            (raw(1 | fua | 1 << 11 | 1 << 8, 131_064, 8), Op::Write, true, 131_064, 8),
            (raw(2, u64::MAX, 7), Op::Flush, false, 0, 0),
            (raw(3, 0, 131_072), Op::Discard, false, 0, 131_072),
            (raw(5, 0, 8), Op::WriteZeroes { no_unmap: false }, false, 0, 8),
            (raw(5 | no_unmap | fua, 0, 8), Op::WriteZeroes { no_unmap: true }, true, 0, 8),
        ];
        for (descriptor, op, fua, start_sector, sectors) in table {
            assert_eq!(decode(descriptor, LIMITS), Ok(Decoded { op, fua, start_sector, sectors }));
        }
    }

    #[test]
    fn what_no_device_of_ours_offers_is_refused_with_the_right_errno() {
        let table = [
            (raw(4, 0, 8), Errno::EOPNOTSUPP),
            (raw(15, 0, 8), Errno::EOPNOTSUPP),
            (raw(255, 0, 8), Errno::EOPNOTSUPP),
            (raw(0, 0, 0), Errno::EINVAL),
            (raw(1, 0, 1025), Errno::EINVAL),
            (raw(1, 131_072, 1), Errno::EINVAL),
            (raw(3, u64::MAX, 2), Errno::EINVAL),
            (raw(5, 1, 131_072), Errno::EINVAL),
        ];
        for (descriptor, errno) in table {
            assert_eq!(decode(descriptor, LIMITS).expect_err("bad").errno(), errno, "{descriptor:?}");
        }
    }

    /// Steps of a 64-bit xorshift: seeded, so that a failure names its own reproduction.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn mutated_descriptors_never_panic_and_never_leave_the_device() {
        for seed in 1..=64_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for step in 0..2_000 {
                let mut bytes = [0_u8; 24];
                bytes.copy_from_slice(bytemuck::bytes_of(&raw(1, 64, 8)));
                for _ in 0..=next(&mut state) % 6 {
                    let position = usize::try_from(next(&mut state) % 24).expect("small");
                    bytes[position] ^= next(&mut state).to_le_bytes()[0];
                }
                let Ok(decoded) = decode(bytemuck::pod_read_unaligned(&bytes), LIMITS) else { continue };
                let end = decoded.start_sector.checked_add(u64::from(decoded.sectors));
                assert!(
                    end.is_some_and(|end| end <= LIMITS.capacity_sectors),
                    "seed {seed} step {step}: {decoded:?}"
                );
                assert!(
                    !decoded.op.has_data() || (1..=LIMITS.data_sectors_max).contains(&decoded.sectors),
                    "seed {seed} step {step}: {decoded:?}"
                );
            }
        }
    }
}
