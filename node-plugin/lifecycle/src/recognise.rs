//! Devices on record, found and recognised; devices that are to be taken, looked at: before any is opened for writing.
//!
//! The one way to a claim (E21): look, ask [`umbra_identity::decide`], claim what was looked at.

use crate::deadline::CLAIM_WAIT;
use crate::host::{Host, master_owner, set_owner};
use crate::mutation::{Rule, is_off};
use crate::obstacle::{Kind, Obstacle};
use crate::refused::refused;
use crate::state::{MasterRecord, SetRecord, VolumeRecord};
use crate::words::id128;
use crate::world::{Depth, World};
use std::path::Path;
use std::sync::Arc;
use umbra_format::Layout;
use umbra_identity::content::UmbraSuperblock;
use umbra_identity::{
    Consent, Content, Contents, DeviceFacts, Expected, Fit, Free, FsGeneration, Known, Marks, Ours, Owner,
    Question, Refusal, Role, World as InUse, decide, locate,
};
use umbra_platform::PlatformError;
use umbra_platform::status::WaitReason;

/// A device that was recognised, and claimed.
#[derive(Debug)]
pub(crate) struct Recognised<C> {
    pub(crate) claim: C,
    pub(crate) ours: Ours,
    pub(crate) generation: Option<FsGeneration>,
}

fn content(facts: &DeviceFacts) -> Option<&Content> {
    match &facts.contents {
        Contents::Read(content) => Some(content),
        Contents::Unasked | Contents::Unread { .. } => None,
    }
}

/// What the file system on a device counts.
pub(crate) fn generation(facts: &DeviceFacts) -> Option<FsGeneration> {
    content(facts)?.generation.clone()
}

/// The master on record.
pub(crate) fn known_master(record: &MasterRecord) -> Known {
    Known {
        owner: master_owner(record),
        path: record.device.clone(),
        identity: record.identity.clone(),
        size: record.size,
        marks: Marks::Plain,
        generation: record.generation.clone(),
    }
}

fn known_volume(set: &SetRecord, volume: &VolumeRecord, size: u64, marks: Marks) -> Known {
    Known {
        owner: set_owner(set),
        path: volume.device.clone(),
        identity: volume.identity.clone(),
        size,
        marks,
        generation: None,
    }
}

fn fit(record: &MasterRecord, role: Role) -> Fit {
    let geometry = record.geometry().expect("records are checked when they are read");
    let bytes = match role {
        Role::Master | Role::Shadow => record.size,
        Role::Bitmap => Layout::standard(geometry).total_bytes(),
    };
    Fit { bytes, logical_block: record.logical_block }
}

impl<W: World> Host<W> {
    /// What is in use on this machine, as devices on record are recognised by it: for one attempt at a start.
    ///
    /// # Errors
    /// The driver cannot be asked.
    pub(crate) async fn in_use_now(&self) -> Result<Arc<InUse>, Obstacle> {
        self.in_use(false).await.map(Arc::new).map_err(|problem| {
            let error = PlatformError::UnsupportedHost { missing: problem.into() };
            Obstacle::new(Kind::Passing, WaitReason::IoError, error)
        })
    }

    /// Finds the master on record, under whatever name it is now, and claims it.
    pub(crate) async fn recognise_master(
        &self,
        record: &MasterRecord,
        in_use: &InUse,
    ) -> Result<Recognised<W::Claim>, Obstacle> {
        let known = known_master(record);
        let fit = fit(record, Role::Master);
        self.recognise(Role::Master, fit, &record.device, in_use, |_| known.clone()).await
    }

    /// Finds the bitmap volume of a set and claims it.
    pub(crate) async fn recognise_bitmap(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        in_use: &InUse,
    ) -> Result<Recognised<W::Claim>, Obstacle> {
        let marks = Marks::Superblock {
            set: id128(set.id),
            master: id128(master.id),
            master_bytes: master.size,
            chunk_bytes: set.chunk_bytes,
            bitmap: Some(id128(set.bitmap.volume)),
            node: self.node,
        };
        let fit = fit(master, Role::Bitmap);
        let known = known_volume(set, &set.bitmap, fit.bytes, marks);
        self.recognise(Role::Bitmap, fit, &set.bitmap.device, in_use, |_| known.clone()).await
    }

    /// Finds the shadow of a set and claims it. Whether its label is there that must be, the recovery says, which can
    /// read the head that the label stands in for.
    pub(crate) async fn recognise_shadow(
        &self,
        master: &MasterRecord,
        set: &SetRecord,
        in_use: &InUse,
    ) -> Result<Recognised<W::Claim>, Obstacle> {
        let (id, shadow) = (id128(set.id), id128(set.shadow.volume));
        let fit = fit(master, Role::Shadow);
        let known = |facts: Option<&DeviceFacts>| {
            let labelled = facts.and_then(content).is_some_and(|content| content.label.is_some());
            // Hardware that is unique has the last word: in a plain image a label is user data.
            let weak = set.shadow.identity.is_none();
            let label = Marks::Label { set: id, shadow };
            let marks = if labelled && weak { label } else { Marks::Plain };
            known_volume(set, &set.shadow, fit.bytes, marks)
        };
        self.recognise(Role::Shadow, fit, &set.shadow.device, in_use, known).await
    }

