//! How a server of calls ends, the interposer's and a node's.
//!
//! ```text
//!   told to stop ──> no new change is begun, reads and watches end at once
//!                ──> clients have [`GRACE`] to let go ──> changes that were begun have [`GRACE`] to come to their end
//! ```

use std::future::Future;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Time for clients to let go once the server is to stop, and then for changes to come to their end.
pub const GRACE: Duration = Duration::from_secs(10);

/// The server's side.
#[derive(Debug)]
pub struct Ending {
    stop: watch::Sender<bool>,
    busy: mpsc::Sender<()>,
    idle: mpsc::Receiver<()>,
}

/// What calls know of it.
#[derive(Clone, Debug)]
pub struct Stopping {
    stopped: watch::Receiver<bool>,
    /// Gone once the server is to stop; until then its holders keep the server from ending.
    busy: mpsc::WeakSender<()>,
}

/// A change that was begun: the server waits for its end.
#[derive(Debug)]
pub struct Begun {
    _busy: mpsc::Sender<()>,
}

impl Stopping {
    /// Done once the server is to stop, or is gone.
    pub async fn told(mut self) {
        let _flag = self.stopped.wait_for(|stopped| *stopped).await;
    }

    /// Begins a change; none if the server is to stop.
    pub fn begin(&self) -> Option<Begun> {
        self.busy.upgrade().map(|busy| Begun { _busy: busy })
    }
}

impl Ending {
    /// Both sides.
    pub fn new() -> (Self, Stopping) {
        let (stop, stopped) = watch::channel(false);
        let (busy, idle) = mpsc::channel(1);
        let stopping = Stopping { stopped, busy: busy.downgrade() };
        (Self { stop, busy, idle }, stopping)
    }

    /// Serves until `shutdown` is done, and ends; sooner only if it cannot go on. `serving` ends when [`Stopping::told`] is
    /// done and its clients have let go; `accepting` gives it connections.
    ///
    /// # Errors
    /// What `serving` says.
    pub async fn serve<E>(
        mut self,
        serving: impl Future<Output = Result<(), E>>,
        accepting: impl Future<Output = ()>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), E> {
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = accepting => tracing::error!("the server takes no more connections"),
            () = shutdown => {}
        }
        self.stop.send_replace(true);
        drop(self.busy);
        match tokio::time::timeout(GRACE, &mut serving).await {
            Ok(ended) => ended?,
            Err(_) => tracing::warn!("clients did not let go in time"),
        }
        // Every change that was begun holds a sender, and nobody else does now.
        if tokio::time::timeout(GRACE, self.idle.recv()).await.is_err() {
            tracing::warn!("changes are still at work");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::{pending, ready};
    use tokio::time::Instant;

    async fn served(ending: Ending, serving: impl Future<Output = ()>) -> Duration {
        let before = Instant::now();
        let serving = async {
            serving.await;
            Ok::<_, Infallible>(())
        };
        let Ok(()) = ending.serve(serving, pending(), ready(())).await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_was_begun_and_begins_nothing_more() {
        let (ending, stopping) = Ending::new();
        let begun = stopping.begin().expect("it runs");
        let work = tokio::spawn(async move {
            tokio::time::sleep(GRACE / 2).await;
            drop(begun);
        });
        assert_eq!(served(ending, stopping.clone().told()).await, GRACE / 2);
        assert!(work.is_finished() && stopping.begin().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_and_changes_that_do_not_end_hold_it_up_for_so_long_and_no_longer() {
        let (ending, stopping) = Ending::new();
        let _begun = stopping.begin();
        assert_eq!(served(ending, pending()).await, GRACE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_says_so_at_once() {
        let (ending, _stopping) = Ending::new();
        assert_eq!(ending.serve(ready(Err("no listener")), pending(), pending()).await, Err("no listener"));
    }
}
