//! The plugin's sockets: one for CSI, one by which the kubelet finds it.

use crate::authority::FromKubelet;
use crate::service::{CsiService, DRIVER, Plugin, Register};
use crate::wire::csi::identity_server::IdentityServer;
use crate::wire::csi::node_server::NodeServer;
use crate::wire::registration::registration_server::RegistrationServer;
use crate::world::World;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use umbra_platform::Socket;
use umbra_platform::connection::accept_all;
use umbra_platform::ending::Ending;
use umbra_platform::server::check_peer;
use umbra_platform::socket;

/// Why the sockets are not there.
#[derive(Debug, Error)]
pub enum BindError {
    /// The folder of a socket cannot be made.
    #[error("make the folder {folder} of a socket")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// How it failed.
        source: io::Error,
    },
    /// A socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] socket::BindError),
}

/// Why the server ended that was not told to.
#[derive(Debug, Error)]
#[error("serve CSI")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Where the sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// For CSI.
    pub csi: PathBuf,
    /// Where the kubelet looks for plugins; none: it is not told.
    pub registration: Option<PathBuf>,
}

impl Sockets {
    /// In the kubelet's folder, where it looks for them.
    pub fn of_kubelet(folder: &Path) -> Self {
        Self {
            csi: folder.join("plugins").join(DRIVER).join("csi.sock"),
            registration: Some(folder.join("plugins_registry").join(format!("{DRIVER}-reg.sock"))),
        }
    }

    /// Binds them. The kubelet finds the plugin when it can be called.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(&self) -> Result<Doors, BindError> {
        let csi = bind(&self.csi).await?;
        let registration = match &self.registration {
            Some(path) => Some(bind(path).await?),
            None => None,
        };
        Ok(Doors { registration, csi })
    }
}

async fn bind(path: &Path) -> Result<Socket, BindError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)
        .map_err(|source| BindError::Folder { folder: folder.to_owned(), source })?;
    Ok(Socket::bind(path).await?)
}

/// The bound sockets.
#[derive(Debug)]
pub struct Doors {
    // Gone first: the kubelet is not to call who is not there.
    registration: Option<Socket>,
    csi: Socket,
}

/// Serves the plugin until `shutdown` is done; then calls that were begun come to their end, and the sockets go.
///
/// # Errors
/// [`ServeError`]. Callers cannot make it fail.
pub async fn serve<W: World>(
    plugin: Plugin<W>,
    doors: Doors,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (ending, stopping) = Ending::new();
    let service = CsiService::new(plugin, stopping.clone());
    let csi = Server::builder()
        .layer(InterceptorLayer::new(check_peer))
        .add_service(IdentityServer::new(service.clone()))
        .add_service(NodeServer::new(service));
    let register = Arc::new(Register { endpoint: doors.csi.path().to_owned() });
    let registration = Server::builder()
        .layer(InterceptorLayer::new(check_peer))
        .add_service(RegistrationServer::new(register));

    let (to_csi, at_csi) = mpsc::channel(1);
    let (to_registration, at_registration) = mpsc::channel(1);
    let accepting = async {
        let registering = async {
            match &doors.registration {
                Some(socket) => accept_all(socket, to_registration).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(accept_all(&doors.csi, to_csi), registering);
    };
    let serving = async {
        let csi = csi.serve_with_incoming_shutdown(ReceiverStream::new(at_csi), stopping.clone().told());
        let from_kubelet =
            ReceiverStream::new(at_registration).map(|connection| connection.map(FromKubelet::new));
        let registration = registration.serve_with_incoming_shutdown(from_kubelet, stopping.clone().told());
        tokio::try_join!(csi, registration).map(drop)
    };
    Ok(ending.serve(serving, accepting, shutdown).await?)
}
