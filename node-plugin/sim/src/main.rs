//! `umbra-sim`: the simulator's command line.

mod node_command;

use clap::{Args, Parser, Subcommand};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use umbra_engine::mutation::Rule;
use umbra_sim::plan::Plan;
use umbra_sim::run::{Campaign, Failure, attempt, on_panic, shrink};
use umbra_sim::sweep::sweep;

/// A mutant that runs longer than this stands still.
const MUTANT_LIMIT: Duration = Duration::from_secs(120);

/// Deterministic simulations of the engine on disks that crash, fail, hang and reorder.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run seeds until one fails.
    Run(Run),
    /// Switch each rule of the engine off in turn: each must be caught.
    Mutants {
        /// Most seeds for each.
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
    },
    /// One rule switched off; for `mutants`, which runs each in a process of its own.
    #[command(hide = true)]
    Mutant {
        /// Its name.
        rule: String,
        /// Most seeds.
        #[arg(long)]
        seeds: u64,
        /// Standing still does not count.
        #[arg(long)]
        only_wrong: bool,
    },
    /// Crash a scripted life at every one of its store operations.
    Sweep {
        /// Only at every so manieth.
        #[arg(long, default_value_t = 1)]
        stride: u64,
        /// Threads; all processors by default.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// The node around the engine: attach, enable, cut, start, on a machine that fails.
    Node {
        #[command(subcommand)]
        command: node_command::Sub,
    },
}

#[derive(Clone, Debug, Args)]
struct Run {
    /// How many seeds.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Threads; all processors by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Go on after a violation, and list all. Where panics abort, the first one ends the run all the same.
    #[arg(long)]
    all: bool,
}

/// Where panics abort the run ends here, and nothing is left to shorten the plan with.
fn last_words(seed: u64, text: &str) {
    println!("violation: seed {seed}: {text}");
    println!("1 violation; shortened, where panics unwind, by: cargo run -p umbra-sim -- run --seed {seed}");
    std::process::exit(1);
}

/// Lives take MiBs and give them back all the time, and glibc gives those to the kernel each time, which takes twice as
/// long as the lives do. It hears of that before a program starts, or not at all.
fn keep_memory() {
    const KEPT: [(&str, &str); 2] =
        [("MALLOC_TRIM_THRESHOLD_", "1073741824"), ("MALLOC_MMAP_THRESHOLD_", "1073741824")];
    if KEPT.iter().all(|(name, _)| std::env::var_os(name).is_none())
        && let Ok(program) = std::env::current_exe()
    {
        // It returns only if it cannot be started: then all is only slower.
        let _slower = Command::new(program).args(std::env::args_os().skip(1)).envs(KEPT).exec();
    }
}

