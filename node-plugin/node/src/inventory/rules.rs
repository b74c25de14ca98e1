//! What the node's administrator has said about its devices.

use std::path::PathBuf;
use umbra_crds::{DeviceId, DevicePattern};

/// What the node's administrator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Devices that may be used at all; none: every one that nothing else denies.
    pub(crate) allowed: Vec<DevicePattern>,
    /// Folders without which the node is none.
    pub(crate) system_folders: Vec<PathBuf>,
}

impl Rules {
    /// Whether a device with these names may be used.
    pub(super) fn allow(&self, names: &[DeviceId]) -> bool {
        names.iter().any(|name| is_allowed(&self.allowed, name)) || self.allowed.is_empty()
    }
}

/// Whether the patterns allow a device by this name; none allow every device.
pub(crate) fn is_allowed(patterns: &[DevicePattern], name: &DeviceId) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_allowed_by_the_name_that_a_pattern_covers() {
        let patterns = [DevicePattern::new("/dev/disk/by-id/nvme-*")];
        let allowed = |patterns: &[DevicePattern], name: &str| is_allowed(patterns, &DeviceId::new(name));
        assert!(allowed(&patterns, "/dev/disk/by-id/nvme-1"));
        for other in ["/dev/nvme0n1", "/dev/disk/by-id/../../nvme-1", "/dev/disk/by-id/nvme-1/../x", "nvme-1"]
        {
            assert!(!allowed(&patterns, other), "{other}");
            assert!(allowed(&[], other));
        }
    }
}
