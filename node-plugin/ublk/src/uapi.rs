//! Our own mirror of the part of the kernel's ublk interface that this crate uses.
//!
//! Plain records without padding (`Pod` proves it at compile time), so that their bytes can be handed to
//! the kernel and taken back without `unsafe`. Field order, sizes and numbers are the kernel's; names are
//! ours. Nothing here decides anything.

use bytemuck::{Pod, Zeroable};

/// The 32 bytes at the start of a control command's 80-byte payload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct CtrlCmd {
    pub(crate) dev_id: u32,
    pub(crate) queue_id: u16,
    pub(crate) len: u16,
    pub(crate) addr: u64,
    pub(crate) data: u64,
    pub(crate) dev_path_len: u16,
    pub(crate) pad: u16,
    pub(crate) reserved: u32,
}

/// Device description: argument and answer of ADD_DEV, answer of GET_DEV_INFO.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct DevInfo {
    pub(crate) nr_hw_queues: u16,
    pub(crate) queue_depth: u16,
    pub(crate) state: u16,
    pub(crate) pad0: u16,
    pub(crate) max_io_buf_bytes: u32,
    pub(crate) dev_id: u32,
    pub(crate) server_pid: i32,
    pub(crate) pad1: u32,
    pub(crate) flags: u64,
    pub(crate) server_flags: u64,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) reserved1: u64,
    pub(crate) reserved2: u64,
}

/// The 16-byte payload of a queue command.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct IoCmd {
    pub(crate) q_id: u16,
    pub(crate) tag: u16,
    pub(crate) result: i32,
    pub(crate) addr: u64,
}

/// What the kernel writes into the shared descriptor area for a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct IoDesc {
    pub(crate) op_flags: u32,
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
    pub(crate) addr: u64,
}

/// Geometry and attributes that every device has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct ParamBasic {
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    pub(crate) max_sectors: u32,
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
}

/// Limits of discard and write-zeroes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct ParamDiscard {
    pub(crate) discard_alignment: u32,
    pub(crate) discard_granularity: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_discard_segments: u16,
    pub(crate) reserved0: u16,
}

/// Argument of SET_PARAMS, answer of GET_PARAMS. The parts we never set are kept as raw words: only
/// their size matters.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) basic: ParamBasic,
    pub(crate) discard: ParamDiscard,
    pub(crate) devt: [u32; 4],
    pub(crate) zoned: [u32; 8],
    pub(crate) dma_align: [u32; 2],
    pub(crate) pad: u32,
    pub(crate) segment: [u64; 2],
}

pub(crate) const PARAM_TYPE_BASIC: u32 = 1 << 0;
pub(crate) const PARAM_TYPE_DISCARD: u32 = 1 << 1;

pub(crate) const ATTR_READ_ONLY: u32 = 1 << 0;
pub(crate) const ATTR_ROTATIONAL: u32 = 1 << 1;
pub(crate) const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub(crate) const ATTR_FUA: u32 = 1 << 3;

pub(crate) const DEV_STATE_DEAD: u16 = 0;
pub(crate) const DEV_STATE_LIVE: u16 = 1;
pub(crate) const DEV_STATE_QUIESCED: u16 = 2;
pub(crate) const DEV_STATE_FAIL_IO: u16 = 3;

pub(crate) const OP_READ: u8 = 0;
pub(crate) const OP_WRITE: u8 = 1;
pub(crate) const OP_FLUSH: u8 = 2;
pub(crate) const OP_DISCARD: u8 = 3;
pub(crate) const OP_WRITE_ZEROES: u8 = 5;

pub(crate) const IO_F_FUA: u32 = 1 << 13;
pub(crate) const IO_F_NO_UNMAP: u32 = 1 << 15;

/// "Any" in the id fields of a control command: a new device's id, or the queue of a command without one.
pub(crate) const DEV_ID_AUTO: u32 = u32::MAX;
pub(crate) const QUEUE_ID_NONE: u16 = u16::MAX;

