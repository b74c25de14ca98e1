//! Disable: a set is taken away.
//!
//! What counts is the record: from the moment that it says Disabling the set is to be gone, and every start and every
//! repetition goes on with that. A volume that is dead or hangs keeps its place until it lets go, and nothing else.

use super::enable::shadow_side;
use super::restore;
use crate::deadline::{STEP_DEADLINE, within};
use crate::host::Host;
use crate::present;
use crate::registry::{Found, Phase, Serving, Turn};
use crate::state::{SetRecord, SetStage};
use crate::words::{io, set_ref};
use crate::world::{Reactor, World};
use umbra_engine::{Command, SetIndex, SetState};
use umbra_platform::PlatformError;
use umbra_platform::call::{Direction, DisableSet};
use umbra_platform::id::{Epoch, SetId, SetRef};
use uuid::Uuid;

impl<W: World> Host<W> {
    /// Takes a set away: `id`, or what the call names if that is nil, since nothing was found when it was begun.
    ///
    /// # Errors
    /// What is in the way. From the record of it on the set is one that is to be gone.
    pub(crate) async fn disable(&self, call: DisableSet, id: Uuid) -> Result<(), PlatformError> {
        let meant = if id.is_nil() { call.target.set.clone() } else { SetRef::Id(SetId(id)) };
        let entry = match self.registry.set(&meant) {
            Ok(found) => found.entry,
            Err(_) if !id.is_nil() && !self.is_configured(id).await? => {
                // The request was begun before, and has had its effect.
                return Ok(());
            }
            Err(_) => return Err(PlatformError::no_set(&call.target.set)),
        };
        let turn = entry.turn("disable").await?;
        let Found { seen, set, .. } = self.registry.set(&meant)?;
        if set.protected {
            return Err(PlatformError::Protected { set: call.target.set });
        }
        if set.restoring.is_some() && !matches!(seen.phase, Phase::Serving(_)) {
            return Err(PlatformError::Copying { set: call.target.set, direction: Direction::ToMaster });
        }
        let Phase::Serving(serving) = &seen.phase else {
            return self.disable_unserved(&turn, &set).await;
        };
        if serving.unserved.contains_key(&set.id) {
            return self.disable_unserved(&turn, &set).await;
        }
        let snapshot = serving.reactor.snapshot().await;
        let snapshot = snapshot.map_err(|gone| io(&set.bitmap.device, "disable", &gone))?;
        let status = snapshot.sets.iter().find(|(index, _)| index.0 == set.index).map(|(_, status)| status);
        if let (Some(expected), Some(status)) = (call.target.expected_epoch, status) {
            let actual = Epoch(status.header.epoch.0);
            if actual != expected {
                return Err(PlatformError::StaleEpoch { set: call.target.set, expected, actual });
            }
        }
        restore::check_none(&seen, serving).await?;
        if let Some(status) = status.filter(|_| set.stage == SetStage::Enabled)
            && matches!(status.header.state, SetState::Copying | SetState::CopyAborted)
        {
            let direction = Direction::ToShadow;
            return Err(match status.header.state {
                SetState::Copying => PlatformError::Copying { set: set_ref(&set), direction },
                _ => PlatformError::CopyPending { set: set_ref(&set), direction, pending: status.pending },
            });
        }
        turn.step("proof that nothing has its shadow open");
        let shown = present::shown(self, Some(serving), [present::set_of(&set)]).await?;
        let holds = present::hold(self, &shown).await?;
        self.put_stage(turn.entry(), set.id, SetStage::Disabling).await?;
        self.take_away(&turn, serving, &set, holds).await
    }

    /// Whether a master on record has the set.
    async fn is_configured(&self, id: Uuid) -> Result<bool, PlatformError> {
        let records = self.records_for_sure().await?;
        Ok(records.iter().flat_map(|record| &record.sets).any(|set| set.id == id))
    }

