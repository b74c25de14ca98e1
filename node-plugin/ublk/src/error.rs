//! Errors of devices, control commands and queues. Refusals of the host are [`HostError`](crate::HostError).

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::{BadParams, Command, DeviceId, Features, Tag, Target};

/// An error number as the kernel uses them: 1 to 4095, positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Input or output failed.
    pub const EIO: Errno = Errno(libc::EIO);
    /// The request names something that does not exist, or contradicts itself.
    pub const EINVAL: Errno = Errno(libc::EINVAL);
    /// The operation is not offered.
    pub const EOPNOTSUPP: Errno = Errno(libc::EOPNOTSUPP);
    /// No space.
    pub const ENOSPC: Errno = Errno(libc::ENOSPC);
    /// Another holder.
    pub const EBUSY: Errno = Errno(libc::EBUSY);
    /// There is one already.
    pub const EEXIST: Errno = Errno(libc::EEXIST);
    /// No such device.
    pub const ENODEV: Errno = Errno(libc::ENODEV);
    /// A deadline passed.
    pub const ETIMEDOUT: Errno = Errno(libc::ETIMEDOUT);
    /// The device is read-only.
    pub const EROFS: Errno = Errno(libc::EROFS);

    /// A number from the kernel; anything outside 1 to 4095 becomes EIO, since it names no error.
    #[must_use]
    pub const fn new(raw: i32) -> Errno {
        if raw >= 1 && raw <= 4095 { Errno(raw) } else { Self::EIO }
    }

    /// The number of an I/O error, EIO where it has none.
    #[must_use]
    pub fn of(error: &io::Error) -> Errno {
        error.raw_os_error().map_or(Self::EIO, Self::new)
    }

    /// From a completion: a negative result is an error.
    pub(crate) const fn from_result(result: i32) -> Result<i32, Errno> {
        if result < 0 { Err(Errno::new(result.saturating_neg())) } else { Ok(result) }
    }

    /// The positive number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

