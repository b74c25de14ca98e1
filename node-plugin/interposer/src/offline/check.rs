//! `umbra-io check`: whether the next start will find everything, and what it will do about what it does not find.
//!
//! A *problem* is something that bit rot, a misdirected write or a faulty program did. A *note* is what any crash
//! may leave and the next start puts right: exit 0.

use super::findings::{CheckReport, FINDINGS_MAX, Finding, Newest, Repair};
use super::image::{Image, ImageError, Volume};
use super::repair;
use super::shadow::check_shadow;
use super::survey::{
    PLACES, PagePair, PagePlace, RingBlock, RingError, Slot, Slots, confirmed, layout_of, read_ring, records,
    scan_pages, slot_offset,
};
use super::{plane_name, printable};
use crate::failure::Failure;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use thiserror::Error;
use umbra_engine::{Mode, PAGE_BITS, Place, PlaneId, Sequence, SetState};
use umbra_format::{Layout, Superblock};

/// Check a bitmap volume that nobody serves, or a copy of one (gzip is read as well). Its set must not be served:
/// detach its master, or check a copy.
///
/// Exit codes: 0 nothing is wrong, 1 problems were found, 2 the volume cannot be read. Nothing is written without
/// --repair.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Block device or file.
    image: PathBuf,
    /// The set's shadow volume: checks its label, its size and the data of unconfirmed records.
    #[arg(long, value_name = "DEVICE")]
    shadow: Option<PathBuf>,
    /// Write damaged slots and pages anew from their good twins. Says what it did.
    #[arg(long)]
    repair: bool,
    /// Where the newest readable superblock is older than the rest of the volume: end the image, so that the set
    /// can be reset.
    #[arg(long, requires = "repair")]
    accept_older: bool,
    /// Print JSON for programs, one document.
    #[arg(long)]
    json: bool,
}

/// Why nothing can be said.
#[derive(Debug, Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Neither slot was ever written.
    #[error("not an Umbra bitmap volume")]
    Foreign,
    /// Writing failed.
    #[error("repair failed: {0}")]
    Repair(std::io::Error),
}

/// Judges a volume. Writes nothing.
pub(super) fn judge(volume: &dyn Volume, shadow: Option<&dyn Volume>) -> Result<CheckReport, CheckError> {
    let slots = Slots::read(volume);
    if slots.are_foreign() {
        return Err(CheckError::Foreign);
    }
    let mut report = CheckReport::default();
    let agreed = check_slots(&slots, &mut report);
    let Some(superblock) = slots.superblock().filter(|_| agreed) else { return Ok(report) };
    let (identity, layout) = (&superblock.identity, layout_of(superblock));
    report.set = format!("{} {}", identity.set, printable(&identity.name)).trim_end().to_owned();
    let (have, need) = (volume.size(), layout.total_bytes());
    if have < need {
        let what = format!("has {have} bytes, its layout needs {need}");
        report.problem("volume", None, what, "this is a part of the volume, or another one; name the whole");
        return Ok(report);
    }
    let mut newest = Newest::default();
    let ring = read_ring(volume, &layout, identity.set);
    check_ring(volume, superblock, &layout, &ring, &mut report);
    check_pages(volume, superblock, &layout, &mut newest, &mut report);
    check_age(superblock, &ring, &mut newest, &mut report);
    check_header(superblock, &mut report);
    check_shadow(volume, shadow, superblock, &ring, &mut report);
    Ok(report)
}

fn slot_name(place: Place) -> String {
    format!("superblock slot {place:?}")
}

