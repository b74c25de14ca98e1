//! Driver flags: which we ask for, which we cannot do without, and their names for people.

use std::fmt;

/// A set of driver feature flags, as GET_FEATURES and ADD_DEV report them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

const NAMES: [(u64, &str); 20] = [
    (1 << 0, "SUPPORT_ZERO_COPY"),
    (1 << 1, "URING_CMD_COMP_IN_TASK"),
    (1 << 2, "NEED_GET_DATA"),
    (1 << 3, "USER_RECOVERY"),
    (1 << 4, "USER_RECOVERY_REISSUE"),
    (1 << 5, "UNPRIVILEGED_DEV"),
    (1 << 6, "CMD_IOCTL_ENCODE"),
    (1 << 7, "USER_COPY"),
    (1 << 8, "ZONED"),
    (1 << 9, "USER_RECOVERY_FAIL_IO"),
    (1 << 10, "UPDATE_SIZE"),
    (1 << 11, "AUTO_BUF_REG"),
    (1 << 12, "QUIESCE"),
    (1 << 13, "PER_IO_DAEMON"),
    (1 << 14, "BUF_REG_OFF_DAEMON"),
    (1 << 15, "BATCH_IO"),
    (1 << 16, "INTEGRITY"),
    (1 << 17, "SAFE_STOP_DEV"),
    (1 << 18, "NO_AUTO_PART_SCAN"),
    (1 << 19, "SHMEM_ZC"),
];

impl Features {
    /// The device survives its server: new I/O waits until another server takes over.
    pub const USER_RECOVERY: Features = Features(1 << 3);
    /// Requests that the dead server had in hand are given to the next one again.
    pub const USER_RECOVERY_REISSUE: Features = Features(1 << 4);
    /// Commands carry ioctl-encoded numbers.
    pub const CMD_IOCTL_ENCODE: Features = Features(1 << 6);
    /// Request data is read and written through positions of `/dev/ublkcN`.
    pub const USER_COPY: Features = Features(1 << 7);
    /// The driver reads no partition table when the device is started: [`reread_partitions`](crate::reread_partitions)
    /// does when it is wanted. Kernel 7.0 and later.
    pub const NO_AUTO_PART_SCAN: Features = Features(1 << 18);

    /// What [`Control::add_device`](crate::Control::add_device) asks the driver for.
    ///
    /// REISSUE is safe because a request executed twice has the effect of executing it once; that is a
    /// promise of the server, not of this crate. Without a partition scan START_DEV waits for no I/O; a driver
    /// that does not know that flag drops it. Zero copy would add AUTO_BUF_REG here.
    pub const ASKED: Features = Features(
        Self::USER_RECOVERY.0
            | Self::USER_RECOVERY_REISSUE.0
            | Self::CMD_IOCTL_ENCODE.0
            | Self::USER_COPY.0
            | Self::NO_AUTO_PART_SCAN.0,
    );

    /// What a device must have been granted. The driver drops unknown flags silently, so asking is not
    /// enough: without recovery a dead server means I/O errors, without user copy there is no data path.
    pub const REQUIRED: Features =
        Features(Self::USER_RECOVERY.0 | Self::USER_RECOVERY_REISSUE.0 | Self::USER_COPY.0);

    /// The flags in the kernel's own numbering.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Features {
        Features(bits)
    }

    /// The flags in the kernel's own numbering.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True if every flag of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of `self` that `granted` lacks.
    #[must_use]
    pub const fn missing_from(self, granted: Features) -> Features {
        Features(self.0 & !granted.0)
    }

    /// True if no flag is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for (bit, name) in NAMES {
            if self.0 & bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        let unnamed = NAMES.iter().fold(self.0, |rest, (bit, _)| rest & !bit);
        if unnamed != 0 {
            write!(f, "{separator}{unnamed:#x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernel_6_12_granted_is_enough() {
        assert_eq!(Features::ASKED.bits(), 0x400d8);
        let granted = Features::from_bits(0xda);
        assert!(granted.contains(Features::REQUIRED));
        assert!(Features::REQUIRED.missing_from(granted).is_empty());
    }

    #[test]
    fn a_missing_flag_is_named() {
        let granted = Features::from_bits(0x42);
        assert_eq!(
            Features::REQUIRED.missing_from(granted).to_string(),
            "USER_RECOVERY|USER_RECOVERY_REISSUE|USER_COPY"
        );
        assert_eq!(Features::default().to_string(), "none");
        assert_eq!(Features::from_bits(1 << 40 | 1).to_string(), "SUPPORT_ZERO_COPY|0x10000000000");
    }
}
