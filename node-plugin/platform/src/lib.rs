#![forbid(unsafe_code)]
//! The platform API: what the management facade may ask of an interposer.
//!
//! ```text
//!   umbra-node (facade)      umbra-io ctl (people, tests)
//!          |  Client                |  Client
//!          +---------- Unix socket (gRPC) ----------+
//!                                                   |  serve()
//!                                            impl Platform      umbra-io; the fake in tests
//! ```
//!
//! [`Platform`] is the contract. Its requests and answers are the domain types of [`call`], [`status`] and
//! [`map`]; they can only be built from checked parts, so an implementation never validates a name, a
//! path or a bound again. The generated types of the wire are for this crate, and for the facade, which speaks of the
//! same things.
//!
//! Words (master, shadow, bitmap volume, volume set, cut, epoch, chunk, held, differs, pending, lost) mean
//! here what they mean everywhere in Umbra.
//!
//! This crate knows neither ublk nor io_uring, opens no device and keeps no state.

pub mod call;
pub mod client;
pub mod connection;
pub mod ending;
pub mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod id;
pub mod map;
pub mod platform;
mod remote;
pub mod server;
pub mod socket;
pub mod status;
pub mod time;
pub mod value;
pub mod wire;

pub use client::{CallDeadlines, Client, ClientError};
pub use error::PlatformError;
pub use platform::{Platform, StatusStream};
pub use server::serve;
pub use socket::Socket;