/// Whether the slots agree so far that the rest can be judged by them.
fn check_slots(slots: &Slots, report: &mut CheckReport) -> bool {
    let mut usable = true;
    for (at, place) in PLACES.into_iter().enumerate() {
        let (own, other) = (slot_offset(place), slot_offset(PLACES[1 - at]));
        let what = match &slots.found[at] {
            Slot::Good(_, features) => {
                let unknown = features.unknown().read_only_compatible;
                if unknown != 0 {
                    let what = format!("needs features {unknown:#x} to be served, unknown to this program");
                    report.unrepairable(slot_name(place), Some(own), what, "use the later version");
                }
                continue;
            }
            Slot::Unreadable(error) => error.clone(),
            Slot::Bad(error) => error.to_string(),
        };
        let whole = matches!(&slots.found[at], Slot::Bad(error) if error.is_whole());
        if whole {
            usable = false;
            report.unrepairable(slot_name(place), Some(own), what, "use the version that wrote it");
        } else if slots.found[1 - at].good().is_some() {
            report.repairable(slot_name(place), (other, own), what);
        } else {
            report.problem(
                slot_name(place),
                Some(own),
                what,
                "no good copy is left: the set is lost, its master is not; enable a new set",
            );
        }
    }
    usable && compare_slots(slots, report)
}

fn compare_slots(slots: &Slots, report: &mut CheckReport) -> bool {
    let [Some(a), Some(b)] = slots.found.each_ref().map(Slot::good) else { return true };
    let [at_a, at_b] = PLACES.map(slot_offset);
    if a.identity.set != b.identity.set {
        let what = format!("slots are of two sets, {} and {}", a.identity.set, b.identity.set);
        report.unrepairable(
            "superblocks".to_owned(),
            None,
            what,
            "an enable was interrupted: enable the set again",
        );
        return false;
    }
    let (newer, older) = (a.generation.0, b.generation.0);
    if newer == older && slots.bytes[0] != slots.bytes[1] {
        let what = format!("both are of generation {newer}, but differ");
        report.unrepairable(
            "superblocks".to_owned(),
            None,
            what,
            "nobody can choose: restore a copy, or reset the set",
        );
    } else if older > newer {
        // Slot A is always written first.
        let what = format!("generation {newer} where slot B has {older}: a write to it was lost");
        report.repairable(slot_name(Place::A), (at_b, at_a), what);
    } else if newer > older + 2 {
        let what = format!("generation {older} where slot A has {newer}: writes to it were lost");
        report.repairable(slot_name(Place::B), (at_a, at_b), what);
    } else if newer > older {
        // Recovery takes two steps at once.
        let what = format!("generation {older} where slot A has {newer}: a commit was interrupted");
        report.note(slot_name(Place::B), what, "the next start writes both");
    }
    true
}

fn page_name(pair: &PagePair, place: Option<Place>) -> String {
    let place = place.map(|place| format!(" place {place:?}")).unwrap_or_default();
    format!("page {}/{}{place}", plane_name(pair.plane), pair.index)
}

fn check_pages(
    volume: &dyn Volume,
    superblock: &Superblock,
    layout: &Layout,
    newest: &mut Newest,
    report: &mut CheckReport,
) {
    let mut interrupted = 0u64;
    scan_pages(volume, layout, superblock.identity.set, |pair| {
        for version in pair.places.iter().filter_map(PagePlace::good) {
            newest.epoch = newest.epoch.max(version.epoch);
            newest.sequence = newest.sequence.max(version.sequence);
            newest.stamp = newest.stamp.max(version.stamp);
            newest.pending |= pair.plane == PlaneId::Pending && version.ones > 0;
        }
        interrupted += u64::from(check_pair(superblock, layout, &pair, report));
    });
    if interrupted > 0 {
        let what = format!("newer at place A than at place B: {interrupted}; a checkpoint was interrupted");
        report.note("pages", what, "the next start writes both places");
    }
}

/// Checks both places of a page; true if they are as an interrupted checkpoint leaves them.
fn check_pair(superblock: &Superblock, layout: &Layout, pair: &PagePair, report: &mut CheckReport) -> bool {
    let offset = |place| layout.page(pair.plane, pair.index, place);
    let bad: Vec<(Place, String)> = PLACES
        .into_iter()
        .zip(&pair.places)
        .filter_map(|(place, found)| Some((place, page_problem(found)?)))
        .collect();
    match &bad[..] {
        [] => compare_places(superblock, layout, pair, report),
        [(place, what)] => {
            let other = if *place == Place::A { Place::B } else { Place::A };
            report.repairable(page_name(pair, Some(*place)), (offset(other), offset(*place)), what.clone());
            false
        }
        [(_, a), (_, b), ..] => {
            let what = format!("neither place can be read ({a}; {b})");
            let remedy = unreadable_remedy(superblock, layout, pair);
            report.problem(page_name(pair, None), Some(offset(Place::A)), what, &remedy);
            false
        }
    }
}

