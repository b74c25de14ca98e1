//! The control thread, its helper process, and the bookkeeping that lets callers leave a command behind.

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::Prepared;
use crate::helper::left::{HANGING_MAX, LeftBehind, Process};
use crate::helper::{Helper, Interrupt};
use crate::{Command, Errno, Error, Target};

/// How long a helper that was given up may take to end, while a command for the same target waits for it. One that does
/// not hang in the kernel ends in milliseconds; for one that does, the commands of other devices must not wait.
const ENDING_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether it has ended.
const ENDING_POLL: Duration = Duration::from_millis(5);

type Answer = Result<Box<[u8]>, Errno>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The outcome is not known.
    Lost(io::Error),
    /// The command was not sent: this one for the same target is still in the kernel.
    Unfinished(Command),
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

type Outcome = Result<Answer, NoAnswer>;

/// Carries out a command. A helper process in production; anything in tests.
pub(super) trait Backend: Send + 'static {
    /// Runs to completion, or until it is stopped. There was a [`stopper`](Self::stopper) before.
    fn execute(&mut self, prepared: &Prepared) -> Outcome;

    /// Ends the wait for the command that is executed next, from another thread.
    fn stopper(&mut self) -> io::Result<Stopper>;

    /// What the commands are about that were given up and have not returned from the kernel.
    fn unfinished(&mut self) -> Vec<Target>;
}

/// See [`Backend::stopper`].
pub(super) type Stopper = Box<dyn Fn() + Send>;

struct Job {
    ticket: u64,
    prepared: Prepared,
    answer: SyncSender<Outcome>,
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
    /// Targets of commands that were given up and were still in the kernel when the last command ended.
    unfinished: Vec<Target>,
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
        Self::start_with(HelperBackend { helper: Some(helper), asked: None, left: LeftBehind::new() })
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
        let no_answer = |why| match why {
            NoAnswer::Lost(source) => Error::HelperLost { command, target, source },
            NoAnswer::Unfinished(earlier) => Error::Unfinished { command, target, earlier },
        };
        let thread_gone = || {
            no_answer(NoAnswer::Lost(io::Error::other("the control thread has ended; restart this process")))
        };
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
        received.map_err(no_answer)?.map_err(|errno| Error::Refused { command, target, errno })
    }

    /// Whether a command for this target was given up, and had not returned when the last command of any ended.
    pub(super) fn is_unfinished(&self, target: Target) -> bool {
        lock(&self.state).unfinished.contains(&target)
    }

    /// The deadline has passed: decides, against the thread, whether the command was sent.
    fn leave(&self, ticket: u64, outcome: &Receiver<Outcome>) -> Left {
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
    Answered(Outcome),
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
            Err(error) => Err(error.into()),
        };
        let unfinished = backend.unfinished();
        let mut state = lock(state);
        state.running = None;
        state.unfinished = unfinished;
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

/// What a helper was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    command: Command,
    target: Target,
}

impl Asked {
    /// Whether this may be sent while `earlier` is still in the kernel. Two that change the same thing may not: the
    /// earlier one might take effect after the later one, and undo it.
    fn may_overtake(self, earlier: Asked) -> bool {
        self.target != earlier.target || self.command.looks_only() || earlier.command.looks_only()
    }
}

/// What a helper was asked for that did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overdue {
    asked: Asked,
    /// When it was given up.
    since: Instant,
}

/// The command that has to end before this one may be sent.
fn in_the_way_of<P: Process>(asked: Asked, left: &mut LeftBehind<P, Overdue>) -> Option<Overdue> {
    left.unfinished().find(|earlier| !asked.may_overtake(earlier.asked)).copied()
}

/// One helper at work, and those that it took the place of.
struct HelperBackend {
    helper: Option<Helper>,
    /// What that one was asked for, if it has not answered.
    asked: Option<Asked>,
    left: LeftBehind<Helper, Overdue>,
}

impl HelperBackend {
    /// A helper that was not stopped yet.
    fn helper(&mut self) -> io::Result<&Helper> {
        if let Some(mut helper) = self.helper.take_if(|helper| !helper.serves()) {
            helper.dismiss();
            // One that owes no answer leaves nothing in the kernel.
            if let Some(asked) = self.asked.take() {
                self.left.push(helper, Overdue { asked, since: Instant::now() });
            }
        }
        let has_room = self.left.has_room();
        match &mut self.helper {
            Some(helper) => Ok(helper),
            none if has_room => Ok(none.insert(Helper::start()?)),
            None => Err(io::Error::other(format!(
                "{HANGING_MAX} ublk commands hang in the kernel; only a restart of the machine ends them"
            ))),
        }
    }

    /// Waits a little for what has to end before this one may be sent.
    fn wait_for_earlier(&mut self, asked: Asked) -> Result<(), NoAnswer> {
        while let Some(earlier) = in_the_way_of(asked, &mut self.left) {
            if earlier.since.elapsed() >= ENDING_PATIENCE {
                return Err(NoAnswer::Unfinished(earlier.asked.command));
            }
            thread::sleep(ENDING_POLL);
        }
        Ok(())
    }
}

