//! Crashes, starts, and a set's enable.

use super::{DEADLINE_MS, Damage, Enabled, Life, Running, UNRECORDABLE_MS, limits};
use crate::oracle::{SetNumber, Verdict};
use crate::plan::{Disk, SetPlan};
use std::time::Duration;
use umbra_engine::{Id128, SetIndex, SetState, Unrecordable};
use umbra_format::{SetIdentity, VolumeIdentity};
use umbra_store::{
    Crash, Expected, Known, Machine, RecoverError, Session, SetDevices, SetOptions, SimStore, StoreError,
    prepare_set, recover_set,
};

/// The one node.
const NODE: Id128 = Id128([0xab; 16]);

/// How a start ended.
enum Start {
    Up,
    /// The machine crashed again.
    Down,
}

impl Life {
    /// The machine has crashed: everybody learns what they learn, and it is started until it stays up.
    pub(super) fn crashed(&mut self) -> Verdict {
        let disabled = |set: &SetNumber| {
            self.commands.values().any(|running| *running == Running::Disable { set: *set })
        };
        let disabling: Vec<SetNumber> = self.set_numbers().filter(disabled).collect();
        while let Some(crash) = self.world.crashed() {
            self.tally.crashes += 1;
            self.log(|| format!("crashed: {crash:?}"));
            let power_cut = crash != Crash::Kill;
            self.machine = None;
            self.commands.clear();
            self.group = None;
            self.notes.crash();
            self.oracle.crash(power_cut);
            if power_cut {
                self.outstanding.clear();
            }
            if !self.calm && self.rng.chance(self.plan.crash_in_recovery) {
                // What rots is found out by what a power cut leaves of its repair.
                let harder = self.plan.rot_at_start > 0;
                let other = if harder { Crash::PowerCut { granule: 512 } } else { Crash::Kill };
                let again = if self.rng.chance(500) { crash } else { other };
                let at = self.world.operations() + 1 + self.rng.below(50);
                self.world.crash_at(Some((at, again)));
            }
            if let Start::Down = self.start(&disabling)? {
                continue;
            }
        }
        if self.rng.chance(self.plan.read_after_recovery) {
            self.read_out()?;
        }
        Ok(())
    }

    /// Starts the machine after it was closed in order.
    pub(super) fn restart(&mut self) -> Verdict {
        self.machine = None;
        if self.world.in_flight() > 0 {
            // What hangs when a process ends lands before the next one gets the claim, or never (E6).
            self.world.crash(Crash::Kill);
        }
        match self.start(&[])? {
            Start::Up => Ok(()),
            Start::Down => self.crashed(),
        }
    }

    fn options(&self, set: SetNumber) -> SetOptions {
        let unrecordable = match self.plan.sets[usize::from(set)].fail_write {
            true => Unrecordable::FailWrite(UNRECORDABLE_MS),
            false => Unrecordable::Block,
        };
        SetOptions { shadow_deadline_ms: DEADLINE_MS, bitmap_deadline_ms: DEADLINE_MS, unrecordable }
    }

    fn set_devices(&self, set: SetNumber) -> SetDevices {
        SetDevices { shadow: self.disk(Disk::Shadow(set)), bitmap: self.disk(Disk::Bitmap(set)) }
    }

    fn start(&mut self, disabling: &[SetNumber]) -> Result<Start, String> {
        self.world.keep_caches();
        self.bound_queues(true);
        self.damage_before_start();
        let master = (self.world.claim(), self.disk(Disk::Master));
        let sides = self.world.claim();
        let notes = self.notes.clone();
        self.machine = Some(Machine::new(self.plan.geometry, limits(&self.plan), master, sides, notes));
        let verdicts = self.verdicts()?;
        if self.world.crashed().is_some() {
            return Ok(Start::Down);
        }
        self.tally.groups_in_doubt += u64::from(verdicts.iter().any(|commit| *commit));
        for (set, commit) in self.set_numbers().zip(verdicts) {
            if let Start::Down = self.recover(set, disabling.contains(&set), commit)? {
                return Ok(Start::Down);
            }
        }
        self.oracle.group_ends();
        self.bound_queues(false);
        let again: Vec<u32> = self.outstanding.keys().copied().collect();
        for id in again {
            self.submit(id);
        }
        Ok(Start::Up)
    }

