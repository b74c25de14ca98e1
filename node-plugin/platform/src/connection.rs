//! Connections that cannot hurt: a limited number, and none that says nothing.
//!
//! The library below waits without end for a client's first bytes, and its keep-alive begins only after them.
//! Without a limit here, a few idle connections would use up the descriptors of the data plane's process.

use crate::socket::Socket;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// Connections at one time. The clients are a facade, a supervisor and people: far fewer.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// Of these, connections of users that may call nothing: enough to tell them so, not enough to be in the way.
const STRANGERS_MAX: usize = 4;
/// Length of HTTP/2's connection preface.
const PREFACE_BYTES: usize = 24;
/// Time in which the preface must have come.
pub(crate) const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// Rest after a failed accept: the usual reason is a lack of descriptors, which does not pass at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Whether a process of this user may call a server of that one.
pub fn may_call(user: u32, own: u32) -> bool {
    user == 0 || user == own
}

/// Accepts connections and passes them on, until nobody takes them any more.
pub async fn accept_all(socket: &Socket, to: mpsc::Sender<io::Result<Connection>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let own = rustix::process::geteuid().as_raw();
    loop {
        let stream = match socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let user = stream.peer_cred().map(|peer| peer.uid());
        let is_welcome = user.as_ref().is_ok_and(|user| may_call(*user, own));
        if !is_welcome {
            tracing::warn!(?user, "somebody connected who may call nothing");
        }
        let places = if is_welcome { &places } else { &strangers };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            // Closing at once is the clearest answer that costs nothing.
            tracing::warn!(limit = CONNECTIONS_MAX, "connection refused: too many");
            continue;
        };
        if to.send(Ok(Connection::new(stream, place))).await.is_err() {
            return;
        }
    }
}

/// A client's connection; its place among the limited number falls with it.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    opening: Option<Opening>,
    _place: OwnedSemaphorePermit,
}

/// A connection whose preface has not come whole.
#[derive(Debug)]
struct Opening {
    missing: usize,
    limit: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: UnixStream, place: OwnedSemaphorePermit) -> Self {
        let limit = Box::pin(tokio::time::sleep(PREFACE_LIMIT));
        Self { stream, opening: Some(Opening { missing: PREFACE_BYTES, limit }), _place: place }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(opening) = &mut this.opening else { return Pin::new(&mut this.stream).poll_read(cx, buf) };
        if opening.limit.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no preface came")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        opening.missing = opening.missing.saturating_sub(buf.filled().len() - before);
        if opening.missing == 0 {
            this.opening = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_servers_own_user_may_call() {
        assert!(may_call(0, 0) && may_call(0, 1000) && may_call(1000, 1000));
        assert!(!may_call(1000, 0) && !may_call(1001, 1000));
    }
}
