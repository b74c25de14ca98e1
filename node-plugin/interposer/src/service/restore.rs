//! Restores: what is special about cuts from a shadow back to its master.
//!
//! While chunks are pending a part of the master's data is on the shadow only. So before the flip the state
//! directory says, durably, that the master may not be served without the set any more; and it says so until the
//! set is at rest again. `recovery.rs` heeds that at the next start.

use super::cut::Member;
use super::{Found, Result, Service};
use crate::masters::{Attached, gone};
use crate::reactor::Call;
use crate::state_dir::SetRecord;
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{Command, SetIndex, SetState, SetStatus};
use umbra_platform::PlatformError;
use umbra_platform::call::{Copied, Direction, SetEpoch};
use umbra_platform::id::{CutId, Epoch, SetId};
use uuid::Uuid;

/// How often it is looked whether a restore has ended. A mark that stays too long only makes a start stricter.
const PERIOD: Duration = Duration::from_secs(1);

/// Refuses while a restore has chunks of this master left: no set of it is cut, enabled, reset or disabled then (E9).
///
/// # Errors
/// [`PlatformError::Copying`], or [`PlatformError::CopyPending`] after an abort; it names the set restored from.
pub(super) async fn check_none(attached: &Attached) -> Result<()> {
    let snapshot = attached.reactor.ask(Call::Snapshot).await.map_err(gone)?;
    let restoring = snapshot.sets.iter().find(|(_, status)| status.header.state.is_restoring());
    let Some((index, status)) = restoring else { return Ok(()) };
    let named = attached.record.sets.iter().find(|set| set.index == index.0).cloned();
    let Some(set) = named else { return Ok(()) };
    let set = Found { attached: attached.clone(), set }.reference();
    let (direction, pending) = (Direction::ToMaster, status.pending);
    Err(match status.header.state {
        SetState::RestoreAborted => PlatformError::CopyPending { set, direction, pending },
        _ => PlatformError::Copying { set, direction },
    })
}

/// Whether a set's mark has become untrue. A set that does not answer may be anything.
fn is_over(set: &SetRecord, sets: &[(SetIndex, SetStatus)]) -> bool {
    let status = sets.iter().find(|(index, _)| index.0 == set.index).map(|(_, status)| status);
    set.restoring.is_some() && status.is_some_and(|status| !status.header.state.is_restoring())
}

impl Service {
    /// Goes on with restores that were aborted: their epoch has begun.
    pub(super) async fn resume_restores(&self, members: &[Member]) -> Result<Copied> {
        let mut sets = Vec::new();
        for member in members {
            let found = &member.found;
            self.command(found, Command::Resume { set: found.index() }).await?;
            let name = crate::report::set_name(&found.set);
            let epoch = Epoch(member.status.header.epoch.0);
            sets.push(SetEpoch { id: SetId(found.set.id), name, epoch });
        }
        let cut = members.first().map_or(Uuid::nil(), |member| Uuid::from_bytes(member.status.header.cut.0));
        Ok(Copied { cut: CutId(cut), sets })
    }

    /// Records, before the flip, that the masters may not be served without these sets.
    pub(super) fn mark_restores(&self, members: &[Member]) -> Result<()> {
        for member in members {
            let status = &member.status;
            // Nobody has either side open, so this does not change before the flip.
            let chunks = if member.found.set.independent { status.differs } else { status.held };
            let mut attached = self.attached(&member.found)?;
            for set in attached.record.sets.iter_mut().filter(|set| set.id == member.found.set.id) {
                set.restoring = Some(chunks);
            }
            self.host.save(&attached.record)?;
            self.put(attached);
        }
        Ok(())
    }

    /// Takes back the marks of sets that are at rest. The caller has the turn.
    pub(super) async fn unmark_restores(&self) {
        for mut attached in self.look() {
            if attached.record.sets.iter().all(|set| set.restoring.is_none()) {
                continue;
            }
            let Ok(snapshot) = attached.reactor.ask(Call::Snapshot).await else { continue };
            let over = |set: &&mut SetRecord| is_over(set, &snapshot.sets);
            let ended: Vec<_> = attached.record.sets.iter_mut().filter(over).collect();
            if ended.is_empty() {
                continue;
            }
            for set in ended {
                tracing::info!(set = %set.name, "no restore from the set is under way");
                set.restoring = None;
            }
            match self.host.save(&attached.record) {
                Ok(()) => self.put(attached),
                Err(error) => tracing::warn!(%error, "the mark of a restore stays"),
            }
        }
    }

    /// Watches restores until the process ends: their marks go when they do, also after a start in the middle.
    pub(crate) async fn watch_restores(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let marked = |set: &SetRecord| set.restoring.is_some();
            if self.look().iter().any(|attached| attached.record.sets.iter().any(marked)) {
                let _one_at_a_time = self.changes.lock().await;
                self.unmark_restores().await;
            }
        }
    }
}
