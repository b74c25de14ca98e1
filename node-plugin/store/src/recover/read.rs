//! The first steps of a recovery: what is there, compared with what should be. Nothing here writes.

use super::write::{Twins, write_back, write_label};
use super::{
    Ended, Known, RecoverError, Session, SetConfig, SetDevices, SetOptions, blocking, check_sizes, config,
    failed,
};
use crate::block_store::{BlockStore, DeviceSlot};
use crate::blocking::{BatchError, Blocking, Job, block_of, pieces};
use crate::replay::{Base, Replay};
use std::time::Duration;
use umbra_engine::{
    ByteRange, ChunkRun, Id128, JournalBlock, Mode, OfflineCause, Place, PlaneId, SetHeader, SetImage,
    SetState, SuperblockGeneration,
    mutation::{Rule, is_off},
};
use umbra_format::{
    BLOCK_BYTES, DataHasher, ImageEnd, Label, Page, RING_OFFSET, SLOT_B_OFFSET, Superblock, SuperblockError,
    decode_journal, decode_page,
};

pub(super) type Slots = [Result<Superblock, SuperblockError>; 2];

const BLOCK: u64 = BLOCK_BYTES as u64;
/// What no crash tears.
const SECTOR: usize = 512;
const SLOT_OFFSETS: [u64; 2] = [0, SLOT_B_OFFSET];

/// A set as its superblock and its shadow's first block show it. Nothing was written yet.
#[derive(Debug)]
pub struct FoundSet {
    devices: SetDevices,
    options: SetOptions,
    superblock: Superblock,
    slots: Twins,
    /// The first block of the shadow.
    start: [u8; BLOCK_BYTES],
}

/// Reads the superblock that counts, and what stands at the shadow's start, without changing anything.
///
/// # Errors
/// [`RecoverError`] when a device fails or hangs, no slot can be used, or the two contradict each other.
pub fn find_set<S: BlockStore>(
    store: &mut S,
    devices: SetDevices,
    options: SetOptions,
) -> Result<FoundSet, RecoverError> {
    let mut io = blocking(store, devices, options);
    let mut blocks = Vec::new();
    let flushes = [devices.bitmap, devices.shadow].map(Job::flush);
    if !is_off(Rule::FlushAtRecovery) {
        io.run(flushes, |_, _| ()).map_err(failed(devices))?;
    }
    let places = [(devices.bitmap, SLOT_OFFSETS[0]), (devices.bitmap, SLOT_OFFSETS[1]), (devices.shadow, 0)];
    let reads = places.map(|(device, offset)| Job::read(device, ByteRange::new(offset, BLOCK)));
    io.run(reads, |_, buf| blocks.push(block_of(buf.as_ref()))).map_err(failed(devices))?;
    let (superblock, slots) = choose([Superblock::decode(&blocks[0]), Superblock::decode(&blocks[1])])?;
    Ok(FoundSet { devices, options, superblock, slots, start: blocks[2] })
}

/// Reads the superblock that counts, without changing anything. No operation takes longer than `deadline`.
///
/// # Errors
/// [`RecoverError`] when the device fails or hangs, no slot can be used, or the two contradict each other.
pub fn read_superblock<S: BlockStore>(
    store: &mut S,
    bitmap: DeviceSlot,
    deadline: Duration,
) -> Result<Superblock, RecoverError> {
    let slots = read_slots(&mut Blocking::new(store, deadline), bitmap);
    let devices = SetDevices { shadow: DeviceSlot(u16::MAX), bitmap };
    choose(slots.map_err(failed(devices))?).map(|(superblock, _)| superblock)
}

pub(super) fn read_slots<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    bitmap: DeviceSlot,
) -> Result<Slots, BatchError> {
    let mut slots = Vec::new();
    let reads = SLOT_OFFSETS.map(|offset| Job::read(bitmap, ByteRange::new(offset, BLOCK)));
    io.run(reads, |_, buf| slots.push(Superblock::decode(&block_of(buf.as_ref()))))?;
    Ok(slots.try_into().expect("two slots were read"))
}

