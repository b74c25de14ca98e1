//! The control thread, its helper process, and the bookkeeping that lets callers leave a command behind.

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::command::Prepared;
use crate::helper::{Helper, Interrupt};
use crate::{Command, Errno, Error, Target};

/// Helpers that hang in the kernel at a time. Each is a process and a device that is lost until the machine starts anew:
/// a kernel where so many hang helps nobody by one more.
const HANGING_MAX: usize = 16;

type Answer = Result<Box<[u8]>, Errno>;

/// Carries out a command. A helper process in production; anything in tests.
pub(super) trait Backend: Send + 'static {
    /// Runs to completion, or until it is stopped. An error means that the outcome is not known.
    fn execute(&mut self, prepared: &Prepared) -> io::Result<Answer>;

    /// Ends the wait for the command that is executed next, from another thread.
    fn stopper(&mut self) -> io::Result<Stopper>;
}

/// See [`Backend::stopper`].
pub(super) type Stopper = Box<dyn Fn() + Send>;

struct Job {
    ticket: u64,
    prepared: Prepared,
    answer: SyncSender<io::Result<Answer>>,
}

struct Running {
    ticket: u64,
    command: Command,
    target: Target,
    stop: Stopper,
}

#[derive(Default)]
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
        let running = lock(&self.state).running.as_ref().map(|running| (running.command, running.target));
        f.debug_struct("Worker").field("running", &running).finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The state is whole after every statement, so a panic elsewhere does not spoil it.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    pub(super) fn start() -> Result<Worker, Error> {
        let helper = Helper::start().map_err(Error::StartControl)?;
        Self::start_with(HelperBackend { helper: Some(helper), hanging: Vec::new() })
    }

    fn start_with(backend: impl Backend) -> Result<Worker, Error> {
        let (jobs, inbox) = mpsc::channel();
        let state = Arc::new(Mutex::new(State::default()));
        let worker_state = Arc::clone(&state);
        // It ends with the last handle.
        thread::Builder::new()
            .name("ublk-control".to_owned())
            // Small, since all of it is locked in a process that locks its memory.
            .stack_size(128 << 10)
            .spawn(move || serve(backend, &inbox, &worker_state))
            .map_err(Error::StartControl)?;
        Ok(Worker { jobs, state })
    }

    pub(super) fn run(&self, prepared: Prepared, deadline: Duration) -> Result<Box<[u8]>, Error> {
        let (command, target) = (prepared.command, prepared.target);
        let ticket = {
            let mut state = lock(&self.state);
            state.next_ticket += 1;
            state.next_ticket
        };
        let lost = |source| Error::HelperLost { command, target, source };
        let thread_gone = || lost(io::Error::other("the control thread has ended; restart this process"));
        // One place: the thread leaves its answer and goes on, whether or not the caller is still there.
        let (answer, outcome) = mpsc::sync_channel(1);
        self.jobs.send(Job { ticket, prepared, answer }).map_err(|_| thread_gone())?;
        let received = match outcome.recv_timeout(deadline) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => return Err(thread_gone()),
            Err(RecvTimeoutError::Timeout) => match self.leave(ticket, &outcome) {
                Left::Answered(answer) => answer,
                Left::Overdue => return Err(Error::Deadline { command, target, deadline }),
                Left::Unsent(other_command, other_target) => {
                    return Err(Error::NotSent { command, target, other_command, other_target, deadline });
                }
            },
        };
        received.map_err(lost)?.map_err(|errno| Error::Refused { command, target, errno })
    }

    /// The deadline has passed: decides, against the thread, whether the command was sent.
    fn leave(&self, ticket: u64, outcome: &Receiver<io::Result<Answer>>) -> Left {
        let mut state = lock(&self.state);
        // The thread answers under the lock, so what is not here by now comes after us.
        match outcome.try_recv() {
            Ok(answer) => return Left::Answered(answer),
            Err(TryRecvError::Disconnected | TryRecvError::Empty) => {}
        }
        match &state.running {
            Some(running) if running.ticket != ticket => {
                let left = Left::Unsent(running.command, running.target);
                state.cancelled.push(ticket);
                left
            }
            Some(running) => {
                (running.stop)();
                Left::Overdue
            }
            // Between two commands: this one may be the next, or have lost its thread.
            None => {
                state.cancelled.push(ticket);
                Left::Overdue
            }
        }
    }
}

enum Left {
    Answered(io::Result<Answer>),
    Overdue,
    Unsent(Command, Target),
}

fn serve(mut backend: impl Backend, inbox: &Receiver<Job>, state: &Mutex<State>) {
    while let Ok(job) = inbox.recv() {
        let outcome = match backend.stopper() {
            Ok(stop) => {
                if !begin(&job, state, stop) {
                    continue;
                }
                backend.execute(&job.prepared)
            }
            Err(error) => Err(error),
        };
        let mut state = lock(state);
        state.running = None;
        // A caller who has left is no error: the outcome was reported as unknown.
        drop(job.answer.send(outcome));
    }
}

