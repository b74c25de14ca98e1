//! `umbra-node run`: the facade. Everything is wired here, in the order it must start.

use crate::certificates::{Keeper, Way};
use crate::inventory::{device_pattern, is_allowed};
use crate::logging::{self, LogFormat};
use crate::metrics::{self, Seen};
use crate::publish::{self, Publisher, Report};
use crate::{certificates, csi, facts, preflight};
use anyhow::Context;
use clap::{ArgGroup, Args};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use umbra_crds::{DeviceId, DevicePattern};
use umbra_facade::identity::{Identity, Role, Segment};
use umbra_facade::listen::{Doors, TlsDoor};
use umbra_facade::node::About;
use umbra_facade::server::CallCounts;
use umbra_facade::{CredentialFiles, CredentialFolder, Credentials, Facade, FenceKeeper, serve};
use umbra_platform::time::Millis;
use umbra_platform::value::DevicePath;
use umbra_platform::{CallDeadlines, Client, Socket};

/// Time in which the interposer must answer a probe: less than the kubelet's and Prometheus' patience.
const PROBE_LIMIT: Millis = Millis(800);

/// Time in which the interposer must answer calls: less than callers wait by default, so that who hangs is told by the one
/// who sees it.
const PATIENCE: CallDeadlines = CallDeadlines {
    connect: Millis::from_secs(5),
    read: Millis::from_secs(5),
    change: Millis::from_secs(100),
};

/// Options of the facade.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("asks-cluster").args(["publish", "tls_builtin"]).multiple(true)))]
pub(crate) struct Run {
    /// Name of this node in its cluster.
    #[arg(long)]
    node: Segment,
    /// The cluster: callers must have an identity in it.
    #[arg(long)]
    cluster: Segment,
    /// Serve the facade there, over mutual TLS.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9751")]
    listen: SocketAddr,
    #[command(flatten)]
    tls: certificates::Options,
    /// Socket of the interposer.
    #[arg(long, default_value = "/run/umbra/io.sock")]
    socket: PathBuf,
    /// Socket where root of this node may read.
    #[arg(long, default_value = "/run/umbra/node.sock")]
    local_socket: PathBuf,
    /// Where the highest fence is kept.
    #[arg(long, default_value = "/var/lib/umbra/node")]
    state_dir: PathBuf,
    /// Serve probes and metrics there, to whoever can connect; without it, nowhere.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// Devices that may be used at all, as a pattern of their stable names; may be given several times. Left out, it is
    /// every device that nothing else denies.
    #[arg(long, value_name = "GLOB", value_parser = device_pattern)]
    device_allow: Vec<DevicePattern>,
    #[command(flatten)]
    publish: publish::Options,
    #[command(flatten)]
    csi: csi::Options,
    /// Text or JSON.
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
}

