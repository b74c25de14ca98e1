//! A simulator of the node around the engine.
//!
//! The real code of attach, enable, disable, detach, cut, start and recovery (`umbra-lifecycle`, with the real executor
//! and engine below it) runs on a simulated machine: disks that are renamed, exchanged, late, gone, broken or hung; the
//! ublk driver with devices of other servers; a state directory whose disk fills and hangs and whose records rot.
//! A process may be killed, and the power cut, before and after every step. Time is tokio's, stopped.
//!
//! ```text
//!   plan ──> life ──> calls, io ──> Service ──> world, files, reactor ──> machine
//!                └──────────────> model: what may be true <──────────────────┘
//! ```

mod calls;
mod disk;
mod driver;
mod files;
mod io;
mod life;
mod machine;
mod model;
pub mod mutants;
mod outside;
pub mod plan;
mod reactor;
pub mod run;
pub mod sweep;
mod world;

pub use life::{Life, Tally};
pub use machine::Fate;
