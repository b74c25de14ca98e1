//! This node's certificate: files that somebody else writes, or, with `--tls-builtin`, one that the operator signs.
//!
//! ```text
//!   ConfigMap umbra-authorities ──each minute──> ca.crt ─┐
//!                                                        ├─ usable, and in the first two thirds of its life? ── yes ──> rest
//!   what lies in the folder ───────────────> tls.pem ────┘            │ no
//!                                                                     v
//!      new key, CertificateSigningRequest ──> wait ──> issued? ──> usable? ──> tls.pem
//!                                              │          └ denied, failed ─┐     │ no
//!                                              └ unanswered ────────────────┴─────┴──> again later, with a new key
//! ```
//!
//! What serves is served with for as long as it is usable, whether or not the cluster answers: a node that begins anew
//! without one takes what lies in the folder. Where nothing usable lies there, callers of other hosts wait for the first
//! certificate, and nobody else does: pods get their volumes.

mod issuing;
mod keep;
mod options;
mod report;

pub(crate) use keep::{Keeper, keep};
pub(crate) use options::{Options, Way};
pub(crate) use report::Report;
