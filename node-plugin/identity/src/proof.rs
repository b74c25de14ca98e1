//! Whether anybody has a device open, before its content changes under them (E9, kubernetes-design rule 8).
//!
//! A restore or a cut changes what a presented device reads at once. Whoever has it open, through whatever name,
//! keeps pages of before, and may write them over what is there now. So the proof covers partitions, loop devices
//! and mappings on top, mounts of every namespace, swap, readers and mapped pages, and fails for
//! what could not be looked at. It holds from the moment of the look on only if the claim was taken before it.

use crate::facts::{Blind, DeviceFacts, Used};
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
