//! `umbra-io inspect`: what a bitmap volume says, as it stands there. Judges nothing and writes nothing.

use super::image::{Image, Volume};
use super::survey::{
    PLACES, PagePair, PagePlace, RingBlock, RingError, Slot, Slots, confirmed, layout_of, read_ring, records,
    scan_pages, slot_offset,
};
use super::{foreign, mode_name, plane_name, printable, state_name};
use crate::ctl::complain;
use crate::failure::Failure;
use clap::Args;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use umbra_engine::{Place, PlaneId, Record, Sequence};
use umbra_format::{Layout, Superblock};
use umbra_platform::value::ByteCount;

/// Show what is on a bitmap volume, or on a copy of one (gzip is read as well). Its set must not be served: detach
/// its master, or read a copy.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Block device or file.
    image: PathBuf,
    /// List every page that was ever written.
    #[arg(long)]
    pages: bool,
    /// List the blocks of the journal with their records.
    #[arg(long)]
    journal: bool,
    /// Print JSON for programs, one document.
    #[arg(long)]
    json: bool,
}

/// Everything that `inspect` shows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Inspection {
    bytes: u64,
    slots: Vec<SlotLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<SetLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<JournalLine>,
    planes: Vec<PlaneLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks: Option<Vec<BlockLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<Vec<PageLine>>,
    /// Why there is no set, beside what there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Clone, Debug, Serialize)]
