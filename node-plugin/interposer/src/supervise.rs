//! `umbra-io supervise -- …`: the first process of the pod or unit (E11).
//!
//! ```text
//!  supervise ── starts, kills, reaps ──> run
//!      │                                  │ a thread per master
//!      └── reads ── heartbeat file <── writes
//! ```
//!
//! It opens no device and holds no state that matters: whatever becomes of it, the devices wait for the next
//! I/O process. A reactor that makes no progress is ended by ending the process: the kernel parks the I/O of
//! the presented devices, and the next process takes them over. It is started at once, since a kubelet's
//! back-off is too slow for waiting I/O.
//!
//! A process that does not die of being killed is not waited for without end (`ending.rs`).
//!
//! Exit codes: that of an I/O process that ended in order or refused its arguments; 0 if it was told to end
//! and did; 1 if the supervisor itself cannot go on.

pub mod child;
pub mod deaths;
pub mod ending;
mod panics;
mod watch;

use crate::files;
use crate::heartbeat::{HeartbeatError, Monitor};
use crate::logging::{self, LogFormat};
use clap::Args;
use deaths::{Death, DeathLog, PassThrough};
use ending::{KILL_LIMIT, Step, Why};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{Signal as Arrivals, SignalKind, signal};
use umbra_platform::time::Millis;
use uuid::Uuid;
use watch::{Ended, Watch};

/// Time between two attempts to start a program that was there before: it may be being replaced.
const START_RETRY: Duration = Duration::from_secs(1);
/// What the I/O process ends with if its arguments are wrong: starting it again would change nothing.
const USAGE: i32 = 2;

/// Options of the supervisor.
#[derive(Clone, Debug, Args)]
pub struct Supervise {
    /// Where the heartbeat and the log of deaths are kept: in memory, gone with a reboot.
    #[arg(long, default_value = "/run/umbra", value_name = "DIR")]
    run_dir: PathBuf,
    /// The I/O process is killed and started again when a reactor makes no progress for so long (1s to 1h).
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = hang_after)]
    hang_after: Millis,
    /// Text or JSON.
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
    /// Another program to start, with the arguments as they are, instead of this one's `run`.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Arguments of `run`, as in `umbra-io supervise -- --state-dir /var/lib/umbra`.
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

fn hang_after(text: &str) -> Result<Millis, String> {
    let time: Millis = text.parse().map_err(|error| format!("{error}"))?;
    if (1_000..=3_600_000).contains(&time.0) { Ok(time) } else { Err(format!("{time} is not from 1s to 1h")) }
}

/// Why the supervisor cannot go on.
#[derive(Debug, Error)]
pub enum SuperviseError {
    /// There is one already.
    #[error("another `umbra-io supervise` uses {}; stop that one or name another --run-dir", .0.display())]
    InUse(PathBuf),
    /// The program cannot be started.
    #[error("start {}: {cause}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The heartbeat file.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
    /// Anything else.
    #[error("{action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SuperviseError {
    move |cause| SuperviseError::Io { action, path: path.to_owned(), cause }
}

/// Supervises until the I/O process ends in order.
pub(crate) fn main(args: &Supervise) -> ExitCode {
    logging::init(args.log_format);
    // Swapped out to a device whose server is dead, it could not start the next server.
    if let Err(error) = umbra_ublk::lock_memory() {
        tracing::warn!(%error, "the supervisor's memory can be swapped out");
    }
    // One thread: the kernel ties the child's life to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(io_error("start the runtime of", Path::new("umbra-io supervise")));
    match outcome.and_then(|runtime| runtime.block_on(async { Supervisor::new(args)?.run().await })) {
        Ok(code) => {
            logging::flush();
            ExitCode::from(code)
        }
        Err(error) => {
            tracing::error!(%error, "the supervisor cannot go on");
            logging::flush();
            ExitCode::FAILURE
        }
    }
}

struct Supervisor {
    run_dir: PathBuf,
    program: PathBuf,
    command: Vec<OsString>,
    hang_after: Duration,
    log: DeathLog,
    signals: Signals,
    /// The signal that told us to end.
    told: Option<Signal>,
    /// Processes that were killed and have not ended, by number.
    abandoned: HashSet<Pid>,
    /// Held, never read.
    _lock: File,
}

