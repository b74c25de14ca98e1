//! `cargo xtask bench cow`: figures against the device alone and the kernel's own snapshots; `cargo xtask bench operator`: the
//! operator in a large cluster.

use std::process::ExitCode;

use anyhow::Result;

use crate::words::Words;
use crate::{cargo, tools};

pub(crate) fn run(words: &Words) -> Result<ExitCode> {
    tools::ensure_build_tools()?;
    let words = words.all();
    // The cluster of the second is that of the tests.
    let program = if words.first() == Some(&"operator") { "umbra-e2e" } else { "umbra-bench" };
    cargo::pass_on(program, &words)
}
