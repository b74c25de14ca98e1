//! Prometheus metrics: what status says and what the engines count.
//!
//! Every name begins with `umbra_`; `master` is a master's name and `set` a set's full name, as in every
//! message. Counters begin at 0 with the process.

mod memory;
#[cfg(test)]
mod tests;

use crate::logging;
use crate::world::Linux;
use memory::locked_bytes;
use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TextEncoder};
use std::io;
use thiserror::Error;
use umbra_engine::Counters;
use umbra_lifecycle::Service;
use umbra_lifecycle::world::Snapshot;
use umbra_platform::status::{MasterStatus, SetStatus};

/// States of a set, as [`SetState::word`](umbra_platform::status::SetState::word) says them.
const SET_STATES: [&str; 8] =
    ["idle", "copying", "copy-aborted", "restoring", "restore-aborted", "offline", "given-up", "blocked"];
/// States of a master, as [`MasterState::word`](umbra_platform::status::MasterState::word) says them.
const MASTER_STATES: [&str; 7] =
    ["serving", "claiming", "recovering", "blocked", "failed", "detaching", "quarantined"];

/// Why there is no answer to a scrape.
#[derive(Debug, Error)]
pub(crate) enum ScrapeError {
    /// This process's own numbers.
    #[error("read /proc/self/smaps_rollup: {0}")]
    Memory(#[from] io::Error),
    /// Two families or labels that do not go together.
    #[error("put the metrics together: {0}")]
    Families(#[from] prometheus::Error),
}

/// A master as it was when we looked.
#[derive(Debug)]
pub(crate) struct Seen {
    master: MasterStatus,
    sets: Vec<SetStatus>,
    snapshot: Snapshot,
}

/// Asks every reactor how it is, and writes down the answers.
///
/// # Errors
/// [`ScrapeError`].
pub(crate) async fn scrape(service: &Service<Linux>) -> Result<String, ScrapeError> {
    let seen = |(master, sets, snapshot): (MasterStatus, Vec<SetStatus>, Option<Snapshot>)| Seen {
        master,
        sets,
        snapshot: snapshot.unwrap_or_default(),
    };
    let seen: Vec<Seen> = service.look().await.into_iter().map(seen).collect();
    render(&seen, locked_bytes()?, logging::lost_lines())
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// Values of one family, by their labels.
type Sample<const N: usize> = ([String; N], f64);

/// One answer. The reactors keep the counts, so that nothing is counted twice; and a master that was detached
/// must not be in the next answer, as it would be in a registry that lives as long as the process.
struct Page(Registry);

impl Page {
    fn family<const N: usize>(
        &self,
        (name, kind, help): (&str, Kind, &str),
        labels: [&str; N],
        samples: impl IntoIterator<Item = Sample<N>>,
    ) -> Result<(), prometheus::Error> {
        let opts = Opts::new(name, help);
        let family: Box<dyn Collector> = match kind {
            Kind::Counter => {
                let family = CounterVec::new(opts, &labels)?;
                for (labels, value) in samples {
                    family.get_metric_with_label_values(&labels)?.inc_by(value);
                }
                Box::new(family)
            }
            Kind::Gauge => {
                let family = GaugeVec::new(opts, &labels)?;
                for (labels, value) in samples {
                    family.get_metric_with_label_values(&labels)?.set(value);
                }
                Box::new(family)
            }
        };
        self.0.register(family)
    }
}

fn render(seen: &[Seen], locked_bytes: u64, lost_lines: u64) -> Result<String, ScrapeError> {
    let page = Page(Registry::new());
    let version = [env!("CARGO_PKG_VERSION").to_owned()];
    page.family(("umbra_build_info", Kind::Gauge, "The program."), ["version"], [(version, 1.0)])?;
    let family = ("umbra_locked_memory_bytes", Kind::Gauge, "Memory that is locked.");
    page.family(family, [], [([], number(locked_bytes))])?;
    let help = "Lines of the log that nobody read in time, or that could not be written.";
    let family = ("umbra_log_lines_lost_total", Kind::Counter, help);
    page.family(family, [], [([], number(lost_lines))])?;
    masters(&page, seen)?;
    engines(&page, seen)?;
    sets(&page, seen)?;
    Ok(TextEncoder::new().encode_to_string(&page.0.gather())?)
}

/// Prometheus has only these; counts beyond 2^53 lose their last digits.
fn number(count: u64) -> f64 {
    count as f64
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// 1 for the present state, and 0 for the others.
fn states(name: &str, present: &str, known: &[&'static str]) -> Vec<Sample<2>> {
    known.iter().map(|word| ([name.to_owned(), (*word).to_owned()], flag(*word == present))).collect()
}

fn masters(page: &Page, seen: &[Seen]) -> Result<(), prometheus::Error> {
    let info = |seen: &Seen| {
        let master = &seen.master;
        let labels = [&master.name as &dyn ToString, &master.id, &master.device, &master.presented];
        (labels.map(ToString::to_string), 1.0)
    };
    let family = ("umbra_master_info", Kind::Gauge, "A master and its devices.");
    page.family(family, ["master", "id", "device", "presented"], seen.iter().map(info))?;
    let state = |seen: &Seen| states(seen.master.name.as_str(), seen.master.state.word(), &MASTER_STATES);
    let family = ("umbra_master_state", Kind::Gauge, "1 for the state that the master is in.");
    page.family(family, ["master", "state"], seen.iter().flat_map(state))?;
    let size = |seen: &Seen| ([seen.master.name.to_string()], number(seen.master.size.0));
    let family = ("umbra_master_size_bytes", Kind::Gauge, "Size of the presented device.");
    page.family(family, ["master"], seen.iter().map(size))?;
    let requests = |seen: &Seen| {
        let front = seen.snapshot.master;
        by_op(
            seen,
            [
                ("read", front.reads),
                ("write", front.writes),
                ("flush", front.flushes),
                ("discard", front.discards),
            ],
        )
    };
    let family = ("umbra_master_requests_total", Kind::Counter, "Requests of the presented device.");
    page.family(family, ["master", "op"], seen.iter().flat_map(requests))?;
    let errors = |seen: &Seen| ([seen.master.name.to_string()], number(seen.snapshot.master.errors));
    let family = ("umbra_master_request_errors_total", Kind::Counter, "Requests that ended with an error.");
    page.family(family, ["master"], seen.iter().map(errors))?;
    let waits = |seen: &Seen| ([seen.master.name.to_string()], number(seen.snapshot.master.buffer_waits));
    let family = ("umbra_master_buffer_waits_total", Kind::Counter, "Requests that waited for a buffer.");
    page.family(family, ["master"], seen.iter().map(waits))?;
    let operations = |seen: &Seen| {
        let io = seen.snapshot.io;
        by_op(seen, [("read", io.reads), ("write", io.writes), ("flush", io.flushes)])
    };
    let help = "Operations sent to the devices of a master and its sets.";
    let family = ("umbra_device_operations_total", Kind::Counter, help);
    page.family(family, ["master", "op"], seen.iter().flat_map(operations))?;
    let bytes = |seen: &Seen| {
        let io = seen.snapshot.io;
        by_op(seen, [("read", io.read_bytes), ("write", io.write_bytes)])
    };
    let family = ("umbra_device_bytes_total", Kind::Counter, "Bytes of these operations.");
    page.family(family, ["master", "op"], seen.iter().flat_map(bytes))
}

fn by_op<const N: usize>(seen: &Seen, counts: [(&str, u64); N]) -> [Sample<2>; N] {
    counts.map(|(op, count)| ([seen.master.name.to_string(), op.to_owned()], number(count)))
}

fn engines(page: &Page, seen: &[Seen]) -> Result<(), prometheus::Error> {
    type Family = (&'static str, &'static str, fn(&Counters) -> u64);
    let families: [Family; 14] = [
        ("umbra_engine_asked_total", "Requests that had to ask the owner.", |c| c.asked),
        ("umbra_engine_write_copies_total", "Copies that a write needed.", |c| c.write_copies),
        ("umbra_engine_write_copy_bytes_total", "Bytes of these copies.", |c| c.write_copy_bytes),
        ("umbra_engine_background_copies_total", "Copies made in the background.", |c| c.background_copies),
        ("umbra_engine_background_copy_bytes_total", "Bytes of these copies.", |c| c.background_bytes),
        ("umbra_engine_journal_blocks_total", "Journal blocks written.", |c| c.journal_blocks),
        ("umbra_engine_records_total", "Records in them.", |c| c.records),
        ("umbra_engine_flushes_total", "Flushes of shadows and bitmap volumes.", |c| c.flushes),
        ("umbra_engine_pages_total", "Bitmap pages written.", |c| c.pages),
        ("umbra_engine_superblocks_total", "Superblock slots written.", |c| c.superblocks),
        ("umbra_engine_lost_chunks_total", "Chunks marked lost.", |c| c.lost_chunks),
        ("umbra_engine_buffer_waits_total", "Copies that waited for a buffer.", |c| c.buffer_waits),
        ("umbra_engine_write_restores_total", "Runs restored that a write needed.", |c| c.write_restores),
        ("umbra_engine_cuts_total", "Cuts taken.", |c| c.cuts),
    ];
    for (name, help, value) in families {
        let count = |seen: &Seen| ([seen.master.name.to_string()], number(value(&seen.snapshot.counters)));
        page.family((name, Kind::Counter, help), ["master"], seen.iter().map(count))?;
    }
    let last = |seen: &Seen| {
        let Counters { last_drain_ms, last_gate_ms, .. } = seen.snapshot.counters;
        let seconds = |ms| number(ms) / 1000.0;
        let name = || seen.master.name.to_string();
        [([name(), "drain".into()], seconds(last_drain_ms)), ([name(), "gate".into()], seconds(last_gate_ms))]
    };
    let help = "How long the gate of the last cut was closed, and until nothing was in flight.";
    let family = ("umbra_engine_last_cut_seconds", Kind::Gauge, help);
    page.family(family, ["master", "part"], seen.iter().flat_map(last))
}

fn sets(page: &Page, seen: &[Seen]) -> Result<(), prometheus::Error> {
    let sets = || seen.iter().flat_map(|seen| &seen.sets);
    let info = |set: &SetStatus| {
        let labels = [&set.name as &dyn ToString, &set.id, &set.master_name, &set.mode.as_str()];
        (labels.map(ToString::to_string), 1.0)
    };
    let family = ("umbra_set_info", Kind::Gauge, "A set and its master.");
    page.family(family, ["set", "id", "master", "mode"], sets().map(info))?;
    let state = |set: &SetStatus| states(&set.name.to_string(), set.state.word(), &SET_STATES);
    let family = ("umbra_set_state", Kind::Gauge, "1 for the state that the set is in.");
    page.family(family, ["set", "state"], sets().flat_map(state))?;
    let chunks = |set: &SetStatus| {
        let chunks = set.chunks;
        let kinds = [
            ("held", chunks.held),
            ("pending", chunks.pending),
            ("lost", chunks.lost),
            ("differs", chunks.differs),
        ];
        kinds.map(|(kind, count)| ([set.name.to_string(), kind.to_owned()], number(count)))
    };
    let family = ("umbra_set_chunks", Kind::Gauge, "Chunks by kind; a chunk may be of several kinds.");
    page.family(family, ["set", "kind"], sets().flat_map(chunks))?;
    let one = |name, help, value: fn(&SetStatus) -> Option<f64>| {
        let samples = sets().filter_map(|set| Some(([set.name.to_string()], value(set)?)));
        page.family((name, Kind::Gauge, help), ["set"], samples)
    };
    one("umbra_set_size_chunks", "Chunks of the set in all.", |set| Some(number(set.chunks.total)))?;
    one("umbra_set_chunk_bytes", "Size of a chunk.", |set| Some(number(set.chunk.bytes())))?;
    one("umbra_set_epoch", "Cuts so far.", |set| Some(number(set.epoch.0)))?;
    one("umbra_set_last_cut_timestamp_seconds", "When the last cut was.", |set| {
        Some(number(set.last_cut?.at.unix_millis()) / 1000.0)
    })?;
    one("umbra_set_shadow_written", "1 if the image was written to since the cut.", |set| {
        Some(flag(set.flags.shadow_written))
    })?;
    one("umbra_set_stalled", "1 if the running copy does not get on.", |set| {
        Some(flag(set.stalled.is_some()))
    })?;
    one("umbra_set_copy_chunks", "Chunks of the running or aborted copy.", |set| {
        Some(number(set.state.progress()?.total()))
    })?;
    one("umbra_set_copied_chunks", "Chunks of that copy that are done.", |set| {
        Some(number(set.state.progress()?.done()))
    })
}
