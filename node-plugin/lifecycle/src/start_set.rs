//! Getting the sets of a master ready when it starts: which it can do without, and which not.
//!
//! ```text
//!   Enabling   ── an image was cut ──> Ready (its enable is finished)    ── none ──> Gone (undone)
//!   Disabling  ───────────────────────────────────────────────────────────────────> Gone (finished)
//!   Enabled    ── recovered ──> Ready    ── obstacle: see obstacle.rs ──> Unserved (given up) | the master waits
//! ```
//! A set that the master may be restored from is indispensable: a part of the master's data may be on its shadow
//! only. Without it the master is not served at all (E9), and its requests wait.

use crate::deadline::{CLAIM_WAIT, STEP_DEADLINE, within};
use crate::host::Host;
use crate::mutation::{Rule, is_off};
use crate::obstacle::{Kind, Obstacle, hung};
use crate::present;
use crate::registry::Unserved;
use crate::state::{EVERY_EPOCH, MasterRecord, SetRecord, SetStage, StateError};
use crate::undecided::Outcomes;
use crate::words::{device_path, id128, io, set_ref};
use crate::world::{ReadySet, SetVolumes, World};
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{OfflineCause, SetIndex, SetState, Unrecordable};
use umbra_identity::World as InUse;
use umbra_platform::PlatformError;
use umbra_platform::status::WaitReason;
use umbra_platform::time::Millis;
use umbra_platform::value::{ByteCount, Detail};
use umbra_store::{EndNote, Ended, Expected, Known, RecoverError, Session, SetOptions, Volume, find_set};

/// Time between two attempts at volumes that are waited for.
const RETRY: Duration = Duration::from_millis(100);

/// Why a set is given up that nothing is known to be wrong with (E11).
const PASSED_THROUGH: &str =
    "umbra-io died or hung three times within a minute, so the master goes on without the set";

/// Until when the volumes of a set are tried again.
#[derive(Clone, Debug)]
struct Patience {
    until: tokio::time::Instant,
    told: Option<PlatformError>,
}

impl Patience {
    fn of(deadline: Duration) -> Self {
        Self { until: tokio::time::Instant::now() + deadline, told: None }
    }

    /// One attempt.
    fn none() -> Self {
        Self::of(Duration::ZERO)
    }

    /// Waits, and says what for; false if there is to be no other attempt.
    async fn again(&mut self, set: &SetRecord, obstacle: &Obstacle) -> bool {
        if obstacle.kind != Kind::Passing || tokio::time::Instant::now() >= self.until {
            return false;
        }
        if self.told.as_ref() != Some(&obstacle.error) {
            tracing::warn!(set = %set.name, error = %obstacle.error, "a volume of the set is waited for");
            self.told = Some(obstacle.error.clone());
        }
        tokio::time::sleep(RETRY).await;
        true
    }
}

/// What became of a set in a start.
#[derive(Debug)]
pub(crate) enum SetStart<C> {
    /// It can be served.
    Ready(Box<ReadySet<C>>),
    /// Its image has ended, on record.
    Unserved(Unserved),
    /// There is nothing left of it.
    Gone,
}

/// What a start has found out once, for all sets of the master.
#[derive(Clone, Debug)]
pub(crate) struct KnownAtStart {
    pub(crate) cuts: Arc<Outcomes>,
    pub(crate) in_use: Arc<InUse>,
}

/// Whether a master can only be served together with the set.
fn is_indispensable(set: &SetRecord, ended: Option<Ended>) -> bool {
    set.restoring.is_some() || ended.is_some_and(|ended| ended.master_incomplete)
}

/// What a set's record says about deadlines.
pub(crate) fn options(set: &SetRecord) -> SetOptions {
    let unrecordable =
        if set.fail_write { Unrecordable::FailWrite(set.unrecordable_ms) } else { Unrecordable::Block };
    SetOptions {
        shadow_deadline_ms: set.shadow_deadline_ms,
        bitmap_deadline_ms: set.bitmap_deadline_ms,
        unrecordable,
    }
}

impl<W: World> Host<W> {
    /// Gets a set ready to be served, or gives it up. `by_itself`: nobody asked for the start.
    ///
    /// # Errors
    /// What keeps its master from being served.
    pub(crate) async fn start_set(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        known: &KnownAtStart,
        by_itself: bool,
    ) -> Result<SetStart<W::Claim>, Obstacle> {
        match set.stage {
            SetStage::Enabled => self.start_enabled(master, set, known, by_itself).await,
            SetStage::Enabling => self.finish_enable(master, set, known).await,
            SetStage::Disabling => self.undo_set(set).await,
        }
    }

