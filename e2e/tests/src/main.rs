//! The end-to-end tests, the story that `cargo xtask quickstart` tells, and the cluster of `cargo xtask cluster`.

mod by_hand;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;
use umbra_e2e::{api, cluster, scenarios, story};

/// Scenarios on a real kernel, in virtual machines, cases against a real API server, and cases of both together.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Runs the tests of a tier; the last line is `N passed, N failed`.
    Run(Selection),
    /// Prints the names of the tests of a tier.
    List(Selection),
    /// Tells the main job as it runs.
    Story {
        /// On this host, which has ublk and PostgreSQL, instead of in a virtual machine.
        #[arg(long)]
        host: bool,
    },
    /// A cluster to work with by hand.
    #[command(name = "cluster")]
    Cluster(by_hand::Options),
}

#[derive(Debug, clap::Args)]
struct Selection {
    #[arg(value_enum)]
    tier: Tier,
    /// Only those whose name has this in it.
    #[arg(default_value = "")]
    filter: String,
    /// Also those that take too long for every run.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// Scenarios on a real kernel.
    Kernel,
    /// Cases against a real API server.
    Api,
    /// Cases of a cluster whose nodes are machines.
    Cluster,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().what {
        What::Run(selection) => return ended(run(&selection)),
        What::List(Selection { tier, filter, .. }) => names(tier, &filter).map(|names| {
            names.iter().for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }),
        What::Story { host: true } => story::on_this_host().map(|()| ExitCode::SUCCESS),
        What::Story { host: false } => story::in_the_lab().map(|()| ExitCode::SUCCESS),
        What::Cluster(options) => by_hand::run(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn run(Selection { tier, filter, all }: &Selection) -> Result<(u64, u64)> {
    match tier {
        Tier::Kernel => Ok(kernel(filter)),
        Tier::Api => api::run(filter),
        Tier::Cluster => cluster::run(filter, *all),
    }
}

fn names(tier: Tier, filter: &str) -> Result<Vec<String>> {
    match tier {
        Tier::Kernel => Ok(kernel_names(filter)),
        Tier::Api => api::names(filter),
        Tier::Cluster => Ok(cluster::names(filter)),
    }
}

fn ended(result: Result<(u64, u64)>) -> ExitCode {
    let (passed, failed) = result.unwrap_or_else(|error| {
        println!("{error:#}");
        (0, 1)
    });
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn kernel_names(filter: &str) -> Vec<String> {
    let names = scenarios::ALL.iter().map(|scenario| scenario.name.to_owned());
    names.filter(|name| name.contains(filter)).collect()
}

fn kernel(filter: &str) -> (u64, u64) {
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios::ALL.iter().filter(|scenario| scenario.name.contains(filter)) {
        println!("scenario {} ...", scenario.name);
        let started = Instant::now();
        match (scenario.run)() {
            Ok(()) => {
                passed += 1;
                println!("scenario {} ... ok, {:.0} s", scenario.name, started.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!("scenario {} ... FAILED: {error:#}", scenario.name);
            }
        }
    }
    (passed, failed)
}
