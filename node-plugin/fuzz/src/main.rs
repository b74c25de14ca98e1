//! `umbra-fuzz`: made-up input for as long as one likes. Every case is a seed.

use clap::{Parser, Subcommand};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use umbra_fuzz::{TARGETS, Target};

/// Made-up input for everything that reads something from outside.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// List the targets.
    List,
    /// Run cases; the first one that shows a fault ends the run, and says its seed.
    Run {
        /// Only these targets.
        #[arg(value_parser = target)]
        targets: Vec<Target>,
        /// Cases of each target.
        #[arg(long, default_value_t = 20_000)]
        cases: u64,
        /// Seconds of each target, instead.
        #[arg(long, conflicts_with = "cases")]
        seconds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Threads; all processors by default.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Run one case again.
    Replay {
        /// The target.
        #[arg(value_parser = target)]
        target: Target,
        /// The seed.
        seed: u64,
    },
}

fn target(name: &str) -> Result<Target, String> {
    let names = TARGETS.map(|target| target.name).join(", ");
    TARGETS.into_iter().find(|target| target.name == name).ok_or_else(|| format!("the targets are {names}"))
}

thread_local! {
    /// What this thread runs.
    static AT: Cell<Option<(&'static str, u64)>> = const { Cell::new(None) };
}

fn main() -> ExitCode {
    // The text of a panic first, then what shows it again.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        if let Some((name, seed)) = AT.get() {
            println!("fault: target {name}, seed {seed}; again with: umbra-fuzz replay {name} {seed}");
            std::process::exit(1);
        }
    }));
    match Cli::parse().command {
        Sub::List => TARGETS.iter().for_each(|target| println!("{:8} {}", target.name, target.about)),
        Sub::Run { targets, cases, seconds, from, jobs } => {
            let chosen = if targets.is_empty() { TARGETS.to_vec() } else { targets };
            let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            let cases = if seconds.is_some() { u64::MAX - from } else { cases };
            for target in chosen {
                many(target, from, cases, seconds.map(Duration::from_secs), jobs);
            }
        }
        Sub::Replay { target, seed } => {
            AT.set(Some((target.name, seed)));
            let accepted = target.run(&target.case(seed));
            println!("seed {seed} is {}", if accepted { "accepted" } else { "refused" });
        }
    }
    ExitCode::SUCCESS
}

fn many(target: Target, from: u64, cases: u64, limit: Option<Duration>, jobs: usize) {
    let (next, ran, accepted) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while limit.is_none_or(|limit| begin.elapsed() < limit) {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        break;
                    }
                    AT.set(Some((target.name, from + case)));
                    let is_accepted = target.run(&target.case(from + case));
                    AT.set(None);
                    ran.fetch_add(1, Ordering::Relaxed);
                    accepted.fetch_add(is_accepted.into(), Ordering::Relaxed);
                }
            });
        }
    });
    let (ran, accepted) = (ran.into_inner(), accepted.into_inner());
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}: {ran} cases from seed {from}, {accepted} accepted, no fault, {seconds:.0} s", target.name);
}
