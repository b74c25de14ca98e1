//! The end-to-end tests, the story that `cargo xtask quickstart` tells, and the cluster of `cargo xtask cluster`.

mod by_hand;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use umbra_e2e::{api, cluster, scale, scenarios, story};

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
    /// Tells the main job as it runs, in a cluster.
    Story {
        /// Without a cluster: on one virtual machine, with `umbra-io` alone.
        #[arg(long)]
        node: bool,
        /// As with `--node`, on this host, which has ublk and PostgreSQL.
        #[arg(long, conflicts_with = "node")]
        host: bool,
        /// The cluster stays.
        #[arg(long, conflicts_with_all = ["node", "host"])]
        keep: bool,
    },
    /// Measures the operator in a large cluster.
    Operator(Scale),
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

#[derive(Debug, clap::Args)]
struct Scale {
    /// Also write everything measured into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// VolumeSets, four on each master.
    #[arg(long, default_value_t = 1000)]
    sets: usize,
    /// Nodes, which are facades with a platform in memory.
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Cuts, of as many sets.
    #[arg(long, default_value_t = 200)]
    cuts: usize,
    /// How long it is watched at rest, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    rest: u64,
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
        What::Story { host: true, .. } => story::on_this_host().map(|()| ExitCode::SUCCESS),
        What::Story { node: true, .. } => story::in_the_lab().map(|()| ExitCode::SUCCESS),
        What::Story { keep, .. } => by_hand::story(keep),
        What::Operator(scale) => measure(&scale).map(|()| ExitCode::SUCCESS),
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

fn measure(options: &Scale) -> Result<()> {
    let rest = Duration::from_secs(options.rest);
    let extent = scale::Extent { sets: options.sets, nodes: options.nodes, cuts: options.cuts, rest };
    let report = scale::run(extent)?;
    print!("{}", report.text());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
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
