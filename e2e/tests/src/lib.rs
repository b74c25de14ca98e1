//! Scenarios on a real kernel, in virtual machines, and the story that `cargo xtask quickstart` tells.

pub mod node;
pub mod scenarios;
pub mod story;
