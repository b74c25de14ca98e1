#![forbid(unsafe_code)]
//! umbra-node: the facade of a node, in front of its interposer, and the CSI plugin by which pods get its volumes.
//!
//! It holds no state that matters: the fence and the ledger of volumes in use are in files, and everything else is known by
//! umbra-io, by the kernel's mount table, or by nobody. So it may be killed and started anew at any moment, and no I/O waits
//! for it.
//!
//! Each subcommand is a module with its arguments as a clap type and one function that runs it.

mod certificates;
mod cluster;
mod csi;
mod facts;
mod inventory;
mod logging;
mod metrics;
mod preflight;
mod publish;
mod retry;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The facade of a node: what the operator and the console ask of its interposer.
#[derive(Debug, Parser)]
#[command(name = "umbra-node", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the facade until told to stop. The interposer may come and go meanwhile.
    Run(Box<run::Run>),
    /// Say what keeps this node from serving devices, and what to do about it.
    Preflight,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(run) => run::main(&run),
        Command::Preflight => preflight(),
    }
}

fn preflight() -> ExitCode {
    let findings = preflight::judge(&facts::gather());
    if findings.is_empty() {
        println!("nothing found that keeps this node from serving devices");
        return ExitCode::SUCCESS;
    }
    for finding in findings {
        println!("{}: {}\n  {}", finding.reason.as_str(), finding.what, finding.remedy);
    }
    ExitCode::FAILURE
}
