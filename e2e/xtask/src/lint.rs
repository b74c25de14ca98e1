//! `cargo xtask lint`: what a change must pass beside its tests. One check that fails does not hide the others.

use std::process::Command;

use anyhow::Result;
use umbra_lab::binaries;

use crate::tally::Tally;
use crate::{cargo, crds, tools};

pub(crate) fn run() -> Result<Tally> {
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
    let mut clippy = cargo::build("clippy", &["--workspace", "--all-targets", "--", "-D", "warnings"]);
    check("lints", cargo::follow(&mut clippy, |_| ()));
    check("generated files", crds::check());
    check("dependencies", dependencies());
    Ok(tally)
}

fn dependencies() -> Result<bool> {
    let mut command = Command::new(tools::cargo_deny()?);
    command.args(["--workspace", "--config", ".deny.toml", "check", "--hide-inclusion-graph"]);
    command.args(["bans", "licenses", "sources"]).current_dir(binaries::workspace());
    cargo::follow(&mut command, |_| ())
}
