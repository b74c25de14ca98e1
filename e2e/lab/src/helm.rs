//! Helm, which installs charts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::go::Go;
use crate::{binaries, cache, progress};

/// The release; `helm/go.mod` pins it and what it is made of.
pub const RELEASE: &str = "v4.3.1";

/// The program, built the first time.
///
/// # Errors
/// Where it cannot be fetched or built.
pub fn program() -> Result<PathBuf> {
    let module = binaries::workspace().join("e2e/lab/helm");
    let read = |name: &str| fs::read_to_string(module.join(name)).with_context(|| name.to_owned());
    let folder = cache::entry("helm", &[RELEASE, &read("go.mod")?, &read("go.sum")?], |into| {
        progress::step(format_args!("building Helm {RELEASE}"), || {
            Go::open()?.build(&module, "helm.sh/helm/v4/cmd/helm", "-s -w", &into.join("helm"))
        })
    })?;
    Ok(folder.join("helm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_one_that_is_built() {
        let module = fs::read_to_string(binaries::workspace().join("e2e/lab/helm/go.mod")).unwrap();
        assert!(module.contains(&format!("helm.sh/helm/v4 {RELEASE}")), "go.mod builds another release");
    }
}
