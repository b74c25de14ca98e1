//! Attach: a device becomes a master, or a detached master comes back.

use crate::host::{Host, master_owner};
use crate::present;
use crate::recognise::known_master;
use crate::registry::{Entry, Phase};
use crate::start::claiming;
use crate::state::{MasterRecord, QUEUE_DEPTH_MAX, StateError};
use crate::words::{device_identity, io, label};
use crate::world::{Depth, Reactor, World};
use std::sync::Arc;
use umbra_identity::{Consent, DeviceFacts, Fit, Role};
use umbra_platform::PlatformError;
use umbra_platform::call::{AttachMaster, AttachedMaster};
use umbra_platform::error::ObjectKind;
use umbra_platform::id::MasterId;
use uuid::Uuid;

/// Whether a device is that of a detached master.
fn is_of(record: &MasterRecord, facts: &DeviceFacts) -> bool {
    match (&record.identity, facts.identity.stable_id()) {
        (Some(recorded), Some(found)) => *recorded == found,
        (None, None) => record.device == facts.path,
        _ => false,
    }
}

impl<W: World> Host<W> {
    /// The master that an attach is about: the detached one that comes back, or a new one.
    pub(crate) async fn id_to_attach(&self, call: &AttachMaster) -> Uuid {
        let before = match self.world.look(call.device.as_path(), Depth::What).await {
            Ok(facts) => self.detached(&self.records().await, &facts),
            Err(_) => None,
        };
        before.map_or_else(|| self.world.fresh(), |record| record.id)
    }

    fn detached(&self, records: &[MasterRecord], facts: &DeviceFacts) -> Option<MasterRecord> {
        let is_free = |record: &MasterRecord| record.clean && !self.registry.is_there(record.id);
        records.iter().find(|record| is_free(record) && is_of(record, facts)).cloned()
    }

