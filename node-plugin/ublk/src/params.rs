//! What a device says about itself to the block layer, and how that is told to the driver.

use crate::SECTOR_BYTES;
use crate::uapi::{
    ATTR_FUA, ATTR_READ_ONLY, ATTR_ROTATIONAL, ATTR_VOLATILE_CACHE, PARAM_TYPE_BASIC, PARAM_TYPE_DISCARD,
    ParamBasic, ParamDiscard, Params, USER_COPY_BYTES_MAX,
};

/// Largest logical block: the driver accepts at most a page, and 4 KiB is the smallest page there is.
const LOGICAL_BLOCK_BYTES_MAX: u32 = 4096;

/// Geometry, limits and attributes of a device. Fixed once the device is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceParams {
    /// Size of the device in 512-byte sectors; a multiple of the logical block.
    pub capacity_sectors: u64,
    /// Smallest unit of I/O, in bytes: a power of two from 512 to 4096.
    pub logical_block_bytes: u32,
    /// Unit that is written without reading, in bytes: a power of two, at least the logical block.
    pub physical_block_bytes: u32,
    /// Smallest I/O without a penalty, in bytes: a power of two, at least the physical block.
    pub io_min_bytes: u32,
    /// Best size of I/O, in bytes: 0 for none, or a power of two, at least `io_min_bytes`. See
    /// [`presentable_io_opt`].
    pub io_opt_bytes: u32,
    /// Largest read or write, in bytes: a multiple of the logical block, at most the device's
    /// [`max_io_bytes`](crate::DeviceSpec::max_io_bytes).
    pub max_io_bytes: u32,
    /// The device takes no writes.
    pub read_only: bool,
    /// The device seeks.
    pub rotational: bool,
    /// Completed writes may be lost until a flush: the block layer then sends [`Op::Flush`](crate::Op).
    pub volatile_cache: bool,
    /// Single writes can be made durable: the block layer then marks them instead of flushing after them.
    /// Only with `volatile_cache`.
    pub fua: bool,
    /// Discard and write-zeroes, if offered.
    pub discard: Option<DiscardParams>,
}

/// Limits of discard and write-zeroes. Offer them only where the backing device can do them: an
/// unsupported one is retried by file systems and logged by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardParams {
    /// Unit of a discard in bytes: a power of two, at least the logical block.
    pub granularity_bytes: u32,
    /// Largest discard in sectors, 0 for none.
    pub max_sectors: u32,
    /// Largest write-zeroes in sectors, 0 for none (the block layer then writes zeroes itself).
    pub max_write_zeroes_sectors: u32,
}

/// Which rule of [`DeviceParams`] is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, which must be {rule}")]
pub struct BadParams {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// What it must be.
    pub rule: &'static str,
}

fn require(holds: bool, field: &'static str, value: u64, rule: &'static str) -> Result<(), BadParams> {
    if holds { Ok(()) } else { Err(BadParams { field, value, rule }) }
}

fn shift(field: &'static str, bytes: u32, at_least: u32, rule: &'static str) -> Result<u8, BadParams> {
    require(bytes.is_power_of_two() && bytes >= at_least, field, u64::from(bytes), rule)?;
    Ok(u8::try_from(bytes.trailing_zeros()).expect("a 32-bit number has at most 31 trailing zeros"))
}

impl DeviceParams {
    pub(crate) fn to_wire(self) -> Result<Params, BadParams> {
        let basic = self.basic()?;
        let (types, discard) = match self.discard {
            None => (PARAM_TYPE_BASIC, ParamDiscard::default()),
            Some(discard) => {
                (PARAM_TYPE_BASIC | PARAM_TYPE_DISCARD, discard.to_wire(self.logical_block_bytes)?)
            }
        };
        Ok(Params { len: params_len(), types, basic, discard, ..Params::default() })
    }

