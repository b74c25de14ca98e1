//! The state directory on a disk.
//!
//! ```text
//!  lock            held while the process lives: one interposer per directory
//!  node-id         16 random bytes, made once
//!  masters/ ended/ cuts/ answers/      see `umbra_lifecycle::state`
//! ```
//! It belongs to root and to nobody else: what is served, and from what, is decided by it. It must not lie on a device
//! that Umbra presents, since a write there would wait for the record that waits for the write.
//!
//! One thread does all file operations in the order in which they were asked for, so that a late write never replaces
//! a newer one. Who waits too long gives the operation up: it is dropped if it has not begun, or before its last step. That
//! one cannot be taken back, so its end is waited for, however long the disk takes.

use super::presented::Sight;
use crate::files;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;
use umbra_lifecycle::files::{FileError, FileName, Files, Folder};
use uuid::Uuid;

/// How long a file operation may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stack of the thread, all of which is locked.
const STACK_BYTES: usize = 128 << 10;

/// Why the state directory cannot be used. The texts hold the cause; there is no source beside them.
#[derive(Debug, Error)]
pub(crate) enum DirectoryError {
    /// Another interposer has it.
    #[error("the state directory {} is used by another umbra-io; stop that one or name another directory", .0.display())]
    InUse(PathBuf),
    /// It is on a device that Umbra presents.
    #[error("the state directory {} is on {device}, a ublk device; put it on a file system that Umbra does not interpose", path.display())]
    OnPresentedDevice {
        /// The directory.
        path: PathBuf,
        /// The device.
        device: String,
    },
    /// Somebody else could change what is in it.
    #[error("the state directory {} belongs to user {owner} with mode {mode:03o}: chown it to user {me} and chmod it to 700, if you trust what is in it", path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its mode.
        mode: u32,
        /// Who should own it.
        me: u32,
    },
    /// The node's id is none.
    #[error("{} cannot be used ({problem}); put back a copy of it; or move it away, and reset the sets whose bitmap volumes name the old node", path.display())]
    NodeId {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file system.
    #[error("{action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    move |cause| DirectoryError::Io { action, path: path.to_owned(), cause }
}

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(crate) struct Directory {
    root: PathBuf,
    node: [u8; 16],
    jobs: mpsc::Sender<Job>,
    /// Held, never read.
    _lock: File,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Directory {
    /// Opens the directory, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DirectoryError> {
        make_folder(path)?;
        if let Some(device) = Sight::host().presented_below(path) {
            return Err(DirectoryError::OnPresentedDevice { path: path.to_owned(), device });
        }
        check_private(path)?;
        let lock = path.join("lock");
        let held = files::lock(&lock).map_err(io_error("lock", &lock))?;
        let held = held.ok_or_else(|| DirectoryError::InUse(path.to_owned()))?;
        for folder in Folder::ALL {
            make_folder(&path.join(folder.name()))?;
            files::sweep(&path.join(folder.name())).map_err(io_error("look through", path))?;
        }
        let node = node_id(&path.join("node-id"))?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("umbra-state".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || inbox.into_iter().for_each(|job| job()))
            .map_err(io_error("start a thread for", path))?;
        Ok(Self { root: path.to_owned(), node, jobs, _lock: held })
    }

    /// This node, for the sessions of sets.
    pub(crate) fn node_id(&self) -> [u8; 16] {
        self.node
    }

    fn path(&self, file: &FileName) -> PathBuf {
        self.root.join(file.folder.name()).join(&file.name)
    }

    /// Has the thread do something. `job` asks whether it was given up before each step that cannot be taken back.
    async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        file: String,
        job: impl FnOnce(&dyn Fn() -> bool) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FileError> {
        let failed = |problem: String| FileError { action, file: file.clone(), problem };
        // Who is first decides: the thread that takes the last step, or the caller that gives up.
        let decided = Arc::new(AtomicBool::new(false));
        let (reply, mut answer) = oneshot::channel();
        let go_on = Arc::clone(&decided);
        let run = move || {
            // Given up while others had their turn.
            if go_on.load(Ordering::Acquire) {
                return;
            }
            let may_go_on = || !go_on.swap(true, Ordering::AcqRel);
            let _ = reply.send(job(&may_go_on));
        };
        self.jobs.send(Box::new(run)).map_err(|_| failed("its thread has ended".to_owned()))?;
        let outcome = match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(outcome) => outcome,
            Err(_) if !decided.swap(true, Ordering::AcqRel) => {
                return Err(failed(format!("the disk did not answer within {} s", PATIENCE.as_secs())));
            }
            // The last step is under way and cannot be taken back: only its end tells what is there.
            Err(_) => answer.await,
        };
        let outcome = outcome.map_err(|_| failed("its thread has ended".to_owned()))?;
        outcome.map_err(|error| failed(error.to_string()))
    }
}