fn page_problem(found: &PagePlace) -> Option<String> {
    match found {
        PagePlace::Good(_) => None,
        PagePlace::Unreadable(error) => Some(error.clone()),
        PagePlace::Bad(error) => Some(error.to_string()),
        PagePlace::Misplaced => Some("holds a page that belongs elsewhere".to_owned()),
    }
}

/// What becomes of the chunks of a page that is gone (E2).
fn unreadable_remedy(superblock: &Superblock, layout: &Layout, pair: &PagePair) -> String {
    let first = u64::from(pair.index) * PAGE_BITS;
    let last = (first + PAGE_BITS).min(pair.plane.bits(layout.geometry())) - 1;
    let header = &superblock.header;
    let frozen = header.merging && pair.plane == PlaneId::differs(header.tracking.other());
    match pair.plane {
        PlaneId::Held | PlaneId::Lost | PlaneId::Pending => {
            format!("the next start counts chunks {first} to {last} as lost; a new cut brings them back")
        }
        PlaneId::Differs0 | PlaneId::Differs1 if frozen => {
            format!("the next start may count chunks {first} to {last} as lost; a new cut brings them back")
        }
        PlaneId::Differs0 | PlaneId::Differs1 => {
            format!("the next start counts chunks {first} to {last} as differing")
        }
        PlaneId::Region0 | PlaneId::Region1 => {
            format!("the next start counts regions {first} to {last} as differing")
        }
    }
}

fn compare_places(
    superblock: &Superblock,
    layout: &Layout,
    pair: &PagePair,
    report: &mut CheckReport,
) -> bool {
    let [Some(a), Some(b)] = pair.places.each_ref().map(PagePlace::good) else { return false };
    let [at_a, at_b] = PLACES.map(|place| layout.page(pair.plane, pair.index, place));
    if a.behind_end + b.behind_end > 0 {
        let what = "has bits behind the end of its plane".to_owned();
        report.problem(page_name(pair, None), Some(at_a), what, "they are passed over; report a bug");
    }
    if a == b && pair.same_bits {
        return false;
    }
    // Place A is written first, and both before the superblock that ends a checkpoint.
    if b.stamp > a.stamp {
        let what = format!("older than place B, stamps {} and {}: a write to it was lost", a.stamp, b.stamp);
        report.repairable(page_name(pair, Some(Place::A)), (at_b, at_a), what);
        return false;
    }
    let (header, generation) = (&superblock.header, superblock.generation);
    let settled = a.stamp < generation && a.sequence <= header.checkpoint_upto;
    if header.clean || (a.stamp == b.stamp && settled) {
        let what = format!("differs from place A, stamps {} and {}", b.stamp, a.stamp);
        report.repairable(page_name(pair, Some(Place::B)), (at_a, at_b), what);
        return false;
    }
    true
}