/// Depth limit of the driver. It also fixes where each queue's descriptors start in the mapping.
pub(crate) const QUEUE_DEPTH_MAX: u16 = 4096;

/// Start of the positions of `/dev/ublkcN` that stand for request data.
const USER_COPY_BASE: u64 = 0x8000_0000;
const USER_COPY_TAG_SHIFT: u32 = 25;
const USER_COPY_QUEUE_SHIFT: u32 = 41;

/// Largest request whose bytes a tag's window can address.
pub(crate) const USER_COPY_BYTES_MAX: u32 = 1 << USER_COPY_TAG_SHIFT;

const IOC_READ: u32 = 2;
const IOC_READ_WRITE: u32 = 3;

const fn opcode(direction: u32, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14, "the size field of an ioctl number has 14 bits");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size as u32;
    (direction << 30) | (size << 16) | (0x75 << 8) | number
}

pub(crate) const CMD_GET_DEV_INFO: u32 = opcode(IOC_READ, 0x02, size_of::<CtrlCmd>());
pub(crate) const CMD_ADD_DEV: u32 = opcode(IOC_READ_WRITE, 0x04, size_of::<CtrlCmd>());
pub(crate) const CMD_DEL_DEV: u32 = opcode(IOC_READ_WRITE, 0x05, size_of::<CtrlCmd>());
pub(crate) const CMD_START_DEV: u32 = opcode(IOC_READ_WRITE, 0x06, size_of::<CtrlCmd>());
pub(crate) const CMD_STOP_DEV: u32 = opcode(IOC_READ_WRITE, 0x07, size_of::<CtrlCmd>());
pub(crate) const CMD_SET_PARAMS: u32 = opcode(IOC_READ_WRITE, 0x08, size_of::<CtrlCmd>());
pub(crate) const CMD_GET_PARAMS: u32 = opcode(IOC_READ, 0x09, size_of::<CtrlCmd>());
pub(crate) const CMD_START_USER_RECOVERY: u32 = opcode(IOC_READ_WRITE, 0x10, size_of::<CtrlCmd>());
pub(crate) const CMD_END_USER_RECOVERY: u32 = opcode(IOC_READ_WRITE, 0x11, size_of::<CtrlCmd>());
pub(crate) const CMD_GET_FEATURES: u32 = opcode(IOC_READ, 0x13, size_of::<CtrlCmd>());

/// The block layer's command to read a disk's partition table again: `_IO(0x12, 95)` of linux/fs.h.
pub(crate) const BLKRRPART: libc::Ioctl = 0x125f;

pub(crate) const IO_FETCH_REQ: u32 = opcode(IOC_READ_WRITE, 0x20, size_of::<IoCmd>());
pub(crate) const IO_COMMIT_AND_FETCH_REQ: u32 = opcode(IOC_READ_WRITE, 0x21, size_of::<IoCmd>());

/// Where in `/dev/ublkcN` the bytes of a request are.
pub(crate) const fn user_copy_position(queue: u16, tag: u16, offset: u32) -> u64 {
    USER_COPY_BASE
        + ((queue as u64) << USER_COPY_QUEUE_SHIFT)
        + ((tag as u64) << USER_COPY_TAG_SHIFT)
        + offset as u64
}

/// Offset to map a queue's descriptors at, whatever the depth of the device is.
pub(crate) const fn descriptor_map_offset(queue: u16) -> u64 {
    queue as u64 * QUEUE_DEPTH_MAX as u64 * size_of::<IoDesc>() as u64
}

