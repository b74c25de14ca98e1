//! Which block devices the node has, by which name each stays known, and which of them can never be given to anybody.
//!
//! ```text
//!  umbra-identity: /sys /proc /dev ──┐
//!  umbra-io: what is configured ─────┼──gather──> Seen ──take_stock──> Inventory
//!  options: what is allowed ─────────┘
//! ```
//!
//! It is for people and for the operator, who choose a device by it. It decides nothing: the facade holds to what is allowed,
//! and `umbra-io` looks again, with the device claimed, before it takes one. What only a refused claim would show (a pool of ZFS, a target) is not
//! seen here, because nothing is opened and nothing is claimed.

mod denied;
mod gather;
mod names;
mod rules;
mod stock;

pub(crate) use gather::{GatherError, gather};
pub(crate) use names::device_pattern;
pub(crate) use rules::{Rules, is_allowed};
