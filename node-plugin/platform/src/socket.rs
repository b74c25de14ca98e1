//! The Unix socket that a server listens on: one owner, mode 0600, no leftovers in the way.

use rustix::fs::{FlockOperation, Mode, flock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Connections that wait to be accepted, at most.
const BACKLOG: u32 = 128;
/// A server that does not even take a connection for so long counts as alive: it may be stopped or debugged.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Why a socket could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another server answers there, or is about to.
    #[error("another server is listening on {0}")]
    InUse(PathBuf),
    /// Something else has that name; it is left alone.
    #[error("{0} exists and is no socket")]
    NotASocket(PathBuf),
    /// The file system or the kernel refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// How it failed.
        source: io::Error,
    },
}

/// A bound socket. The file goes away with it.
///
/// # Guarantees
/// - At most one `Socket` per path, also between processes: it holds a lock on `<path>.lock`, which falls with
///   the process and is never deleted.
/// - The socket has mode 0600 from its first moment, whatever the umask.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held, never read. Falls after the socket file is removed, since `drop` runs before fields are dropped.
    _lock: File,
}

impl Socket {
    /// Binds `path`. A socket that nobody listens on any more is removed; anything else is left alone.
    ///
    /// # Errors
    /// [`BindError`]; nothing was changed then, but for a stale socket removed.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let fail = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
        let lock = take_lock(path)?;
        remove_stale(path).await?;
        let socket = UnixSocket::new_stream().map_err(fail("make a socket for"))?;
        // Before bind: the kernel gives the file the mode of the socket, so no moment is open to others.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|e| fail("set the mode of")(e.into()))?;
        socket.bind(path).map_err(fail("bind"))?;
        let listener = socket.listen(BACKLOG).map_err(fail("listen on"))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file could not be removed");
        }
    }
}

/// Without the lock two servers could each find a stale socket and each remove the other's new one.
fn take_lock(path: &Path) -> Result<File, BindError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let fail = |action, source| BindError::Io { action, path: PathBuf::from(&lock_path), source };
    let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(|e| fail("open", e))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BindError::InUse(path.to_owned())),
        Err(errno) => Err(fail("lock", errno.into())),
    }
}

/// The lock is held; but a server of another make, or with its lock file deleted, may still be alive.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let fail = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("look at")(error)),
    };
    if !kind.is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match tokio::time::timeout(PROBE_LIMIT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fail("remove the stale socket"))
        }
        Ok(Err(error)) => Err(fail("probe")(error)),
        Ok(Ok(_)) | Err(_) => Err(BindError::InUse(path.to_owned())),
    }
}
