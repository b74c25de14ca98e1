//! `cargo xtask lab`: a machine to try things in.

use std::io::{BufRead, stdin};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use umbra_lab::{Disk, Vm, progress, static_binary};

#[derive(Args)]
pub(crate) struct Options {
    /// Adds a blank disk, as NAME=MIB; it appears as /dev/lab/NAME.
    #[arg(long, value_name = "NAME=MIB")]
    disk: Vec<String>,
    /// Builds this program of the workspace statically and puts it into /usr/local/bin.
    #[arg(long, value_name = "PACKAGE")]
    with: Vec<String>,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// The command to run; without one, each line of standard input is one.
    #[arg(trailing_var_arg = true)]
    command: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut builder = Vm::builder("lab").memory_mib(options.memory);
    for disk in &options.disk {
        let (name, size) = disk.split_once('=').context("a disk is given as NAME=MIB")?;
        let mib: u64 = size.parse().with_context(|| format!("{size} is no size in MiB"))?;
        builder = builder.disk(Disk::blank(name, mib << 20));
    }
    let vm = builder.boot()?;
    progress::say(format_args!("up after {:.1} s", vm.boot_took().as_secs_f64()));
    for package in &options.with {
        vm.put(static_binary(package)?, &format!("/usr/local/bin/{package}"))?;
    }
    let mut success = true;
    if options.command.is_empty() {
        for line in stdin().lock().lines() {
            success = command(&vm, &line?)?;
        }
    } else {
        success = command(&vm, &options.command.join(" "))?;
    }
    vm.finish()?;
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command(vm: &Vm, script: &str) -> Result<bool> {
    let output = vm.sh(script).timeout(Duration::from_secs(3600)).output()?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    progress::say(format_args!("{} after {:.1} s", output.status, output.took.as_secs_f64()));
    Ok(output.success())
}
