//! Writes the ends of images to the state directory, beside the reactor: a slow disk there must not hold up I/O.
//!
//! ```text
//!  reactor ── submit ──> channel ──> thread: State::record_end ─────> channel ── poll ──> reactor
//!                                                                 └── wake
//! ```
//!
//! The digest of the master's first bytes is in memory, which does not hold up anything: the reactor writes and removes
//! it itself.
//!
//! A set has at most a note or two under way, so the channels need no bound. Dropped, the thread ends once
//! it has written what was submitted.

use crate::world::digests::Kept;
use crate::world::directory::Directory;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use umbra_lifecycle::state::{State, StateError};
use umbra_store::{EndNote, Notes};

/// Stack of the writer, all of which is locked.
const STACK_BYTES: usize = 128 << 10;

/// See the module.
pub(super) struct StateNotes {
    to_write: mpsc::Sender<EndNote>,
    written: mpsc::Receiver<(EndNote, bool)>,
    /// Submitted to a thread that is not there.
    refused: Vec<EndNote>,
    digest: Kept,
}

impl fmt::Debug for StateNotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateNotes").finish_non_exhaustive()
    }
}

impl StateNotes {
    /// Starts the writer. `wake` is called after every note, durable or not.
    pub(super) fn start(
        state: Arc<State<Directory>>,
        digest: Kept,
        runtime: tokio::runtime::Handle,
        wake: impl Fn() + Send + 'static,
    ) -> Self {
        Self::with(move |note| runtime.block_on(state.record_end(note)), digest, wake)
    }

    fn with(
        record: impl Fn(&EndNote) -> Result<(), StateError> + Send + 'static,
        digest: Kept,
        wake: impl Fn() + Send + 'static,
    ) -> Self {
        let (to_write, inbox) = mpsc::channel::<EndNote>();
        let (outbox, written) = mpsc::channel();
        let thread = std::thread::Builder::new().name("umbra-notes".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || {
            for note in inbox {
                let outcome = record(&note);
                if let Err(error) = &outcome {
                    tracing::error!(set = %note.set, %error, "the end of an image could not be recorded");
                }
                // Nobody may be left to hear it; the notes behind this one are written all the same.
                if outbox.send((note, outcome.is_ok())).is_ok() {
                    wake();
                }
            }
        });
        if let Err(error) = thread {
            tracing::error!(%error, "no thread for the ends of images: none will be recorded here");
        }
        Self { to_write, written, refused: Vec::new(), digest }
    }
}

impl Notes for StateNotes {
    fn submit(&mut self, note: EndNote) {
        if let Err(mpsc::SendError(note)) = self.to_write.send(note) {
            self.refused.push(note);
        }
    }

    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>) {
        done.extend(self.written.try_iter());
        done.extend(self.refused.drain(..).map(|note| (note, false)));
    }

    fn keep_digest(&mut self, digest: u64) {
        self.digest.put(digest);
    }

    fn withdraw_digest(&mut self) {
        self.digest.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::digests::Digests;
    use std::time::Duration;
    use umbra_engine::{Epoch, Id128, OfflineCause};

    fn digest(home: &std::path::Path) -> Kept {
        Digests::open(home, "boot".to_owned()).unwrap().of(uuid::Uuid::nil())
    }

    fn note(set: u8, epoch: u64) -> EndNote {
        EndNote {
            set: Id128([set; 16]),
            epoch: Epoch(epoch),
            cause: OfflineCause::Shadow,
            master_incomplete: false,
        }
    }

    fn after_wakes(notes: &mut StateNotes, woken: &mpsc::Receiver<()>, count: usize) -> Vec<(EndNote, bool)> {
        for _ in 0..count {
            woken.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        let mut done = Vec::new();
        notes.poll(&mut done);
        done
    }

    #[test]
    fn a_failing_disk_is_reported_and_a_later_note_is_durable_when_it_comes_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let home = tempfile::tempdir().unwrap();
        let state = Arc::new(State::new(Directory::open(home.path()).unwrap()));
        let (wake, woken) = mpsc::channel();
        let handle = runtime.handle().clone();
        let mut notes = StateNotes::start(Arc::clone(&state), digest(home.path()), handle, move || {
            wake.send(()).unwrap()
        });
        std::fs::remove_dir(home.path().join("ended")).unwrap();
        notes.submit(note(1, 5));
        let done = runtime.block_on(async { after_wakes(&mut notes, &woken, 1) });
        assert_eq!(done, [(note(1, 5), false)]);
        std::fs::create_dir(home.path().join("ended")).unwrap();
        notes.submit(note(1, 5));
        notes.submit(note(2, 6));
        let done = runtime.block_on(async { after_wakes(&mut notes, &woken, 2) });
        assert_eq!(done, [(note(1, 5), true), (note(2, 6), true)]);
        let ended = runtime.block_on(state.ended(Id128([2; 16]))).unwrap();
        assert_eq!(ended.map(|ended| ended.epoch), Some(Epoch(6)));
    }

    #[test]
    fn a_hanging_disk_holds_up_nobody_and_notes_outlive_their_reactor() {
        let home = tempfile::tempdir().unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (wrote, written) = mpsc::channel();
        let record = move |note: &EndNote| {
            held.recv().unwrap();
            wrote.send(*note).unwrap();
            Ok(())
        };
        let mut notes = StateNotes::with(record, digest(home.path()), || ());
        for epoch in 0..100 {
            notes.submit(note(1, epoch));
        }
        let mut done = Vec::new();
        notes.poll(&mut done);
        assert_eq!(done, []);
        drop(notes);
        for epoch in 0..100 {
            release.send(()).unwrap();
            assert_eq!(written.recv_timeout(Duration::from_secs(30)).unwrap(), note(1, epoch));
        }
    }

    #[test]
    fn without_a_thread_notes_fail_and_nothing_panics() {
        let home = tempfile::tempdir().unwrap();
        let mut notes = StateNotes::with(
            |_| panic!("the writer dies, in this test on purpose"),
            digest(home.path()),
            || (),
        );
        notes.submit(note(1, 1));
        let mut done = Vec::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while done.is_empty() && std::time::Instant::now() < deadline {
            notes.submit(note(1, 2));
            notes.poll(&mut done);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(done.first(), Some(&(note(1, 2), false)));
    }
}
