//! `kubectl umbra`: what Umbra does, from the command line.
//!
//! Every command gathers data and hands them to [`output`], which shows them as a table, as YAML, as JSON or as names. Exit
//! codes: 0 done, 1 wrong usage, 2 failed, 3 refused by a guard, 4 timed out.

#![forbid(unsafe_code)]

mod cluster;
mod commands;
mod error;
mod follow;
mod output;
mod writing;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use cluster::Cluster;
use error::Failure;
use output::{Format, show};

/// Point-in-time shadows of raw block volumes.
#[derive(Debug, Parser)]
#[command(name = "kubectl-umbra", bin_name = "kubectl umbra", version, disable_version_flag = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands, as `kubectl` has it.
#[derive(Debug, Args)]
struct Global {
    #[command(flatten)]
    cluster: cluster::Options,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Format,
    /// Leave the headings of tables out.
    #[arg(long, global = true)]
    no_headers: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    OnCluster(OnCluster),
    #[command(flatten)]
    Alone(Alone),
}

/// Commands on what a cluster holds.
#[derive(Debug, Subcommand)]
enum OnCluster {
    /// Everything on one screen: masters with their sets, what was done lately, what is the matter.
    Status(commands::status::Options),
    /// What hangs on what: masters, sets, their volumes, claims and groups.
    Tree(commands::tree::Options),
    /// Puts Umbra under the claim of a running workload. Shows what will be; its pods must stop once.
    Takeover(commands::takeover::Options),
    /// Takes Umbra out from under a claim: pods use the raw volume again. Shows what will be, and asks.
    Release(commands::takeover::ReleaseOptions),
    /// Makes, keeps and deletes images of a master.
    #[command(subcommand)]
    Set(commands::set::Options),
    /// Sets that one command acts on at one instant.
    #[command(subcommand)]
    Group(commands::group::Options),
    /// Makes a new image of a set or a group.
    Cut(commands::cut::Options),
    /// Makes the master what an image is. Shows what will be, and asks.
    Restore(commands::restore::Options),
    /// Undoes a restore, from the cut that was made before it.
    Undo(commands::restore::UndoOptions),
    /// Breaks the copy of a set off; what is pending stays pending.
    Abort(commands::cut::OneSet),
    /// Waits until an operation has ended, or a set is at rest.
    Wait(commands::wait::Options),
    /// What was asked for, and how it stands.
    Ops(commands::ops::Options),
    /// What was reported about a set and the operations on it.
    Events(commands::events::Options),
    /// The block devices of the nodes, and which of them can be used.
    Devices(commands::devices::Options),
    /// Devices for namespaces.
    #[command(subcommand)]
    Grant(commands::grant::Options),
    /// The nodes.
    #[command(subcommand)]
    Node(commands::node::Options),
}

/// Commands that need no cluster.
#[derive(Debug, Subcommand)]
enum Alone {
    /// How large the volumes of a set must be.
    Size(commands::size::Options),
    /// Which version this is, and which kinds it knows.
    Version,
    /// Writes what makes a shell complete the command line.
    Completion(commands::completion::Options),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // What cannot be printed has nobody to read it.
            error.print().ok();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(error::USAGE) };
        }
    };
    match run(&arguments) {
        Ok(text) => written(&text),
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}

/// A reader that has seen enough, such as `head`, is no failure.
fn written(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: standard output: {error}");
            ExitCode::from(error::FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn run(arguments: &Arguments) -> Result<String, Failure> {
    let style = output::Style { format: arguments.global.output, headings: !arguments.global.no_headers };
    match &arguments.command {
        Command::Alone(Alone::Size(options)) => show(&commands::size::run(options)?, style),
        Command::Alone(Alone::Version) => show(&commands::version::run(), style),
        Command::Alone(Alone::Completion(options)) => {
            commands::completion::run(Arguments::command(), options)
        }
        Command::OnCluster(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
            runtime.block_on(async {
                let cluster = Cluster::connect(&arguments.global.cluster).await?;
                on_cluster(&cluster, command, style).await
            })
        }
    }
}

async fn on_cluster(cluster: &Cluster, command: &OnCluster, style: output::Style) -> Result<String, Failure> {
    use commands::{
        cut, devices, events, grant, group, node, ops, restore, set, status, takeover, tree, wait,
    };
    match command {
        OnCluster::Status(options) => show(&status::run(cluster, options).await?, style),
        OnCluster::Tree(options) => show(&tree::run(cluster, options).await?, style),
        OnCluster::Takeover(options) => show(&takeover::run(cluster, options).await?, style),
        OnCluster::Release(options) => show(&takeover::release(cluster, options).await?, style),
        OnCluster::Set(options) => set::run(cluster, options, style).await,
        OnCluster::Group(options) => group::run(cluster, options, style).await,
        OnCluster::Cut(options) => show(&cut::run(cluster, options).await?, style),
        OnCluster::Restore(options) => show(&restore::run(cluster, options).await?, style),
        OnCluster::Undo(options) => show(&restore::undo(cluster, options).await?, style),
        OnCluster::Abort(options) => show(&cut::abort(cluster, options).await?, style),
        OnCluster::Wait(options) => show(&wait::run(cluster, options).await?, style),
        OnCluster::Ops(options) => show(&ops::run(cluster, options).await?, style),
        OnCluster::Events(options) => show(&events::run(cluster, options).await?, style),
        OnCluster::Devices(options) => show(&devices::run(cluster, options).await?, style),
        OnCluster::Grant(options) => show(&grant::run(cluster, options).await?, style),
        OnCluster::Node(options) => show(&node::run(cluster, options).await?, style),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_words_of_the_documents_are_understood() {
        let lines = [
            "takeover data-pg-0 --name pg-data -n prod --wait --timeout 1h",
            "release pg-data --confirm=pg-data --wait",
            "set create pg-1 --master pg-data --mode independent --shadow device:spares/node-a/nvme-S1 --wait --timeout=5m",
            "set create pg-1 --master pg-data --mode compact --shadow pvc:s --bitmap managed:64Mi --access rw --publish pg-1-image",
            "set delete pg-1 --confirm=pg-1",
            "set protect pg-1 --off",
            "set limits pg-1 --rate none --inflight 4",
            "set reset pg-1 --confirm pg-1",
            "group create pg pg-1 pg-wal-1",
            "group create pg --selector app=pg",
            "cut group:pg --full --freeze --wait=false",
            "restore pg-1 --cut 7c1e4a --no-safety --allow-written --confirm=pg-1 --wait-for copy",
            "undo restore-pg-1-20261122-021500-bcdfg --safety pg-3 --dry-run=server",
            "wait op:cut-1 --timeout 2h",
            "grant create spares --node-selector pool=yes --device nvme-* --roles Shadow,bitmap --namespaces prod",
            "events pg-1 -n prod",
            "devices --node node-a --eligible -o json",
        ];
        for line in lines {
            let parsed = Arguments::try_parse_from(["umbra"].into_iter().chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "takeover data-pg-0",
            "set limits pg-1",
            "group create pg",
            "group create pg pg-1 --selector a=b",
            "restore pg-1 --safety pg-2 --no-safety",
            "cut export:x",
            "cut ../nodes",
            "set create pg-1 --master m --mode sideways --shadow pvc:s",
            "grant create spares --device x --roles Shadow",
        ] {
            assert!(
                Arguments::try_parse_from(["umbra"].into_iter().chain(line.split(' '))).is_err(),
                "{line}"
            );
        }
    }
}
