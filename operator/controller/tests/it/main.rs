//! The operator against a cluster in memory and platforms in memory, both of which can break between any two calls.

mod bench;
mod cluster;
mod guards;
mod lead;
mod life;
mod replay;
mod sweep;
