//! What the host must have: a few commands, installed where they are missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::progress;

/// A command, and the Debian package that brings it.
pub type Need<'a> = (&'a str, &'a str);

/// Where a command of the host is, also where an administrator's folders are not in `PATH`.
#[must_use]
pub fn find(command: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(command)).find(|file| file.is_file())
}

/// Installs the packages of those commands that the host lacks.
///
/// # Errors
/// Where something is missing and cannot be installed: not root, not Debian, or no network.
pub fn ensure_commands(needs: &[Need<'_>]) -> Result<()> {
    let missing: Vec<Need<'_>> =
        needs.iter().copied().filter(|(command, _)| find(command).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let list = packages.join(" ");
    ensure!(find("apt-get").is_some(), "this host lacks {list}, and has no apt-get to install them");
    ensure!(rustix::process::geteuid().is_root(), "this host lacks packages: apt-get install {list}");
    progress::step(format_args!("installing {list}"), || {
        run(apt_get().args(["update", "-qq"]))?;
        run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages))
    })?;
    for (command, package) in missing {
        ensure!(find(command).is_some(), "{package} is installed, but there is no {command}");
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Runs a command of the host to its end; its output is shown only where it fails.
///
/// # Errors
/// Where it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    read(command).map(drop)
}

/// Like [`run`], and returns standard output.
///
/// # Errors
/// As [`run`], and where the output is not text.
pub fn read(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?}: {}\n{}\n{}", output.status, tail(&out, 20), tail(&err, 20));
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {command:?}"))
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Copies a file with its holes, by reference where the file system can.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to))
}
