//! Runs the scenarios of the kernel tier; the last line is `N passed, N failed`.

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use umbra_e2e::scenarios;

/// Scenarios on a real kernel, in virtual machines.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only scenarios whose name has this in it.
    filter: Option<String>,
    /// Print the names and run nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios::ALL.iter().filter(|scenario| wanted(scenario.name)) {
        if arguments.list {
            println!("{}", scenario.name);
            continue;
        }
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
    println!("{passed} passed, {failed} failed");
    if failed == 0 && (passed > 0 || arguments.list) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
