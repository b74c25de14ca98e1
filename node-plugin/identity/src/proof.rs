//! Whether anybody has a device open, before its content changes under them (E9, kubernetes-design rule 8).
//!
//! A restore or a cut changes what a presented device reads at once. Whoever has it open, through whatever name,
//! keeps pages of before, and may write them over what is there now. So the proof covers partitions, loop devices
//! and mappings on top, mounts of every namespace, swap, readers and mapped pages, and fails for
//! what could not be looked at. It holds from the moment of the look on only if the claim was taken before it.

use crate::facts::{Blind, DeviceFacts, Holder, Used};
use crate::gather::{Look, Machine};
use std::fmt;
use std::path::Path;
use thiserror::Error;

/// Why it is not proved that nobody has a device open.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotFree {
    /// Somebody has.
    #[error("{device} is not free: {}", List(used))]
    Used {
        /// The device.
        device: String,
        /// Who.
        used: Vec<Used>,
    },
    /// It cannot be told.
    #[error(
        "whether {device} is free cannot be told: {}; umbra-io needs root in the host's process namespace",
        List(blind)
    )]
    Unproven {
        /// The device.
        device: String,
        /// What could not be looked at.
        blind: Vec<Blind>,
    },
}

impl NotFree {
    /// Whether a moment later it may be free without anybody doing anything: udev, LVM and their like open every device
    /// that they are told of, and read what it is. Who has mounted or mapped it stays.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Used { used, .. } => {
                used.iter().all(|used| matches!(used.by, Holder::Opened { writes: false, .. }))
            }
            Self::Unproven { .. } => false,
        }
    }
}

/// Nobody has the device open. The facts must be of a look [with openers](crate::gather::Look::with_openers).
///
/// # Errors
/// [`NotFree`].
pub fn prove_free(facts: &DeviceFacts) -> Result<(), NotFree> {
    let device = facts.path.display().to_string();
    if !facts.used.is_empty() {
        return Err(NotFree::Used { device, used: facts.used.clone() });
    }
    if !facts.blind.is_empty() {
        return Err(NotFree::Unproven { device, blind: facts.blind.clone() });
    }
    Ok(())
}

/// Nobody but the process `own`, which serves it, has the device at a path open. Its mappings count.
///
/// # Errors
/// [`NotFree`].
pub fn prove_path_free(path: &Path, own: u32) -> Result<(), NotFree> {
    let look = Look::default().with_openers().except_descriptors_of(own);
    let facts = Machine::look(&look, &[path]).and_then(|machine| machine.facts(path));
    let unproven = |why: String| {
        let what = path.display().to_string();
        Err(NotFree::Unproven { device: what.clone(), blind: vec![Blind { what, why }] })
    };
    match facts {
        Ok(Some(facts)) => prove_free(&facts),
        Ok(None) => unproven("there is no such device".to_owned()),
        Err(error) => unproven(error.to_string()),
    }
}

struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::DeviceNumber;

    fn passes(holders: &[Holder]) -> bool {
        let disk = DeviceFacts::disk("ublkb0", DeviceNumber { major: 259, minor: 0 }, 1 << 20);
        let used = holders.iter().cloned().fold(disk, DeviceFacts::used_by);
        prove_free(&used).is_err_and(|reason| reason.may_pass())
    }

    #[test]
    fn only_who_reads_may_close_it_without_being_asked() {
        let opened = |writes| Holder::Opened { pid: 41, command: "(udev-worker)".into(), writes };
        let mounted = Holder::Mounted { at: "/srv".into(), by: None };
        let mapped = Holder::Mapped { pid: 41, command: "postgres".into(), writes: false };
        assert!(passes(&[opened(false)]) && passes(&[opened(false), opened(false)]));
        assert!(!passes(&[opened(true)]) && !passes(&[mapped]) && !passes(&[Holder::Swap]));
        assert!(!passes(&[opened(false), mounted]), "one that stays is enough");
    }
}
