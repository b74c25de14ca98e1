//! A deterministic simulator of the engine on disks that crash, fail, hang and reorder.
//!
//! A seed makes a [`plan`], a [`life`] carries it out against the real engine, executor and recovery, and an
//! [`oracle`] that knows nothing of how they work judges everything that comes back. [`run`] does that for many
//! seeds and shortens what fails; [`sweep`] crashes one life at each of its operations; with a rule of the engine
//! switched off a run must fail, which shows that all of this can see.
#![forbid(unsafe_code)]

pub mod life;
pub mod node;
pub mod notes;
pub mod oracle;
pub mod plan;
pub mod run;
pub mod stamp;
pub mod sweep;