const _: () = {
    assert!(size_of::<CtrlCmd>() == 32);
    assert!(size_of::<DevInfo>() == 64);
    assert!(size_of::<IoCmd>() == 16);
    assert!(size_of::<IoDesc>() == 24);
    assert!(size_of::<ParamBasic>() == 32);
    assert!(size_of::<ParamDiscard>() == 20);
    assert!(size_of::<Params>() == 136);
    assert!(std::mem::offset_of!(Params, basic) == 8);
    assert!(std::mem::offset_of!(Params, discard) == 40);
    assert!(std::mem::offset_of!(Params, devt) == 60);
    assert!(std::mem::offset_of!(Params, zoned) == 76);
    assert!(std::mem::offset_of!(Params, dma_align) == 108);
    assert!(std::mem::offset_of!(Params, segment) == 120);
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn opcodes_are_the_kernels_numbers() {
        let table = [
            (CMD_GET_DEV_INFO, 0x8020_7502),
            (CMD_ADD_DEV, 0xc020_7504),
            (CMD_DEL_DEV, 0xc020_7505),
            (CMD_START_DEV, 0xc020_7506),
            (CMD_STOP_DEV, 0xc020_7507),
            (CMD_SET_PARAMS, 0xc020_7508),
            (CMD_GET_PARAMS, 0x8020_7509),
            (CMD_START_USER_RECOVERY, 0xc020_7510),
            (CMD_END_USER_RECOVERY, 0xc020_7511),
            (CMD_GET_FEATURES, 0x8020_7513),
            (IO_FETCH_REQ, 0xc010_7520),
            (IO_COMMIT_AND_FETCH_REQ, 0xc010_7521),
        ];
        for (ours, kernels) in table {
            assert_eq!(ours, kernels, "{ours:#x} is not {kernels:#x}");
        }
    }

    #[test]
    fn fields_lie_where_the_kernel_reads_them() {
        let table = [
            (offset_of!(CtrlCmd, queue_id), 4),
            (offset_of!(CtrlCmd, len), 6),
            (offset_of!(CtrlCmd, addr), 8),
            (offset_of!(CtrlCmd, data), 16),
            (offset_of!(CtrlCmd, dev_path_len), 24),
            (offset_of!(DevInfo, queue_depth), 2),
            (offset_of!(DevInfo, state), 4),
            (offset_of!(DevInfo, max_io_buf_bytes), 8),
            (offset_of!(DevInfo, dev_id), 12),
            (offset_of!(DevInfo, server_pid), 16),
            (offset_of!(DevInfo, flags), 24),
            (offset_of!(DevInfo, server_flags), 32),
            (offset_of!(IoCmd, tag), 2),
            (offset_of!(IoCmd, result), 4),
            (offset_of!(IoCmd, addr), 8),
            (offset_of!(IoDesc, nr_sectors), 4),
            (offset_of!(IoDesc, start_sector), 8),
            (offset_of!(IoDesc, addr), 16),
            (offset_of!(ParamBasic, logical_bs_shift), 4),
            (offset_of!(ParamBasic, max_sectors), 8),
            (offset_of!(ParamBasic, dev_sectors), 16),
            (offset_of!(ParamDiscard, max_write_zeroes_sectors), 12),
            (offset_of!(ParamDiscard, max_discard_segments), 16),
        ];
        for (index, (ours, kernels)) in table.into_iter().enumerate() {
            assert_eq!(ours, kernels, "row {index}");
        }
    }

    #[test]
    fn user_copy_windows_do_not_overlap() {
        assert_eq!(user_copy_position(0, 0, 0), 0x8000_0000);
        assert_eq!(user_copy_position(0, 1, 0), 0x8200_0000);
        assert_eq!(user_copy_position(1, 0, 0), 0x200_8000_0000);
        assert_eq!(
            user_copy_position(3, 7, USER_COPY_BYTES_MAX - 1) + 1,
            user_copy_position(3, 8, 0),
            "the last byte of a tag's window lies just below the next window"
        );
        let last = user_copy_position(u16::MAX, QUEUE_DEPTH_MAX - 1, USER_COPY_BYTES_MAX - 1);
        assert!(i64::try_from(last).is_ok(), "every position is a valid file offset");
    }

    #[test]
    fn descriptors_of_a_queue_start_at_a_fixed_stride() {
        assert_eq!(descriptor_map_offset(0), 0);
        assert_eq!(descriptor_map_offset(2), 2 * 98_304);
        assert_eq!(descriptor_map_offset(1) % 4096, 0);
    }
}
