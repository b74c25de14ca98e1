//! `csi-sanity`, which asks of a CSI driver what the specification promises.

use std::path::PathBuf;

use anyhow::Result;

use crate::go;

/// The release; `csi-sanity/go.mod` pins it and what it is made of.
pub const RELEASE: &str = "v5.5.0";

/// The program, built the first time.
///
/// # Errors
/// Where it cannot be fetched or built.
pub fn program() -> Result<PathBuf> {
    go::program("csi-sanity", RELEASE, "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity")
}