    /// Attaches a device; a new master is called `id`.
    ///
    /// # Errors
    /// What is in the way; nothing was changed then.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        call: AttachMaster,
        id: Uuid,
    ) -> Result<AttachedMaster, PlatformError> {
        // The request was begun before: the master that it made is there.
        if let Some(entry) = self.registry.entries().into_iter().find(|entry| entry.id() == id) {
            entry.seen().serving()?;
            return Ok(self.attached(id));
        }
        let giving = self.registry.giving.lock().await;
        let (record, before) = self.to_attach(&call, id).await?;
        let id = record.id;
        let entry = Entry::new(record.clone(), claiming());
        let turn = entry.turn("attach").await?;
        // From here on it is in the status, and nobody else is given its name or its device.
        self.registry.add(Arc::clone(&entry));
        drop(giving);
        let started = match before.as_ref() {
            // What is on record still says that it is detached: so it stays if it cannot be served.
            Some(_) => self.start_master(&turn, false).await,
            None => match self.state.save_master(&record).await {
                Ok(()) => self.start_master(&turn, false).await,
                Err(error) => {
                    // It may be there all the same, and the next start would go by it.
                    if let Err(left) = self.state.remove_master(id).await {
                        tracing::warn!(master = %record.name, error = %left, "the record of a failed attach may be left");
                    }
                    self.registry.remove(id);
                    return Err(io(&record.device, "record of the master", &error));
                }
            },
        };
        let kept = match started {
            Ok(serving) => {
                let record = MasterRecord { clean: false, fingerprint: None, ..entry.record() };
                let kept = self.keep(&entry, record).await;
                entry.put_phase(Phase::Serving(serving));
                kept
            }
            Err(obstacle) => Err(obstacle.error),
        };
        let undone = match kept {
            Ok(()) => {
                drop(turn);
                self.hide_raw().await;
                tokio::spawn(Arc::clone(self).keep_served(entry));
                return Ok(self.attached(id));
            }
            Err(error) => (self.undo_attach(&entry, before).await, error),
        };
        match undone {
            (Ok(()), error) => {
                self.registry.remove(id);
                Err(error)
            }
            (Err(left), error) => {
                // Something of it is left: it stays in the list, is tried again, and can be detached.
                tracing::error!(master = %record.name, error = %left, "a failed attach could not be undone");
                entry.put_phase(claiming());
                drop(turn);
                tokio::spawn(Arc::clone(self).keep_served(entry));
                Err(error)
            }
        }
    }

    fn attached(&self, id: Uuid) -> AttachedMaster {
        AttachedMaster { id: MasterId(id), device: present::by_id(self.world.names(), id) }
    }

    /// The record of the master, and how it was before, if it was attached once.
    async fn to_attach(
        &self,
        call: &AttachMaster,
        id: Uuid,
    ) -> Result<(MasterRecord, Option<MasterRecord>), PlatformError> {
        let depth = call.queue_depth.get();
        if depth > QUEUE_DEPTH_MAX {
            let problem = format!("at most {QUEUE_DEPTH_MAX} requests can be in flight").into();
            return Err(PlatformError::BadArgument { argument: "queue-depth".into(), problem });
        }
        let path = call.device.as_path().to_owned();
        let name = call.name.as_str().to_owned();
        let look = self.world.look(&path, Depth::What).await;
        let facts = look.map_err(|error| crate::obstacle::Obstacle::from(error).error)?;
        let found = device_identity(facts.identity.stable_id().as_deref(), &path);
        if let Some(expected) = call.expected_identity.clone().filter(|expected| *expected != found) {
            return Err(PlatformError::IdentityChanged { device: call.device.clone(), expected, found });
        }
        let unread = |error: StateError| io(&path, "look at the record of", &error);
        let (records, damaged) = self.all_records().await.map_err(unread)?;
        if let Some(other) = records.iter().find(|record| record.name == name && !is_of(record, &facts)) {
            return Err(if other.clean {
                let device = crate::words::device_path(&other.device);
                PlatformError::NameTaken { name: label(&name), device }
            } else {
                PlatformError::AlreadyExists { kind: ObjectKind::Master, name: name.as_str().into() }
            });
        }
        if let Some(before) = self.detached(&records, &facts) {
            let ublk_wanted = call.ublk.map(umbra_platform::value::UblkId::get);
            let record =
                MasterRecord { name, device: path, queue_depth: depth, ublk_wanted, ..before.clone() };
            return Ok((record, Some(before)));
        }
        // The request was begun for a master that is on record: this device is another one.
        if let Some(begun) = records.iter().find(|record| record.id == id) {
            let expected = device_identity(begun.identity.as_deref(), &begun.device);
            return Err(PlatformError::IdentityChanged { device: call.device.clone(), expected, found });
        }
        let is_begun = |fault: &StateError| matches!(fault, StateError::Unreadable { file, .. } if file.name == id.to_string());
        if let Some(fault) = damaged.into_iter().find(is_begun) {
            return Err(unread(fault));
        }
        let capabilities = facts.capabilities;
        let record = MasterRecord {
            id,
            name,
            device: path.clone(),
            identity: facts.identity.stable_id(),
            size: capabilities.size,
            logical_block: capabilities.logical_block,
            physical_block: capabilities.physical_block,
            ublk_wanted: call.ublk.map(umbra_platform::value::UblkId::get),
            queue_depth: depth,
            fingerprint: None,
            generation: None,
            quarantined: false,
            clean: false,
            chunk: None,
            accepted: None,
            sets: Vec::new(),
        };
        if let Err(problem) = record.check() {
            return Err(io(&path, "attach", &problem));
        }
        let consent = Consent { weak_identity: call.accept_weak_identity, ..Consent::default() };
        let owner = master_owner(&record);
        // The claim falls again; the start that follows recognises what was looked at here.
        drop(self.take(Role::Master, &owner, &path, Fit::ANY, &consent).await?);
        assert_eq!(known_master(&record).identity, record.identity);
        Ok((record, None))
    }

    async fn undo_attach(&self, entry: &Entry<W>, before: Option<MasterRecord>) -> Result<(), PlatformError> {
        let record = entry.record();
        if let Phase::Serving(serving) = entry.seen().phase {
            serving.reactor.stop().await;
        }
        for id in record.sets.iter().map(|set| set.id).chain([record.id]) {
            present::end_all(self, id).await?;
        }
        let restored = match before {
            Some(before) => self.state.save_master(&before).await,
            None => self.state.remove_master(record.id).await,
        };
        restored.map_err(|error| io(&record.device, "record of the change", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent::host;
    use crate::state::tests::master_record;
    use umbra_identity::DeviceNumber;
    use umbra_platform::id::RequestId;
    use umbra_platform::value::QueueDepth;

    fn disk(serial: &str) -> DeviceFacts {
        let mut disk = DeviceFacts::disk("vdb", DeviceNumber { major: 253, minor: 16 }, 1 << 30);
        disk.identity.serial = Some(serial.to_owned());
        disk
    }

    /// A new master was made under the old one's UUID, in place of its record and its sets.
    #[tokio::test(start_paused = true)]
    async fn an_attach_that_was_begun_for_a_master_takes_no_other_device_for_it() {
        let host = host(&[]);
        let identity = disk("old").identity.stable_id();
        let before = MasterRecord { clean: true, identity, ..master_record("before", 7) };
        host.state.save_master(&before).await.expect("kept");
        let call = AttachMaster {
            request: RequestId(Uuid::from_u128(5)),
            device: "/dev/vdb".parse().expect("a path"),
            name: "another".parse().expect("a name"),
            expected_identity: None,
            accept_weak_identity: false,
            ublk: None,
            queue_depth: QueueDepth::default(),
        };
        host.world.finds(disk("old"));
        let begun = host.id_to_attach(&call).await;
        assert_eq!(begun, before.id, "the detached one comes back");
        host.world.finds(disk("new"));
        // Whoever goes on asks the driver, which does not answer.
        let refused =
            tokio::time::timeout(std::time::Duration::from_secs(60), host.attach(call, begun)).await;
        assert!(matches!(refused, Ok(Err(PlatformError::IdentityChanged { .. }))), "{refused:?}");
        let (records, faults) = host.state.masters().await.expect("read");
        assert_eq!((records, faults), (vec![before], Vec::new()));
        assert!(host.registry.entries().is_empty());
    }
}
