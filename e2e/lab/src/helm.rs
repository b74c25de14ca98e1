//! Helm, which installs charts.

use std::path::PathBuf;

use anyhow::Result;

use crate::go;

/// The release; `helm/go.mod` pins it and what it is made of.
pub const RELEASE: &str = "v4.3.1";

/// The program, built the first time.
///
/// # Errors
/// Where it cannot be fetched or built.
pub fn program() -> Result<PathBuf> {
    go::program("helm", RELEASE, "helm.sh/helm/v4/cmd/helm")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::binaries;

    #[test]
    fn the_release_is_the_one_that_is_built() {
        let module = fs::read_to_string(binaries::workspace().join("e2e/lab/helm/go.mod")).unwrap();
        assert!(module.contains(&format!("helm.sh/helm/v4 {RELEASE}")), "go.mod builds another release");
    }
}
