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
    Run(Box<umbra_operator::run::Run>),
    /// Fails while there are objects that need the operator for their end.
    RemovalCheck(umbra_operator::removal::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(run) => umbra_operator::run::main(&run),
        Command::RemovalCheck(options) => umbra_operator::removal::main(&options),
    }
}
