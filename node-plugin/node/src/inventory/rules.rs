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
        self.allowed.is_empty()
            || self.allowed.iter().any(|pattern| names.iter().any(|name| pattern.matches(name)))
    }
}
