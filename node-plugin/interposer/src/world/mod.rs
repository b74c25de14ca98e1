//! The world of `umbra_lifecycle` on Linux: devices, the ublk driver, reactors, the state directory.
//!
//! ```text
//!   Linux ─┬─ devices    look, claim, work on claimed devices
//!          ├─ driver     devices of ublk: list, add, recover, stop; presented ones: hold, partitions
//!          ├─ names      /dev/umbra/by-id
//!          ├─ udev       raw devices out of sight
//!          ├─ digests    what masters' first bytes were, in /run
//!          ├─ directory  files of the state directory, on a thread of their own
//!          └─ reactor    threads that serve masters
//! ```
//! Whatever may hang runs on a thread of its own: a call that is given up leaves that thread behind, and nothing else; of
//! those at one device, one (`at_work`).

mod at_work;
pub(crate) mod devices;
pub(crate) mod digests;
pub(crate) mod directory;
mod driver;
mod names;
mod presented;
mod reactor;
pub(crate) mod service_time;
mod udev;

use crate::heartbeat::Heartbeats;
pub(crate) use at_work::AtWork;
use reactor::Reactor;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use umbra_identity::DeviceFacts;
use umbra_lifecycle::world::{
    ClaimError, Depth, DriverDevice, DriverError, DriverSpec, LookError, NotHeld, ReactorSetup, Sight, World,
};
use umbra_store::DeviceSlot;
use umbra_ublk::Control;
use umbra_uring::{Device, UringStore};
use uuid::Uuid;

/// See the module.
#[derive(Debug)]
pub(crate) struct Linux {
    pub(crate) control: Control,
    pub(crate) names: PathBuf,
    pub(crate) heartbeats: Heartbeats,
    /// The last second in which an earlier process may have served anything.
    pub(crate) served_until: u64,
    pub(crate) digests: digests::Digests,
    /// Devices that threads are at.
    pub(crate) at_work: AtWork,
}

/// Runs what may block on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

impl World for Linux {
    type Files = directory::Directory;
    type Claim = devices::Claimed;
    type Store = UringStore;
    type Reactor = Reactor;
    type Hold = std::fs::File;

    async fn look(&self, path: &Path, depth: Depth) -> Result<DeviceFacts, LookError> {
        devices::look(&self.at_work, path.to_owned(), depth).await
    }

    async fn survey(&self) -> Result<Vec<DeviceFacts>, LookError> {
        devices::survey(&self.at_work).await
    }

    async fn claim(&self, facts: &DeviceFacts, wait: Duration) -> Result<devices::Claimed, ClaimError> {
        devices::claim(&self.at_work, facts.clone(), wait).await
    }

    async fn work<T: Send + 'static>(
        &self,
        claims: Vec<devices::Claimed>,
        work: impl FnOnce(&mut UringStore, &[DeviceSlot]) -> T + Send + 'static,
    ) -> Result<(T, Vec<devices::Claimed>), String> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        let running = blocking(move || devices::work(claims, work, done));
        let ended = tokio::spawn(running);
        match outcome.await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(ended.await.map_or_else(|error| error.to_string(), |_| "it was given up".to_owned()))
            }
        }
    }

    async fn fingerprint(&self, claim: &devices::Claimed) -> Result<String, String> {
        devices::fingerprint(&self.at_work, claim).await
    }

    async fn driver_list(&self) -> Result<Vec<DriverDevice>, DriverError> {
        driver::list(&self.control).await
    }

    async fn driver_add(&self, spec: &DriverSpec) -> Result<u32, DriverError> {
        driver::add(&self.control, *spec).await
    }

    async fn driver_start(&self, number: u32) -> Result<(), DriverError> {
        driver::start(&self.control, number).await
    }

    async fn driver_recover(&self, number: u32) -> Result<(), DriverError> {
        driver::recover(&self.control, number).await
    }

    async fn driver_recovered(&self, number: u32) -> Result<(), DriverError> {
        driver::recovered(&self.control, number).await
    }

    async fn driver_stop(&self, number: u32) -> Result<(), DriverError> {
        driver::stop(&self.control, number).await
    }

    async fn driver_delete(&self, number: u32) -> Result<(), DriverError> {
        driver::delete(&self.control, number).await
    }

    async fn hold_presented(&self, number: u32) -> Result<std::fs::File, NotHeld> {
        driver::hold(number).await
    }

    async fn reread_partitions(&self, number: u32) {
        driver::reread_partitions(number).await;
    }

    async fn publish(&self, id: Uuid, number: u32) -> Result<(), String> {
        let target = umbra_ublk::block_path(umbra_ublk::DeviceId::new(number));
        names::publish(&self.names, &id.to_string(), &target).map_err(|error| error.to_string())
    }

    async fn unpublish(&self, id: Uuid) {
        if let Err(error) = names::remove(&self.names, &id.to_string()) {
            tracing::warn!(%id, %error, "the link could not be removed");
        }
    }

    async fn sweep_names(&self, known: &BTreeSet<Uuid>) {
        match names::sweep(&self.names, known) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::warn!(?removed, "stale links were removed"),
            Err(error) => tracing::warn!(%error, "stale links could not be looked for"),
        }
    }

    fn names(&self) -> &Path {
        &self.names
    }

    async fn hide(&self, sight: Sight) {
        match blocking(move || udev::Udev::host().hide(&sight)).await {
            Ok(changed) if changed.is_empty() => {}
            Ok(changed) => drop(tokio::spawn(async move {
                tokio::time::sleep(udev::RULES_NOTICED).await;
                if let Err(error) = blocking(move || udev::Udev::host().look_again(&changed)).await {
                    tracing::warn!(error, "udev was not told to look at devices again");
                }
            })),
            Err(error) => tracing::warn!(error, "raw devices are not hidden"),
        }
    }

    async fn start_reactor(&self, setup: ReactorSetup<Self>) -> Result<Reactor, String> {
        let heartbeat = self.heartbeats.register(setup.id);
        let kept = self.digests.of(setup.id);
        reactor::start(setup, heartbeat, kept).await
    }

    fn served_until(&self) -> u64 {
        self.served_until
    }

    async fn kept_digest(&self, master: Uuid) -> Option<u64> {
        self.digests.of(master).get()
    }

    async fn forget_digest(&self, master: Uuid) -> Result<(), String> {
        self.digests.of(master).forget().map_err(|error| error.to_string())
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn fresh(&self) -> Uuid {
        Uuid::new_v4()
    }
}

impl devices::Claimed {
    /// Tells later whether it has a volatile cache.
    pub(crate) fn write_cache_watch(&self) -> umbra_uring::WriteCacheWatch {
        self.0.write_cache_watch()
    }

    /// The device itself, for a reactor.
    pub(crate) fn into_device(self) -> Device {
        self.0
    }
}
