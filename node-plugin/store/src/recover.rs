//! From a bitmap volume to a set that can be served: format a new one, or recover one after whatever happened.
//!
//! Recovery (E8), in this order, with the devices claimed by the caller:
//!
//! ```text
//!  1 flush            what a killed process left in caches is made durable before it is believed
//!  2 superblock       the valid slot with the higher generation
//!  3 pages            of each the newer valid place; pages older than their plane's epoch read as zero
//!  4 journal          every valid block of the ring newer than the checkpoint, gaps or not;
//!                     unconfirmed records only if the shadow's bytes have their hash (E1)
//!  5 merge            held := held less what a frozen pair says may differ (E2)
//!  6 pages back       both places, flushed
//!  7 superblock       new ring generation: rejected records are discarded for ever
//! ```
//! A crash anywhere before 7 leaves everything that the next recovery needs: only pages were added, and they
//! say no more than pages and journal said together.

use crate::block_store::{BlockStore, DeviceSlot, StoreError};
use crate::blocking::Blocking;
use crate::buf::AlignedBuf;
use crate::replay::{Base, Replay};
use thiserror::Error;
use umbra_engine::{
    ByteRange, Durability, Epoch, Id128, JournalBlock, OfflineCause, PLANES, Place, Plane, PlaneHeader,
    PlaneId, RingGeneration, Sequence, SetHeader, SetImage, SetParameters, SetState, SuperblockGeneration,
    TrackingPair, Unrecordable,
    mutation::{Rule, is_off},
};
use umbra_format::{
    BLOCK_BYTES, DataHasher, ImageEnd, Label, Layout, PageHeader, RING_OFFSET, SetIdentity, Superblock,
    SuperblockError, decode_journal, decode_page, encode_page,
};

/// Where a set's volumes are in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetDevices {
    /// The shadow.
    pub shadow: DeviceSlot,
    /// The bitmap volume.
    pub bitmap: DeviceSlot,
}

/// A set as the executor needs it.
#[derive(Clone, Debug)]
pub struct SetConfig {
    /// Who.
    pub identity: SetIdentity,
    /// Where things are on the bitmap volume.
    pub layout: Layout,
    /// Where the volumes are.
    pub devices: SetDevices,
    /// What the engine is told.
    pub parameters: SetParameters,
}

/// Who attaches the set now (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// This node.
    pub node: Id128,
    /// Random for each attach.
    pub session: Id128,
}

/// What a person may choose per set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetOptions {
    /// After this long a shadow operation has failed, in milliseconds.
    pub shadow_deadline_ms: u64,
    /// The same for the bitmap volume.
    pub bitmap_deadline_ms: u64,
    /// What happens to master writes while nothing at all can be recorded.
    pub unrecordable: Unrecordable,
}

impl Default for SetOptions {
    fn default() -> Self {
        Self { shadow_deadline_ms: 5000, bitmap_deadline_ms: 5000, unrecordable: Unrecordable::Block }
    }
}

