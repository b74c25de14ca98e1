//! Enable: a set is made on a master that is served, under load, and its first image is cut.

use super::member::engine_status;
use super::restore;
use crate::deadline::{STEP_DEADLINE, within};
use crate::host::{Host, set_owner};
use crate::mutation::{Rule, is_off};
use crate::present;
use crate::registry::{Entry, Serving, Turn};
use crate::start::{claiming, volatile};
use crate::start_set::{options, recover_refusal};
use crate::state::{CopyLimitsRecord, MasterRecord, SetRecord, SetStage, VolumeRecord};
use crate::words::{id128, io, master_ref, set_name};
use crate::world::{Claim, Depth, Reactor, ReadySet, SetVolumes, World};
use std::path::PathBuf;
use std::sync::Arc;
use umbra_engine::{
    CHUNK_BYTES_DEFAULT, Command, CopyKind, CutMember, Direction, Done, Epoch as EngineEpoch, Geometry,
    SETS_MAX, SetIndex, Side,
};
use umbra_format::{BLOCK_BYTES, Layout, SetIdentity, VolumeIdentity};
use umbra_identity::{Consent, Contents, DeviceFacts, Fit, Role, Signature, SignatureId};
use umbra_platform::PlatformError;
use umbra_platform::call::{EnableSet, EnabledSet};
use umbra_platform::error::ObjectKind;
use umbra_platform::id::{CutId, Epoch, SetId};
use umbra_platform::status::{Mode, Role as PlatformRole, UnrecordablePolicy};
use umbra_platform::value::{ChunkSize, Label};
use umbra_store::{AlignedBuf, BatchError, BlockStore, Blocking, DeviceSlot, prepare_set};
use uuid::Uuid;

/// The volumes of a set that is to be made: claimed, and what on them may be wiped.
struct Taken<C> {
    volumes: SetVolumes<C>,
    wipe: [Vec<Signature>; 2],
}

impl<W: World> Host<W> {
    /// Makes the set `id`.
    ///
    /// # Errors
    /// What is in the way; then nothing of the set is left, or it is in the list as one that is to be gone.
    pub(crate) async fn enable(
        self: &Arc<Self>,
        call: EnableSet,
        id: Uuid,
    ) -> Result<EnabledSet, PlatformError> {
        let entry = self.registry.master(&call.master)?;
        let turn = entry.turn("enable").await?;
        // The request was begun before: its set is there, or what was left of it when a step failed.
        match entry.record().sets.into_iter().find(|set| set.id == id) {
            Some(set) if set.stage == SetStage::Enabled => {
                let (_, status) = engine_status(&entry.seen(), &set).await?;
                return Ok(self.enabled(set.id, Uuid::from_bytes(status.header.cut.0), status.header.epoch));
            }
            Some(left) => self.take_away_left(&turn, &left).await?,
            None => {}
        }
        let seen = entry.seen();
        let mut serving = seen.serving()?.clone();
        restore::check_none(&seen, &serving).await?;
        let geometry = chunks(&seen.record, &serving, call.chunk)?;
        let mut giving = self.registry.giving.lock().await;
        self.check_name(&call).await?;
        let mut set = set_record(self, &call, id, geometry.chunk_bytes(), free_place(&seen.record)?);
        turn.step("proof that its volumes may be taken");
        let taken = self.take_volumes(&call, &seen.record, &mut set, geometry).await?;
        if geometry != serving.geometry {
            turn.step("change of the chunk size");
            // Nobody else is kept waiting: a start takes as long as its devices do. The volumes are claimed.
            drop(giving);
            let changed = self.change_chunks(&turn, geometry.chunk_bytes()).await;
            serving = self.or_chunks_of(&entry, &seen.record, changed).await?;
            giving = self.registry.giving.lock().await;
        }
        turn.step("record of the set");
        let given = self.give(&entry, &call, &set).await;
        // On record: its name and its volumes are given.
        drop(giving);
        self.or_chunks_of(&entry, &seen.record, given).await?;
        match self.make(&turn, &mut serving, &set, taken).await {
            // On record: whatever its thread does from now on, the set is there.
            Ok(epoch) => {
                self.hide_raw().await;
                Ok(self.enabled(set.id, first_cut(set.id), epoch))
            }
            Err(error) => {
                self.undo_enable(&turn, &serving, &set).await;
                self.or_chunks_of(&entry, &seen.record, Err(error)).await
            }
        }
    }

