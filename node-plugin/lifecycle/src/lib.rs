#![forbid(unsafe_code)]
//! What umbra-io decides about masters and sets: attach, enable, disable, detach, cut, and every start.
//!
//! ```text
//!   service ──> change/{attach, enable, disable, detach, cut, restore, outside} ──┐
//!   service ──> start ──> start_set, undecided ──> recognise, present ────────────┴──> registry, state ──> World
//! ```
//! A call comes in at `service`, becomes a change with the turn of its master, and acts on the world by steps each of
//! which may fail, hang, or be the last before a kill. The same code runs on Linux, where the world is `umbra-io`'s, and
//! in the node simulator, where the world is one seed.
//!
//! It opens no device and knows neither ublk nor io_uring. Time is tokio's.

mod change;
mod deadline;
pub mod files;
mod host;
mod look;
pub mod mutation;
mod notice;
mod obstacle;
mod present;
mod recognise;
mod refused;
mod registry;
mod report;
mod request;
mod service;
#[cfg(test)]
mod silent;
mod start;
mod start_set;
pub mod state;
mod tag;
mod undecided;
mod words;
pub mod world;

pub use host::Deaths;
pub use service::Service;
pub use words::{device_path, set_name};
