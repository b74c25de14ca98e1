//! Programs of this workspace, linked so that they run in any machine.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the program of the workspace package `package` in release mode, linked statically, and returns its path.
///
/// # Errors
/// Where it does not build.
pub fn static_binary(package: &str) -> Result<PathBuf> {
    static_program(package, package)
}

/// Like [`static_binary`], for a package whose program has another name.
///
/// # Errors
/// Where it does not build.
pub fn static_program(package: &str, program: &str) -> Result<PathBuf> {
    built_once(package, "--bin", program, None)
}

/// Like [`static_binary`], with the feature that lets tests ask for faults.
///
/// # Errors
/// Where it does not build.
pub fn static_binary_with_faults(package: &str) -> Result<PathBuf> {
    built_once(package, "--bin", package, Some("faults"))
}

/// Like [`static_binary`], for an example of a package.
///
/// # Errors
/// Where it does not build.
pub fn static_example(package: &str, example: &str) -> Result<PathBuf> {
    built_once(package, "--example", example, None)
}

fn built_once(package: &str, kind: &str, program: &str, feature: Option<&str>) -> Result<PathBuf> {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let name = feature.map_or_else(|| program.to_owned(), |feature| format!("{program}-{feature}"));
    if let Some(path) = built.get(&name) {
        return Ok(path.clone());
    }
    let context = || format!("building {name} statically");
    let mut path = build(package, kind, program, feature).with_context(context)?;
    if feature.is_some() {
        // The next build of the program without it takes the place.
        let kept = path.with_file_name(&name);
        std::fs::copy(&path, &kept).with_context(context)?;
        path = kept;
    }
    built.insert(name, path.clone());
    Ok(path)
}

fn build(package: &str, kind: &str, program: &str, feature: Option<&str>) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--target", TARGET]);
    command.args(["--package", package, kind, program, "--message-format", "json-render-diagnostics"]);
    command.args(feature.into_iter().flat_map(|feature| ["--features", feature]));
    // Flags of the caller come before those of the environment in cargo's eyes; here only ours may count.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.current_dir(workspace()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo without output")?;
    let mut path = None;
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == program
        {
            path = artifact.executable.or(path);
        }
    }
    ensure!(child.wait()?.success(), "cargo failed");
    Ok(path.context("cargo made no such program")?.into())
}

/// The folder of the workspace this was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
