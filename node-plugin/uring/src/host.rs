//! Whether this host lets us use io_uring, and if not, what somebody can do about it.

use io_uring::{IoUring, Probe, opcode};
use std::fs;
use std::io;
use thiserror::Error;

const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Operations that this crate uses, with their names.
const OPERATIONS: [(u8, &str); 6] = [
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::UringCmd16::CODE, "URING_CMD"),
];

/// Why there is no io_uring for this process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IoUringRefusal {
    /// Switched off by the administrator.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = {setting}): run `sysctl -w \
         kernel.io_uring_disabled=0`, or, where it is 1, give this process CAP_SYS_ADMIN or the group of \
         kernel.io_uring_group"
    )]
    Disabled {
        /// The switch: 1 for processes without privilege, 2 for all.
        setting: u32,
    },
    /// Filtered, most likely by a container's seccomp profile.
    #[error(
        "io_uring is refused to this process: allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Filtered(#[source] io::Error),
    /// The kernel was built without it.
    #[error(
        "this kernel has no io_uring: use one built with CONFIG_IO_URING (a seccomp profile may also answer like this)"
    )]
    Missing,
    /// An operation is not there.
    #[error("this kernel's io_uring lacks the operation {name}: use Linux 6.0 or later")]
    Operation {
        /// Its name, without `IORING_OP_`.
        name: &'static str,
    },
    /// A feature is not there.
    #[error("this kernel's io_uring lacks {name}: use Linux 6.0 or later")]
    Feature {
        /// What it does.
        name: &'static str,
    },
    /// Anything else.
    #[error("make an io_uring")]
    Other(#[source] io::Error),
}

/// Makes a small ring and looks at what it can do. Changes nothing.
///
/// # Errors
/// The first thing that is missing; the message says what to do.
pub fn host_supports_io_uring() -> Result<(), IoUringRefusal> {
    let ring = IoUring::new(2).map_err(|error| {
        let switch = fs::read_to_string(SWITCH).ok();
        explain(error, switch.as_deref())
    })?;
    let params = ring.params();
    let features = [
        (params.is_feature_nodrop(), "lossless completions"),
        (params.is_feature_ext_arg(), "waiting with a time-out"),
        (params.is_feature_native_workers(), "workers of its own"),
    ];
    if let Some(&(_, name)) = features.iter().find(|(there, _)| !there) {
        return Err(IoUringRefusal::Feature { name });
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(IoUringRefusal::Other)?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some(&(_, name)) => Err(IoUringRefusal::Operation { name }),
        None => Ok(()),
    }
}

fn explain(error: io::Error, switch: Option<&str>) -> IoUringRefusal {
    let setting = switch.and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    match error.raw_os_error() {
        Some(libc::EPERM) if setting > 0 => IoUringRefusal::Disabled { setting },
        Some(libc::EPERM | libc::EACCES) => IoUringRefusal::Filtered(error),
        Some(libc::ENOSYS) => IoUringRefusal::Missing,
        _ => IoUringRefusal::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_kernel_has_its_reason() {
        let explain = |errno, switch| explain(io::Error::from_raw_os_error(errno), switch);
        assert!(matches!(explain(libc::EPERM, Some("2\n")), IoUringRefusal::Disabled { setting: 2 }));
        assert!(matches!(explain(libc::EPERM, Some("0")), IoUringRefusal::Filtered(_)));
        assert!(matches!(explain(libc::EPERM, None), IoUringRefusal::Filtered(_)));
        assert!(matches!(explain(libc::ENOSYS, None), IoUringRefusal::Missing));
        assert!(matches!(explain(libc::ENOMEM, Some("2")), IoUringRefusal::Other(_)));
        assert!(explain(libc::EPERM, Some("1")).to_string().contains("sysctl -w"));
    }
}
