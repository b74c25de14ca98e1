//! How long a step may take.

use std::future::Future;
use std::time::Duration;

/// How long a claim waits for what an earlier holder has in flight, before it is said that it waits, and tried again.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(5);
/// The longest that a step may take before it is said that it hangs.
pub(crate) const STEP_DEADLINE: Duration = Duration::from_secs(30);
/// How long a look waits for the thread of a master, which waits for no device. Shorter than what a supervisor allows it.
pub(crate) const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// What a step gives, if it ends in time.
pub(crate) async fn within<T>(deadline: Duration, step: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(deadline, step).await.ok()
}
