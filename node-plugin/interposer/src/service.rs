//! The platform API on the masters of this process.
//!
//! Changes run one after the other (`changes`), so that a check and what follows from it are one step; looking
//! never waits for them.

mod cut;
mod restore;

use crate::masters::{Attached, Host, check_same, gone, id128, volatile};
use crate::once::once;
use crate::present;
use crate::reactor::{Call, SetVolumes};
use crate::recovery::Patience;
use crate::report;
use crate::state_dir::{CopyLimitsRecord, MasterRecord, SetRecord};
use crate::volumes::{self, CLAIM_DEADLINE, MasterShape};
use cut::{Member, Plan};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;
use umbra_engine::{Command, Done, Refusal, SETS_MAX, SetIndex, Side};
use umbra_format::{Layout, SetIdentity, VolumeIdentity};
use umbra_platform::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Cadence, Copied, CopyKind, CopySets, DetachMaster,
    Direction, DisableSet, EnableSet, EnabledSet, MapQuery, Reset, ResetDone, Scope, SetCopyLimits,
    SetTarget, Wait, Watch,
};
use umbra_platform::id::{CutId, DeviceIdentity, Epoch, IdentityKind, MasterId, MasterRef, SetId, SetRef};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{Listing, Mode, Role, SetStatus, Status, UnrecordablePolicy};
use umbra_platform::time::Millis;
use umbra_platform::{Platform, PlatformError, StatusStream};
use umbra_store::SetOptions;
use umbra_ublk::DeviceId;
use uuid::Uuid;

type Result<T> = std::result::Result<T, PlatformError>;

/// How often a wait looks.
const WAIT_PERIOD: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct Service {
    host: Arc<Host>,
    masters: Arc<Mutex<Vec<Attached>>>,
    changes: tokio::sync::Mutex<()>,
}

/// The identity of a device in the terms of the platform API; of a weak one, its path.
pub(crate) fn device_identity(stable: Option<&str>, path: &Path) -> DeviceIdentity {
    let kinds = [
        ("wwid:", IdentityKind::Wwid),
        ("serial:", IdentityKind::Serial),
        ("partuuid:", IdentityKind::Partition),
        ("uuid:", IdentityKind::DeviceMapper),
    ];
    let strong = stable.and_then(|id| {
        let (kind, value) =
            kinds.iter().find_map(|(prefix, kind)| Some((*kind, id.strip_prefix(prefix)?)))?;
        DeviceIdentity::new(kind, value).ok()
    });
    let weak = || DeviceIdentity::new(IdentityKind::File, &path.to_string_lossy());
    let unnamed = || DeviceIdentity::new(IdentityKind::File, "unnamed").expect("a plain word");
    strong.unwrap_or_else(|| weak().unwrap_or_else(|_| unnamed()))
}

/// Where a set is: its master as it was when we looked, and its record.
#[derive(Clone)]
struct Found {
    attached: Attached,
    set: SetRecord,
}

impl Found {
    fn index(&self) -> SetIndex {
        SetIndex(self.set.index)
    }

    fn reference(&self) -> SetRef {
        SetRef::from(&report::set_name(&self.set))
    }
}

impl Service {
    /// Serves what `host` has, and what it will be asked to attach.
    pub(crate) fn new(host: Arc<Host>, masters: Arc<Mutex<Vec<Attached>>>) -> Self {
        Self { host, masters, changes: tokio::sync::Mutex::new(()) }
    }

    fn look(&self) -> Vec<Attached> {
        self.masters.lock().expect("no panic while it was held").clone()
    }

    fn put(&self, attached: Attached) {
        let mut masters = self.masters.lock().expect("no panic while it was held");
        masters.retain(|other| other.record.id != attached.record.id);
        masters.push(attached);
    }

    fn master(&self, wanted: &MasterRef) -> Result<Attached> {
        let matches = |attached: &Attached| {
            let name = report::label(&attached.record.name);
            wanted.matches(MasterId(attached.record.id), &name)
        };
        self.look().into_iter().find(matches).ok_or_else(|| PlatformError::no_master(wanted))
    }

