//! A process of its own for what may hang in the kernel.
//!
//! A control command, or a look at a device's partition table, can stay in the kernel for ever, and then no signal
//! ends the *process* that asked: START_DEV reads the partition table from a server that may die meanwhile, and
//! holds the device's lock while it waits. Were that process the one that serves the devices, it would keep their
//! claims, mappings and rings, and nobody could take any of them over. So a small process without devices asks, and
//! if it hangs, it hangs alone: it is left behind and another takes its place.
//!
//! ```text
//! umbra-io ── Frame ──> helper: one question at a time ──> kernel
//!     ^                    │
//!     └───── Answer <──────┘   no answer in time: the socket is shut down, the next question goes to a new helper
//! ```
//!
//! The helper is this program again, started with [`ARGUMENT`], so the program's `main` calls
//! [`serve_helper`] before anything else. It ends when its socket does.

pub(crate) mod left;
mod process;
mod serve;
mod wire;

pub(crate) use process::{Helper, Interrupt};
pub use serve::serve_helper;

/// First argument of a helper.
pub(crate) const ARGUMENT: &str = "ublk-helper";
