//! The host's end of the agent's port: commands that run, jobs in the background, files to and fro.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::artefacts::Run;
use crate::host::tail;
use crate::protocol::{CHUNK, Frame, Status, VERSION};

/// How long a step may take unless it says otherwise.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than the guest the host waits: then it is the machine that hangs, not the command.
const GRACE: Duration = Duration::from_secs(10);

/// A connection to the agent of one running machine.
pub(crate) struct Guest {
    to: Mutex<UnixStream>,
    waiting: Mutex<HashMap<u32, Sender<Frame>>>,
    next: AtomicU32,
    run: Arc<Mutex<Run>>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Guest").finish_non_exhaustive()
    }
}

impl Guest {
    /// Waits for the agent's greeting and then sorts what it says, until the machine is gone.
    pub(crate) fn connect(stream: UnixStream, timeout: Duration, run: Arc<Mutex<Run>>) -> Result<Arc<Self>> {
        stream.set_read_timeout(Some(timeout))?;
        let mut from = BufReader::new(stream.try_clone()?);
        let hello = Frame::read(&mut from).context("the agent did not come up")?;
        ensure!(hello == Frame::Hello { version: VERSION }, "the agent is of another version: {hello:?}");
        stream.set_read_timeout(None)?;
        let guest = Arc::new(Self {
            to: Mutex::new(stream),
            waiting: Mutex::default(),
            next: AtomicU32::new(1),
            run,
        });
        let sorter = guest.clone();
        thread::spawn(move || {
            while let Ok(frame) = Frame::read(&mut from) {
                let waiting = lock(&sorter.waiting);
                if let Some(to) = frame.id().and_then(|id| waiting.get(&id)) {
                    // Nobody listens to a job whose handle was dropped.
                    to.send(frame).ok();
                }
            }
            // Whoever waits learns that nothing will come any more.
            lock(&sorter.waiting).clear();
        });
        Ok(guest)
    }

    pub(crate) fn note(&self, text: &str) {
        lock(&self.run).note(text);
    }

    fn open(&self) -> (u32, Receiver<Frame>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        lock(&self.waiting).insert(id, sender);
        (id, receiver)
    }

    fn close(&self, id: u32) {
        lock(&self.waiting).remove(&id);
    }

    fn send(&self, frame: &Frame) -> Result<()> {
        frame.write(&mut *lock(&self.to)).context("the machine is gone")
    }

    pub(crate) fn put(&self, from: &Path, to: &str, timeout: Duration) -> Result<()> {
        let mut file = File::open(from).with_context(|| from.display().to_string())?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        self.note(&format!("put {to}"));
        self.put_stream(&mut file, to, mode, timeout)
    }

    pub(crate) fn put_stream(
        &self,
        from: &mut impl Read,
        to: &str,
        mode: u32,
        timeout: Duration,
    ) -> Result<()> {
        let (id, answers) = self.open();
        let result = (|| {
            self.send(&Frame::Put { id, mode, path: to.to_owned() })?;
            let mut buffer = vec![0; CHUNK];
            loop {
                match from.read(&mut buffer)? {
                    0 => break,
                    count => self.send(&Frame::Data { id, bytes: buffer[..count].to_vec() })?,
                }
            }
            self.send(&Frame::Done { id })?;
            match next(&answers, Instant::now() + timeout)? {
                Frame::Done { .. } => Ok(()),
                Frame::Failed { reason, .. } => bail!("{reason}"),
                other => bail!("unexpected answer {other:?}"),
            }
        })();
        self.close(id);
        result.with_context(|| format!("putting {to} into the machine"))
    }

