//! Getting the sets of a master ready when it starts: which it can do without, and which not.
//!
//! A set whose volumes cannot be had in time is given up, recorded first, and its master starts without it (E6).
//! One that the master may be restored from is different: a part of the master's data may be on its shadow only.
//! Without it the master is not served at all (E9), and its requests wait.

use crate::masters::{Host, Unserved, failed, id128, options};
use crate::reactor::{ReadySet, SetVolumes};
use crate::state_dir::{Decision, SetRecord, StateDir};
use crate::volumes::{self, CLAIM_DEADLINE};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{Epoch, Id128, OfflineCause, SetIndex};
use umbra_platform::PlatformError;
use umbra_platform::status::Role;
use umbra_store::{EndNote, Ended, Session};
use umbra_uring::Device;
use uuid::Uuid;

/// Time between two attempts at volumes that nothing can be done without.
const RETRY: Duration = Duration::from_secs(1);

/// Why a set is given up that nothing is known to be wrong with (E11).
const PASSED_THROUGH: &str =
    "umbra-io died or hung three times within a minute, so the master goes on without the set";

/// How long the volumes of a set that its master cannot do without are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Somebody waits for the answer, and may ask again.
    Deadline,
    /// As long as it takes: nobody is there to ask again.
    Unlimited,
}

/// Whether a master can only be served together with the set.
fn is_indispensable(set: &SetRecord, ended: Option<Ended>) -> bool {
    set.restoring.is_some() || ended.is_some_and(|ended| ended.master_incomplete)
}

/// Whether a cut that a superblock is in doubt about is committed.
///
/// # Errors
/// A text, if there is a record of it and nothing can be told from it: either answer could be wrong.
fn is_committed(state: &StateDir, cut: Id128) -> Result<bool, String> {
    let cut = Uuid::from_bytes(cut.0);
    match state.cut(cut).map_err(|error| error.to_string())? {
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

/// Opens a volume that there may be no doing without.
fn open_patiently(path: &Path, role: Role, patience: Patience) -> Result<Device, PlatformError> {
    let mut told = None;
    loop {
        match volumes::open(path, role, Some(CLAIM_DEADLINE)) {
            Err(error) if patience == Patience::Unlimited => {
                if told.as_ref() != Some(&error) {
                    tracing::warn!(%error, "a restore needs this volume: its master waits for it without limit of time");
                    told = Some(error);
                }
                std::thread::sleep(RETRY);
            }
            outcome => return outcome,
        }
    }
}

impl Host {
    /// Gets a set ready to be served, or gives it up.
    ///
    /// # Errors
    /// What keeps its master from being served: the set cannot be had, and the master cannot do without it.
    pub(crate) async fn start_set(
        &self,
        master: Uuid,
        set: &SetRecord,
        patience: Patience,
    ) -> Result<Result<ReadySet, Unserved>, PlatformError> {
        let ended = self
            .state
            .ended(id128(set.id))
            .map_err(|error| failed("read the state of", &set.bitmap, error.to_string()));
        let needed = is_indispensable(set, ended.clone().unwrap_or_default());
        // An attach is somebody's wish; only a start by itself may be the next in a row of deaths (E11).
        let passes = patience == Patience::Unlimited && self.pass_through.includes(master);
        if passes && !set.independent && !needed {
            // Its volumes are not even opened: what is on them may be why the process died.
            tracing::error!(set = %set.name, "{PASSED_THROUGH}; its image is given up");
            self.give_up(set)?;
            return Ok(Err(Unserved { reason: PASSED_THROUGH.to_owned() }));
        }
        let recovered = match ended {
            Ok(ended) => {
                let patience = if needed { patience } else { Patience::Deadline };
                self.recover_set(set, ended, patience).await
            }
            Err(error) => Err(error),
        };
        match recovered {
            Ok(ready) => Ok(Ok(ready)),
            Err(error) if needed || matches!(error, PlatformError::MasterIncomplete { .. }) => Err(error),
            Err(error) => {
                tracing::error!(set = %set.name, %error, "the set cannot be served; its image is given up");
                self.give_up(set)?;
                Ok(Err(Unserved { reason: error.to_string() }))
            }
        }
    }

    async fn recover_set(
        &self,
        set: &SetRecord,
        ended: Option<Ended>,
        patience: Patience,
    ) -> Result<ReadySet, PlatformError> {
        let session = Session { node: self.node, session: id128(Uuid::new_v4()) };
        let (index, options, state) = (SetIndex(set.index), options(set), Arc::clone(&self.state));
        let (shadow, bitmap) = (set.shadow.clone(), set.bitmap.clone());
        let name = set.bitmap.clone();
        tokio::task::spawn_blocking(move || {
            let shadow = open_patiently(&shadow, Role::Shadow, patience)?;
            let bitmap = open_patiently(&bitmap, Role::Bitmap, patience)?;
            let committed = |cut| is_committed(&state, cut);
            volumes::recover(index, SetVolumes { shadow, bitmap }, session, ended, committed, options)
        })
        .await
        .map_err(|error| failed("recover", &name, error.to_string()))?
    }

    /// E6: a set that cannot be started is given up durably before its master serves.
    fn give_up(&self, set: &SetRecord) -> Result<(), PlatformError> {
        let note = EndNote {
            set: id128(set.id),
            epoch: Epoch(u64::MAX),
            cause: OfflineCause::Bitmap,
            master_incomplete: false,
        };
        self.state
            .record_end(&note)
            .map_err(|error| failed("record the end of", &set.bitmap, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::CopyLimitsRecord;

    fn set(restoring: Option<u64>) -> SetRecord {
        SetRecord {
            id: Uuid::from_u128(1),
            index: 0,
            cluster: String::new(),
            namespace: String::new(),
            name: "s".to_owned(),
            independent: false,
            shadow: "/dev/vdc".into(),
            bitmap: "/dev/vdd".into(),
            chunk_bytes: 65_536,
            shadow_ublk_id: 4,
            shadow_deadline_ms: 5_000,
            bitmap_deadline_ms: 5_000,
            unrecordable_ms: 5_000,
            fail_write: false,
            protected: false,
            copy_limits: CopyLimitsRecord { bytes_per_second: None, in_flight: 4 },
            restoring,
        }
    }

    #[test]
    fn a_master_cannot_do_without_the_set_that_it_may_be_restored_from() {
        let ended = |master_incomplete| Some(Ended { epoch: Epoch(3), master_incomplete });
        assert!(!is_indispensable(&set(None), None));
        assert!(!is_indispensable(&set(None), ended(false)));
        assert!(is_indispensable(&set(None), ended(true)));
        assert!(is_indispensable(&set(Some(0)), None));
        assert!(is_indispensable(&set(Some(7)), ended(false)));
    }

    #[test]
    fn a_set_in_doubt_becomes_what_is_on_record_and_is_not_guessed_at() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path()).unwrap();
        let (cut, name) = (Uuid::from_u128(9), Id128(*Uuid::from_u128(9).as_bytes()));
        assert_eq!(is_committed(&state, name), Ok(false));
        state.begin_cut(cut, &[Uuid::from_u128(1)]).unwrap();
        assert!(is_committed(&state, name).unwrap_err().contains("could not be decided"));
        let record = state.cut(cut).unwrap().unwrap();
        state.decide_cut(&record, Decision::Commit).unwrap();
        assert_eq!(is_committed(&state, name), Ok(true));
        std::fs::write(home.path().join("cuts").join(cut.to_string()), "{").unwrap();
        assert!(is_committed(&state, name).is_err());
    }
}
