#![forbid(unsafe_code)]
//! umbra-operator: see the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Brings what the cluster's objects ask for about on its nodes.
#[derive(Parser)]
#[command(name = "umbra-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs, and leads when its turn comes.
    Run(umbra_operator::run::Run),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(run) => umbra_operator::run::main(&run),
    }
}
