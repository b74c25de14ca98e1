//! Runs the scenarios of the kernel tier, or the cases of the API tier; the last line is `N passed, N failed`.

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;
use umbra_e2e::{api, scenarios};

/// Scenarios on a real kernel, in virtual machines, and cases against a real API server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only those whose name has this in it.
    #[arg(default_value = "")]
    filter: String,
    /// Which of the two.
    #[arg(long, value_enum, default_value = "kernel")]
    tier: Tier,
    /// Print the names and run nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// Scenarios on a real kernel.
    Kernel,
    /// Cases against a real API server.
    Api,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match (arguments.tier, arguments.list) {
        (Tier::Kernel, true) => Ok(kernel_names(&arguments.filter)),
        (Tier::Api, true) => api::names(&arguments.filter),
        (Tier::Kernel, false) => return ended(kernel(&arguments.filter)),
        (Tier::Api, false) => {
            return ended(api::run(&arguments.filter).unwrap_or_else(|error| {
                println!("{error:#}");
                (0, 1)
            }));
        }
    };
    match result {
        Ok(names) => {
            names.iter().for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ended((passed, failed): (u64, u64)) -> ExitCode {
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