/// Why a set cannot be prepared or recovered. Each names the volume and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// A device did not do what it was asked.
    #[error("{volume} volume: {source}")]
    Device {
        /// Which.
        volume: &'static str,
        /// What it said.
        source: StoreError,
    },
    /// Nothing of Umbra's is there.
    #[error("not an Umbra bitmap volume: neither superblock slot was ever written; enable a set on it first")]
    Foreign,
    /// Both slots are unreadable.
    #[error("both superblock slots are unusable ({a}; {b}); `umbra-io check` tells more")]
    Damaged {
        /// Slot A.
        a: SuperblockError,
        /// Slot B.
        b: SuperblockError,
    },
    /// A slot is whole, but not for this program: the other one may be older and must not be taken instead (E10).
    #[error("superblock slot {slot:?}: {source}")]
    Unusable {
        /// Which.
        slot: Place,
        /// Why.
        source: SuperblockError,
    },
    /// What is to be written could not be read again.
    #[error("the set cannot be described on a bitmap volume: {0}")]
    Indescribable(SuperblockError),
    /// The two slots are of two sets.
    #[error("the superblock slots name two sets, {a} and {b}: an enable was interrupted; enable again")]
    TwoSets {
        /// In slot A.
        a: Id128,
        /// In slot B.
        b: Id128,
    },
    /// The volume is smaller than its layout.
    #[error("the bitmap volume has {have} bytes; this master needs {need}")]
    BitmapTooSmall {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The shadow is smaller than the master.
    #[error("the shadow volume has {have} bytes; a full-size shadow of this master needs {need}")]
    ShadowTooSmall {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The volume belongs to a set that was not disabled.
    #[error("the bitmap volume belongs to set {set} ({name}), which was not disabled")]
    InUse {
        /// That set.
        set: Id128,
        /// Its name.
        name: String,
    },
    /// Something on the volume is newer than its superblock: the superblock is an old version (E10).
    #[error(
        "the journal or a page is of a later time than the newest readable superblock; `umbra-io check --repair` decides"
    )]
    Stale,
    /// Another node had it and did not close it (E7).
    #[error(
        "node {node} has set {set} attached and did not detach it; detach it there or give the shadow up"
    )]
    ForeignSession {
        /// The set.
        set: Id128,
        /// That node.
        node: Id128,
    },
    /// The shadow carries the label of another.
    #[error(
        "the shadow volume is labelled as shadow {found} of set {found_set}; set {set} expects shadow {expected}"
    )]
    Swapped {
        /// The set that is being recovered.
        set: Id128,
        /// Its shadow.
        expected: Id128,
        /// The set that the label names.
        found_set: Id128,
        /// The shadow that the label names.
        found: Id128,
    },
    /// The set was disabled.
    #[error("set {0} was disabled; there is nothing to attach")]
    Disabled(Id128),
    /// A restore was interrupted, and what it still had to copy is not known any more (E9).
    #[error(
        "set {0} was restoring its master when its bitmap volume failed: a part of the master's data is on the \
         shadow only, and nothing says which; restore the master from another image"
    )]
    MasterIncomplete(Id128),
}

/// What is known away from the set's own volumes when it is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The end of an image that the state directory has on record.
    pub ended: Option<Ended>,
    /// Whether a cut that is in doubt is committed: [`decide`] says so.
    pub commit: bool,
}

/// The end of an image, on record away from its bitmap volume (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Images up to this epoch have ended.
    pub epoch: Epoch,
    /// A restore had chunks left.
    pub master_incomplete: bool,
}

/// What a member of a cut over several sets says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberView {
    /// It is in doubt.
    InDoubt,
    /// It is committed.
    Committed,
    /// It never heard of it, or it is void.
    Void,
    /// Nobody can read its bitmap volume.
    Unreadable,
}

impl MemberView {
    /// What a superblock says of the cut `cut`.
    pub fn of(superblock: &Superblock, cut: Id128) -> Self {
        match &superblock.doubt {
            Some(doubt) if doubt.then.cut == cut => Self::InDoubt,
            Some(_) | None if superblock.header.cut == cut => Self::Committed,
            Some(_) | None => Self::Void,
        }
    }
}

/// Whether a cut over several sets is committed (E4): all members get the same, whichever of them is asked first.
///
/// A member is committed only after all were in doubt, and void only if the cut is: one of either decides. With
/// all in doubt nothing was let through anywhere, and the cut is as good as taken. Who cannot be read may be
/// committed only if the decision was recorded first.
pub fn decide(recorded: bool, members: &[MemberView]) -> bool {
    let any = |view| members.contains(&view);
    recorded || any(MemberView::Committed) || !any(MemberView::Void) && !any(MemberView::Unreadable)
}

fn bitmap_error(source: StoreError) -> RecoverError {
    RecoverError::Device { volume: "bitmap", source }
}

fn shadow_error(source: StoreError) -> RecoverError {
    RecoverError::Device { volume: "shadow", source }
}

fn layout_of(identity: &SetIdentity) -> Layout {
    Layout::new(identity.geometry, identity.ring_blocks, identity.head_bytes)
}

fn durability<S: BlockStore>(store: &S, device: DeviceSlot) -> Durability {
    let capabilities = store.capabilities(device);
    match (capabilities.volatile_cache, capabilities.fua) {
        (false, _) => Durability::WriteThrough,
        (true, true) => Durability::Fua,
        (true, false) => Durability::Flush,
    }
}

fn config<S: BlockStore>(
    store: &S,
    devices: SetDevices,
    identity: SetIdentity,
    options: SetOptions,
) -> SetConfig {
    let layout = layout_of(&identity);
    let parameters = SetParameters {
        mode: identity.mode,
        shadow_durability: durability(store, devices.shadow),
        bitmap_durability: durability(store, devices.bitmap),
        ring_blocks: identity.ring_blocks,
        head_bytes: identity.head_bytes,
        head_offset: layout.head_offset(),
        shadow_deadline_ms: options.shadow_deadline_ms,
        bitmap_deadline_ms: options.bitmap_deadline_ms,
        unrecordable: options.unrecordable,
    };
    SetConfig { identity, layout, devices, parameters }
}

