//! The masters that this process serves: attach, start again after whatever happened, detach.
//!
//! The order of a start (E6, E8): claim the master, however long that takes; claim each set's volumes up to a
//! deadline; flush; recover the sets; only then take over the ublk device, whose parked requests run at once.
//! A set whose volumes cannot be had in time is given up, recorded first, and its master starts without it, unless
//! the master is being restored from it (`recovery.rs`).

use crate::cuts;
use crate::heartbeat::{Heartbeat, Heartbeats};
use crate::present::{self, Presentation};
use crate::reactor::{self, Call, Reactor, ReactorGone, ReadySet, SetVolumes, Setup};
use crate::recovery::Patience;
use crate::state_dir::{MasterRecord, SetRecord, StateDir};
use crate::supervise::deaths::PassThrough;
use crate::volumes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use umbra_engine::{
    CHUNK_BYTES_DEFAULT, Command, CopyLimits, Geometry, Id128, SetIndex, SetState, Side, Unrecordable,
};
use umbra_platform::PlatformError;
use umbra_platform::status::Role;
use umbra_store::{Capabilities, SetOptions};
use umbra_ublk::{Control, DeviceId};
use umbra_uring::Device;
use uuid::Uuid;

/// What every master needs of its process.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// The state directory.
    pub state: Arc<StateDir>,
    /// The ublk driver.
    pub control: Control,
    /// Where devices appear by UUID.
    pub by_id: PathBuf,
    /// This node.
    pub node: Id128,
    /// For the supervisor.
    pub heartbeats: Heartbeats,
    /// Masters that start without their dependent shadows.
    pub pass_through: PassThrough,
}

/// A set that is configured but not served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unserved {
    /// What went wrong when it started.
    pub reason: String,
}

/// A master that is served.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    /// What is kept about it.
    pub record: MasterRecord,
    /// Its thread.
    pub reactor: Reactor,
    /// Size and chunks.
    pub geometry: Geometry,
    /// What the physical device can do.
    pub capabilities: Capabilities,
    /// Sets that are configured and not served.
    pub unserved: BTreeMap<Uuid, Unserved>,
}

/// The engine's name of a UUID.
pub(crate) fn id128(uuid: Uuid) -> Id128 {
    Id128(*uuid.as_bytes())
}

/// The chunk size of a master: that of its sets, or the default.
fn chunk_bytes(record: &MasterRecord) -> u64 {
    record.sets.first().map_or(CHUNK_BYTES_DEFAULT, |set| set.chunk_bytes)
}

/// What a set's record says about deadlines.
pub(crate) fn options(set: &SetRecord) -> SetOptions {
    let unrecordable =
        if set.fail_write { Unrecordable::FailWrite(set.unrecordable_ms) } else { Unrecordable::Block };
    SetOptions {
        shadow_deadline_ms: set.shadow_deadline_ms,
        bitmap_deadline_ms: set.bitmap_deadline_ms,
        unrecordable,
    }
}

pub(crate) fn gone(error: ReactorGone) -> PlatformError {
    PlatformError::Stopping { cause: error.to_string().into() }
}

pub(crate) fn failed(operation: &str, device: &std::path::Path, detail: String) -> PlatformError {
    PlatformError::Io {
        device: volumes::device_path(device),
        operation: operation.into(),
        detail: detail.into(),
    }
}

impl Host {
    /// Serves a master with its sets. `master` is claimed already.
    ///
    /// # Errors
    /// What keeps the master itself from being served.
    pub(crate) async fn serve(
        &self,
        mut record: MasterRecord,
        master: Device,
        patience: Patience,
    ) -> Result<Attached, PlatformError> {
        let heartbeat = self.heartbeats.register(record.id);
        let capabilities = master.capabilities();
        let geometry = Geometry::new(capabilities.size, chunk_bytes(&record))
            .map_err(|error| failed("attach", &record.device, error.to_string()))?;
        let device = record.device.clone();
        let master = tokio::task::spawn_blocking(move || volumes::flush(master))
            .await
            .map_err(|error| failed("flush", &device, error.to_string()))?
            .map_err(|error| failed("flush", &device, error))?;
        let (mut ready, mut unserved) = (Vec::new(), BTreeMap::new());
        for set in &record.sets {
            match self.start_set(record.id, set, patience).await? {
                Ok(set) => ready.push(set),
                Err(reason) => drop(unserved.insert(set.id, reason)),
            }
        }
        let images: Vec<(SetIndex, SetState, bool)> =
            ready.iter().map(|set| (set.index, set.image.header.state, volatile(&set.volumes))).collect();
        let reactor = self.start_reactor(&record, master, geometry, ready, heartbeat).await?;
        limit_copies(&reactor, &record, &images).await?;
        let what = Presentation {
            side: Side::Master,
            id: Some(record.ublk_id).filter(|id| *id != u32::MAX),
            depth: record.queue_depth,
            master: capabilities,
            volatile_cache: capabilities.volatile_cache,
        };
        let id = present::present(&self.control, &reactor, what).await?;
        record.ublk_id = id.get();
        self.publish(record.id, id)?;
        let mut attached = Attached { record, reactor, geometry, capabilities, unserved };
        for (index, state, volatile_cache) in images {
            if state != SetState::Prepared {
                self.present_shadow(&mut attached, index, volatile_cache).await?;
            }
        }
        self.save(&attached.record)?;
        if !attached.unserved.is_empty() {
            let unserved = |set: &&mut SetRecord| attached.unserved.contains_key(&set.id);
            for set in attached.record.sets.iter_mut().filter(unserved) {
                self.end_shadow(set).await;
            }
            self.save(&attached.record)?;
        }
        Ok(attached)
    }