fn given_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "given up")
}

impl Files for Directory {
    async fn read(&self, file: &FileName) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.path(file);
        self.run("read", file.to_string(), move |_| files::read(&path)).await
    }

    async fn write(&self, file: &FileName, bytes: Vec<u8>) -> Result<(), FileError> {
        let path = self.path(file);
        self.run("write", file.to_string(), move |may_go_on| {
            let written = files::write_beside(&path, &bytes)?;
            #[cfg(feature = "faults")]
            files::hold(&path);
            if may_go_on() { written.replace().map(drop) } else { Err(given_up()) }
        })
        .await
    }

    async fn remove(&self, file: &FileName) -> Result<(), FileError> {
        let path = self.path(file);
        let remove = move |may_go_on: &dyn Fn() -> bool| {
            if may_go_on() { files::remove(&path) } else { Err(given_up()) }
        };
        self.run("remove", file.to_string(), remove).await
    }

    async fn list(&self, folder: Folder) -> Result<Vec<String>, FileError> {
        let path = self.root.join(folder.name());
        self.run("list", folder.name().to_owned(), move |_| files::list(&path)).await
    }
}

/// Makes a folder and those above it, durably.
fn make_folder(path: &Path) -> Result<(), DirectoryError> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make", path))?;
    missing
        .into_iter()
        .try_for_each(|made| files::sync_folder_of(made).map_err(io_error("make durable", made)))
}

fn check_private(path: &Path) -> Result<(), DirectoryError> {
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    let (owner, mode) = (metadata.uid(), metadata.permissions().mode() & 0o777);
    let me = rustix::process::geteuid().as_raw();
    if owner == me && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(DirectoryError::Exposed { path: path.to_owned(), owner, mode, me })
}

/// The id of this node, made the first time.
fn node_id(path: &Path) -> Result<[u8; 16], DirectoryError> {
    let Some(text) = files::read(path).map_err(io_error("read", path))? else {
        let id = Uuid::new_v4();
        files::write(path, id.to_string().as_bytes()).map_err(io_error("write", path))?;
        return Ok(*id.as_bytes());
    };
    match Uuid::try_parse_ascii(text.trim_ascii()) {
        Ok(id) => Ok(*id.as_bytes()),
        Err(error) => Err(DirectoryError::NodeId { path: path.to_owned(), problem: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FileName {
        FileName { folder: Folder::Ended, name: "a".to_owned() }
    }

    #[tokio::test]
    async fn what_was_given_up_before_its_turn_is_not_begun() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(home.path()).unwrap();
        directory.write(&file(), b"old".to_vec()).await.unwrap();
        let (release, hangs) = mpsc::channel::<()>();
        directory.jobs.send(Box::new(move || hangs.recv().unwrap())).unwrap();
        // Patience ends at once from here on.
        tokio::time::pause();
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let given_up = directory.run("try", String::new(), move |_| {
            begins.store(true, Ordering::Relaxed);
            Ok(())
        });
        assert!(given_up.await.is_err());
        assert!(directory.write(&file(), b"new".to_vec()).await.is_err());
        tokio::time::resume();
        release.send(()).unwrap();
        assert_eq!(directory.read(&file()).await, Ok(Some(b"old".to_vec())));
        assert!(!begun.load(Ordering::Relaxed));
    }

    #[test]
    fn a_directory_has_one_user() {
        let home = tempfile::tempdir().unwrap();
        let first = Directory::open(home.path()).unwrap();
        assert!(matches!(Directory::open(home.path()), Err(DirectoryError::InUse(_))));
        let node = first.node_id();
        drop(first);
        assert_eq!(Directory::open(home.path()).unwrap().node_id(), node);
    }
}
