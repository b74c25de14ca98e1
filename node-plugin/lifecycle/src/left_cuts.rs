//! The cuts over several sets that the last process left on record.

use crate::files::Files;
use crate::state::{State, StateError};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// The cuts that the last process left, and what each of them became.
#[derive(Debug, Default)]
pub(crate) struct LeftCuts {
    /// By cut, the members; taken in hand once.
    left: Mutex<BTreeMap<Uuid, Vec<Uuid>>>,
    /// Held while one of them is decided.
    pub(crate) deciding: tokio::sync::Mutex<()>,
}

impl LeftCuts {
    /// By cut, its members.
    pub(crate) fn all(&self) -> BTreeMap<Uuid, Vec<Uuid>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The cuts that the last process left.
    pub(crate) fn cuts(&self) -> Vec<Uuid> {
        self.all().into_keys().collect()
    }

    /// Reads what is on record, before anything starts.
    ///
    /// # Errors
    /// It cannot be read now. Nothing may be started then: who is in doubt would take the cut for void.
    pub(crate) async fn load<F: Files>(&self, state: &State<F>) -> Result<(), StateError> {
        let (records, faults) = state.cuts().await?;
        let mut left: BTreeMap<Uuid, Vec<Uuid>> =
            records.into_iter().map(|record| (record.cut, record.members)).collect();
        for fault in faults {
            let StateError::Unreadable { file, .. } = &fault else { return Err(fault) };
            // Whoever is in doubt about it asks for its decision, and waits because there is none.
            left.extend(Uuid::try_parse(&file.name).ok().map(|cut| (cut, Vec::new())));
            tracing::error!(error = %fault, "a cut on record cannot be read: who is in doubt about it waits");
        }
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
        Ok(())
    }

    /// A cut that nobody can be in doubt about any more.
    pub(crate) fn forget(&self, cut: Uuid) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&cut);
    }
}
