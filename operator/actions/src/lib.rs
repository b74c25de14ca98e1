//! What a command would do, and what is the matter, decided from objects alone.
//!
//! The command line and the console show the same things; here they are decided once, without a network and without a clock:
//! objects and the time of day go in, data come out.

#![forbid(unsafe_code)]

pub mod cut;
pub mod devices;
#[cfg(test)]
mod examples;
pub mod group;
mod members;
pub mod operation;
pub mod picture;
pub mod refusal;
pub mod restore;
pub mod safety;
pub mod set;
pub mod size;
pub mod standing;
pub mod takeover;
pub mod tree;
mod words;
pub mod written;

pub use cut::{CutRequest, cut};
pub use picture::{Objects, Picture, picture};
pub use refusal::Refusal;
pub use restore::{RestorePlan, RestoreRequest, restore, undo};
pub use safety::SafetyWish;
pub use size::{Question, SizeError, Sizes, size};
pub use standing::Standing;
pub use words::{age, bytes};
