//! Cuts over several sets (E4): who is a member, and what was decided.
//!
//! ```text
//!   begin_cut ──> superblocks in doubt ──> decide_cut ──> superblocks decided ──> forget_cut
//! ```
//!
//! So whatever superblock is in doubt, its cut is on record here; and once a decision is, everybody who asks
//! later gets the same, whatever has become of the other members meanwhile.

use super::record::{CutRecord, Decision};
use super::{StateDir, StateDirError, file, load, lock, remedy, save};
use std::path::PathBuf;
use uuid::Uuid;

impl StateDir {
    fn cut_path(&self, cut: Uuid) -> PathBuf {
        self.root.join("cuts").join(cut.to_string())
    }

    /// Records that the members may soon be in doubt about a cut.
    ///
    /// # Errors
    /// [`StateDirError`]; then the cut must not be begun.
    pub fn begin_cut(&self, cut: Uuid, members: &[Uuid]) -> Result<(), StateDirError> {
        let _one = lock(&self.cuts);
        save(&self.cut_path(cut), &CutRecord { cut, members: members.to_vec(), decision: None })
    }

    /// Records the decision on a cut that was begun, and returns the one that holds: the first.
    ///
    /// # Errors
    /// [`StateDirError`]; then there is no decision, unless [`cut`](Self::cut) says that there is one.
    pub fn decide_cut(&self, record: &CutRecord, decision: Decision) -> Result<Decision, StateDirError> {
        let path = self.cut_path(record.cut);
        let _one = lock(&self.cuts);
        if let Some(earlier) = load::<CutRecord>(&path, remedy::CUT)?.and_then(|record| record.decision) {
            return Ok(earlier);
        }
        save(&path, &CutRecord { decision: Some(decision), ..record.clone() })?;
        Ok(decision)
    }

    /// A cut that is on record.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn cut(&self, cut: Uuid) -> Result<Option<CutRecord>, StateDirError> {
        load(&self.cut_path(cut), remedy::CUT)
    }

    /// All cuts that are on record, by name.
    ///
    /// # Errors
    /// [`StateDirError`], for the first that cannot be read.
    pub fn cuts(&self) -> Result<Vec<CutRecord>, StateDirError> {
        let _one = lock(&self.cuts);
        let mut records: Vec<CutRecord> = Vec::new();
        for entry in file::list(&self.root.join("cuts"))? {
            records.extend(load::<CutRecord>(&entry.path(), remedy::CUT)?);
        }
        records.sort_by_key(|record| record.cut);
        Ok(records)
    }

    /// Forgets a cut: no member is in doubt about it any more.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn forget_cut(&self, cut: Uuid) -> Result<(), StateDirError> {
        let _one = lock(&self.cuts);
        file::remove(&self.cut_path(cut))
    }
}
