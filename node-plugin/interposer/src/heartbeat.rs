//! The heartbeat: how a supervisor sees from outside that every reactor makes progress (E11).
//!
//! A small file in memory (`/run`), made by the supervisor for each start of the I/O process:
//!
//! ```text
//!  0    "UMBBEAT2", zeros up to 64
//!  64   slot 0   master's UUID (16) | beats | completed requests | panics (u64 each, little-endian), zeros up to 64
//!  128  slot 1   ...
//! ```
//!
//! A slot belongs to one master, and only this process writes it; a nil UUID is a free slot. A master with 0
//! beats is known and not watched yet: it may wait for its device as long as it takes. From the first beat
//! on, a reactor that does not beat is hung. Panics are those of the master's threads since the process
//! started: a panic costs one master and not the process, so the supervisor would not learn of it otherwise.
//!
//! Plain reads and writes instead of shared memory: a few per second cost nothing, and need no `unsafe`.

use crate::files;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thiserror::Error;
use uuid::Uuid;

/// Reactors at a time; more than devices that a node has.
pub const SLOTS_MAX: usize = 1024;
/// Shortest time between two writes of one slot: a quarter of what a supervisor could ask for.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);

const MAGIC: &[u8; 8] = b"UMBBEAT2";
const HEADER_BYTES: usize = 64;
const SLOT_BYTES: usize = 64;
const FILE_BYTES: usize = HEADER_BYTES + SLOTS_MAX * SLOT_BYTES;

/// Why a heartbeat file cannot be used.
#[derive(Debug, Error)]
pub enum HeartbeatError {
    /// Something else has that name.
    #[error("{} is no heartbeat file of this version; start umbra-io through `umbra-io supervise`", .0.display())]
    Foreign(PathBuf),
    /// The file system.
    #[error("{action} the heartbeat file {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HeartbeatError {
    move |cause| HeartbeatError::Io { action, path: path.to_owned(), cause }
}

fn slot_offset(slot: usize) -> u64 {
    u64::try_from(HEADER_BYTES + slot * SLOT_BYTES).expect("a small file")
}

#[derive(Debug)]
struct Shared {
    file: File,
    places: Mutex<Places>,
}

/// Who has which slot, and how often each master's threads have panicked.
#[derive(Debug)]
struct Places {
    slots: Vec<Option<Uuid>>,
    panics: HashMap<Uuid, u64>,
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, slot: usize, master: Uuid, beats: u64, completed: u64, panics: u64) {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..16].copy_from_slice(master.as_bytes());
        bytes[16..24].copy_from_slice(&beats.to_le_bytes());
        bytes[24..32].copy_from_slice(&completed.to_le_bytes());
        bytes[32..40].copy_from_slice(&panics.to_le_bytes());
        if let Err(error) = self.file.write_all_at(&bytes, slot_offset(slot)) {
            // The pages were there when the file was made. Once is enough: it is tried four times a second.
            if beats <= 1 {
                tracing::warn!(%master, %error, "the heartbeat cannot be written; the supervisor may intervene");
            }
        }
    }
}

/// The heartbeats of this process.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    shared: Option<Arc<Shared>>,
}

impl Heartbeats {
    /// Of a process that nobody watches.
    pub fn unwatched() -> Self {
        Self { shared: None }
    }

    /// Opens the file that the supervisor made.
    ///
    /// # Errors
    /// [`HeartbeatError`].
    pub fn open(path: &Path) -> Result<Self, HeartbeatError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?;
        let mut magic = [0; MAGIC.len()];
        let length = file.metadata().map_err(io_error("look at", path))?.len();
        let read = file.read_exact_at(&mut magic, 0);
        if length != slot_offset(SLOTS_MAX) || read.is_err() || magic != *MAGIC {
            return Err(HeartbeatError::Foreign(path.to_owned()));
        }
        let places = Places { slots: vec![None; SLOTS_MAX], panics: HashMap::new() };
        Ok(Self { shared: Some(Arc::new(Shared { file, places: Mutex::new(places) })) })
    }

    /// A slot for the reactor of a master, until it is dropped. The supervisor knows of the master from now
    /// on, and watches the reactor from its first [`beat`](Heartbeat::beat).
    pub fn register(&self, master: Uuid) -> Heartbeat {
        let mut heartbeat = Heartbeat { master, slot: None, beats: 0, written: 0, panics: 0, last: None };
        let Some(shared) = &self.shared else { return heartbeat };
        let mut places = shared.places();
        match places.slots.iter().position(Option::is_none) {
            Some(slot) => {
                places.slots[slot] = Some(master);
                heartbeat.panics = places.panics.get(&master).copied().unwrap_or_default();
                shared.write(slot, master, 0, 0, heartbeat.panics);
                heartbeat.slot = Some((Arc::clone(shared), slot));
            }
            None => tracing::warn!(%master, "more than {SLOTS_MAX} reactors: this one is not watched"),
        }
        heartbeat
    }

    /// Says that a thread of this master has panicked. Called by whoever notices, as the panic hook or the one who
    /// joins the thread; once for each panic. The master's slot tells of it from then on, also the next one that
    /// it [`registers`](Self::register).
    pub fn note_panic(&self, master: Uuid) {
        let Some(shared) = &self.shared else { return };
        let mut places = shared.places();
        let panics = places.panics.entry(master).or_default();
        *panics += 1;
        let panics = *panics;
        for slot in places.slots.iter().enumerate().filter(|(_, of)| **of == Some(master)).map(|(at, _)| at) {
            let written = shared.file.write_all_at(&panics.to_le_bytes(), slot_offset(slot) + 32);
            if let Err(error) = written {
                tracing::warn!(%master, %error, "the supervisor does not learn of a panic");
            }
        }
    }
}

