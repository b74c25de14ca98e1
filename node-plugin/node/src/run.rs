//! `umbra-node run`: the facade. Everything is wired here, in the order it must start.

use crate::logging::{self, LogFormat};
use crate::metrics::{self, Seen};
use crate::publish::{self, Publisher, Report};
use crate::{facts, preflight};
use anyhow::Context;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use umbra_facade::identity::Segment;
use umbra_facade::listen::{Doors, TlsDoor};
use umbra_facade::node::About;
use umbra_facade::server::CallCounts;
use umbra_facade::{CredentialFiles, Credentials, Facade, FenceKeeper, serve};
use umbra_platform::time::Millis;
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
    /// This node's certificate, and those between it and an authority. Read again when it changes, as the next two.
    #[arg(long, value_name = "FILE")]
    tls_certificate: PathBuf,
    /// The certificate's key.
    #[arg(long, value_name = "FILE")]
    tls_key: PathBuf,
    /// The authorities that callers' certificates may come from.
    #[arg(long, value_name = "FILE")]
    tls_authorities: PathBuf,
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
    #[command(flatten)]
    publish: publish::Options,
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
    let stop = stop_signal()?;
    let files = CredentialFiles {
        certificate: run.tls_certificate.clone(),
        key: run.tls_key.clone(),
        authorities: run.tls_authorities.clone(),
    };
    let credentials = Arc::new(Credentials::of_server(files.clone())?);
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
    let facade = Facade::new(Arc::new(platform), fence.clone(), about);

    let listener = bind(run.listen).await?;
    let address = listener.local_addr()?;
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
        let look = Look { platform, fence, counts, published: published.clone() };
        tokio::spawn(umbra_probes::serve(listener, look));
    }
    if let Some(report) = published {
        let (node, platform) = (run.node.to_string(), Client::lazy(&run.socket, PATIENCE));
        let publisher = Publisher::new(node, run.publish.clone(), &run.state_dir, platform, fence, files);
        tokio::spawn(publish::keep(publisher, report));
    }
    let doors = Doors {
        tls: Some(TlsDoor { listener, credentials, cluster: run.cluster.clone() }),
        local: Some(local),
    };
    tracing::info!(%address, node = %run.node, cluster = %run.cluster, interposer = %run.socket.display(), "serving");
    serve(facade, doors, stop).await?;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Done when the process is told to stop.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What probes and scrapes look at.
struct Look {
    platform: Client,
    fence: FenceKeeper,
    counts: CallCounts,
    /// How the cluster is told what this node is, where it is told.
    published: Option<Report>,
}

impl umbra_probes::Told for Look {
    async fn ready(&self) -> Result<(), String> {
        // A cluster that is away is no reason: calls are answered all the same.
        if let Some(refusal) = self.published.as_ref().and_then(Report::refusal) {
            return Err(refusal);
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
