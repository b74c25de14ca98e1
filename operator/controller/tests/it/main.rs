//! The operator against a cluster in memory and platforms in memory, both of which can break between any two calls.

mod authority;
mod bench;
mod cluster;
mod controllers;
mod grants;
mod groups;
mod guards;
mod lead;
mod life;
mod replay;
mod sweep;
mod takeover;
