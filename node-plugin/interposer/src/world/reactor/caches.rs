//! Whether a device that a reactor takes for write-through has got a volatile cache meanwhile (E13).
//!
//! What is write-through is never flushed, so a cache that is switched on makes records and copies volatile that are taken
//! for durable. It is looked for away from the reactor's thread: the kernel may let the look wait.

use crate::world::Linux;
use crate::world::devices::Claimed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umbra_engine::SetIndex;
use umbra_lifecycle::world::{Claim, ReactorSetup, ReadySet};
use umbra_uring::WriteCacheWatch;

/// The devices that were write-through when they were claimed, by the set that they belong to; the master belongs to
/// none. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches(Arc<Mutex<BTreeMap<Option<SetIndex>, Watches>>>);

type Watches = Vec<Arc<WriteCacheWatch>>;

impl Caches {
    pub(super) fn of(setup: &ReactorSetup<Linux>) -> Self {
        let caches = Self::default();
        caches.put(None, watches([&setup.master]));
        setup.sets.iter().for_each(|set| caches.add_set(set));
        caches
    }

    pub(super) fn add_set(&self, set: &ReadySet<Claimed>) {
        self.put(Some(set.index), watches([&set.volumes.shadow, &set.volumes.bitmap]));
    }

    fn put(&self, whose: Option<SetIndex>, watches: Watches) {
        self.lock().insert(whose, watches);
    }

    /// Its volumes are no business of this reactor any more.
    pub(super) fn remove_set(&self, set: SetIndex) {
        self.lock().remove(&Some(set));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<SetIndex>, Watches>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of them is known to be write-through no more.
    pub(super) async fn have_changed(&self) -> bool {
        let watched: Watches = self.lock().values().flatten().cloned().collect();
        if watched.is_empty() {
            return false;
        }
        let look = move || watched.iter().any(|device| device.is_volatile() == Some(true));
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }
}

fn watches<'a>(claims: impl IntoIterator<Item = &'a Claimed>) -> Watches {
    let write_through = claims.into_iter().filter(|claim| !claim.capabilities().volatile_cache);
    write_through.map(|claim| Arc::new(claim.write_cache_watch())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn cache(home: &Path, name: &str, word: &str) -> Arc<WriteCacheWatch> {
        let queue = home.join(name);
        std::fs::create_dir_all(&queue).unwrap();
        std::fs::write(queue.join("write_cache"), word).unwrap();
        Arc::new(WriteCacheWatch::of_queue(&queue))
    }

    #[tokio::test]
    async fn the_volumes_of_a_set_that_is_gone_are_looked_at_no_more() {
        let home = tempfile::tempdir().unwrap();
        let (caches, set) = (Caches::default(), SetIndex(3));
        caches.put(None, vec![cache(home.path(), "master", "write through\n")]);
        caches.put(Some(set), vec![cache(home.path(), "shadow", "write back\n")]);
        assert!(caches.have_changed().await);
        caches.remove_set(set);
        assert!(!caches.have_changed().await);
    }

    #[tokio::test]
    async fn a_device_that_is_gone_has_not_changed_its_cache() {
        let home = tempfile::tempdir().unwrap();
        let caches = Caches::default();
        caches.put(None, vec![cache(home.path(), "master", "")]);
        assert!(!caches.have_changed().await);
        caches.put(None, vec![cache(home.path(), "master", "write back\n")]);
        assert!(caches.have_changed().await);
    }
}
