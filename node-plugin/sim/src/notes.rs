//! A state directory that takes its time, fails on demand and survives what its machine does not.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use umbra_engine::{Epoch, Id128};
use umbra_store::{EndNote, Ended, Notes, SimRng, SimWorld};

#[derive(Debug)]
struct Directory {
    rng: SimRng,
    durable: HashMap<Id128, Ended>,
    /// Cuts over several sets that were decided to be committed.
    decided: HashSet<Id128>,
    /// With the polls until each is written.
    writing: Vec<(EndNote, u64)>,
    failing: u32,
    failures: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct SimNotes {
    world: SimWorld,
    directory: Rc<RefCell<Directory>>,
}

impl SimNotes {
    /// An empty directory on the machine of `world`.
    pub fn new(world: SimWorld, seed: u64) -> Self {
        let directory = Directory {
            rng: SimRng::new(seed),
            durable: HashMap::new(),
            decided: HashSet::new(),
            writing: Vec::new(),
            failing: 0,
            failures: 0,
        };
        Self { world, directory: Rc::new(RefCell::new(directory)) }
    }

    /// The newest image of a set that the directory says has ended.
    pub fn ended(&self, set: Id128) -> Option<Ended> {
        self.directory.borrow().durable.get(&set).copied()
    }

    /// Records that a cut is committed; false if that failed.
    pub fn decide(&self, cut: Id128) -> bool {
        let mut directory = self.directory.borrow_mut();
        let failing = directory.failing;
        let ok = !directory.rng.chance(failing);
        if ok {
            directory.decided.insert(cut);
        } else {
            directory.failures += 1;
        }
        ok
    }

    /// Whether a cut is on record as committed.
    pub fn is_decided(&self, cut: Id128) -> bool {
        self.directory.borrow().decided.contains(&cut)
    }

    /// So many of 1000 writes fail from now on.
    pub fn set_failing(&self, per_mille: u32) {
        self.directory.borrow_mut().failing = per_mille;
    }

    /// Whether writes may fail now.
    pub fn is_failing(&self) -> bool {
        self.directory.borrow().failing > 0
    }

    /// Writes that failed so far.
    pub fn failures(&self) -> u64 {
        self.directory.borrow().failures
    }

    /// Notes on their way.
    pub fn in_flight(&self) -> usize {
        self.directory.borrow().writing.len()
    }

    /// The machine has crashed: what was being written is there or not.
    pub fn crash(&self) {
        let mut directory = self.directory.borrow_mut();
        for (note, _) in std::mem::take(&mut directory.writing) {
            if directory.rng.chance(500) {
                directory.keep(note);
            }
        }
    }
}

impl Directory {
    fn keep(&mut self, note: EndNote) {
        let before = self.durable.get(&note.set).map_or(Epoch(0), |ended| ended.epoch);
        let ended = Ended { epoch: before.max(note.epoch), master_incomplete: note.master_incomplete };
        self.durable.insert(note.set, ended);
    }
}

impl Notes for SimNotes {
    /// Nobody writes past the engine here; the node's simulator compares digests.
    fn keep_digest(&mut self, _digest: u64) {}

    fn withdraw_digest(&mut self) {}

    fn submit(&mut self, note: EndNote) {
        if self.world.crashed().is_none() {
            let mut directory = self.directory.borrow_mut();
            let polls = directory.rng.range(1, 12);
            directory.writing.push((note, polls));
        }
    }

    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>) {
        if self.world.crashed().is_some() {
            return;
        }
        let mut directory = self.directory.borrow_mut();
        for (_, polls) in &mut directory.writing {
            *polls -= 1;
        }
        while let Some(at) = directory.writing.iter().position(|(_, polls)| *polls == 0) {
            let (note, _) = directory.writing.remove(at);
            let failing = directory.failing;
            let ok = !directory.rng.chance(failing);
            if ok {
                directory.keep(note);
            } else {
                directory.failures += 1;
            }
            done.push((note, ok));
        }
    }
}
