//! `cargo xtask quickstart`: the main job, told as it runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{cargo, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Without a cluster: on one virtual machine, with `umbra-io` alone.
    #[arg(long)]
    node: bool,
    /// As with `--node`, on this host, which has ublk and PostgreSQL.
    #[arg(long, conflicts_with = "node")]
    host: bool,
    /// The cluster stays; `cargo xtask cluster` works with it, and ends it.
    #[arg(long, conflicts_with_all = ["node", "host"])]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    let given = [("--node", options.node), ("--host", options.host), ("--keep", options.keep)];
    let options = given.into_iter().filter_map(|(option, given)| given.then_some(option));
    let arguments: Vec<&str> = std::iter::once("story").chain(options).collect();
    cargo::pass_on("umbra-e2e", &arguments)
}
