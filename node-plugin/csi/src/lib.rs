#![forbid(unsafe_code)]
//! CSI on a node: how pods get masters and shadows, and who uses which.
//!
//! ```text
//!  kubelet ──> Identity, Node (gRPC) ──> Volumes ──looks──> World: mount table, device, what lies on it
//!                    │                      │  decide: pure, what is asked and seen to steps or a refusal
//!                    └─ umbra-io's status   └──steps──> World: mounts; Ledger: one file per volume
//! ```
//!
//! - [`Volumes`] carries out one call at a time for each volume. What a call comes to is decided from what is mounted and what
//!   the [`Ledger`] says, so a call that was cut off anywhere is finished by the same call again.
//! - The [`Ledger`] is the truth for "in use", and keeps users out of a volume that an operation has sealed.
//! - [`serve()`] listens for the kubelet, and tells it that there is a plugin.
//!
//! What it is not: it makes no file system and no volume, and it knows nothing of Kubernetes but its kubelet.

mod authority;
mod content;
mod decide;
mod handle;
mod ledger;
mod linux;
mod mode;
mod path;
pub mod record;
mod refusal;
mod request;
mod serve;
mod service;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod volume;
mod volumes;
pub mod wire;
mod world;

pub use handle::VolumeHandle;
pub use ledger::{InUse, Ledger};
pub use linux::Linux;
pub use mode::AccessMode;
pub use path::PlacePath;
pub use refusal::Refusal;
pub use request::{Access, Leave, Publish, SHADOW_ACCESS, Stage};
pub use serve::{BindError, Doors, ServeError, Sockets, serve};
pub use service::{DRIVER, Plugin, TOPOLOGY};
pub use volume::Volume;
pub use volumes::Volumes;
pub use world::{Device, Effect, FileSystem, Mounted, Node, Place, Step, Usage, World};
