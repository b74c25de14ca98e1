//! Keeps `ImagingNode/<node name>` up to date: what this node is, for the operator and for people.
//!
//! ```text
//!  inventory, preflight, fence, umbra-io ──observe──> Observed ──┐
//!  API server ──read────────────────────────────────> stored ────┴──next──> Rest | Write | Refuse
//! ```
//!
//! It looks again and again, and writes only what is new: a node at rest costs the cluster two small reads for each
//! look. A write names the version of the object that it was decided on, so that of two machines with one name the
//! second finds the first.
//!
//! Nothing else of the node waits for it: the facade serves whether or not there is a cluster that can be told.

mod cluster;
mod keep;
mod options;
mod report;
mod status;

pub(crate) use keep::{Publisher, keep};
pub(crate) use options::Options;
pub(crate) use report::{Ended, Report};
