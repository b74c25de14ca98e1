//! The tier of the cluster: a real API server and the operator on this host, and nodes that are machines with disks, the
//! kernel's driver, `umbra-io` and `umbra-node`.
//!
//! Every case has a control plane and a machine to itself. Where a case has pods, the controllers run beside the API server and
//! a kubelet on the machine; in the others it uses the presented devices itself.

mod hand;
mod machine;
mod pod;
mod pods;
mod quickstart;
mod story;
mod takeover;
mod troubles;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::kubernetes::installation;
use crate::kubernetes::server::Server;

pub use hand::{Place, Stock};
pub use quickstart::tell;

struct Case {
    name: &'static str,
    server: fn() -> Result<Server>,
    run: fn(&Server) -> Result<()>,
    /// Whether it also runs where nobody has asked for all.
    always: bool,
}

const ALL: &[Case] = &[
    Case { name: "cluster/story", server: Server::start, run: story::story, always: true },
    Case { name: "cluster/pods", server: Server::with_pods, run: pods::pods, always: false },
    Case { name: "cluster/takeover", server: Server::with_pods, run: takeover::takeover, always: true },
    Case { name: "cluster/kills", server: Server::start, run: troubles::kills, always: false },
    Case { name: "cluster/power-cut", server: Server::start, run: troubles::power_cut, always: false },
];

/// The names of the cases that have `filter` in theirs.
#[must_use]
pub fn names(filter: &str) -> Vec<String> {
    ALL.iter().map(|case| case.name.to_owned()).filter(|name| name.contains(filter)).collect()
}

/// Runs the cases that have `filter` in their name; without one those of every run, or all. Returns how many passed and failed.
///
/// # Errors
/// Where the programs cannot be built.
pub fn run(filter: &str, all: bool) -> Result<(u64, u64)> {
    let is_asked_for =
        |case: &&Case| case.name.contains(filter) && (case.always || all || !filter.is_empty());
    let cases: Vec<&Case> = ALL.iter().filter(is_asked_for).collect();
    if cases.is_empty() {
        return Ok((0, 0));
    }
    installation::build()?;
    let (mut passed, mut failed) = (0, 0);
    for case in cases {
        println!("case {} ...", case.name);
        let begin = Instant::now();
        let server = (case.server)().context("no API server to test against")?;
        match (case.run)(&server) {
            Ok(()) => {
                passed += 1;
                server.finish();
                println!("case {} ... ok, {:.0} s", case.name, begin.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!("case {} ... FAILED: {error:#}", case.name);
            }
        }
    }
    Ok((passed, failed))
}