    /// The set's master as it is now.
    fn attached(&self, found: &Found) -> Result<Attached> {
        self.master(&MasterRef::Id(MasterId(found.attached.record.id)))
    }

    fn find(&self, wanted: &SetRef) -> Result<Found> {
        for attached in self.look() {
            let of = |set: &&SetRecord| wanted.matches(SetId(set.id), &report::set_name(set));
            if let Some(set) = attached.record.sets.iter().find(of).cloned() {
                return Ok(Found { attached, set });
            }
        }
        Err(PlatformError::no_set(wanted))
    }

    /// The set, served, in the epoch that the caller believes.
    async fn target(&self, target: &SetTarget) -> Result<Found> {
        let found = self.find(&target.set)?;
        if let Some(unserved) = found.attached.unserved.get(&found.set.id) {
            return Err(PlatformError::GivenUp {
                set: target.set.clone(),
                cause: unserved.reason.as_str().into(),
            });
        }
        if let Some(expected) = target.expected_epoch {
            let actual = Epoch(self.engine_status(&found).await?.header.epoch.0);
            if actual != expected {
                return Err(PlatformError::StaleEpoch { set: target.set.clone(), expected, actual });
            }
        }
        Ok(found)
    }

    async fn engine_status(&self, found: &Found) -> Result<umbra_engine::SetStatus> {
        let snapshot = found.attached.reactor.ask(Call::Snapshot).await.map_err(gone)?;
        let of = snapshot.sets.into_iter().find(|(index, _)| *index == found.index());
        of.map(|(_, status)| status).ok_or_else(|| PlatformError::no_set(&found.reference()))
    }

    async fn command(&self, found: &Found, command: Command) -> Result<Done> {
        let answer = found.attached.reactor.ask(|reply| Call::Command(command, reply)).await.map_err(gone)?;
        answer.map_err(|refusal| self.refusal(found, refusal))
    }

    fn refusal(&self, found: &Found, refusal: Refusal) -> PlatformError {
        let set = found.reference();
        let cause = refusal.to_string().into();
        match refusal {
            Refusal::NoSuchSet => PlatformError::no_set(&set),
            Refusal::Offline(which) | Refusal::Failed(which) => {
                let role = match which {
                    umbra_engine::OfflineCause::Shadow => Role::Shadow,
                    umbra_engine::OfflineCause::Bitmap => Role::Bitmap,
                };
                PlatformError::Offline { set, role, cause }
            }
            Refusal::Busy | Refusal::SourceFlush | Refusal::DrainTimeout => {
                PlatformError::CutVoid { cut: CutId(Uuid::nil()), cause }
            }
            Refusal::NoCopy => PlatformError::BadArgument { argument: "set".into(), problem: cause },
            Refusal::AbandonedIo(device) => {
                let path = match device {
                    umbra_engine::Device::Bitmap(_) => &found.set.bitmap,
                    _ => &found.set.shadow,
                };
                PlatformError::VolumeInUse { device: volumes::device_path(path), holder: cause }
            }
            Refusal::Restoring => PlatformError::Copying { set, direction: Direction::ToMaster },
            Refusal::LostChunks(lost) => PlatformError::Incomplete { set, lost },
            Refusal::NoImage => PlatformError::Copying { set, direction: Direction::ToShadow },
            Refusal::NoGate => PlatformError::CutVoid { cut: CutId(Uuid::nil()), cause },
            Refusal::Twice | Refusal::TooManyMembers => {
                PlatformError::BadArgument { argument: "sets".into(), problem: cause }
            }
            Refusal::Dependent => PlatformError::Copying { set, direction: Direction::ToShadow },
        }
    }

    /// Takes a new point in time of one set.
    async fn cut(&self, found: &Found, cut: CutId, reset: bool) -> Result<Epoch> {
        let plan = Plan { direction: Direction::ToShadow, kind: CopyKind::Full, cut, reset };
        let status = self.engine_status(found).await?;
        let member = Member { found: found.clone(), status };
        let epochs = self.take(&[member], &plan).await?;
        Ok(Epoch(epochs.first().expect("one per member").0))
    }