    /// Takes away a set that is served, whatever state it is in: every step may have been done before.
    ///
    /// # Errors
    /// The step that could not be done.
    pub(crate) async fn take_away(
        &self,
        turn: &Turn<W>,
        serving: &Serving<W>,
        set: &SetRecord,
        holds: Vec<W::Hold>,
    ) -> Result<(), PlatformError> {
        let index = SetIndex(set.index);
        let gone = |error: crate::world::ReactorGone| io(&set.bitmap.device, "disable", &error);
        let snapshot = serving.reactor.snapshot().await.map_err(gone)?;
        let status = snapshot.sets.iter().find(|(of, _)| *of == index).map(|(_, status)| status);
        // On record first, so that an image that its volumes still claim to have is believed by nobody.
        self.give_up(set).await.map_err(|obstacle| obstacle.error)?;
        if let Some(status) = status {
            turn.step("end of the set");
            if status.header.state.is_online() || status.header.state == SetState::Prepared {
                let disabled = serving.reactor.command(Command::Disable { set: index, force: true });
                match within(STEP_DEADLINE, disabled).await {
                    Some(Ok(Ok(_))) => {}
                    // A bitmap volume that is dead cannot say that it is disabled: the record does. But a set that still has
                    // its image, because the master does not come to rest, is not at its end.
                    Some(Ok(Err(refusal))) => {
                        let snapshot = serving.reactor.snapshot().await.map_err(gone)?;
                        let after = snapshot.sets.iter().find(|(of, _)| *of == index);
                        if after.is_some_and(|(_, status)| status.header.state.is_online()) {
                            return Err(io(&set.bitmap.device, "disable", &refusal));
                        }
                        tracing::warn!(set = %set.name, %refusal, "the bitmap volume does not say that the set is disabled");
                    }
                    Some(Err(error)) => return Err(gone(error)),
                    None => return Err(turn.entry().busy()),
                }
            }
        }
        turn.step("end of the presented shadow");
        present::withdraw_shadow(self, serving, shadow_side(set), set.id, holds).await?;
        turn.entry().update(|seen| {
            seen.presented.remove(&set.id);
        });
        if status.is_some() {
            turn.step("release of its volumes");
            let removed = serving.reactor.remove_set(index).await.map_err(gone)?;
            // Its place is not free before they are.
            removed.map_err(|problem| PlatformError::VolumeInUse {
                device: crate::words::device_path(&set.bitmap.device),
                holder: problem.as_str().into(),
            })?;
        }
        self.forget_set(turn, set).await
    }

    /// Takes away a set that is not served.
    pub(super) async fn disable_unserved(
        &self,
        turn: &Turn<W>,
        set: &SetRecord,
    ) -> Result<(), PlatformError> {
        self.put_stage(turn.entry(), set.id, SetStage::Disabling).await?;
        self.give_up(set).await.map_err(|obstacle| obstacle.error)?;
        turn.step("end of the presented shadow");
        present::end_all(self, set.id).await?;
        self.forget_set(turn, set).await?;
        // Its master may have waited for it.
        turn.entry().poke();
        Ok(())
    }

    async fn forget_set(&self, turn: &Turn<W>, set: &SetRecord) -> Result<(), PlatformError> {
        let mut record = turn.entry().record();
        record.sets.retain(|other| other.id != set.id);
        self.keep(turn.entry(), record).await?;
        turn.entry().update(|serving| drop(serving.unserved.remove(&set.id)));
        self.hide_raw().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent::{Manner, Puppet, host};
    use umbra_platform::call::DetachMaster;
    use umbra_platform::id::{MasterRef, RequestId};

    /// The names are another set's and another master's by now, which must not be touched.
    #[tokio::test(start_paused = true)]
    async fn what_a_request_has_taken_away_is_not_looked_for_under_its_name() {
        let thread = Puppet::new(Manner::Answers);
        let host = host(&[("a", &thread)]);
        let (request, gone) = (RequestId(Uuid::from_u128(5)), Uuid::from_u128(900));
        let target: SetRef = "default/nightly".parse().expect("a name");
        let before = host.registry.set(&target).expect("it bears the name").seen.record;

        let disable = DisableSet { request, target: target.clone().into() };
        assert_eq!(host.disable(disable.clone(), gone).await, Ok(()));
        let detach = DetachMaster { request, master: MasterRef::Name("a".parse().expect("a name")) };
        assert_eq!(host.detach(detach, gone).await, Ok(()));
        assert_eq!(host.registry.set(&target).expect("it is there").seen.record, before);

        // Nothing was found when that one was begun, and nothing is now.
        let other = DisableSet { target: SetRef::Id(SetId(gone)).into(), ..disable };
        assert!(matches!(host.disable(other, Uuid::nil()).await, Err(PlatformError::NotFound { .. })));
    }
}
