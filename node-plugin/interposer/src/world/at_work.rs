//! One thread per device for what may hang.
//!
//! A device that does not answer is looked at again and again, by a start that is tried every second and by whoever asks.
//! Each look that hangs keeps its thread, and those are not many. So who comes while a thread is at a device waits for
//! that one's end, and gives up as if it were his own.

use super::blocking;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a thread does with a device: one thread for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    /// Finds out what it is.
    Look,
    /// Opens it, and waits for its last user.
    Claim,
    /// Reads samples of it.
    Sample,
}

type Place = Arc<tokio::sync::Mutex<()>>;

/// See the module. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct AtWork(Arc<Mutex<HashMap<(Task, PathBuf), Place>>>);

impl AtWork {
    /// Does it on a thread of its own, unless one is at it for longer than `patience`; none if it has not ended by then.
    /// What was begun goes on.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        task: Task,
        path: &Path,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Result<T, String>> {
        let place = self.place(task, path);
        let whole = async move {
            let held = place.lock_owned().await;
            blocking(move || {
                let result = work();
                drop(held);
                result
            })
            .await
        };
        tokio::time::timeout(patience, whole).await.ok()
    }

    fn place(&self, task: Task, path: &Path) -> Place {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who is at work, or waits, has a share.
        places.retain(|_, place| Arc::strong_count(place) > 1);
        Arc::clone(places.entry((task, path.to_owned())).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_device_that_hangs_costs_one_thread() {
        let (at_work, begun) = (AtWork::default(), Arc::new(AtomicUsize::new(0)));
        let (release, hung) = mpsc::channel::<()>();
        let (path, hung) = (Path::new("/dev/hung"), Arc::new(Mutex::new(hung)));
        let look = || {
            let (begun, hung) = (Arc::clone(&begun), Arc::clone(&hung));
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                hung.lock().unwrap().recv().unwrap();
            }
        };
        for _ in 0..5 {
            assert!(at_work.run(Task::Look, path, SHORT, look()).await.is_none(), "it hangs");
        }
        assert!(begun.load(Ordering::Relaxed) <= 1);
        let other = at_work.run(Task::Look, Path::new("/dev/other"), LONG, || 7).await;
        assert_eq!(other, Some(Ok(7)), "others are not held up");
        release.send(()).unwrap();
        assert_eq!(at_work.run(Task::Look, path, LONG, || 8).await, Some(Ok(8)), "it answers again");
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        // A thread that has made way gives back its share a moment later.
        let gone = async {
            loop {
                at_work.place(Task::Sample, path);
                if at_work.0.lock().unwrap().len() == 1 {
                    break;
                }
                tokio::time::sleep(SHORT).await;
            }
        };
        assert_eq!(tokio::time::timeout(LONG, gone).await, Ok(()), "places that nobody is at are gone");
    }
}
