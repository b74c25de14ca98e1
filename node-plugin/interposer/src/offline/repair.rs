//! What `umbra-io check --repair` writes, and in what order.
//!
//! A copy puts the block that recovery would take over one that it would not: what the next start sees is the same
//! before, during and after.
//!
//! ```text
//!  1 pages, flush    crash here: a page or the other of its places is good, as before
//!  2 slots, flush    crash here: the slot that counts was not written
//! ```
//! Giving up an image goes to slot A, then to slot B, as every commit (E10).

use super::findings::{CheckReport, Newest, Repair};
use super::image::WriteVolume;
use super::survey::{PLACES, slot_offset};
use std::io;
use umbra_engine::{
    Epoch, Id128, OfflineCause, PLANES, PlaneHeader, RingGeneration, SetHeader, SetState,
    SuperblockGeneration,
};
use umbra_format::{BLOCK_BYTES, COUNTER_MAX, Superblock};

/// The superblock that ends the image of a set of which an older superblock is all that is left; refused if the
/// master needs the image.
pub(super) fn give_up(older: &Superblock, newest: Newest) -> Repair {
    // Data of the master that only the shadow has: without the lost superblock nobody knows which (E9).
    if newest.pending {
        return Repair::Refuse;
    }
    let header = older.header;
    let epoch = Epoch(header.epoch.max(newest.epoch).0 + 1);
    let generation = older.generation.max(newest.stamp).0 + 1;
    let ring_generation = header.ring_generation.max(newest.ring_generation).0 + 1;
    let sequence = header.confirmed_upto.max(newest.sequence);
    if [epoch.0, generation, ring_generation, sequence.0].iter().any(|counter| *counter > COUNTER_MAX) {
        return Repair::Refuse;
    }
    let header = SetHeader {
        epoch,
        cut: Id128::default(),
        state: SetState::Offline(OfflineCause::Bitmap),
        // Every page is older, so all planes read as zero.
        planes: [PlaneHeader { epoch }; PLANES],
        merging: false,
        head_moved: true,
        ring_generation: RingGeneration(ring_generation),
        checkpoint_upto: sequence,
        confirmed_upto: sequence,
        clean: false,
        ..header
    };
    let generation = SuperblockGeneration(generation);
    Repair::GiveUp(Box::new(Superblock {
        generation,
        header,
        identity: older.identity.clone(),
        doubt: None,
        labelled: false,
    }))
}

/// Does what the report offers; says what was done.
pub(super) fn apply(
    volume: &mut dyn WriteVolume,
    report: &CheckReport,
    accept_older: bool,
) -> io::Result<Vec<String>> {
    let repairs = || report.problems.iter().filter_map(|finding| Some((finding, finding.repair.as_ref()?)));
    if repairs().any(|(_, repair)| *repair == Repair::Refuse) {
        return Ok(Vec::new());
    }
    let given_up = repairs().find_map(|(finding, repair)| match repair {
        Repair::GiveUp(superblock) => Some((finding, superblock)),
        Repair::Copy { .. } | Repair::Refuse => None,
    });
    if let Some((finding, superblock)) = given_up {
        if !accept_older {
            return Ok(Vec::new());
        }
        write_slots(volume, superblock)?;
        return Ok(vec![format!(
            "{}: the image is given up, epoch {}",
            finding.object, superblock.header.epoch
        )]);
    }
    let mut done = Vec::new();
    let is_slot = |offset: u64| PLACES.map(slot_offset).contains(&offset);
    for slots in [false, true] {
        for (finding, repair) in repairs() {
            if let Repair::Copy { from, to } = repair
                && is_slot(*to) == slots
            {
                let mut block = vec![0; BLOCK_BYTES];
                volume.read(*from, &mut block)?;
                volume.write(*to, &block)?;
                done.push(format!("{} at {to:#x}: written anew from {from:#x}", finding.object));
            }
        }
        volume.flush()?;
    }
    Ok(done)
}

fn write_slots(volume: &mut dyn WriteVolume, superblock: &Superblock) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    superblock.encode(&mut block);
    for place in PLACES {
        volume.write(slot_offset(place), &block)?;
        volume.flush()?;
    }
    Ok(())
}