fn check_ring(
    volume: &dyn Volume,
    superblock: &Superblock,
    layout: &Layout,
    ring: &[RingBlock],
    report: &mut CheckReport,
) {
    let header = &superblock.header;
    let (checkpoint, confirmed) = (header.checkpoint_upto, confirmed(superblock, ring));
    if confirmed.0 - checkpoint.0 > layout.ring_blocks {
        let what = format!("speaks of block {confirmed}, but the ring begins behind block {checkpoint}");
        report.problem("journal", None, what, image_remedy(superblock));
        return;
    }
    let found: BTreeMap<u64, &RingBlock> = ring.iter().map(|block| (block.offset, block)).collect();
    for sequence in (checkpoint.0 + 1..=confirmed.0).map(Sequence) {
        let offset = layout.journal_block(sequence);
        let what = match found.get(&offset).map(|block| &block.found) {
            Some(Ok(journal))
                if journal.sequence == sequence && journal.ring_generation == header.ring_generation =>
            {
                continue;
            }
            Some(Ok(journal)) => format!("is not there; block {} is", journal.sequence),
            None => "is not there".to_owned(),
            Some(Err(error)) => ring_problem(error),
        };
        let what = format!("{what}, but it was confirmed");
        report.problem(format!("journal block {sequence}"), Some(offset), what, image_remedy(superblock));
    }
    for block in ring {
        // The place's next turn.
        let at = (block.offset - layout.journal_block(Sequence(0))) / umbra_format::BLOCK_BYTES as u64;
        let next = checkpoint.0 + 1;
        let turn = next + (at + layout.ring_blocks - next % layout.ring_blocks) % layout.ring_blocks;
        match &block.found {
            Err(RingError::Bad(error)) if error.is_whole() => {
                let object = format!("journal ring place {at}");
                report.problem(object, Some(block.offset), error.to_string(), image_remedy(superblock));
            }
            Err(error) if turn > confirmed.0 => {
                let what = format!("{}, and nothing says that it was ever whole", ring_problem(error));
                report.note(format!("journal ring place {at}"), what, "the next start discards it");
            }
            Err(_) => {}
            Ok(journal) if journal.ring_generation == header.ring_generation => {
                let records = records(volume, superblock.identity.set, block);
                check_records(layout, block.offset, (journal.sequence, &records), report);
            }
            Ok(_) => {}
        }
    }
}

fn ring_problem(error: &RingError) -> String {
    match error {
        RingError::Unreadable(error) => error.clone(),
        RingError::Bad(error) => error.to_string(),
        RingError::Misplaced(sequence) => format!("holds block {sequence}, which belongs elsewhere"),
    }
}

fn check_records(
    layout: &Layout,
    offset: u64,
    (sequence, records): (Sequence, &[umbra_engine::Record]),
    report: &mut CheckReport,
) {
    for (n, record) in records.iter().enumerate() {
        let touched = |plane: &PlaneId| (record.set | record.clear) & plane.mask() != 0;
        let bits =
            PlaneId::ALL.iter().filter(|plane| touched(plane)).map(|plane| plane.bits(layout.geometry()));
        if bits.min().is_some_and(|bits| record.run.end().0 > bits) {
            let what = format!("record {n}, {:?}, reaches behind the end of the master", record.run);
            let object = format!("journal block {sequence}");
            report.problem(object, Some(offset), what, "what is behind is passed over; report a bug");
        }
    }
}

/// What the next start does when it cannot trust the journal (E8).
fn image_remedy(superblock: &Superblock) -> &'static str {
    match superblock.header.state {
        SetState::Complete => "the next start counts every chunk as differing: the next update copies all",
        SetState::Prepared => "there is no image yet: the first cut makes one",
        SetState::Dependent | SetState::Copying | SetState::CopyAborted => {
            "the next start gives the image up; then `umbra-io ctl reset SET` begins a new one"
        }
        SetState::Restoring | SetState::RestoreAborted => {
            "the next start refuses the master: a part of its data is on the shadow only, and nothing says which"
        }
        SetState::Offline(_) | SetState::Disabled => "there is no image to lose: reset the set",
    }
}

