//! `kubectl umbra`, run as a user runs it.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use umbra_lab::{progress, static_binary};

use super::server::Server;

const PLUGIN: &str = "kubectl-umbra";

/// Builds the program, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    progress::step(format_args!("building {PLUGIN}"), || static_binary(PLUGIN)).map(drop)
}

/// What the plugin wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program as it is shipped.
pub(crate) fn umbra(command: &mut Command, arguments: &[&str]) -> Result<Said> {
    said(begin(command, arguments)?)
}

/// The folder with the program.
pub(crate) fn folder() -> Result<PathBuf> {
    let program = static_binary(PLUGIN)?;
    program.parent().map(Path::to_owned).context("a program without a folder")
}

/// A `PATH` in which `kubectl` finds by its name the plugin that is in a folder.
pub(crate) fn path(folder: PathBuf) -> Result<OsString> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths([folder].into_iter().chain(env::split_paths(&inherited)))?)
}

/// Begins to run the program.
pub(crate) fn begin(command: &mut Command, arguments: &[&str]) -> Result<Child> {
    let command = command.arg("umbra").args(arguments).env("PATH", path(folder()?)?);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Runs the program on a terminal, on which this is typed.
pub(crate) fn typed(server: &Server, arguments: &[&str], text: &str) -> Result<Said> {
    let program = static_binary(PLUGIN)?;
    let host = server.plugin_host();
    let environment = host.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let line = format!("{} {}", program.display(), arguments.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).envs(environment);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no way to type")?.write_all(text.as_bytes())?;
    said(child)
}

/// What the program wrote, once it has ended.
pub(crate) fn said(child: Child) -> Result<Said> {
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
}

pub(crate) fn good(server: &Server, arguments: &[&str]) -> Result<String> {
    let said = umbra(&mut server.plugin_host(), arguments)?;
    ensure!(said.code == Some(0), "kubectl umbra {}: {:?}\n{}", arguments.join(" "), said.code, said.stderr);
    Ok(said.stdout)
}

/// The line with this in it.
pub(crate) fn line<'a>(text: &'a str, part: &str) -> Result<&'a str> {
    text.lines()
        .find(|line| line.contains(part))
        .with_context(|| format!("no line with {part:?} in:\n{text}"))
}
