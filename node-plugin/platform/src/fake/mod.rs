//! A platform in memory, for tests of whatever talks to one: state without data.
//!
//! It keeps the bits of every chunk by the rules of the engine's state tables (with whole-chunk writes), refuses
//! what an interposer refuses, and copies as fast as a test lets it. It holds no content, records nothing and
//! knows no crash: that is the simulator's work. Never in production.
//!
//! Errors that need a kernel or a disk are injected: [`Fake::fail_next`].

mod device;
mod model;
mod service;

pub use device::{Content, FakeDevice};

use crate::call::{Answer, Direction, Scope};
use crate::error::PlatformError;
use crate::id::{MasterId, MasterRef, RequestId, SetId, SetRef};
use crate::platform::Result;
use crate::status::{MasterCounters, MasterState, MasterStatus, Role, SetState, SetStatus, Status};
use crate::time::Millis;
use crate::value::{ByteCount, Detail, DevicePath, Label, QueueDepth, UblkId};
use device::Devices;
use model::{FakeSet, Phase};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// A platform in memory. Make it, add devices, serve it.
#[derive(Debug)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// Counts changes, so that waits and watches need not poll.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    devices: Devices,
    masters: BTreeMap<MasterId, FakeMaster>,
    sets: BTreeMap<SetId, FakeSet>,
    /// Requests that changed something, as text, with what they were answered.
    answered: HashMap<RequestId, (String, Answer)>,
    /// Requests that are being carried out.
    running: HashSet<RequestId>,
    /// Errors for the next calls.
    planned: VecDeque<PlatformError>,
    /// How long each call takes before it changes anything.
    pause: Duration,
}

#[derive(Debug)]
pub(crate) struct FakeMaster {
    id: MasterId,
    name: Label,
    device: DevicePath,
    attached: bool,
    ublk: UblkId,
    queue_depth: QueueDepth,
    counters: MasterCounters,
    state: MasterState,
}

impl FakeMaster {
    fn presented(&self) -> DevicePath {
        model::presented(self.id)
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl Fake {
    /// A platform without devices.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a device into the node, or exchanges the one at that path.
    pub fn add_device(&self, path: &str, device: FakeDevice) {
        let path = path.parse().expect("a test names valid paths");
        self.change(|state| state.devices.insert(path, device));
    }

    /// Lets something open a device, or close it (none). Presented devices count.
    pub fn set_opener(&self, path: &DevicePath, who: Option<&str>) {
        self.change(|state| state.devices.set_opener(path, who.map(Detail::from)));
    }

    /// Makes the next call fail with this error; several wait in line.
    pub fn fail_next(&self, error: PlatformError) {
        self.change(|state| state.planned.push_back(error));
    }

    /// Makes every call that changes something take so long before it does.
    pub fn slow_down(&self, pause: Duration) {
        self.change(|state| state.pause = pause);
    }

    /// The workload writes these bytes of a master, whole chunks at a time.
    ///
    /// # Errors
    /// If there is no such master.
    pub fn write_master(&self, master: &MasterRef, bytes: Range<u64>) -> Result<()> {
        self.change(|state| {
            let id = state.master(master)?.id;
            state.write_master(id, bytes, None);
            Ok(())
        })
    }

    /// Somebody writes these bytes of a shadow, whole chunks at a time.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn write_shadow(&self, set: &SetRef, bytes: Range<u64>) -> Result<()> {
        self.change(|state| {
            let set = state.set_mut(set)?;
            set.write_shadow(bytes);
            Ok(())
        })
    }

    /// For how long file systems were let recover their journals through a shadow, call by call.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn recoveries(&self, set: &SetRef) -> Result<Vec<Millis>> {
        Ok(self.lock().set_mut(set)?.recoveries.clone())
    }