fn check_sizes<S: BlockStore>(
    store: &S,
    devices: SetDevices,
    identity: &SetIdentity,
) -> Result<(), RecoverError> {
    let (have, need) = (store.capabilities(devices.bitmap).size, layout_of(identity).total_bytes());
    if have < need {
        return Err(RecoverError::BitmapTooSmall { have, need });
    }
    let (have, need) = (store.capabilities(devices.shadow).size, identity.geometry.master_bytes());
    if have < need {
        return Err(RecoverError::ShadowTooSmall { have, need });
    }
    Ok(())
}

/// Formats a bitmap volume for a new set, in state Prepared: pages first, superblocks last.
///
/// # Errors
/// [`RecoverError`]; unless `force`, a volume of a set that was not disabled is refused.
pub fn prepare_set<S: BlockStore>(
    store: &mut S,
    devices: SetDevices,
    identity: SetIdentity,
    options: SetOptions,
    force: bool,
) -> Result<(SetConfig, SetImage), RecoverError> {
    check_sizes(store, devices, &identity)?;
    let config = config(store, devices, identity, options);
    let header = prepared_header();
    let image = SetImage::prepared(&config.identity.geometry, header, SuperblockGeneration(1));
    check_describable(&config, &image)?;
    let mut io = Blocking::new(store);
    if !force {
        refuse_live(&mut io, devices.bitmap)?;
    }
    // The label first: one of an earlier set would make a crash right after the first cut look like a swapped volume.
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    Label {
        set: config.identity.set,
        shadow: config.identity.shadow.uuid,
        epoch: Epoch(0),
        session: config.identity.session,
        end: None,
    }
    .encode(&mut block);
    io.write(devices.shadow, 0, block).map_err(shadow_error)?;
    io.flush(devices.shadow).map_err(shadow_error)?;
    for place in [Place::B, Place::A] {
        // A half-made set must not be taken for the one that was here before.
        let block = AlignedBuf::zeroed(BLOCK_BYTES);
        io.write(devices.bitmap, config.layout.superblock(place), block).map_err(bitmap_error)?;
    }
    io.flush(devices.bitmap).map_err(bitmap_error)?;
    let mut image = image;
    for plane in &mut image.planes {
        plane.mark_all(true);
    }
    write_pages(&mut io, &config, &mut image, SuperblockGeneration(0))?;
    write_superblocks(&mut io, &config, &image)?;
    Ok((config, image))
}

fn prepared_header() -> SetHeader {
    SetHeader {
        epoch: Epoch(0),
        cut: Id128::default(),
        cut_unix_ms: 0,
        state: SetState::Prepared,
        planes: [PlaneHeader::default(); PLANES],
        tracking: TrackingPair::First,
        merging: false,
        head_moved: true,
        ring_generation: RingGeneration(1),
        checkpoint_upto: Sequence(0),
        confirmed_upto: Sequence(0),
        shadow_written: false,
        recovered: false,
        clean: false,
    }
}

/// A set that no later start could read is not made.
fn check_describable(config: &SetConfig, image: &SetImage) -> Result<(), RecoverError> {
    let mut block = [0; BLOCK_BYTES];
    superblock_of(config, image).encode(&mut block);
    Superblock::decode(&block).map(drop).map_err(RecoverError::Indescribable)
}

/// A volume is free if no slot says otherwise, and none may say so. A damaged slot beside one that was never
/// written is an enable that was interrupted: that clears both first.
fn refuse_live<S: BlockStore>(io: &mut Blocking<'_, S>, bitmap: DeviceSlot) -> Result<(), RecoverError> {
    let slots = read_slots(io, bitmap)?;
    for slot in slots.iter().flatten() {
        let over = matches!(slot.header.state, SetState::Disabled | SetState::Prepared);
        // A crash may have left the older slot as it was before the set was disabled: the newer one counts.
        let newer = |other: &Superblock| {
            other.identity.set == slot.identity.set && other.generation > slot.generation
        };
        if !over && !slots.iter().flatten().any(newer) {
            let identity = slot.identity.clone();
            return Err(RecoverError::InUse { set: identity.set, name: identity.name });
        }
    }
    match slots {
        [Err(a @ SuperblockError::Damaged), Err(b @ SuperblockError::Damaged)] => {
            Err(RecoverError::Damaged { a, b })
        }
        slots => refuse_unusable(&slots),
    }
}

