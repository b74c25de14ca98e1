//! `umbra-sim node`: the command line of the node's simulator.

use clap::Subcommand;
use std::process::ExitCode;
use std::time::Instant;
use umbra_lifecycle::mutation::Rule;
use umbra_sim::node::mutants::hunt;
use umbra_sim::node::plan::Plan;
use umbra_sim::node::run::{Campaign, attempt, shrink};
use umbra_sim::node::sweep::{ROUNDS, Sweep, step};
use umbra_sim::run::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Sub {
    /// Run seeds until one fails.
    Run {
        /// How many seeds.
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
        /// First seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Threads; all processors by default.
        #[arg(long)]
        jobs: Option<usize>,
        /// Go on after a violation, and list all.
        #[arg(long)]
        all: bool,
    },
    /// Run one seed again, shorten it, and print what happens.
    Replay {
        /// The seed.
        seed: u64,
        /// A protection that is switched off, by name.
        #[arg(long, value_parser = rule)]
        without: Option<Rule>,
        /// Not shortened.
        #[arg(long)]
        whole: bool,
    },
    /// Meet every step of scripted lives with one of the fates: it is the last one of the process or of the machine,
    /// before or after its effect, it fails, or takes too long.
    Sweep {
        /// Only every so manieth step.
        #[arg(long, default_value_t = 1)]
        stride: usize,
        /// The round: in each of seven every step meets another fate.
        #[arg(long, default_value_t = 0)]
        round: usize,
        /// All rounds: every step meets every fate.
        #[arg(long, conflicts_with = "round")]
        all: bool,
        /// Threads; all processors by default.
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Meet one step of one of these lives with every fate, and print what happens where something is wrong.
    Step {
        /// The life, as the sweep numbers it.
        life: u64,
        /// The step.
        step: u64,
    },
    /// Switch each protection off in turn: each must be caught.
    Mutants {
        /// Most seeds for each.
        #[arg(long, default_value_t = 5000)]
        seeds: u64,
        /// Only these, by name; all without it.
        #[arg(long, value_delimiter = ',', value_parser = rule)]
        only: Vec<Rule>,
    },
}

pub(crate) fn run(command: &Sub) -> ExitCode {
    match command {
        Sub::Run { seeds, from, jobs, all } => {
            many(Campaign { start: *from, seeds: *seeds, jobs: super::jobs(*jobs), all: *all })
        }
        Sub::Replay { seed, without, whole } => replay(*seed, *without, *whole),
        Sub::Sweep { stride, round, all, jobs } => {
            let (first, rounds) = if *all { (0, ROUNDS) } else { (*round, 1) };
            everywhere(Sweep { stride: *stride, first, rounds, jobs: super::jobs(*jobs) })
        }
        Sub::Step { life, step } => one_step(*life, *step),
        Sub::Mutants { seeds, only } => mutants(*seeds, only),
    }
}

/// The protection of this name.
fn rule(name: &str) -> Result<Rule, String> {
    let found = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name);
    found.ok_or_else(|| format!("the protections are {:?}", Rule::ALL))
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(campaign: Campaign) -> ExitCode {
    let begin = Instant::now();
    let summary = campaign.run();
    let tally = summary.tally;
    println!(
        "{} seeds, {} steps, {} starts, {} steps that met a fate, {} calls ({} done), {} cuts, {} sectors judged, {:.0} s",
        summary.seeds,
        tally.steps,
        tally.starts,
        tally.met,
        tally.calls,
        tally.done,
        tally.cuts,
        tally.judged,
        begin.elapsed().as_secs_f64()
    );
    for Failure { seed, message } in &summary.failures {
        println!("violation: seed {seed}: {message}");
        println!("again with: umbra-sim node replay {seed}");
    }
    println!("{} violations", summary.failures.len());
    code(summary.failures.is_empty())
}

fn replay(seed: u64, off: Option<Rule>, whole: bool) -> ExitCode {
    let plan = Plan::of(seed);
    let fails = attempt(&plan, off, false, |_| {}).verdict.is_err();
    let plan = if fails && !whole { shrink(&plan, off) } else { plan };
    let outcome = attempt(&plan, off, true, |_| {});
    for line in &outcome.trace {
        println!("{line}");
    }
    for master in &plan.masters {
        println!("{master:?}");
    }
    println!("strong {} renames {} late {} ms", plan.strong, plan.renames, plan.late_ms);
    for step in &plan.script {
        println!("  {step:?}");
    }
    println!("{:?}", outcome.verdict);
    code(outcome.verdict.is_ok())
}

fn everywhere(sweep: Sweep) -> ExitCode {
    let begin = Instant::now();
    let mut told = 0;
    // A sweep of hours says at once what it finds.
    let swept = sweep.run(|life, swept| {
        for violation in &swept.violations[told..] {
            println!("violation: {violation}");
        }
        told = swept.violations.len();
        println!("life {life}: {} lives so far, {:.0} s", swept.runs, begin.elapsed().as_secs_f64());
    });
    println!("{} steps, {} lives, {} steps that met a fate", swept.steps, swept.runs, swept.met);
    println!("{} violations", swept.violations.len());
    code(swept.violations.is_empty())
}

fn one_step(life: u64, at: u64) -> ExitCode {
    let mut good = true;
    for (fate, outcome) in step(life, at) {
        let Err(text) = outcome.verdict else { continue };
        good = false;
        for line in outcome.trace {
            println!("{line}");
        }
        println!("violation: {fate:?}: {text}");
    }
    code(good)
}

fn mutants(seeds: u64, only: &[Rule]) -> ExitCode {
    let mut blind = false;
    let wanted = |rule: &Rule| only.is_empty() || only.contains(rule);
    for hunted in hunt(Rule::ALL.into_iter().filter(wanted), seeds, super::jobs(None)) {
        match hunted.caught {
            Some(how) => {
                let text: String = how.chars().take(150).collect();
                println!("{:?} caught ({text})", hunted.rule);
            }
            None => {
                blind = true;
                println!("{:?} NOT CAUGHT in {seeds} seeds", hunted.rule);
            }
        }
    }
    code(!blind)
}