    /// The old data of these bytes cannot be kept.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn lose(&self, set: &SetRef, bytes: Range<u64>) -> Result<()> {
        self.change(|state| {
            state.set_mut(set)?.lose(bytes);
            Ok(())
        })
    }

    /// A volume of the set fails.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn fail_volume(&self, set: &SetRef, which: Role, reason: &str) -> Result<()> {
        self.change(|state| {
            let set = state.set_mut(set)?;
            set.phase = Phase::Offline { which, reason: reason.into(), since: set.epoch };
            Ok(())
        })
    }

    /// The set's image cannot be kept at all.
    ///
    /// # Errors
    /// If there is no such set.
    pub fn give_up(&self, set: &SetRef, reason: &str) -> Result<()> {
        self.change(|state| {
            state.set_mut(set)?.phase = Phase::GivenUp { reason: reason.into() };
            Ok(())
        })
    }

    /// The master is in this state from now on; in any but `Serving`, calls on it and its sets are refused.
    ///
    /// # Errors
    /// If there is no such master.
    pub fn set_master_state(&self, master: &MasterRef, to: MasterState) -> Result<()> {
        self.change(|state| {
            let id = state.master(master)?.id;
            state.masters.get_mut(&id).expect("just found").state = to;
            Ok(())
        })
    }

    /// Every running copier copies up to so many chunks; says how many were copied.
    pub fn copy_some(&self, chunks: u64) -> u64 {
        self.change(|state| {
            let running: Vec<SetId> = state.sets.values().filter(|s| s.is_running()).map(|s| s.id).collect();
            running.into_iter().map(|id| state.copy_some(id, chunks)).sum()
        })
    }

    /// Copies in the background, as the limits of each set say, looking every `period`.
    pub fn copy_in_background(self: &Arc<Self>, period: Duration) -> tokio::task::JoinHandle<()> {
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period);
            loop {
                ticks.tick().await;
                fake.copy_by_limits(period);
            }
        })
    }

    fn copy_by_limits(&self, period: Duration) {
        let running = |state: &State| state.sets.values().any(FakeSet::is_running);
        if !running(&self.lock()) {
            return;
        }
        self.change(|state| {
            let ids: Vec<SetId> = state.sets.values().filter(|s| s.is_running()).map(|s| s.id).collect();
            for id in ids {
                let chunks = state.sets[&id].chunks_in(period);
                state.copy_some(id, chunks);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked holding the lock has failed already; the others may see what it left.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let answer = act(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        answer
    }
}

impl State {
    fn master(&self, master: &MasterRef) -> Result<&FakeMaster> {
        let attached = self.masters.values().filter(|m| m.attached);
        let mut found = attached.filter(|m| master.matches(m.id, &m.name));
        found.next().ok_or_else(|| PlatformError::no_master(master))
    }

    /// The master, if calls on it can be answered.
    fn served(&self, master: &MasterRef) -> Result<&FakeMaster> {
        let found = self.master(master)?;
        self.is_served(found.id)?;
        Ok(found)
    }

    fn is_served(&self, id: MasterId) -> Result<()> {
        let master = &self.masters[&id];
        match (&master.state, master.state.waiting_for()) {
            (MasterState::Serving, _) => Ok(()),
            (_, Some(wait)) => Err(PlatformError::blocked(MasterRef::Name(master.name.clone()), wait)),
            (other, None) => Err(PlatformError::Stopping {
                cause: format!("master {} is {}", master.name, other.word()).into(),
            }),
        }
    }

    fn set(&self, set: &SetRef) -> Result<&FakeSet> {
        let mut found =
            self.sets.values().filter(|s| self.masters[&s.master].attached && set.matches(s.id, &s.name));
        let first = found.next().ok_or_else(|| PlatformError::no_set(set))?;
        match found.next() {
            None => Ok(first),
            Some(_) => Err(PlatformError::BadArgument {
                argument: "set".into(),
                problem: format!("{set} is the name of several sets; say which namespace").into(),
            }),
        }
    }

    fn set_mut(&mut self, set: &SetRef) -> Result<&mut FakeSet> {
        let id = self.set(set)?.id;
        Ok(self.sets.get_mut(&id).expect("just found"))
    }

    fn sets_of(&self, master: MasterId) -> impl Iterator<Item = &FakeSet> {
        self.sets.values().filter(move |s| s.master == master)
    }

    /// A write to the physical master counts for every set of it but the one that it comes from.
    fn write_master(&mut self, master: MasterId, bytes: Range<u64>, from: Option<SetId>) {
        let mut copies = 0;
        for set in self.sets.values_mut().filter(|s| s.master == master && Some(s.id) != from) {
            copies += set.write_master(bytes.clone());
        }
        let counters = &mut self.masters.get_mut(&master).expect("callers looked").counters;
        if from.is_none() {
            counters.writes += 1;
            counters.first_writes += u64::from(copies > 0);
        }
        counters.copies += copies;
        counters.records += copies;
    }

    fn copy_some(&mut self, id: SetId, chunks: u64) -> u64 {
        let set = self.sets.get_mut(&id).expect("callers looked");
        let (master, direction) = (set.master, set.direction());
        let copied = set.copy_some(chunks);
        if direction == Some(Direction::ToMaster) {
            for bytes in &copied {
                self.write_master(master, bytes.clone(), Some(id));
            }
        }
        u64::try_from(copied.len()).expect("usize fits 64 bits")
    }

    fn status(&self, scope: &Scope) -> Result<Status> {
        let (masters, sets): (Vec<&FakeMaster>, Vec<&FakeSet>) = match scope {
            Scope::All => {
                let attached: Vec<_> = self.masters.values().filter(|m| m.attached).collect();
                let sets = attached.iter().flat_map(|m| self.sets_of(m.id)).collect();
                (attached, sets)
            }
            Scope::Master(master) => {
                let master = self.master(master)?;
                (vec![master], self.sets_of(master.id).collect())
            }
            Scope::Set(set) => {
                let set = self.set(set)?;
                (vec![&self.masters[&set.master]], vec![set])
            }
        };
        let mut status = Status {
            masters: masters.into_iter().map(|m| self.master_status(m)).collect(),
            sets: sets.into_iter().map(|s| self.set_status(s)).collect(),
        };
        status.masters.sort_by(|a, b| a.name.cmp(&b.name));
        status.sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(status)
    }

    fn set_status(&self, set: &FakeSet) -> SetStatus {
        let master = &self.masters[&set.master];
        let status = set.status(&master.name, &master.device);
        match master.state.waiting_for() {
            Some(wait) => SetStatus { state: SetState::Blocked(wait.clone()), ..status },
            None => status,
        }
    }

    fn master_status(&self, master: &FakeMaster) -> MasterStatus {
        let (size, block) =
            self.devices.get(&master.device).map_or((ByteCount(0), ByteCount(0)), |d| (d.size, d.block));
        MasterStatus {
            id: master.id,
            name: master.name.clone(),
            state: master.state.clone(),
            device: master.device.clone(),
            identity: self.devices.identity(&master.device),
            presented: master.presented(),
            size,
            block,
            ublk: Some(master.ublk),
            queue_depth: master.queue_depth,
            sets: self.sets_of(master.id).map(|s| s.id).collect(),
            counters: master.counters,
        }
    }
}
