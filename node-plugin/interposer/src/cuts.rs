//! Cuts over several sets that the last process left behind (E4): decided once, before any set is recovered.
//!
//! ```text
//!   cuts/UUID without a decision ──> every member's superblock, claimed and flushed ──> decide ──> on record
//!   every member served again, or gone from the configuration ──> forgotten
//! ```
//!
//! Masters start side by side, and one may have to wait for its device for long: all of them find the same
//! decision on record, whatever has become of the other members by then.

use crate::masters::Attached;
use crate::state_dir::{CutRecord, Decision, MasterRecord, SetRecord, StateDir};
use crate::volumes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use umbra_engine::Id128;
use umbra_store::{MemberView, decide};
use uuid::Uuid;

fn configured(masters: &[MasterRecord]) -> impl Iterator<Item = &SetRecord> {
    masters.iter().flat_map(|master| &master.sets)
}

/// Decides what the last process left undecided, and returns all cuts that are on record.
pub(crate) async fn decide_all(state: &Arc<StateDir>, masters: &[MasterRecord]) -> Vec<CutRecord> {
    let mut records = match state.cuts() {
        Ok(records) => records,
        Err(error) => {
            tracing::error!(%error, "the cuts on record cannot be read: who is in doubt about one is not served");
            return Vec::new();
        }
    };
    for record in records.iter_mut().filter(|record| record.decision.is_none()) {
        let views = views(record, masters).await;
        let decision = if decide(false, &views) { Decision::Commit } else { Decision::Void };
        match state.decide_cut(record, decision) {
            Ok(holds) => {
                tracing::info!(cut = %record.cut, ?views, decision = ?holds, "a cut over several sets was left undecided");
                record.decision = Some(holds);
            }
            Err(error) => tracing::error!(cut = %record.cut, %error, "the cut cannot be decided"),
        }
    }
    records
}

/// What each member's superblock says of the cut.
async fn views(record: &CutRecord, masters: &[MasterRecord]) -> Vec<MemberView> {
    let cut = Id128(*record.cut.as_bytes());
    let look = |member: &Uuid| {
        let set = configured(masters).find(|set| set.id == *member).cloned();
        let member = *member;
        tokio::task::spawn_blocking(move || view(set.as_ref(), member, cut))
    };
    let looks: Vec<_> = record.members.iter().map(look).collect();
    let mut views = Vec::new();
    for look in looks {
        views.push(look.await.unwrap_or(MemberView::Unreadable));
    }
    views
}

fn view(set: Option<&SetRecord>, member: Uuid, cut: Id128) -> MemberView {
    let Some(set) = set else { return MemberView::Unreadable };
    match volumes::peek(&set.bitmap) {
        Ok(superblock) if superblock.identity.set == Id128(*member.as_bytes()) => {
            MemberView::of(&superblock, cut)
        }
        Ok(_) => MemberView::Unreadable,
        Err(error) => {
            tracing::warn!(set = %set.name, error, "a member of a cut that is not decided cannot be read");
            MemberView::Unreadable
        }
    }
}

/// Forgets those of `left` that nobody can be in doubt about any more.
pub(crate) fn forget_resolved(state: &StateDir, left: &[CutRecord], masters: &Mutex<Vec<Attached>>) {
    if left.is_empty() {
        return;
    }
    let records = match state.masters() {
        Ok(records) => records,
        Err(error) => return tracing::warn!(%error, "cuts are kept on record"),
    };
    let configured: BTreeSet<Uuid> = configured(&records).map(|set| set.id).collect();
    let served: BTreeSet<Uuid> = {
        let attached = masters.lock().expect("no panic while it was held");
        let of = |attached: &Attached| {
            let sets = attached.record.sets.iter().map(|set| set.id);
            let unserved = attached.unserved.clone();
            sets.filter(move |id| !unserved.contains_key(id)).collect::<Vec<_>>()
        };
        attached.iter().flat_map(of).collect()
    };
    for record in left.iter().filter(|record| is_resolved(record, &configured, &served)) {
        if let Err(error) = state.forget_cut(record.cut) {
            tracing::warn!(cut = %record.cut, %error, "the cut stays on record");
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

    const CUT: Uuid = Uuid::from_u128(9);
    const MEMBERS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

    fn state() -> (tempfile::TempDir, Arc<StateDir>) {
        let home = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(home.path()).unwrap());
        (home, state)
    }

    #[tokio::test]
    async fn a_cut_whose_members_cannot_be_read_is_void_for_all_that_come_later() {
        let (_home, state) = state();
        state.begin_cut(CUT, &MEMBERS).unwrap();
        let left = decide_all(&state, &[]).await;
        let decided = CutRecord { cut: CUT, members: MEMBERS.to_vec(), decision: Some(Decision::Void) };
        assert_eq!(left, std::slice::from_ref(&decided));
        assert_eq!(state.cut(CUT).unwrap(), Some(decided));
    }

    #[tokio::test]
    async fn a_decision_on_record_is_not_asked_about_again() {
        let (_home, state) = state();
        state.begin_cut(CUT, &MEMBERS).unwrap();
        let record = state.cut(CUT).unwrap().unwrap();
        state.decide_cut(&record, Decision::Commit).unwrap();
        let left = decide_all(&state, &[]).await;
        assert_eq!(left, [CutRecord { decision: Some(Decision::Commit), ..record }]);
    }

    #[test]
    fn a_cut_is_forgotten_when_no_member_can_be_in_doubt() {
        let decided = |decision| CutRecord { cut: CUT, members: MEMBERS.to_vec(), decision };
        let all = BTreeSet::from(MEMBERS);
        let first = BTreeSet::from([MEMBERS[0]]);
        let none = BTreeSet::new();
        let commit = decided(Some(Decision::Commit));
        assert!(is_resolved(&commit, &all, &all));
        assert!(is_resolved(&commit, &first, &first), "the other was disabled since");
        assert!(is_resolved(&commit, &none, &none));
        assert!(!is_resolved(&commit, &all, &first), "the other has not come back");
        assert!(!is_resolved(&decided(None), &all, &all), "nobody knows what they became");
    }

    #[test]
    fn who_is_decided_nowhere_stays_on_record() {
        let (_home, state) = state();
        state.begin_cut(CUT, &MEMBERS).unwrap();
        let record = state.cut(CUT).unwrap().unwrap();
        let masters = Mutex::new(Vec::new());
        forget_resolved(&state, std::slice::from_ref(&record), &masters);
        assert_eq!(state.cuts().unwrap(), std::slice::from_ref(&record));
        state.decide_cut(&record, Decision::Void).unwrap();
        forget_resolved(&state, &[state.cut(CUT).unwrap().unwrap()], &masters);
        assert_eq!(state.cuts().unwrap(), []);
    }
}