fn begin(job: &Job, state: &Mutex<State>, stop: Stopper) -> bool {
    let mut state = lock(state);
    if let Some(index) = state.cancelled.iter().position(|ticket| *ticket == job.ticket) {
        state.cancelled.swap_remove(index);
        return false;
    }
    let (command, target) = (job.prepared.command, job.prepared.target);
    state.running = Some(Running { ticket: job.ticket, command, target, stop });
    true
}

/// One helper at work, and those that it took the place of.
struct HelperBackend {
    helper: Option<Helper>,
    hanging: Vec<Helper>,
}

impl HelperBackend {
    /// A helper that was not stopped yet.
    fn helper(&mut self) -> io::Result<&Helper> {
        self.hanging.retain_mut(Helper::is_there);
        if let Some(mut helper) = self.helper.take_if(|helper| !helper.serves()) {
            helper.dismiss();
            self.hanging.push(helper);
        }
        match &mut self.helper {
            Some(helper) => Ok(helper),
            none if self.hanging.len() < HANGING_MAX => Ok(none.insert(Helper::start()?)),
            None => Err(io::Error::other(format!(
                "{HANGING_MAX} ublk commands hang in the kernel; only a restart of the machine ends them"
            ))),
        }
    }
}

impl Backend for HelperBackend {
    fn execute(&mut self, prepared: &Prepared) -> io::Result<Answer> {
        let (opcode, dev_id) = (prepared.command.opcode(), prepared.target.wire_id());
        self.helper()?.command(opcode, dev_id, prepared.data, &prepared.buffer)
    }

    fn stopper(&mut self) -> io::Result<Stopper> {
        let interrupt: Interrupt = self.helper()?.interrupt();
        Ok(Box::new(move || interrupt.fire()))
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
        /// Puts an answer among those: what a stopped backend says.
        stop: mpsc::Sender<io::Result<Answer>>,
    }

    impl Backend for Scripted {
        fn execute(&mut self, prepared: &Prepared) -> io::Result<Answer> {
            self.seen.send(prepared.command).expect("the test listens");
            self.answers.recv().expect("the test lives")
        }

        fn stopper(&mut self) -> io::Result<Stopper> {
            let stop = self.stop.clone();
            Ok(Box::new(move || stop.send(Err(io::ErrorKind::UnexpectedEof.into())).expect("it waits")))
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
        let backend = Scripted { seen: seen_sender, answers: answer_receiver, stop: answers.clone() };
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
    fn an_overdue_command_is_left_behind_and_holds_up_no_other() {
        let setup = setup();
        let error = setup.worker.run(command(Command::StartDev), SHORT).expect_err("no answer");
        assert!(matches!(error, Error::Deadline { command: Command::StartDev, .. }), "{error}");
        assert!(error.is_stuck());
        // It was stopped, so the next one has its turn without anybody answering the first.
        setup.answer(Ok(Ok(Box::default())));
        assert!(setup.worker.run(command(Command::StopDev), LONG).is_ok());
        assert_eq!(setup.seen.try_iter().collect::<Vec<_>>(), [Command::StartDev, Command::StopDev]);
    }

    #[test]
    fn a_command_that_waited_in_vain_behind_another_is_never_sent() {
        let setup = setup();
        thread::scope(|scope| {
            let first = scope.spawn(|| setup.worker.run(command(Command::StartDev), LONG));
            assert_eq!(setup.seen.recv(), Ok(Command::StartDev));
            let error = setup.worker.run(command(Command::DelDev), SHORT).expect_err("behind");
            assert!(matches!(error, Error::NotSent { other_command: Command::StartDev, .. }), "{error}");
            assert!(!error.is_stuck());
            setup.answer(Ok(Ok(Box::default())));
            assert!(first.join().expect("no panic").is_ok());
        });
        setup.answer(Ok(Ok(Box::default())));
        assert!(setup.worker.run(command(Command::GetParams), LONG).is_ok());
        assert_eq!(setup.seen.try_iter().collect::<Vec<_>>(), [Command::GetParams]);
    }

    #[test]
    fn a_helper_that_dies_costs_one_answer() {
        let setup = setup();
        setup.answer(Err(io::ErrorKind::UnexpectedEof.into()));
        setup.answer(Ok(Ok(Box::default())));
        let error = setup.worker.run(command(Command::StopDev), LONG).expect_err("no answer");
        assert!(matches!(error, Error::HelperLost { .. }), "{error}");
        assert!(setup.worker.run(command(Command::StopDev), LONG).is_ok());
    }
}
