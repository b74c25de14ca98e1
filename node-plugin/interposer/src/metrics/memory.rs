//! How much memory of this process is locked.

use procfs::process::Process;
use std::io;

/// Pages that are locked *and there*. `VmLck` of `/proc/self/status` would also count address space that the
/// allocator of every thread reserves and never touches.
///
/// # Errors
/// What the kernel says, or a text that says nothing.
pub(super) fn locked_bytes() -> io::Result<u64> {
    let rollup = Process::myself().and_then(|own| own.smaps_rollup()).map_err(io::Error::other)?;
    let locked = rollup.memory_map_rollup.iter().find_map(|map| map.extension.map.get("Locked").copied());
    locked.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has no line Locked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_locked_is_counted() {
        locked_bytes().unwrap();
    }
}
