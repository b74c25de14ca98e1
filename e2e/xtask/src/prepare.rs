//! `cargo xtask prepare`: what tests and lints take from elsewhere, and would fetch and build when they come to it. In the
//! background of what needs none of it, it costs the time that would be lost anyway.

use std::process::ExitCode;

use anyhow::Result;
use umbra_lab::{csi_sanity, helm, kubernetes};

use crate::tools;

pub(crate) fn run() -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    tools::cargo_deny()?;
    kubernetes::server()?;
    csi_sanity::program()?;
    helm::program()?;
    kubernetes::pods()?;
    Ok(ExitCode::SUCCESS)
}