    /// An enable that was interrupted is finished if its image was cut, and else undone.
    async fn finish_enable(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        known: &KnownAtStart,
    ) -> Result<SetStart<W::Claim>, Obstacle> {
        let ended = self.state_of(set).await?;
        let recovered = match ended {
            // Its volumes may still say what an earlier life of it has left, or its enable was being undone.
            Err(_) => return self.undo_set(set).await,
            Ok(Some(ended)) if ended.epoch == EVERY_EPOCH => return self.undo_set(set).await,
            Ok(ended) => self.recover_volumes(master, set, known, ended, &Patience::none()).await,
        };
        match recovered {
            Ok(ready) if ready.image.header.state != SetState::Prepared => {
                tracing::info!(set = %set.name, "an enable that was interrupted is finished");
                Ok(SetStart::Ready(Box::new(ready)))
            }
            Ok(_) | Err(_) => self.undo_set(set).await,
        }
    }

    /// What is on record about the end of a set's images; the inner error: that record is damaged.
    ///
    /// # Errors
    /// It cannot be read now, which says nothing about the image.
    async fn state_of(
        &self,
        set: &SetRecord,
    ) -> Result<std::result::Result<Option<Ended>, PlatformError>, Obstacle> {
        let unread = |error: &StateError| io(&set.bitmap.device, "read the state of", error);
        match self.state.ended(id128(set.id)).await {
            Err(error) if error.is_passing() => Err(Obstacle::failed(unread(&error))),
            ended => Ok(ended.map_err(|error| unread(&error))),
        }
    }

    /// Takes away what is left of a set that is to be gone.
    async fn undo_set(&self, set: &SetRecord) -> Result<SetStart<W::Claim>, Obstacle> {
        tracing::info!(set = %set.name, "what is left of the set is taken away");
        self.give_up(set).await?;
        let problem = match within(CLAIM_WAIT, present::end_all(self, set.id)).await {
            Some(Ok(())) => return Ok(SetStart::Gone),
            Some(Err(error)) => error.to_string(),
            None => "its presented shadow does not go: somebody has it open".to_owned(),
        };
        // Its master does not wait for that; the set stays in the list, and can be disabled again.
        Ok(SetStart::Unserved(Unserved { reason: format!("it is to be gone: {problem}"), epoch: 0 }))
    }

    async fn start_enabled(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        known: &KnownAtStart,
        by_itself: bool,
    ) -> Result<SetStart<W::Claim>, Obstacle> {
        let ended = self.state_of(set).await?;
        let needed = is_indispensable(set, ended.clone().unwrap_or_default());
        // An attach is somebody's wish; only a start by itself may be the next in a row of deaths (E11).
        if by_itself && self.deaths.passes_through(master.id) && !set.independent && !needed {
            // Its volumes are not even opened: what is on them may be why the process died.
            tracing::error!(set = %set.name, "{PASSED_THROUGH}; its image is given up");
            self.give_up(set).await?;
            return Ok(SetStart::Unserved(Unserved { reason: PASSED_THROUGH.to_owned(), epoch: 0 }));
        }
        let deadline = Duration::from_millis(set.shadow_deadline_ms.max(set.bitmap_deadline_ms));
        let patience = if needed { Patience::none() } else { Patience::of(deadline) };
        let (mut attempts, mut known) = (patience.clone(), known.clone());
        loop {
            let recovered = match &ended {
                Ok(ended) => self.recover_volumes(master, set, &known, *ended, &patience).await,
                Err(error) => Err(Obstacle::new(Kind::Final, WaitReason::IoError, error.clone())),
            };
            let obstacle = match recovered {
                Ok(ready) => return Ok(SetStart::Ready(Box::new(ready))),
                Err(obstacle) => obstacle,
            };
            if needed || obstacle.kind == Kind::Mistaken && !is_off(Rule::SwappedWaits) {
                return Err(obstacle);
            }
            if !attempts.again(set, &obstacle).await {
                tracing::error!(set = %set.name, error = %obstacle.error, "the set cannot be served; its image is given up");
                let epoch = self.superblock_epoch(set).await.unwrap_or(0);
                self.give_up(set).await?;
                return Ok(SetStart::Unserved(Unserved { reason: obstacle.error.to_string(), epoch }));
            }
            if let Ok(in_use) = self.in_use_now().await {
                known.in_use = in_use;
            }
        }
    }