    async fn statuses(&self, scope: &Scope) -> Result<Status> {
        let mut status = Status::default();
        for attached in self.look() {
            let snapshot = attached.reactor.ask(Call::Snapshot).await.unwrap_or_default();
            let (master, sets) = report::statuses(&self.host.by_id, &attached, &snapshot);
            let wanted = match scope {
                Scope::All => true,
                Scope::Master(wanted) => wanted.matches(master.id, &master.name),
                Scope::Set(wanted) => sets.iter().any(|set| wanted.matches(set.id, &set.name)),
            };
            if wanted {
                status.masters.push(master);
                let of_scope = |set: &SetStatus| match scope {
                    Scope::Set(wanted) => wanted.matches(set.id, &set.name),
                    Scope::All | Scope::Master(_) => true,
                };
                status.sets.extend(sets.into_iter().filter(of_scope));
            }
        }
        match scope {
            Scope::Master(wanted) if status.masters.is_empty() => Err(PlatformError::no_master(wanted)),
            Scope::Set(wanted) if status.sets.is_empty() => Err(PlatformError::no_set(wanted)),
            Scope::All | Scope::Master(_) | Scope::Set(_) => {
                status.masters.sort_by(|a, b| a.name.cmp(&b.name));
                status.sets.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(status)
            }
        }
    }

    async fn attach(&self, call: AttachMaster) -> Result<AttachedMaster> {
        let path = call.device.as_path().to_owned();
        let name = call.name.as_str().to_owned();
        for other in self.look() {
            let taken = |kind, name: &str| Err(PlatformError::AlreadyExists { kind, name: name.into() });
            if other.record.name == name {
                return taken(umbra_platform::error::ObjectKind::Master, &name);
            }
            if other.record.device == path {
                let owner = other.record.name.as_str().into();
                return Err(PlatformError::AlreadyInRole { device: call.device, role: Role::Master, owner });
            }
        }
        let opened = path.clone();
        let master =
            tokio::task::spawn_blocking(move || volumes::open(&opened, Role::Master, Some(CLAIM_DEADLINE)))
                .await
                .map_err(|error| stopping(&error))??;
        let identity = master.identity();
        let found = device_identity(identity.stable_id().as_deref(), &path);
        if let Some(expected) = call.expected_identity.filter(|expected| *expected != found) {
            return Err(PlatformError::IdentityChanged { device: call.device, expected, found });
        }
        if identity.stable_id().is_none() && !call.accept_weak_identity {
            return Err(PlatformError::IdentityWeak { device: call.device, identity: found });
        }
        let known = self.host.state.masters().map_err(|error| io(&path, "read the state", &error))?;
        let capabilities = master.capabilities();
        let record = match known.into_iter().find(|record| record.device == path) {
            Some(record) => {
                check_same(&record, &master)?;
                check_untouched(&record, &master)?;
                MasterRecord { name, clean: false, ..record }
            }
            None => MasterRecord {
                id: Uuid::new_v4(),
                name,
                device: path,
                identity: identity.stable_id(),
                size: capabilities.size,
                logical_block: capabilities.logical_block,
                physical_block: capabilities.physical_block,
                ublk_id: call.ublk.map_or(u32::MAX, umbra_platform::value::UblkId::get),
                queue_depth: call.queue_depth.get(),
                fingerprint: None,
                clean: false,
                sets: Vec::new(),
            },
        };
        let attached = self.host.serve(record, master, Patience::Deadline).await?;
        let id = attached.record.id;
        self.put(attached);
        Ok(AttachedMaster { id: MasterId(id), device: report::by_id(&self.host.by_id, id) })
    }

