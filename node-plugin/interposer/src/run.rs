//! `umbra-io run`: the data plane. Everything is wired here, in the order it must start.

use crate::masters::{Attached, Host};
use crate::metrics;
use crate::service::Service;
use crate::state_dir::StateDir;
use crate::supervise::child::Supervision;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use umbra_engine::Id128;
use umbra_platform::{Socket, serve};
use umbra_ublk::Control;

/// Longest that a control command of the driver may take. Stopping a device waits for its last writers.
const CONTROL_DEADLINE: Duration = Duration::from_secs(30);

/// Stack of a thread that serves calls or waits for devices. All of it is locked, also while the thread is idle.
const STACK_BYTES: usize = 128 << 10;

/// Options of the data plane.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Where the configuration of masters and the ends of images are kept; never on an Umbra device.
    #[arg(long, default_value = "/var/lib/umbra")]
    pub state_dir: PathBuf,
    /// Socket of the platform API.
    #[arg(long, default_value = "/run/umbra/io.sock")]
    pub socket: PathBuf,
    /// Where devices appear by UUID.
    #[arg(long, default_value = "/dev/umbra/by-id")]
    pub by_id: PathBuf,
    /// Serve metrics for Prometheus and a health check there, to whoever can connect; without it, nowhere.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Text or JSON.
    #[arg(long, default_value = "text")]
    pub log_format: crate::logging::LogFormat,
}

/// Runs until it is told to stop. Presented devices stay: their requests wait for the next start.
pub(crate) fn main(run: &Run) -> ExitCode {
    crate::logging::init(run.log_format);
    crate::panics::end_the_process_unless_contained();
    match start(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("umbra-io: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(run: &Run) -> anyhow::Result<()> {
    let supervision = Supervision::take()?;
    let ublk = umbra_ublk::Host::probe()?;
    for warning in &ublk.warnings {
        tracing::warn!(?warning, "this kernel is known to have a fault");
    }
    umbra_uring::host_supports_io_uring()?;
    // Before any thread starts: the mark is inherited, and memory is populated before requests need it.
    umbra_ublk::become_io_flusher()?;
    // Its helper process starts while this one prepares itself, and long before there is a device to be claimed.
    let control = Control::open(CONTROL_DEADLINE)?;
    umbra_ublk::lock_memory()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()?;
    runtime.block_on(serve_all(run, supervision, control))?;
    // Threads that serve devices end with the process; what is parked in the kernel waits for the next one.
    std::process::exit(0)
}

async fn serve_all(run: &Run, supervision: Supervision, control: Control) -> anyhow::Result<()> {
    let state = Arc::new(StateDir::open(&run.state_dir)?);
    if let Some(parent) = run.socket.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let socket = Socket::bind(&run.socket).await?;
    let host = Arc::new(Host {
        node: Id128(state.node_id()),
        state,
        control,
        by_id: run.by_id.clone(),
        heartbeats: supervision.heartbeats,
        pass_through: supervision.pass_through,
    });
    let masters = Arc::new(Mutex::new(Vec::new()));
    if let Some(address) = run.metrics {
        serve_metrics(address, &host.by_id, &masters);
    }
    let resumed = host.resume(&masters).await;
    let service = Arc::new(Service::new(host, masters));
    tokio::spawn(Arc::clone(&service).watch_restores());
    tracing::info!(socket = %run.socket.display(), masters = resumed.len(), "serving");
    serve(socket, service, stop_signal()).await?;
    Ok(())
}

fn serve_metrics(address: SocketAddr, by_id: &Path, masters: &Arc<Mutex<Vec<Attached>>>) {
    let (by_id, masters) = (Arc::<Path>::from(by_id), Arc::clone(masters));
    let scrape = move || {
        let (by_id, masters) = (Arc::clone(&by_id), Arc::clone(&masters));
        async move { metrics::scrape(&by_id, &masters).await }
    };
    tokio::spawn(async move { metrics::serve(metrics::listen(address).await, scrape).await });
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