    async fn recognise(
        &self,
        role: Role,
        fit: Fit,
        path: &Path,
        in_use: &InUse,
        known: impl Fn(Option<&DeviceFacts>) -> Known,
    ) -> Result<Recognised<W::Claim>, Obstacle> {
        let (facts, ours) = match self.world.look(path, Depth::What).await {
            Ok(facts) => {
                let decided = self.decide_known(role, fit, path, &facts, &known(Some(&facts)), in_use);
                match decided {
                    Ok(ours) => (facts, ours),
                    // Names change with every boot: perhaps it has another one now.
                    Err(refusal @ Refusal::Swapped { .. }) => {
                        let elsewhere = self.elsewhere(role, fit, &known(None), in_use).await;
                        elsewhere.ok_or_else(|| refused(&refusal, path))?
                    }
                    Err(refusal) => return Err(refused(&refusal, path)),
                }
            }
            // What hangs or fails under its old name may be another device.
            Err(error) => {
                let elsewhere = self.elsewhere(role, fit, &known(None), in_use).await;
                elsewhere.ok_or_else(|| Obstacle::from(error))?
            }
        };
        let claimed = self.world.claim(&facts, CLAIM_WAIT).await;
        let claim = claimed.map_err(|error| Obstacle::claim(error, role))?;
        let generation = generation(&facts);
        Ok(Recognised { claim, ours, generation })
    }

    fn decide_known(
        &self,
        role: Role,
        fit: Fit,
        path: &Path,
        facts: &DeviceFacts,
        known: &Known,
        in_use: &InUse,
    ) -> Result<Ours, Refusal> {
        if is_off(Rule::IdentityCompared) {
            return Ok(Ours { path: facts.path.clone(), grown: None, written_outside: None });
        }
        let question = Question {
            role,
            expected: Expected::Known(known),
            path,
            device: Some(facts),
            fit,
            consent: &Consent::default(),
            world: in_use,
        };
        decide(&question).ours()
    }

    /// Only hardware that is unique is looked for under other names.
    async fn elsewhere(
        &self,
        role: Role,
        fit: Fit,
        known: &Known,
        in_use: &InUse,
    ) -> Option<(DeviceFacts, Ours)> {
        known.identity.as_ref()?;
        let mut machine = self.world.survey().await.ok()?;
        // The survey says what a device is. What Umbra left on it must be read before it is recognised.
        for device in machine.iter_mut().filter(|device| device.identity.stable_id() == known.identity) {
            if let Ok(facts) = self.world.look(&device.path, Depth::What).await {
                *device = facts;
            }
        }
        let ours = locate(role, known, fit, &machine, in_use).ok()?;
        let facts = self.world.look(&ours.path, Depth::What).await.ok()?;
        let ours = self.decide_known(role, fit, &facts.path.clone(), &facts, known, in_use).ok()?;
        tracing::warn!(was = %known.path.display(), is = %ours.path.display(), owner = %known.owner, "a device has another name now");
        Some((facts, ours))
    }

    /// Whether a device may be taken for a role that it has not had, and the claim on it.
    ///
    /// # Errors
    /// What it is instead, in the words of the platform API. Nothing was changed.
    pub(crate) async fn take(
        &self,
        role: Role,
        owner: &Owner,
        path: &Path,
        fit: Fit,
        consent: &Consent,
    ) -> Result<(W::Claim, DeviceFacts, Free), PlatformError> {
        let facts = self.world.look(path, Depth::WhatAndWho).await.map_err(|e| Obstacle::from(e).error)?;
        let in_use = self.in_use(true).await;
        let in_use = in_use.map_err(|problem| PlatformError::UnsupportedHost { missing: problem.into() })?;
        let question = Question {
            role,
            expected: Expected::New(owner),
            path,
            device: Some(&facts),
            fit,
            consent,
            world: &in_use,
        };
        let free = decide(&question).free().map_err(|refusal| refused(&refusal, path).error)?;
        let claimed = self.world.claim(&facts, CLAIM_WAIT).await;
        let claim = claimed.map_err(|error| Obstacle::claim(error, role).error)?;
        Ok((claim, facts, free))
    }

    /// What a set's superblock says, from a look at its bitmap volume.
    pub(crate) async fn superblock_epoch(&self, set: &SetRecord) -> Option<u64> {
        let facts = self.world.look(&set.bitmap.device, Depth::What).await.ok()?;
        match content(&facts)?.superblock.as_ref()? {
            UmbraSuperblock::Readable(found) if found.identity.set == id128(set.id) => Some(found.epoch.0),
            UmbraSuperblock::Readable(_) | UmbraSuperblock::Unusable(_) => None,
        }
    }
}
