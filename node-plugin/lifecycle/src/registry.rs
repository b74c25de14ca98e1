//! The masters that are configured here, served or not.
//!
//! ```text
//!   attach, start ──> Claiming ──> Recovering ──> Serving ──> Detaching ──> (gone)
//!                        ^  │          │  ^          │
//!                        │  v          v  │          v  its thread died
//!                        └─ Blocked <──┘  └────── Failed
//!                              │ written outside
//!                              v
//!                         Quarantined ── accept ──> Claiming
//! ```
//! Whoever changes a master has its *turn*; looking never waits for a turn. What has the turn says which step it is
//! at, so that the next in line can be told what it waits for.

use crate::state::{MasterRecord, SetRecord};
use crate::words::{is_master, master_ref, set_name};
use crate::world::World;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedMutexGuard};
use umbra_engine::Geometry;
use umbra_platform::PlatformError;
use umbra_platform::id::{MasterRef, SetId, SetRef};
use umbra_platform::status::{WaitReason, WaitingFor};
use umbra_platform::time::{Millis, WallTime};
use umbra_store::Capabilities;
use uuid::Uuid;

/// How long a change waits for the one before it.
const TURN_PATIENCE: Duration = Duration::from_secs(10);

/// A set that is configured but not served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unserved {
    /// What went wrong when it started.
    pub(crate) reason: String,
    /// The last epoch that is known of it.
    pub(crate) epoch: u64,
}

/// A master that is served.
#[derive(Debug)]
pub(crate) struct Serving<W: World> {
    /// Its thread.
    pub(crate) reactor: W::Reactor,
    /// Size and chunks.
    pub(crate) geometry: Geometry,
    /// What the physical device can do.
    pub(crate) capabilities: Capabilities,
    /// ublk numbers of what is presented, by the UUID of the master or set. They are of this boot, and never recorded.
    pub(crate) presented: BTreeMap<Uuid, u32>,
    /// Sets that are configured and not served.
    pub(crate) unserved: BTreeMap<Uuid, Unserved>,
    /// Tells one start from another.
    start: Arc<()>,
}

impl<W: World> Serving<W> {
    /// By a thread that was just started, and that presents nothing yet.
    pub(crate) fn new(
        reactor: W::Reactor,
        geometry: Geometry,
        capabilities: Capabilities,
        unserved: BTreeMap<Uuid, Unserved>,
    ) -> Self {
        Self { reactor, geometry, capabilities, presented: BTreeMap::new(), unserved, start: Arc::default() }
    }
}

impl<W: World> Clone for Serving<W> {
    fn clone(&self) -> Self {
        Self {
            reactor: self.reactor.clone(),
            geometry: self.geometry,
            capabilities: self.capabilities,
            presented: self.presented.clone(),
            unserved: self.unserved.clone(),
            start: Arc::clone(&self.start),
        }
    }
}

/// Where a master is in its life.
#[derive(Debug)]
pub(crate) enum Phase<W: World> {
    /// Its device is being claimed.
    Claiming(WaitingFor),
    /// What the last process left is being put in order.
    Recovering(WaitingFor),
    /// It cannot be started now, and is tried again.
    Blocked(WaitingFor),
    /// It was written outside, and somebody must accept that.
    Quarantined(WaitingFor),
    /// It is served.
    Serving(Serving<W>),
    /// Its thread died.
    Failed(String),
    /// It is being taken out.
    Detaching,
}

impl<W: World> Clone for Phase<W> {
    fn clone(&self) -> Self {
        match self {
            Self::Claiming(wait) => Self::Claiming(wait.clone()),
            Self::Recovering(wait) => Self::Recovering(wait.clone()),
            Self::Blocked(wait) => Self::Blocked(wait.clone()),
            Self::Quarantined(wait) => Self::Quarantined(wait.clone()),
            Self::Serving(serving) => Self::Serving(serving.clone()),
            Self::Failed(reason) => Self::Failed(reason.clone()),
            Self::Detaching => Self::Detaching,
        }
    }
}

/// A master as it was when we looked.
#[derive(Debug)]
pub(crate) struct Seen<W: World> {
    /// What is on record.
    pub(crate) record: MasterRecord,
    /// Where it is.
    pub(crate) phase: Phase<W>,
    /// Since when it is there.
    pub(crate) since: WallTime,
}

impl<W: World> Clone for Seen<W> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), phase: self.phase.clone(), since: self.since }
    }
}