/// A reactor's handle.
#[derive(Debug)]
pub struct Heartbeat {
    master: Uuid,
    slot: Option<(Arc<Shared>, usize)>,
    beats: u64,
    /// Completed requests, as last written.
    written: u64,
    /// Panics before it was registered; later ones end it.
    panics: u64,
    last: Option<Instant>,
}

impl Heartbeat {
    /// Says that the reactor has gone round once more, and how many requests it has completed since it
    /// started. Call it in every turn, at least once per second; most calls only look at the clock.
    pub fn beat(&mut self, completed: u64) {
        let Some((shared, slot)) = &self.slot else { return };
        let now = Instant::now();
        // The first completed request decides whether a death counts, so it is told at once.
        let first_completed = self.written == 0 && completed > 0;
        let is_due = self.last.is_none_or(|last| now.duration_since(last) >= BEAT_INTERVAL);
        if is_due || first_completed {
            self.beats += 1;
            self.written = completed;
            self.last = Some(now);
            shared.write(*slot, self.master, self.beats, completed, self.panics);
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        if let Some((shared, slot)) = &self.slot {
            let mut places = shared.places();
            shared.write(*slot, Uuid::nil(), 0, 0, 0);
            places.slots[*slot] = None;
        }
    }
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Which slot.
    pub slot: usize,
    /// Whose.
    pub master: Uuid,
    /// Counts up; 0 while the master starts.
    pub beats: u64,
    /// Requests completed since the reactor started.
    pub completed: u64,
    /// Panics of the master's threads since the process started.
    pub panics: u64,
}

impl Pulse {
    /// Beats, at least a quarter of a second apart, after which a reactor that does nothing counts as well.
    const CALM: u64 = 8;

    /// Whether the reactor has got past its start: it has completed a request, or gone round for some seconds. Of
    /// what such a reactor does, a process did not die in its start.
    pub fn has_got_on(&self) -> bool {
        self.completed > 0 || self.beats >= Self::CALM
    }
}

/// The supervisor's side of the file.
#[derive(Debug)]
pub struct Monitor {
    file: File,
    path: PathBuf,
}

impl Monitor {
    /// Makes a file with free slots in place of the one that may be there: whoever still has that one open
    /// cannot disturb. Where there is no room for a new file, the slots of the old one are freed: its process was killed,
    /// and writes no more.
    ///
    /// # Errors
    /// [`HeartbeatError`].
    pub fn create(path: &Path) -> Result<Self, HeartbeatError> {
        let mut content = vec![0; FILE_BYTES];
        content[..MAGIC.len()].copy_from_slice(MAGIC);
        // Written out, not only sized: later writes need no memory that might be missing then.
        let file = match files::write(path, &content) {
            Ok(file) => file,
            Err(cause) => {
                let file = Self::reuse(path, &content).ok_or_else(|| io_error("make", path)(cause))?;
                tracing::warn!(path = %path.display(), "there is no room for a new heartbeat file; the old one is used again");
                file
            }
        };
        Ok(Self { file, path: path.to_owned() })
    }

    fn reuse(path: &Path, content: &[u8]) -> Option<File> {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        let is_whole = file.metadata().is_ok_and(|found| found.len() == slot_offset(SLOTS_MAX));
        (is_whole && file.write_all_at(content, 0).is_ok()).then_some(file)
    }

