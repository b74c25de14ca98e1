//! `cargo xtask images`: the container images that the chart asks for, as archives, made without a container engine.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use umbra_lab::{image, progress};

use crate::tools;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the archives go.
    #[arg(long, value_name = "FOLDER", default_value = "target/images")]
    into: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    fs::create_dir_all(&options.into).with_context(|| options.into.display().to_string())?;
    for archive in image::of_umbra(&options.into)? {
        println!("{}", archive.display());
    }
    progress::say(format_args!("on a node: ctr -n k8s.io images import ARCHIVE"));
    progress::say(format_args!("to a registry: skopeo copy oci-archive:ARCHIVE docker://REGISTRY/NAME:TAG"));
    Ok(ExitCode::SUCCESS)
}
