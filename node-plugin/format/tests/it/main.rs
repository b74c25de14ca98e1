//! The format against its golden images, and against bytes that nobody would write.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod features;
mod golden;
mod hostile;
mod samples;
mod volume;