impl Backend for HelperBackend {
    fn execute(&mut self, prepared: &Prepared) -> Outcome {
        let asked = Asked { command: prepared.command, target: prepared.target };
        self.wait_for_earlier(asked)?;
        let (opcode, dev_id) = (prepared.command.opcode(), prepared.target.wire_id());
        // The one that the stopper ends, or nobody could end the wait for another.
        let helper = self.helper.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        self.asked = Some(asked);
        let answer = helper.command(opcode, dev_id, prepared.data, &prepared.buffer)?;
        self.asked = None;
        Ok(answer)
    }

    fn unfinished(&mut self) -> Vec<Target> {
        self.left.unfinished().map(|overdue| overdue.asked.target).collect()
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
    use crate::helper::left::tests::Hanging;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    /// Answers when told to, and reports what it was given.
    struct Scripted {
        seen: mpsc::Sender<Command>,
        answers: Receiver<Outcome>,
        /// Puts an answer among those: what a stopped backend says.
        stop: mpsc::Sender<Outcome>,
        unfinished: Arc<Mutex<Vec<Target>>>,
    }

    impl Backend for Scripted {
        fn execute(&mut self, prepared: &Prepared) -> Outcome {
            self.seen.send(prepared.command).expect("the test listens");
            self.answers.recv().expect("the test lives")
        }

        fn unfinished(&mut self) -> Vec<Target> {
            self.unfinished.lock().expect("no thread panics").clone()
        }

        fn stopper(&mut self) -> io::Result<Stopper> {
            let stop = self.stop.clone();
            Ok(Box::new(move || stop.send(Err(lost())).expect("it waits")))
        }
    }

    fn lost() -> NoAnswer {
        NoAnswer::Lost(io::ErrorKind::UnexpectedEof.into())
    }

    struct Setup {
        worker: Worker,
        seen: Receiver<Command>,
        answers: mpsc::Sender<Outcome>,
        unfinished: Arc<Mutex<Vec<Target>>>,
    }

    impl Setup {
        fn answer(&self, answer: Outcome) {
            self.answers.send(answer).expect("the backend lives");
        }
    }

    fn setup() -> Setup {
        let (seen_sender, seen) = mpsc::channel();
        let (answers, answer_receiver) = mpsc::channel();
        let unfinished: Arc<Mutex<Vec<Target>>> = Arc::default();
        let stop = answers.clone();
        let known = Arc::clone(&unfinished);
        let backend = Scripted { seen: seen_sender, answers: answer_receiver, stop, unfinished: known };
        Setup { worker: Worker::start_with(backend).expect("a thread"), seen, answers, unfinished }
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
        setup.answer(Err(lost()));
        setup.answer(Ok(Ok(Box::default())));
        let error = setup.worker.run(command(Command::StopDev), LONG).expect_err("no answer");
        assert!(matches!(error, Error::HelperLost { .. }), "{error}");
        assert!(setup.worker.run(command(Command::StopDev), LONG).is_ok());
    }

    #[test]
    fn what_does_not_return_is_known_until_it_does() {
        let (setup, target) = (setup(), Target::Device(DeviceId::new(7)));
        for there in [true, false] {
            *setup.unfinished.lock().expect("no thread panics") =
                if there { vec![target] } else { Vec::new() };
            setup.answer(Ok(Ok(Box::default())));
            setup.worker.run(command(Command::GetDevInfo), LONG).expect("an answer");
            assert_eq!(setup.worker.is_unfinished(target), there);
        }
    }

    #[test]
    fn a_command_that_was_not_sent_names_the_one_in_its_way() {
        let setup = setup();
        setup.answer(Err(NoAnswer::Unfinished(Command::StartDev)));
        let error = setup.worker.run(command(Command::DelDev), LONG).expect_err("not sent");
        assert!(matches!(error, Error::Unfinished { earlier: Command::StartDev, .. }), "{error}");
    }

    #[test]
    fn nothing_is_changed_beside_a_change_that_may_still_be_under_way() {
        let asked = |command, device| Asked { command, target: Target::Device(DeviceId::new(device)) };
        let (hangs, mut left) = (Hanging::new(), LeftBehind::new());
        let recovery = Overdue { asked: asked(Command::StartUserRecovery, 7), since: Instant::now() };
        left.push(hangs.clone(), recovery);
        let again = asked(Command::StartUserRecovery, 7);
        assert_eq!(in_the_way_of(again, &mut left), Some(recovery));
        assert_eq!(in_the_way_of(asked(Command::StopDev, 7), &mut left), Some(recovery));
        assert_eq!(in_the_way_of(asked(Command::GetDevInfo, 7), &mut left), None, "a look changes nothing");
        assert_eq!(in_the_way_of(asked(Command::StopDev, 8), &mut left), None, "of another device");
        hangs.ends();
        assert_eq!(in_the_way_of(again, &mut left), None, "it has ended");
    }
}