type Slots = [Result<Superblock, SuperblockError>; 2];

fn read_slots<S: BlockStore>(io: &mut Blocking<'_, S>, bitmap: DeviceSlot) -> Result<Slots, RecoverError> {
    let mut read = |offset| -> Result<_, RecoverError> {
        Ok(Superblock::decode(&io.read_block(bitmap, offset).map_err(bitmap_error)?))
    };
    Ok([read(0)?, read(umbra_format::SLOT_B_OFFSET)?])
}

fn refuse_unusable(slots: &Slots) -> Result<(), RecoverError> {
    for (slot, found) in [Place::A, Place::B].into_iter().zip(slots) {
        if let Err(error) = found
            && error.is_whole()
        {
            return Err(RecoverError::Unusable { slot, source: error.clone() });
        }
    }
    Ok(())
}

/// Reads the superblock that counts, without changing anything.
///
/// # Errors
/// [`RecoverError`] when no slot can be used or the two contradict each other.
pub fn read_superblock<S: BlockStore>(store: &mut S, bitmap: DeviceSlot) -> Result<Superblock, RecoverError> {
    choose_superblock(&mut Blocking::new(store), bitmap)
}

fn choose_superblock<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    bitmap: DeviceSlot,
) -> Result<Superblock, RecoverError> {
    let slots = read_slots(io, bitmap)?;
    refuse_unusable(&slots)?;
    let [a, b] = slots;
    match (a, b) {
        (Ok(a), Ok(b)) if a.identity.set != b.identity.set => {
            Err(RecoverError::TwoSets { a: a.identity.set, b: b.identity.set })
        }
        (Ok(a), Ok(b)) => Ok(if b.generation > a.generation { b } else { a }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(SuperblockError::Foreign), Err(SuperblockError::Foreign)) => Err(RecoverError::Foreign),
        (Err(a), Err(b)) => Err(RecoverError::Damaged { a, b }),
    }
}

/// Recovers a set; see the module.
///
/// # Errors
/// [`RecoverError`]; nothing was written unless the error is of a device.
pub fn recover_set<S: BlockStore>(
    store: &mut S,
    devices: SetDevices,
    session: Session,
    known: Known,
    options: SetOptions,
) -> Result<(SetConfig, SetImage), RecoverError> {
    let mut io = Blocking::new(store);
    if !is_off(Rule::FlushAtRecovery) {
        io.flush(devices.bitmap).map_err(bitmap_error)?;
        io.flush(devices.shadow).map_err(shadow_error)?;
    }
    let superblock = choose_superblock(&mut io, devices.bitmap)?;
    let mut identity = superblock.identity;
    check_sizes(io.store(), devices, &identity)?;
    let zero = Id128::default();
    if identity.session != zero && identity.node != session.node {
        return Err(RecoverError::ForeignSession { set: identity.set, node: identity.node });
    }
    (identity.node, identity.session) = (session.node, session.session);
    let config = config(io.store(), devices, identity, options);
    let mut header = match superblock.doubt {
        Some(doubt) if known.commit => doubt.then,
        Some(_) | None => superblock.header,
    };
    if header.state == SetState::Disabled {
        return Err(RecoverError::Disabled(config.identity.set));
    }
    let labelled_end = read_label(&mut io, &config)?;
    let witnesses: Vec<Ended> = [known.ended, labelled_end].into_iter().flatten().collect();
    let witnesses: Vec<Ended> = witnesses.into_iter().filter(|ended| ended.epoch >= header.epoch).collect();
    let ended = witnesses.iter().map(|ended| ended.epoch).max();
    // One that says that the restore came to its end is the later one.
    if ended.is_some() && header.state.is_restoring() && witnesses.iter().all(|ended| ended.master_incomplete)
    {
        return Err(RecoverError::MasterIncomplete(config.identity.set));
    }
    if ended.is_some() && header.state != SetState::Prepared {
        header.state = SetState::Offline(OfflineCause::Bitmap);
    }
    // A cut whose outcome was unknown gave an epoch up that the superblock may not have: it is not used again.
    // The highest of all stands for "whatever it was" and raises nothing.
    header.epoch =
        ended.filter(|epoch| *epoch != Epoch(u64::MAX)).map_or(header.epoch, |ended| ended.max(header.epoch));
    let bases = read_pages(&mut io, &config, &header, superblock.generation)?;
    let ring = read_ring(&mut io, &config, &header)?;
    let mut replay = Replay::new(&config.identity, header, bases, ring.blocks);
    if ring.unknown || replay.is_damaged() {
        if header.state.is_restoring() {
            return Err(RecoverError::MasterIncomplete(config.identity.set));
        }
        replay.give_up();
    } else {
        let accepted = check_hashes(&mut io, &config, &replay)?;
        replay.apply(&accepted);
    }
    let mut image = replay.finish(superblock.generation);
    if is_off(Rule::CheckpointAtRecovery) {
        return Ok((config, image));
    }
    let generation = superblock.generation;
    write_pages(&mut io, &config, &mut image, generation.next())?;
    image.generation = generation.next().next();
    image.header.ring_generation = RingGeneration(header.ring_generation.0 + 1);
    (image.header.checkpoint_upto, image.header.confirmed_upto) = (image.last, image.last);
    image.header.merging = false;
    image.header.clean = false;
    write_superblocks(&mut io, &config, &image)?;
    Ok((config, image))
}

