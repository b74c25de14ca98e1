//! Formatting a bitmap volume for a new set: pages first, superblocks last.

use super::read::{Slots, read_slots, refuse_unusable};
use super::write::{label, superblock_of, write_slot};
use super::{RecoverError, SetConfig, SetDevices, SetOptions, blocking, check_sizes, config, failed};
use crate::block_store::BlockStore;
use crate::blocking::Job;
use crate::buf::AlignedBuf;
use umbra_engine::{
    Epoch, PAGE_WORDS, Place, PlaneId, Sequence, SetHeader, SetImage, SetState, SuperblockGeneration,
};
use umbra_format::{BLOCK_BYTES, PageHeader, SetIdentity, Superblock, SuperblockError, encode_page};

/// Formats a bitmap volume for a new set, in state Prepared.
///
/// # Errors
/// [`RecoverError`]; unless `force`, a volume of a set that was not disabled is refused. Where a device hung, the
/// store has operations in flight, and the error names them.
pub fn prepare_set<S: BlockStore>(
    store: &mut S,
    devices: SetDevices,
    identity: SetIdentity,
    options: SetOptions,
    force: bool,
) -> Result<(SetConfig, SetImage), RecoverError> {
    check_sizes(store, devices, &identity)?;
    check_head(store, devices, &identity)?;
    let config = SetConfig { labelled: true, ..config(store, devices, identity, options) };
    let image = SetImage::prepared(&config.identity.geometry, SetHeader::prepared(), SuperblockGeneration(1));
    check_describable(&config, &image)?;
    let mut io = blocking(store, devices, options);
    if !force {
        refuse_live(read_slots(&mut io, devices.bitmap).map_err(failed(devices))?)?;
    }
    let (shadow, bitmap) = (devices.shadow, devices.bitmap);
    // The label goes beside: one of an earlier set would make a crash right after the first cut look like a swapped
    // volume. The slots, so that a half-made set is not taken for the one that was here before.
    let mut first = vec![Job::write(shadow, 0, label(&config, Epoch(0)))];
    for place in [Place::A, Place::B] {
        first.push(Job::write(bitmap, config.layout.superblock(place), AlignedBuf::zeroed(BLOCK_BYTES)));
    }
    io.run(first, |_, _| ()).map_err(failed(devices))?;
    io.run([shadow, bitmap].map(Job::flush), |_, _| ()).map_err(failed(devices))?;
    // Nobody reads a page before there is a superblock, so both places go together.
    io.write_durably(bitmap, usize::MAX, empty_pages(&config)).map_err(failed(devices))?;
    for place in [Place::A, Place::B] {
        write_slot(&mut io, &config, &image, place)?;
    }
    Ok((config, image))
}

/// Every page once in each place, so that one that cannot be read is always damage.
fn empty_pages(config: &SetConfig) -> impl Iterator<Item = (u64, AlignedBuf)> {
    let layout = config.layout;
    let set = config.identity.set;
    PlaneId::ALL.into_iter().flat_map(move |plane| {
        let pages = u32::try_from(layout.pages(plane)).expect("pages are counted in 32 bits");
        let places = move |index| [Place::A, Place::B].map(|place| (index, place));
        (0..pages).flat_map(places).map(move |(index, place)| {
            let header = PageHeader {
                set,
                plane,
                index,
                epoch: Epoch(0),
                sequence: Sequence(0),
                stamp: SuperblockGeneration(0),
            };
            let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
            encode_page(&header, &[0; PAGE_WORDS], &mut block);
            (layout.page(plane, index, place), block)
        })
    })
}

/// The head is read in blocks of the master, so the volume that keeps it must be able to (E17).
fn check_head<S: BlockStore>(
    store: &S,
    devices: SetDevices,
    identity: &SetIdentity,
) -> Result<(), RecoverError> {
    let (have, need) = (store.capabilities(devices.bitmap).logical_block, identity.logical_block);
    if have > need { Err(RecoverError::BitmapBlocks { have, need }) } else { Ok(()) }
}

/// A set that no later start could read is not made.
fn check_describable(config: &SetConfig, image: &SetImage) -> Result<(), RecoverError> {
    let mut block = [0; BLOCK_BYTES];
    superblock_of(config, image).encode(&mut block);
    Superblock::decode(&block).map(drop).map_err(RecoverError::Indescribable)
}

/// A volume is free if no slot says otherwise, and none may say so. A damaged slot beside one that was never
/// written is an enable that was interrupted: that clears both first.
fn refuse_live(slots: Slots) -> Result<(), RecoverError> {
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
