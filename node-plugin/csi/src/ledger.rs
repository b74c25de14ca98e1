//! The ledger: who on this node uses which volume, and which volume is sealed. It is the truth for "in use" (the seal of a
//! restore, a set that is to go): it may say too much, never too little.

use crate::handle::VolumeHandle;
use crate::path::PlacePath;
use crate::record::{Published, Record, Staged};
use crate::refusal::Refusal;
use crate::world::World;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use umbra_platform::id::RequestId;

/// Who uses a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Where it is staged.
    pub staged: Option<Staged>,
    /// The pods that have it.
    pub published: Vec<Published>,
}

impl InUse {
    /// Whether nobody does.
    pub fn is_free(&self) -> bool {
        self.staged.is_none() && self.published.is_empty()
    }
}

/// The ledger of a node. Clones share it.
#[derive(Debug)]
pub struct Ledger<W> {
    world: Arc<W>,
    /// Volumes for which a call is at work.
    busy: Arc<Mutex<HashSet<VolumeHandle>>>,
}

impl<W> Clone for Ledger<W> {
    fn clone(&self) -> Self {
        Self { world: Arc::clone(&self.world), busy: Arc::clone(&self.busy) }
    }
}

/// The right to change what is kept of one volume, and what is mounted of it. There is one at a time.
#[derive(Debug)]
pub(crate) struct Turn {
    volume: VolumeHandle,
    busy: Arc<Mutex<HashSet<VolumeHandle>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

impl<W: World> Ledger<W> {
    /// The ledger that this world keeps. What an earlier start of the machine left is put in order.
    ///
    /// # Errors
    /// [`Refusal::LedgerNotKept`].
    pub fn open(world: Arc<W>) -> Result<Self, Refusal> {
        let now = world.now()?;
        for volume in world.volumes()? {
            match world.kept(volume) {
                Ok(Some(kept)) => {
                    let record = kept.clone().into_present(&now);
                    if record != kept {
                        world.keep(volume, &record)?;
                    }
                }
                Ok(None) => {}
                // Calls for this volume are refused until somebody mends it; the others go on.
                Err(refusal) => {
                    tracing::error!(%volume, %refusal, remedy = refusal.remedy(), "a record cannot be read")
                }
            }
        }
        Ok(Self { world, busy: Arc::default() })
    }

    pub(crate) fn world(&self) -> &W {
        &self.world
    }

    /// Who uses a volume.
    ///
    /// # Errors
    /// [`Refusal::LedgerNotKept`]: nobody knows then.
    pub fn in_use(&self, volume: VolumeHandle) -> Result<InUse, Refusal> {
        let Record { staged, published, .. } = self.record(volume)?;
        Ok(InUse { staged, published })
    }

    /// Keeps new users out until the operation opens the volume again, or for [`SEAL_LASTS`](crate::record::SEAL_LASTS).
    /// Again for the same operation, it lasts from now. When this returns it is durable, and no call that would bring a user
    /// is at work: what [`Ledger::in_use`] says then stays so, or gets less.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Sealed`] by another operation, [`Refusal::LedgerNotKept`]. Nothing has changed then.
    pub fn seal(&self, volume: VolumeHandle, owner: RequestId) -> Result<(), Refusal> {
        let _turn = self.turn(volume)?;
        let (mut record, now) = (self.record(volume)?, self.world.now()?);
        if let Some(seal) = record.sealed(&now).filter(|seal| seal.owner != owner) {
            return Err(Record::sealed_by(volume, seal, &now));
        }
        record.seal = Some(now.seal(owner));
        self.world.keep(volume, &record)
    }

    /// Opens the volume again. One that is not sealed, or not any more, is open already.
    ///
    /// # Errors
    /// [`Refusal::Busy`], [`Refusal::Sealed`] by another operation, [`Refusal::LedgerNotKept`].
    pub fn unseal(&self, volume: VolumeHandle, owner: RequestId) -> Result<(), Refusal> {
        let _turn = self.turn(volume)?;
        let (mut record, now) = (self.record(volume)?, self.world.now()?);
        match record.sealed(&now) {
            Some(seal) if seal.owner != owner => return Err(Record::sealed_by(volume, seal, &now)),
            Some(_) => {}
            None if record.seal.is_none() => return Ok(()),
            None => {}
        }
        record.seal = None;
        self.world.keep(volume, &record)
    }

    /// What is kept of a volume, as it holds now.
    pub(crate) fn record(&self, volume: VolumeHandle) -> Result<Record, Refusal> {
        let now = self.world.now()?;
        let kept = self.world.kept(volume)?;
        Ok(kept.map_or_else(|| Record::unused(&now), |kept| kept.into_present(&now)))
    }

    /// Another volume that is recorded at a path.
    pub(crate) fn other_at(
        &self,
        path: &PlacePath,
        not: VolumeHandle,
    ) -> Result<Option<VolumeHandle>, Refusal> {
        for volume in self.world.volumes()? {
            // One that cannot be read is said when it is asked for, and is in nobody else's way.
            if volume != not && self.record(volume).is_ok_and(|record| record.names(path)) {
                return Ok(Some(volume));
            }
        }
        Ok(None)
    }

    /// # Errors
    /// [`Refusal::Busy`].
    pub(crate) fn turn(&self, volume: VolumeHandle) -> Result<Turn, Refusal> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(volume) {
            return Err(Refusal::Busy { volume });
        }
        Ok(Turn { volume, busy: Arc::clone(&self.busy) })
    }
}
