//! The control thread, its ring, and the bookkeeping that lets callers leave it behind.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::command::Prepared;
use crate::control::Wedge;
use crate::host::CONTROL_PATH;
use crate::{Command, Errno, Error, Target};

/// One command is in flight at a time; the kernel's smallest ring would do.
const RING_ENTRIES: u32 = 8;

/// Pause before a system call is tried again that failed for want of memory.
const RING_RETRY_INTERVAL: Duration = Duration::from_millis(1);

type Answer = Result<Box<[u8]>, Errno>;

/// Carries out a command. The kernel in production; anything in tests.
pub(super) trait Backend: Send + 'static {
    /// Runs to completion, however long that takes. `Err` means that the ring is broken.
    fn execute(&mut self, prepared: Prepared) -> io::Result<Answer>;
}

struct Job {
    ticket: u64,
    prepared: Prepared,
    answer: SyncSender<Answer>,
}

#[derive(Debug)]
struct Running {
    ticket: u64,
    command: Command,
    target: Target,
    since: Instant,
    /// Its caller has left.
    overdue: bool,
}

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    running: Option<Running>,
    /// Jobs whose callers left before they began: the thread drops them unsent.
    cancelled: Vec<u64>,
}

/// The caller's side of the control thread.
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("state", &*lock(&self.state)).finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The state is whole after every statement, so a panic elsewhere does not spoil it.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    pub(super) fn start() -> Result<Worker, Error> {
        let file =
            OpenOptions::new().read(true).write(true).open(CONTROL_PATH).map_err(Error::OpenControl)?;
        let ring = IoUring::builder().build(RING_ENTRIES).map_err(Error::StartControl)?;
        Self::start_with(KernelBackend { ring, file })
    }

    fn start_with(backend: impl Backend) -> Result<Worker, Error> {
        let (jobs, inbox) = mpsc::channel();
        let state = Arc::new(Mutex::new(State::default()));
        let worker_state = Arc::clone(&state);
        // Never joined: it may be inside a command that does not return. It ends with the last handle.
        thread::Builder::new()
            .name("ublk-control".to_owned())
            // Small, since all of it is locked in a process that locks its memory.
            .stack_size(128 << 10)
            .spawn(move || serve(backend, &inbox, &worker_state))
            .map_err(Error::StartControl)?;
        Ok(Worker { jobs, state })
    }

    pub(super) fn wedge(&self) -> Option<Wedge> {
        lock(&self.state).running.as_ref().filter(|running| running.overdue).map(|running| Wedge {
            command: running.command,
            target: running.target,
            since: running.since,
        })
    }

    pub(super) fn run(&self, prepared: Prepared, deadline: Duration) -> Result<Box<[u8]>, Error> {
        let (command, target) = (prepared.command, prepared.target);
        let ticket = self.take_ticket(command, target)?;
        // One place: the thread leaves its answer and goes on, whether or not the caller is still there.
        let (answer, outcome) = mpsc::sync_channel(1);
        self.jobs
            .send(Job { ticket, prepared, answer })
            .map_err(|_| Error::ControlGone { command, target })?;
        let received = match outcome.recv_timeout(deadline) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::ControlGone { command, target }),
            Err(RecvTimeoutError::Timeout) => self.leave(ticket, command, target, deadline, &outcome)?,
        };
        received.map_err(|errno| Error::Refused { command, target, errno })
    }

    fn take_ticket(&self, command: Command, target: Target) -> Result<u64, Error> {
        let mut state = lock(&self.state);
        if let Some(running) = state.running.as_ref().filter(|running| running.overdue) {
            return Err(wedged(command, target, running));
        }
        state.next_ticket += 1;
        Ok(state.next_ticket)
    }

    /// The deadline has passed: decides, against the thread, whether the command was sent.
    fn leave(
        &self,
        ticket: u64,
        command: Command,
        target: Target,
        deadline: Duration,
        outcome: &Receiver<Answer>,
    ) -> Result<Answer, Error> {
        let mut state = lock(&self.state);
        // The thread answers under the lock, so what is not here by now comes after us.
        match outcome.try_recv() {
            Ok(answer) => return Ok(answer),
            Err(TryRecvError::Disconnected) => return Err(Error::ControlGone { command, target }),
            Err(TryRecvError::Empty) => {}
        }
        match state.running.as_mut() {
            Some(running) if running.ticket == ticket => {
                running.overdue = true;
                Err(Error::Deadline { command, target, deadline })
            }
            Some(running) => {
                let error = wedged(command, target, running);
                state.cancelled.push(ticket);
                Err(error)
            }
            None => {
                state.cancelled.push(ticket);
                Err(Error::Deadline { command, target, deadline })
            }
        }
    }
}

fn wedged(command: Command, target: Target, running: &Running) -> Error {
    Error::Wedged {
        command,
        target,
        stuck_command: running.command,
        stuck_target: running.target,
        stuck_for: running.since.elapsed(),
    }
}

fn serve(mut backend: impl Backend, inbox: &Receiver<Job>, state: &Mutex<State>) {
    while let Ok(job) = inbox.recv() {
        if !begin(&job, state) {
            continue;
        }
        let outcome = backend.execute(job.prepared);
        let mut state = lock(state);
        state.running = None;
        match outcome {
            // A caller who has left is no error: the outcome was reported as unknown.
            Ok(answer) => drop(job.answer.send(answer)),
            Err(_broken) => return,
        }
    }
}

