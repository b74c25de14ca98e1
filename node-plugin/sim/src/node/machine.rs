//! What outlives a process of umbra-io: disks, the ublk driver, names, the files of the state directory; and what
//! becomes of all that when a process dies or the power is cut.
//!
//! Every effect of a process goes through [`Machine::next`]: steps are numbered, and a plan may say that a step fails,
//! hangs, or is the last one.

use super::disk::{Disk, DiskId};
use super::driver::{Driver, Ublk};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;
use umbra_lifecycle::files::{FileName, Folder};
use umbra_lifecycle::state::{CutRecord, MasterRecord};
use umbra_store::{Cache, Crash, Fill, SimRng, SimWorld};
use uuid::Uuid;

/// When lives begin, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_700_000_000_000;

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process, or the machine, stops before the step has an effect.
    DieBefore(Crash),
    /// It stops when the step has had its effect, and nobody has heard of it.
    DieAfter(Crash),
    /// The step fails without an effect.
    Fail,
    /// It has its effect, and is said to have failed.
    FailAfter,
    /// The thread of a master panics, while others wait for it or not.
    Panic,
    /// It takes so many milliseconds.
    Hang(u64),
}

/// Devices that are held, by whom: shared with the guards that let them go.
pub(super) type Held<K> = Rc<RefCell<BTreeMap<K, u64>>>;

/// Digests of masters' first bytes, in a folder that outlives processes and not the machine.
pub(super) type Digests = Rc<RefCell<BTreeMap<Uuid, u64>>>;

/// Lets a claim or a hold fall.
#[derive(Debug)]
pub(super) struct Guard<K: Ord> {
    held: Held<K>,
    key: K,
    token: u64,
}

impl<K: Ord> Drop for Guard<K> {
    fn drop(&mut self) {
        let mut held = self.held.borrow_mut();
        if held.get(&self.key) == Some(&self.token) {
            held.remove(&self.key);
        }
    }
}

/// A file of the state directory.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    pub(super) written: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) store: SimWorld,
    pub(super) disks: Vec<Disk>,
    pub(super) driver: Driver,
    pub(super) names: BTreeMap<Uuid, u32>,
    pub(super) files: BTreeMap<FileName, Stored>,
    pub(super) digests: Digests,
    pub(super) disk_full: bool,
    pub(super) files_hang: bool,
    pub(super) claims: Held<DiskId>,
    pub(super) holds: Held<u32>,
    /// Presented devices that somebody has mounted, until this step.
    pub(super) mounted: BTreeMap<u32, u64>,
    /// How often somebody mounts a device for a moment, per thousand steps.
    pub(super) mounts: u32,
    /// How often somebody reads a device at the moment of a claim, as udev does, per thousand claims.
    pub(super) looks: u32,
    /// Disks with an operation in flight of a process that died: nobody gets them before it has landed.
    pub(super) lingering: BTreeSet<DiskId>,
    /// Disks that Umbra was told to use, and what it was told of.
    pub(super) told: BTreeSet<DiskId>,
    pub(super) violations: Vec<String>,
    pub(super) rng: SimRng,
    /// Steps so far.
    pub(super) steps: u64,
    pub(super) armed: BTreeMap<u64, Fate>,
    /// Steps that a fate has met.
    pub(super) met: u64,
    /// A step took so long that a start may have given a set up.
    pub(super) slow: bool,
    pub(super) dead: Option<Crash>,
    pub(super) killed: Arc<Notify>,
    pub(super) process: u32,
    /// Starts of the machine after the first.
    pub(super) boots: u64,
    pub(super) now_ms: u64,
    /// When the last process ended.
    pub(super) served_ms: u64,
    pub(super) log: Option<Vec<String>>,
    /// Numbers that ublk devices had before the machine stopped.
    pub(super) numbers: Vec<u32>,
    tokens: u64,
    seed: u64,
}

impl Machine {
    pub(super) fn new(seed: u64, timing: umbra_store::Timing, traced: bool) -> Self {
        Self {
            store: SimWorld::new(seed ^ 0x0d15, timing),
            disks: Vec::new(),
            driver: Driver::default(),
            names: BTreeMap::new(),
            files: BTreeMap::new(),
            digests: Digests::default(),
            disk_full: false,
            files_hang: false,
            claims: Held::default(),
            holds: Held::default(),
            mounted: BTreeMap::new(),
            mounts: 0,
            looks: 0,
            lingering: BTreeSet::new(),
            told: BTreeSet::new(),
            violations: Vec::new(),
            rng: SimRng::new(seed ^ 0x57e9),
            steps: 0,
            armed: BTreeMap::new(),
            met: 0,
            slow: false,
            dead: None,
            killed: Arc::default(),
            process: 0,
            boots: 0,
            now_ms: 0,
            served_ms: 0,
            log: traced.then(Vec::new),
            numbers: Vec::new(),
            tokens: 0,
            seed,
        }
    }

    pub(super) fn add_disk(&mut self, size: u64, serial: Option<String>, cache: Cache, fill: Fill) -> DiskId {
        let slot = self.store.add_device("disk", size, cache, fill);
        let letter = u32::try_from(self.disks.len()).expect("few disks");
        self.disks.push(Disk::new(slot, serial, letter, size));
        self.disks.len() - 1
    }

    /// Two disks will have changed places when the machine has started again.
    pub(super) fn exchange(&mut self, a: DiskId, b: DiskId) {
        let letters = (self.disks[a].next_letter, self.disks[b].next_letter);
        (self.disks[b].next_letter, self.disks[a].next_letter) = letters;
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now_ms;
        if let Some(log) = &mut self.log {
            log.push(format!("{:>7}.{:03} {}", now / 1000, now % 1000, line()));
        }
    }

