#![forbid(unsafe_code)]
//! The operator: brings what the cluster's objects ask for about on its nodes.
//!
//! ```text
//!   API server                                            nodes
//!       |  objects             world: cluster, nodes        |  facades
//!       +--------------> reconcile <------------------------+
//!                          |  one loop for every kind
//!          master   set   operation   group      what each kind wants: observe, plan, act
//!                          |
//!          access, grant   publish, takeover   report   which device, for whom; claims; conditions
//!          authority                             the certificates of the nodes, where the operator signs them
//! ```
//!
//! Deciding is apart from doing: `plan` of each kind is a function of what was seen. Everything the operator can ask anything
//! of is behind [`reconcile::World`]; tests put a cluster in memory and a platform in memory there, and break both between any
//! two calls.

pub mod access;
pub mod authority;
pub mod certificates;
pub mod cluster;
pub mod facades;
pub mod grant;
pub mod group;
pub mod kubernetes;
pub mod lead;
pub mod master;
pub mod metrics;
pub mod nodes;
pub mod operation;
pub mod publish;
pub mod reconcile;
pub mod removal;
pub mod report;
pub mod run;
pub mod set;
pub mod takeover;
