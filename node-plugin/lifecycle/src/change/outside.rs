//! Accept: somebody has decided what becomes of the images of a master that was written while nobody watched it.

use crate::host::Host;
use crate::registry::Phase;
use crate::state::MasterRecord;
use crate::words::{is_master, set_ref};
use crate::world::World;
use umbra_platform::PlatformError;
use umbra_platform::call::{AcceptMaster, AcceptedImages};

impl<W: World> Host<W> {
    /// Lets a master be served again, or attached again.
    ///
    /// # Errors
    /// [`PlatformError::BadArgument`]: an image cannot be kept that way.
    pub(crate) async fn accept(&self, call: AcceptMaster) -> Result<(), PlatformError> {
        let served = self.registry.master(&call.master).ok();
        let Some(entry) = served else { return self.accept_detached(&call).await };
        let turn = entry.turn("accept").await?;
        if !matches!(entry.seen().phase, Phase::Quarantined(_)) {
            return Ok(());
        }
        let record = entry.record();
        self.end_images(&record, call.images).await?;
        self.keep(&entry, MasterRecord { quarantined: false, generation: None, ..record }).await?;
        // The next process takes the time of this one's life for the last service, which is later.
        entry.vouch();
        drop(turn);
        entry.poke();
        Ok(())
    }

    async fn accept_detached(&self, call: &AcceptMaster) -> Result<(), PlatformError> {
        let _giving = self.registry.giving.lock().await;
        let (records, _) =
            self.state.masters().await.map_err(|error| crate::words::io("/".as_ref(), "look", &error))?;
        let record = records.into_iter().find(|record| is_master(&call.master, record));
        let record = record.ok_or_else(|| PlatformError::no_master(&call.master))?;
        self.end_images(&record, call.images).await?;
        let device = record.device.clone();
        let record = MasterRecord { fingerprint: None, quarantined: false, generation: None, ..record };
        let saved = self.state.save_master(&record).await;
        saved.map_err(|error| crate::words::io(&device, "record of the change", &error))
    }

    /// Nobody knows any more which chunks an image shares with its master: a dependent image is lost, and of an
    /// independent one every chunk counts as changed, which is what the end of its tracking means.
    async fn end_images(&self, record: &MasterRecord, images: AcceptedImages) -> Result<(), PlatformError> {
        let dependent = record.sets.iter().find(|set| !set.independent);
        if let (AcceptedImages::Changed, Some(set)) = (images, dependent) {
            let problem = format!(
                "set {} is dependent, and its image cannot be kept; accept with --images lost, or disable it first",
                set_ref(set)
            );
            return Err(PlatformError::BadArgument {
                argument: "images".into(),
                problem: problem.as_str().into(),
            });
        }
        for set in &record.sets {
            self.give_up(set).await.map_err(|obstacle| obstacle.error)?;
        }
        Ok(())
    }
}
