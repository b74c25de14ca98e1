//! What a shadow volume can tell about its bitmap volume: whose it is, whether the image has ended, and whether the
//! data of unconfirmed records is there.

use super::findings::CheckReport;
use super::image::Volume;
use super::survey::{RingBlock, confirmed, layout_of, records};
use std::io;
use umbra_engine::{ByteRange, JournalBlock, PlaneId, Record};
use umbra_format::{BLOCK_BYTES, DataHasher, Label, LabelError, Superblock};

/// Bytes hashed at a time.
const PIECE: u64 = 1 << 20;

pub(super) fn check_shadow(
    bitmap: &dyn Volume,
    shadow: Option<&dyn Volume>,
    superblock: &Superblock,
    ring: &[RingBlock],
    report: &mut CheckReport,
) {
    let Some(shadow) = shadow else {
        let mut count = 0_u64;
        each_unconfirmed(bitmap, superblock, ring, |_, _, _| count += 1);
        if count > 0 {
            let what = format!("not confirmed: {count}; their data was not looked at");
            report.note("journal records", what, "name the shadow with --shadow; the next start checks them");
        }
        return;
    };
    let (have, need) = (shadow.size(), superblock.identity.geometry.master_bytes());
    if have < need {
        let what = format!("has {have} bytes; a full-size shadow of this master needs {need}");
        report.problem("shadow", None, what, "this is another volume, or it shrank; name the set's shadow");
        return;
    }
    check_label(shadow, superblock, report);
    each_unconfirmed(bitmap, superblock, ring, |block, record, hash| {
        let what = match hash_of(bitmap, shadow, superblock, record) {
            Ok(found) if found == hash => return,
            Ok(_) => format!("{:?}: its data had not arrived", record.run),
            Err(error) => format!("{:?}: its data cannot be read: {error}", record.run),
        };
        let object = format!("record of journal block {}", block.sequence);
        report.note(object, what, "the next start discards the record: nothing had relied on it");
    });
}

/// Records that the next start believes only if the shadow has their data (E1).
fn each_unconfirmed(
    bitmap: &dyn Volume,
    superblock: &Superblock,
    ring: &[RingBlock],
    mut each: impl FnMut(&JournalBlock, &Record, u64),
) {
    let header = &superblock.header;
    let confirmed = confirmed(superblock, ring);
    let held_epoch = header.planes[PlaneId::Held.index()].epoch;
    let chunks = superblock.identity.geometry.chunk_count();
    let is_open = |block: &JournalBlock| {
        block.ring_generation == header.ring_generation
            && block.sequence > confirmed.max(header.checkpoint_upto)
            && block.epoch >= held_epoch
    };
    for place in ring {
        let Ok(block) = &place.found else { continue };
        if is_open(block) {
            for record in records(bitmap, superblock.identity.set, place) {
                if let Some(hash) = record.hash.filter(|_| record.run.end().0 <= chunks) {
                    each(block, &record, hash);
                }
            }
        }
    }
}

fn check_label(shadow: &dyn Volume, superblock: &Superblock, report: &mut CheckReport) {
    let (identity, header) = (&superblock.identity, &superblock.header);
    let mut block = [0; BLOCK_BYTES];
    if let Err(error) = shadow.read(0, &mut block) {
        report.problem("shadow's label", Some(0), error.to_string(), "the shadow has failed: replace it");
        return;
    }
    let object = "shadow's label";
    match Label::decode(&block) {
        Ok(label) if (label.set, label.shadow) != (identity.set, identity.shadow.uuid) => {
            let what = format!("names shadow {} of set {}", label.shadow, label.set);
            report.problem(object, Some(0), what, "this is the shadow of another set: swap them back");
        }
        Ok(label) if label.end.is_some() && label.epoch >= header.epoch && header.state.is_online() => {
            let what = format!("says that the images up to epoch {} have ended", label.epoch);
            report.problem(object, Some(0), what, "`umbra-io ctl reset SET` begins a new one");
        }
        Ok(_) if !header.head_moved => {
            let what = "stands where the first bytes of a complete image should be".to_owned();
            report.problem(object, Some(0), what, "copy the image again: reset the set");
        }
        Ok(_) => {}
        Err(LabelError::Damaged) if header.head_moved => {
            let what = "is damaged: whether it said that the image has ended is not known".to_owned();
            report.problem(object, Some(0), what, "the next cut writes it anew");
        }
        Err(LabelError::Foreign) if header.head_moved && header.state.is_online() => {
            let what =
                "is not there: a crash came between cut and label, or this is another volume".to_owned();
            report.note(object, what, "the next cut writes it");
        }
        Err(LabelError::Foreign | LabelError::Damaged) => {}
    }
}

/// Hash of what the shadow presents, its head wherever that is.
fn hash_of(
    bitmap: &dyn Volume,
    shadow: &dyn Volume,
    superblock: &Superblock,
    record: &Record,
) -> io::Result<u64> {
    let (identity, layout) = (&superblock.identity, layout_of(superblock));
    let range = identity.geometry.bytes_of(record.run);
    let head_bytes = if superblock.header.head_moved { identity.head_bytes } else { 0 };
    let head_end = head_bytes.clamp(range.start, range.end());
    let head = ByteRange::new(layout.head_offset() + range.start, head_end - range.start);
    let rest = ByteRange::new(head_end, range.end() - head_end);
    let mut hasher = DataHasher::default();
    for (volume, range) in [(bitmap, head), (shadow, rest)] {
        let mut at = range.start;
        while at < range.end() {
            let mut piece = vec![0; usize::try_from(PIECE.min(range.end() - at)).unwrap_or_default()];
            volume.read(at, &mut piece)?;
            hasher.update(&piece);
            at += piece.len() as u64;
        }
    }
    Ok(hasher.finish())
}