/// E10: whatever is newer than the superblock says that a newer superblock was lost.
fn check_age(superblock: &Superblock, ring: &[RingBlock], newest: &mut Newest, report: &mut CheckReport) {
    let header = &superblock.header;
    let mut later = Vec::new();
    if newest.epoch > header.epoch {
        later.push(format!("a page of epoch {}", newest.epoch));
    }
    if newest.stamp > superblock.generation.next() {
        later.push(format!("a page of generation {}", newest.stamp));
    }
    for journal in ring.iter().filter_map(|block| block.found.as_ref().ok()) {
        newest.sequence = newest.sequence.max(journal.sequence);
        newest.ring_generation = newest.ring_generation.max(journal.ring_generation);
        let current = journal.ring_generation == header.ring_generation;
        if journal.ring_generation > header.ring_generation {
            later.push(format!("journal block {} of ring {}", journal.sequence, journal.ring_generation));
        } else if current && journal.sequence > header.checkpoint_upto && journal.epoch > header.epoch {
            later.push(format!("journal block {} of epoch {}", journal.sequence, journal.epoch));
        }
        newest.epoch = newest.epoch.max(journal.epoch);
    }
    if later.is_empty() {
        return;
    }
    let (generation, epoch) = (superblock.generation, header.epoch);
    let what = format!(
        "generation {generation}, epoch {epoch}, is older than the rest of the volume ({})",
        later.join(", ")
    );
    let repair = repair::give_up(superblock, *newest);
    let remedy = match repair {
        Repair::GiveUp(_) => {
            "restore the newer superblock from a copy; or --repair --accept-older ends the image, so that \
             `umbra-io ctl reset SET` can begin a new one"
        }
        Repair::Copy { .. } | Repair::Refuse => {
            "restore the newer superblock from a copy: part of the master's data is on the shadow only"
        }
    };
    let (object, remedy) = ("superblock".to_owned(), remedy.to_owned());
    let finding = Finding { object, offset: None, what, remedy, repair: Some(repair) };
    report.list_problem(finding);
}

fn check_header(superblock: &Superblock, report: &mut CheckReport) {
    let (identity, header) = (&superblock.identity, &superblock.header);
    match header.state {
        SetState::Offline(_) => {
            report.note("set", "its image has ended".to_owned(), "`umbra-io ctl reset SET` begins a new one");
        }
        SetState::Disabled => {
            report.note("set", "it was disabled".to_owned(), "the volume may be used for another");
        }
        SetState::Restoring | SetState::RestoreAborted => {
            let what =
                "a restore is not complete: a part of the master's data is on the shadow only".to_owned();
            report.note("set", what, "attach the master and wait, before anything else uses it");
        }
        SetState::Prepared
        | SetState::Dependent
        | SetState::Copying
        | SetState::CopyAborted
        | SetState::Complete => {}
    }
    if identity.session != umbra_engine::Id128::default() && !header.clean {
        let what = format!("node {} has it attached, or did not detach it", identity.node);
        report.note("session", what, "the next start on that node replays the journal");
    }
    if identity.mode == Mode::Independent && header.state == SetState::Complete && header.head_moved {
        let what = "the copy is complete, but the shadow's head is still here".to_owned();
        report.problem("superblock", None, what, "report a bug; a reset copies everything again");
    }
}

fn run(args: &Check) -> Result<CheckReport, CheckError> {
    let shadow = args.shadow.as_ref().map(|path| Image::open(path, false)).transpose()?;
    let shadow = shadow.as_ref().map(|image| -> &dyn Volume { image });
    let mut image = Image::open(&args.image, args.repair)?;
    let mut report = judge(&image, shadow)?;
    if !args.repair {
        return Ok(report);
    }
    let mut repaired = Vec::new();
    loop {
        let done = repair::apply(&mut image, &report, args.accept_older).map_err(CheckError::Repair)?;
        let before = std::mem::replace(&mut report, judge(&image, shadow)?);
        let room = FINDINGS_MAX.saturating_sub(repaired.len());
        let goes_on = before.more_problems > 0 && !done.is_empty() && report.count() < before.count();
        repaired.extend(done.into_iter().take(room));
        if !goes_on {
            return Ok(CheckReport { repaired, ..report });
        }
    }
}

/// Runs the command.
pub(crate) fn main(args: &Check) -> ExitCode {
    match run(args) {
        Ok(report) => {
            let code = if report.problems.is_empty() { 0 } else { super::PROBLEMS };
            super::show(&if args.json { super::json(&report) } else { report.to_string() }, code)
        }
        Err(error) => {
            let failure = match &error {
                CheckError::Image(error) => Failure::from(error),
                CheckError::Foreign => super::foreign(&args.image),
                CheckError::Repair(_) => Failure::new(
                    "IO",
                    &error,
                    "check again: whatever was written is a copy of what was there",
                ),
            };
            super::unusable(&failure, args.json)
        }
    }
}
