//! What a block device is, and whether it may be used for a role (E21, invariant 10).
//!
//! A path or a number says where something was found, not what it is: `/dev/sdb` and ublk numbers name another
//! device after a reboot. This crate is the one place where a device is recognised and the one place where it is
//! decided on:
//!
//! ```text
//!  /sys /proc /dev ──gather──> DeviceFacts ──┐
//!  first and last MiB ──content──┘           ├──decide──> Verdict | Refusal
//!  records: what is expected, what is in use ┘
//! ```
//!
//! - [`gather`] looks: hardware names, partition and disk, size and blocks, what a device stands on and what
//!   stands on it, mounts of every mount namespace, swap, who has it open or mapped. What cannot be looked at is
//!   part of the facts ([`Blind`]): it is never taken for "nobody".
//! - [`signature`] and [`content`] read the first and the last MiB: file systems, volume managers, partition
//!   tables, and Umbra's own label and superblock.
//! - [`decide()`] is pure: facts in, verdict out. Commands (`attach`, `enable`), a start after a reboot and the
//!   simulator, which makes facts up, ask the same function. [`candidates`] and [`locate`] find a recorded device
//!   wherever it went.
//! - [`proof`] says whether anybody has a device open: through a partition, a loop device, a mapping.
//! - [`FsGeneration`] notices a file system that was written while Umbra was not there.
//!
//! What it is not: it opens nothing for writing and claims nothing. A claim (`O_EXCL`, `umbra-uring`) keeps others
//! out after the decision, and finds the few holders that no file of the kernel shows. Facts are of the moment in
//! which they were gathered: who acts on a verdict claims first, gathers, and decides with the claim held.

#![forbid(unsafe_code)]

pub mod content;
mod decide;
mod edges;
mod facts;
pub mod gather;
mod generation;
mod hardware;
pub mod proof;
pub mod signature;
mod sysfs;
#[cfg(test)]
mod testing;

pub use content::{Content, Contents};
pub use decide::{
    Configured, Consent, Expected, Fit, Free, Grown, Known, Marks, Ours, Owner, OwnerKind, Presented,
    PresentedBy, Question, Refusal, Role, Verdict, Wanted, World, WrittenOutside, candidates, decide, locate,
};
pub use edges::{EDGE_BYTES, Edges};
pub use facts::{Blind, DeviceFacts, DeviceKey, Holder, Layer, Used};
pub use generation::FsGeneration;
pub use hardware::{DeviceKind, Identity};
pub use signature::{Signature, SignatureId};
pub use sysfs::{BlockDir, DeviceNumber, Roots};
