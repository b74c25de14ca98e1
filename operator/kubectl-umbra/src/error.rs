//! Why a command did not do what it was asked.

use std::process::ExitCode;

use thiserror::Error;

/// The command line makes no sense.
pub(crate) const USAGE: u8 = 1;
/// It could not be done.
pub(crate) const FAILED: u8 = 2;

/// Why a command did not do what it was asked; each kind has an exit code of its own.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => USAGE,
            Self::Failed(_) => FAILED,
        })
    }
}