pub(super) fn refuse_unusable(slots: &Slots) -> Result<(), RecoverError> {
    for (slot, found) in [Place::A, Place::B].into_iter().zip(slots) {
        if let Err(error) = found
            && error.is_whole()
        {
            return Err(RecoverError::Unusable { slot, source: error.clone() });
        }
    }
    Ok(())
}

/// The slot that counts, and which of the two is the worse.
fn choose(slots: Slots) -> Result<(Superblock, Twins), RecoverError> {
    refuse_unusable(&slots)?;
    let worse = |worse| Twins { worse, alike: false };
    match slots {
        [Ok(a), Ok(b)] if a.identity.set != b.identity.set => {
            Err(RecoverError::TwoSets { a: a.identity.set, b: b.identity.set })
        }
        [Ok(a), Ok(b)] if b.generation > a.generation => Ok((b, worse(Place::A))),
        [Ok(a), Ok(_) | Err(_)] => Ok((a, worse(Place::B))),
        [Err(_), Ok(b)] => Ok((b, worse(Place::A))),
        [Err(SuperblockError::Foreign), Err(SuperblockError::Foreign)] => Err(RecoverError::Foreign),
        [Err(a), Err(b)] => Err(RecoverError::Damaged { a, b }),
    }
}

impl FoundSet {
    /// The superblock that counts: who the set is, and a cut that it may be in doubt about.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Recovers the set. Refusals come before anything is written.
    ///
    /// # Errors
    /// [`RecoverError`]; nothing was written unless a device failed or hung.
    pub fn recover<S: BlockStore>(
        self,
        store: &mut S,
        session: Session,
        known: Known,
    ) -> Result<(SetConfig, SetImage), RecoverError> {
        known.expected.compare(&self.superblock)?;
        let devices = self.devices;
        let mut io = blocking(store, devices, self.options);
        let mut identity = self.superblock.identity.clone();
        check_sizes(io.store(), devices, &identity)?;
        if identity.session != Id128::default() && identity.node != session.node {
            return Err(RecoverError::ForeignSession { set: identity.set, node: identity.node });
        }
        (identity.node, identity.session) = (session.node, session.session);
        let mut config = config(io.store(), devices, identity, self.options);
        let mut header = match &self.superblock.doubt {
            Some(doubt) if known.commit => doubt.then,
            Some(_) | None => self.superblock.header,
        };
        if header.state == SetState::Disabled {
            return Err(RecoverError::Disabled(config.identity.set));
        }
        let label = self.label(&mut io, &config, &header)?;
        config.labelled = label != LabelFound::HeadInPlace;
        let labelled_end = if let LabelFound::Ours(end) = label { end } else { None };
        end_image(&mut header, &config, known.ended, labelled_end)?;
        let generation = self.superblock.generation;
        let (mut bases, ring) = read_metadata(&mut io, &config, &header, generation)?;
        let pages = std::mem::take(&mut bases.twins);
        let unread = bases.found.iter().flatten().any(|base| matches!(base, Base::Damaged));
        let mut replay = Replay::new(&config.identity, header, bases.found, ring.blocks);
        if ring.unknown || replay.is_damaged() {
            if header.state.is_restoring() {
                return Err(RecoverError::MasterIncomplete(config.identity.set));
            }
            replay.give_up();
        } else {
            let accepted = check_hashes(&mut io, &config, &replay)?;
            replay.apply(&accepted);
            if known.master_changed {
                replay.master_changed();
            }
        }
        let mut image = replay.finish(generation);
        if !is_off(Rule::CheckpointAtRecovery) {
            if label == LabelFound::Absent {
                write_label(&mut io, &config, image.header.epoch)?;
            }
            write_back(&mut io, &config, &mut image, (&pages, unread), self.slots)?;
        }
        Ok((config, image))
    }

