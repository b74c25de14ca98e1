//! The last steps of a recovery: pages back, then the superblock. See the module above for the order.

use super::{RecoverError, SetConfig, failed};
use crate::block_store::BlockStore;
use crate::blocking::Blocking;
use crate::buf::AlignedBuf;
use umbra_engine::mutation::{Rule, is_off};
use umbra_engine::{Epoch, Place, PlaneId, SetImage, SuperblockGeneration};
use umbra_format::{BLOCK_BYTES, Label, PageHeader, Superblock, encode_page};

/// How the two places of a page, or the two slots, are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Twins {
    /// The one that was not taken: damaged, older, or the same as the other. It is written first.
    pub(super) worse: Place,
    /// They are the same.
    pub(super) alike: bool,
}

/// One page to be written to one place.
#[derive(Clone, Copy, Debug)]
struct PageWrite {
    plane: PlaneId,
    index: usize,
    place: Place,
}

/// Writes in four batches, each durable before the next begins.
///
/// 1. Worse places of *lost*, where a page is `unread` and it has changed: what nobody can read is taken for lost, and
///    once its page is written anew nothing else says so (E2).
/// 2. Worse places of the other chunk planes.
/// 3. Better places of chunk planes; worse places of region planes: until *differs* is durable only the region says so.
/// 4. Better places of region planes.
///
/// Dirty pages go to both places. Of a clean one whose places are not the same only the worse is written: what a
/// checkpoint or rot left there would count as soon as the other one rots, when the journal is gone that knew better.
fn plan(image: &mut SetImage, twins: &[Vec<Twins>], unread: bool) -> [Vec<PageWrite>; 4] {
    let restoring = image.header.state.is_restoring();
    let mut batches: [Vec<PageWrite>; 4] = Default::default();
    for plane in PlaneId::ALL {
        let counts = plane != PlaneId::Pending || restoring;
        let chunks = 1 + usize::from(plane.per_region());
        let bits = &mut image.planes[plane.index()];
        let mut next_dirty = bits.take_dirty(0);
        for (index, twins) in twins[plane.index()].iter().enumerate() {
            let dirty = next_dirty == Some(index);
            if dirty {
                next_dirty = bits.take_dirty(index + 1);
                batches[chunks + 1].push(PageWrite { plane, index, place: twins.worse.other() });
            }
            if dirty || counts && !twins.alike {
                let first = unread && dirty && plane == PlaneId::Lost && !is_off(Rule::LostFirst);
                batches[if first { 0 } else { chunks }].push(PageWrite { plane, index, place: twins.worse });
            }
        }
    }
    batches
}

/// Writes what the recovery found, in its order. `image` becomes what is on the volume then.
///
/// The last batch of pages goes together with the superblock's first slot. Whatever of the two a crash keeps, every
/// page has one place that is durable and right: better places are left to be written, or worse ones of pages that
/// have not changed.
pub(super) fn write_back<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    image: &mut SetImage,
    (pages, unread): (&[Vec<Twins>], bool),
    slots: Twins,
) -> Result<(), RecoverError> {
    let stamp = image.generation.next();
    let mut batches: Vec<Vec<PageWrite>> =
        plan(image, pages, unread).into_iter().filter(|batch| !batch.is_empty()).collect();
    let last = batches.pop().unwrap_or_default();
    let bitmap = config.devices.bitmap;
    for batch in &batches {
        let writes = batch.iter().map(|write| page(config, image, stamp, write));
        io.write_durably(bitmap, batch.len(), writes).map_err(failed(config.devices))?;
    }
    image.generation = stamp.next();
    image.header.ring_generation.0 += 1;
    (image.header.checkpoint_upto, image.header.confirmed_upto) = (image.last, image.last);
    image.header.merging = false;
    image.header.clean = false;
    let writes = last.iter().map(|write| page(config, image, stamp, write));
    let writes = writes.chain([slot(config, image, slots.worse)]);
    io.write_durably(bitmap, last.len() + 1, writes).map_err(failed(config.devices))?;
    write_slot(io, config, image, slots.worse.other())
}

/// Labels the shadow, durably.
pub(super) fn write_label<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    epoch: Epoch,
) -> Result<(), RecoverError> {
    let write = [(0, label(config, epoch))];
    io.write_durably(config.devices.shadow, 1, write).map_err(failed(config.devices))
}

/// The label of a set whose image has not ended.
pub(super) fn label(config: &SetConfig, epoch: Epoch) -> AlignedBuf {
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    let (set, shadow) = (config.identity.set, config.identity.shadow.uuid);
    Label { set, shadow, epoch, session: config.identity.session, end: None }.encode(&mut block);
    block
}

/// Commits a superblock to one slot.
pub(super) fn write_slot<S: BlockStore>(
    io: &mut Blocking<'_, S>,
    config: &SetConfig,
    image: &SetImage,
    place: Place,
) -> Result<(), RecoverError> {
    let write = [slot(config, image, place)];
    io.write_durably(config.devices.bitmap, 1, write).map_err(failed(config.devices))
}

fn page(
    config: &SetConfig,
    image: &SetImage,
    stamp: SuperblockGeneration,
    write: &PageWrite,
) -> (u64, AlignedBuf) {
    let index = u32::try_from(write.index).expect("pages are counted in 32 bits");
    let header = PageHeader {
        set: config.identity.set,
        plane: write.plane,
        index,
        epoch: image.header.epoch,
        sequence: image.last,
        stamp,
    };
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    encode_page(&header, image.planes[write.plane.index()].page_words(write.index), &mut block);
    (config.layout.page(write.plane, index, write.place), block)
}

fn slot(config: &SetConfig, image: &SetImage, place: Place) -> (u64, AlignedBuf) {
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    superblock_of(config, image).encode(&mut block);
    (config.layout.superblock(place), block)
}

pub(super) fn superblock_of(config: &SetConfig, image: &SetImage) -> Superblock {
    Superblock {
        generation: image.generation,
        identity: config.identity.clone(),
        header: image.header,
        doubt: None,
        labelled: config.labelled,
    }
}