    /// Finds and claims one volume of a set. Each is waited for by itself: a look at the other may take longer than
    /// all there is to wait, and find another disk that hangs under its old name.
    async fn volume(
        &self,
        which: Volume,
        master: &MasterRecord,
        set: &SetRecord,
        in_use: &Arc<InUse>,
        patience: &Patience,
    ) -> Result<W::Claim, Obstacle> {
        let (mut attempts, mut in_use) = (patience.clone(), Arc::clone(in_use));
        loop {
            let recognised = match which {
                Volume::Shadow => self.recognise_shadow(master, set, &in_use).await,
                Volume::Bitmap => self.recognise_bitmap(master, set, &in_use).await,
            };
            match recognised {
                Ok(found) => return Ok(found.claim),
                Err(obstacle) if !attempts.again(set, &obstacle).await => return Err(obstacle),
                Err(_) => {}
            }
            if let Ok(now) = self.in_use_now().await {
                in_use = now;
            }
        }
    }

    async fn recover_volumes(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        known: &KnownAtStart,
        ended: Option<Ended>,
        patience: &Patience,
    ) -> Result<ReadySet<W::Claim>, Obstacle> {
        let in_use = &known.in_use;
        let volumes = tokio::join!(
            self.volume(Volume::Shadow, master, set, in_use, patience),
            self.volume(Volume::Bitmap, master, set, in_use, patience)
        );
        let volumes = match volumes {
            (Ok(shadow), Ok(bitmap)) => SetVolumes { shadow, bitmap },
            // No image ends because of one volume while a person has to put the other right.
            (Err(_), Err(mistaken)) if mistaken.kind == Kind::Mistaken => return Err(mistaken),
            (Err(obstacle), _) | (Ok(_), Err(obstacle)) => return Err(obstacle),
        };
        let cuts = Arc::clone(&known.cuts);
        let session = Session { node: self.node, session: id128(self.world.fresh()) };
        let (options, expected, master_changed) = (options(set), expected(master, set), set.master_changed);
        let work = self.world.work(volumes.into_vec(), move |store, slots| {
            let found = match find_set(store, SetVolumes::<W::Claim>::slots(slots), options) {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            let doubt = found.superblock().doubt.as_ref().map(|doubt| doubt.then.cut);
            let commit = match doubt {
                Some(cut) if !is_off(Rule::DecisionFollowed) => cuts.is_committed(cut)?,
                Some(_) | None => false,
            };
            Ok(found.recover(store, session, Known { ended, commit, master_changed, expected }))
        });
        let failed = |detail: String| {
            let error = io(&set.bitmap.device, "recovery of the set", &detail);
            Obstacle::new(Kind::Passing, WaitReason::IoError, error)
        };
        let late = || {
            Obstacle::new(Kind::Passing, WaitReason::Hung, hung(&set.bitmap.device, "recovery of the set"))
        };
        let (recovered, claims) = within(STEP_DEADLINE, work).await.ok_or_else(late)?.map_err(failed)?;
        let recovered = recovered.map_err(|undecided: String| {
            let error = io(&set.bitmap.device, "recovery of the set", &undecided);
            Obstacle::new(Kind::Mistaken, WaitReason::Recovering, error)
        })?;
        let (config, image) = recovered.map_err(|error| recover_obstacle(set, error))?;
        Ok(ReadySet { index: SetIndex(set.index), config, image, volumes: SetVolumes::from_vec(claims) })
    }

    /// E6: the image of a set has ended, durably, before its master serves.
    ///
    /// # Errors
    /// It cannot be recorded: then the master waits.
    pub(crate) async fn give_up(&self, set: &SetRecord) -> Result<(), Obstacle> {
        let note = EndNote {
            set: id128(set.id),
            epoch: EVERY_EPOCH,
            cause: OfflineCause::Bitmap,
            master_incomplete: false,
        };
        self.state.record_end(&note).await.map_err(|error| {
            Obstacle::failed(io(&set.bitmap.device, "record the end of the image on", &error))
        })
    }
}

/// What the record of a set says that its volumes are.
fn expected(master: &MasterRecord, set: &SetRecord) -> Expected {
    Expected {
        set: Some(id128(set.id)),
        master: Some(id128(master.id)),
        master_bytes: Some(master.size),
        fingerprint: None,
        chunk_bytes: Some(set.chunk_bytes),
        shadow: Some(id128(set.shadow.volume)),
        bitmap: Some(id128(set.bitmap.volume)),
    }
}

/// What a recovery that failed means.
pub(crate) fn recover_obstacle(set: &SetRecord, error: RecoverError) -> Obstacle {
    let (kind, reason) = match &error {
        RecoverError::Device { .. } => (Kind::Passing, WaitReason::IoError),
        RecoverError::Hung { .. } => (Kind::Passing, WaitReason::Hung),
        RecoverError::Foreign
        | RecoverError::TwoSets { .. }
        | RecoverError::InUse { .. }
        | RecoverError::ForeignSession { .. }
        | RecoverError::NotExpected(_)
        | RecoverError::Unlabelled { .. }
        | RecoverError::BitmapBlocks { .. }
        | RecoverError::Swapped { .. } => (Kind::Mistaken, WaitReason::Foreign),
        _ => (Kind::Final, WaitReason::IoError),
    };
    Obstacle::new(kind, reason, recover_refusal(set, error))
}

/// What a preparation or recovery that failed is in the words of the platform API.
pub(crate) fn recover_refusal(set: &SetRecord, error: RecoverError) -> PlatformError {
    let detail = Detail::from(error.to_string());
    let (shadow, bitmap) = (device_path(&set.shadow.device), device_path(&set.bitmap.device));
    match error {
        RecoverError::Device { volume, .. } => PlatformError::Io {
            device: if volume == Volume::Shadow { shadow } else { bitmap },
            operation: "recovery of the set".into(),
            detail,
        },
        RecoverError::Hung { volume, deadline, .. } => PlatformError::Hung {
            device: if volume == Volume::Shadow { shadow } else { bitmap },
            step: "recovery of the set".into(),
            after: Millis(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
        },
        RecoverError::NotExpected(_) => PlatformError::Foreign {
            device: bitmap,
            expected: format!("the bitmap volume of set {}", set_ref(set)).into(),
            found: detail,
        },
        RecoverError::Foreign | RecoverError::TwoSets { .. } | RecoverError::InUse { .. } => {
            PlatformError::BitmapForeign { bitmap, found: detail }
        }
        RecoverError::BitmapTooSmall { have, need } => {
            PlatformError::BitmapTooSmall { bitmap, actual: ByteCount(have), needed: ByteCount(need) }
        }
        RecoverError::ShadowTooSmall { have, need } => {
            PlatformError::ShadowTooSmall { shadow, actual: ByteCount(have), needed: ByteCount(need) }
        }
        RecoverError::ForeignSession { node, .. } => {
            PlatformError::SessionOpen { device: bitmap, node: node.to_string().into() }
        }
        RecoverError::MasterIncomplete(_) => PlatformError::MasterIncomplete { set: set_ref(set), detail },
        RecoverError::BitmapBlocks { have, need } => PlatformError::BlockSizeMismatch {
            device: bitmap,
            block: ByteCount(u64::from(have)),
            allowed: ByteCount(u64::from(need)),
        },
        RecoverError::Swapped { .. } | RecoverError::Unlabelled { .. } => PlatformError::Foreign {
            device: shadow,
            expected: format!("the shadow of set {}", set_ref(set)).into(),
            found: detail,
        },
        _ => PlatformError::BitmapDamaged { bitmap, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CopyLimitsRecord, VolumeRecord};
    use umbra_engine::{Epoch, Id128};
    use uuid::Uuid;

    fn set(restoring: Option<u64>) -> SetRecord {
        let volume =
            |device: &str| VolumeRecord { device: device.into(), volume: Uuid::from_u128(7), identity: None };
        SetRecord {
            id: Uuid::from_u128(1),
            stage: SetStage::Enabled,
            index: 0,
            cluster: String::new(),
            namespace: String::new(),
            name: "s".to_owned(),
            independent: false,
            shadow: volume("/dev/vdc"),
            bitmap: volume("/dev/vdd"),
            chunk_bytes: 65_536,
            shadow_deadline_ms: 5_000,
            bitmap_deadline_ms: 5_000,
            unrecordable_ms: 5_000,
            fail_write: false,
            protected: false,
            copy_limits: CopyLimitsRecord { bytes_per_second: None, in_flight: 4 },
            restoring,
            master_changed: false,
        }
    }

    #[test]
    fn a_master_cannot_do_without_the_set_that_it_may_be_restored_from() {
        let ended = |master_incomplete| Some(Ended { epoch: Epoch(3), master_incomplete });
        assert!(!is_indispensable(&set(None), None));
        assert!(!is_indispensable(&set(None), ended(false)));
        assert!(is_indispensable(&set(None), ended(true)));
        assert!(is_indispensable(&set(Some(0)), None));
        assert!(is_indispensable(&set(Some(7)), ended(false)));
    }

    #[test]
    fn a_mistaken_device_never_ends_an_image() {
        let swapped = RecoverError::Swapped {
            set: Id128([1; 16]),
            expected: Id128([2; 16]),
            found_set: Id128([3; 16]),
            found: Id128([4; 16]),
        };
        assert_eq!(recover_obstacle(&set(None), swapped).kind, Kind::Mistaken);
        assert_eq!(recover_obstacle(&set(None), RecoverError::Foreign).kind, Kind::Mistaken);
        assert_eq!(recover_obstacle(&set(None), RecoverError::Stale).kind, Kind::Final);
    }
}
