//! What every master needs of its process, and what it can ask of the others.

use crate::registry::Registry;
use crate::state::{MasterRecord, SetRecord, State, StateError};
use crate::tag::{is_tagged, tag};
use crate::words::{id128, io, set_name};
use crate::world::{Depth, World};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use umbra_engine::Id128;
use umbra_identity::{Configured, Owner, OwnerKind, Presented, PresentedBy, Role, World as InUse};
use umbra_platform::PlatformError;
use uuid::Uuid;

/// The deaths of threads and processes, counted elsewhere (E11).
pub trait Deaths: fmt::Debug + Send + Sync {
    /// Whether the master starts without its dependent shadows: the process, or its thread, died too often with them.
    fn passes_through(&self, master: Uuid) -> bool;

    /// The master's thread died by itself. Returns how long to wait before it is started again.
    fn thread_died(&self, master: Uuid) -> Duration;
}

/// Whether it is known what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// The records of masters are being read.
    Reading,
    /// They cannot be read now, and that is tried again.
    Unread(String),
    /// They were read: every master on record that is attached is in the registry.
    Known,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Host<W: World> {
    pub(crate) world: W,
    pub(crate) state: Arc<State<W::Files>>,
    /// This node.
    pub(crate) node: Id128,
    pub(crate) deaths: Box<dyn Deaths>,
    pub(crate) registry: Registry<W>,
    pub(crate) records: watch::Sender<Records>,
    /// Held while a cut that was left in doubt is decided.
    pub(crate) deciding: tokio::sync::Mutex<()>,
    /// Held from the view of what is to be hidden until it is.
    pub(crate) hiding: tokio::sync::Mutex<()>,
}

/// A master, for messages about devices.
pub(crate) fn master_owner(record: &MasterRecord) -> Owner {
    Owner { kind: OwnerKind::Master, id: id128(record.id), name: record.name.clone() }
}

/// A set, for messages about devices.
pub(crate) fn set_owner(set: &SetRecord) -> Owner {
    Owner { kind: OwnerKind::Set, id: id128(set.id), name: set_name(set).to_string() }
}

fn volumes_of(record: &MasterRecord) -> Vec<Configured> {
    let mut volumes = vec![Configured {
        role: Role::Master,
        owner: master_owner(record),
        path: record.device.clone(),
        identity: record.identity.clone(),
        device: None,
    }];
    for set in &record.sets {
        for (role, volume) in [(Role::Shadow, &set.shadow), (Role::Bitmap, &set.bitmap)] {
            volumes.push(Configured {
                role,
                owner: set_owner(set),
                path: volume.device.clone(),
                identity: volume.identity.clone(),
                device: None,
            });
        }
    }
    volumes
}

impl<W: World> Host<W> {
    pub(crate) fn new(world: W, state: Arc<State<W::Files>>, node: Id128, deaths: Box<dyn Deaths>) -> Self {
        Self {
            world,
            state,
            node,
            deaths,
            registry: Registry::new(),
            records: watch::Sender::new(Records::Reading),
            deciding: tokio::sync::Mutex::default(),
            hiding: tokio::sync::Mutex::default(),
        }
    }

    /// Every master on record, attached or not, as far as the state directory can be read: for what is asked again, or only
    /// refuses too little for a moment.
    pub(crate) async fn records(&self) -> Vec<MasterRecord> {
        match self.all_records().await {
            Ok((records, _)) => records,
            Err(error) => {
                tracing::warn!(%error, "masters that are detached are not known now");
                self.registry.entries().iter().map(|entry| entry.record()).collect()
            }
        }
    }

    /// Every master on record, attached or not, and the files that are damaged for good: for what would be believed for
    /// good.
    ///
    /// # Errors
    /// One of them cannot be read now.
    pub(crate) async fn all_records(&self) -> Result<(Vec<MasterRecord>, Vec<StateError>), StateError> {
        let (kept, mut faults) = self.state.masters().await?;
        if let Some(passing) = faults.iter().position(StateError::is_passing) {
            return Err(faults.swap_remove(passing));
        }
        let mut records: Vec<MasterRecord> =
            self.registry.entries().iter().map(|entry| entry.record()).collect();
        let known: BTreeSet<Uuid> = records.iter().map(|record| record.id).collect();
        records.extend(kept.into_iter().filter(|record| !known.contains(&record.id)));
        Ok((records, faults))
    }

    /// Every master on record: for what is concluded from one that is not among them.
    ///
    /// # Errors
    /// One of them cannot be read, now or for good.
    pub(crate) async fn records_for_sure(&self) -> Result<Vec<MasterRecord>, PlatformError> {
        let unread = |error: StateError| io("/".as_ref(), "look at the records of masters", &error);
        let (records, damaged) = self.all_records().await.map_err(unread)?;
        damaged.into_iter().find(StateError::hides_a_master).map_or(Ok(records), |fault| Err(unread(fault)))
    }

    /// What is in use on this machine. `found` also looks where the volumes on record are now: a new volume must be
    /// none of them, whatever it is called.
    ///
    /// # Errors
    /// What is presented cannot be listed: then nobody can say what is ours.
    pub(crate) async fn in_use(&self, found: bool) -> Result<InUse, String> {
        let records = self.records().await;
        let mut configured: Vec<Configured> = records.iter().flat_map(volumes_of).collect();
        if found {
            for volume in &mut configured {
                volume.device = self.world.look(&volume.path, Depth::What).await.ok().filter(|facts| {
                    // Another device may be at that path by now.
                    volume.identity.is_none() || volume.identity == facts.identity.stable_id()
                });
            }
        }
        let devices = self.world.driver_list().await.map_err(|error| error.to_string())?;
        let mut owners: Vec<(u64, Owner)> = Vec::new();
        for record in &records {
            owners.push((tag(self.node, record.id), master_owner(record)));
            owners.extend(record.sets.iter().map(|set| (tag(self.node, set.id), set_owner(set))));
        }
        let presented = devices.into_iter().filter_map(|device| {
            let owner = owners.iter().find(|(tag, _)| *tag == device.tag).map(|(_, owner)| owner.clone());
            let by = match owner {
                Some(owner) => PresentedBy::Us(owner),
                // Ours by its mark, and of nothing on record: nobody builds on it.
                None if is_tagged(device.tag) => return None,
                None => PresentedBy::Other { pid: device.server.unwrap_or_default(), command: String::new() },
            };
            Some(Presented { number: device.block?, by })
        });
        let presented = presented.collect();
        let retired = self.state.retired(&records).await.unwrap_or_default();
        Ok(InUse { configured, presented, retired })
    }
}
