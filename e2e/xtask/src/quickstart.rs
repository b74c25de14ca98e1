//! `cargo xtask quickstart`: the main job, told as it runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use umbra_e2e::story;

use crate::tools;

#[derive(Args)]
pub(crate) struct Options {
    /// On this host, which has ublk and PostgreSQL, instead of in a virtual machine.
    #[arg(long)]
    host: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    if options.host { story::on_this_host() } else { story::in_the_lab() }?;
    Ok(ExitCode::SUCCESS)
}
