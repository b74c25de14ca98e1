//! The tier of models: every order of what ports and owner do to the bits they share.

use std::env;

use anyhow::Result;
use umbra_lab::binaries;

use crate::tally::Tally;
use crate::{cargo, tally};

/// Builds the engine with loom's atomics in place of the standard library's and runs what needs them. In a target
/// folder of its own: with other flags everything is built anew.
pub(crate) fn run() -> Result<Tally> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| binaries::workspace().join("target"), |folder| binaries::workspace().join(folder));
    let mut command = cargo::command(&["test", "--release", "--package", "umbra-engine", "--lib"]);
    command.arg("--target-dir").arg(target.join("loom")).arg("shared::model");
    let mut flags = env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" --cfg loom");
    // The encoded flags would win over these.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
    let mut tally = Tally::default();
    let success = cargo::follow(&mut command, |line| tally += tally::cargo_test(line).unwrap_or_default())?;
    Ok(tally.closed("tier model", success))
}
