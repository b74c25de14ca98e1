//! What a command would do, and what is the matter, decided from objects alone.
//!
//! The command line and the console show the same things; here they are decided once, without a network and without a clock:
//! objects and the time of day go in, data come out.

#![forbid(unsafe_code)]

pub mod picture;
pub mod size;
mod words;

pub use picture::{Objects, Picture, picture};
pub use size::{Question, SizeError, Sizes, size};
pub use words::{age, bytes};
