//! Cuts over several sets, on record for as long as a superblock may be in doubt about one (E4).
//!
//! ```text
//!   begin_cut ──> superblocks in doubt ──> decide_cut ──> superblocks decided ──> forget_cut
//! ```
//!
//! So whatever superblock is in doubt, its cut is on record here; and once a decision is, everybody who asks
//! later gets the same, whatever has become of the other members meanwhile.

use super::record::{CutRecord, Decision};
use super::{State, StateError, remedy};
use crate::files::{FileName, Files, Folder};
use uuid::Uuid;

fn file(cut: Uuid) -> FileName {
    FileName { folder: Folder::Cuts, name: cut.to_string() }
}

impl<F: Files> State<F> {
    /// Records that the members may soon be in doubt about a cut.
    ///
    /// # Errors
    /// [`StateError`]; then the cut must not be begun.
    pub async fn begin_cut(&self, cut: Uuid, members: &[Uuid]) -> Result<(), StateError> {
        let _one = self.cuts.lock().await;
        self.save(&file(cut), &CutRecord { cut, members: members.to_vec(), decision: None }).await
    }

    /// Records the decision on a cut that was begun, and returns the one that holds: the first.
    ///
    /// # Errors
    /// [`StateError`]; then there is no decision, and there will be none by this call.
    pub async fn decide_cut(&self, record: &CutRecord, decision: Decision) -> Result<Decision, StateError> {
        let _one = self.cuts.lock().await;
        let earlier = self.load::<CutRecord>(&file(record.cut), remedy::CUT).await?;
        if let Some(earlier) = earlier.and_then(|record| record.decision) {
            return Ok(earlier);
        }
        self.save(&file(record.cut), &CutRecord { decision: Some(decision), ..record.clone() }).await?;
        Ok(decision)
    }

    /// A cut that is on record.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn cut(&self, cut: Uuid) -> Result<Option<CutRecord>, StateError> {
        self.load(&file(cut), remedy::CUT).await
    }

    /// All cuts that are on record, by name, and what is wrong with the files that cannot be read: who is in doubt
    /// about one of those waits, and nobody else.
    ///
    /// # Errors
    /// [`StateError`], if they cannot be listed.
    pub async fn cuts(&self) -> Result<(Vec<CutRecord>, Vec<StateError>), StateError> {
        let _one = self.cuts.lock().await;
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        for name in self.files.list(Folder::Cuts).await? {
            match self.load::<CutRecord>(&FileName { folder: Folder::Cuts, name }, remedy::CUT).await {
                Ok(record) => records.extend(record),
                Err(error) => faults.push(error),
            }
        }
        records.sort_by_key(|record: &CutRecord| record.cut);
        Ok((records, faults))
    }

    /// Forgets a cut: no member is in doubt about it any more.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn forget_cut(&self, cut: Uuid) -> Result<(), StateError> {
        let _one = self.cuts.lock().await;
        Ok(self.files.remove(&file(cut)).await?)
    }
}