fn main() -> ExitCode {
    keep_memory();
    on_panic(last_words);
    match Cli::parse().command {
        Sub::Run(Run { seed: Some(seed), trace, .. }) => one(seed, trace),
        Sub::Run(run) => many(&run),
        Sub::Mutants { seeds } => mutants(seeds),
        Sub::Mutant { rule, seeds, only_wrong } => mutant(&rule, seeds, only_wrong),
        Sub::Sweep { stride, jobs } => crash_everywhere(stride, jobs),
        Sub::Node { command } => node_command::run(&command),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let outcome = attempt(&Plan::of(seed), None, trace, |_| {});
    for line in &outcome.trace {
        println!("{line}");
    }
    match outcome.verdict {
        Ok(()) => {
            println!("0 violations");
            ExitCode::SUCCESS
        }
        Err(message) => {
            report(&Failure { seed, message });
            ExitCode::FAILURE
        }
    }
}

fn many(run: &Run) -> ExitCode {
    let jobs = jobs(run.jobs);
    let limit = run.seconds.map(Duration::from_secs);
    let begin = Instant::now();
    let campaign = Campaign {
        start: run.start,
        seeds: run.seeds,
        jobs,
        limit,
        off: None,
        only_wrong: false,
        go_on: run.all,
    };
    let summary = campaign.run();
    let tally = summary.tally;
    println!(
        "{} seeds, {} operations ({} waited), {} requests ({} unaligned), {} crashes, {} cuts ({} beside a sibling), {} over several sets ({} found in doubt), {} restores ({} resumed), {} faults, {} blocks rotten, {} writes astray, {} sectors lost, {} sectors judged, {:.0} s",
        summary.seeds,
        tally.operations,
        tally.waited,
        tally.requests,
        tally.unaligned,
        tally.crashes,
        tally.cuts,
        tally.cuts_beside,
        tally.groups,
        tally.groups_in_doubt,
        tally.restores,
        tally.restores_resumed,
        tally.faults,
        tally.rotten,
        tally.strays,
        tally.lost,
        tally.judged,
        begin.elapsed().as_secs_f64()
    );
    match &summary.failure {
        None => {
            println!("0 violations");
            ExitCode::SUCCESS
        }
        Some(_) if run.all => {
            for Failure { seed, message } in &summary.failures {
                println!("violation: seed {seed}: {message}");
            }
            println!("{} violations", summary.failures.len());
            ExitCode::FAILURE
        }
        Some(failure) => {
            report(failure);
            println!("1 violation; again with: umbra-sim run --seed {} --trace", failure.seed);
            ExitCode::FAILURE
        }
    }
}

/// Prints a failure and the shortest plan that still shows one.
fn report(failure: &Failure) {
    println!("violation: seed {}: {}", failure.seed, failure.message);
    let plan = shrink(&Plan::of(failure.seed), |plan| attempt(plan, None, false, |_| {}).verdict.is_err());
    let outcome = attempt(&plan, None, true, |_| {});
    for line in outcome.trace {
        println!("{line}");
    }
    println!("{:?} master {:?} {:?}", plan.geometry, plan.cache, plan.timing);
    for set in &plan.sets {
        println!("{set:?}");
    }
    for step in &plan.script {
        println!("  {step:?}");
    }
    println!("{:?}", outcome.verdict);
}

/// A mutant may panic, which ends its process, or run in circles, which its time limit ends: each has its own.
fn mutants(seeds: u64) -> ExitCode {
    let mut blind = false;
    for rule in Rule::ALL {
        let found = [true, false].into_iter().find_map(|only_wrong| hunt(rule, seeds, only_wrong));
        blind |= found.is_none();
        match found {
            Some(found) => println!("{rule:?} caught ({found})"),
            None => println!("{rule:?} NOT CAUGHT in {seeds} seeds"),
        }
    }
    if blind { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs seeds without `rule` in a process of its own; what it found, if anything.
fn hunt(rule: Rule, seeds: u64, only_wrong: bool) -> Option<String> {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new(program);
    command.args(["mutant", &format!("{rule:?}"), "--seeds", &seeds.to_string()]);
    if only_wrong {
        command.arg("--only-wrong");
    }
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("this program can start");
    let until = Instant::now() + MUTANT_LIMIT;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ended_already = child.kill();
    let output = child.wait_with_output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find_map(|line| line.strip_prefix("violation: "))?;
    Some(line.chars().take(150).collect())
}

fn mutant(name: &str, seeds: u64, only_wrong: bool) -> ExitCode {
    let Some(rule) = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name) else {
        println!("there is no rule {name}");
        return ExitCode::FAILURE;
    };
    let campaign = Campaign {
        start: 0,
        seeds,
        jobs: jobs(None),
        limit: None,
        off: Some(rule),
        only_wrong,
        go_on: false,
    };
    let summary = campaign.run();
    if let Some(failure) = summary.failure {
        println!("violation: seed {} after {} seeds: {}", failure.seed, summary.seeds, failure.message);
    }
    ExitCode::SUCCESS
}

fn crash_everywhere(stride: u64, threads: Option<usize>) -> ExitCode {
    let swept = sweep(stride, jobs(threads));
    for violation in &swept.violations {
        println!("violation: {violation}");
    }
    println!("{} operations, {} lives, {} crashes", swept.operations, swept.runs, swept.crashes);
    println!("{} violations", swept.violations.len());
    if swept.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn jobs(wanted: Option<usize>) -> usize {
    wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}
