//! Programs the tasks need beside the toolchain: installed where they are missing, so that a fresh machine will do.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use umbra_lab::{binaries, cache, host, progress, space};

const CARGO_DENY: &str = "0.20.2";

/// What it takes to build the workspace.
pub(crate) fn ensure_build_tools() -> Result<()> {
    host::ensure_commands(&[("cc", "gcc")])
}

/// Programs that tests of the host's own devices start.
pub(crate) fn ensure_file_systems() -> Result<()> {
    host::ensure_commands(&[("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs")])
}

/// Room for what all tiers build, download and write from nothing, so that a full disk is said at the beginning.
pub(crate) fn ensure_space() -> Result<()> {
    const GIB: u64 = 1 << 30;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| binaries::workspace().join("target"), PathBuf::from);
    let empty = |folder: &PathBuf| !binaries::built_in(folder).exists();
    space::ensure(&target, if empty(&target) { 12 * GIB } else { 4 * GIB })?;
    let lab = cache::root()?.join("lab");
    space::ensure(&lab, if lab.exists() { GIB } else { 6 * GIB })?;
    space::ensure(&env::temp_dir(), 4 * GIB)
}

/// Components of the toolchain; `rust-toolchain.toml` names them, but a toolchain installed earlier may lack them.
pub(crate) fn ensure_components() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let present =
            crate::cargo::command(&[tool, "--version"]).output().is_ok_and(|out| out.status.success());
        if !present {
            let add = ["component", "add", component];
            host::run(Command::new("rustup").args(add))
                .with_context(|| format!("cargo {tool} is missing"))?;
        }
    }
    Ok(())
}

/// The dependency checker, built once into the cache.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let folder = cache::entry("cargo-deny", &[CARGO_DENY], |into| {
        progress::step(format_args!("building cargo-deny {CARGO_DENY}, some minutes, once"), || {
            let crate_ = format!("cargo-deny@{CARGO_DENY}");
            let mut command =
                crate::cargo::command(&["install", "--quiet", "--locked", "--debug", &crate_, "--root"]);
            command.arg(into);
            // It runs for seconds, so time to build counts, not speed; and its own target folder would outlive it.
            command.env("CARGO_PROFILE_DEV_DEBUG", "false").env_remove("CARGO_TARGET_DIR");
            let status = command.status().context("cannot start cargo")?;
            ensure!(status.success(), "cargo-deny does not build");
            Ok(())
        })
    })?;
    Ok(folder.join("bin/cargo-deny"))
}