/// The end that the shadow's label records, if it is there and says so.
fn read_label<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
) -> Result<Option<Ended>, RecoverError> {
    let block = io.read_block(config.devices.shadow, 0).map_err(shadow_error)?;
    let Ok(label) = Label::decode(&block) else { return Ok(None) };
    let identity = &config.identity;
    if label.set != identity.set || label.shadow != identity.shadow.uuid {
        return Err(RecoverError::Swapped {
            set: identity.set,
            expected: identity.shadow.uuid,
            found_set: label.set,
            found: label.shadow,
        });
    }
    let end = |end| Ended { epoch: label.epoch, master_incomplete: end == ImageEnd::MasterIncomplete };
    Ok(label.end.map(end))
}

fn read_pages<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    header: &SetHeader,
    generation: SuperblockGeneration,
) -> Result<Vec<Vec<Base>>, RecoverError> {
    let layout = &config.layout;
    let first = layout.page(PlaneId::Held, 0, Place::A);
    let pages: u64 = PlaneId::ALL.iter().map(|plane| layout.pages(*plane)).sum();
    let mut found: Vec<Base> = vec![Base::Damaged; usize::try_from(pages).expect("planes fit in memory")];
    let range = ByteRange::new(first, pages * 2 * BLOCK_BYTES as u64);
    let mut stale = false;
    io.scan(config.devices.bitmap, range, |offset, bytes| {
        for (n, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("exact chunks");
            let Ok(page) = decode_page(block) else { continue };
            let at = offset + (n * BLOCK_BYTES) as u64;
            let (plane, index) = (page.header.plane, page.header.index);
            let places = [Place::A, Place::B].map(|place| layout.page(plane, index, place));
            // Behind its plane's end a page would stand where one of the next plane belongs.
            let exists = u64::from(index) < layout.pages(plane);
            if page.header.set != config.identity.set || !exists || !places.contains(&at) {
                continue;
            }
            // Pages are stamped with the generation at hand, while a commit is on its way with the next.
            stale |= page.header.epoch > header.epoch || page.header.stamp > generation.next();
            let slot = usize::try_from((at - first) / (2 * BLOCK_BYTES as u64)).expect("within the scan");
            if found[slot].stamp().is_none_or(|stamp| stamp < page.header.stamp) {
                found[slot] = Base::Page(page);
            }
        }
    })
    .map_err(bitmap_error)?;
    if stale {
        return Err(RecoverError::Stale);
    }
    let mut found = found.into_iter();
    let count = |plane: PlaneId| usize::try_from(layout.pages(plane)).expect("planes fit in memory");
    Ok(PlaneId::ALL.iter().map(|plane| found.by_ref().take(count(*plane)).collect()).collect())
}

/// What the journal ring holds behind the checkpoint.
struct Ring {
    blocks: Vec<JournalBlock>,
    /// A block of this set is whole and makes no sense: nobody knows what was relied upon.
    unknown: bool,
}

fn read_ring<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    header: &SetHeader,
) -> Result<Ring, RecoverError> {
    let layout = &config.layout;
    let mut blocks: Vec<JournalBlock> = Vec::new();
    let mut unknown = false;
    let mut stale = false;
    let range = ByteRange::new(RING_OFFSET, layout.ring_blocks * BLOCK_BYTES as u64);
    io.scan(config.devices.bitmap, range, |offset, bytes| {
        for (n, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("exact chunks");
            let journal = match decode_journal(config.identity.set, block) {
                Ok(journal) => journal,
                Err(error) => {
                    unknown |= error.is_whole();
                    continue;
                }
            };
            let in_place = layout.journal_block(journal.sequence) == offset + (n * BLOCK_BYTES) as u64;
            stale |= journal.ring_generation > header.ring_generation;
            let current = journal.ring_generation == header.ring_generation;
            if in_place && current && journal.sequence > header.checkpoint_upto {
                stale |= journal.epoch > header.epoch;
                blocks.push(journal);
            }
        }
    })
    .map_err(bitmap_error)?;
    blocks.sort_unstable_by_key(|block| block.sequence);
    if stale { Err(RecoverError::Stale) } else { Ok(Ring { blocks, unknown }) }
}