    fn basic(&self) -> Result<ParamBasic, BadParams> {
        let logical = self.logical_block_bytes;
        let logical_bs_shift =
            shift("logical_block_bytes", logical, SECTOR_BYTES, "a power of two from 512 to 4096")?;
        require(
            logical <= LOGICAL_BLOCK_BYTES_MAX,
            "logical_block_bytes",
            u64::from(logical),
            "a power of two from 512 to 4096",
        )?;
        let block_sectors = u64::from(logical / SECTOR_BYTES);
        require(
            self.capacity_sectors > 0 && self.capacity_sectors.is_multiple_of(block_sectors),
            "capacity_sectors",
            self.capacity_sectors,
            "a multiple of the logical block, above 0",
        )?;
        require(
            self.max_io_bytes > 0
                && self.max_io_bytes.is_multiple_of(logical)
                && self.max_io_bytes <= USER_COPY_BYTES_MAX,
            "max_io_bytes",
            u64::from(self.max_io_bytes),
            "a multiple of the logical block, above 0, at most 32 MiB",
        )?;
        require(
            self.volatile_cache || !self.fua,
            "fua",
            1,
            "off without volatile_cache: such a device has nothing to force out",
        )?;
        let physical = self.physical_block_bytes;
        Ok(ParamBasic {
            attrs: self.attributes(),
            logical_bs_shift,
            physical_bs_shift: shift(
                "physical_block_bytes",
                physical,
                logical,
                "a power of two, at least the logical block",
            )?,
            io_min_shift: shift(
                "io_min_bytes",
                self.io_min_bytes,
                physical,
                "a power of two, at least the physical block",
            )?,
            io_opt_shift: match self.io_opt_bytes {
                // One byte: the kernel rounds it down to whole blocks, and so to none.
                0 => 0,
                bytes => shift(
                    "io_opt_bytes",
                    bytes,
                    self.io_min_bytes,
                    "0, or a power of two, at least io_min_bytes",
                )?,
            },
            max_sectors: self.max_io_bytes / SECTOR_BYTES,
            chunk_sectors: 0,
            dev_sectors: self.capacity_sectors,
            virt_boundary_mask: 0,
        })
    }

    fn attributes(&self) -> u32 {
        [
            (self.read_only, ATTR_READ_ONLY),
            (self.rotational, ATTR_ROTATIONAL),
            (self.volatile_cache, ATTR_VOLATILE_CACHE),
            (self.fua, ATTR_FUA),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |attributes, (_, bit)| attributes | bit)
    }

    /// Reads the driver's answer. Numbers that no device of ours can have are errors, not panics.
    pub(crate) fn from_wire(wire: &Params) -> Result<DeviceParams, BadParams> {
        let basic = &wire.basic;
        require(
            wire.types & PARAM_TYPE_BASIC != 0,
            "types",
            u64::from(wire.types),
            "set: the device has no parameters",
        )?;
        let discard = (wire.types & PARAM_TYPE_DISCARD != 0).then_some(DiscardParams {
            granularity_bytes: wire.discard.discard_granularity,
            max_sectors: wire.discard.max_discard_sectors,
            max_write_zeroes_sectors: wire.discard.max_write_zeroes_sectors,
        });
        Ok(DeviceParams {
            capacity_sectors: basic.dev_sectors,
            logical_block_bytes: unshift("logical_block_bytes", basic.logical_bs_shift)?,
            physical_block_bytes: unshift("physical_block_bytes", basic.physical_bs_shift)?,
            io_min_bytes: unshift("io_min_bytes", basic.io_min_shift)?,
            io_opt_bytes: match basic.io_opt_shift {
                0 => 0,
                bits => unshift("io_opt_bytes", bits)?,
            },
            max_io_bytes: basic.max_sectors.saturating_mul(SECTOR_BYTES),
            read_only: basic.attrs & ATTR_READ_ONLY != 0,
            rotational: basic.attrs & ATTR_ROTATIONAL != 0,
            volatile_cache: basic.attrs & ATTR_VOLATILE_CACHE != 0,
            fua: basic.attrs & ATTR_FUA != 0,
            discard,
        })
    }
}

impl DiscardParams {
    fn to_wire(self, logical_block_bytes: u32) -> Result<ParamDiscard, BadParams> {
        let rule = "a power of two, at least the logical block";
        shift("discard.granularity_bytes", self.granularity_bytes, logical_block_bytes, rule)?;
        Ok(ParamDiscard {
            discard_alignment: 0,
            discard_granularity: self.granularity_bytes,
            max_discard_sectors: self.max_sectors,
            max_write_zeroes_sectors: self.max_write_zeroes_sectors,
            // The driver knows no other number.
            max_discard_segments: 1,
            reserved0: 0,
        })
    }
}

/// The best size of I/O that a presented device can name for one whose best size is `optimal_bytes` (0: it names none):
/// the driver takes powers of two only, so the largest one that divides it; none if that is below `io_min_bytes`.
#[must_use]
pub const fn presentable_io_opt(optimal_bytes: u32, io_min_bytes: u32) -> u32 {
    let divisor = optimal_bytes & optimal_bytes.wrapping_neg();
    if divisor < io_min_bytes { 0 } else { divisor }
}

fn unshift(field: &'static str, shift: u8) -> Result<u32, BadParams> {
    1_u32.checked_shl(u32::from(shift)).ok_or(BadParams {
        field,
        value: u64::from(shift),
        rule: "a shift below 32",
    })
}