impl<W: World> Seen<W> {
    /// How it is served.
    ///
    /// # Errors
    /// [`PlatformError::Blocked`]: it exists, and waits for something.
    pub(crate) fn serving(&self) -> Result<&Serving<W>, PlatformError> {
        let died = || WaitingFor {
            reason: WaitReason::Recovering,
            what: "its thread died and is started again".into(),
            since: self.since,
        };
        let blocked = |wait: &WaitingFor| Err(PlatformError::blocked(master_ref(&self.record), wait));
        match &self.phase {
            Phase::Serving(serving) => Ok(serving),
            Phase::Claiming(wait)
            | Phase::Recovering(wait)
            | Phase::Blocked(wait)
            | Phase::Quarantined(wait) => blocked(wait),
            Phase::Failed(_) => blocked(&died()),
            Phase::Detaching => Err(PlatformError::no_master(&master_ref(&self.record))),
        }
    }
}

#[derive(Debug)]
struct Doing {
    what: &'static str,
    step: String,
    since: tokio::time::Instant,
}

/// A master that is configured here.
#[derive(Debug)]
pub(crate) struct Entry<W: World> {
    id: Uuid,
    turn: Arc<tokio::sync::Mutex<()>>,
    seen: Mutex<Seen<W>>,
    doing: Mutex<Option<Doing>>,
    /// Since when its thread has not answered, if it does not.
    silent_since: Mutex<Option<WallTime>>,
    /// This process has served it, or somebody has accepted its content as it is.
    vouched_for: AtomicBool,
    /// Wakes whoever waits to start it again.
    poke: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks guard is replaced as a whole, so a panic elsewhere leaves nothing by halves.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to change a master, held by one task at a time.
#[derive(Debug)]
pub(crate) struct Turn<W: World> {
    entry: Arc<Entry<W>>,
    _held: OwnedMutexGuard<()>,
}

impl<W: World> Turn<W> {
    /// Says what is being done, for those who wait.
    pub(crate) fn step(&self, step: impl fmt::Display) {
        if let Some(doing) = lock(&self.entry.doing).as_mut() {
            doing.step = step.to_string();
        }
    }