    pub(crate) fn get(&self, from: &str, to: &mut impl Write, timeout: Duration) -> Result<()> {
        let (id, answers) = self.open();
        let deadline = Instant::now() + timeout;
        let result = (|| {
            self.send(&Frame::Get { id, path: from.to_owned() })?;
            loop {
                match next(&answers, deadline)? {
                    Frame::Data { bytes, .. } => to.write_all(&bytes)?,
                    Frame::Done { .. } => return Ok(()),
                    Frame::Failed { reason, .. } => bail!("{reason}"),
                    other => bail!("unexpected answer {other:?}"),
                }
            }
        })();
        self.close(id);
        result.with_context(|| format!("getting {from} from the machine"))
    }
}

fn next(answers: &Receiver<Frame>, deadline: Instant) -> Result<Frame> {
    match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(frame) => Ok(frame),
        Err(RecvTimeoutError::Timeout) => bail!("no answer in time: the machine hangs"),
        Err(RecvTimeoutError::Disconnected) => bail!("the machine is gone"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command about to run in the machine.
#[derive(Debug)]
#[must_use = "a step does nothing until it is run"]
pub struct Step {
    guest: Arc<Guest>,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    user: Option<String>,
    timeout: Option<Duration>,
}

impl Step {
    pub(crate) fn new(guest: Arc<Guest>, argv: Vec<String>) -> Self {
        Self { guest, argv, env: Vec::new(), user: None, timeout: None }
    }

    /// Kills the command and all it started after this time; [`STEP_TIMEOUT`] unless set, and never for a job.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Runs as this user instead of root.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs to the end and demands exit code 0.
    ///
    /// # Errors
    /// Any other end, with the output; a machine that hangs or is gone.
    pub fn run(self) -> Result<Output> {
        self.output()?.check()
    }

    /// Runs to the end, however that is.
    ///
    /// # Errors
    /// A command that cannot start; a machine that hangs or is gone.
    pub fn output(mut self) -> Result<Output> {
        let timeout = self.timeout.unwrap_or(STEP_TIMEOUT);
        self.timeout = Some(timeout);
        self.spawn()?.wait(timeout + GRACE)
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// A command that cannot start; a machine that hangs or is gone.
    pub fn spawn(self) -> Result<Job> {
        let Self { guest, mut argv, env, user, timeout } = self;
        let command = argv.join(" ");
        if let Some(user) = user {
            argv.splice(0..0, ["runuser".into(), "-u".into(), user, "--".into()]);
        }
        let (id, answers) = guest.open();
        let timeout_ms = timeout.map_or(0, |timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        guest.note(&format!("#{id} $ {command}"));
        let begin = Instant::now();
        guest.send(&Frame::Exec { id, timeout_ms, argv, env })?;
        let pid =
            match next(&answers, begin + STEP_TIMEOUT).with_context(|| format!("starting: {command}"))? {
                Frame::Started { pid, .. } => pid,
                Frame::Failed { reason, .. } => bail!("cannot start {command}: {reason}"),
                other => bail!("unexpected answer {other:?}"),
            };
        let record = Arc::new((Mutex::new(Record::default()), Condvar::new()));
        let job = Job { id, pid, begin, command, guest, record };
        job.listen(answers);
        Ok(job)
    }
}

/// What is known of a job so far.
#[derive(Debug, Default)]
struct Record {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    ended: Option<(Result<Status, String>, Duration)>,
}

/// A command that runs in the machine while other things happen. Dropping it leaves the command running.
#[derive(Debug)]
pub struct Job {
    id: u32,
    pid: u32,
    begin: Instant,
    command: String,
    guest: Arc<Guest>,
    record: Arc<(Mutex<Record>, Condvar)>,
}

impl Job {
    /// The process id in the guest, which leads a process group of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        lock(&self.record.0).ended.is_some()
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&lock(&self.record.0).stdout).into_owned()
    }

    /// Standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&lock(&self.record.0).stderr).into_owned()
    }

    /// Sends a signal to the command and all it started.
    ///
    /// # Errors
    /// A machine that is gone.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.guest.note(&format!("#{} signal {signal:?}", self.id));
        self.guest.send(&Frame::Kill { id: self.id, signal: signal.as_raw() })
    }

    /// Waits until standard output or error has `text`.
    ///
    /// # Errors
    /// Where it ends without, or the time is over.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let mut record = lock(&self.record.0);
        loop {
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
            if said(&record.stdout) || said(&record.stderr) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if record.ended.is_some() || left.is_zero() {
                let what = if record.ended.is_some() { "ended" } else { "took too long" };
                let errors = String::from_utf8_lossy(&record.stderr).into_owned();
                bail!("{} {what} without saying {text:?}\n{}", self.command, tail(&errors, 20));
            }
            record = self.record.1.wait_timeout(record, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end, however that is.
    ///
    /// # Errors
    /// Where the time is over, which does not stop the job, or the machine is gone.
    pub fn wait(&self, timeout: Duration) -> Result<Output> {
        let deadline = Instant::now() + timeout;
        let mut record = lock(&self.record.0);
        while record.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{}: no end after {:.1} s", self.command, timeout.as_secs_f64());
            record = self.record.1.wait_timeout(record, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match &record.ended {
            Some((Ok(status), took)) => Ok(Output {
                command: self.command.clone(),
                status: *status,
                stdout: String::from_utf8_lossy(&record.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&record.stderr).into_owned(),
                took: *took,
            }),
            Some((Err(reason), _)) => bail!("{}: {reason}", self.command),
            None => bail!("{}: no end", self.command),
        }
    }

    /// Collects what the guest says about this job.
    fn listen(&self, answers: Receiver<Frame>) {
        let (id, begin) = (self.id, self.begin);
        let (guest, record) = (self.guest.clone(), self.record.clone());
        thread::spawn(move || {
            loop {
                let answer = answers.recv();
                let mut state = lock(&record.0);
                match answer {
                    Ok(Frame::Stdout { bytes, .. }) => state.stdout.extend(bytes),
                    Ok(Frame::Stderr { bytes, .. }) => state.stderr.extend(bytes),
                    Ok(Frame::Exit { status, .. }) => state.ended = Some((Ok(status), begin.elapsed())),
                    // A signal that cannot be sent is no end of the job.
                    Ok(Frame::Failed { reason, .. }) => guest.note(&format!("#{id} {reason}")),
                    Ok(other) => guest.note(&format!("#{id} unexpected {other:?}")),
                    Err(_) => state.ended = Some((Err("the machine is gone".into()), begin.elapsed())),
                }
                record.1.notify_all();
                if let Some((ended, took)) = &state.ended {
                    guest.note(&summary(id, ended, *took, &state));
                    break;
                }
            }
            guest.close(id);
        });
    }
}

fn summary(id: u32, ended: &Result<Status, String>, took: Duration, record: &Record) -> String {
    let end = match ended {
        Ok(status) => format!("{status}"),
        Err(reason) => reason.clone(),
    };
    let out = |bytes: &[u8]| tail(&String::from_utf8_lossy(bytes), 40);
    format!("#{id} {end} after {:.3} s\n{}\n{}", took.as_secs_f64(), out(&record.stdout), out(&record.stderr))
}

impl fmt::Display for Status {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.timed_out, self.signal) {
            (true, _) => write!(to, "killed: time over"),
            (_, 0) => write!(to, "exit {}", self.code),
            (_, signal) => write!(to, "killed by signal {signal}"),
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// How it ended.
    pub status: Status,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From the order to the answer, as the host saw it.
    pub took: Duration,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.code == 0
    }

    /// Standard output without white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Demands exit code 0.
    ///
    /// # Errors
    /// Any other end, with the output.
    pub fn check(self) -> Result<Self> {
        let (out, err) = (tail(&self.stdout, 20), tail(&self.stderr, 20));
        ensure!(self.success(), "{}: {}\n{out}\n{err}", self.command, self.status);
        Ok(self)
    }
}
