//! Keeps the highest fence that a node has seen, in one small file.
//!
//! ```text
//!   a higher fence: write fence.new, sync, rename to fence, sync the directory; then the call goes on
//!   the same: goes on       a lower one: refused
//! ```
//! A crash between any two steps leaves the file of before or the new one, whole. A fence that could not be kept is not
//! taken: the call that brought it is refused, and may be sent again.
//!
//! A call is admitted at one moment. One that was admitted under an older fence goes on when a newer one comes, and
//! `QueryOp` says that it runs.

use crate::error::FacadeError;
use crate::fence::Fence;
use crate::node::SeenFence;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest text that is read: a fence has at most twenty digits.
const FILE_BYTES_MAX: u64 = 64;

/// The highest fence of a node. Clones, and other processes, share it: its file is read for every call.
#[derive(Clone, Debug)]
pub struct FenceKeeper {
    directory: PathBuf,
}

impl FenceKeeper {
    /// The fence in this directory. Nothing is looked at yet, so that a file that cannot be read keeps nobody from
    /// reading what else there is.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Admits a call with this fence. A new highest one is durable when this returns.
    ///
    /// # Errors
    /// [`FacadeError::StaleFence`], [`FacadeError::FenceNotKept`].
    pub async fn admit(&self, sent: Fence) -> Result<(), FacadeError> {
        self.blocking(move |keeper| keeper.admit_now(sent)).await
    }

    /// The highest so far.
    pub async fn highest(&self) -> SeenFence {
        match self.blocking(Self::read).await {
            Ok(None) => SeenFence::Never,
            Ok(Some(fence)) => SeenFence::Highest(fence),
            Err(error) => {
                tracing::warn!(%error, "the fence cannot be read");
                SeenFence::Unreadable
            }
        }
    }

    /// In a thread that may wait for the disk; to the end, also where nobody waits for the answer any more.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, FacadeError> + Send + 'static,
    ) -> Result<T, FacadeError> {
        let keeper = self.clone();
        match tokio::task::spawn_blocking(move || act(&keeper)).await {
            Ok(done) => done,
            Err(error) => Err(self.not_kept("use", &io::Error::other(error))),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("fence")
    }

    fn not_kept(&self, action: &str, error: &io::Error) -> FacadeError {
        FacadeError::FenceNotKept {
            file: self.file().display().to_string().into(),
            problem: format!("{action} it: {error}").into(),
        }
    }

    fn admit_now(&self, sent: Fence) -> Result<(), FacadeError> {
        // One at a time, also of two processes while one replaces the other. The lock falls with the file.
        let lock = self.lock().map_err(|error| self.not_kept("lock", &error))?;
        match self.read()? {
            Some(highest) if sent < highest => return Err(FacadeError::StaleFence { sent, highest }),
            Some(highest) if sent == highest => return Ok(()),
            Some(_) | None => self.write(sent).map_err(|error| self.not_kept("write", &error))?,
        }
        drop(lock);
        tracing::info!(fence = %sent, "a leader with a new fence");
        Ok(())
    }

    fn lock(&self) -> io::Result<File> {
        let path = self.directory.join("fence.lock");
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        lock.lock()?;
        Ok(lock)
    }

    fn read(&self) -> Result<Option<Fence>, FacadeError> {
        let read = || {
            let file = match File::open(self.file()) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut text = String::new();
            file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
            text.trim_end().parse().map(Some).map_err(io::Error::other)
        };
        read().map_err(|error| self.not_kept("read", &error))
    }

    fn write(&self, fence: Fence) -> io::Result<()> {
        let new = self.directory.join("fence.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        writeln!(file, "{fence}")?;
        file.sync_all()?;
        std::fs::rename(&new, self.file())?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(number: u64) -> Fence {
        Fence::new(number).expect("above 0")
    }

    #[tokio::test]
    async fn lower_fences_are_refused_also_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let keeper = FenceKeeper::new(directory.path());
        assert_eq!(keeper.highest().await, SeenFence::Never);
        for number in [3, 3, 7] {
            keeper.admit(fence(number)).await.expect("the highest so far");
        }
        let stale = |sent| Err(FacadeError::StaleFence { sent: fence(sent), highest: fence(7) });
        assert_eq!(keeper.admit(fence(3)).await, stale(3));
        let again = FenceKeeper::new(directory.path());
        assert_eq!(again.admit(fence(6)).await, stale(6));
        assert_eq!(again.highest().await, SeenFence::Highest(fence(7)));
        again.admit(fence(7)).await.expect("the same");
        again.admit(fence(8)).await.expect("a new one");
        let behind = keeper.admit(fence(7)).await.expect_err("another process has seen 8");
        assert_eq!(behind.reason(), "STALE_FENCE");
    }

    #[tokio::test]
    async fn a_fence_that_cannot_be_kept_is_not_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let gone = directory.path().join("gone");
        let keeper = FenceKeeper::new(&gone);
        let refused = keeper.admit(fence(2)).await.expect_err("there is no directory");
        assert!(matches!(&refused, FacadeError::FenceNotKept { .. }), "{refused}");
        assert!(refused.to_string().contains("gone/fence"), "{refused}");
        std::fs::create_dir(&gone).expect("a directory");
        keeper.admit(fence(1)).await.expect("2 was never taken");
    }

    #[tokio::test]
    async fn a_damaged_file_admits_nobody_until_it_is_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("fence");
        for damaged in ["", "x", "-1", "0", "7 8", "99999999999999999999999"] {
            std::fs::write(&file, damaged).expect("written");
            let keeper = FenceKeeper::new(directory.path());
            assert_eq!(keeper.highest().await, SeenFence::Unreadable, "{damaged:?}");
            let refused = keeper.admit(fence(u64::MAX)).await.expect_err("nobody knows the highest");
            assert_eq!(refused.reason(), "FENCE_NOT_KEPT", "{damaged:?}");
            std::fs::write(&file, "5\n").expect("written");
            assert_eq!(keeper.admit(fence(4)).await.expect_err("lower").reason(), "STALE_FENCE");
        }
    }
}
