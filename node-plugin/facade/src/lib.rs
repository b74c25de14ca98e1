#![forbid(unsafe_code)]
//! The facade: what the operator and the console may ask of a node.
//!
//! ```text
//!   umbra-operator        console, kubectl umbra       root of the node
//!       | Client: TCP, mutual TLS  |                        | Unix socket
//!       +------------+-------------+                        |
//!                    v                                      v
//!   listen     who is it? (certificate, peer)  ------------->
//!   server     may it?  is its fence the newest?  then the call of the platform
//!                    v
//!              impl Platform: the client of umbra-io, the fake in tests
//! ```
//!
//! What is asked and answered are the types of [`umbra_platform`]; this crate adds who may ask ([`caller`]), the fence of
//! the leader that asks ([`keeper`]), the transport ([`credentials`], [`listen`]) and what the node itself is ([`node`]).
//!
//! The facade keeps nothing but the fence. What became of a call is asked of the platform, which records each request
//! before its effect and its answer after it; so a restart of the node's process turns no "done" into "unknown", and there
//! is no second log that could contradict the first. Until the platform has a call on record, the server itself says that
//! it runs.
//!
//! Certificates are files that somebody writes. Where the operator issues them, a process asks for its own ([`request`])
//! and writes the files itself ([`folder`]).

pub mod call;
pub mod caller;
pub mod client;
pub mod credentials;
pub mod error;
pub mod fence;
pub mod folder;
pub mod identity;
pub mod keeper;
pub mod life;
pub mod listen;
pub mod node;
pub mod request;
pub mod server;
pub mod wire;

pub use caller::Caller;
pub use client::{Client, ClientError};
pub use credentials::{CredentialFiles, Credentials};
pub use error::FacadeError;
pub use fence::Fence;
pub use folder::CredentialFolder;
pub use keeper::FenceKeeper;
pub use life::Life;
pub use request::SigningRequest;
pub use server::{Facade, serve};
