//! `umbra-io run`: the data plane. Everything is wired here, in the order it must start.

use crate::heartbeat::Heartbeats;
use crate::metrics;
use crate::supervise::child::Supervision;
use crate::supervise::deaths::{Death, DeathLog, PassThrough};
use crate::supervise::{boot, boot_ms};
use crate::world::digests::Digests;
use crate::world::directory::Directory;
use crate::world::service_time;
use crate::world::{AtWork, Linux};
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use umbra_engine::Id128;
use umbra_lifecycle::{Deaths, Service};
use umbra_platform::{Socket, serve};
use umbra_ublk::Control;
use uuid::Uuid;

/// Longest that a control command of the driver may take. Stopping a device waits for its last writers.
const CONTROL_DEADLINE: Duration = Duration::from_secs(30);

/// Threads that wait for devices go soon: their stacks are locked.
const IDLE_THREAD: Duration = Duration::from_secs(1);
/// Stack of a thread that serves calls or waits for devices. All of it is locked, also while the thread is idle.
const STACK_BYTES: usize = 256 << 10;

/// Threads that wait for devices and for the driver. A device takes at most three (`world/at_work.rs`), a master a few
/// more while it starts or changes. This is more than a node needs that has lost all its devices at once, and bounds what
/// their stacks lock.
const WAITING_THREADS_MAX: usize = 512;

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
    // Before the first thread, that of the log: it inherits the mark, and could hold up all that is logged without it.
    umbra_ublk::return_freed_memory();
    let is_io_flusher = umbra_ublk::become_io_flusher();
    crate::logging::init(run.log_format);
    crate::panics::end_the_process_unless_contained();
    match is_io_flusher.map_err(Into::into).and_then(|()| start(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            crate::logging::flush();
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
    // Its helper process starts while this one prepares itself, and long before there is a device to be claimed.
    let control = Control::open(CONTROL_DEADLINE)?;
    // Before there are threads that serve: memory is populated before requests need it.
    umbra_ublk::lock_memory()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(WAITING_THREADS_MAX)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()?;
    runtime.block_on(serve_all(run, supervision, control))?;
    crate::logging::flush();
    // Threads that serve devices end with the process; what is parked in the kernel waits for the next one.
    std::process::exit(0)
}

async fn serve_all(run: &Run, supervision: Supervision, control: Control) -> anyhow::Result<()> {
    tokio::spawn(ignore_hangups());
    let directory = Directory::open(&run.state_dir)?;
    let run_folder = run.socket.parent().unwrap_or(Path::new("/")).to_owned();
    std::fs::create_dir_all(&run_folder)?;
    let socket = Socket::bind(&run.socket).await?;
    let node = Id128(directory.node_id());
    let deaths = Box::new(Counted {
        pass_through: supervision.pass_through,
        heartbeats: supervision.heartbeats.clone(),
        deaths: Mutex::new(supervision.deaths),
    });
    let world = Linux {
        control,
        names: run.by_id.clone(),
        heartbeats: supervision.heartbeats,
        served_until: service_time::served_until(&run_folder),
        digests: Digests::open(&run_folder, boot())?,
        at_work: AtWork::default(),
    };
    tokio::spawn(service_time::keep(run_folder));
    let service = Service::new(world, directory, node, deaths);
    tokio::spawn({
        let service = service.clone();
        async move {
            let masters = service.resume().await;
            tracing::info!(masters, "what was attached is started");
        }
    });
    if let Some(address) = run.metrics {
        serve_metrics(address, &service);
    }
    tracing::info!(socket = %run.socket.display(), "serving");
    #[cfg(feature = "faults")]
    tokio::spawn(crate::faults::serve(service.clone(), run.socket.clone()));
    serve(socket, Arc::new(service.clone()), stop_signal()).await?;
    service.close().await;
    Ok(())
}

/// What the supervisor said of earlier deaths, and the deaths of threads since.
#[derive(Debug)]
struct Counted {
    pass_through: PassThrough,
    heartbeats: Heartbeats,
    deaths: Mutex<DeathLog>,
}

impl Counted {
    fn deaths(&self) -> MutexGuard<'_, DeathLog> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deaths for Counted {
    fn passes_through(&self, master: Uuid) -> bool {
        self.pass_through.includes(master) || self.deaths().decide_for(master, boot_ms()).pass_through
    }

    fn thread_died(&self, master: Uuid) -> Duration {
        self.heartbeats.note_panic(master);
        let now = boot_ms();
        let mut deaths = self.deaths();
        deaths.record(Death::panic_of(master, now));
        deaths.decide_for(master, now).delay
    }
}

fn serve_metrics(address: SocketAddr, service: &Service<Linux>) {
    let masters = Masters(service.clone());
    tokio::spawn(async move { umbra_probes::serve(umbra_probes::listen(address).await, masters).await });
}

/// What probes and scrapes look at.
struct Masters(Service<Linux>);

impl umbra_probes::Told for Masters {
    async fn ready(&self) -> Result<(), String> {
        self.0.known().await.map_err(|error| error.to_string())
    }

    async fn metrics(&self) -> Result<String, String> {
        metrics::scrape(&self.0).await.map_err(|error| error.to_string())
    }
}

/// A terminal that goes away ends nothing.
async fn ignore_hangups() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        tracing::info!("a hangup ends nothing");
    }
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