    /// Puts the set on record, if its name is still free.
    async fn give(&self, entry: &Entry<W>, call: &EnableSet, set: &SetRecord) -> Result<(), PlatformError> {
        self.check_name(call).await?;
        let mut record = entry.record();
        record.sets.push(set.clone());
        self.keep(entry, record).await
    }

    /// Passes an outcome on; if it is none, and nothing of a set is left, the master has its chunks of before on record
    /// again. Its thread, which has no set, need not know.
    async fn or_chunks_of<T>(
        &self,
        entry: &Entry<W>,
        before: &MasterRecord,
        outcome: Result<T, PlatformError>,
    ) -> Result<T, PlatformError> {
        let now = entry.record();
        if outcome.is_err()
            && now.sets.is_empty()
            && now.chunk != before.chunk
            && let Err(error) = self.keep(entry, MasterRecord { chunk: before.chunk, ..now }).await
        {
            tracing::warn!(master = %before.name, %error, "the chunk size of a failed enable stays on record");
        }
        outcome
    }

    fn enabled(&self, set: Uuid, cut: Uuid, epoch: EngineEpoch) -> EnabledSet {
        let shadow_device = present::by_id(self.world.names(), set);
        EnabledSet { id: SetId(set), shadow_device, cut: CutId(cut), epoch: Epoch(epoch.0) }
    }

    /// Takes away what an earlier attempt has left.
    async fn take_away_left(&self, turn: &Turn<W>, set: &SetRecord) -> Result<(), PlatformError> {
        let seen = turn.entry().seen();
        let serving = seen.serving()?;
        turn.step("undoing of an earlier attempt");
        if serving.unserved.contains_key(&set.id) {
            self.disable_unserved(turn, set).await
        } else {
            self.take_away(turn, serving, set, Vec::new()).await
        }
    }

    async fn check_name(&self, call: &EnableSet) -> Result<(), PlatformError> {
        let records = self.records().await;
        let taken = records.iter().flat_map(|record| &record.sets).find(|set| set_name(set) == call.name);
        match taken {
            Some(set) => {
                let name = set_name(set).to_string();
                Err(PlatformError::AlreadyExists { kind: ObjectKind::Set, name: name.as_str().into() })
            }
            None => Ok(()),
        }
    }

    async fn take_volumes(
        &self,
        call: &EnableSet,
        master: &MasterRecord,
        set: &mut SetRecord,
        geometry: Geometry,
    ) -> Result<Taken<W::Claim>, PlatformError> {
        let look = async |path: &std::path::Path| {
            let look = self.world.look(path, Depth::What).await;
            look.map_err(|error| crate::obstacle::Obstacle::from(error).error)
        };
        let (shadow, bitmap) = (look(&set.shadow.device).await?, look(&set.bitmap.device).await?);
        if shadow.overlaps(&bitmap) {
            let (first, second) = (PlatformRole::Shadow, PlatformRole::Bitmap);
            return Err(PlatformError::SameDevice { device: call.shadow.clone(), first, second });
        }
        let confirmed = Confirmed::new(call, &shadow, &bitmap);
        let owner = set_owner(set);
        let logical_block = master.logical_block;
        let fit = |bytes| Fit { bytes, logical_block };
        let (claim, facts, free) =
            self.take(Role::Shadow, &owner, &set.shadow.device, fit(master.size), &confirmed.shadow).await?;
        let bytes = Layout::standard(geometry).total_bytes();
        let (bitmap, bitmap_facts, bitmap_free) =
            self.take(Role::Bitmap, &owner, &set.bitmap.device, fit(bytes), &confirmed.bitmap).await?;
        set.shadow.identity = facts.identity.stable_id();
        set.bitmap.identity = bitmap_facts.identity.stable_id();
        let volumes = SetVolumes { shadow: claim, bitmap };
        Ok(Taken { volumes, wipe: [free.wipe, bitmap_free.wipe] })
    }

