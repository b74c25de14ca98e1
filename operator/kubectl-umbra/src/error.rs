//! Why a command did not do what it was asked.

use std::process::ExitCode;

use thiserror::Error;
use umbra_actions::Refusal;

/// The command line makes no sense.
pub(crate) const USAGE: u8 = 1;
/// It could not be done.
pub(crate) const FAILED: u8 = 2;
/// A guard refused it.
const REFUSED: u8 = 3;
/// It was not done in time.
const TIMED_OUT: u8 = 4;

/// Why a command did not do what it was asked; each kind has an exit code of its own.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
    /// A guard refused it: somebody must decide.
    #[error("{0}")]
    Refused(String),
    /// It was not done in time, and may be done yet.
    #[error("{0}")]
    TimedOut(String),
}

impl Failure {
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => USAGE,
            Self::Failed(_) => FAILED,
            Self::Refused(_) => REFUSED,
            Self::TimedOut(_) => TIMED_OUT,
        })
    }

    /// Everything that keeps a command from being carried out.
    pub(crate) fn of_refusals(refusals: &[Refusal]) -> Self {
        let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        let text = text.join("\nerror: ");
        // What is not there is no matter of guards, whatever else is found.
        if refusals.iter().all(Refusal::is_by_guard) { Self::Refused(text) } else { Self::Failed(text) }
    }

    /// What is wrong with what was asked for, found before anything was sent.
    pub(crate) fn of_problems(problems: &[impl ToString]) -> Self {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self::Usage(text.join("\nerror: "))
    }
}