struct SlotLine {
    slot: char,
    offset: u64,
    generation: Option<u64>,
    epoch: Option<u64>,
    /// The one that recovery takes.
    chosen: bool,
    /// Unknown features, or why it cannot be read.
    problem: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct SetLine {
    set: String,
    cluster: String,
    namespace: String,
    name: String,
    mode: &'static str,
    state: &'static str,
    epoch: u64,
    cut: String,
    cut_unix_ms: u64,
    master_bytes: u64,
    chunk_bytes: u64,
    chunks: u64,
    master: String,
    shadow: String,
    bitmap: String,
    tracking: String,
    node: String,
    session: String,
    seal_owner: String,
    master_hardware: String,
    shadow_hardware: String,
    flags: Vec<&'static str>,
    layout_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct JournalLine {
    ring_blocks: u64,
    ring_generation: u64,
    checkpoint_upto: u64,
    /// By the superblock and by every block that is left.
    confirmed_upto: u64,
    /// Blocks behind the checkpoint.
    live: u64,
    /// Of those, blocks that nobody has confirmed.
    unconfirmed: u64,
    /// Places that hold something else than a block of this set.
    unreadable: u64,
}

#[derive(Clone, Debug, Serialize)]
struct PlaneLine {
    plane: &'static str,
    epoch: u64,
    bits: u64,
    /// Bits that are 1 in pages that count; the journal goes on from there.
    ones: u64,
    pages: u64,
    /// Pages of which neither place can be read.
    unreadable: u64,
    tracks: bool,
}

#[derive(Clone, Debug, Serialize)]
struct BlockLine {
    offset: u64,
    sequence: Option<u64>,
    ring_generation: Option<u64>,
    epoch: Option<u64>,
    confirmed_upto: Option<u64>,
    status: String,
    records: Vec<RecordLine>,
}

#[derive(Clone, Debug, Serialize)]
struct RecordLine {
    first: u64,
    count: u32,
    set: Vec<&'static str>,
    clear: Vec<&'static str>,
    hash: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct PageLine {
    plane: &'static str,
    page: u32,
    place: char,
    offset: u64,
    epoch: Option<u64>,
    sequence: Option<u64>,
    stamp: Option<u64>,
    ones: Option<u32>,
    problem: Option<String>,
}

/// What is on `volume`; pages and blocks one by one where that is asked for.
pub(super) fn inspection(volume: &dyn Volume, with_pages: bool, with_blocks: bool) -> Inspection {
    let slots = Slots::read(volume);
    let mut inspection = Inspection {
        bytes: volume.size(),
        slots: slot_lines(&slots),
        set: None,
        journal: None,
        planes: Vec::new(),
        blocks: None,
        pages: with_pages.then(Vec::new),
        error: None,
    };
    let Some(superblock) = slots.superblock() else { return inspection };
    let layout = layout_of(superblock);
    inspection.set = Some(set_line(superblock, &layout));
    let ring = read_ring(volume, &layout, superblock.identity.set);
    inspection.journal = Some(journal_line(superblock, &ring));
    inspection.blocks = with_blocks.then(|| block_lines(volume, superblock, &ring));
    if volume.size() >= layout.total_bytes() {
        inspection.planes = plane_lines(volume, superblock, &layout, &mut inspection.pages);
    }
    inspection
}

fn slot_lines(slots: &Slots) -> Vec<SlotLine> {
    let line = |(at, place): (usize, Place)| {
        let superblock = slots.found[at].good();
        let problem = match &slots.found[at] {
            Slot::Unreadable(error) => Some(error.clone()),
            Slot::Bad(error) => Some(error.to_string()),
            Slot::Good(_, features) if features.unknown().is_empty() => None,
            Slot::Good(_, features) => {
                let unknown = features.unknown();
                Some(format!(
                    "unknown features: compatible {:#x}, read-only compatible {:#x}",
                    unknown.compatible, unknown.read_only_compatible
                ))
            }
        };
        SlotLine {
            slot: letter(place),
            offset: slot_offset(place),
            generation: superblock.map(|superblock| superblock.generation.0),
            epoch: superblock.map(|superblock| superblock.header.epoch.0),
            chosen: slots.chosen() == Some(at),
            problem,
        }
    };
    PLACES.into_iter().enumerate().map(line).collect()
}

fn letter(place: Place) -> char {
    match place {
        Place::A => 'A',
        Place::B => 'B',
    }
}

fn set_line(superblock: &Superblock, layout: &Layout) -> SetLine {
    let (identity, header) = (&superblock.identity, &superblock.header);
    let flags = [
        (header.merging, "merging"),
        (header.head_moved, "headMoved"),
        (header.shadow_written, "shadowWritten"),
        (header.recovered, "recovered"),
        (identity.protected, "protected"),
        (header.clean, "clean"),
    ];
    SetLine {
        set: identity.set.to_string(),
        cluster: identity.cluster.clone(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
        mode: mode_name(identity.mode),
        state: state_name(header.state),
        epoch: header.epoch.0,
        cut: header.cut.to_string(),
        cut_unix_ms: header.cut_unix_ms,
        master_bytes: identity.geometry.master_bytes(),
        chunk_bytes: identity.geometry.chunk_bytes(),
        chunks: identity.geometry.chunk_count(),
        master: identity.master.uuid.to_string(),
        shadow: identity.shadow.uuid.to_string(),
        bitmap: identity.bitmap.to_string(),
        tracking: identity.tracking.to_string(),
        node: identity.node.to_string(),
        session: identity.session.to_string(),
        seal_owner: identity.seal_owner.to_string(),
        master_hardware: identity.master.hardware_id.clone(),
        shadow_hardware: identity.shadow.hardware_id.clone(),
        flags: flags.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect(),
        layout_bytes: layout.total_bytes(),
    }
}

fn journal_line(superblock: &Superblock, ring: &[RingBlock]) -> JournalLine {
    let header = &superblock.header;
    let confirmed = confirmed(superblock, ring);
    let live = live(superblock, ring);
    let count = |blocks: &mut dyn Iterator<Item = Sequence>| blocks.count() as u64;
    JournalLine {
        ring_blocks: superblock.identity.ring_blocks,
        ring_generation: header.ring_generation.0,
        checkpoint_upto: header.checkpoint_upto.0,
        confirmed_upto: confirmed.0,
        live: count(&mut live.iter().copied()),
        unconfirmed: count(&mut live.iter().copied().filter(|sequence| *sequence > confirmed)),
        unreadable: ring.iter().filter(|block| block.found.is_err()).count() as u64,
    }
}

/// Numbers of the blocks that a replay would read.
fn live(superblock: &Superblock, ring: &[RingBlock]) -> Vec<Sequence> {
    let header = &superblock.header;
    let blocks = ring.iter().filter_map(|block| block.found.as_ref().ok());
    let current = blocks.filter(|block| block.ring_generation == header.ring_generation);
    current.map(|block| block.sequence).filter(|sequence| *sequence > header.checkpoint_upto).collect()
}

fn block_lines(volume: &dyn Volume, superblock: &Superblock, ring: &[RingBlock]) -> Vec<BlockLine> {
    let confirmed = confirmed(superblock, ring);
    let header = &superblock.header;
    let line = |block: &RingBlock| {
        let journal = block.found.as_ref().ok();
        let status = match &block.found {
            Err(RingError::Unreadable(error)) => format!("unreadable: {error}"),
            Err(RingError::Bad(error)) => error.to_string(),
            Err(RingError::Misplaced(sequence)) => format!("block {sequence} does not belong here"),
            Ok(found) if found.ring_generation < header.ring_generation => "of an older ring".to_owned(),
            Ok(found) if found.ring_generation > header.ring_generation => "of a later ring".to_owned(),
            Ok(found) if found.sequence <= header.checkpoint_upto => "in the pages".to_owned(),
            Ok(found) if found.sequence <= confirmed => "confirmed".to_owned(),
            Ok(_) => "unconfirmed".to_owned(),
        };
        BlockLine {
            offset: block.offset,
            sequence: journal.map(|journal| journal.sequence.0),
            ring_generation: journal.map(|journal| journal.ring_generation.0),
            epoch: journal.map(|journal| journal.epoch.0),
            confirmed_upto: journal.map(|journal| journal.confirmed_upto.0),
            status,
            records: records(volume, superblock.identity.set, block).iter().map(record_line).collect(),
        }
    };
    let mut lines: Vec<BlockLine> = ring.iter().map(line).collect();
    lines.sort_by_key(|line| (line.sequence.is_none(), line.sequence, line.offset));
    lines
}

fn record_line(record: &Record) -> RecordLine {
    let names = |mask: u8| {
        let planes = PlaneId::ALL.into_iter().filter(|plane| mask & plane.mask() != 0);
        planes.map(plane_name).collect()
    };
    RecordLine {
        first: record.run.first.0,
        count: record.run.count,
        set: names(record.set),
        clear: names(record.clear),
        hash: record.hash.map(|hash| format!("{hash:016x}")),
    }
}

fn plane_lines(
    volume: &dyn Volume,
    superblock: &Superblock,
    layout: &Layout,
    pages: &mut Option<Vec<PageLine>>,
) -> Vec<PlaneLine> {
    let header = &superblock.header;
    let tracking = [PlaneId::differs(header.tracking), PlaneId::region(header.tracking)];
    let mut lines: Vec<PlaneLine> = PlaneId::ALL
        .map(|plane| PlaneLine {
            plane: plane_name(plane),
            epoch: header.planes[plane.index()].epoch.0,
            bits: plane.bits(layout.geometry()),
            ones: 0,
            pages: layout.pages(plane),
            unreadable: 0,
            tracks: tracking.contains(&plane),
        })
        .into();
    scan_pages(volume, layout, superblock.identity.set, |pair| {
        let line = &mut lines[pair.plane.index()];
        match pair.chosen() {
            None => line.unreadable += 1,
            Some((_, version)) if version.epoch.0 >= line.epoch => line.ones += u64::from(version.ones),
            Some(_) => {}
        }
        if let Some(pages) = pages {
            pages.extend(page_lines(layout, &pair));
        }
    });
    lines
}

fn page_lines(layout: &Layout, pair: &PagePair) -> Vec<PageLine> {
    let line = |(place, found): (Place, &PagePlace)| {
        let version = found.good();
        let problem = match found {
            PagePlace::Good(_) => None,
            PagePlace::Unreadable(error) => Some(format!("unreadable: {error}")),
            PagePlace::Bad(error) => Some(error.to_string()),
            PagePlace::Misplaced => Some("a page that belongs elsewhere".to_owned()),
        };
        let written = version.is_none_or(|version| version.stamp.0 > 0);
        written.then(|| PageLine {
            plane: plane_name(pair.plane),
            page: pair.index,
            place: letter(place),
            offset: layout.page(pair.plane, pair.index, place),
            epoch: version.map(|version| version.epoch.0),
            sequence: version.map(|version| version.sequence.0),
            stamp: version.map(|version| version.stamp.0),
            ones: version.map(|version| version.ones),
            problem,
        })
    };
    PLACES.into_iter().zip(&pair.places).filter_map(line).collect()
}

/// A number, or a dash.
fn cell(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SLOT  {:>9}  {:>10}  {:>8}", "OFFSET", "GENERATION", "EPOCH")?;
        for line in &self.slots {
            let (offset, generation, epoch) =
                (ByteCount(line.offset).to_string(), cell(line.generation), cell(line.epoch));
            let chosen = if line.chosen { "chosen" } else { "" };
            let note = line.problem.as_deref().unwrap_or(chosen);
            let text = format!("{:<4}  {offset:>9}  {generation:>10}  {epoch:>8}  {note}", line.slot);
            writeln!(f, "{}", text.trim_end())?;
        }
        if let Some(set) = &self.set {
            show_set(f, set, self.bytes)?;
        }
        if !self.planes.is_empty() {
            show_planes(f, &self.planes)?;
        }
        if let Some(journal) = &self.journal {
            show_journal(f, journal)?;
        }
        for block in self.blocks.iter().flatten() {
            show_block(f, block)?;
        }
        match &self.pages {
            Some(pages) => show_pages(f, pages),
            None => Ok(()),
        }
    }
}

fn show_set(f: &mut fmt::Formatter<'_>, set: &SetLine, bytes: u64) -> fmt::Result {
    let size = |bytes| ByteCount(bytes).to_string();
    let parts = [&set.cluster, &set.namespace, &set.name];
    let names: Vec<String> =
        parts.into_iter().filter(|part| !part.is_empty()).map(|part| printable(part)).collect();
    let with_hardware = |uuid: &str, hardware: &str| format!("{uuid} {}", printable(hardware));
    // All zeros: nobody.
    let somebody = |id: &str| {
        if id.bytes().all(|byte| matches!(byte, b'0' | b'-')) { "-".to_owned() } else { id.to_owned() }
    };
    writeln!(f)?;
    for (what, text) in [
        ("set", format!("{} {}", set.set, names.join("/"))),
        ("mode", set.mode.to_owned()),
        ("state", set.state.to_owned()),
        ("epoch", format!("{}, cut {} at {} ms since 1970", set.epoch, set.cut, set.cut_unix_ms)),
        ("size", format!("{} in {} chunks of {}", size(set.master_bytes), set.chunks, size(set.chunk_bytes))),
        ("flags", set.flags.join(" ")),
        ("master", with_hardware(&set.master, &set.master_hardware)),
        ("shadow", with_hardware(&set.shadow, &set.shadow_hardware)),
        ("bitmap", format!("{}, {} of which {} used", set.bitmap, size(bytes), size(set.layout_bytes))),
        ("tracking", somebody(&set.tracking)),
        ("node", somebody(&set.node)),
        ("session", somebody(&set.session)),
        ("sealed by", somebody(&set.seal_owner)),
    ] {
        writeln!(f, "{}", format!("{what:<9} {text}").trim_end())?;
    }
    Ok(())
}

fn show_planes(f: &mut fmt::Formatter<'_>, planes: &[PlaneLine]) -> fmt::Result {
    let header = ["EPOCH", "BITS", "ONES", "PAGES", "UNREADABLE"];
    let [epoch, bits, ones, pages, unreadable] = header;
    writeln!(f, "\nPLANE      {epoch:>8}  {bits:>12}  {ones:>12}  {pages:>8}  {unreadable:>10}")?;
    for line in planes {
        let PlaneLine { plane, epoch, bits, ones, pages, unreadable, tracks } = line;
        let tracks = if *tracks { "  tracks now" } else { "" };
        writeln!(f, "{plane:<9}  {epoch:>8}  {bits:>12}  {ones:>12}  {pages:>8}  {unreadable:>10}{tracks}")?;
    }
    Ok(())
}

fn show_journal(f: &mut fmt::Formatter<'_>, journal: &JournalLine) -> fmt::Result {
    writeln!(
        f,
        "\njournal   generation {}, ring of {} blocks; checkpoint {}, confirmed {}; {} blocks to replay, {} of them \
         unconfirmed; {} unreadable",
        journal.ring_generation,
        journal.ring_blocks,
        journal.checkpoint_upto,
        journal.confirmed_upto,
        journal.live,
        journal.unconfirmed,
        journal.unreadable
    )
}

fn show_block(f: &mut fmt::Formatter<'_>, block: &BlockLine) -> fmt::Result {
    let (sequence, epoch) = (cell(block.sequence), cell(block.epoch));
    writeln!(
        f,
        "block {sequence} at {:#x}: {}, epoch {epoch}, confirms {}",
        block.offset,
        block.status,
        cell(block.confirmed_upto)
    )?;
    for record in &block.records {
        let hash = record.hash.as_ref().map(|hash| format!(" hash {hash}")).unwrap_or_default();
        let signed = |sign: &str, names: &[&str]| names.iter().map(|name| format!(" {sign}{name}")).collect();
        let (set, clear): (String, String) = (signed("+", &record.set), signed("-", &record.clear));
        writeln!(f, "  {}+{}{set}{clear}{hash}", record.first, record.count)?;
    }
    Ok(())
}

fn show_pages(f: &mut fmt::Formatter<'_>, pages: &[PageLine]) -> fmt::Result {
    writeln!(
        f,
        "\nPAGE               {:>12}  {:>8}  {:>10}  {:>10}  {:>6}",
        "OFFSET", "EPOCH", "SEQUENCE", "STAMP", "ONES"
    )?;
    for line in pages {
        let name = format!("{}/{} {}", line.plane, line.page, line.place);
        let [epoch, sequence, stamp] = [line.epoch, line.sequence, line.stamp].map(cell);
        let (offset, ones) = (format!("{:#x}", line.offset), cell(line.ones));
        let problem = line.problem.as_deref().unwrap_or_default();
        let text = format!(
            "{name:<17}  {offset:>12}  {epoch:>8}  {sequence:>10}  {stamp:>10}  {ones:>6}  {problem}"
        );
        writeln!(f, "{}", text.trim_end())?;
    }
    Ok(())
}

/// Runs the command.
pub(crate) fn main(args: &Inspect) -> ExitCode {
    let image = match Image::open(&args.image, false) {
        Ok(image) => image,
        Err(error) => return super::unusable(&Failure::from(&error), args.json),
    };
    let mut found = inspection(&image, args.pages, args.journal);
    if found.set.is_none() {
        let failure = foreign(&args.image);
        complain(&failure.text());
        found.error = Some(failure);
    }
    let code = if found.error.is_none() { 0 } else { super::UNUSABLE };
    super::show(&if args.json { super::json(&found) } else { found.to_string() }, code)
}
