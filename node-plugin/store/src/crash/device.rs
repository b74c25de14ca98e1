//! One simulated device: what reads see, what a power cut would leave, and the writes in between.

use super::rng::SimRng;
use super::{Cache, Faults, Queue};
use std::collections::HashMap;
use std::rc::Rc;

/// The unit that a power cut keeps or loses as a whole.
pub(super) const SECTOR: usize = 512;
/// The unit of memory: a page that was never written costs nothing.
const PAGE: usize = 4096;

type Page = Box<[u8; PAGE]>;

/// What a sector holds before anybody wrote it.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Zeros.
    Zero,
    /// Whatever this makes of the number of the sector.
    Each(fn(u64, &mut [u8])),
}

/// The bytes of a write.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    Data(Rc<[u8]>),
    Zeros(usize),
}

impl Payload {
    pub(super) fn sectors(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len() / SECTOR,
            Self::Zeros(len) => len / SECTOR,
        }
    }

    fn copy_to(&self, sector: usize, out: &mut [u8]) {
        match self {
            Self::Data(bytes) => out.copy_from_slice(&bytes[sector * SECTOR..(sector + 1) * SECTOR]),
            Self::Zeros(_) => out.fill(0),
        }
    }
}

/// A write that has taken effect and that a power cut may still undo.
#[derive(Debug)]
struct Unflushed {
    id: u64,
    first: u64,
    payload: Payload,
    /// Sectors of it that took effect and were not overwritten by something durable since.
    alive: Vec<bool>,
    /// When it was reported complete: only such writes are owed to a flush.
    completed: Option<u64>,
    /// A failed flush has dropped it; no later flush brings it back.
    doomed: bool,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: &'static str,
    pub(super) size: u64,
    /// Operations are multiples of this.
    pub(super) logical_block: u32,
    pub(super) cache: Cache,
    pub(super) queue: Option<Queue>,
    pub(super) faults: Faults,
    pub(super) injected: u64,
    fill: Fill,
    current: Vec<Option<Page>>,
    /// Counts what may have changed what a read sees.
    pub(super) changes: u64,
    /// Pages whose durable content is not the current one.
    durable: HashMap<usize, Page>,
    /// In the order in which they took effect.
    unflushed: Vec<Unflushed>,
    spare: Vec<Page>,
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("simulated devices fit in memory")
}

fn slot(sector: u64) -> (usize, usize) {
    let per_page = (PAGE / SECTOR) as u64;
    (index(sector / per_page), index(sector % per_page) * SECTOR)
}

