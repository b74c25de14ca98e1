//! Writes the ends of images to the state directory, beside the reactor: a slow disk there must not hold up I/O.

use crate::state_dir::StateDir;
use std::sync::Arc;
use std::sync::mpsc;
use umbra_store::{EndNote, Notes};

/// See the module.
#[derive(Debug)]
pub(crate) struct StateNotes {
    to_write: mpsc::Sender<EndNote>,
    written: mpsc::Receiver<(EndNote, bool)>,
}

impl StateNotes {
    /// Starts the writer. `wake` is called after every note, durable or not.
    pub(crate) fn start(state: Arc<StateDir>, wake: impl Fn() + Send + 'static) -> Self {
        let (to_write, inbox) = mpsc::channel::<EndNote>();
        let (outbox, written) = mpsc::channel();
        std::thread::spawn(move || {
            for note in inbox {
                let outcome = state.record_end(&note);
                if let Err(error) = &outcome {
                    tracing::error!(set = %note.set, %error, "the end of an image could not be recorded");
                }
                if outbox.send((note, outcome.is_ok())).is_err() {
                    return;
                }
                wake();
            }
        });
        Self { to_write, written }
    }
}

impl Notes for StateNotes {
    fn submit(&mut self, note: EndNote) {
        self.to_write.send(note).expect("the writer lives as long as its sender");
    }

    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>) {
        done.extend(self.written.try_iter());
    }
}
