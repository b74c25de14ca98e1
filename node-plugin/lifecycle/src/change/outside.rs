//! Accept: somebody has decided what becomes of the images of a master that was written while nobody watched it.

use crate::host::Host;
use crate::registry::{Entry, Phase, Seen};
use crate::state::MasterRecord;
use crate::words::{io, is_master, set_ref};
use crate::world::World;
use std::sync::Arc;
use umbra_platform::PlatformError;
use umbra_platform::call::{AcceptMaster, AcceptedImages};

impl<W: World> Host<W> {
    /// Lets a master be served again, or attached again.
    ///
    /// # Errors
    /// [`PlatformError::BadArgument`]: nobody has found that it was written, or an image cannot end now.
    pub(crate) async fn accept(&self, call: AcceptMaster) -> Result<(), PlatformError> {
        let entry = match self.registry.master(&call.master) {
            Ok(entry) => entry,
            Err(_) => match self.accept_detached(&call).await? {
                // It was attached meanwhile.
                Some(entry) => entry,
                None => return Ok(()),
            },
        };
        let turn = entry.turn("accept").await?;
        let Seen { record, phase, .. } = entry.seen();
        if record.accepted == Some(call.request.0) {
            return Ok(());
        }
        // After a restart it is on record, and the device may be on its way.
        if !record.quarantined && !matches!(phase, Phase::Quarantined(_)) {
            let problem = format!("{} is not quarantined: there is nothing to accept", record.name);
            return Err(bad("master", &problem));
        }
        let record = MasterRecord { fingerprint: None, ..self.accepted(record, &call).await? };
        // Before: what is on record as accepted is not to be found written again.
        self.forget_digest(&record).await?;
        self.keep(&entry, record).await?;
        // The next process takes the time of this one's life for the last service, which is later.
        entry.vouch();
        drop(turn);
        entry.poke();
        Ok(())
    }

    async fn forget_digest(&self, record: &MasterRecord) -> Result<(), PlatformError> {
        let forgotten = self.world.forget_digest(record.id).await;
        forgotten.map_err(|problem| io(&record.device, "forget what was kept of the content of", &problem))
    }

    /// Accepts for a master that is detached; one that is not is returned.
    async fn accept_detached(&self, call: &AcceptMaster) -> Result<Option<Arc<Entry<W>>>, PlatformError> {
        let _giving = self.registry.giving.lock().await;
        let (records, _) =
            self.state.masters().await.map_err(|error| crate::words::io("/".as_ref(), "look", &error))?;
        let record = records.into_iter().find(|record| is_master(&call.master, record));
        let record = record.ok_or_else(|| PlatformError::no_master(&call.master))?;
        if let Some(entry) = self.registry.entries().into_iter().find(|entry| entry.id() == record.id) {
            return Ok(Some(entry));
        }
        if record.accepted == Some(call.request.0) {
            return Ok(None);
        }
        let record = MasterRecord { fingerprint: None, ..self.accepted(record, call).await? };
        let saved = self.state.save_master(&record).await;
        saved.map_err(|error| crate::words::io(&record.device, "record of the change", &error))?;
        Ok(None)
    }

    /// Nobody knows any more which chunks an image shares with its master. Either the images end, or they keep what the
    /// shadows hold themselves, and the recovery of each set, which can read its planes, does the rest.
    async fn accepted(
        &self,
        mut record: MasterRecord,
        call: &AcceptMaster,
    ) -> Result<MasterRecord, PlatformError> {
        let restoring = record.sets.iter().find(|set| set.restoring.is_some());
        match (call.images, restoring) {
            (AcceptedImages::Lost, Some(set)) => {
                let problem = format!(
                    "a restore from set {} may be under way, with a part of the master on its shadow only; accept with \
                     --images changed, and it goes on",
                    set_ref(set)
                );
                return Err(bad("images", &problem));
            }
            (AcceptedImages::Lost, None) => {
                for set in &record.sets {
                    self.give_up(set).await.map_err(|obstacle| obstacle.error)?;
                }
            }
            (AcceptedImages::Changed, _) => {
                record.sets.iter_mut().for_each(|set| set.master_changed = true);
            }
        }
        Ok(MasterRecord { quarantined: false, generation: None, accepted: Some(call.request.0), ..record })
    }
}

fn bad(argument: &str, problem: &str) -> PlatformError {
    PlatformError::BadArgument { argument: argument.into(), problem: problem.into() }
}
