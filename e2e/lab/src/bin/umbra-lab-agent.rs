//! The lab's hand inside a virtual machine: runs commands and moves files for the host, over a virtio port.
//!
//! It starts before anything else, is linked statically and trusts its host fully. It dies with the machine, so it
//! keeps no state and cleans nothing up.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use umbra_lab::protocol::{CHUNK, Frame, PORT_NAME, Status, VERSION};

/// Output that is still unread this long after a command ended belongs to a daemon it left behind.
const DAEMON_GRACE: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let path = find_port()?;
    let open = || OpenOptions::new().read(true).write(true).open(&path).context(path.display().to_string());
    let mut from = open()?;
    // The port can be opened once only; both directions share the descriptor.
    let agent = Agent { to: Arc::new(Mutex::new(from.try_clone()?)), jobs: Arc::default() };
    agent.send(&Frame::Hello { version: VERSION });
    let mut incoming = HashMap::new();
    loop {
        let frame = Frame::read(&mut Patient(&mut from))?;
        if let Err(error) = agent.handle(frame.clone(), &mut incoming) {
            let id = frame.id().unwrap_or(0);
            incoming.remove(&id);
            agent.send(&Frame::Failed { id, reason: format!("{error:#}") });
        }
    }
}

/// The device of the port with our name; there is no udev to make a link.
fn find_port() -> Result<PathBuf> {
    for _ in 0..500 {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("this machine has no virtio port {PORT_NAME}")
}

/// A port without a host reads as ended; the host comes back.
struct Patient<'a>(&'a mut File);

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                0 if !buffer.is_empty() => thread::sleep(Duration::from_millis(20)),
                count => return Ok(count),
            }
        }
    }
}

struct Incoming {
    file: File,
    part: PathBuf,
    path: PathBuf,
}

#[derive(Clone)]
struct Agent {
    to: Arc<Mutex<File>>,
    jobs: Arc<Mutex<HashMap<u32, Pid>>>,
}

impl Agent {
    fn send(&self, frame: &Frame) {
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = frame.write(&mut *to) {
            eprintln!("agent: cannot answer: {error}");
        }
    }

    fn handle(&self, frame: Frame, incoming: &mut HashMap<u32, Incoming>) -> Result<()> {
        match frame {
            Frame::Exec { id, timeout_ms, argv, env } => self.exec(id, timeout_ms, &argv, env)?,
            Frame::Kill { id, signal } => self.kill(id, signal)?,
            Frame::Put { id, mode, path } => {
                let path = PathBuf::from(path);
                let part = path.with_added_extension("part");
                let file = File::create(&part).with_context(|| part.display().to_string())?;
                file.set_permissions(Permissions::from_mode(mode))?;
                incoming.insert(id, Incoming { file, part, path });
            }
            // Pieces that follow a refused Put find no file; the refusal was the answer.
            Frame::Data { id, bytes } => {
                if let Some(transfer) = incoming.get_mut(&id) {
                    transfer.file.write_all(&bytes)?;
                }
            }
            Frame::Done { id } => {
                if let Some(transfer) = incoming.remove(&id) {
                    drop(transfer.file);
                    fs::rename(&transfer.part, &transfer.path)?;
                    self.send(&Frame::Done { id });
                }
            }
            Frame::Get { id, path } => {
                let mut file = File::open(&path).with_context(|| path.clone())?;
                let agent = self.clone();
                thread::spawn(move || match agent.stream(&mut file, |bytes| Frame::Data { id, bytes }) {
                    Ok(()) => agent.send(&Frame::Done { id }),
                    Err(error) => agent.send(&Frame::Failed { id, reason: format!("{path}: {error}") }),
                });
            }
            other => bail!("the host cannot say {other:?}"),
        }
        Ok(())
    }

    fn exec(&self, id: u32, timeout_ms: u32, argv: &[String], env: Vec<(String, String)>) -> Result<()> {
        let (program, arguments) = argv.split_first().context("empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(env).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| program.clone())?;
        let pid = Pid::from_child(&child);
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(id, pid);
        self.send(&Frame::Started { id, pid: child.id() });
        let agent = self.clone();
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
        thread::spawn(move || agent.attend(id, child, timeout));
        Ok(())
    }

    fn kill(&self, id: u32, signal: i32) -> Result<()> {
        let pid = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
        let signal = Signal::from_named_raw(signal).context("no such signal")?;
        // A job that just ended needs no signal.
        pid.map_or(Ok(()), |pid| kill_process_group(pid, signal).or(Ok(())))
    }

    /// Stays with a command until it has ended and its output is sent.
    fn attend(&self, id: u32, mut child: Child, timeout: Option<Duration>) {
        let open = Arc::new((Mutex::new(2_u32), Condvar::new()));
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        self.relay(stdout, &open, move |bytes| Frame::Stdout { id, bytes });
        self.relay(stderr, &open, move |bytes| Frame::Stderr { id, bytes });
        let timed_out = timeout.map(|timeout| self.watch(Pid::from_child(&child), timeout));
        let ended = child.wait();
        let timed_out = timed_out.is_some_and(Watch::stop);
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let (count, changed) = &*open;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(count, DAEMON_GRACE, |count| *count > 0));
        self.send(&match ended {
            Ok(status) => Frame::Exit {
                id,
                status: Status {
                    code: status.code().unwrap_or(-1),
                    signal: status.signal().unwrap_or(0),
                    timed_out,
                },
            },
            Err(error) => Frame::Failed { id, reason: error.to_string() },
        });
    }

    fn relay(
        &self,
        from: Option<impl Read + Send + 'static>,
        open: &Arc<(Mutex<u32>, Condvar)>,
        frame: impl Fn(Vec<u8>) -> Frame + Send + 'static,
    ) {
        let agent = self.clone();
        let open = open.clone();
        thread::spawn(move || {
            if let Some(mut from) = from
                && let Err(error) = agent.stream(&mut from, frame)
            {
                eprintln!("agent: output lost: {error}");
            }
            *open.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            open.1.notify_all();
        });
    }

    fn stream(&self, from: &mut impl Read, frame: impl Fn(Vec<u8>) -> Frame) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.send(&frame(buffer[..count].to_vec())),
            }
        }
    }

    fn watch(&self, pid: Pid, timeout: Duration) -> Watch {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let fired = Arc::new(AtomicBool::new(false));
        let watch = Watch { ended: ended.clone(), fired: fired.clone() };
        thread::spawn(move || {
            let deadline = Instant::now() + timeout;
            let mut over = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*over {
                let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                    fired.store(true, Ordering::SeqCst);
                    // Fails only where the group is gone already.
                    kill_process_group(pid, Signal::KILL).ok();
                    return;
                };
                over = ended.1.wait_timeout(over, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        watch
    }
}

/// Kills a process group when its time is over, unless stopped before.
struct Watch {
    ended: Arc<(Mutex<bool>, Condvar)>,
    fired: Arc<AtomicBool>,
}

impl Watch {
    /// Tells whether the time was over.
    fn stop(self) -> bool {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
        self.fired.load(Ordering::SeqCst)
    }
}