    /// Whether the shadow is this set's, by the label that stands where its head was moved away, and what that says.
    ///
    /// While the head is in place the first block is the user's, whatever stands in it. A dependent set's shadow is
    /// labelled from the enable on. An independent one's lacks its label for a moment after a cut, of which the
    /// superblock knows, and while its head is moved back, when it has all of the head already.
    fn label<S: BlockStore>(
        &self,
        io: &mut Blocking<'_, S>,
        config: &SetConfig,
        header: &SetHeader,
    ) -> Result<LabelFound, RecoverError> {
        if !header.head_moved {
            return Ok(LabelFound::HeadInPlace);
        }
        let identity = &config.identity;
        let (set, expected) = (identity.set, identity.shadow.uuid);
        let dependent = identity.mode == Mode::Dependent;
        let labelled = self.superblock.labelled && self.superblock.header.head_moved;
        let owner = Label::owner(&self.start);
        if owner == Some((set, expected)) {
            return Ok(match Label::decode(&self.start) {
                Ok(label) => LabelFound::Ours(label.end.map(|end| Ended {
                    epoch: label.epoch,
                    master_incomplete: end == ImageEnd::MasterIncomplete,
                })),
                // Rot elsewhere in it: the volume is the right one, and the label no witness of anything.
                Err(_) => LabelFound::Absent,
            });
        }
        let explained = !dependent && (owner.is_none() && !labelled || self.has_head(io, config)?);
        match owner {
            _ if explained => Ok(LabelFound::Absent),
            Some((found_set, found)) => Err(RecoverError::Swapped { set, expected, found_set, found }),
            None => Err(RecoverError::Unlabelled { set, expected }),
        }
    }

    /// Whether the shadow has what was moved away. Moving back writes the first block last, and its first sector is
    /// whole in any case.
    fn has_head<S: BlockStore>(
        &self,
        io: &mut Blocking<'_, S>,
        config: &SetConfig,
    ) -> Result<bool, RecoverError> {
        let len = config.identity.head_bytes.min(config.identity.geometry.master_bytes());
        let read = |io: &mut Blocking<'_, S>, device, offset| {
            let mut head = Vec::new();
            let range = ByteRange::new(offset, len);
            io.scan(device, range, |_, bytes| head.extend_from_slice(bytes)).map_err(failed(self.devices))?;
            Ok::<_, RecoverError>(head)
        };
        let moved = read(io, self.devices.bitmap, config.layout.head_offset())?;
        let here = read(io, self.devices.shadow, 0)?;
        let rest = BLOCK_BYTES.min(moved.len());
        Ok(moved[..SECTOR] == here[..SECTOR] && moved[rest..] == here[rest..])
    }
}

/// What was found at the start of a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelFound {
    /// No label belongs there.
    HeadInPlace,
    /// The set's own, with the end that it records.
    Ours(Option<Ended>),
    /// None that is whole, which a crash or rot explains: it is written anew.
    Absent,
}

/// What the state directory and the label know of the end of the image (E7).
fn end_image(
    header: &mut SetHeader,
    config: &SetConfig,
    recorded: Option<Ended>,
    labelled: Option<Ended>,
) -> Result<(), RecoverError> {
    let witnesses = [recorded, labelled].into_iter().flatten();
    let witnesses: Vec<Ended> = witnesses.filter(|ended| ended.epoch >= header.epoch).collect();
    let Some(ended) = witnesses.iter().map(|ended| ended.epoch).max() else { return Ok(()) };
    // One that says that the restore came to its end is the later one.
    if header.state.is_restoring() && witnesses.iter().all(|ended| ended.master_incomplete) {
        return Err(RecoverError::MasterIncomplete(config.identity.set));
    }
    if header.state != SetState::Prepared {
        header.state = SetState::Offline(OfflineCause::Bitmap);
    }
    // A cut whose outcome was unknown gave an epoch up that the superblock may not have: it is not used again.
    // The highest of all stands for "whatever it was" and raises nothing.
    if ended.0 != u64::MAX {
        header.epoch = ended.max(header.epoch);
    }
    Ok(())
}

