//! `cargo xtask bench`: figures against the device alone and the kernel's own snapshots.

use std::process::ExitCode;

use anyhow::Result;

use crate::words::Words;
use crate::{cargo, tools};

pub(crate) fn run(words: &Words) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    cargo::pass_on("umbra-bench", &words.all())
}
