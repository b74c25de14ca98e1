//! Runs a benchmark in a virtual machine and prints its report.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use umbra_bench::plan::Load;
use umbra_bench::run::Extent;

/// Figures against the device alone and the kernel's own snapshots.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
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

fn main() -> Result<()> {
    let What::Cow { json, quick, only } = What::parse();
    let report = umbra_bench::run(&Extent { quick, only })?;
    print!("{}", report.text());
    if let Some(path) = json {
        fs::write(&path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
