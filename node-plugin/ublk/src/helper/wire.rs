//! What goes over a helper's socket: questions and answers of a fixed size each.

use bytemuck::{Pod, Zeroable};

/// Room for the largest buffer of a control command.
pub(super) const BUFFER_BYTES: usize = 256;

/// A question.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Frame {
    /// Number of the control command; 0 asks for the partition table of the device to be read again.
    pub(super) opcode: u32,
    /// The device, as the kernel numbers them.
    pub(super) dev_id: u32,
    pub(super) data: u64,
    /// Bytes of the buffer that count.
    pub(super) len: u64,
    pub(super) buffer: [u8; BUFFER_BYTES],
}

/// An answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Reply {
    /// The kernel's: negative is an errno.
    pub(super) result: i32,
    pub(super) pad: u32,
    pub(super) buffer: [u8; BUFFER_BYTES],
}

impl Frame {
    pub(super) const REREAD_PARTITIONS: u32 = 0;

    pub(super) fn new(opcode: u32, dev_id: u32, data: u64, bytes: &[u8]) -> Frame {
        let mut buffer = [0; BUFFER_BYTES];
        buffer[..bytes.len()].copy_from_slice(bytes);
        Frame { opcode, dev_id, data, len: bytes.len() as u64, buffer }
    }

    /// The buffer's bytes; none if the length is impossible.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.buffer.get(..usize::try_from(self.len).ok()?)
    }
}

const _: () = assert!(size_of::<crate::uapi::Params>() <= BUFFER_BYTES, "every command's buffer fits");
const _: () = assert!(size_of::<crate::uapi::DevInfo>() <= BUFFER_BYTES, "every command's buffer fits");
