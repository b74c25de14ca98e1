//! Runs cargo, shows what it says while it says it, and reads along.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use umbra_lab::binaries;

/// A cargo command in the workspace's folder.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(binaries::workspace()).stdin(Stdio::null());
    command
}

/// Runs it to the end and tells whether it exited with 0.
pub(crate) fn run(arguments: &[&str]) -> Result<bool> {
    follow(&mut command(arguments), |_| ())
}

/// A cargo command that builds as for any machine, which is how everything is built but these tasks.
pub(crate) fn build(verb: &str, arguments: &[&str]) -> Command {
    let mut command = binaries::cargo(verb);
    command.args(arguments);
    command
}

/// A program of the workspace, built first.
pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = build("run", &["--quiet", "--bin", name, "--"]);
    command.args(arguments);
    command
}

/// Runs a program of the workspace in this one's place, as far as anybody can see.
pub(crate) fn pass_on(name: &str, arguments: &[&str]) -> Result<ExitCode> {
    let status = program(name, arguments).stdin(Stdio::inherit()).status().context("cannot start cargo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs a command to the end, passes its standard output on line by line and shows each line to `see`.
pub(crate) fn follow(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    eprintln!("xtask: {}", describe(command));
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut from = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        let mut out = std::io::stdout().lock();
        out.write_all(&line)?;
        out.flush()?;
        see(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(child.wait()?.success())
}

fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    command.get_args().fold(name, |text, word| text + " " + &word.to_string_lossy())
}
