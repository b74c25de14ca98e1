#![forbid(unsafe_code)]
//! umbra-io: the interposer, and the commands that go with it.
//!
//! Each subcommand is a module with its arguments as a clap type and one function that runs it.

mod ctl;

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
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Ctl(ctl) => ctl::main(&ctl),
    }
}
