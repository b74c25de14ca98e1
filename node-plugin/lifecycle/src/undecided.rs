//! Cuts over several sets that a process or a thread left behind (E4): decided once, before any of their sets is recovered.
//!
//! ```text
//!   cuts/UUID without a decision ──> every member's superblock, claimed and flushed ──> decide ──> on record
//!   every member served again, or gone from the configuration ──> forgotten
//! ```
//!
//! Masters start side by side. Those with a member wait here, for no longer than the deadlines of its members'
//! volumes; the others do not.

use crate::deadline::{STEP_DEADLINE, within};
use crate::host::Host;
use crate::mutation::{Rule, is_off};
use crate::registry::Phase;
use crate::state::{CutRecord, Decision, MasterRecord, SetRecord, SetStage, StateError};
use crate::words::id128;
use crate::world::{Reactor, World};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use umbra_engine::Id128;
use umbra_identity::World as InUse;
use umbra_store::{Blocking, MemberView, decide, read_superblock};
use uuid::Uuid;

/// How long a bitmap volume may take for an operation when its superblock is asked about a cut.
const VIEW_DEADLINE: Duration = Duration::from_secs(5);

fn configured(masters: &[MasterRecord]) -> impl Iterator<Item = (&MasterRecord, &SetRecord)> {
    masters.iter().flat_map(|master| master.sets.iter().map(move |set| (master, set)))
}

/// What became of the cuts on record, as far as that is known.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(BTreeMap<Id128, Outcome>);

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Decided(Decision),
    /// There is a record, and nothing can be told from it: either answer could be wrong.
    Unknown,
}

impl Outcomes {
    fn of(records: &[CutRecord], faults: &[StateError]) -> Self {
        let decided = |record: &CutRecord| {
            (id128(record.cut), record.decision.map_or(Outcome::Unknown, Outcome::Decided))
        };
        let unreadable = faults.iter().filter_map(|fault| match fault {
            StateError::Unreadable { file, .. } => Uuid::try_parse(&file.name).ok(),
            StateError::RequestId(_) | StateError::File(_) => None,
        });
        let unreadable = unreadable.map(|cut| (id128(cut), Outcome::Unknown));
        Self(records.iter().map(decided).chain(unreadable).collect())
    }

    /// Whether a cut that a superblock is in doubt about is committed.
    ///
    /// # Errors
    /// A text, if there is a record of it from which that cannot be told.
    pub(crate) fn is_committed(&self, cut: Id128) -> Result<bool, String> {
        match self.0.get(&cut) {
            Some(Outcome::Decided(decision)) => Ok(*decision == Decision::Commit),
            Some(Outcome::Unknown) => {
                let cut = Uuid::from_bytes(cut.0);
                Err(format!("the set is in doubt about cut {cut}, which could not be decided"))
            }
            None => {
                tracing::warn!(cut = %Uuid::from_bytes(cut.0), "nothing is on record about a cut that a set is in doubt about: it is void");
                Ok(false)
            }
        }
    }
}

impl<W: World> Host<W> {
    /// Decides the cuts that a set of this master is a member of, if nobody did; what became of all that are on record.
    /// The caller has the turn of the master: a cut that is being taken now has no member here.
    ///
    /// # Errors
    /// The cuts cannot be read, or a decision cannot be recorded. Nothing may be started then: who is in doubt would
    /// take the cut for void.
    pub(crate) async fn settle_cuts(&self, master: &MasterRecord) -> Result<Outcomes, String> {
        let _one_at_a_time = self.deciding.lock().await;
        let (mut records, faults) = self.state.cuts().await.map_err(|error| error.to_string())?;
        for fault in &faults {
            if fault.is_passing() {
                return Err(fault.to_string());
            }
            tracing::error!(error = %fault, "a cut on record cannot be read: who is in doubt about it waits");
        }
        let is_of_master = |record: &CutRecord| {
            record.members.iter().any(|member| master.sets.iter().any(|set| set.id == *member))
        };
        for record in records.iter_mut().filter(|record| record.decision.is_none() && is_of_master(record)) {
            let views = self.views(record, master).await;
            let decision = if decide(false, &views) { Decision::Commit } else { Decision::Void };
            let holds = self.state.decide_cut(record, decision).await.map_err(|error| error.to_string())?;
            tracing::info!(cut = %record.cut, ?views, decision = ?holds, "a cut over several sets was left undecided");
            record.decision = Some(holds);
        }
        Ok(Outcomes::of(&records, &faults))
    }

