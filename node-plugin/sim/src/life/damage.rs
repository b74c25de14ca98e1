//! Metadata that rots, and writes of metadata that go astray.
//!
//! What the format promises of damage is the rule here. A block is hit where the format says what follows: *nothing*
//! (one slot, one place of a page, a block that is in the pages already), or an end that is *told* (a confirmed
//! journal block, both places of a page, both slots). Where it says that nobody can find out it is spared: the slot of
//! a commit whose other slot is older, and a journal block that nothing confirms. Of a write that went astray that is
//! only known at the next start, and what could not be found out then is put in its place before.
//!
//! What is hit right before a start must be survived without a trace where the format says so. What is hit earlier
//! counts as a fault of its device at the next start, since a crash may tear the block that would have stood in for
//! it; what comes of that may be an end, and never wrong data.

use super::{Life, Set};
use crate::oracle::{SetNumber, Side, Verdict};
use crate::plan::{Area, Disk};
use crate::stamp::{self, SECTOR};
use std::ops::Range;
use umbra_engine::{Epoch, Id128, JournalBlock, PAGE_BITS, Place, PlaneId, Sequence, SetImage, SetState};
use umbra_format::{BLOCK_BYTES, Label, Layout, RING_OFFSET, Superblock, decode_journal, decode_page};
use umbra_store::{Crash, DeviceSlot, SimRng, Stray};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Turns that a step waits for a write to lead astray.
const STRAY_TURNS: u32 = 60;

/// What is hit before a start; pages most, since each plane has its own rule.
const AT_START: [Area; 7] =
    [Area::Slot, Area::Journal, Area::Page, Area::Page, Area::Page, Area::Head, Area::Label];

type Block = [u8; BLOCK_BYTES];

/// What the format says of a block that is hit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its twin stands in, or nobody needs it.
    Nothing,
    /// The image ends, or is known to differ everywhere.
    Ends,
    /// These chunks are lost.
    Lost(Range<u64>),
    /// Something is told: an end, a refusal, or that more is lost or differs than is.
    Told,
    /// It is data of the image.
    Data { sector: u64 },
}

/// A block to be hit.
#[derive(Clone, Debug)]
struct Hit {
    disk: Disk,
    offset: u64,
    /// Its other place, which is hit as well.
    twin: Option<u64>,
    /// Bytes of the block that may be hit.
    bytes: Range<usize>,
    outcome: Outcome,
}

/// What has been hit of a set and has not been seen by a start.
#[derive(Clone, Debug, Default)]
pub(super) struct Damage {
    /// Since the last start: where, and what stands there.
    latent: Vec<(Disk, u64, Block)>,
    strayed: Option<Strayed>,
    /// The next recovery must end the image.
    ends: bool,
    /// The next recovery must say that these chunks are lost.
    lost: Option<Range<u64>>,
    /// The label names nobody any more.
    pub(super) unlabelled: bool,
}

#[derive(Clone, Debug)]
struct Strayed {
    stray: Stray,
    /// What stood where it should have gone.
    before: Block,
}

/// What the durable superblock and ring of a set say.
struct Durable {
    superblock: Superblock,
    /// Blocks of its ring generation, with their offsets.
    ring: Vec<(u64, JournalBlock)>,
    confirmed: Sequence,
}

impl Life {
    /// A step: a block of the set rots.
    pub(super) fn rot(&mut self, set: SetNumber, area: Area, pick: u64) {
        let rng = &mut SimRng::new(pick);
        let busy = self.commands.values().any(|running| running.concerns(set));
        if area == Area::Head && busy {
            return;
        }
        if let Some(hit) = self.hit(set, area, rng) {
            self.decay(set, &hit, true, rng);
            let device = self.disk(hit.disk);
            for offset in std::iter::once(hit.offset).chain(hit.twin) {
                let stands = self.block(device, offset);
                self.damage(set).latent.push((hit.disk, offset, stands));
            }
        }
    }

