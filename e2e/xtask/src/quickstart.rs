//! `cargo xtask quickstart`: the main job, told as it runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{cargo, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// On this host, which has ublk and PostgreSQL, instead of in a virtual machine.
    #[arg(long)]
    host: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    cargo::pass_on("umbra-e2e", if options.host { &["story", "--host"] } else { &["story"] })
}
