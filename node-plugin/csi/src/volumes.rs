//! Carries calls out: looks, lets [`decide`](crate::decide) say what remains, and does it step by step.

use crate::decide::{self, LeaveSeen, PublishSeen, StageSeen};
use crate::handle::VolumeHandle;
use crate::ledger::Ledger;
use crate::path::PlacePath;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::request::{Leave, Publish, Stage};
use crate::volume::Volume;
use crate::world::{Device, Effect, Place, Step, Usage, World};
use umbra_platform::value::DevicePath;

/// The volumes of a node. Its calls take as long as the kernel does: they belong on threads that may wait.
#[derive(Debug)]
pub struct Volumes<W> {
    ledger: Ledger<W>,
}

impl<W> Clone for Volumes<W> {
    fn clone(&self) -> Self {
        Self { ledger: self.ledger.clone() }
    }
}

impl<W: World> Volumes<W> {
    /// The volumes that this ledger tells of.
    pub fn new(ledger: Ledger<W>) -> Self {
        Self { ledger }
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn stage(&self, ask: &Stage, volume: &Volume) -> Result<(), Refusal> {
        let _turn = self.ledger.turn(ask.volume)?;
        let world = self.world();
        let (now, record) = (world.now()?, self.ledger.record(ask.volume)?);
        let device = self.device(volume)?;
        let at = self.vacant_for(ask.volume, &ask.at)?;
        let recorded_at = record.staged.as_ref().map(|staged| world.place(&staged.path)).transpose()?;
        let seen = StageSeen {
            now: &now,
            record: &record,
            volume,
            device: &device,
            contents: &|| world.contents(&device),
            at: &at,
            recorded_at: recorded_at.as_ref(),
        };
        let steps = decide::stage(ask, &seen)?;
        self.carry_out(ask.volume, &record, steps)
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn publish(&self, ask: &Publish, volume: &Volume) -> Result<(), Refusal> {
        let handle = ask.stage.volume;
        let _turn = self.ledger.turn(handle)?;
        let world = self.world();
        let (now, record) = (world.now()?, self.ledger.record(handle)?);
        let device = self.device(volume)?;
        let seen = PublishSeen {
            now: &now,
            record: &record,
            device: &device,
            staging: &world.place(&ask.stage.at)?,
            at: &self.vacant_for(handle, &ask.at)?,
            published: &self.published(&record)?,
        };
        let steps = decide::publish(ask, &seen)?;
        self.carry_out(handle, &record, steps)
    }

    /// NodeUnpublishVolume.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn unpublish(&self, ask: &Leave) -> Result<(), Refusal> {
        self.leave(ask, |seen| Ok(decide::unpublish(ask, seen)))
    }

    /// NodeUnstageVolume.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn unstage(&self, ask: &Leave) -> Result<(), Refusal> {
        self.leave(ask, |seen| decide::unstage(ask, seen))
    }

    /// How full a volume is that is staged or published at a path. Of a device, its size.
    ///
    /// # Errors
    /// [`Refusal::NotThere`].
    pub fn usage(&self, volume: VolumeHandle, path: &PlacePath) -> Result<Usage, Refusal> {
        let place = self.world().place(path)?;
        if !self.ledger.record(volume)?.names(&place.path) || place.mounts.is_empty() {
            return Err(Refusal::NotThere { volume, path: path.to_string().into() });
        }
        self.world().usage(place.path.as_path())
    }

    fn leave(
        &self,
        ask: &Leave,
        decide: impl FnOnce(&LeaveSeen<'_>) -> Result<Vec<Step>, Refusal>,
    ) -> Result<(), Refusal> {
        let _turn = self.ledger.turn(ask.volume)?;
        let record = self.ledger.record(ask.volume)?;
        let at = self.world().place(&ask.at)?;
        let seen = LeaveSeen {
            record: &record,
            is_anothers: self.ledger.other_at(&at.path, ask.volume)?.is_some(),
            at: &at,
            published: &self.published(&record)?,
        };
        let steps = decide(&seen)?;
        self.carry_out(ask.volume, &record, steps)
    }

    fn world(&self) -> &W {
        self.ledger.world()
    }

    fn device(&self, volume: &Volume) -> Result<Device, Refusal> {
        let not_presented = |device: &DevicePath| Refusal::NotPresented {
            volume: volume.handle,
            device: device.as_str().into(),
            found: "is no block device, or an empty one".into(),
        };
        self.world().device(&volume.device)?.ok_or_else(|| not_presented(&volume.device))
    }

    /// A place that no other volume has.
    fn vacant_for(&self, volume: VolumeHandle, path: &PlacePath) -> Result<Place, Refusal> {
        let place = self.world().place(path)?;
        match self.ledger.other_at(&place.path, volume)? {
            None => Ok(place),
            Some(other) => {
                let found = format!("volume {other} is recorded there");
                Err(Refusal::Occupied { path: place.path, found: found.into() })
            }
        }
    }

    fn published(&self, record: &Record) -> Result<Vec<Place>, Refusal> {
        record.published.iter().map(|entry| self.world().place(&entry.path)).collect()
    }

    /// Does the steps. Where the kernel refuses one, those before it are taken back, the ledger last: an entry for a user who
    /// never came would keep a restore waiting.
    fn carry_out(&self, volume: VolumeHandle, before: &Record, steps: Vec<Step>) -> Result<(), Refusal> {
        let mut undo = Vec::new();
        for step in steps {
            let done = match &step {
                Step::Keep(record) => self.world().keep(volume, record),
                Step::Act(effect) => self.world().act(effect),
            };
            if let Err(refusal) = done {
                self.take_back(volume, undo);
                return Err(refusal);
            }
            undo.extend(opposite(&step, before));
        }
        Ok(())
    }

    fn take_back(&self, volume: VolumeHandle, undo: Vec<Step>) {
        for step in undo.into_iter().rev() {
            let done = match &step {
                Step::Keep(record) => self.world().keep(volume, record),
                Step::Act(effect) => self.world().act(effect),
            };
            if let Err(refusal) = done {
                // The ledger says too much then, and the same call again puts it right.
                tracing::warn!(%volume, ?step, %refusal, "a step that failed is not taken back whole");
                return;
            }
        }
    }
}

/// What takes a step back. What took something away is not taken back: it was asked for.
fn opposite(step: &Step, before: &Record) -> Option<Step> {
    let effect = match step {
        Step::Keep(_) => return Some(Step::Keep(before.clone())),
        Step::Act(Effect::MakeDirectory(path) | Effect::MakeFile(path)) => Effect::Remove(path.clone()),
        Step::Act(Effect::Mount { at, .. } | Effect::Bind { at, .. }) => Effect::Unmount(at.clone()),
        Step::Act(Effect::ForbidWrites(_) | Effect::Unmount(_) | Effect::Remove(_)) => return None,
    };
    Some(Step::Act(effect))
}
