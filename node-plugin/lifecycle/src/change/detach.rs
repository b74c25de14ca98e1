//! Detach: a master is taken out, in order: nothing has it open, everything is drained and durable.

use super::restore;
use crate::deadline::{CLAIM_WAIT, STEP_DEADLINE, within};
use crate::host::Host;
use crate::present;
use crate::registry::{Phase, Seen, Serving, Turn};
use crate::start::claiming;
use crate::state::{MasterRecord, SetStage};
use crate::words::io;
use crate::world::{Reactor, World};
use umbra_engine::{Command, SetIndex, Side};
use umbra_platform::PlatformError;
use umbra_platform::call::DetachMaster;
use umbra_platform::id::{MasterId, MasterRef};
use uuid::Uuid;

/// The fingerprint of a master that could not be looked at when it was detached: it matches nothing, so that an attach
/// with sets asks for a decision.
const UNKNOWN_CONTENT: &str = "unknown";

impl<W: World> Host<W> {
    /// Takes a master out: `id`, or what the call names if that is nil, since nothing was found when it was begun.
    ///
    /// # Errors
    /// What is in the way. If it could not be carried through, the master is served again.
    pub(crate) async fn detach(&self, call: DetachMaster, id: Uuid) -> Result<(), PlatformError> {
        let meant = if id.is_nil() { call.master.clone() } else { MasterRef::Id(MasterId(id)) };
        let entry = match self.registry.master(&meant) {
            Ok(entry) => entry,
            Err(_) if !id.is_nil() => {
                // The request was begun before. It has had its effect, unless the master waits to be on the list again.
                let is_in = |record: &MasterRecord| record.id == id && !record.clean;
                let is_out = !self.records_for_sure().await?.iter().any(is_in);
                return if is_out { Ok(()) } else { Err(PlatformError::no_master(&call.master)) };
            }
            Err(error) => return Err(error),
        };
        let turn = entry.turn("detach").await?;
        if !self.registry.has(&entry) {
            return Err(PlatformError::no_master(&call.master));
        }
        let seen = entry.seen();
        let outcome = match &seen.phase {
            Phase::Serving(serving) => self.detach_served(&turn, &seen, serving).await,
            _ => self.detach_unserved(&turn, &seen.record).await,
        };
        match outcome {
            Ok(()) => {
                self.registry.remove(entry.id());
                self.hide_raw().await;
                // Whoever waits to start it again sees that it is gone.
                entry.poke();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn detach_served(
        &self,
        turn: &Turn<W>,
        seen: &Seen<W>,
        serving: &Serving<W>,
    ) -> Result<(), PlatformError> {
        restore::check_none(seen, serving).await?;
        turn.step("proof that nothing has its devices open");
        let shown = present::shown(self, Some(serving), present::all_of(&seen.record)).await?;
        let holds = present::hold(self, &shown).await?;
        turn.entry().put_phase(Phase::Detaching);
        let outcome = self.take_out(turn, seen, serving, (shown, holds)).await;
        if outcome.is_err() {
            // Half of it is gone: it comes back as after a kill.
            serving.reactor.stop().await;
            turn.entry().put_phase(claiming());
        }
        outcome
    }

    async fn take_out(
        &self,
        turn: &Turn<W>,
        seen: &Seen<W>,
        serving: &Serving<W>,
        (shown, holds): (Vec<present::Shown>, Vec<W::Hold>),
    ) -> Result<(), PlatformError> {
        let record = &seen.record;
        turn.step("end of what it presents");
        // The shadows first: they read from the master.
        for device in shown {
            self.world.driver_stop(device.number).await.map_err(|e| present::driver_refusal(&e))?;
        }
        // Not before all have stopped: whoever opened one meanwhile would lose what it writes.
        drop(holds);
        for set in &record.sets {
            let side = Side::Shadow(SetIndex(set.index));
            present::withdraw_shadow(self, serving, side, set.id, Vec::new()).await?;
        }
        self.world.unpublish(record.id).await;
        let gone = |error: crate::world::ReactorGone| io(&record.device, "detach", &error);
        serving.reactor.leave(Side::Master).await.map_err(gone)?;
        turn.step("flush of everything");
        let detached = within(STEP_DEADLINE, serving.reactor.command(Command::Detach)).await;
        let detached = detached.ok_or_else(|| turn.entry().busy())?.map_err(gone)?;
        detached.map_err(|refusal| io(&record.device, "detach", &refusal))?;
        serving.reactor.stop().await;
        // Not before its thread has let go of it.
        present::end_all(self, record.id).await?;
        turn.step("samples of its content");
        let fingerprint = self.sample(record).await?;
        self.forget_to_be_gone(record).await?;
        self.keep(turn.entry(), detached_record(record, Some(fingerprint))).await
    }

    /// The claim of its thread falls; then the content is sampled, to be compared at the next attach.
    async fn sample(&self, record: &MasterRecord) -> Result<String, PlatformError> {
        let deadline = tokio::time::Instant::now() + CLAIM_WAIT;
        loop {
            let sampled = MasterRecord { generation: None, ..record.clone() };
            let in_use = self.in_use_now().await.map_err(|obstacle| obstacle.error)?;
            match self.recognise_master(&sampled, &in_use).await {
                Ok(master) => {
                    let sampled = self.world.fingerprint(&master.claim).await;
                    return sampled.map_err(|error| io(&record.device, "sample", &error));
                }
                Err(obstacle) if tokio::time::Instant::now() >= deadline => return Err(obstacle.error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }

    /// Sets that are to be gone leave the record: what their volumes still say is believed by nobody.
    async fn forget_to_be_gone(&self, record: &MasterRecord) -> Result<(), PlatformError> {
        for set in record.sets.iter().filter(|set| set.stage != SetStage::Enabled) {
            self.give_up(set).await.map_err(|obstacle| obstacle.error)?;
        }
        Ok(())
    }

    /// Takes out a master that is not served: there may be devices of it that wait in the kernel.
    async fn detach_unserved(&self, turn: &Turn<W>, record: &MasterRecord) -> Result<(), PlatformError> {
        if let Some(set) = record.sets.iter().find(|set| set.restoring.is_some()) {
            return Err(PlatformError::Copying {
                set: crate::words::set_ref(set),
                direction: umbra_platform::call::Direction::ToMaster,
            });
        }
        turn.step("end of what it presents");
        let waiting = present::shown(self, None, present::all_of(record)).await?;
        let holds = present::hold(self, &waiting).await?;
        for device in waiting {
            self.world.driver_stop(device.number).await.map_err(|e| present::driver_refusal(&e))?;
        }
        drop(holds);
        for (id, _) in present::all_of(record) {
            present::end_all(self, id).await?;
        }
        // What becomes of the content until the next attach, or became of it already, nobody saw.
        self.forget_to_be_gone(record).await?;
        self.keep(turn.entry(), detached_record(record, Some(UNKNOWN_CONTENT.to_owned()))).await
    }
}

/// The record of a master that is out; what is left of sets that were to be gone was given up before.
fn detached_record(record: &MasterRecord, fingerprint: Option<String>) -> MasterRecord {
    let mut record = record.clone();
    record.clean = true;
    record.fingerprint = fingerprint.filter(|_| !record.sets.is_empty());
    record.generation = None;
    record.sets.retain(|set| set.stage == SetStage::Enabled);
    for set in &mut record.sets {
        set.restoring = None;
    }
    record
}