    pub(super) fn violation(&mut self, text: String) {
        self.note(|| format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        BEGINNING_MS + self.now_ms
    }

    /// The last second in which the process before this one may have served anything.
    pub(super) fn served_until(&self) -> u64 {
        (BEGINNING_MS + self.served_ms) / 1000 + 1
    }

    /// A number that was never used.
    pub(super) fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// A name that was never used.
    pub(super) fn fresh(&mut self) -> Uuid {
        let token = self.token();
        let mut bits = SimRng::new(self.seed.rotate_left(32) ^ token);
        Uuid::from_u64_pair(bits.bits(), bits.bits())
    }

    pub(super) fn guard<K: Ord + Copy>(&mut self, held: &Held<K>, key: K) -> Guard<K> {
        let token = self.token();
        held.borrow_mut().insert(key, token);
        Guard { held: Rc::clone(held), key, token }
    }

    /// What the state directory says about a cut over several sets.
    pub(super) fn cut_on_record(&self, cut: Uuid) -> Option<CutRecord> {
        let file = FileName { folder: Folder::Cuts, name: cut.to_string() };
        serde_json::from_slice(&self.files.get(&file)?.bytes).ok()
    }

    /// What the state directory says about masters and their sets.
    pub(super) fn masters_on_record(&self) -> Vec<MasterRecord> {
        let of_masters = self.files.iter().filter(|(file, _)| file.folder == Folder::Masters);
        of_masters.filter_map(|(_, stored)| serde_json::from_slice(&stored.bytes).ok()).collect()
    }

    /// The disk at a path.
    pub(super) fn disk_at(&self, path: &std::path::Path) -> Option<DiskId> {
        let now = self.now_ms;
        self.disks.iter().position(|disk| disk.is_there(now) && disk.path() == path)
    }

    /// A process takes its next step; none: it lives on, and the step has its effect.
    pub(super) fn next(&mut self, step: &str) -> Option<Fate> {
        self.steps += 1;
        let number = self.steps;
        let fate = self.armed.remove(&number);
        self.met += u64::from(fate.is_some());
        self.slow |= matches!(fate, Some(Fate::Hang(1000..)));
        self.note(|| match fate {
            Some(fate) => format!("#{number} {step} !{fate:?}"),
            None => format!("#{number} {step}"),
        });
        self.mount_something();
        fate
    }

    /// Somebody mounts a presented device for a while, unless it is claimed.
    fn mount_something(&mut self) {
        let steps = self.steps;
        self.mounted.retain(|_, until| *until > steps);
        let rate = self.mounts;
        if !self.rng.chance(rate) {
            return;
        }
        let shown: Vec<u32> =
            self.driver.list(0).iter().filter(|d| d.block.is_some()).map(|d| d.number).collect();
        if shown.is_empty() {
            return;
        }
        let number = self.rng.pick(&shown);
        if !self.holds.borrow().contains_key(&number) && !self.is_foreign(number) {
            let until = steps + self.rng.range(2, 12);
            self.note(|| format!("somebody mounts ublkb{number} until step {until}"));
            self.mounted.insert(number, until);
        }
    }

    pub(super) fn is_mounted(&self, number: u32) -> bool {
        self.mounted.contains_key(&number)
    }

    /// Somebody has it open at this moment, and closes it by himself.
    pub(super) fn is_looked_at(&mut self, number: u32) -> bool {
        let rate = self.looks;
        let looked_at = rate > 0 && self.rng.chance(rate);
        if looked_at {
            self.note(|| format!("somebody looks at ublkb{number}"));
        }
        looked_at
    }

    pub(super) fn is_foreign(&self, number: u32) -> bool {
        self.driver.devices.get(&number).is_some_and(|device| device.foreign)
    }

    /// The process does something to a device of the driver.
    pub(super) fn touches(&mut self, what: &str, number: u32) {
        if self.is_foreign(number) {
            self.violation(format!("{what} of ublk device {number}, which is another server's"));
        }
    }

    /// The process, or the machine, stops.
    pub(super) fn die(&mut self, crash: Crash) {
        if self.dead.is_some() {
            return;
        }
        self.note(|| format!("---- {crash:?}"));
        for id in 0..self.disks.len() {
            let hung = self.disks[id].hung && self.store.in_flight_on(self.disks[id].slot) > 0;
            if hung && crash == Crash::Kill {
                self.lingering.insert(id);
            }
        }
        if self.store.crashed().is_none() {
            self.store.crash(crash);
        }
        self.dead = Some(crash);
        self.served_ms = self.now_ms;
        self.driver.server_died();
        if crash != Crash::Kill {
            self.numbers = self.driver.devices.keys().copied().collect();
            self.driver.reboot();
            self.names.clear();
            self.digests.borrow_mut().clear();
            self.mounted.clear();
            self.lingering.clear();
        }
        self.killed.notify_one();
    }

    /// A foreign server has a device of this number.
    pub(super) fn add_foreign(&mut self, number: u32) {
        let tag = self.rng.bits() >> 20;
        self.driver.devices.entry(number).or_insert_with(|| Ublk::new(tag, true));
    }

    /// After the process has gone with everything in its memory.
    pub(super) fn buried(&mut self) {
        self.claims.borrow_mut().clear();
        self.holds.borrow_mut().clear();
        self.process += 1;
        self.dead = None;
        self.killed = Arc::default();
    }
}