    /// Takes away the presented shadow of a set that is not served: whoever has it open would wait for ever.
    pub(crate) async fn end_shadow(&self, set: &mut SetRecord) {
        self.unpublish(set.id);
        if set.shadow_ublk_id == u32::MAX {
            return;
        }
        match present::end_unserved(&self.control, DeviceId::new(set.shadow_ublk_id)).await {
            // The number may be that of another device soon.
            Ok(()) => set.shadow_ublk_id = u32::MAX,
            Err(error) => {
                tracing::warn!(set = %set.name, %error, "the presented shadow cannot be taken away");
            }
        }
    }

    async fn start_reactor(
        &self,
        record: &MasterRecord,
        master: Device,
        geometry: Geometry,
        sets: Vec<ReadySet>,
        heartbeat: Heartbeat,
    ) -> Result<Reactor, PlatformError> {
        let state = Arc::clone(&self.state);
        let setup = Setup {
            name: format!("master {}", record.name),
            master,
            geometry,
            depth: record.queue_depth,
            sets,
            heartbeat,
            notes: Box::new(move |descriptor| {
                crate::notes::StateNotes::start(state, move || reactor::wake(&descriptor))
            }),
        };
        reactor::start(setup).await.map_err(|error| failed("start", &record.device, error))
    }

