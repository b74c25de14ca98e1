//! `cargo xtask test`: the tiers; those come last that need most of what is built elsewhere.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::tally::Tally;
use crate::{cargo, model, tally, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Run only this tier; may be given several times.
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Seeds for the simulation tier.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// In the tiers of the API, the kernel and the cluster, run only what has this in its name.
    #[arg(long, default_value = "")]
    filter: String,
    /// In the tier of the cluster, run also what takes too long for every run.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Unit and property tests of every crate.
    Unit,
    /// Every order of what threads do to shared bits.
    Model,
    /// The simulators of the engine and of the node: seeds, a sweep of the node, and each rule switched off.
    Sim,
    /// Scenarios on a real kernel in virtual machines.
    Kernel,
    /// What a real API server makes of the kinds, and csi-sanity of a node's plugin.
    Api,
    /// A cluster whose nodes are virtual machines with disks.
    Cluster,
}

pub(crate) fn run(options: &Options) -> Result<Tally> {
    tools::ensure_build_tools()?;
    tools::ensure_space()?;
    let tiers = if options.tier.is_empty() { Tier::value_variants() } else { &options.tier };
    let mut total = Tally::default();
    let mut lines = Vec::new();
    for tier in tiers {
        let begin = Instant::now();
        let (name, result) = match tier {
            Tier::Unit => ("unit", unit()),
            Tier::Model => ("model", model::run()),
            Tier::Sim => ("sim", sim(options.seeds)),
            Tier::Api => ("api", end_to_end("api", &options.filter, false)),
            Tier::Kernel => ("kernel", kernel(&options.filter)),
            Tier::Cluster => ("cluster", end_to_end("cluster", &options.filter, options.all)),
        };
        // A tier that broke off is a failure among the others, not the end of them.
        let tally = result.unwrap_or_else(|error| {
            eprintln!("xtask: tier {name}: {error:#}");
            Tally::one(false)
        });
        lines.push(format!("tier {name}: {tally} in {:.0} s", begin.elapsed().as_secs_f64()));
        total += tally;
    }
    lines.iter().for_each(|line| println!("{line}"));
    Ok(total)
}

const SIMULATOR: &str = "umbra-sim";

fn unit() -> Result<Tally> {
    tools::ensure_file_systems()?;
    let mut tally = Tally::default();
    let mut command = cargo::build("test", &["--workspace", "--no-fail-fast"]);
    let success = cargo::follow(&mut command, |line| tally += tally::cargo_test(line).unwrap_or_default())?;
    Ok(tally.closed("tier unit", success))
}

/// A simulation counts as one check, the sweep of the node as one, each mutant as one.
fn sim(seeds: u64) -> Result<Tally> {
    let seeds = seeds.to_string();
    let mut clean = false;
    let mut command = cargo::program(SIMULATOR, &["run", "--seeds", &seeds]);
    let success = cargo::follow(&mut command, |line| clean |= no_violation(line))?;
    if success && !clean {
        eprintln!("xtask: the simulator did not say how many violations it saw");
    }
    let mut tally = Tally::one(success && clean);
    for node in [&["node", "run", "--seeds", "300"][..], &["node", "sweep", "--stride", "7"]] {
        let mut clean = false;
        let mut command = cargo::program(SIMULATOR, node);
        let success = cargo::follow(&mut command, |line| clean |= no_violation(line))?;
        tally += Tally::one(success && clean);
    }
    for hunt in [&["mutants"][..], &["node", "mutants", "--seeds", "60"]] {
        let mut mutants = Tally::default();
        let mut command = cargo::program(SIMULATOR, hunt);
        let success = cargo::follow(&mut command, |line| mutants += mutant(line).unwrap_or_default())?;
        tally += mutants.closed("the run of mutants", success);
    }
    Ok(tally)
}

fn no_violation(line: &str) -> bool {
    let words: Vec<&str> = line.split(|character: char| !character.is_alphanumeric()).collect();
    words.windows(2).any(|pair| pair == ["0", "violations"])
}

/// A mutant's line is `RULE caught (how)` or `RULE NOT CAUGHT …`; others say something else.
fn mutant(line: &str) -> Option<Tally> {
    let mut words = line.split_whitespace().skip(1);
    match (words.next()?, words.next()) {
        ("caught", _) => Some(Tally::one(true)),
        ("NOT", Some("CAUGHT")) => Some(Tally::one(false)),
        _ => None,
    }
}

fn kernel(filter: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    if filter.is_empty() {
        let mut lab = Tally::default();
        let arguments = ["--workspace", "--test", "machine", "--", "--ignored", "--test-threads=1"];
        let success = cargo::follow(&mut cargo::build("test", &arguments), |line| {
            lab += tally::cargo_test(line).unwrap_or_default();
        })?;
        tally += lab.closed("the lab's own test", success);
    }
    tally += end_to_end("kernel", filter, false)?;
    Ok(tally)
}

/// The program of the end-to-end tests, which runs one tier and counts itself.
fn end_to_end(tier: &str, filter: &str, all: bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut command = cargo::program("umbra-e2e", &["run", tier, filter]);
    command.args(all.then_some("--all"));
    let success = cargo::follow(&mut command, |line| tally = tally::closing(line).unwrap_or(tally))?;
    Ok(tally.closed(&format!("tier {tier}"), success))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulator_must_say_that_it_saw_nothing() {
        assert!(no_violation("2000 seeds, 1,234 operations, 56 crashes, 0 violations"));
        assert!(no_violation("violations: none; 0 violations."));
        assert!(!no_violation("2000 seeds, 10 violations"));
        assert!(!no_violation("2000 seeds"));
    }

    #[test]
    fn mutants_are_told_apart() {
        let caught = "ReadRecheck caught (seed 71 after 72 seeds: shadow sector 19 reads w29)";
        assert_eq!(mutant(caught), Some(Tally::one(true)));
        assert_eq!(mutant("LostMark NOT CAUGHT in 2000 seeds"), Some(Tally::one(false)));
        assert_eq!(mutant("running 9 mutants"), None);
        assert_eq!(mutant("nothing was caught"), None);
    }
}