/// For every record that needs it, whether the shadow's bytes have its hash.
fn check_hashes<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    replay: &Replay,
) -> Result<Vec<bool>, RecoverError> {
    let geometry = &config.identity.geometry;
    let mut accepted = Vec::new();
    for (run, hash) in replay.unconfirmed() {
        if run.end().0 > geometry.chunk_count() {
            accepted.push(false);
            continue;
        }
        let range = geometry.bytes_of(run);
        accepted.push(range.len <= HASHED_BYTES_MAX && hash_shadow(io, config, replay, range)? == hash);
    }
    Ok(accepted)
}

/// Longest run that is copied at once, with room to spare: a record of more was not written by a copy.
const HASHED_BYTES_MAX: u64 = 64 << 20;

/// Hash of what the shadow presents, its head wherever that is.
fn hash_shadow<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    replay: &Replay,
    range: ByteRange,
) -> Result<u64, RecoverError> {
    let head_bytes = if replay.head_moved() { config.identity.head_bytes } else { 0 };
    let head_end = head_bytes.clamp(range.start, range.end());
    let head = ByteRange::new(config.layout.head_offset() + range.start, head_end - range.start);
    let rest = ByteRange::new(head_end, range.end() - head_end);
    let mut hasher = DataHasher::default();
    io.scan(config.devices.bitmap, head, |_, bytes| hasher.update(bytes)).map_err(bitmap_error)?;
    io.scan(config.devices.shadow, rest, |_, bytes| hasher.update(bytes)).map_err(shadow_error)?;
    Ok(hasher.finish())
}

/// Writes every dirty page to both places, the second after the first is durable.
fn write_pages<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    image: &mut SetImage,
    stamp: SuperblockGeneration,
) -> Result<(), RecoverError> {
    // Regions last: until *differs* is durable only they say what may differ.
    let (regions, others): (Vec<PlaneId>, Vec<PlaneId>) = PlaneId::ALL.iter().partition(|id| id.per_region());
    write_planes(io, config, image, stamp, &others)?;
    write_planes(io, config, image, stamp, &regions)
}

fn write_planes<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    image: &mut SetImage,
    stamp: SuperblockGeneration,
    planes: &[PlaneId],
) -> Result<(), RecoverError> {
    let mut dirty: Vec<(PlaneId, usize)> = Vec::new();
    for id in planes {
        let plane: &mut Plane = &mut image.planes[id.index()];
        let mut from = 0;
        while let Some(page) = plane.take_dirty(from) {
            dirty.push((*id, page));
            from = page + 1;
        }
    }
    if dirty.is_empty() {
        return Ok(());
    }
    for place in [Place::A, Place::B] {
        for (id, page) in &dirty {
            let index = u32::try_from(*page).expect("pages are counted in 32 bits");
            let header = PageHeader {
                set: config.identity.set,
                plane: *id,
                index,
                epoch: image.header.epoch,
                sequence: image.last,
                stamp,
            };
            let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
            encode_page(&header, image.planes[id.index()].page_words(*page), &mut block);
            let offset = config.layout.page(*id, index, place);
            io.write(config.devices.bitmap, offset, block).map_err(bitmap_error)?;
        }
        io.flush(config.devices.bitmap).map_err(bitmap_error)?;
    }
    Ok(())
}

fn superblock_of(config: &SetConfig, image: &SetImage) -> Superblock {
    Superblock {
        generation: image.generation,
        identity: config.identity.clone(),
        header: image.header,
        doubt: None,
    }
}

fn write_superblocks<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    image: &SetImage,
) -> Result<(), RecoverError> {
    let superblock = superblock_of(config, image);
    for place in [Place::A, Place::B] {
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        superblock.encode(&mut block);
        io.write(config.devices.bitmap, config.layout.superblock(place), block).map_err(bitmap_error)?;
        io.flush(config.devices.bitmap).map_err(bitmap_error)?;
    }
    Ok(())
}