    /// The slots in use.
    ///
    /// # Errors
    /// [`HeartbeatError`].
    pub fn read(&self) -> Result<Vec<Pulse>, HeartbeatError> {
        let mut bytes = vec![0; SLOTS_MAX * SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, slot_offset(0)).map_err(io_error("read", &self.path))?;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let slots = bytes.chunks_exact(SLOT_BYTES).enumerate();
        let pulses = slots.map(|(slot, bytes)| Pulse {
            slot,
            master: Uuid::from_slice(&bytes[..16]).expect("sixteen bytes"),
            beats: number(&bytes[16..24]),
            completed: number(&bytes[24..32]),
            panics: number(&bytes[32..40]),
        });
        Ok(pulses.filter(|pulse| !pulse.master.is_nil()).collect())
    }
}

/// Decides which reactors are hung. Pure: time comes with what was seen.
#[derive(Debug)]
pub struct Watchdog {
    limit: Duration,
    /// Longest time that one look counts for.
    step_max: Duration,
    /// Per slot: whose it was, its beats, and for how long they have not changed.
    quiet: HashMap<usize, (Uuid, u64, Duration)>,
}

impl Watchdog {
    /// Reactors without a beat for `limit` are hung. Looked at every `interval`.
    ///
    /// A longer time between two looks counts as two intervals: if the supervisor did not run, as when the
    /// machine was suspended, the reactors may not have run either.
    pub fn new(limit: Duration, interval: Duration) -> Self {
        Self { limit, step_max: 2 * interval, quiet: HashMap::new() }
    }

    /// Takes in what was seen, so long after the last look. Returns the masters whose reactors are hung.
    pub fn observe(&mut self, since_last: Duration, pulses: &[Pulse]) -> Vec<Uuid> {
        let step = since_last.min(self.step_max);
        let before = std::mem::take(&mut self.quiet);
        let mut hung = Vec::new();
        for pulse in pulses.iter().filter(|pulse| pulse.beats > 0) {
            let quiet = match before.get(&pulse.slot) {
                Some((master, beats, quiet)) if (*master, *beats) == (pulse.master, pulse.beats) => {
                    *quiet + step
                }
                Some(_) | None => Duration::ZERO,
            };
            self.quiet.insert(pulse.slot, (pulse.master, pulse.beats, quiet));
            if quiet >= self.limit {
                hung.push(pulse.master);
            }
        }
        hung
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("heartbeat");
        (home, path)
    }

    fn uuid(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn without_room_for_a_new_file_the_old_one_is_used_again() {
        let (home, path) = file();
        let first = Monitor::create(&path).unwrap();
        let _left = Heartbeats::open(&path).unwrap().register(uuid(1));
        assert_eq!(first.read().unwrap().len(), 1);
        fs::create_dir(home.path().join("heartbeat.new")).unwrap();
        let second = Monitor::create(&path).unwrap();
        assert_eq!(second.read().unwrap(), [], "its slots are free");
        fs::write(&path, "something else").unwrap();
        assert!(matches!(Monitor::create(&path), Err(HeartbeatError::Io { .. })));
    }

    #[test]
    fn a_supervisor_sees_who_is_there_and_what_they_have_done() {
        let (_home, path) = file();
        let monitor = Monitor::create(&path).unwrap();
        let heartbeats = Heartbeats::open(&path).unwrap();
        assert_eq!(monitor.read().unwrap(), []);
        let (mut a, b) = (heartbeats.register(uuid(1)), heartbeats.register(uuid(2)));
        a.beat(7);
        let pulse = |slot, master, beats, completed| Pulse {
            slot,
            master: uuid(master),
            beats,
            completed,
            panics: 0,
        };
        assert_eq!(monitor.read().unwrap(), [pulse(0, 1, 1, 7), pulse(1, 2, 0, 0)]);
        drop(a);
        assert_eq!(monitor.read().unwrap(), [pulse(1, 2, 0, 0)]);
        let c = heartbeats.register(uuid(3));
        assert_eq!(monitor.read().unwrap(), [pulse(0, 3, 0, 0), pulse(1, 2, 0, 0)]);
        drop((b, c));
        assert_eq!(monitor.read().unwrap(), []);
    }

    #[test]
    fn beats_are_written_a_few_times_per_second_and_the_first_request_at_once() {
        let (_home, path) = file();
        let monitor = Monitor::create(&path).unwrap();
        let mut beat = Heartbeats::open(&path).unwrap().register(uuid(1));
        let started = Instant::now();
        (0..10_000).for_each(|_| beat.beat(0));
        let beats = monitor.read().unwrap()[0].beats;
        assert!(beats >= 1);
        assert!(u128::from(beats) <= 1 + started.elapsed().as_millis() / 250, "{beats} beats");
        beat.beat(3);
        assert_eq!(monitor.read().unwrap()[0].completed, 3);
        beat.last = Instant::now().checked_sub(BEAT_INTERVAL);
        beat.beat(9);
        assert_eq!(monitor.read().unwrap()[0].completed, 9);
    }

    #[test]
    fn panics_are_told_of_and_counted_over_the_lives_of_a_reactor() {
        let (_home, path) = file();
        let monitor = Monitor::create(&path).unwrap();
        let heartbeats = Heartbeats::open(&path).unwrap();
        let panics = || monitor.read().unwrap().iter().map(|pulse| pulse.panics).collect::<Vec<_>>();
        let (mut a, b) = (heartbeats.register(uuid(1)), heartbeats.register(uuid(2)));
        a.beat(1);
        heartbeats.note_panic(uuid(1));
        assert_eq!(panics(), [1, 0], "at once: the process may be about to die of it");
        drop(a);
        let mut a = heartbeats.register(uuid(1));
        a.beat(1);
        assert_eq!(panics(), [1, 0]);
        drop(a);
        heartbeats.note_panic(uuid(1));
        let _a = heartbeats.register(uuid(1));
        assert_eq!(panics(), [2, 0], "also of what was noticed between two lives");
        drop(b);
        Heartbeats::unwatched().note_panic(uuid(1));
    }

    #[test]
    fn a_process_that_nobody_watches_and_one_with_too_many_reactors_go_on() {
        Heartbeats::unwatched().register(uuid(1)).beat(1);
        let (_home, path) = file();
        let monitor = Monitor::create(&path).unwrap();
        let heartbeats = Heartbeats::open(&path).unwrap();
        let kept: Vec<Heartbeat> = (0..SLOTS_MAX).map(|_| heartbeats.register(uuid(5))).collect();
        heartbeats.register(uuid(6)).beat(1);
        let pulses = monitor.read().unwrap();
        assert_eq!(pulses.len(), kept.len());
        assert!(pulses.iter().all(|pulse| pulse.master == uuid(5)));
    }

    #[test]
    fn other_files_are_refused_and_an_old_process_does_not_disturb() {
        let (_home, path) = file();
        assert!(matches!(Heartbeats::open(&path), Err(HeartbeatError::Io { .. })));
        for content in [vec![], b"UMBBEAT2".to_vec(), vec![b'x'; FILE_BYTES]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(Heartbeats::open(&path), Err(HeartbeatError::Foreign(_))));
        }
        Monitor::create(&path).unwrap();
        let old = Heartbeats::open(&path).unwrap();
        let monitor = Monitor::create(&path).unwrap();
        old.register(uuid(1)).beat(1);
        assert_eq!(monitor.read().unwrap(), []);
    }

