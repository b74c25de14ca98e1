//! What every tier with a cluster stands on: a control plane with the kinds installed, and Umbra's programs as they are shipped.

pub(crate) mod chart;
pub(crate) mod installation;
pub(crate) mod plugin;
pub(crate) mod programs;
pub(crate) mod server;
