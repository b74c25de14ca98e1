//! Umbra measured against the device alone, dm-snapshot and dm-thin, on the same disks in one run.
//!
//! Two kinds of figures, both independent of how fast the host is:
//!
//! * **operations**: reads, writes, flushes and bytes of all disks per request, by the kernel's counters;
//! * **times in device operations**: every disk is slowed down until a read, a write and a flush take the same, long
//!   time D each; what a request takes is then the number of operations that it waits for one after the other.
//!
//! ```text
//!  xtask ── run ── Bed: a machine with two families of disks ── System: raw, dm-snapshot, dm-thin, Umbra
//!                   └ Books: what disks did        └ plan: cases        └ scoreboard: promises and verdicts
//! ```
//!
//! A figure that misses its target is printed as such; only what broke is an error.

pub mod bed;
pub mod counts;
pub mod interruptions;
pub mod iolog;
pub mod plan;
pub mod report;
pub mod run;
pub mod samples;
pub mod scoreboard;
pub mod systems;

use anyhow::Result;

use crate::bed::Bed;
use crate::report::Report;
use crate::run::Extent;

/// How long a slowed device operation takes, in milliseconds. From 50 on the kernel's delay uses a timer instead of a
/// thread that spins; more only takes longer.
pub const UNIT_MS: u32 = 60;

/// Boots a machine and measures everything.
///
/// # Errors
/// Where something broke.
pub fn run(extent: &Extent) -> Result<Report> {
    let mut bed = Bed::boot(UNIT_MS)?;
    let measured = run::everything(&mut bed, extent)?;
    let report = Report::new(bed.kernel()?, bed.unit_ms(), measured);
    bed.finish()?;
    Ok(report)
}
