//! Runs cargo, shows what it says while it says it, and reads along.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

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
