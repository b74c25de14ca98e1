//! Whether this host can serve ublk devices, and if not, what somebody has to do.

use std::fs::{self, OpenOptions};
use std::io;

use io_uring::IoUring;

use crate::Errno;
use crate::kernel::{BadKernelRelease, KernelRefusal, KernelRelease, KernelWarning, judge};

pub(crate) const CONTROL_PATH: &str = "/dev/ublk-control";
const RELEASE_PATH: &str = "/proc/sys/kernel/osrelease";
const IO_URING_SWITCH_PATH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Inode of the first pid namespace: fixed by the kernel's interface.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Capabilities that serving a device needs, by their bit in `CapEff`.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (14, "CAP_IPC_LOCK", "locked memory"),
    (21, "CAP_SYS_ADMIN", "ublk control commands"),
    (24, "CAP_SYS_RESOURCE", "PR_SET_IO_FLUSHER"),
];

/// A host that can serve ublk devices.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its kernel.
    pub kernel: KernelRelease,
    /// What to tell the operator about this kernel.
    pub warnings: Vec<KernelWarning>,
}

/// Why a host cannot serve ublk devices. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// `/proc` is not there or not readable.
    #[error("read {path}; is /proc mounted?")]
    ReadProc {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel calls itself something unheard of.
    #[error("read the kernel's release")]
    Release(#[from] BadKernelRelease),
    /// Too old, or known to fail.
    #[error("kernel {release} cannot be used: {fault}; {remedy}")]
    Kernel {
        /// This host's kernel.
        release: KernelRelease,
        /// What is wrong with it.
        fault: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// No `/dev/ublk-control`.
    #[error(
        "there is no {CONTROL_PATH}: run `modprobe ublk_drv` (a kernel without that module cannot serve \
         devices; in a container, mount the host's /dev)"
    )]
    ModuleMissing,
    /// `/dev/ublk-control` cannot be opened.
    #[error("open {CONTROL_PATH}; root and, in a container, permission for that device are needed")]
    ControlNode(#[source] io::Error),
    /// Capabilities are missing.
    #[error("this process lacks {missing}; run it as root, in a container as privileged")]
    Privilege {
        /// Their names and what each is for.
        missing: String,
    },
    /// Switched off by the administrator.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = {setting}): run `sysctl -w \
         kernel.io_uring_disabled=0`, or put this process into the group of kernel.io_uring_group if it is 1"
    )]
    IoUringDisabled {
        /// The switch.
        setting: u32,
    },
    /// Filtered, most likely by a container's seccomp profile.
    #[error("io_uring is refused to this process ({errno}): allow it in the container's seccomp profile")]
    IoUringFiltered {
        /// The kernel's answer.
        errno: Errno,
    },
    /// Anything else.
    #[error("make an io_uring: {errno}")]
    IoUring {
        /// The kernel's answer.
        errno: Errno,
    },
}

impl Host {
    /// Looks at the kernel, the driver's control node, io_uring and this process's privileges, in an
    /// order that reports the cause rather than its consequence. Nothing is changed.
    ///
    /// What the driver itself can do is asked with [`Control::features`](crate::Control::features),
    /// because that is a control command and may hang.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn probe() -> Result<Host, HostError> {
        let kernel = KernelRelease::parse(&read_proc(RELEASE_PATH)?)?;
        let warnings =
            judge(&kernel, in_private_pid_namespace()).map_err(|KernelRefusal { fault, remedy }| {
                HostError::Kernel { release: kernel.clone(), fault, remedy }
            })?;
        check_privileges(&read_proc("/proc/self/status")?)?;
        check_io_uring()?;
        check_control_node()?;
        Ok(Host { kernel, warnings })
    }
}

fn read_proc(path: &'static str) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::ReadProc { path, source })
}

fn in_private_pid_namespace() -> bool {
    // Unreadable counts as the host's: a guess must not refuse a host that works.
    fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name.as_os_str() != INITIAL_PID_NAMESPACE)
}

fn check_privileges(status: &str) -> Result<(), HostError> {
    let missing = missing_capabilities(status);
    if missing.is_empty() { Ok(()) } else { Err(HostError::Privilege { missing: missing.join(", ") }) }
}

fn missing_capabilities(status: &str) -> Vec<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _, _)| effective & (1 << bit) == 0)
        .map(|(_, name, purpose)| format!("{name} (for {purpose})"))
        .collect()
}

fn check_io_uring() -> Result<(), HostError> {
    match IoUring::new(2) {
        Ok(_ring) => Ok(()),
        Err(error) => {
            let switch = fs::read_to_string(IO_URING_SWITCH_PATH).ok();
            Err(explain_io_uring(Errno::of(&error), switch.as_deref()))
        }
    }
}

fn explain_io_uring(errno: Errno, switch: Option<&str>) -> HostError {
    let setting = switch.and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    match errno.raw() {
        libc::EPERM if setting > 0 => HostError::IoUringDisabled { setting },
        libc::EPERM | libc::EACCES | libc::ENOSYS => HostError::IoUringFiltered { errno },
        _ => HostError::IoUring { errno },
    }
}

fn check_control_node() -> Result<(), HostError> {
    match OpenOptions::new().read(true).write(true).open(CONTROL_PATH) {
        Ok(_node) => Ok(()),
        Err(error) => Err(explain_control_node(error)),
    }
}

fn explain_control_node(error: io::Error) -> HostError {
    match error.raw_os_error() {
        // ENXIO and ENODEV: a left-over node whose driver is not loaded.
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => HostError::ModuleMissing,
        _ => HostError::ControlNode(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_says_modprobe() {
        for raw in [libc::ENOENT, libc::ENXIO, libc::ENODEV] {
            let error = explain_control_node(io::Error::from_raw_os_error(raw));
            assert!(matches!(error, HostError::ModuleMissing), "{raw}");
            assert!(error.to_string().contains("modprobe ublk_drv"));
        }
        let error = explain_control_node(io::Error::from_raw_os_error(libc::EACCES));
        assert!(matches!(error, HostError::ControlNode(_)));
    }

    #[test]
    fn the_cause_of_a_refused_io_uring_is_told_apart() {
        let disabled = |errno, switch| explain_io_uring(Errno::new(errno), switch);
        assert!(matches!(disabled(libc::EPERM, Some("2\n")), HostError::IoUringDisabled { setting: 2 }));
        assert!(matches!(disabled(libc::EPERM, Some("1")), HostError::IoUringDisabled { setting: 1 }));
        assert!(matches!(disabled(libc::EPERM, Some("0")), HostError::IoUringFiltered { .. }));
        assert!(matches!(disabled(libc::EPERM, None), HostError::IoUringFiltered { .. }));
        assert!(matches!(disabled(libc::ENOSYS, None), HostError::IoUringFiltered { .. }));
        assert!(
            matches!(disabled(libc::ENOMEM, None), HostError::IoUring { errno } if errno.raw() == libc::ENOMEM)
        );
    }

    #[test]
    fn missing_capabilities_are_named_with_their_purpose() {
        assert!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(
            missing_capabilities("CapEff:\t0000000000204000\n"),
            ["CAP_SYS_RESOURCE (for PR_SET_IO_FLUSHER)"]
        );
        assert_eq!(missing_capabilities("CapEff:\t0000000000000000").len(), 3);
        assert_eq!(missing_capabilities("garbage").len(), 3);
    }

    #[test]
    fn a_probe_of_this_very_host_ends_with_an_answer() {
        match Host::probe() {
            Ok(host) => assert!(host.kernel.major >= 6),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
