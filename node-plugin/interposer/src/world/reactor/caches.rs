//! Whether a device that a reactor takes for write-through has got a volatile cache meanwhile (E13).
//!
//! What is write-through is never flushed, so a cache that is switched on makes records and copies volatile that are taken
//! for durable. It is looked for away from the reactor's thread: the kernel may let the look wait.

use crate::world::Linux;
use crate::world::devices::Claimed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umbra_lifecycle::world::{Claim, ReactorSetup, ReadySet};
use umbra_uring::WriteCacheWatch;

/// The devices that were write-through when they were claimed. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches(Arc<Mutex<Vec<Arc<WriteCacheWatch>>>>);

impl Caches {
    pub(super) fn of(setup: &ReactorSetup<Linux>) -> Self {
        let caches = Self::default();
        caches.add(&setup.master);
        setup.sets.iter().for_each(|set| caches.add_set(set));
        caches
    }

    pub(super) fn add_set(&self, set: &ReadySet<Claimed>) {
        self.add(&set.volumes.shadow);
        self.add(&set.volumes.bitmap);
    }

    fn add(&self, claim: &Claimed) {
        if !claim.capabilities().volatile_cache {
            self.lock().push(Arc::new(claim.write_cache_watch()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<WriteCacheWatch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of them is write-through no more.
    pub(super) async fn have_changed(&self) -> bool {
        let watched = self.lock().clone();
        if watched.is_empty() {
            return false;
        }
        let look = move || watched.iter().any(|device| device.is_volatile());
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }
}
