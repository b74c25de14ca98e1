//! The contract between the management facade and an interposer.

use crate::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Copied, CopySets, DetachMaster, DisableSet, EnableSet,
    EnabledSet, MapQuery, Outcome, RecoverShadow, Reset, ResetDone, Scope, SetCopyLimits, Wait, Watch,
};
use crate::error::PlatformError;
use crate::id::RequestId;
use crate::map::ChunkMap;
use crate::status::{Listing, SetStatus, Status};
use std::future::Future;
use std::pin::Pin;
use tokio_stream::Stream;

/// What a platform call returns.
pub type Result<T> = std::result::Result<T, PlatformError>;

/// Statuses over time; ends after the first error.
pub type StatusStream = Pin<Box<dyn Stream<Item = Result<Status>> + Send>>;

/// An interposer, seen from above. Implementations write `async fn`.
///
/// # Guarantees an implementation gives
/// - A call that changes something is *idempotent by its request id*: repeated with the same id and content,
///   also after a restart, it has no second effect and gets the first answer; with other content it is refused
///   (`REQUEST_REUSED`).
/// - A refused call has changed nothing.
/// - An expected epoch is compared and the change made as one step.
/// - Where a call names several sets, all are acted on at one instant or none is.
///
/// # What it may rely on
/// - The server runs each call that changes something on a task of its own: it is *not* cancelled when the
///   client goes away. Calls that only read may be dropped at any await.
/// - Calls come concurrently and in no order.
pub trait Platform: Send + Sync + 'static {
    /// Interposes a device. What the device holds is not touched.
    fn attach_master(&self, call: AttachMaster) -> impl Future<Output = Result<AttachedMaster>> + Send;

    /// Ends the quarantine of a master that was written while it was not served.
    fn accept_master(&self, call: AcceptMaster) -> impl Future<Output = Result<()>> + Send;

    /// Takes the interposer out; refused while anything has the presented devices open.
    fn detach_master(&self, call: DetachMaster) -> impl Future<Output = Result<()>> + Send;

    /// Makes a set and takes its first cut, under load. Returns when the cut is durable, not when a copy ends.
    fn enable_set(&self, call: EnableSet) -> impl Future<Output = Result<EnabledSet>> + Send;

    /// Ends a set.
    fn disable_set(&self, call: DisableSet) -> impl Future<Output = Result<()>> + Send;

    /// Cuts one or several sets at one instant and starts their copies. Returns when the cut is durable.
    /// After an abort only the same direction is allowed: to the shadow it is a new cut, over what is pending too;
    /// to the master it goes on in the epoch that has begun.
    fn copy(&self, call: CopySets) -> impl Future<Output = Result<Copied>> + Send;

    /// Stops a copier. Returns when it stands.
    fn abort(&self, call: Abort) -> impl Future<Output = Result<()>> + Send;

    /// Waits until no copy of the set runs, and says how it ended: the state is never `Copying` or `Restoring`.
    fn wait(&self, call: Wait) -> impl Future<Output = Result<SetStatus>> + Send;

    /// Lets a file system recover its journal through a shadow.
    fn recover_shadow(&self, call: RecoverShadow) -> impl Future<Output = Result<()>> + Send;

    /// Changes copy limits.
    fn set_copy_limits(&self, call: SetCopyLimits) -> impl Future<Output = Result<()>> + Send;

    /// Brings an offline or given-up set back.
    fn reset(&self, call: Reset) -> impl Future<Output = Result<ResetDone>> + Send;

    /// What became of a request. Changes nothing.
    fn outcome(&self, request: RequestId) -> impl Future<Output = Result<Outcome>> + Send;

    /// What is going on now.
    fn status(&self, scope: Scope) -> impl Future<Output = Result<Status>> + Send;

    /// What is going on, again and again.
    fn watch(&self, call: Watch) -> impl Future<Output = Result<StatusStream>> + Send;

    /// What is configured.
    fn list(&self) -> impl Future<Output = Result<Listing>> + Send;

    /// A picture of the bitmap, from counts that are kept and not from a scan.
    fn map(&self, call: MapQuery) -> impl Future<Output = Result<ChunkMap>> + Send;
}
