//! Gathers what a node is, from `/proc` and `/dev`. Nothing is changed.

use crate::preflight::Facts;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fs::{self, OpenOptions};

/// Inode of the first pid namespace: fixed by the kernel's interface.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Capabilities by their bit in `CapEff`.
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// What this process can find out about the node. The interposer runs beside it with the same rights.
pub(crate) fn gather() -> Facts {
    let capabilities = read("/proc/self/status").as_deref().map_or(0, effective_capabilities);
    Facts {
        kernel_release: read("/proc/sys/kernel/osrelease"),
        is_in_private_pid_namespace: fs::read_link("/proc/self/ns/pid")
            .is_ok_and(|name| name.as_os_str() != INITIAL_PID_NAMESPACE),
        has_ublk: has_ublk(),
        io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
            .and_then(|text| text.trim().parse().ok()),
        may_administer: capabilities & (1 << CAP_SYS_ADMIN) != 0,
        may_lock_all: capabilities & (1 << CAP_IPC_LOCK) != 0,
        memlock_bytes: getrlimit(Resource::Memlock).current,
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn has_ublk() -> bool {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/ublk-control");
    // A node may be left over from a driver that is gone. Other errors are about this process, and not the driver.
    let gone = [Errno::NOENT, Errno::NXIO, Errno::NODEV];
    opened.map_or_else(
        |error| !gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())),
        |_| true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000204000\n"), 1 << 14 | 1 << 21);
        assert_eq!(effective_capabilities("garbage"), 0);
    }

    #[test]
    fn this_very_host_has_a_kernel() {
        assert!(
            gather().kernel_release.is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()))
        );
    }
}
