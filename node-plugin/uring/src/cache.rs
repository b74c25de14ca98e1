//! The kernel's page cache of a block device, before its content changes behind it.

use rustix::ioctl::{NoArg, ioctl, opcode};
use std::fs::File;
use std::io;

/// `_IO(0x12, 97)`.
const BLKFLSBUF: rustix::ioctl::Opcode = opcode::none(0x12, 97);

/// Writes what the page cache holds for `device` and drops it.
///
/// Only ever *before* the content changes: a dirty page would be written over what is there then. Pages that
/// somebody has mapped stay, stale: nobody else may have the device open.
///
/// # Errors
/// What the kernel says; writing a dirty page may fail.
pub fn drop_page_cache(device: &File) -> io::Result<()> {
    // SAFETY: the number is that of the block layer's command, which takes no argument.
    let command = unsafe { NoArg::<BLKFLSBUF>::new() };
    // SAFETY: the command reads and writes no memory of this process.
    unsafe { ioctl(device, command) }?;
    Ok(())
}