    /// Starts the master again with chunks of another size: it has no set yet, so nothing depends on the old one. Its
    /// requests wait as long as a start takes.
    async fn change_chunks(
        self: &Arc<Self>,
        turn: &Turn<W>,
        chunk: u64,
    ) -> Result<Serving<W>, PlatformError> {
        let entry = turn.entry();
        self.keep(entry, MasterRecord { chunk: Some(chunk), ..entry.record() }).await?;
        if let crate::registry::Phase::Serving(serving) = entry.seen().phase {
            serving.reactor.stop().await;
        }
        entry.put_phase(claiming());
        let serving = self.start_master(turn, false).await.map_err(|obstacle| obstacle.error)?;
        entry.put_phase(crate::registry::Phase::Serving(serving.clone()));
        Ok(serving)
    }

    async fn make(
        &self,
        turn: &Turn<W>,
        serving: &mut Serving<W>,
        set: &SetRecord,
        taken: Taken<W::Claim>,
    ) -> Result<EngineEpoch, PlatformError> {
        let entry = turn.entry();
        let record = entry.record();
        let index = SetIndex(set.index);
        let volatile_cache = volatile(&taken.volumes);
        turn.step("preparation of its volumes");
        let ready = self.prepare(&record, serving, set, taken).await?;
        // An earlier attempt of the same request may have left that the set is to be gone. Not sooner: what that one has
        // left on the volumes would be believed.
        let forgotten = self.state.forget_end(id128(set.id), ready.image.header.epoch).await;
        forgotten.map_err(|error| io(&set.bitmap.device, "record of the first image of", &error))?;
        let gone = |error: crate::world::ReactorGone| io(&record.device, "enable", &error);
        let added = serving.reactor.add_set(ready).await.map_err(gone)?;
        added.map_err(|problem| io(&set.bitmap.device, "add", &problem))?;
        turn.step("first cut");
        let member =
            CutMember { set: index, direction: Direction::ToShadow, kind: CopyKind::Full, reset: false };
        let cut = Command::Cut { member, cut: id128(first_cut(set.id)), unix_ms: self.world.unix_ms() };
        let epoch = match serving.reactor.command(cut).await.map_err(gone)? {
            Ok(Done::Cut { epoch }) => epoch,
            Ok(other) => return Err(io(&set.bitmap.device, "first cut", &format!("{other:?}"))),
            Err(refusal) => {
                let cause = refusal.to_string().into();
                return Err(PlatformError::CutVoid { cut: CutId(first_cut(set.id)), cause });
            }
        };
        turn.step("presentation of the shadow");
        self.present_shadow(&record, serving, index, volatile_cache).await?;
        entry.update(|seen| seen.presented.clone_from(&serving.presented));
        turn.step("record of the set");
        self.put_stage(entry, set.id, SetStage::Enabled).await?;
        Ok(epoch)
    }

    async fn prepare(
        &self,
        record: &MasterRecord,
        serving: &Serving<W>,
        set: &SetRecord,
        taken: Taken<W::Claim>,
    ) -> Result<ReadySet<W::Claim>, PlatformError> {
        let identity = set_identity(self, record, serving, set, &taken.volumes);
        let (options, wipe) = (options(set), taken.wipe);
        let work = self.world.work(taken.volumes.into_vec(), move |store, slots| {
            for (slot, signatures) in slots.iter().zip(&wipe) {
                let mut io = Blocking::new(store, STEP_DEADLINE);
                wipe_signatures(&mut io, *slot, signatures).map_err(|error| error.to_string())?;
            }
            // What the volume holds was looked at, and is nobody's or was confirmed to go.
            Ok(prepare_set(store, SetVolumes::<W::Claim>::slots(slots), identity, options, true))
        });
        let failed = |detail: String| io(&set.bitmap.device, "preparation of the set", &detail);
        let late = || crate::obstacle::hung(&set.bitmap.device, "preparation of the set");
        let (prepared, claims) = within(STEP_DEADLINE, work).await.ok_or_else(late)?.map_err(failed)?;
        let prepared = prepared.map_err(failed)?;
        let (config, image) = prepared.map_err(|error| recover_refusal(set, error))?;
        Ok(ReadySet { index: SetIndex(set.index), config, image, volumes: SetVolumes::from_vec(claims) })
    }

