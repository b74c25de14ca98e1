//! `cargo xtask cluster`: a cluster to work with by hand.

use std::process::ExitCode;

use anyhow::Result;

use crate::words::Words;
use crate::{cargo, tools};

pub(crate) fn run(words: &Words) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    cargo::pass_on("umbra-e2e", &[&["cluster"], &*words.all()].concat())
}
