//! Restores: what is special about cuts from a shadow back to its master.
//!
//! While chunks are pending a part of the master's data is on the shadow only. So before the flip the state
//! directory says, durably, that the master may not be served without the set any more; and it says so until the
//! set is at rest again. `start_set.rs` heeds that at the next start.

use super::member::{Member, Result, died, refusal};
use crate::deadline::{LOOK_DEADLINE, within};
use crate::host::Host;
use crate::notice::Notices;
use crate::registry::{Entry, Phase, Seen, Serving};
use crate::state::{MasterRecord, SetRecord};
use crate::words::{set_name, set_ref};
use crate::world::{Reactor, World};
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
pub(super) async fn check_none<W: World>(seen: &Seen<W>, serving: &Serving<W>) -> Result<()> {
    let snapshot = serving.reactor.snapshot().await.map_err(|_| died(seen))?;
    let restoring = snapshot.sets.iter().find(|(_, status)| status.header.state.is_restoring());
    let Some((index, status)) = restoring else { return Ok(()) };
    let Some(set) = seen.record.sets.iter().find(|set| set.index == index.0) else { return Ok(()) };
    let (set, direction, pending) = (set_ref(set), Direction::ToMaster, status.pending);
    Err(match status.header.state {
        SetState::RestoreAborted => PlatformError::CopyPending { set, direction, pending },
        _ => PlatformError::Copying { set, direction },
    })
}

/// Goes on with restores that were aborted: their epoch has begun.
pub(super) async fn resume<W: World>(members: &[Member<W>]) -> Result<Copied> {
    let mut sets = Vec::new();
    for member in members {
        let found = &member.found;
        let command = Command::Resume { set: SetIndex(found.set.index) };
        let resumed = member.reactor.command(command).await.map_err(|_| died(&found.seen))?;
        resumed.map_err(|refused| refusal(found, refused))?;
        let epoch = Epoch(member.status.header.epoch.0);
        sets.push(SetEpoch { id: SetId(found.set.id), name: set_name(&found.set), epoch });
    }
    let cut = members.first().map_or(Uuid::nil(), |member| Uuid::from_bytes(member.status.header.cut.0));
    Ok(Copied { cut: CutId(cut), sets })
}

/// Whether a set's mark has become untrue. A set that does not answer may be anything.
fn is_over(set: &SetRecord, sets: &[(SetIndex, SetStatus)]) -> bool {
    let status = sets.iter().find(|(index, _)| index.0 == set.index).map(|(_, status)| status);
    set.restoring.is_some() && status.is_some_and(|status| !status.header.state.is_restoring())
}

fn is_marked(record: &MasterRecord) -> bool {
    record.sets.iter().any(|set| set.restoring.is_some())
}

impl<W: World> Host<W> {
    /// Records, before the flip, that the masters may not be served without these sets.
    ///
    /// # Errors
    /// What the state directory says; then no flip may follow.
    pub(super) async fn mark_restores(&self, members: &[Member<W>]) -> Result<()> {
        for member in members {
            let (status, entry) = (&member.status, &member.found.entry);
            // Nobody has either side open, so this does not change before the flip.
            let chunks = if member.found.set.independent { status.differs } else { status.held };
            let mut record = entry.record();
            for set in record.sets.iter_mut().filter(|set| set.id == member.found.set.id) {
                set.restoring = Some(chunks);
            }
            self.keep(entry, record).await?;
        }
        Ok(())
    }

    /// Takes back the marks of sets that are at rest. The caller has the turn.
    pub(super) async fn unmark_restores(&self, entry: &Arc<Entry<W>>) {
        let Seen { mut record, phase: Phase::Serving(serving), .. } = entry.seen() else { return };
        if !is_marked(&record) {
            return;
        }
        let Some(Ok(snapshot)) = within(LOOK_DEADLINE, serving.reactor.snapshot()).await else { return };
        let over: Vec<_> = record.sets.iter_mut().filter(|set| is_over(set, &snapshot.sets)).collect();
        if over.is_empty() {
            return;
        }
        for set in over {
            tracing::info!(set = %set.name, "no restore from the set is under way");
            set.restoring = None;
        }
        if let Err(error) = self.keep(entry, record).await {
            tracing::warn!(%error, "the mark of a restore stays");
        }
    }

    /// Watches restores until the process ends: their marks go when they do, also after a start in the middle.
    pub(crate) async fn watch_restores(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut notices = Notices::default();
        loop {
            ticks.tick().await;
            for look in self.look_at(self.registry.entries()).await {
                if let Some(snapshot) = look.snapshot.filter(|_| !look.seen.record.sets.is_empty()) {
                    notices.look(&look.seen.record, &snapshot);
                }
                // One that is busy is looked at again: waiting for it would hold up the others.
                if is_marked(&look.entry.record())
                    && let Some(_turn) = look.entry.turn_if_free("end of a restore")
                {
                    self.unmark_restores(&look.entry).await;
                }
            }
        }
    }
}
