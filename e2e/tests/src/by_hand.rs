//! `cargo xtask cluster`: a cluster to work with by hand.

use std::env;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use umbra_e2e::cluster::{self, Place, Stock};
use umbra_lab::progress;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Starts a control plane and a node that is a virtual machine with a kubelet, and installs Umbra with its chart; there is
    /// a database's volume, and two sets.
    Up,
    /// Is the cluster that `up` starts.
    #[command(hide = true)]
    Serve {
        /// With disks for a database, and without Umbra.
        #[arg(long)]
        disks: bool,
    },
    /// Runs `kubectl` as its administrator.
    #[command(disable_help_flag = true)]
    Kubectl(Rest),
    /// Runs `kubectl umbra` as its administrator.
    #[command(disable_help_flag = true)]
    Umbra(Rest),
    /// Runs `helm` as its administrator.
    #[command(disable_help_flag = true)]
    Helm(Rest),
    /// Runs a command on the node, as root.
    #[command(disable_help_flag = true)]
    Node(Rest),
    /// Ends it; nothing is kept.
    Down,
}

#[derive(Debug, Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let place = Place::open()?;
    match &options.what {
        What::Up => {
            place.up(serve(Stock::Volumes)?)?;
            progress::say(format_args!("cargo xtask cluster umbra status -n prod     # what there is"));
            progress::say(format_args!("cargo xtask cluster umbra cut one -n prod --wait"));
            progress::say(format_args!(
                "cargo xtask cluster kubectl apply -f e2e/lab/examples/pod.yaml # a pod on it"
            ));
            progress::say(format_args!(
                "cargo xtask cluster kubectl exec -n umbra-node ds/umbra-io -- umbra-io ctl status # what the node says"
            ));
            progress::say(format_args!("cargo xtask cluster down"));
            Ok(ExitCode::SUCCESS)
        }
        What::Serve { disks } => {
            place.serve(if *disks { Stock::Disks } else { Stock::Volumes }).map(|()| ExitCode::SUCCESS)
        }
        What::Kubectl(rest) => ended(place.kubectl()?.args(&rest.arguments)),
        What::Umbra(rest) => ended(place.kubectl()?.arg("umbra").args(&rest.arguments)),
        What::Helm(rest) => ended(place.helm()?.args(&rest.arguments)),
        What::Node(rest) => place.node(&rest.arguments.join(" ")).map(code),
        What::Down => place.down(true).map(|()| ExitCode::SUCCESS),
    }
}

/// Tells the main job in a cluster of its own.
pub(crate) fn story(keep: bool) -> Result<ExitCode> {
    cluster::tell(&Place::open()?, serve(Stock::Disks)?, keep).map(|()| ExitCode::SUCCESS)
}

/// This program as a cluster.
fn serve(stock: Stock) -> Result<Command> {
    let mut serve = Command::new(env::current_exe().context("where this program is")?);
    serve.args(["cluster", "serve"]);
    if stock == Stock::Disks {
        serve.arg("--disks");
    }
    Ok(serve)
}

fn ended(command: &mut Command) -> Result<ExitCode> {
    let program = command.get_program().display().to_string();
    Ok(command
        .status()
        .with_context(|| format!("{program} does not start"))?
        .code()
        .map_or(ExitCode::FAILURE, code))
}

fn code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
