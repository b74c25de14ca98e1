//! Programs of this workspace, linked so that they run in any machine.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The data plane. Together with the simulators it would be built with the mutations that these switch on.
const DATA_PLANE: &str = "umbra-io";

/// Cargo, about to build for any machine: optimised, and linked statically.
///
/// Everything is built this way and, but for the data plane, all members of the workspace with one set of features: tests, the
/// programs that run them and those that are tried are made of the same parts, each built once.
#[must_use]
pub fn cargo(verb: &str) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args([verb, "--release", "--target", TARGET]);
    // Flags of the caller come before those of the environment in cargo's eyes; here only ours may count.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What cargo has told this program about itself would be news to build scripts that ask for it, and much be built again.
    let of_this = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this)) {
        command.env_remove(name);
    }
    command.current_dir(workspace()).stdin(Stdio::null());
    command
}

/// The folder of what [`cargo`] builds, in a target folder.
#[must_use]
pub fn built_in(target: &Path) -> PathBuf {
    target.join(TARGET).join("release")
}

/// Builds a program of the workspace, and returns its path.
///
/// # Errors
/// Where it does not build.
pub fn static_binary(program: &str) -> Result<PathBuf> {
    built_once("--bin", program, None)
}

/// Like [`static_binary`], with the feature that lets tests ask for faults.
///
/// # Errors
/// Where it does not build.
pub fn static_binary_with_faults(program: &str) -> Result<PathBuf> {
    built_once("--bin", program, Some("faults"))
}

/// Like [`static_binary`], for an example of a package.
///
/// # Errors
/// Where it does not build.
pub fn static_example(example: &str) -> Result<PathBuf> {
    built_once("--example", example, None)
}

fn built_once(kind: &str, program: &str, feature: Option<&str>) -> Result<PathBuf> {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let name = feature.map_or_else(|| program.to_owned(), |feature| format!("{program}-{feature}"));
    if let Some(path) = built.get(&name) {
        return Ok(path.clone());
    }
    let context = || format!("building {name} statically");
    let mut path = build(kind, program, feature).with_context(context)?;
    if feature.is_some() {
        // The next build of the program without it takes the place.
        let kept = path.with_file_name(&name);
        fs::copy(&path, &kept).with_context(context)?;
        path = kept;
    }
    built.insert(name, path.clone());
    Ok(path)
}

fn build(kind: &str, program: &str, feature: Option<&str>) -> Result<PathBuf> {
    let mut command = cargo("build");
    command.args(["--quiet", kind, program]);
    if program == DATA_PLANE {
        command.args(["--package", DATA_PLANE]);
    }
    command.args(feature.into_iter().flat_map(|feature| ["--features", feature]));
    command.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo without output")?;
    let mut path = None;
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == program
            && let Some(executable) = artifact.executable
        {
            path = Some(executable.into());
        }
    }
    ensure!(child.wait()?.success(), "cargo failed");
    path.with_context(|| format!("cargo did not make {program}"))
}

/// The folder of the workspace this was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