fn begin(job: &Job, state: &Mutex<State>) -> bool {
    let mut state = lock(state);
    if let Some(index) = state.cancelled.iter().position(|ticket| *ticket == job.ticket) {
        state.cancelled.swap_remove(index);
        return false;
    }
    state.running = Some(Running {
        ticket: job.ticket,
        command: job.prepared.command,
        target: job.prepared.target,
        since: Instant::now(),
        overdue: false,
    });
    true
}

struct KernelBackend {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    file: File,
}

impl Backend for KernelBackend {
    fn execute(&mut self, mut prepared: Prepared) -> io::Result<Answer> {
        let entry = opcode::UringCmd80::new(types::Fd(self.file.as_raw_fd()), prepared.command.opcode())
            .cmd(prepared.image())
            .build();
        let mut queue = self.ring.submission();
        // SAFETY: the entry's only pointer is to `prepared`'s heap buffer, which this function keeps until
        // the command's completion was seen, or leaks.
        let pushed = unsafe { queue.push(&entry) };
        drop(queue);
        pushed.map_err(|_full| io::Error::from_raw_os_error(libc::EBUSY))?;
        match self.wait() {
            Ok(result) => Ok(Errno::from_result(result).map(|_| prepared.into_buffer())),
            Err(error) => {
                // The kernel may still write to it.
                std::mem::forget(prepared);
                Err(error)
            }
        }
    }
}

impl KernelBackend {
    fn wait(&mut self) -> io::Result<i32> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => thread::sleep(RING_RETRY_INTERVAL),
                    _ => return Err(error),
                },
            }
            if let Some(completion) = self.ring.completion().next() {
                return Ok(completion.result());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceId;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    /// Answers when told to, and reports what it was given.
    struct Scripted {
        seen: mpsc::Sender<Command>,
        answers: Receiver<io::Result<Answer>>,
    }

    impl Backend for Scripted {
        fn execute(&mut self, prepared: Prepared) -> io::Result<Answer> {
            self.seen.send(prepared.command).expect("the test listens");
            self.answers.recv().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EBADF)))
        }
    }

    struct Setup {
        worker: Worker,
        seen: Receiver<Command>,
        answers: mpsc::Sender<io::Result<Answer>>,
    }

    impl Setup {
        fn answer(&self, answer: io::Result<Answer>) {
            self.answers.send(answer).expect("the backend lives");
        }
    }

    fn setup() -> Setup {
        let (seen_sender, seen) = mpsc::channel();
        let (answers, answer_receiver) = mpsc::channel();
        let backend = Scripted { seen: seen_sender, answers: answer_receiver };
        Setup { worker: Worker::start_with(backend).expect("a thread"), seen, answers }
    }

    fn command(command: Command) -> Prepared {
        Prepared::plain(command, Target::Device(DeviceId::new(7)), 0)
    }

    #[test]
    fn answers_and_refusals_reach_the_caller() {
        let setup = setup();
        setup.answer(Ok(Ok(Box::default())));
        setup.answer(Ok(Err(Errno::EBUSY)));
        assert!(setup.worker.run(command(Command::StartDev), LONG).is_ok());
        let error = setup.worker.run(command(Command::StopDev), LONG).expect_err("refused");
        assert!(matches!(error, Error::Refused { command: Command::StopDev, errno: Errno::EBUSY, .. }));
    }

    #[test]
    fn an_overdue_command_wedges_the_thread_until_it_returns() {
        let setup = setup();
        let error = setup.worker.run(command(Command::DelDev), SHORT).expect_err("no answer");
        assert!(matches!(error, Error::Deadline { command: Command::DelDev, .. }), "{error}");
        assert_eq!(setup.worker.wedge().expect("wedged").command, Command::DelDev);
        let error = setup.worker.run(command(Command::GetDevInfo), LONG).expect_err("wedged");
        assert!(matches!(error, Error::Wedged { stuck_command: Command::DelDev, .. }), "{error}");
        assert!(error.is_stuck());

        setup.answer(Ok(Ok(Box::default())));
        while setup.worker.wedge().is_some() {
            thread::yield_now();
        }
        setup.answer(Ok(Ok(Box::default())));
        assert!(setup.worker.run(command(Command::StopDev), LONG).is_ok());
        assert_eq!(setup.seen.try_iter().collect::<Vec<_>>(), [Command::DelDev, Command::StopDev]);
    }

    #[test]
    fn a_command_that_waited_in_vain_behind_another_is_never_sent() {
        let setup = setup();
        thread::scope(|scope| {
            let first = scope.spawn(|| setup.worker.run(command(Command::StartDev), LONG));
            assert_eq!(setup.seen.recv(), Ok(Command::StartDev));
            let error = setup.worker.run(command(Command::DelDev), SHORT).expect_err("behind");
            assert!(matches!(error, Error::Wedged { stuck_command: Command::StartDev, .. }), "{error}");
            assert!(setup.worker.wedge().is_none(), "the first is within its own deadline");
            setup.answer(Ok(Ok(Box::default())));
            assert!(first.join().expect("no panic").is_ok());
        });
        setup.answer(Ok(Ok(Box::default())));
        assert!(setup.worker.run(command(Command::GetParams), LONG).is_ok());
        assert_eq!(setup.seen.try_iter().collect::<Vec<_>>(), [Command::GetParams]);
    }

    #[test]
    fn a_broken_ring_ends_the_thread_and_says_so() {
        let setup = setup();
        setup.answer(Err(io::Error::from_raw_os_error(libc::EBADF)));
        for _ in 0..2 {
            let error = setup.worker.run(command(Command::StopDev), LONG).expect_err("gone");
            assert!(matches!(error, Error::ControlGone { .. }), "{error}");
        }
    }
}