/// Something that a signal told us.
enum News {
    /// A child has ended.
    Child,
    /// We are to end.
    End(Signal),
}

struct Signals {
    child: Arrivals,
    terminate: Arrivals,
    interrupt: Arrivals,
    hangup: Arrivals,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                _ = self.child.recv() => return News::Child,
                _ = self.terminate.recv() => return News::End(Signal::TERM),
                _ = self.interrupt.recv() => return News::End(Signal::INT),
                // The terminal that it was started from has gone, which is no reason to stop serving.
                _ = self.hangup.recv() => tracing::info!("a hangup ends nothing"),
            }
        }
    }

    /// Waits so long, or until we are to end; then false.
    async fn pause(&mut self, time: Duration) -> bool {
        let mut time = std::pin::pin!(tokio::time::sleep(time));
        loop {
            tokio::select! {
                () = &mut time => return true,
                news = self.next() => if let News::End(_) = news { return false },
            }
        }
    }
}

impl Supervisor {
    fn new(args: &Supervise) -> Result<Self, SuperviseError> {
        fs::create_dir_all(&args.run_dir).map_err(io_error("make", &args.run_dir))?;
        let lock = args.run_dir.join("supervise.lock");
        let lock = files::lock(&lock).map_err(io_error("lock", &lock))?;
        let lock = lock.ok_or_else(|| SuperviseError::InUse(args.run_dir.clone()))?;
        let own = || std::env::current_exe().map_err(io_error("find", Path::new("this program")));
        let subcommand = args.program.is_none().then(|| OsString::from("run"));
        let hang_after = args.hang_after.duration();
        Ok(Self {
            program: args.program.clone().map_or_else(own, Ok)?,
            command: subcommand.into_iter().chain(args.arguments.iter().cloned()).collect(),
            log: DeathLog::load(&args.run_dir.join("deaths.json"), &boot(), hang_after),
            run_dir: args.run_dir.clone(),
            hang_after,
            signals: Signals::new().map_err(io_error("take signals for", &args.run_dir))?,
            told: None,
            abandoned: HashSet::new(),
            _lock: lock,
        })
    }

    async fn run(&mut self) -> Result<u8, SuperviseError> {
        let mut pass_through = self.log.decide(boot_ms()).pass_through;
        let mut had_started = false;
        loop {
            let mut delay = START_RETRY;
            match self.start(&pass_through) {
                Ok((child, monitor)) => {
                    had_started = true;
                    let ended = self.watch(Watch::new(child, monitor, self.hang_after)).await;
                    if let Some(code) = self.last_word(&ended) {
                        return Ok(code);
                    }
                    (delay, pass_through) = self.note(ended);
                }
                Err(error) if had_started => tracing::error!(%error, "it is tried again"),
                Err(error) => return Err(error),
            }
            if !self.signals.pause(delay).await {
                return Ok(0);
            }
        }
    }

    /// Notes a death; returns how long to wait, and who then starts without dependent shadows.
    fn note(&mut self, ended: Ended) -> (Duration, PassThrough) {
        let death = ended.death(boot_ms());
        let (cause, counts) = (death.cause, death.counts());
        let deaths::Decision { delay, pass_through } = self.log.record(death);
        tracing::error!(%cause, counts, ?delay, %pass_through, "the I/O process died; it is started again");
        self.keep_log();
        (delay, pass_through)
    }

    /// Notes panics that cost a master, and not the process.
    fn note_panics(&mut self, masters: Vec<Uuid>) {
        if masters.is_empty() {
            return;
        }
        for master in masters {
            tracing::error!(%master, "a thread of this master panicked; the I/O process starts it again by itself");
            drop(self.log.record(Death::panic_of(master, boot_ms())));
        }
        self.keep_log();
    }

    fn keep_log(&self) {
        let path = self.run_dir.join("deaths.json");
        if let Err(error) = self.log.save(&path) {
            tracing::warn!(path = %path.display(), %error, "the log of deaths is kept in memory only");
        }
    }

