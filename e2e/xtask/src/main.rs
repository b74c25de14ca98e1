//! The project's tasks: `cargo xtask quickstart`, `cargo xtask test`, `cargo xtask lint`, `cargo xtask crds`,
//! `cargo xtask lab`, `cargo xtask bench`.
//!
//! A task installs what it needs and the machine lacks, streams what its programs say, and where it counts anything
//! its last line is `N passed, N failed`.

mod bench;
mod cargo;
#[cfg(test)]
mod circles;
mod crds;
mod lab;
#[cfg(test)]
mod layering;
mod lint;
mod model;
mod quickstart;
mod tally;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tally::Tally;

/// Tasks of the Umbra workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Tells the main job as it runs: a database, a shadow of it, a copy of it.
    Quickstart(quickstart::Options),
    /// Runs the tests: unit, simulation, and on a real kernel in a virtual machine.
    Test(test::Options),
    /// Checks what needs no test: format, lints, and what the workspace may be built from.
    Lint,
    /// Writes manifests and reference from the kinds of the API.
    Crds,
    /// Boots a virtual machine and runs commands in it.
    Lab(lab::Options),
    /// Measures against the device alone, dm-snapshot and dm-thin.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.task {
        Task::Quickstart(options) => quickstart::run(&options),
        Task::Test(options) => counted(test::run(&options)),
        Task::Lint => counted(lint::run()),
        Task::Crds => crds::run(),
        Task::Lab(options) => lab::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The closing line comes last also where a task broke off.
fn counted(result: anyhow::Result<Tally>) -> anyhow::Result<ExitCode> {
    let tally = result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        Tally { passed: 0, failed: 1 }
    });
    println!("{tally}");
    Ok(if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
