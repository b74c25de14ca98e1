//! `completion`: what makes a shell complete the command line.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::error::Failure;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// The script, for the program's own name: as a plugin `kubectl` completes it by way of that.
pub(crate) fn run(mut command: Command, options: &Options) -> Result<String, Failure> {
    let mut script = Vec::new();
    generate(options.shell, &mut command, "kubectl-umbra", &mut script);
    String::from_utf8(script)
        .map_err(|error| Failure::Failed(format!("completion for {}: {error}", options.shell)))
}