/// Runs until it is told to stop.
pub(crate) fn main(run: &Run) -> ExitCode {
    logging::init(run.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(serve_all(run)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_all(run: &Run) -> anyhow::Result<()> {
    // Before anything that takes time: whoever stops this early is heard.
    let stopped = stop_signal()?;
    let (files, enrolled) = credentials(run)?;
    // Where certificates are somebody else's matter, what is wrong with them is said at the start.
    let waits = enrolled.as_ref().and_then(certificates::Report::waits);
    let door = match &waits {
        None => Some(door(run, &files).await?),
        Some(what) => {
            tracing::warn!("the facade is not served to other hosts yet: {what}");
            None
        }
    };
    std::fs::create_dir_all(&run.state_dir)
        .with_context(|| format!("make the state directory {}", run.state_dir.display()))?;
    let fence = FenceKeeper::new(&run.state_dir);
    let platform = Client::lazy(&run.socket, PATIENCE);
    let name = run.node.to_string();
    let about = move || About {
        name: name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        findings: preflight::judge(&facts::gather()),
    };
    let device_allow = run.device_allow.clone();
    let allows = move |device: &DevicePath| is_allowed(&device_allow, &DeviceId::new(device.as_str()));
    let facade = Facade::new(Arc::new(platform), fence.clone(), about).with_devices(allows);

    // The interposer makes this folder too; whoever comes first.
    let folder = run.local_socket.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let local = Socket::bind(&run.local_socket).await?;
    let published = run.publish.are_on().then(Report::default);
    if let Some(wanted) = run.http {
        let listener = bind(wanted).await?;
        tracing::info!(address = %listener.local_addr()?, "probes and metrics are served");
        let probes = CallDeadlines { connect: PROBE_LIMIT, read: PROBE_LIMIT, change: PROBE_LIMIT };
        let platform = Client::lazy(&run.socket, probes);
        let (fence, counts) = (fence.clone(), facade.counts());
        let look = Look { platform, fence, counts, published: published.clone(), enrolled: enrolled.clone() };
        tokio::spawn(umbra_probes::serve(listener, look));
    }
    if let Some(report) = published {
        let (node, platform) = (run.node.to_string(), Client::lazy(&run.socket, PATIENCE));
        let (options, allowed) = (run.publish.clone(), &run.device_allow);
        let publisher =
            Publisher::new(node, options, allowed, &run.state_dir, platform, fence, files.clone());
        tokio::spawn(publish::keep(publisher.enrolled(enrolled.clone()), report));
    }
    let csi = match run.csi.sockets() {
        None => None,
        Some(sockets) => {
            let platform = Client::lazy(&run.socket, PATIENCE);
            Some(csi::Csi::bind(&run.node, platform, &run.state_dir, &sockets).await?)
        }
    };
    // Root of this node, and its pods, need no certificate.
    let here = Doors { tls: None, local: Some(local) };
    let here = async { Ok(serve(facade.clone(), here, told(stopped.clone())).await?) };
    let afar = serve_afar(run, facade.clone(), door, files, enrolled, stopped.clone());
    let csi = async {
        match csi {
            Some(csi) => csi.serve(told(stopped.clone())).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(here, afar, csi)?;
    tracing::info!("stopped");
    Ok(())
}

/// Where the certificates are; and, where the operator signs them, how it stands with this node's, which is kept up to date
/// from now on.
fn credentials(run: &Run) -> anyhow::Result<(CredentialFiles, Option<certificates::Report>)> {
    match run.tls.way() {
        Way::External(files) => Ok((files, None)),
        Way::Builtin { folder, namespace } => {
            let identity = Identity { cluster: run.cluster.clone(), role: Role::Node(run.node.clone()) };
            let folder = CredentialFolder::open(&folder, identity)?;
            let (files, kubeconfig) = (folder.files(), run.publish.kubeconfig().map(Path::to_owned));
            let keeper = Keeper::new(folder, kubeconfig, namespace, run.node.to_string());
            let report = keeper.report();
            tokio::spawn(certificates::keep(keeper));
            Ok((files, Some(report)))
        }
    }
}

/// The door for other hosts.
async fn door(run: &Run, files: &CredentialFiles) -> anyhow::Result<TlsDoor> {
    let credentials = Arc::new(Credentials::of_server(files.clone())?);
    Ok(TlsDoor { listener: bind(run.listen).await?, credentials, cluster: run.cluster.clone() })
}

/// Serves the facade to other hosts, from the first certificate on. Before that nobody listens, and callers are told so by
/// their connection.
async fn serve_afar(
    run: &Run,
    facade: Facade<Client>,
    open: Option<TlsDoor>,
    files: CredentialFiles,
    enrolled: Option<certificates::Report>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if let Some(enrolled) = enrolled {
        tokio::select! {
            () = enrolled.held() => {}
            () = told(stopped.clone()) => return Ok(()),
        }
    }
    let tls = match open {
        Some(door) => door,
        None => door(run, &files).await?,
    };
    let address = tls.listener.local_addr()?;
    tracing::info!(%address, node = %run.node, cluster = %run.cluster, interposer = %run.socket.display(), "serving");
    Ok(serve(facade, Doors { tls: Some(tls), local: None }, told(stopped)).await?)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// True from the moment on when the process is told to stop.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}

/// Done when the process is told to stop.
async fn told(mut stopped: watch::Receiver<bool>) {
    // The other side lives as long as the runtime.
    let _flag = stopped.wait_for(|stopped| *stopped).await;
}

/// What probes and scrapes look at.
struct Look {
    platform: Client,
    fence: FenceKeeper,
    counts: CallCounts,
    /// How the cluster is told what this node is, where it is told.
    published: Option<Report>,
    /// How it stands with the certificate, where the operator signs it.
    enrolled: Option<certificates::Report>,
}

impl umbra_probes::Told for Look {
    async fn ready(&self) -> Result<(), String> {
        // A cluster that is away is no reason: calls are answered all the same.
        if let Some(refusal) = self.published.as_ref().and_then(Report::refusal) {
            return Err(refusal);
        }
        if let Some(waits) = self.enrolled.as_ref().and_then(certificates::Report::waits) {
            return Err(waits);
        }
        let answer = self.platform.list().await;
        answer.map(drop).map_err(|error| format!("{error}; {}", error.remedy()))
    }

    async fn metrics(&self) -> Result<String, String> {
        let seen = Seen {
            calls: self.counts.get(),
            fence: self.fence.highest().await,
            is_platform_up: self.platform.list().await.is_ok(),
            findings: preflight::judge(&facts::gather()),
            published: self.published.as_ref().map(Report::counts).unwrap_or_default(),
        };
        metrics::render(&seen).map_err(|error| error.to_string())
    }
}
