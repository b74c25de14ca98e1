//! What the supervisor tells the I/O process, through its environment: a process started by hand, without
//! any of it, runs unwatched.

use super::boot;
use super::deaths::{DeathLog, NoMasters, PassThrough};
use crate::heartbeat::{HeartbeatError, Heartbeats};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// The heartbeat file.
pub const HEARTBEAT: &str = "UMBRA_HEARTBEAT";
/// The masters that start without dependent shadows: `none`, `all`, or UUIDs with commas between.
pub const PASS_THROUGH: &str = "UMBRA_PASS_THROUGH";
/// The log of deaths.
pub const DEATHS: &str = "UMBRA_DEATHS";
/// The supervisor's process id.
pub const SUPERVISOR: &str = "UMBRA_SUPERVISOR";

/// Why a supervised process must not go on.
#[derive(Debug, Error)]
pub enum SupervisionError {
    /// Its supervisor is gone; another may have started another process.
    #[error("the supervisor (process {0}) is gone; start `umbra-io supervise` again")]
    Orphaned(String),
    /// The kernel did not take the wish.
    #[error("ask the kernel to end this process with its supervisor: {0}")]
    DeathSignal(rustix::io::Errno),
    /// The heartbeat file.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
    /// The variable says nothing.
    #[error("{PASS_THROUGH}: {0}")]
    PassThrough(#[from] NoMasters),
}

/// What a process is told.
#[derive(Debug)]
pub struct Supervision {
    /// For the reactors; unwatched without a supervisor.
    pub heartbeats: Heartbeats,
    /// Whose dependent shadows are to be given up, recorded first, before anything is served.
    pub pass_through: PassThrough,
    /// The deaths so far, to decide by when a thread of one master panics: record it here with
    /// [`Death::panic_of`](super::deaths::Death::panic_of), tell the supervisor with
    /// [`Heartbeats::note_panic`], and start that master again as
    /// [`decide_for`](DeathLog::decide_for) says. The supervisor, which keeps the file, counts the same.
    pub deaths: DeathLog,
}

impl Supervision {
    /// Takes in what the supervisor says. Called first thing in `run`, on its first thread: if there is a
    /// supervisor, the kernel kills this process when it ends.
    ///
    /// # Errors
    /// [`SupervisionError`].
    pub fn take() -> Result<Self, SupervisionError> {
        Self::from(|name| std::env::var_os(name))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, SupervisionError> {
        if let Some(supervisor) = variable(SUPERVISOR) {
            end_with(&supervisor.to_string_lossy())?;
        }
        let heartbeats = match variable(HEARTBEAT) {
            Some(path) => Heartbeats::open(Path::new(&path))?,
            None => Heartbeats::unwatched(),
        };
        let pass_through = match variable(PASS_THROUGH) {
            Some(text) => text.to_string_lossy().parse()?,
            None => PassThrough::Nobody,
        };
        let deaths = match variable(DEATHS) {
            // Panics are noticed at once, so their window needs no widening.
            Some(path) => DeathLog::load(Path::new(&path), &boot(), Duration::ZERO),
            None => DeathLog::new(&boot(), Duration::ZERO),
        };
        Ok(Self { heartbeats, pass_through, deaths })
    }
}

/// Two processes would each believe to be the only one if this one outlived its supervisor.
fn end_with(supervisor: &str) -> Result<(), SupervisionError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(SupervisionError::DeathSignal)?;
    // It may have ended before the wish was known; then this process has another parent already.
    let parent = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.to_string());
    if parent.as_deref() == Some(supervisor) {
        return Ok(());
    }
    tracing::error!(supervisor, process = getpid().as_raw_nonzero(), "started by a supervisor that is gone");
    Err(SupervisionError::Orphaned(supervisor.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat::Monitor;
    use uuid::Uuid;

    fn told(variables: &[(&str, &str)]) -> Result<Supervision, SupervisionError> {
        let variables: Vec<(String, OsString)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Supervision::from(|name| variables.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn without_a_supervisor_nothing_is_asked_for() {
        let alone = told(&[]).unwrap();
        assert_eq!(alone.pass_through, PassThrough::Nobody);
        alone.heartbeats.register(Uuid::from_u128(1)).beat(1);
    }

    #[test]
    fn what_a_supervisor_says_is_taken_in() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("heartbeat");
        let monitor = Monitor::create(&path).unwrap();
        let told = told(&[(HEARTBEAT, path.to_str().unwrap()), (PASS_THROUGH, "all")]).unwrap();
        let _kept = told.heartbeats.register(Uuid::from_u128(9));
        assert_eq!(monitor.read().unwrap().len(), 1);
        assert_eq!(told.pass_through, PassThrough::Everybody);
    }

    #[test]
    fn a_process_does_not_outlive_its_supervisor_nor_guess() {
        assert!(matches!(told(&[(SUPERVISOR, "0")]), Err(SupervisionError::Orphaned(_))));
        assert!(matches!(told(&[(PASS_THROUGH, "some")]), Err(SupervisionError::PassThrough(_))));
        assert!(matches!(told(&[(HEARTBEAT, "/nonexistent/x")]), Err(SupervisionError::Heartbeat(_))));
    }
}
