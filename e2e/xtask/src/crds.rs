//! `cargo xtask crds`: writes what is generated from the kinds of the API.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;

const CRDGEN: &str = "crdgen";

/// Writes manifests and reference.
pub(crate) fn run() -> Result<ExitCode> {
    cargo::pass_on(CRDGEN, &[])
}

/// Whether they are what the kinds say.
pub(crate) fn check() -> Result<bool> {
    cargo::follow(&mut cargo::program(CRDGEN, &["--check"]), |_| ())
}