    /// A step: the next write of metadata lands on another block.
    pub(super) fn lead_astray(&mut self, set: SetNumber, area: Area, pick: u64) -> Verdict {
        let crashes = self.tally.crashes;
        for _ in 0..STRAY_TURNS {
            if self.tally.crashes > crashes || self.enabled(set).is_none_or(|of| of.damage.strayed.is_some())
            {
                break;
            }
            let hit = self.hit(set, area, &mut SimRng::new(pick));
            let alone = |hit: &Hit| hit.twin.is_none() && !matches!(hit.outcome, Outcome::Data { .. });
            if let Some(hit) = hit.filter(|hit| hit.disk == Disk::Bitmap(set) && alone(hit)) {
                let (device, layout) = (self.disk(hit.disk), self.layout(set));
                let head = layout.head_offset()..layout.planes_offset();
                let metadata = |at: u64| !head.contains(&at);
                if let Some(stray) = self.world.lead_astray(device, BLOCK_BYTES, metadata, hit.offset) {
                    let before = self.block(device, stray.meant);
                    self.log(|| format!("astray: {} of set {set} went to {}", stray.meant, hit.offset));
                    self.tally.strays += 1;
                    self.count_damage(hit.disk);
                    self.damage(set).strayed = Some(Strayed { stray, before });
                    break;
                }
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Before a start: what nobody could find out is put right, what was hit before counts, and something is hit now.
    pub(super) fn damage_before_start(&mut self) {
        for set in self.set_numbers() {
            if self.enabled(set).is_none() {
                continue;
            }
            self.put_right(set);
            let Damage { latent, strayed, .. } = &self.damage(set).clone();
            let stands =
                |(disk, offset, block): &&(Disk, u64, Block)| self.block(self.disk(*disk), *offset) == *block;
            let disks: Vec<Disk> = latent.iter().filter(stands).map(|(disk, ..)| *disk).collect();
            disks.into_iter().for_each(|disk| self.count_damage(disk));
            if strayed.is_some() {
                self.count_damage(Disk::Bitmap(set));
                continue;
            }
            if self.calm || !self.damage_rng.chance(self.plan.rot_at_start) {
                continue;
            }
            let area = self.damage_rng.pick(&AT_START);
            let rng = &mut SimRng::new(self.damage_rng.bits());
            let Some(hit) = self.hit(set, area, rng) else { continue };
            self.decay(set, &hit, false, rng);
            match hit.outcome {
                Outcome::Nothing => continue,
                Outcome::Ends => self.damage(set).ends = true,
                Outcome::Lost(chunks) => {
                    self.damage(set).lost = Some(chunks);
                    if self.damage_rng.chance(700) {
                        // In the middle of its repair, if no other set is recovered first.
                        let at = self.world.operations() + 1 + self.damage_rng.below(25);
                        self.world.crash_at(Some((at, Crash::PowerCut { granule: 512 })));
                    }
                }
                Outcome::Told | Outcome::Data { .. } => {}
            }
            self.count_damage(hit.disk);
        }
    }

    /// A recovery has succeeded: what the format says of the damage must have come of it.
    pub(super) fn judge_damage(&mut self, set: SetNumber, image: &SetImage) -> Verdict {
        let Damage { ends, lost, .. } = std::mem::take(self.damage(set));
        let state = image.header.state;
        let over = matches!(state, SetState::Offline(_) | SetState::Prepared);
        let chunks = self.plan.geometry.chunk_count();
        let differs = image.planes[PlaneId::differs(image.header.tracking).index()].ones() == chunks;
        if ends && !over && !(state == SetState::Complete && differs) {
            return Err(format!("E8: set {set} is {state:?} though a confirmed journal block is gone"));
        }
        let plane = &image.planes[PlaneId::Lost.index()];
        if let Some(lost) = lost
            && !over
            && state != SetState::Complete
            && plane.count(lost.start, lost.end) != lost.end - lost.start
        {
            return Err(format!(
                "E2: set {set} is {state:?} and knows what nobody can know of chunks {lost:?}"
            ));
        }
        Ok(())
    }

    /// E9: what is lost and pending is an error on both sides, and a restore does not get past it.
    pub(super) fn stands_for_ever(&self, set: SetNumber) -> bool {
        let lost = self.status(set).is_some_and(|status| status.lost > 0);
        lost && self.damaged[Disk::Bitmap(set).index()] > 0
    }

    fn damage(&mut self, set: SetNumber) -> &mut Damage {
        let Set { enabled, .. } = self.set(set);
        &mut enabled.as_mut().expect("a set that is there").damage
    }

    fn count_damage(&mut self, disk: Disk) {
        self.damaged[disk.index()] += 1;
    }

    fn layout(&self, set: SetNumber) -> Layout {
        let plan = self.plan.sets[usize::from(set)];
        Layout::new(self.plan.geometry, plan.ring_blocks, plan.head_bytes)
    }

    fn block(&self, device: DeviceSlot, offset: u64) -> Block {
        let mut block = [0; BLOCK_BYTES];
        self.world.peek(device, offset, &mut block);
        block
    }

    fn durable_block(&self, device: DeviceSlot, offset: u64) -> Block {
        let mut block = [0; BLOCK_BYTES];
        self.world.peek_durable(device, offset, &mut block);
        block
    }

    /// The block, if no crash can change it.
    fn settled(&self, device: DeviceSlot, offset: u64) -> Option<Block> {
        let block = self.block(device, offset);
        (self.durable_block(device, offset) == block).then_some(block)
    }

    fn durable(&self, set: SetNumber, of: Id128) -> Option<Durable> {
        let (device, layout) = (self.disk(Disk::Bitmap(set)), self.layout(set));
        let slots = [Place::A, Place::B].map(|place| layout.superblock(place));
        let slots = slots.map(|offset| Superblock::decode(&self.durable_block(device, offset)).ok());
        let ours = slots.into_iter().flatten().filter(|superblock| superblock.identity.set == of);
        let superblock = ours.max_by_key(|superblock| superblock.generation)?;
        let header = superblock.header;
        let offsets = (0..layout.ring_blocks).map(|number| RING_OFFSET + number * BLOCK);
        let ring: Vec<(u64, JournalBlock)> = offsets
            .filter_map(|offset| {
                let journal = decode_journal(of, &self.durable_block(device, offset)).ok()?;
                let current = journal.ring_generation == header.ring_generation;
                (current && layout.journal_block(journal.sequence) == offset).then_some((offset, journal))
            })
            .collect();
        let behind = ring.iter().filter(|(_, journal)| journal.sequence > header.checkpoint_upto);
        let confirmed =
            behind.map(|(_, journal)| journal.confirmed_upto).fold(header.confirmed_upto, Sequence::max);
        Some(Durable { superblock, ring, confirmed })
    }

    /// A block of this area whose loss the format says something about; none if there is none now.
    fn hit(&self, set: SetNumber, area: Area, rng: &mut SimRng) -> Option<Hit> {
        let enabled = self.enabled(set).filter(|enabled| enabled.damage.strayed.is_none())?;
        let of = enabled.identity.set;
        match area {
            Area::Slot => self.hit_slot(set, of, rng),
            Area::Journal => self.hit_journal(set, of, rng),
            Area::Page => self.hit_page(set, of, rng),
            Area::Head => self.hit_head(set, of, rng),
            Area::Label => self.hit_label(set, of, rng),
        }
    }

    fn hit_slot(&self, set: SetNumber, of: Id128, rng: &mut SimRng) -> Option<Hit> {
        let (disk, layout) = (Disk::Bitmap(set), self.layout(set));
        let place = rng.pick(&[Place::A, Place::B]);
        let [offset, other] = [place, place.other()].map(|place| layout.superblock(place));
        let [this, other] = [offset, other].map(|at| self.settled(self.disk(disk), at));
        let this = Superblock::decode(&this?).ok().filter(|this| this.identity.set == of)?;
        let outcome = match Superblock::decode(&other?) {
            Ok(other) if other.identity.set == of => {
                (other.generation >= this.generation).then_some(Outcome::Nothing)?
            }
            // The set is gone then, which is told.
            _ => rng.chance(100).then_some(Outcome::Told)?,
        };
        Some(Hit { disk, offset, twin: None, bytes: 0..BLOCK_BYTES, outcome })
    }

    fn hit_journal(&self, set: SetNumber, of: Id128, rng: &mut SimRng) -> Option<Hit> {
        let disk = Disk::Bitmap(set);
        let device = self.disk(disk);
        let Durable { superblock, ring, confirmed } = self.durable(set, of)?;
        let slots = [Place::A, Place::B].map(|place| self.layout(set).superblock(place));
        if superblock.doubt.is_some() || slots.iter().any(|slot| self.settled(device, *slot).is_none()) {
            return None;
        }
        let checkpoint = superblock.header.checkpoint_upto;
        let mut known: Vec<(u64, Sequence)> = ring
            .iter()
            .map(|(offset, journal)| (*offset, journal.sequence))
            .filter(|(offset, sequence)| *sequence <= confirmed && self.settled(device, *offset).is_some())
            .collect();
        if known.iter().any(|(_, sequence)| *sequence > checkpoint) && rng.chance(700) {
            known.retain(|(_, sequence)| *sequence > checkpoint);
        }
        let (offset, sequence) = *known.get(rng.index(known.len()))?;
        let outcome = if sequence > checkpoint { Outcome::Ends } else { Outcome::Nothing };
        Some(Hit { disk, offset, twin: None, bytes: 0..BLOCK_BYTES, outcome })
    }

    fn hit_page(&self, set: SetNumber, of: Id128, rng: &mut SimRng) -> Option<Hit> {
        let (disk, layout) = (Disk::Bitmap(set), self.layout(set));
        let held = rng.chance(450);
        let plane = if held { PlaneId::Held } else { rng.pick(&PlaneId::ALL) };
        let index = rng.below(layout.pages(plane));
        let page = u32::try_from(index).ok()?;
        let place = rng.pick(&[Place::A, Place::B]);
        let [offset, other] = [place, place.other()].map(|place| layout.page(plane, page, place));
        let both = rng.chance(400);
        let stands_in = self.settled(self.disk(disk), other).is_some_and(|block| {
            let right = |page: umbra_format::Page| {
                (page.header.set, page.header.plane, page.header.index) == (of, plane, page_index(index))
            };
            decode_page(&block).is_ok_and(right)
        });
        let outcome = match plane {
            PlaneId::Held | PlaneId::Lost if both => {
                let first = index * PAGE_BITS;
                Outcome::Lost(first..(first + PAGE_BITS).min(self.plan.geometry.chunk_count()))
            }
            _ if both || !stands_in => Outcome::Told,
            _ => Outcome::Nothing,
        };
        Some(Hit { disk, offset, twin: both.then_some(other), bytes: 0..BLOCK_BYTES, outcome })
    }

    /// A sector of the shadow's head. What the image is there then nobody says, so that only images that certainly are
    /// what they are count.
    fn hit_head(&self, set: SetNumber, of: Id128, rng: &mut SimRng) -> Option<Hit> {
        let Durable { superblock, .. } = self.durable(set, of)?;
        let image = self.oracle.image(set).map(|image| Epoch(image.epoch));
        let known = image == Some(superblock.header.epoch) && !self.oracle.is_in_doubt(set);
        if !superblock.header.head_moved || superblock.doubt.is_some() || !known || self.restoring.is_some() {
            return None;
        }
        let plan = self.plan.sets[usize::from(set)];
        let head = plan.head_bytes.min(self.plan.geometry.master_bytes());
        let sector = rng.below(head / SECTOR as u64);
        let offset = self.layout(set).head_offset() + sector * SECTOR as u64;
        let within = usize::try_from(offset % BLOCK).ok()?;
        let (offset, bytes) = (offset - offset % BLOCK, within..within + SECTOR);
        Some(Hit { disk: Disk::Bitmap(set), offset, twin: None, bytes, outcome: Outcome::Data { sector } })
    }

    /// The label: all but its owner is only text. The witness of an end is spared, since it may be the only one.
    fn hit_label(&self, set: SetNumber, of: Id128, rng: &mut SimRng) -> Option<Hit> {
        let Durable { superblock, .. } = self.durable(set, of)?;
        if !superblock.header.head_moved || superblock.doubt.is_some() {
            return None;
        }
        let disk = Disk::Shadow(set);
        let label = Label::decode(&self.settled(self.disk(disk), 0)?).ok()?;
        if label.end.is_some() || label.set != of {
            return None;
        }
        let (bytes, outcome) =
            if rng.chance(800) { (64..BLOCK_BYTES, Outcome::Nothing) } else { (0..56, Outcome::Told) };
        Some(Hit { disk, offset: 0, twin: None, bytes, outcome })
    }

    /// Hits a block: some bits of it are others, or all of it is that of another place.
    fn decay(&mut self, set: SetNumber, hit: &Hit, lives: bool, rng: &mut SimRng) {
        let device = self.disk(hit.disk);
        self.tally.rotten += 1;
        self.log(|| format!("rot: {hit:?}"));
        if let Outcome::Data { sector } = hit.outcome {
            let mut bytes = [0; SECTOR];
            stamp::encode(stamp::decayed(rng.bits()), &mut bytes);
            self.world.poke(device, hit.offset + hit.bytes.start as u64, &bytes);
            self.decay_data(set, sector, lives);
            return;
        }
        self.damage(set).unlabelled |= hit.disk == Disk::Shadow(set) && hit.outcome == Outcome::Told;
        let copied = hit.twin.is_none() && hit.disk == Disk::Bitmap(set) && rng.chance(600);
        for offset in std::iter::once(hit.offset).chain(hit.twin) {
            let before = self.block(device, offset);
            let mut block = before;
            if copied {
                block = self.block(device, self.any_metadata(set, rng));
            }
            if block == before {
                for _ in 0..rng.range(1, 8) {
                    let at = hit.bytes.start + rng.index(hit.bytes.len());
                    // A bit of its own for each byte, so that no two undo each other.
                    block[at] = before[at] ^ (1 << (at % 8));
                }
            }
            self.world.poke(device, offset, &block);
        }
    }

    /// The head's data is whatever is found there from now on. A record that nobody has confirmed, or that is still to
    /// come while the set lives, is not believed without its data, and then its whole run is.
    fn decay_data(&mut self, set: SetNumber, sector: u64, lives: bool) {
        let of = self.enabled(set).expect("a set that is there").identity.set;
        let whole = lives
            || self.durable(set, of).is_none_or(|durable| {
                let device = self.disk(Disk::Bitmap(set));
                let layout = self.layout(set);
                let offsets = (0..layout.ring_blocks).map(|number| RING_OFFSET + number * BLOCK);
                let journals =
                    offsets.filter_map(|offset| decode_journal(of, &self.block(device, offset)).ok());
                let current = durable.superblock.header.ring_generation;
                let mut open = journals.filter(|journal| journal.ring_generation == current);
                open.any(|journal| journal.sequence > durable.confirmed)
            });
        let sectors = self.plan.geometry.master_bytes() / SECTOR as u64;
        let chunk = self.plan.geometry.chunk_bytes() / SECTOR as u64;
        let run = chunk * self.plan.buffer_chunks.max(1);
        let (first, end) = match whole {
            true => (sector.saturating_sub(run), (sector + run).min(sectors)),
            false => (sector, sector + 1),
        };
        if let Some(image) = self.oracle.volume(Side::Shadow(set)) {
            image.decay(first, end - first);
        }
    }

    /// The offset of a slot, a journal block or a place of a page.
    fn any_metadata(&self, set: SetNumber, rng: &mut SimRng) -> u64 {
        let layout = self.layout(set);
        let place = rng.pick(&[Place::A, Place::B]);
        match rng.below(6) {
            0 => layout.superblock(place),
            1 => RING_OFFSET + rng.below(layout.ring_blocks) * BLOCK,
            _ => layout.page(rng.pick(&PlaneId::ALL), 0, place),
        }
    }

    /// A write went astray, and nothing on the volume says so: the format does not promise that it is found. Where it
    /// should have gone was written since, or what is newer tells, or it is put there now.
    fn put_right(&mut self, set: SetNumber) {
        let Some(Strayed { stray, before }) = self.damage(set).strayed.clone() else { return };
        let device = self.disk(Disk::Bitmap(set));
        if self.block(device, stray.meant) != before {
            return;
        }
        let of = self.enabled(set).expect("looked at").identity.set;
        let Ok(block) = Block::try_from(stray.bytes.as_slice()) else { return };
        let found = self.durable(set, of).is_some_and(|durable| {
            let header = durable.superblock.header;
            if let Ok(superblock) = Superblock::decode(&block) {
                return durable.superblock.generation >= superblock.generation;
            }
            decode_journal(of, &block).map_or(true, |journal| {
                let old = journal.ring_generation < header.ring_generation;
                old || journal.sequence <= durable.confirmed
            })
        });
        if !found {
            self.log(|| {
                format!("what went astray from {} of set {set} is not to be found: put right", stray.meant)
            });
            self.world.poke(device, stray.meant, &block);
        }
    }
}

fn page_index(index: u64) -> u32 {
    u32::try_from(index).expect("pages are counted in 32 bits")
}
