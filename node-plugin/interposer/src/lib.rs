#![forbid(unsafe_code)]
//! umbra-io: the interposer, and the commands that go with it.
//!
//! Each subcommand is a module with its arguments as a clap type and one function that runs it.

mod ctl;
mod failure;
#[cfg(feature = "faults")]
mod faults;
mod files;
pub mod heartbeat;
pub mod logging;
mod metrics;
mod offline;
mod panics;
mod run;
pub mod supervise;
mod world;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Umbra's interposer: point-in-time shadows of raw block volumes.
#[derive(Debug, Parser)]
#[command(name = "umbra-io", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a running interposer, or tell it what to do.
    Ctl(ctl::Ctl),
    Check(offline::Check),
    Inspect(offline::Inspect),
    Size(offline::Size),
    /// Be the interposer: serve masters and their sets until told to stop. What is served is opened by it alone.
    Run(run::Run),
    /// Start the interposer, watch it, and start it again when it dies or hangs.
    Supervise(supervise::Supervise),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    // Not for people, so it is not among the commands: this program once more, as the hands of another.
    if let Some(code) = umbra_ublk::serve_helper() {
        return code;
    }
    match Cli::parse().command {
        Command::Ctl(ctl) => ctl::main(&ctl),
        Command::Check(check) => offline::check(&check),
        Command::Inspect(inspect) => offline::inspect(&inspect),
        Command::Size(size) => offline::size(&size),
        Command::Run(run) => run::main(&run),
        Command::Supervise(args) => supervise::main(&args),
    }
}
