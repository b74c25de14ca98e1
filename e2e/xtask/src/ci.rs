//! `cargo xtask ci`: everything that a change must pass. One check that fails does not hide the others.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use umbra_lab::binaries;

use crate::tally::Tally;
use crate::{cargo, test, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Seeds for the simulation tier.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
}

pub(crate) fn run(options: &Options) -> Result<Tally> {
    tools::ensure_build_tools()?;
    tools::ensure_components()?;
    let mut tally = Tally::default();
    let mut check = |name: &str, result: Result<bool>| {
        let passed = result.unwrap_or_else(|error| {
            eprintln!("xtask: {error:#}");
            false
        });
        println!("check {name}: {}", if passed { "ok" } else { "FAILED" });
        tally += Tally::one(passed);
    };
    check("format", cargo::run(&["fmt", "--all", "--check"]));
    check("lints", cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    check("dependencies", dependencies());
    // The direction of dependencies is a test among the others.
    tally += test::run(&test::Options::all(options.seeds))?;
    Ok(tally)
}

fn dependencies() -> Result<bool> {
    let mut command = Command::new(tools::cargo_deny()?);
    command.args(["--workspace", "--config", ".deny.toml", "check", "--hide-inclusion-graph"]);
    command.args(["bans", "licenses", "sources"]).current_dir(binaries::workspace());
    cargo::follow(&mut command, |_| ())
}