/// Pages by plane, and how their places are to each other.
struct Pages {
    found: Vec<Vec<Base>>,
    twins: Vec<Vec<Twins>>,
}

/// What the journal ring holds behind the checkpoint.
struct Ring {
    blocks: Vec<JournalBlock>,
    /// A block of this set is whole and makes no sense: nobody knows what was relied upon.
    unknown: bool,
}

/// Reads all pages and the whole journal ring.
fn read_metadata<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    header: &SetHeader,
    generation: SuperblockGeneration,
) -> Result<(Pages, Ring), RecoverError> {
    let mut pages = PageScan::new(config, header, generation);
    let mut ring = RingScan { config, header, blocks: Vec::new(), unknown: false, stale: false };
    let ring_range = ByteRange::new(RING_OFFSET, config.layout.ring_blocks * BLOCK);
    let all =
        pieces(ring_range).map(|piece| (true, piece)).chain(pieces(pages.range).map(|piece| (false, piece)));
    let mut order = all.clone();
    let reads = all.map(|(_, piece)| Job::read(config.devices.bitmap, piece));
    io.run(reads, |_, buf| {
        let (Some((of_ring, piece)), Some(buf)) = (order.next(), buf) else { return };
        for (n, block) in buf.bytes().chunks_exact(BLOCK_BYTES).enumerate() {
            let block: &[u8; BLOCK_BYTES] = block.try_into().expect("exact chunks");
            let at = piece.start + n as u64 * BLOCK;
            if of_ring { ring.block(at, block) } else { pages.block(at, block) }
        }
    })
    .map_err(failed(config.devices))?;
    if pages.stale || ring.stale {
        return Err(RecoverError::Stale);
    }
    ring.blocks.sort_unstable_by_key(|block| block.sequence);
    let ring = Ring { blocks: ring.blocks, unknown: ring.unknown };
    Ok((pages.finish(), ring))
}

struct PageScan<'a> {
    config: &'a SetConfig,
    header: &'a SetHeader,
    generation: SuperblockGeneration,
    range: ByteRange,
    found: Vec<Base>,
    twins: Vec<Twins>,
    stale: bool,
}

impl<'a> PageScan<'a> {
    fn new(config: &'a SetConfig, header: &'a SetHeader, generation: SuperblockGeneration) -> Self {
        let first = config.layout.page(PlaneId::Held, 0, Place::A);
        let pages: u64 = PlaneId::ALL.iter().map(|plane| config.layout.pages(*plane)).sum();
        let range = ByteRange::new(first, pages * 2 * BLOCK);
        let pages = usize::try_from(pages).expect("planes fit in memory");
        let (found, twins) =
            (vec![Base::Damaged; pages], vec![Twins { worse: Place::A, alike: false }; pages]);
        Self { config, header, generation, range, found, twins, stale: false }
    }

    /// The page that stands at `at`, if it belongs there.
    fn page_at(&self, at: u64, block: &[u8; BLOCK_BYTES]) -> Option<Page> {
        let layout = &self.config.layout;
        let page = decode_page(block).ok()?;
        let (plane, index) = (page.header.plane, page.header.index);
        let places = [Place::A, Place::B].map(|place| layout.page(plane, index, place));
        // Behind its plane's end a page would stand where one of the next plane belongs.
        let exists = u64::from(index) < layout.pages(plane);
        (page.header.set == self.config.identity.set
            && exists
            && (places.contains(&at) || is_off(Rule::BlockInItsPlace)))
        .then_some(page)
    }

    fn block(&mut self, at: u64, block: &[u8; BLOCK_BYTES]) {
        let Some(page) = self.page_at(at, block) else { return };
        // Pages are stamped with the generation at hand, while a commit is on its way with the next.
        self.stale |= page.header.epoch > self.header.epoch || page.header.stamp > self.generation.next();
        let number = (at - self.range.start) / BLOCK;
        let slot = usize::try_from(number / 2).expect("within the scan");
        let other = if number.is_multiple_of(2) { Place::B } else { Place::A };
        let newer = match &self.found[slot] {
            Base::Damaged => true,
            Base::Page(found) => {
                self.twins[slot].alike = *found == page;
                found.header.stamp < page.header.stamp
            }
        };
        if newer {
            self.found[slot] = Base::Page(page);
            self.twins[slot].worse = other;
        }
    }