    /// The master.
    pub(crate) fn entry(&self) -> &Arc<Entry<W>> {
        &self.entry
    }
}

impl<W: World> Drop for Turn<W> {
    fn drop(&mut self) {
        *lock(&self.entry.doing) = None;
    }
}

impl<W: World> Entry<W> {
    pub(crate) fn new(record: MasterRecord, phase: Phase<W>) -> Arc<Self> {
        Arc::new(Self {
            id: record.id,
            turn: Arc::default(),
            seen: Mutex::new(Seen { record, phase, since: WallTime::now() }),
            doing: Mutex::new(None),
            silent_since: Mutex::new(None),
            vouched_for: AtomicBool::new(false),
            poke: Notify::new(),
        })
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Waits for the right to change this master.
    ///
    /// # Errors
    /// [`PlatformError::Hung`], which says what the change before this one is waiting for.
    pub(crate) async fn turn(self: &Arc<Self>, what: &'static str) -> Result<Turn<W>, PlatformError> {
        let waited = tokio::time::timeout(TURN_PATIENCE, Arc::clone(&self.turn).lock_owned()).await;
        let Ok(held) = waited else { return Err(self.busy()) };
        Ok(self.take(held, what))
    }

    /// That right, if nobody has it.
    pub(crate) fn turn_if_free(self: &Arc<Self>, what: &'static str) -> Option<Turn<W>> {
        let held = Arc::clone(&self.turn).try_lock_owned().ok()?;
        Some(self.take(held, what))
    }

    /// Waits for that right as long as it takes.
    pub(crate) async fn turn_patiently(self: &Arc<Self>, what: &'static str) -> Turn<W> {
        let held = Arc::clone(&self.turn).lock_owned().await;
        self.take(held, what)
    }

    fn take(self: &Arc<Self>, held: OwnedMutexGuard<()>, what: &'static str) -> Turn<W> {
        let doing = Doing { what, step: what.to_owned(), since: tokio::time::Instant::now() };
        *lock(&self.doing) = Some(doing);
        Turn { entry: Arc::clone(self), _held: held }
    }

    /// What has the turn, in an error.
    pub(crate) fn busy(&self) -> PlatformError {
        let (step, after) = match &*lock(&self.doing) {
            Some(Doing { what, step, since }) if what == step => ((*step).clone(), since.elapsed()),
            Some(Doing { what, step, since }) => (format!("{what}: {step}"), since.elapsed()),
            None => ("an earlier change".to_owned(), TURN_PATIENCE),
        };
        PlatformError::Hung {
            device: crate::words::device_path(&self.seen().record.device),
            step: step.into(),
            after: Millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    pub(crate) fn seen(&self) -> Seen<W> {
        lock(&self.seen).clone()
    }

    pub(crate) fn record(&self) -> MasterRecord {
        lock(&self.seen).record.clone()
    }

    pub(crate) fn put_record(&self, record: MasterRecord) {
        lock(&self.seen).record = record;
    }

    pub(crate) fn put_phase(&self, phase: Phase<W>) {
        if matches!(phase, Phase::Serving(_)) {
            self.vouch();
        }
        let mut seen = lock(&self.seen);
        (seen.phase, seen.since) = (phase, WallTime::now());
    }

    /// Whether it is served by this very thread, and not by one that was started since.
    pub(crate) fn is_served_by(&self, serving: &Serving<W>) -> bool {
        matches!(&lock(&self.seen).phase, Phase::Serving(now) if Arc::ptr_eq(&now.start, &serving.start))
    }

    /// Its thread has not answered. Returns since when: every look at the same silence says the same.
    pub(crate) fn silent(&self) -> WallTime {
        *lock(&self.silent_since).get_or_insert_with(WallTime::now)
    }

    /// Its thread has answered.
    pub(crate) fn answered(&self) {
        *lock(&self.silent_since) = None;
    }

    /// From now on a later time than the last service of the process before raises no suspicion.
    pub(crate) fn vouch(&self) {
        self.vouched_for.store(true, Ordering::Relaxed);
    }

    /// Whether what its file system says of a later time went through this process, or is accepted.
    pub(crate) fn is_vouched_for(&self) -> bool {
        self.vouched_for.load(Ordering::Relaxed)
    }

    /// Changes how it is served, if it is.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Serving<W>)) {
        if let Phase::Serving(serving) = &mut lock(&self.seen).phase {
            change(serving);
        }
    }

    /// Has it started again at once.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// Waits until it is to be started again, at most so long.
    pub(crate) async fn poked(&self, most: Duration) {
        let _ = tokio::time::timeout(most, self.poke.notified()).await;
    }
}

/// A set, and its master as it was when we looked.
#[derive(Debug)]
pub(crate) struct Found<W: World> {
    pub(crate) entry: Arc<Entry<W>>,
    pub(crate) seen: Seen<W>,
    pub(crate) set: SetRecord,
}

impl<W: World> Clone for Found<W> {
    fn clone(&self) -> Self {
        Self { entry: Arc::clone(&self.entry), seen: self.seen.clone(), set: self.set.clone() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Registry<W: World> {
    entries: Mutex<Vec<Arc<Entry<W>>>>,
    /// Held while a name or a device is given to somebody, so that nobody else gets it.
    pub(crate) giving: tokio::sync::Mutex<()>,
}

impl<W: World> Registry<W> {
    pub(crate) fn new() -> Self {
        Self { entries: Mutex::new(Vec::new()), giving: tokio::sync::Mutex::default() }
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry<W>>> {
        lock(&self.entries).clone()
    }

    pub(crate) fn add(&self, entry: Arc<Entry<W>>) {
        lock(&self.entries).push(entry);
    }

    pub(crate) fn remove(&self, id: Uuid) {
        lock(&self.entries).retain(|entry| entry.id != id);
    }

    /// Whether it is the entry of its master: one that was detached and attached again has another.
    pub(crate) fn has(&self, entry: &Entry<W>) -> bool {
        lock(&self.entries).iter().any(|known| std::ptr::eq(Arc::as_ptr(known), entry))
    }

    pub(crate) fn is_there(&self, id: Uuid) -> bool {
        lock(&self.entries).iter().any(|entry| entry.id == id)
    }

    /// The master that a caller means.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`].
    pub(crate) fn master(&self, wanted: &MasterRef) -> Result<Arc<Entry<W>>, PlatformError> {
        let found = self.entries().into_iter().find(|entry| is_master(wanted, &entry.record()));
        found.ok_or_else(|| PlatformError::no_master(wanted))
    }

    /// The set that a caller means.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`].
    pub(crate) fn set(&self, wanted: &SetRef) -> Result<Found<W>, PlatformError> {
        for entry in self.entries() {
            let seen = entry.seen();
            let of = |set: &&SetRecord| wanted.matches(SetId(set.id), &set_name(set));
            if let Some(set) = seen.record.sets.iter().find(of).cloned() {
                return Ok(Found { entry, seen, set });
            }
        }
        Err(PlatformError::no_set(wanted))
    }
}
