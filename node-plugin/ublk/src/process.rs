//! What a process must do to itself before it may serve a block device that its own memory could wait for.

use std::io;

/// Numbers of `prctl`, from the kernel's interface; the `libc` crate lacks them.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
const PR_GET_IO_FLUSHER: libc::c_int = 58;

/// Why the process could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The kernel refused.
    #[error("PR_SET_IO_FLUSHER on this thread; CAP_SYS_RESOURCE is needed")]
    SetIoFlusher(#[source] io::Error),
    /// The kernel agreed and did not do it, or cannot say.
    #[error("PR_SET_IO_FLUSHER had no effect: PR_GET_IO_FLUSHER says {found}, not 1")]
    NotIoFlusher {
        /// What it says.
        found: i32,
    },
    /// Memory could not be locked.
    #[error(
        "lock this process's memory; CAP_IPC_LOCK or a larger RLIMIT_MEMLOCK is needed, and a container's \
         memory limit must hold all of it"
    )]
    LockMemory(#[source] io::Error),
}

/// Marks the calling thread as one that writes back data: its own allocations never wait for the devices
/// that it serves.
///
/// The mark is per thread and inherited by threads started afterwards, so call it in `main` before any
/// thread starts. It does not cover page faults on memory that was swapped out: see [`lock_memory`].
///
/// # Errors
/// If the kernel refuses, or if the mark cannot be read back. The second has happened to other servers
/// for years, by a wrong argument.
pub fn become_io_flusher() -> Result<(), ProcessError> {
    const ON: libc::c_ulong = 1;
    // SAFETY: PR_SET_IO_FLUSHER takes integers only and touches no memory of this process.
    let status = unsafe { libc::prctl(PR_SET_IO_FLUSHER, ON, 0_u64, 0_u64, 0_u64) };
    if status != 0 {
        return Err(ProcessError::SetIoFlusher(io::Error::last_os_error()));
    }
    match io_flusher_state() {
        1 => Ok(()),
        found => Err(ProcessError::NotIoFlusher { found }),
    }
}

/// True if the calling thread carries the mark of [`become_io_flusher`].
#[must_use]
pub fn is_io_flusher() -> bool {
    io_flusher_state() == 1
}

fn io_flusher_state() -> i32 {
    // SAFETY: PR_GET_IO_FLUSHER takes no pointer and answers by its return value.
    unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0_u64, 0_u64, 0_u64, 0_u64) }
}

/// Freed blocks of at least so many bytes go back to the kernel at once.
const RETURNED_BYTES: libc::c_int = 128 << 10;

/// Has what is freed given back to the kernel: locked, it would be lost to everybody else, and a start needs some buffers
/// once. Call it before other threads exist.
pub fn return_freed_memory() {
    // A fixed threshold is not raised by glibc when large blocks are freed; further heaps, one per thread, are never given
    // back. Refused, they only cost memory.
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, RETURNED_BYTES),
        (libc::M_TRIM_THRESHOLD, RETURNED_BYTES),
    ] {
        // SAFETY: mallopt takes two numbers, and no other thread allocates yet.
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Locks all present and future memory of this process.
///
/// Without it, a page fault of the server can wait for swap that lies on a device it serves.
///
/// # Errors
/// If the limit or the privilege does not allow it.
pub fn lock_memory() -> Result<(), ProcessError> {
    // SAFETY: mlockall takes flags only; locked pages keep their content and addresses.
    let status = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if status == 0 { Ok(()) } else { Err(ProcessError::LockMemory(io::Error::last_os_error())) }
}

/// Locks what this process touches, and when it does.
pub(crate) fn lock_touched_memory() -> Result<(), ProcessError> {
    // SAFETY: as in `lock_memory`.
    let status = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if status == 0 { Ok(()) } else { Err(ProcessError::LockMemory(io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_back_or_refused_and_inherited_by_new_threads() {
        // On its own thread: the mark must not leak into other tests.
        let inherited = std::thread::spawn(|| match become_io_flusher() {
            Ok(()) => {
                assert!(is_io_flusher());
                std::thread::spawn(is_io_flusher).join().expect("no panic")
            }
            Err(error) => {
                assert!(!is_io_flusher(), "{error}");
                true
            }
        })
        .join()
        .expect("no panic");
        assert!(inherited, "threads that are started later carry the mark");
        assert!(!is_io_flusher(), "threads that were started before do not");
    }
}
