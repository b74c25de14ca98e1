//! `csi-sanity`, which asks of a CSI driver what the specification promises.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::go::Go;
use crate::{binaries, cache, progress};

/// The release; `csi-sanity/go.mod` pins it and what it is made of.
pub const RELEASE: &str = "v5.5.0";

/// The program, built the first time.
///
/// # Errors
/// Where it cannot be fetched or built.
pub fn program() -> Result<PathBuf> {
    let module = binaries::workspace().join("e2e/lab/csi-sanity");
    let read = |name: &str| fs::read_to_string(module.join(name)).with_context(|| name.to_owned());
    let folder = cache::entry("csi-sanity", &[RELEASE, &read("go.mod")?, &read("go.sum")?], |into| {
        progress::step(format_args!("building csi-sanity {RELEASE}"), || {
            let package = "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity";
            Go::open()?.build(&module, package, "-s -w", &into.join("csi-sanity"))
        })
    })?;
    Ok(folder.join("csi-sanity"))
}