/// What can go wrong with a device. Every variant names the device or command it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `/dev/ublk-control` could not be opened.
    #[error("open /dev/ublk-control; the host probe says what is missing")]
    OpenControl(#[source] io::Error),
    /// The control thread or its helper could not be started.
    #[error("start the helper process for ublk control commands")]
    StartControl(#[source] io::Error),
    /// The helper process has ended, or none can be started.
    #[error("{command} for {target}: the helper process gave no answer; the outcome is not known")]
    HelperLost {
        /// The command.
        command: Command,
        /// What it was about.
        target: Target,
        /// Why there is no answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a command.
    #[error("{command} for {target}: {errno}{}", hint(*command, *errno))]
    Refused {
        /// The command.
        command: Command,
        /// What it was about.
        target: Target,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A command did not return in time. The helper process that sent it is left behind; others take the next ones.
    #[error("{command} for {target} did not return within {deadline:?}; its outcome is not known")]
    Deadline {
        /// The command.
        command: Command,
        /// What it was about.
        target: Target,
        /// How long it was given.
        deadline: Duration,
    },
    /// Another command was under way until this one's deadline, so this one was not sent.
    #[error(
        "{command} for {target} was not sent within {deadline:?}: it waited for {other_command} for \
         {other_target}; try again"
    )]
    NotSent {
        /// The command that was not sent.
        command: Command,
        /// What it was about.
        target: Target,
        /// The command that was under way.
        other_command: Command,
        /// What that is about.
        other_target: Target,
        /// How long it waited.
        deadline: Duration,
    },
    /// An earlier command for the same target was given up and is still in the kernel: this one was not sent, since the
    /// earlier one may take effect after it.
    #[error(
        "{command} for {target} was not sent: {earlier} for it, given up earlier, has not returned from the kernel; \
         try again, and if it stays so, restart the machine"
    )]
    Unfinished {
        /// The command that was not sent.
        command: Command,
        /// What it was about.
        target: Target,
        /// The command that has not returned.
        earlier: Command,
    },
    /// The partition table could not be read again.
    #[error("read the partition table of device {device} again")]
    RereadPartitions {
        /// The device.
        device: DeviceId,
        /// The kernel's answer, or why nobody asked.
        #[source]
        source: io::Error,
    },
    /// The device was made without flags that this crate depends on, and was deleted again.
    #[error("device {device}: the ublk driver granted {granted} and not {missing}; use kernel 6.12 or newer")]
    Ungranted {
        /// The device.
        device: DeviceId,
        /// Needed and not granted.
        missing: Features,
        /// What was granted.
        granted: Features,
    },
    /// Parameters that the kernel would refuse, or obey in a way that nobody meant.
    #[error("device {device}: {reason}")]
    BadParams {
        /// The device.
        device: DeviceId,
        /// What is wrong.
        reason: BadParams,
    },
    /// The device is gone. Whoever goes on would take over the next device with the same number.
    #[error("START_USER_RECOVERY for device {device}: no such device; do not retry, make it anew")]
    RecoveryGone {
        /// The device.
        device: DeviceId,
    },
    /// The device's character node could not be opened.
    #[error("open {} of device {device}", path.display())]
    OpenDevice {
        /// The device.
        device: DeviceId,
        /// Its node.
        path: PathBuf,
        /// EBUSY: another server has it open.
        #[source]
        source: io::Error,
    },
    /// The node did not appear in time.
    #[error("{} of device {device} did not appear within {waited:?}; is devtmpfs mounted?", path.display())]
    NodeMissing {
        /// The device.
        device: DeviceId,
        /// The node.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something that is no block device stands where the device's node should be.
    #[error("{} is not a block device; remove it and start device {device} again", path.display())]
    NotABlockDevice {
        /// The device.
        device: DeviceId,
        /// The node.
        path: PathBuf,
    },
    /// The queue's descriptors could not be mapped.
    #[error("map the descriptors of queue {queue} of device {device}, depth {depth}")]
    MapDescriptors {
        /// The device.
        device: DeviceId,
        /// The queue.
        queue: u16,
        /// EINVAL: the depth is not the device's.
        depth: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A queue was asked for that no device can have.
    #[error(
        "device {device}: queue {queue} with depth {depth} and {max_io_bytes} bytes per request: {reason}"
    )]
    BadQueue {
        /// The device.
        device: DeviceId,
        /// The queue.
        queue: u16,
        /// Its depth.
        depth: u16,
        /// Its largest request.
        max_io_bytes: u32,
        /// Which rule is broken.
        reason: &'static str,
    },
    /// The bytes of a request could not be moved.
    #[error("copy the data of tag {tag} of device {device}")]
    UserCopy {
        /// The device.
        device: DeviceId,
        /// The request's tag.
        tag: Tag,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The list of devices could not be read.
    #[error("list ublk devices in {}", path.display())]
    ListDevices {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn hint(command: Command, errno: Errno) -> &'static str {
    match (command, errno.raw()) {
        (Command::AddDev, libc::EEXIST) => {
            "; the number is taken: recover or delete that device, or take another"
        }
        (Command::AddDev, libc::EACCES | libc::ENOSPC) => {
            "; before kernel 6.15 a node has at most ublks_max devices: raise that parameter of ublk_drv"
        }
        (Command::StartDev | Command::EndUserRecovery, libc::EINVAL) => {
            "; the pid must be the one that opened the device, as the host counts: use the host's pid namespace"
        }
        (_, libc::EPERM | libc::EACCES) => "; CAP_SYS_ADMIN of the host is needed",
        _ => "",
    }
}

impl Error {
    /// True if the device that the call was about does not exist.
    #[must_use]
    pub fn is_no_such_device(&self) -> bool {
        match self {
            Error::RecoveryGone { .. } => true,
            Error::Refused { errno, .. } => *errno == Errno::ENODEV,
            Error::OpenDevice { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV))
            }
            _ => false,
        }
    }

    /// True if the command's outcome is not known, since the kernel did not return from it in time: the device may
    /// never answer a command again, until the machine starts anew. Others are not concerned.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        matches!(self, Error::Deadline { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_always_a_real_one() {
        for (raw, expected) in
            [(5, 5), (1, 1), (4095, 4095), (0, libc::EIO), (-5, libc::EIO), (4096, libc::EIO)]
        {
            assert_eq!(Errno::new(raw).raw(), expected, "from {raw}");
        }
        assert_eq!(Errno::from_result(i32::MIN), Err(Errno::EIO));
        assert_eq!(Errno::from_result(-16), Err(Errno::EBUSY));
        assert_eq!(Errno::from_result(512), Ok(512));
    }

    #[test]
    fn messages_name_the_command_the_device_and_the_remedy() {
        let error = Error::Refused {
            command: Command::AddDev,
            target: Target::Device(DeviceId::new(3)),
            errno: Errno::new(libc::EEXIST),
        };
        assert_eq!(
            error.to_string(),
            "ADD_DEV for device 3: File exists (os error 17); the number is taken: recover or delete that \
             device, or take another"
        );
        let error = Error::RecoveryGone { device: DeviceId::new(9) };
        assert!(error.is_no_such_device());
        assert!(!error.is_stuck());
    }
}
