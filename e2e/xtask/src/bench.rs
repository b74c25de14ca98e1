//! `cargo xtask bench`: figures against the device alone and the kernel's own snapshots.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use umbra_bench::plan::Load;
use umbra_bench::run::Extent;

use crate::tools;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Copy-on-write: device operations and times per write, cuts, recovery.
    Cow {
        /// Also write everything measured into this file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Count operations only; take no times.
        #[arg(long)]
        quick: bool,
        /// Only this load; may be given several times.
        #[arg(long, value_enum, value_name = "LOAD")]
        only: Vec<Load>,
    },
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let What::Cow { json, quick, only } = &options.what;
    tools::ensure_build_tools()?;
    let report = umbra_bench::run(&Extent { quick: *quick, only: only.clone() })?;
    print!("{}", report.text());
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
