//! Cuts over several sets that the last process left behind (E4): decided once, before any of their sets is recovered.
//!
//! ```text
//!   cuts/UUID without a decision ──> every member's superblock, claimed and flushed ──> decide ──> on record
//!   every member served again, or gone from the configuration ──> forgotten
//! ```
//!
//! Masters start side by side. Those with a member wait here, for no longer than the deadlines of its members'
//! volumes; the others do not.

use crate::deadline::STEP_DEADLINE;
use crate::host::Host;
use crate::registry::Phase;
use crate::state::{CutRecord, Decision, MasterRecord, SetRecord, SetStage};
use crate::words::id128;
use crate::world::World;
use std::collections::BTreeSet;
use std::time::Duration;
use umbra_engine::Id128;
use umbra_store::{Blocking, MemberView, decide, read_superblock};
use uuid::Uuid;

/// How long a bitmap volume may take for an operation when its superblock is asked about a cut.
const VIEW_DEADLINE: Duration = Duration::from_secs(5);

fn configured(masters: &[MasterRecord]) -> impl Iterator<Item = (&MasterRecord, &SetRecord)> {
    masters.iter().flat_map(|master| master.sets.iter().map(move |set| (master, set)))
}

impl<W: World> Host<W> {
    /// Decides the cuts that a set of this master is a member of, if the last process did not.
    ///
    /// # Errors
    /// A decision that cannot be recorded.
    pub(crate) async fn settle_cuts(&self, master: &MasterRecord) -> Result<(), String> {
        let members: BTreeSet<Uuid> = master.sets.iter().map(|set| set.id).collect();
        let left = self.left_cuts.all();
        if !left.values().flatten().any(|member| members.contains(member)) {
            return Ok(());
        }
        let _one_at_a_time = self.left_cuts.deciding.lock().await;
        for (cut, of) in left {
            if !of.iter().any(|member| members.contains(member)) {
                continue;
            }
            let Some(record) = self.state.cut(cut).await.map_err(|error| error.to_string())? else {
                continue;
            };
            if record.decision.is_some() {
                continue;
            }
            let views = self.views(&record).await;
            let decision = if decide(false, &views) { Decision::Commit } else { Decision::Void };
            let holds = self.state.decide_cut(&record, decision).await.map_err(|error| error.to_string())?;
            tracing::info!(%cut, ?views, decision = ?holds, "a cut over several sets was left undecided");
        }
        Ok(())
    }

    /// What each member's superblock says of the cut.
    async fn views(&self, record: &CutRecord) -> Vec<MemberView> {
        let cut = id128(record.cut);
        let masters = self.records().await;
        let mut views = Vec::new();
        for member in &record.members {
            let view = async {
                let Some((master, set)) = configured(&masters).find(|(_, set)| set.id == *member) else {
                    return MemberView::Unreadable;
                };
                self.view(master, set, cut).await
            };
            views.push(tokio::time::timeout(STEP_DEADLINE, view).await.unwrap_or(MemberView::Unreadable));
        }
        views
    }

    async fn view(&self, master: &MasterRecord, set: &SetRecord, cut: Id128) -> MemberView {
        let bitmap = match self.recognise_bitmap(master, set).await {
            Ok(recognised) => recognised.claim,
            Err(obstacle) => {
                tracing::warn!(set = %set.name, error = %obstacle.error, "a member of a cut that is not decided cannot be read");
                return MemberView::Unreadable;
            }
        };
        let read = self.world.work(vec![bitmap], |store, slots| {
            // What a killed process left in a cache becomes durable before a decision is built on it (E8).
            Blocking::new(store, VIEW_DEADLINE).flush(slots[0]).map_err(|error| error.to_string())?;
            read_superblock(store, slots[0], VIEW_DEADLINE).map_err(|error| error.to_string())
        });
        match read.await {
            Ok((Ok(superblock), _)) if superblock.identity.set == id128(set.id) => {
                MemberView::of(&superblock, cut)
            }
            Ok((Ok(_), _)) => MemberView::Unreadable,
            Ok((Err(error), _)) | Err(error) => {
                tracing::warn!(set = %set.name, error, "a member of a cut that is not decided cannot be read");
                MemberView::Unreadable
            }
        }
    }

    /// Whether a cut that a superblock is in doubt about is committed.
    ///
    /// # Errors
    /// A text, if there is a record of it and nothing can be told from it: either answer could be wrong.
    pub(crate) async fn is_committed(&self, cut: Id128) -> Result<bool, String> {
        let cut = Uuid::from_bytes(cut.0);
        match self.state.cut(cut).await.map_err(|error| error.to_string())? {
            Some(record) => match record.decision {
                Some(decision) => Ok(decision == Decision::Commit),
                None => Err(format!("the set is in doubt about cut {cut}, which could not be decided")),
            },
            None => {
                tracing::warn!(%cut, "nothing is on record about a cut that a set is in doubt about: it is void");
                Ok(false)
            }
        }
    }

    /// Forgets the cuts that nobody can be in doubt about any more.
    pub(crate) async fn forget_resolved_cuts(&self) {
        let left = self.left_cuts.all();
        if left.is_empty() {
            return;
        }
        let masters = self.records().await;
        let configured: BTreeSet<Uuid> = configured(&masters)
            .filter(|(_, set)| set.stage == SetStage::Enabled)
            .map(|(_, set)| set.id)
            .collect();
        let mut served = BTreeSet::new();
        for entry in self.registry.entries() {
            let seen = entry.seen();
            if let Phase::Serving(serving) = &seen.phase {
                let sets = seen.record.sets.iter().map(|set| set.id);
                served.extend(sets.filter(|id| !serving.unserved.contains_key(id)));
            }
        }
        for (cut, _) in left {
            let Ok(Some(record)) = self.state.cut(cut).await else { continue };
            if !is_resolved(&record, &configured, &served) {
                continue;
            }
            match self.state.forget_cut(cut).await {
                Ok(()) => self.left_cuts.forget(cut),
                Err(error) => tracing::warn!(%cut, %error, "the cut stays on record"),
            }
        }
    }
}

/// Recovery takes a set out of its doubt; one that is not configured is asked by nobody.
fn is_resolved(record: &CutRecord, configured: &BTreeSet<Uuid>, served: &BTreeSet<Uuid>) -> bool {
    record.decision.is_some()
        && record.members.iter().all(|member| served.contains(member) || !configured.contains(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_forgotten_when_no_member_can_be_in_doubt() {
        let members = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let decided = |decision| CutRecord { cut: Uuid::from_u128(9), members: members.to_vec(), decision };
        let all = BTreeSet::from(members);
        let first = BTreeSet::from([members[0]]);
        let none = BTreeSet::new();
        let commit = decided(Some(Decision::Commit));
        assert!(is_resolved(&commit, &all, &all));
        assert!(is_resolved(&commit, &first, &first), "the other was disabled since");
        assert!(is_resolved(&commit, &none, &none));
        assert!(!is_resolved(&commit, &all, &first), "the other has not come back");
        assert!(!is_resolved(&decided(None), &all, &all), "nobody knows what they became");
    }
}