    /// Nothing of the set is left; or, if that cannot be reached now, it is one that is to be gone.
    async fn undo_enable(&self, turn: &Turn<W>, serving: &Serving<W>, set: &SetRecord) {
        let entry = turn.entry();
        if is_off(Rule::RollBack) {
            return;
        }
        turn.step("undoing of the enable");
        if let Err(error) = self.take_away(turn, serving, set, Vec::new()).await {
            tracing::error!(set = %set.name, %error, "a failed enable is not undone yet: disable the set");
            if let Err(error) = self.put_stage(entry, set.id, SetStage::Disabling).await {
                tracing::error!(set = %set.name, %error, "the set stays on record as one that is being enabled");
            }
        }
    }

    /// Keeps how far a set is.
    pub(crate) async fn put_stage(
        &self,
        entry: &Entry<W>,
        id: Uuid,
        stage: SetStage,
    ) -> Result<(), PlatformError> {
        let mut record = entry.record();
        record.sets.iter_mut().filter(|set| set.id == id).for_each(|set| set.stage = stage);
        self.keep(entry, record).await
    }
}

/// The first cut of a set has a name that follows from the set's: an enable that is repeated takes it once.
fn first_cut(set: Uuid) -> Uuid {
    let mut bytes = *set.as_bytes();
    bytes[15] ^= 0xc1;
    Uuid::from_bytes(bytes)
}

/// What was confirmed, divided: each volume's share is what lies on it.
struct Confirmed {
    shadow: Consent,
    bitmap: Consent,
}

impl Confirmed {
    fn new(call: &EnableSet, shadow: &DeviceFacts, bitmap: &DeviceFacts) -> Self {
        let asked: Vec<String> = call.wipe.as_slice().iter().map(ToString::to_string).collect();
        let share = |facts: &DeviceFacts, rest: bool| {
            let on = |id: &String| lies_on(facts, id);
            let elsewhere = |id: &String| !on(id) && rest && !lies_on(shadow, id);
            let mine = asked.iter().filter(|id| on(id) || elsewhere(id));
            Consent {
                wipe: mine
                    .filter_map(|id| id.split_once(':'))
                    .map(|(kind, uuid)| SignatureId::new(kind, uuid))
                    .collect(),
                ..Consent::default()
            }
        };
        // What lies on neither is refused, with the bitmap volume.
        Self { shadow: share(shadow, false), bitmap: share(bitmap, true) }
    }
}

fn lies_on(facts: &DeviceFacts, id: &str) -> bool {
    match &facts.contents {
        Contents::Read(content) => content.signatures.iter().any(|found| found.id.to_string() == id),
        Contents::Unasked | Contents::Unread { .. } => false,
    }
}

/// What was confirmed to go, goes: left where Umbra itself writes nothing, it would still be found by others.
fn wipe_signatures<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    slot: DeviceSlot,
    signatures: &[Signature],
) -> Result<(), BatchError> {
    let block = BLOCK_BYTES as u64;
    let places = signatures.iter().map(|signature| signature.at - signature.at % block);
    let writes = places.map(|at| (at, AlignedBuf::zeroed(BLOCK_BYTES)));
    io.write_durably(slot, signatures.len(), writes)
}

