//! Scenarios on a real kernel, in virtual machines, and the story that `cargo xtask quickstart` tells; cases against a real
//! API server.

pub mod api;
pub mod node;
pub mod scenarios;
pub mod story;
