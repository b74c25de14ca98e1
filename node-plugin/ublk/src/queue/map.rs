//! The descriptors of a queue, shared with the kernel and read only.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use crate::Tag;
use crate::device::CharDevice;
use crate::uapi::{IoDesc, descriptor_map_offset};

/// A mapping of one queue's descriptors; unmapped when dropped.
#[derive(Debug)]
pub(super) struct DescriptorMap {
    base: NonNull<IoDesc>,
    depth: u16,
    bytes: usize,
}

// SAFETY: the mapping is owned by this value alone, is valid in every thread of the process, and is only
// read.
unsafe impl Send for DescriptorMap {}

impl DescriptorMap {
    pub(super) fn new(device: &CharDevice, queue: u16, depth: u16) -> io::Result<DescriptorMap> {
        let offset =
            libc::off_t::try_from(descriptor_map_offset(queue)).expect("a 16-bit queue times 96 KiB");
        Self::map(device.as_raw_fd(), offset, libc::MAP_SHARED | libc::MAP_POPULATE, depth)
    }

    fn map(fd: i32, offset: libc::off_t, flags: i32, depth: u16) -> io::Result<DescriptorMap> {
        // The driver accepts exactly the length that it allocated.
        let bytes = (usize::from(depth) * size_of::<IoDesc>()).next_multiple_of(page_bytes());
        // SAFETY: a fresh mapping (no MAP_FIXED) that aliases no memory of ours; the descriptor is open
        // for the duration of the call and the mapping does not need it afterwards.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(DescriptorMap { base, depth, bytes })
    }

    /// Reads the descriptor of a tag that the kernel has handed over and not yet got back.
    pub(super) fn read(&self, tag: Tag) -> IoDesc {
        assert!(tag.get() < self.depth, "tag {tag} of {}", self.depth);
        // SAFETY: the tag is below the depth, so the result lies within the mapping, which holds
        // `depth` descriptors; pages are aligned for them.
        let descriptor = unsafe { self.base.add(tag.index()) };
        // SAFETY: mapped, readable, aligned, and any bytes are a valid `IoDesc`. Volatile, because another
        // party writes this memory; it does not while the tag is ours, which the completion told (the
        // ring's acquire of its tail orders the kernel's writes before this read).
        unsafe { descriptor.read_volatile() }
    }
}

impl Drop for DescriptorMap {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, once; nothing borrows from it, since `read` copies.
        let status = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        // Not in what ships: a panic here while another unwinds would end the process, and every master with it (E23).
        debug_assert_eq!(status, 0, "unmapping what was mapped cannot fail");
    }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf takes a constant and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has a page size")
}

#[cfg(test)]
impl DescriptorMap {
    /// The descriptors in a file that the test writes as the kernel would.
    pub(super) fn of_file(file: &std::fs::File, depth: u16) -> DescriptorMap {
        Self::map(file.as_raw_fd(), 0, libc::MAP_SHARED, depth).expect("map a file")
    }
}
