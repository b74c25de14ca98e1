//! One module for each command: what it asks for, and how its answer reads.

pub(crate) mod completion;
pub(crate) mod cut;
pub(crate) mod devices;
pub(crate) mod events;
pub(crate) mod grant;
pub(crate) mod group;
pub(crate) mod node;
pub(crate) mod ops;
mod requests;
pub(crate) mod restore;
pub(crate) mod set;
pub(crate) mod size;
pub(crate) mod status;
pub(crate) mod takeover;
pub(crate) mod tree;
mod values;
pub(crate) mod version;
pub(crate) mod wait;
