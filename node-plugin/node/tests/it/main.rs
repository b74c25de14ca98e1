//! umbra-node as a process: in front of a platform that comes and goes, killed and started anew.

#[path = "../../../facade/tests/it/authority.rs"]
mod authority;
mod process;
mod runs;