fn chunks<W: World>(
    record: &MasterRecord,
    serving: &Serving<W>,
    asked: Option<ChunkSize>,
) -> Result<Geometry, PlatformError> {
    let has = serving.geometry.chunk_bytes();
    match (asked.map(ChunkSize::bytes), record.sets.is_empty()) {
        (None, false) => Ok(serving.geometry),
        (Some(asked), false) if asked == has => Ok(serving.geometry),
        (Some(asked), false) => {
            let size = |bytes| ChunkSize::new(bytes).unwrap_or_default();
            let master = master_ref(record);
            Err(PlatformError::ChunkSizeFixed { master, asked: size(asked), has: size(has) })
        }
        (asked, true) => {
            let chunk = asked.unwrap_or(CHUNK_BYTES_DEFAULT);
            let argument = |problem: String| PlatformError::BadArgument {
                argument: "chunk".into(),
                problem: problem.into(),
            };
            if chunk < u64::from(record.logical_block) {
                let block = record.logical_block;
                return Err(argument(format!("chunks are at least as large as a block, {block} bytes")));
            }
            Geometry::new(record.size, chunk).map_err(|error| argument(error.to_string()))
        }
    }
}

fn free_place(record: &MasterRecord) -> Result<u8, PlatformError> {
    let used: Vec<u8> = record.sets.iter().map(|set| set.index).collect();
    let free = (0..u8::try_from(SETS_MAX).expect("16")).find(|index| !used.contains(index));
    free.ok_or(PlatformError::LimitReached { limit: "sets of one master".into(), most: SETS_MAX as u64 })
}

fn set_record<W: World>(
    host: &Host<W>,
    call: &EnableSet,
    id: Uuid,
    chunk_bytes: u64,
    index: u8,
) -> SetRecord {
    let text =
        |label: &Option<Label>| label.as_ref().map(|label| label.as_str().to_owned()).unwrap_or_default();
    let volume = |device: &str| VolumeRecord {
        device: PathBuf::from(device),
        volume: host.world.fresh(),
        identity: None,
    };
    SetRecord {
        id,
        stage: SetStage::Enabling,
        index,
        cluster: text(&call.name.cluster),
        namespace: text(&call.name.namespace),
        name: call.name.name.as_str().to_owned(),
        independent: call.mode == Mode::Independent,
        shadow: volume(call.shadow.as_str()),
        bitmap: volume(call.bitmap.as_str()),
        chunk_bytes,
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
        master_changed: false,
    }
}

fn set_identity<W: World>(
    host: &Host<W>,
    master: &MasterRecord,
    serving: &Serving<W>,
    set: &SetRecord,
    volumes: &SetVolumes<W::Claim>,
) -> SetIdentity {
    let fresh = || id128(host.world.fresh());
    let layout = Layout::standard(serving.geometry);
    let fits =
        |text: &str, most: usize| text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned();
    let hardware =
        |id: &Option<String>| fits(id.as_deref().unwrap_or_default(), umbra_format::HARDWARE_ID_MAX);
    SetIdentity {
        set: id128(set.id),
        master: VolumeIdentity {
            uuid: id128(master.id),
            size: master.size,
            fingerprint: 0,
            hardware_id: hardware(&master.identity),
        },
        shadow: VolumeIdentity {
            uuid: id128(set.shadow.volume),
            size: volumes.shadow.capabilities().size,
            fingerprint: 0,
            hardware_id: hardware(&set.shadow.identity),
        },
        bitmap: id128(set.bitmap.volume),
        tracking: fresh(),
        node: host.node,
        session: fresh(),
        seal_owner: umbra_engine::Id128::default(),
        mode: if set.independent { umbra_engine::Mode::Independent } else { umbra_engine::Mode::Dependent },
        geometry: serving.geometry,
        logical_block: master.logical_block,
        physical_block: master.physical_block,
        ring_blocks: layout.ring_blocks,
        head_bytes: layout.head_bytes,
        protected: set.protected,
        cluster: fits(&set.cluster, umbra_format::SHORT_NAME_MAX),
        namespace: fits(&set.namespace, umbra_format::SHORT_NAME_MAX),
        name: fits(&set.name, umbra_format::NAME_MAX),
    }
}

/// The side that a set's shadow is.
pub(crate) fn shadow_side(set: &SetRecord) -> Side {
    Side::Shadow(SetIndex(set.index))
}