    fn start(&self, pass_through: &PassThrough) -> Result<(Pid, Monitor), SuperviseError> {
        let monitor = Monitor::create(&self.run_dir.join("heartbeat"))?;
        let started = Command::new(&self.program)
            .args(&self.command)
            .env(child::HEARTBEAT, self.run_dir.join("heartbeat"))
            .env(child::DEATHS, self.run_dir.join("deaths.json"))
            .env(child::PASS_THROUGH, pass_through.to_string())
            .env(child::SUPERVISOR, std::process::id().to_string())
            .spawn();
        let started =
            started.map_err(|cause| SuperviseError::Start { program: self.program.clone(), cause })?;
        tracing::info!(process = started.id(), %pass_through, "the I/O process is started");
        // Its handle is dropped, which leaves the process alone: `reap` waits for every child there is.
        Ok((Pid::from_child(&started), monitor))
    }

    /// Watches the process until it has ended and is reaped.
    async fn watch(&mut self, mut watch: Watch) -> Ended {
        let mut looks = tokio::time::interval(self.hang_after / watch::LOOKS);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                news = self.signals.next() => if let News::End(signal) = news {
                    tracing::info!(signal = signal.as_raw(), "told to end");
                    self.told = Some(signal);
                    watch.end(signal);
                }
            }
            // Before it is asked whether the process is there: what it did last is in the file for good.
            let (step, outlived) = watch.look();
            self.note_panics(outlived);
            if let Some(status) = self.reap(watch.child) {
                return watch.ended(Some(status));
            }
            match step {
                Step::Wait => {}
                Step::Kill(Why::Hung) => {
                    tracing::error!(masters = ?watch.hung, "no progress: the I/O process is killed");
                    send(watch.child, Signal::KILL);
                }
                Step::Kill(Why::TooSlow) => {
                    tracing::error!("the I/O process did not end in time and is killed");
                    send(watch.child, Signal::KILL);
                }
                Step::Abandon => {
                    let process = watch.child.as_raw_nonzero();
                    tracing::error!(
                        process,
                        after = ?KILL_LIMIT,
                        "the I/O process does not die of being killed: the kernel keeps it, as a rule because a device \
                         does not answer (see /proc/{process}/stack); it is not waited for, and whichever is started \
                         next serves as soon as that one has let go of the state directory"
                    );
                    self.abandoned.insert(watch.child);
                    return watch.ended(None);
                }
            }
        }
    }

    /// Takes in every child that has ended: as the first process of a container, orphans of others are ours too.
    fn reap(&mut self, child: Pid) -> Option<WaitStatus> {
        let mut ours = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.abandoned.remove(&pid) {
                let process = pid.as_raw_nonzero();
                tracing::warn!(process, "the I/O process that did not die of being killed has ended now");
            } else if pid == child {
                ours = Some(status);
            }
        }
        ours
    }

    /// What to end with, if the process is not to be started again.
    fn last_word(&self, ended: &Ended) -> Option<u8> {
        let Some(status) = ended.status else { return self.told.map(|_| 1) };
        let by_order = self.told.map(Signal::as_raw);
        if by_order.is_some() && status.terminating_signal() == by_order {
            return Some(0);
        }
        let code =
            status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default());
        let is_final = by_order.is_some() || matches!(status.exit_status(), Some(0 | USAGE));
        is_final.then(|| u8::try_from(code).unwrap_or(1))
    }
}

/// Sends a signal to a process that is not reaped yet, so that its number is still its own.
fn send(child: Pid, signal: Signal) {
    if let Err(error) = kill_process(child, signal) {
        tracing::warn!(process = child.as_raw_nonzero(), %error, "the I/O process could not be signalled");
    }
}

/// Names this boot of the machine.
pub(crate) fn boot() -> String {
    procfs::sys::kernel::random::boot_id().unwrap_or_default()
}

/// Milliseconds since the machine started: the same clock for every process of this boot.
pub fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(time.tv_sec) * 1000 + part(time.tv_nsec) / 1_000_000
}
