//! Scenarios on a real kernel, in virtual machines, and the story that `cargo xtask quickstart` tells; cases against a real
//! API server, and the two together: a cluster whose nodes are machines.

pub mod api;
pub mod cluster;
mod kubernetes;
pub mod node;
pub mod scale;
pub mod scenarios;
pub mod story;
