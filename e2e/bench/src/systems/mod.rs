//! What is measured against each other. All work on the same disks, one after the other.

pub mod dm_snapshot;
pub mod dm_thin;
pub mod raw;
pub mod umbra;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::bed::{Bed, Medium};

/// The systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The device alone.
    Raw,
    /// The kernel's copy-on-write snapshot, persistent.
    DmSnapshot,
    /// The kernel's thin provisioning, which redirects writes.
    DmThin,
    /// Umbra.
    Umbra,
}

impl Kind {
    /// In tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::DmSnapshot => "dm-snapshot",
            Kind::DmThin => "dm-thin",
            Kind::Umbra => "umbra",
        }
    }

    /// Presents the master of a family with so many shadows.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn present(self, bed: &Bed, medium: Medium, shadows: usize) -> Result<Box<dyn System>> {
        Ok(match self {
            Kind::Raw => Box::new(raw::Raw::present(bed, medium)?),
            Kind::DmSnapshot => Box::new(dm_snapshot::DmSnapshot::present(bed, medium, shadows)?),
            Kind::DmThin => Box::new(dm_thin::DmThin::present(bed, medium)?),
            Kind::Umbra => Box::new(umbra::Umbra::present(bed, medium, shadows)?),
        })
    }
}

/// A presented master.
pub trait System {
    /// The device that a workload would use.
    fn device(&self) -> &str;

    /// How long after the last request it may still write on its behalf, unasked.
    fn late(&self) -> Duration {
        Duration::ZERO
    }

    /// A new point in time for every shadow: from now on each chunk is written for the first time again. Delays are 0.
    ///
    /// # Errors
    /// Where the system refuses.
    fn renew(&mut self, bed: &Bed) -> Result<()>;

    /// Prepares for cuts under load, delays being 0, and returns a script that does one. It prints `closed`, `drained`
    /// and `opened`, each with the seconds since boot, as far as it knows them. None for a system without cuts.
    ///
    /// # Errors
    /// Where the system refuses.
    fn cut_script(&mut self, bed: &Bed) -> Result<Option<String>>;

    /// Restores the master from its first shadow, to the end. False where the system cannot.
    ///
    /// # Errors
    /// Where it can, but fails.
    fn restore(&mut self, _bed: &Bed) -> Result<bool> {
        Ok(false)
    }

    /// Takes it away; the disks are free again. Delays are 0.
    ///
    /// # Errors
    /// Where something is still in use.
    fn remove(self: Box<Self>, bed: &Bed) -> Result<()>;
}

/// Shell: `stamp WORD` prints the word and the time since boot.
const STAMP: &str = "stamp() { echo $1 $(cut -d' ' -f1 /proc/uptime); }";
