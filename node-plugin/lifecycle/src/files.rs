//! Small files that are there whole or not at all: what the state directory is made of.
//!
//! A trait, because the same decisions run on a real directory and in the simulator, whose disk fills, hangs and
//! loses power between any two steps.

use std::fmt;
use std::future::Future;
use thiserror::Error;

/// A folder of the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Folder {
    /// One record per master, with its sets.
    Masters,
    /// Per set: images up to an epoch have ended (E7).
    Ended,
    /// Cuts over several sets that somebody may be in doubt about (E4).
    Cuts,
    /// Requests, and what they were answered.
    Answers,
}

impl Folder {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Masters, Self::Ended, Self::Cuts, Self::Answers];

    /// Its name in the state directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Masters => "masters",
            Self::Ended => "ended",
            Self::Cuts => "cuts",
            Self::Answers => "answers",
        }
    }
}

/// A file of the state directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// Where.
    pub folder: Folder,
    /// Its name there: a UUID, or a request id.
    pub name: String,
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.folder.name(), self.name)
    }
}

/// Why the state directory did not do what it was asked; what may be there then says [`Files`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{action} {file} in the state directory: {problem}")]
pub struct FileError {
    /// What was tried: "write".
    pub action: &'static str,
    /// On what.
    pub file: String,
    /// What was wrong.
    pub problem: String,
}

/// The files of a state directory.
///
/// # Guarantees
/// - A write is durable when it returns, and replaces the older version in one step: after a crash either is there,
///   whole.
/// - An operation that fails, or is given up because the disk hangs, has no effect *later*. As a rule it has had none. Only
///   a disk that fails in the very last step, where the new name is made durable, leaves a write or a removal that is
///   there to be read, and that a power cut may undo. So whoever is refused may rely on neither version being gone, and
///   orders his steps such that either is right; the next write of the file that succeeds settles it.
/// - Operations take effect in the order in which they were called.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// The bytes of a file, if it is there.
    fn read(&self, file: &FileName) -> impl Future<Output = Result<Option<Vec<u8>>, FileError>> + Send;

    /// Writes a file in place of the one that may be there.
    fn write(&self, file: &FileName, bytes: Vec<u8>) -> impl Future<Output = Result<(), FileError>> + Send;

    /// Removes a file, if it is there.
    fn remove(&self, file: &FileName) -> impl Future<Output = Result<(), FileError>> + Send;

    /// The names of the finished files of a folder, the oldest first as far as the file system tells.
    fn list(&self, folder: Folder) -> impl Future<Output = Result<Vec<String>, FileError>> + Send;
}
