//! The doors of a node: TCP with mutual TLS, and a Unix socket for root. Who comes in is known before the first call.
//!
//! What strangers can hold is bounded: handshakes, of which the oldest makes room for a new one, so that no number of silent
//! connections keeps out a caller who shakes hands at once; and connections that may call nothing, which are let in only
//! to be told so.

use crate::caller::{Caller, Right};
use crate::credentials::{Credentials, uris};
use crate::identity::Segment;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use umbra_platform::Socket;
use umbra_platform::connection as local;

/// Connections of callers at a time. There is one operator, and a few consoles.
const CONNECTIONS_MAX: usize = 128;
/// Connections of peers that may call nothing.
const STRANGERS_MAX: usize = 4;
/// Handshakes at a time. For one more, the oldest is ended.
const HANDSHAKES_MAX: usize = 32;
/// Time for a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Rest after a failed accept: the usual reason is a lack of descriptors, which does not pass at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The door for other machines.
#[derive(Debug)]
pub struct TlsDoor {
    /// Where it is.
    pub listener: TcpListener,
    /// What it shows, and whom it lets in.
    pub credentials: Arc<Credentials<ServerConfig>>,
    /// The cluster that callers must be of.
    pub cluster: Segment,
}

/// Where callers come in.
#[derive(Debug, Default)]
pub struct Doors {
    /// For other machines.
    pub tls: Option<TlsDoor>,
    /// For root of this one.
    pub local: Option<Socket>,
}

/// Accepts connections at every door and passes them on, until nobody takes them any more.
pub(crate) async fn accept_all(doors: &Doors, to: mpsc::Sender<io::Result<Connection>>) {
    let from_afar = async {
        if let Some(door) = &doors.tls {
            door.accept_all(&to).await;
        }
    };
    let from_here = async {
        if let Some(socket) = &doors.local {
            accept_local(socket, &to).await;
        }
    };
    tokio::join!(from_afar, from_here);
}

async fn accept_local(socket: &Socket, to: &mpsc::Sender<io::Result<Connection>>) {
    let (accepted, mut connections) = mpsc::channel::<io::Result<local::Connection>>(1);
    let pass_on = async {
        while let Some(connection) = connections.recv().await {
            if to.send(connection.map(Connection::local)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = local::accept_all(socket, accepted) => {}
        () = pass_on => {}
    }
}

/// Room for connections: one semaphore per kind of peer.
#[derive(Clone)]
struct Room {
    callers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl TlsDoor {
    async fn accept_all(&self, to: &mpsc::Sender<io::Result<Connection>>) {
        let room = Room {
            callers: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        };
        // Dropped with this function, and the handshakes with it.
        let mut handshakes = JoinSet::new();
        let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
        while !to.is_closed() {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            while handshakes.try_join_next().is_some() {}
            by_age.retain(|handshake| !handshake.is_finished());
            if by_age.len() >= HANDSHAKES_MAX
                && let Some(oldest) = by_age.pop_front()
            {
                tracing::debug!(limit = HANDSHAKES_MAX, "too many handshakes: the oldest is ended");
                oldest.abort();
            }
            let (room, to) = (room.clone(), to.clone());
            let (credentials, cluster) = (Arc::clone(&self.credentials), self.cluster.clone());
            by_age.push_back(handshakes.spawn(async move {
                if let Some(connection) = let_in(stream, peer, credentials, &cluster, &room).await {
                    // Nobody takes it any more: the server ends.
                    drop(to.send(Ok(connection)).await);
                }
            }));
        }
    }
}

/// Shakes hands, and finds out who it is.
async fn let_in(
    stream: TcpStream,
    peer: SocketAddr,
    credentials: Arc<Credentials<ServerConfig>>,
    cluster: &Segment,
    room: &Room,
) -> Option<Connection> {
    // Answers are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "small packets may wait");
    }
    let config = tokio::task::spawn_blocking(move || credentials.current()).await.ok()?;
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%peer, %error, "somebody was not let in");
            return None;
        }
        Err(_) => {
            tracing::warn!(%peer, "somebody did not end the handshake in time");
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = Caller::certified(cluster, certificate.map(uris).unwrap_or_default());
    let is_welcome = caller.may(Right::Read);
    let places = if is_welcome { &room.callers } else { &room.strangers };
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        tracing::warn!(%peer, %caller, "connection refused: too many");
        return None;
    };
    if !is_welcome {
        tracing::warn!(%peer, %caller, "somebody connected who may call nothing");
    }
    Some(Connection { stream: Stream::Tls(Box::new(stream)), caller, _place: Some(place) })
}

enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Local(local::Connection),
}

/// A caller's connection; its place among the limited number falls with it.
pub(crate) struct Connection {
    stream: Stream,
    caller: Caller,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn local(connection: local::Connection) -> Self {
        let user = connection.connect_info().peer_cred.map(|peer| peer.uid());
        // The place is within.
        Self { stream: Stream::Local(connection), caller: Caller::local(user), _place: None }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