/// Length that the driver is told: the whole structure, on every kernel.
pub(crate) fn params_len() -> u32 {
    u32::try_from(size_of::<Params>()).expect("136")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> DeviceParams {
        DeviceParams {
            capacity_sectors: 131_072,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            io_min_bytes: 4096,
            io_opt_bytes: 65_536,
            max_io_bytes: 524_288,
            read_only: false,
            rotational: false,
            volatile_cache: true,
            fua: true,
            discard: Some(DiscardParams {
                granularity_bytes: 4096,
                max_sectors: 65_536,
                max_write_zeroes_sectors: 32_768,
            }),
        }
    }

    #[test]
    fn the_wire_form_is_byte_for_byte_what_the_driver_took() {
        let wire = sample().to_wire().expect("valid");
        let bytes = bytemuck::bytes_of(&wire);
        let mut expected = vec![0_u8; 136];
        expected[0] = 136;
        expected[4] = 0b11;
        expected[8] = 0b1100;
        expected[12..16].copy_from_slice(&[9, 12, 16, 12]);
        expected[16..20].copy_from_slice(&1024_u32.to_le_bytes());
        expected[24..32].copy_from_slice(&131_072_u64.to_le_bytes());
        expected[44..48].copy_from_slice(&4096_u32.to_le_bytes());
        expected[48..52].copy_from_slice(&65_536_u32.to_le_bytes());
        expected[52..56].copy_from_slice(&32_768_u32.to_le_bytes());
        expected[56] = 1;
        assert_eq!(bytes, expected);
    }

    #[test]
    fn the_best_size_is_the_disks_as_far_as_a_power_of_two_can_say_it() {
        // A disk without, a disk with, three data disks of a RAID 5, and one that names less than its block.
        for (optimal, expected) in [(0, 0), (1 << 20, 1 << 20), (3 * 65_536, 65_536), (33_553_920, 0)] {
            assert_eq!(presentable_io_opt(optimal, 4096), expected, "{optimal}");
        }
    }

    #[test]
    fn what_is_sent_reads_back_the_same() {
        let plain =
            DeviceParams { discard: None, volatile_cache: false, fua: false, read_only: true, ..sample() };
        let no_best_size = DeviceParams { io_opt_bytes: 0, ..sample() };
        for params in [sample(), plain, no_best_size, DeviceParams { rotational: true, ..sample() }] {
            let wire = params.to_wire().expect("valid");
            assert_eq!(DeviceParams::from_wire(&wire), Ok(params));
        }
    }

    #[test]
    fn parameters_that_contradict_themselves_are_refused_by_name() {
        let discard =
            |granularity_bytes| Some(DiscardParams { granularity_bytes, ..sample().discard.expect("set") });
        let table = [
            (DeviceParams { logical_block_bytes: 256, ..sample() }, "logical_block_bytes"),
            (DeviceParams { logical_block_bytes: 8192, ..sample() }, "logical_block_bytes"),
            (DeviceParams { logical_block_bytes: 520, ..sample() }, "logical_block_bytes"),
            (DeviceParams { capacity_sectors: 0, ..sample() }, "capacity_sectors"),
            (DeviceParams { logical_block_bytes: 4096, capacity_sectors: 7, ..sample() }, "capacity_sectors"),
            (DeviceParams { physical_block_bytes: 256, ..sample() }, "physical_block_bytes"),
            (DeviceParams { io_min_bytes: 512, ..sample() }, "io_min_bytes"),
            (DeviceParams { io_opt_bytes: 512, ..sample() }, "io_opt_bytes"),
            (DeviceParams { max_io_bytes: 0, ..sample() }, "max_io_bytes"),
            (DeviceParams { max_io_bytes: 100, ..sample() }, "max_io_bytes"),
            (DeviceParams { max_io_bytes: 64 << 20, ..sample() }, "max_io_bytes"),
            (DeviceParams { volatile_cache: false, ..sample() }, "fua"),
            (DeviceParams { discard: discard(0), ..sample() }, "discard.granularity_bytes"),
            (DeviceParams { discard: discard(256), ..sample() }, "discard.granularity_bytes"),
        ];
        for (params, field) in table {
            assert_eq!(params.to_wire().expect_err(field).field, field);
        }
    }

    #[test]
    fn answers_of_a_driver_gone_mad_are_errors() {
        let mut wire = sample().to_wire().expect("valid");
        wire.basic.io_opt_shift = 200;
        assert_eq!(DeviceParams::from_wire(&wire).expect_err("no such shift").field, "io_opt_bytes");
        assert_eq!(DeviceParams::from_wire(&Params::default()).expect_err("empty").field, "types");
    }
}