impl Device {
    pub(super) fn new(name: &'static str, size: u64, cache: Cache, fill: Fill) -> Self {
        let pages = index(size.div_ceil(PAGE as u64));
        Self {
            name,
            size,
            logical_block: 512,
            cache,
            queue: None,
            faults: Faults::default(),
            injected: 0,
            fill,
            current: (0..pages).map(|_| None).collect(),
            changes: 0,
            durable: HashMap::new(),
            unflushed: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// What a read sees.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let first = offset / SECTOR as u64;
        for (n, bytes) in out.chunks_mut(SECTOR).enumerate() {
            let sector = first + n as u64;
            let (page, at) = slot(sector);
            match &self.current[page] {
                Some(memory) => bytes.copy_from_slice(&memory[at..at + bytes.len()]),
                None => fill(self.fill, sector, bytes),
            }
        }
    }

    /// What a read would see if everything that is not durable were gone.
    pub(super) fn read_durable(&self, offset: u64, out: &mut [u8]) {
        self.read(offset, out);
        let first = offset / SECTOR as u64;
        for (n, bytes) in out.chunks_mut(SECTOR).enumerate() {
            let (page, at) = slot(first + n as u64);
            if let Some(memory) = self.durable.get(&page) {
                bytes.copy_from_slice(&memory[at..at + bytes.len()]);
            }
        }
    }

    /// A write takes effect, on the sectors of `alive` alone.
    pub(super) fn land(&mut self, id: u64, offset: u64, payload: Payload, alive: Vec<bool>) {
        self.changes += 1;
        let first = offset / SECTOR as u64;
        for (n, _) in alive.iter().enumerate().filter(|(_, alive)| **alive) {
            let (page, at) = slot(first + n as u64);
            if !self.durable.contains_key(&page) {
                let copy = self.copy_of(page);
                self.durable.insert(page, copy);
            }
            payload.copy_to(n, &mut self.page_mut(page)[at..at + SECTOR]);
        }
        self.unflushed.push(Unflushed { id, first, payload, alive, completed: None, doomed: false });
    }

    fn new_page(&mut self, page: usize) -> Page {
        let mut memory = self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE]));
        let first = (page * PAGE / SECTOR) as u64;
        for (n, bytes) in memory.chunks_mut(SECTOR).enumerate() {
            fill(self.fill, first + n as u64, bytes);
        }
        memory
    }

    fn copy_of(&mut self, page: usize) -> Page {
        if self.current[page].is_none() {
            return self.new_page(page);
        }
        let mut memory = self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE]));
        if let Some(current) = &self.current[page] {
            memory.copy_from_slice(&current[..]);
        }
        memory
    }

    fn page_mut(&mut self, page: usize) -> &mut Page {
        if self.current[page].is_none() {
            self.current[page] = Some(self.new_page(page));
        }
        self.current[page].as_mut().expect("just made")
    }

    /// The write was reported complete.
    pub(super) fn completed(&mut self, id: u64, now: u64, durable: bool) {
        let Some(at) = self.unflushed.iter().position(|write| write.id == id) else { return };
        self.unflushed[at].completed = Some(now);
        if durable || self.cache == Cache::WriteThrough {
            self.make_durable(at);
            self.forget_durable();
        }
    }

    /// Moves one write to the medium. What took effect earlier in the same place can not come back over it.
    fn make_durable(&mut self, at: usize) {
        let write = self.unflushed.remove(at);
        for (n, _) in write.alive.iter().enumerate().filter(|(_, alive)| **alive) {
            let sector = write.first + n as u64;
            let (page, offset) = slot(sector);
            let memory = self.durable.get_mut(&page).expect("a page with an unflushed write");
            write.payload.copy_to(n, &mut memory[offset..offset + SECTOR]);
            for older in &mut self.unflushed[..at] {
                if sector >= older.first
                    && let Some(alive) = older.alive.get_mut(index(sector - older.first))
                {
                    *alive = false;
                }
            }
        }
    }

    fn forget_durable(&mut self) {
        self.unflushed.retain(|write| write.alive.contains(&true));
        if self.unflushed.is_empty() {
            self.spare.extend(self.durable.drain().map(|(_, page)| page));
        }
    }

    /// Everything completed before `submitted` becomes durable; what is younger perhaps.
    pub(super) fn flush(&mut self, submitted: u64, rng: &mut SimRng) {
        let mut at = 0;
        while at < self.unflushed.len() {
            let write = &self.unflushed[at];
            let owed = write.completed.is_some_and(|completed| completed < submitted);
            if !write.doomed && (owed || rng.chance(300)) {
                self.make_durable(at);
            } else {
                at += 1;
            }
        }
        self.forget_durable();
    }

    /// A flush failed: part of the cache will never reach the medium, though reads still see it.
    pub(super) fn doom(&mut self, rng: &mut SimRng) {
        for write in &mut self.unflushed {
            write.doomed |= rng.chance(500);
        }
    }

    /// Nothing is dropped after all.
    pub(super) fn undoom(&mut self) {
        for write in &mut self.unflushed {
            write.doomed = false;
        }
    }

    /// The power is cut: of every unflushed write all, nothing or some granules remain.
    pub(super) fn power_cut(&mut self, rng: &mut SimRng, granule: u64) {
        self.changes += 1;
        // Whole runs in which everything is lost find missing flushes soonest; the mixed ones find the rest.
        let mode = rng.below(6);
        for at in 0..self.unflushed.len() {
            let fate = match mode {
                0 | 1 => 0,
                2 => 1,
                _ => rng.below(3),
            };
            let write = &mut self.unflushed[at];
            if write.doomed || fate == 0 {
                write.alive.fill(false);
            } else if fate == 2 {
                tear(&mut write.alive, write.first, granule, rng);
            }
        }
        while !self.unflushed.is_empty() {
            self.make_durable(0);
        }
        for (page, memory) in self.durable.drain() {
            if let Some(old) = self.current[page].replace(memory) {
                self.spare.push(old);
            }
        }
    }

    /// After a crash of the process alone: what took effect counts as completed, for flushes to come.
    pub(super) fn orphan(&mut self, now: u64) {
        for write in &mut self.unflushed {
            write.completed.get_or_insert(now);
        }
        if self.cache == Cache::WriteThrough {
            while !self.unflushed.is_empty() {
                self.make_durable(0);
            }
            self.forget_durable();
        }
    }
}

/// Keeps some granules of a write: all sectors of a granule share their fate.
pub(super) fn tear(alive: &mut [bool], first: u64, granule: u64, rng: &mut SimRng) {
    let sectors = granule / SECTOR as u64;
    let (mut of, mut keep) = (None, false);
    for (n, alive) in alive.iter_mut().enumerate() {
        let this = (first + n as u64) / sectors;
        if of != Some(this) {
            of = Some(this);
            keep = rng.chance(500);
        }
        *alive &= keep;
    }
}

fn fill(fill: Fill, sector: u64, bytes: &mut [u8]) {
    match fill {
        Fill::Zero => bytes.fill(0),
        Fill::Each(make) => make(sector, bytes),
    }
}