    async fn detach(&self, call: DetachMaster) -> Result<()> {
        let attached = self.master(&call.master)?;
        restore::check_none(&attached).await?;
        self.host.detach(&attached).await?;
        let mut record = attached.record.clone();
        let device = record.device.clone();
        // The reactor's claim falls with its thread; then the content is sampled, to be compared at the next attach.
        let sampled = tokio::task::spawn_blocking(move || {
            let master = volumes::open(&device, Role::Master, Some(CLAIM_DEADLINE))?;
            master.fingerprint().map_err(|error| io(&device, "sample", &error))
        });
        let fingerprint = sampled.await.map_err(|error| stopping(&error))??;
        record.clean = true;
        record.ublk_id = u32::MAX;
        for set in &mut record.sets {
            set.shadow_ublk_id = u32::MAX;
            set.restoring = None;
        }
        record.fingerprint = Some(format!("{fingerprint:?}"));
        self.host.save(&record)?;
        self.masters.lock().expect("no panic while it was held").retain(|other| other.record.id != record.id);
        Ok(())
    }

    async fn enable(&self, call: EnableSet) -> Result<EnabledSet> {
        let mut attached = self.master(&call.master)?;
        self.check_enable(&attached, &call)?;
        restore::check_none(&attached).await?;
        let used: Vec<u8> = attached.record.sets.iter().map(|set| set.index).collect();
        let free = (0..u8::try_from(SETS_MAX).expect("16")).find(|index| !used.contains(index));
        let limit = PlatformError::LimitReached { limit: "sets of one master".into(), most: SETS_MAX as u64 };
        let index = SetIndex(free.ok_or(limit)?);
        let id = Uuid::new_v4();
        let record = set_record(&call, id, index, attached.geometry.chunk_bytes());
        let shape =
            MasterShape { geometry: attached.geometry, logical_block: attached.capabilities.logical_block };
        let master = attached.record.clone();
        let (options, node, set) = (crate::masters::options(&record), self.host.node, record.clone());
        let physical_block = attached.capabilities.physical_block;
        let prepared = tokio::task::spawn_blocking(move || {
            let shadow = volumes::open(&set.shadow, Role::Shadow, Some(CLAIM_DEADLINE))?;
            let bitmap = volumes::open(&set.bitmap, Role::Bitmap, Some(CLAIM_DEADLINE))?;
            let volumes = SetVolumes { shadow, bitmap };
            volumes::check_fit(&volumes, &shape)?;
            let identity = set_identity(&set, &master, &shape, physical_block, &volumes, node);
            volumes::prepare(index, volumes, identity, options as SetOptions)
        });
        let ready = prepared.await.map_err(|error| stopping(&error))??;
        let volatile_cache = volatile(&ready.volumes);
        // Known before it protects anything: a crash from here on finds the set again.
        attached.record.sets.push(record.clone());
        self.host.save(&attached.record)?;
        let added = attached.reactor.ask(|reply| Call::AddSet(Box::new(ready), reply)).await.map_err(gone)?;
        added.map_err(|error| io(&record.bitmap, "add", &error))?;
        let found = Found { attached: attached.clone(), set: record };
        let cut = CutId::random();
        let epoch = match self.cut(&found, cut, false).await {
            Ok(epoch) => epoch,
            Err(error) => {
                self.drop_set(&found).await?;
                return Err(error);
            }
        };
        self.host.present_shadow(&mut attached, index, volatile_cache).await?;
        self.host.save(&attached.record)?;
        self.put(attached);
        let shadow_device = report::by_id(&self.host.by_id, id);
        Ok(EnabledSet { id: SetId(id), shadow_device, cut, epoch })
    }