    /// Presents a set's shadow; the record keeps its number.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) async fn present_shadow(
        &self,
        attached: &mut Attached,
        index: SetIndex,
        volatile_cache: bool,
    ) -> Result<DeviceId, PlatformError> {
        let record = attached.record.sets.iter_mut().find(|set| set.index == index.0);
        let Some(record) = record else { return Err(gone(ReactorGone)) };
        let what = Presentation {
            side: Side::Shadow(index),
            id: Some(record.shadow_ublk_id).filter(|id| *id != u32::MAX),
            depth: attached.record.queue_depth,
            master: attached.capabilities,
            volatile_cache: volatile_cache || attached.capabilities.volatile_cache,
        };
        let id = present::present(&self.control, &attached.reactor, what).await?;
        record.shadow_ublk_id = id.get();
        let set = record.id;
        self.publish(set, id)?;
        Ok(id)
    }

    /// Makes `/dev/umbra/by-id/<uuid>` point to a device.
    fn publish(&self, uuid: Uuid, id: DeviceId) -> Result<(), PlatformError> {
        let target = umbra_ublk::block_path(id);
        crate::by_id::publish(&self.by_id, &uuid.to_string(), &target)
            .map_err(|error| failed("publish", &self.by_id.join(uuid.to_string()), error.to_string()))
    }

    /// Takes the link away.
    pub(crate) fn unpublish(&self, uuid: Uuid) {
        if let Err(error) = crate::by_id::remove(&self.by_id, &uuid.to_string()) {
            tracing::warn!(%uuid, %error, "the link could not be removed");
        }
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// What the state directory says.
    pub(crate) fn save(&self, record: &MasterRecord) -> Result<(), PlatformError> {
        self.state
            .save_master(record)
            .map_err(|error| failed("save the state of", &record.device, error.to_string()))
    }

    /// Starts everything that was attached when the last process ended. Each master by itself: one that cannot be
    /// claimed holds up nobody else.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        masters: &Arc<Mutex<Vec<Attached>>>,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let records = match self.state.masters() {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, "the state directory cannot be read: nothing is started");
                return Vec::new();
            }
        };
        let left = Arc::new(cuts::decide_all(&self.state, &records).await);
        let attached: Vec<MasterRecord> = records.into_iter().filter(|record| !record.clean).collect();
        self.sweep(&attached);
        attached
            .into_iter()
            .map(|record| {
                let (host, masters, left) = (Arc::clone(self), Arc::clone(masters), Arc::clone(&left));
                tokio::spawn(async move {
                    let name = record.name.clone();
                    match host.resume_one(record).await {
                        Ok(attached) => {
                            tracing::info!(master = %name, "served again");
                            masters.lock().expect("no panic while it was held").push(attached);
                            cuts::forget_resolved(&host.state, &left, &masters);
                        }
                        Err(error) => tracing::error!(master = %name, %error, "the master cannot be served"),
                    }
                })
            })
            .collect()
    }

    /// Removes links whose devices are not coming back: somebody who opens a stale one may get another device.
    fn sweep(&self, attached: &[MasterRecord]) {
        let sets = attached.iter().flat_map(|record| &record.sets).map(|set| set.id);
        let known = attached.iter().map(|record| record.id).chain(sets).collect();
        match crate::by_id::sweep(&self.by_id, &known) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::warn!(?removed, "stale links were removed"),
            Err(error) => tracing::warn!(%error, "stale links could not be looked for"),
        }
    }

    async fn resume_one(&self, record: MasterRecord) -> Result<Attached, PlatformError> {
        let path = record.device.clone();
        let name = path.clone();
        let master = tokio::task::spawn_blocking(move || volumes::open(&path, Role::Master, None))
            .await
            .map_err(|error| failed("claim", &name, error.to_string()))??;
        check_same(&record, &master)?;
        self.serve(record, master, Patience::Unlimited).await
    }

    /// Takes a master out, in order: nothing has it open, everything is drained and durable.
    ///
    /// # Errors
    /// What is in the way; then it is still served.
    pub(crate) async fn detach(&self, attached: &Attached) -> Result<(), PlatformError> {
        let record = &attached.record;
        let shadows: Vec<(Uuid, SetIndex, DeviceId)> = record
            .sets
            .iter()
            .filter(|set| !attached.unserved.contains_key(&set.id) && set.shadow_ublk_id != u32::MAX)
            .map(|set| (set.id, SetIndex(set.index), DeviceId::new(set.shadow_ublk_id)))
            .collect();
        let master = DeviceId::new(record.ublk_id);
        for id in shadows.iter().map(|(.., id)| *id).chain([master]) {
            drop(present::claim_presented(id)?);
        }
        for (_, index, id) in &shadows {
            present::withdraw(&self.control, &attached.reactor, Side::Shadow(*index), *id).await?;
        }
        present::withdraw(&self.control, &attached.reactor, Side::Master, master).await?;
        let reactor = &attached.reactor;
        let detached = reactor.ask(|reply| Call::Command(Command::Detach, reply)).await.map_err(gone)?;
        detached.map_err(|refusal| failed("detach", &record.device, refusal.to_string()))?;
        reactor.ask(Call::Stop).await.map_err(gone)?;
        for (uuid, id) in shadows.iter().map(|(uuid, _, id)| (*uuid, *id)).chain([(record.id, master)]) {
            present::delete(&self.control, id).await?;
            self.unpublish(uuid);
        }
        Ok(())
    }
}

/// Copies that were limited go on so.
async fn limit_copies(
    reactor: &Reactor,
    record: &MasterRecord,
    images: &[(SetIndex, SetState, bool)],
) -> Result<(), PlatformError> {
    for (index, ..) in images {
        let Some(set) = record.sets.iter().find(|set| set.index == index.0) else { continue };
        let crate::state_dir::CopyLimitsRecord { bytes_per_second, in_flight } = set.copy_limits;
        let command =
            Command::SetCopyLimits { set: *index, limits: CopyLimits { bytes_per_second, in_flight } };
        let limited = reactor.ask(|reply| Call::Command(command, reply)).await.map_err(gone)?;
        limited.map_err(|refusal| failed("limit the copies of", &record.device, refusal.to_string()))?;
    }
    Ok(())
}

/// Whether any of the shadow's volumes may lose completed writes in a power cut (E13).
pub(crate) fn volatile(volumes: &SetVolumes) -> bool {
    volumes.shadow.capabilities().volatile_cache || volumes.bitmap.capabilities().volatile_cache
}

/// Invariant 10: the device is the one that was attached.
///
/// # Errors
/// What it is instead.
pub(crate) fn check_same(record: &MasterRecord, master: &Device) -> Result<(), PlatformError> {
    use umbra_platform::value::ByteCount;
    let (size, identity) = (master.capabilities().size, master.identity().stable_id());
    if size != record.size {
        return Err(PlatformError::SizeChanged {
            device: volumes::device_path(&record.device),
            expected: ByteCount(record.size),
            found: ByteCount(size),
        });
    }
    if identity != record.identity {
        let named = |id: &Option<String>| crate::service::device_identity(id.as_deref(), &record.device);
        return Err(PlatformError::IdentityChanged {
            device: volumes::device_path(&record.device),
            expected: named(&record.identity),
            found: named(&identity),
        });
    }
    Ok(())
}