    /// What each member's superblock says of the cut.
    async fn views(&self, record: &CutRecord, asking: &MasterRecord) -> Vec<MemberView> {
        let cut = id128(record.cut);
        let masters = self.records().await;
        let in_use = self.in_use_now().await;
        let mut views = Vec::new();
        for member in &record.members {
            let view = async {
                let Some((master, set)) = configured(&masters).find(|(_, set)| set.id == *member) else {
                    return MemberView::Unreadable;
                };
                if is_off(Rule::MembersAsked) && master.id != asking.id {
                    return MemberView::InDoubt;
                }
                let Ok(in_use) = &in_use else { return MemberView::Unreadable };
                self.view(master, set, cut, in_use).await
            };
            views.push(tokio::time::timeout(STEP_DEADLINE, view).await.unwrap_or(MemberView::Unreadable));
        }
        views
    }

    async fn view(&self, master: &MasterRecord, set: &SetRecord, cut: Id128, in_use: &InUse) -> MemberView {
        let bitmap = match self.recognise_bitmap(master, set, in_use).await {
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

    /// Forgets the cuts that nobody can be in doubt about any more.
    pub(crate) async fn forget_resolved_cuts(&self) {
        let _one_at_a_time = self.deciding.lock().await;
        let Ok((records, _)) = self.state.cuts().await else { return };
        if records.is_empty() {
            return;
        }
        // A member of a master that cannot be read now, or for good, may be in doubt.
        let Ok(masters) = self.records_for_sure().await else { return };
        let configured: BTreeSet<Uuid> = configured(&masters)
            .filter(|(_, set)| set.stage == SetStage::Enabled)
            .map(|(_, set)| set.id)
            .collect();
        let served = self.out_of_doubt().await;
        for record in records.iter().filter(|record| is_resolved(record, &configured, &served)) {
            if let Err(error) = self.state.forget_cut(record.cut).await {
                tracing::warn!(cut = %record.cut, %error, "the cut stays on record");
            }
        }
    }

    /// The sets that are served and whose superblocks are in no doubt.
    async fn out_of_doubt(&self) -> BTreeSet<Uuid> {
        let mut sets = BTreeSet::new();
        for entry in self.registry.entries() {
            let seen = entry.seen();
            let Phase::Serving(serving) = &seen.phase else { continue };
            let Some(Ok(snapshot)) = within(STEP_DEADLINE, serving.reactor.snapshot()).await else {
                continue;
            };
            for (index, _) in snapshot.sets.iter().filter(|(_, status)| !status.in_doubt) {
                let of = seen.record.sets.iter().find(|set| set.index == index.0);
                sets.extend(of.map(|set| set.id));
            }
        }
        sets
    }
}

/// Recovery, or its engine, takes a set out of its doubt; one that is not configured is asked by nobody.
fn is_resolved(record: &CutRecord, configured: &BTreeSet<Uuid>, served: &BTreeSet<Uuid>) -> bool {
    let out_of_doubt = |member: &Uuid| served.contains(member) || !configured.contains(member);
    record.decision.is_some()
        && (record.members.iter().all(out_of_doubt)
            || is_off(Rule::CutRemembered) && record.members.iter().any(out_of_doubt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{FileName, Folder};

    #[test]
    fn who_is_in_doubt_waits_where_a_record_says_nothing() {
        let cut = |number: u128, decision| CutRecord {
            cut: Uuid::from_u128(number),
            members: Vec::new(),
            decision,
        };
        let records = [cut(1, Some(Decision::Commit)), cut(2, Some(Decision::Void)), cut(3, None)];
        let file = FileName { folder: Folder::Cuts, name: Uuid::from_u128(4).to_string() };
        let damaged = StateError::Unreadable { file, problem: "cut short".to_owned(), remedy: "" };
        let outcomes = Outcomes::of(&records, &[damaged]);
        let of = |number: u128| outcomes.is_committed(id128(Uuid::from_u128(number)));
        assert_eq!((of(1), of(2), of(5)), (Ok(true), Ok(false), Ok(false)));
        assert!(of(3).is_err() && of(4).is_err());
    }

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