    fn finish(self) -> Pages {
        let layout = &self.config.layout;
        let count = |plane: &PlaneId| usize::try_from(layout.pages(*plane)).expect("planes fit in memory");
        let (mut found, mut twins) = (self.found.into_iter(), self.twins.into_iter());
        Pages {
            found: PlaneId::ALL.iter().map(|plane| found.by_ref().take(count(plane)).collect()).collect(),
            twins: PlaneId::ALL.iter().map(|plane| twins.by_ref().take(count(plane)).collect()).collect(),
        }
    }
}

struct RingScan<'a> {
    config: &'a SetConfig,
    header: &'a SetHeader,
    blocks: Vec<JournalBlock>,
    unknown: bool,
    stale: bool,
}

impl RingScan<'_> {
    fn block(&mut self, at: u64, block: &[u8; BLOCK_BYTES]) {
        let journal = match decode_journal(self.config.identity.set, block) {
            Ok(journal) => journal,
            Err(error) => {
                self.unknown |= error.is_whole();
                return;
            }
        };
        let in_place = self.config.layout.journal_block(journal.sequence) == at;
        self.stale |= journal.ring_generation > self.header.ring_generation;
        let current = journal.ring_generation == self.header.ring_generation;
        if in_place && current && journal.sequence > self.header.checkpoint_upto {
            self.stale |= journal.epoch > self.header.epoch;
            self.blocks.push(journal);
        }
    }
}

/// Longest run that is copied at once, with room to spare: a record of more was not written by a copy.
const HASHED_BYTES_MAX: u64 = 64 << 20;

/// For every record that needs it, whether the bytes that the shadow presents have its hash.
fn check_hashes<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    replay: &Replay,
) -> Result<Vec<bool>, RecoverError> {
    let geometry = config.identity.geometry;
    let head_bytes = if replay.head_moved() { config.identity.head_bytes } else { 0 };
    let records: Vec<(ChunkRun, u64)> = replay.unconfirmed().collect();
    let sane = |run: &ChunkRun| {
        run.end().0 <= geometry.chunk_count() && geometry.bytes_of(*run).len <= HASHED_BYTES_MAX
    };
    let mut hashers = vec![DataHasher::default(); records.len()];
    let all = records.iter().enumerate().filter(|(_, (run, _))| sane(run)).flat_map(|(n, (run, _))| {
        presented(config, head_bytes, geometry.bytes_of(*run)).map(move |(device, piece)| (n, device, piece))
    });
    let mut order = all.clone();
    let reads = all.map(|(_, device, piece)| Job::read(device, piece));
    io.run(reads, |_, buf| {
        if let (Some((n, ..)), Some(buf)) = (order.next(), buf) {
            hashers[n].update(buf.bytes());
        }
    })
    .map_err(failed(config.devices))?;
    let accepted =
        records.iter().zip(&hashers).map(|((run, hash), hasher)| sane(run) && hasher.finish() == *hash);
    Ok(accepted.collect())
}

/// Where the bytes are that the shadow presents for a range, its head wherever that is.
fn presented(
    config: &SetConfig,
    head_bytes: u64,
    range: ByteRange,
) -> impl Iterator<Item = (DeviceSlot, ByteRange)> + Clone + use<> {
    let SetDevices { shadow, bitmap } = config.devices;
    let head_end = head_bytes.clamp(range.start, range.end());
    let head = ByteRange::new(config.layout.head_offset() + range.start, head_end - range.start);
    let rest = ByteRange::new(head_end, range.end() - head_end);
    pieces(head).map(move |piece| (bitmap, piece)).chain(pieces(rest).map(move |piece| (shadow, piece)))
}