    fn check_enable(&self, attached: &Attached, call: &EnableSet) -> Result<()> {
        let same = |device: &umbra_platform::value::DevicePath, first, second| {
            Err(PlatformError::SameDevice { device: device.clone(), first, second })
        };
        let master = &attached.record.device;
        if call.shadow.as_path() == call.bitmap.as_path() {
            return same(&call.shadow, Role::Shadow, Role::Bitmap);
        }
        if call.shadow.as_path() == master {
            return same(&call.shadow, Role::Master, Role::Shadow);
        }
        if call.bitmap.as_path() == master {
            return same(&call.bitmap, Role::Master, Role::Bitmap);
        }
        let has = umbra_platform::value::ChunkSize::new(attached.geometry.chunk_bytes()).unwrap_or_default();
        if let Some(asked) = call.chunk.filter(|asked| *asked != has) {
            return Err(PlatformError::ChunkSizeFixed { master: call.master.clone(), asked, has });
        }
        for other in self.look() {
            for set in &other.record.sets {
                let owner = || set.name.as_str().into();
                if report::set_name(set) == call.name {
                    let kind = umbra_platform::error::ObjectKind::Set;
                    return Err(PlatformError::AlreadyExists { kind, name: owner() });
                }
                for (path, role) in [(&set.shadow, Role::Shadow), (&set.bitmap, Role::Bitmap)] {
                    let taken =
                        [&call.shadow, &call.bitmap].into_iter().find(|device| device.as_path() == path);
                    if let Some(device) = taken.cloned() {
                        return Err(PlatformError::AlreadyInRole { device, role, owner: owner() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets a set that has no image any more.
    async fn drop_set(&self, found: &Found) -> Result<()> {
        let reactor = &found.attached.reactor;
        let removed = reactor.ask(|reply| Call::RemoveSet(found.index(), reply)).await.map_err(gone)?;
        if let Err(error) = removed {
            tracing::warn!(set = %found.set.name, %error, "the set's volumes cannot be let go yet");
        }
        let mut attached = found.attached.clone();
        attached.record.sets.retain(|set| set.id != found.set.id);
        attached.unserved.remove(&found.set.id);
        self.host.save(&attached.record)?;
        self.put(attached);
        Ok(())
    }

    async fn disable(&self, call: DisableSet) -> Result<()> {
        let mut found = self.find(&call.target.set)?;
        if found.set.protected {
            return Err(PlatformError::Protected { set: call.target.set });
        }
        if found.attached.unserved.contains_key(&found.set.id) {
            self.host.end_shadow(&mut found.set).await;
            return self.drop_set(&found).await;
        }
        let found = self.target(&call.target).await?;
        restore::check_none(&found.attached).await?;
        let id = DeviceId::new(found.set.shadow_ublk_id);
        let presented = found.set.shadow_ublk_id != u32::MAX;
        if presented {
            drop(present::claim_presented(id)?);
        }
        self.command(&found, Command::Disable { set: found.index(), force: false }).await?;
        if presented {
            let side = Side::Shadow(found.index());
            present::withdraw(&self.host.control, &found.attached.reactor, side, id).await?;
            present::delete(&self.host.control, id).await?;
            self.host.unpublish(found.set.id);
        }
        self.drop_set(&found).await
    }

    async fn reset_set(&self, call: Reset) -> Result<ResetDone> {
        let found = self.target(&call.target).await?;
        if self.engine_status(&found).await?.header.state.is_online() {
            return Ok(ResetDone::NotNeeded);
        }
        restore::check_none(&found.attached).await?;
        let cut = CutId::random();
        let epoch = self.cut(&found, cut, true).await?;
        Ok(ResetDone::Cut { cut, epoch })
    }

    async fn limits(&self, call: SetCopyLimits) -> Result<()> {
        let found = self.target(&call.target).await?;
        let bytes_per_second = call.limits.bytes_per_second.map(umbra_platform::value::ByteRate::get);
        let in_flight = call.limits.in_flight.get();
        let limits = umbra_engine::CopyLimits { bytes_per_second, in_flight };
        self.command(&found, Command::SetCopyLimits { set: found.index(), limits }).await?;
        let mut attached = found.attached.clone();
        for set in attached.record.sets.iter_mut().filter(|set| set.id == found.set.id) {
            set.copy_limits = CopyLimitsRecord { bytes_per_second, in_flight };
        }
        self.host.save(&attached.record)?;
        self.put(attached);
        Ok(())
    }
}

fn stopping(error: &tokio::task::JoinError) -> PlatformError {
    PlatformError::Stopping { cause: error.to_string().into() }
}

fn io(path: &Path, operation: &str, error: &dyn std::fmt::Display) -> PlatformError {
    PlatformError::Io {
        device: volumes::device_path(path),
        operation: operation.into(),
        detail: error.to_string().into(),
    }
}

/// E19: what was written past us while the master was not attached, as far as samples tell.
fn check_untouched(record: &MasterRecord, master: &umbra_uring::Device) -> Result<()> {
    let Some(expected) = record.fingerprint.as_ref().filter(|_| record.clean && !record.sets.is_empty())
    else {
        return Ok(());
    };
    let found = master.fingerprint().map_err(|error| io(&record.device, "sample", &error))?;
    if format!("{found:?}") == *expected {
        return Ok(());
    }
    Err(PlatformError::MasterWrittenOutside { master: MasterRef::Id(MasterId(record.id)) })
}

fn set_record(call: &EnableSet, id: Uuid, index: SetIndex, chunk_bytes: u64) -> SetRecord {
    let text = |label: &Option<umbra_platform::value::Label>| {
        label.as_ref().map(|label| label.as_str().to_owned()).unwrap_or_default()
    };
    SetRecord {
        id,
        index: index.0,
        cluster: text(&call.name.cluster),
        namespace: text(&call.name.namespace),
        name: call.name.name.as_str().to_owned(),
        independent: call.mode == Mode::Independent,
        shadow: PathBuf::from(call.shadow.as_str()),
        bitmap: PathBuf::from(call.bitmap.as_str()),
        chunk_bytes,
        shadow_ublk_id: u32::MAX,
        shadow_deadline_ms: call.deadlines.shadow.get().0,
        bitmap_deadline_ms: call.deadlines.bitmap.get().0,
        unrecordable_ms: call.unrecordable.timeout.get().0,
        fail_write: call.unrecordable.then == UnrecordablePolicy::FailWrite,
        protected: call.protected,
        copy_limits: CopyLimitsRecord {
            bytes_per_second: None,
            in_flight: umbra_engine::COPIES_IN_FLIGHT_DEFAULT,
        },
        restoring: None,
    }
}

fn set_identity(
    set: &SetRecord,
    master: &MasterRecord,
    shape: &MasterShape,
    physical_block: u32,
    volumes: &SetVolumes,
    node: umbra_engine::Id128,
) -> SetIdentity {
    let fresh = || id128(Uuid::new_v4());
    let layout = Layout::standard(shape.geometry);
    let fits =
        |text: &str, most: usize| text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned();
    let hardware = |id: Option<String>| fits(&id.unwrap_or_default(), umbra_format::HARDWARE_ID_MAX);
    SetIdentity {
        set: id128(set.id),
        master: VolumeIdentity {
            uuid: id128(master.id),
            size: shape.geometry.master_bytes(),
            fingerprint: 0,
            hardware_id: hardware(master.identity.clone()),
        },
        shadow: VolumeIdentity {
            uuid: fresh(),
            size: volumes.shadow.capabilities().size,
            fingerprint: 0,
            hardware_id: hardware(volumes.shadow.identity().stable_id()),
        },
        bitmap: fresh(),
        tracking: fresh(),
        node,
        session: fresh(),
        seal_owner: umbra_engine::Id128::default(),
        mode: if set.independent { umbra_engine::Mode::Independent } else { umbra_engine::Mode::Dependent },
        geometry: shape.geometry,
        logical_block: shape.logical_block,
        physical_block,
        ring_blocks: layout.ring_blocks,
        head_bytes: layout.head_bytes,
        protected: set.protected,
        cluster: fits(&set.cluster, umbra_format::SHORT_NAME_MAX),
        namespace: fits(&set.namespace, umbra_format::SHORT_NAME_MAX),
        name: fits(&set.name, umbra_format::NAME_MAX),
    }
}

impl Platform for Service {
    async fn attach_master(&self, call: AttachMaster) -> Result<AttachedMaster> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.attach(call)).await
    }

    async fn accept_master(&self, call: AcceptMaster) -> Result<()> {
        let _one_at_a_time = self.changes.lock().await;
        // What was written outside is not served, and so not among these.
        self.master(&call.master)?;
        let problem = format!("{} is served: nothing was written past it", call.master).into();
        Err(PlatformError::BadArgument { argument: "master".into(), problem })
    }

    async fn detach_master(&self, call: DetachMaster) -> Result<()> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.detach(call)).await
    }

    async fn enable_set(&self, call: EnableSet) -> Result<EnabledSet> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.enable(call)).await
    }

    async fn disable_set(&self, call: DisableSet) -> Result<()> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.disable(call)).await
    }

    async fn copy(&self, call: CopySets) -> Result<Copied> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.copy_sets(call)).await
    }

    async fn abort(&self, call: Abort) -> Result<()> {
        let _one_at_a_time = self.changes.lock().await;
        let found = self.target(&call.target).await?;
        let state = self.engine_status(&found).await?.header.state;
        if !state.is_copying() && !state.is_restoring() {
            return Ok(());
        }
        self.command(&found, Command::Abort { set: found.index() }).await.map(drop)
    }

    async fn wait(&self, call: Wait) -> Result<SetStatus> {
        let wait = async {
            loop {
                let status = self.statuses(&Scope::Set(call.set.clone())).await?;
                match status.sets.into_iter().next() {
                    Some(set) if !set.state.is_running() => return Ok(set),
                    Some(_) => tokio::time::sleep(WAIT_PERIOD).await,
                    None => return Err(PlatformError::no_set(&call.set)),
                }
            }
        };
        let late = PlatformError::Deadline { operation: "the copy".into(), after: call.timeout };
        tokio::time::timeout(call.timeout.duration(), wait).await.unwrap_or(Err(late))
    }

    async fn set_copy_limits(&self, call: SetCopyLimits) -> Result<()> {
        let _one_at_a_time = self.changes.lock().await;
        self.limits(call).await
    }

    async fn reset(&self, call: Reset) -> Result<ResetDone> {
        let _one_at_a_time = self.changes.lock().await;
        once(&self.host.state, call.request, format!("{call:?}"), self.reset_set(call)).await
    }

    async fn status(&self, scope: Scope) -> Result<Status> {
        self.statuses(&scope).await
    }

    async fn watch(&self, call: Watch) -> Result<StatusStream> {
        // The first look also refuses a scope that names nothing.
        self.statuses(&call.scope).await?;
        let (host, masters) = (Arc::clone(&self.host), Arc::clone(&self.masters));
        let service = Arc::new(Self::new(host, masters));
        let on_change = call.cadence == Cadence::OnChange;
        let Millis(period) = call.cadence.period();
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(period)));
        let scope = Arc::new(call.scope);
        let looks = ticks.then(move |_| {
            let (service, scope) = (Arc::clone(&service), Arc::clone(&scope));
            async move { service.statuses(&scope).await }
        });
        let mut last: Option<Status> = None;
        let changed = looks.filter(move |look| {
            let new = look.as_ref().ok() != last.as_ref() || look.is_err();
            last = look.as_ref().ok().cloned();
            !on_change || new
        });
        Ok(Box::pin(changed))
    }

    async fn list(&self) -> Result<Listing> {
        Ok(report::listing(&self.host.by_id, &self.look()))
    }

    async fn map(&self, call: MapQuery) -> Result<ChunkMap> {
        let found = self.target(&SetTarget::from(call.set)).await?;
        let runs: Vec<_> = ChunkMap::runs(found.attached.geometry.chunk_count(), call.columns).collect();
        let status = self.engine_status(&found).await?;
        let asked = runs.clone();
        let counts =
            found.attached.reactor.ask(|reply| Call::Map(found.index(), asked, reply)).await.map_err(gone)?;
        let counts = counts.ok_or_else(|| PlatformError::no_set(&found.reference()))?;
        Ok(report::chunk_map(&found.set, &status, &runs, &counts))
    }
}
