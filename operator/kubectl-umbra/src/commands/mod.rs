//! One module for each command: what it asks for, and how its answer reads.

pub(crate) mod completion;
pub(crate) mod size;
pub(crate) mod status;
pub(crate) mod version;
