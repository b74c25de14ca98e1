//! `kubectl umbra`: what Umbra does, from the command line.
//!
//! Every command gathers data and hands them to [`output`], which shows them as a table, as YAML, as JSON or as names. Exit
//! codes: 0 done, 1 wrong usage, 2 failed, 3 refused by a guard, 4 timed out.

#![forbid(unsafe_code)]

mod cluster;
mod commands;
mod error;
mod output;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use error::Failure;
use output::Format;

/// Point-in-time shadows of raw block volumes.
#[derive(Debug, Parser)]
#[command(name = "kubectl-umbra", bin_name = "kubectl umbra", version, disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands, as `kubectl` has it.
#[derive(Debug, Args)]
struct Global {
    #[command(flatten)]
    cluster: cluster::Options,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Format,
    /// Leave the headings of tables out.
    #[arg(long, global = true)]
    no_headers: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on one screen: masters with their sets, what was done lately, what is the matter.
    Status(commands::status::Options),
    /// How large the volumes of a set must be.
    Size(commands::size::Options),
    /// Which version this is, and which kinds it knows.
    Version,
    /// Writes what makes a shell complete the command line.
    Completion(commands::completion::Options),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // What cannot be printed has nobody to read it.
            error.print().ok();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(error::USAGE) };
        }
    };
    match run(&arguments) {
        Ok(text) => written(&text),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn written(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: standard output: {error}");
            ExitCode::from(error::FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn run(arguments: &Arguments) -> Result<String, Failure> {
    let style = output::Style { format: arguments.global.output, headings: !arguments.global.no_headers };
    match &arguments.command {
        Command::Status(options) => {
            output::show(&commands::status::run(&arguments.global.cluster, options)?, style)
        }
        Command::Size(options) => output::show(&commands::size::run(options)?, style),
        Command::Version => output::show(&commands::version::run(), style),
        Command::Completion(options) => commands::completion::run(Arguments::command(), options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
