//! The project's tasks: `cargo xtask quickstart`, `cargo xtask test`, `cargo xtask lint`, `cargo xtask crds`,
//! `cargo xtask prepare`, `cargo xtask images`, `cargo xtask lab`, `cargo xtask cluster`, `cargo xtask bench`.
//!
//! A task installs what it needs and the machine lacks, streams what its programs say, and where it counts anything
//! its last line is `N passed, N failed`.

mod bench;
mod cargo;
#[cfg(test)]
mod circles;
mod cluster;
mod crds;
mod images;
mod lab;
#[cfg(test)]
mod layering;
mod lint;
mod model;
mod prepare;
mod quickstart;
mod tally;
mod test;
mod tools;
mod words;

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
    /// Fetches and builds what tests and lints take from elsewhere, ahead of them.
    Prepare,
    /// Makes the container images that the chart asks for.
    Images(images::Options),
    /// Boots a virtual machine and runs commands in it.
    Lab(lab::Options),
    /// Starts a cluster to work with by hand, and works with it.
    Cluster(words::Words),
    /// Measures against the device alone, dm-snapshot and dm-thin.
    Bench(words::Words),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.task {
        Task::Quickstart(options) => quickstart::run(&options),
        Task::Test(options) => counted(test::run(&options)),
        Task::Lint => counted(lint::run()),
        Task::Crds => crds::run(),
        Task::Prepare => prepare::run(),
        Task::Images(options) => images::run(&options),
        Task::Lab(options) => lab::run(&options),
        Task::Cluster(words) => cluster::run(&words),
        Task::Bench(words) => bench::run(&words),
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
