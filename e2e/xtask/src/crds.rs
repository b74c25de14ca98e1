//! `cargo xtask crds`: writes what is generated from the kinds of the API.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

const CRDGEN: &[&str] = &["run", "--quiet", "--package", "umbra-crds", "--bin", "crdgen", "--"];

/// Writes manifests and reference.
pub(crate) fn run() -> Result<ExitCode> {
    Ok(if cargo::run(CRDGEN)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether they are what the kinds say.
pub(crate) fn check() -> Result<bool> {
    cargo::run(&[CRDGEN, &["--check"]].concat())
}