    fn recover(&mut self, set: SetNumber, disabling: bool, commit: bool) -> Result<Start, String> {
        let Some(enabled) = self.enabled(set).cloned() else { return Ok(Start::Up) };
        for attempt in 0..2 {
            let session = Session { node: NODE, session: self.fresh_id() };
            let expected = Expected::all_of(&enabled.identity);
            let known = Known {
                ended: self.notes.ended(enabled.identity.set),
                commit,
                master_changed: false,
                expected,
            };
            let mut store = self.world.claim();
            let faults = self.faults_of(set);
            let recovered = recover_set(&mut store, self.set_devices(set), session, known, self.options(set));
            match recovered {
                Ok((config, image)) => {
                    let (epoch, state) = (image.header.epoch, image.header.state);
                    self.tally.restores_resumed += u64::from(state.is_restoring());
                    self.log(|| format!("recovered set {set}: epoch {epoch}, {state:?}"));
                    self.oracle.recovered(set, epoch.0, state.is_online())?;
                    self.judge_damage(set, &image)?;
                    self.machine().add_set(SetIndex(set), config, image);
                    return Ok(Start::Up);
                }
                Err(RecoverError::Device { source: StoreError::Crashed, .. }) => return Ok(Start::Down),
                Err(RecoverError::Disabled(_)) if disabling => {
                    self.set(set).enabled = None;
                    self.oracle.forget_image(set);
                    return Ok(Start::Up);
                }
                Err(error) => {
                    self.log(|| format!("recovery of set {set} failed: {error}"));
                    let injected = self.faults_of(set) > faults;
                    let bitmap = self.injected(Disk::Bitmap(set)) > enabled.bitmap_faults_before;
                    if !injected && !bitmap && !enabled.damage.unlabelled {
                        return Err(format!("recovery of set {set} failed without a fault: {error}"));
                    }
                    if attempt == 0 {
                        self.heal();
                    }
                    self.land(&mut store, error)?;
                }
            }
        }
        if self.restoring == Some(set) {
            return Err(super::MASTER_INCOMPLETE.to_owned());
        }
        // The bitmap volume was damaged by its faults: the operator gives the shadow up.
        self.tally.given_up += 1;
        let place = self.set(set);
        (place.enabled, place.bitmap_used) = (None, true);
        self.oracle.forget_image(set);
        Ok(Start::Up)
    }

    /// E6: what was given up would land over what the next attempt writes, so the volumes are used for nothing until
    /// it has.
    pub(super) fn land(&self, store: &mut SimStore, error: RecoverError) -> Verdict {
        let RecoverError::Hung { mut abandoned, .. } = error else { return Ok(()) };
        self.world.release();
        match abandoned.land(store, Duration::from_secs(60)) {
            true => Ok(()),
            false => Err(format!("{} abandoned operations did not land", abandoned.len())),
        }
    }

    fn identity(&mut self, set: SetNumber) -> SetIdentity {
        let SetPlan { mode, ring_blocks, head_bytes, .. } = self.plan.sets[usize::from(set)];
        let size = self.plan.geometry.master_bytes();
        let volume = |uuid| VolumeIdentity { uuid, size, fingerprint: 0, hardware_id: String::new() };
        SetIdentity {
            set: self.fresh_id(),
            master: volume(self.fresh_id()),
            shadow: volume(self.fresh_id()),
            bitmap: self.fresh_id(),
            tracking: self.fresh_id(),
            node: NODE,
            session: self.fresh_id(),
            seal_owner: Id128::default(),
            mode,
            geometry: self.plan.geometry,
            logical_block: self.plan.block,
            physical_block: 4096,
            ring_blocks,
            head_bytes,
            protected: false,
            cluster: "sim".to_owned(),
            namespace: "sim".to_owned(),
            name: format!("set {set}"),
        }
    }

    /// Prepares a set, if it is not there. Its first cut is a step of its own.
    pub(super) fn enable(&mut self, set: SetNumber) -> Verdict {
        if self.enabled(set).is_some() || self.commands.values().any(|running| *running == Running::Detach) {
            return Ok(());
        }
        // The volumes are free only when everything of the set before has come back.
        let busy = |life: &Self| {
            let disks = [Disk::Shadow(set), Disk::Bitmap(set)];
            disks.into_iter().any(|disk| life.world.in_flight_on(life.disk(disk)) > 0)
        };
        if !self.turn_until(500, |life| !busy(life))? || self.enabled(set).is_some() {
            return Ok(());
        }
        let faults_before = self.faults_of(set);
        let bitmap_faults_before = self.injected(Disk::Bitmap(set));
        let identity = self.identity(set);
        let mut store = self.world.claim();
        let force = std::mem::take(&mut self.set(set).bitmap_used);
        let (devices, options) = (self.set_devices(set), self.options(set));
        let unfit = self.plan.sets[usize::from(set)].blocks[1] > self.plan.block;
        match prepare_set(&mut store, devices, identity.clone(), options, force) {
            Err(RecoverError::BitmapBlocks { .. }) if unfit => Ok(()),
            answer if unfit => Err(format!(
                "E17: a bitmap volume with blocks larger than the master's was answered {answer:?}"
            )),
            Ok((config, image)) => {
                assert_eq!(image.header.state, SetState::Prepared);
                self.set(set).enabled = Some(Enabled {
                    identity,
                    faults_before,
                    bitmap_faults_before,
                    damage: Damage::default(),
                });
                self.machine().add_set(SetIndex(set), config, image);
                if self.world.crashed().is_some() { self.crashed() } else { Ok(()) }
            }
            Err(RecoverError::Device { source: StoreError::Crashed, .. }) => {
                self.set(set).bitmap_used = true;
                self.crashed()
            }
            Err(error) if self.faults_of(set) > faults_before => {
                self.log(|| format!("preparing set {set} failed: {error}"));
                self.set(set).bitmap_used = true;
                self.land(&mut store, error)
            }
            Err(error) => Err(format!("preparing set {set} failed without a fault: {error}")),
        }
    }
}