    /// Looks a second apart, or as long as given, with what each slot shows; and who is hung at the end.
    fn hung(looks: &[(u64, &[(u128, u64)])]) -> Vec<Uuid> {
        let mut watchdog = Watchdog::new(Duration::from_secs(3), Duration::from_secs(1));
        let mut last = Vec::new();
        for (seconds, slots) in looks {
            let slots = slots.iter().enumerate();
            let pulses: Vec<Pulse> = slots
                .map(|(slot, (master, beats))| Pulse {
                    slot,
                    master: uuid(*master),
                    beats: *beats,
                    completed: 0,
                    panics: 0,
                })
                .collect();
            last = watchdog.observe(Duration::from_secs(*seconds), &pulses);
        }
        last
    }

    #[test]
    fn only_reactors_that_have_beaten_and_stopped_are_hung() {
        type Looks<'a> = &'a [(u64, &'a [(u128, u64)])];
        let cases: &[(&str, Looks<'_>, &[u128])] = &[
            (
                "one quiet, one not",
                &[
                    (1, &[(1, 5), (2, 1)]),
                    (1, &[(1, 5), (2, 2)]),
                    (1, &[(1, 5), (2, 3)]),
                    (1, &[(1, 5), (2, 4)]),
                ],
                &[1],
            ),
            ("not yet", &[(1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(1, 5)])], &[]),
            ("still starting", &[(1, &[(1, 0)]), (1, &[(1, 0)]), (1, &[(1, 0)]), (1, &[(1, 0)])], &[]),
            ("beats again", &[(1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(1, 6)])], &[]),
            ("wrapped round", &[(1, &[(1, 9)]), (1, &[(1, 9)]), (1, &[(1, 9)]), (1, &[(1, 2)])], &[]),
            ("another in the slot", &[(1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(2, 5)])], &[]),
            ("gone", &[(1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[(1, 5)]), (1, &[])], &[]),
            ("machine slept", &[(1, &[(1, 5)]), (1, &[(1, 5)]), (9000, &[(1, 5)])], &[1]),
            ("machine slept at once", &[(1, &[(1, 5)]), (9000, &[(1, 5)])], &[]),
        ];
        for (name, looks, expected) in cases {
            let expected: Vec<Uuid> = expected.iter().map(|master| uuid(*master)).collect();
            assert_eq!(hung(looks), expected, "{name}");
        }
    }
}
