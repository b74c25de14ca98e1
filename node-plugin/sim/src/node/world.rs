//! The world of a simulated umbra-io: one process on a [`Machine`].
//!
//! Everything is on one thread; the wrappers say so to the compiler, and panic if it is not true.

use super::disk::DiskId;
use super::driver::Stuck;
use super::files::SimFiles;
use super::machine::{Fate, Guard, Machine};
use super::reactor::SimReactor;
use send_wrapper::SendWrapper;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use umbra_identity::{DeviceFacts, DeviceKey, Holder};
use umbra_lifecycle::world::{
    Claim, ClaimError, Depth, DriverDevice, DriverError, DriverSpec, DriverState, LookError, NotHeld,
    ReactorSetup, Sight, World,
};
use umbra_platform::PlatformError;
use umbra_store::{Capabilities, DeviceSlot, SimStore};
use uuid::Uuid;

/// Who opens a device for a moment, in words.
pub(super) const LOOKER: &str = "somebody who looks at every device";

/// A look that takes longer is given up.
const LOOK_PATIENCE_MS: u64 = 10_000;
/// A command of the driver that takes longer is said to hang.
const DRIVER_PATIENCE_MS: u64 = 5_000;
/// Between two looks at what does not answer.
const POLL: Duration = Duration::from_millis(50);

/// A step was not taken: it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

struct Shared {
    machine: Rc<RefCell<Machine>>,
    process: u32,
    began: tokio::time::Instant,
    began_ms: u64,
    served_until: u64,
    names: PathBuf,
    /// The newest thread of each master.
    reactors: RefCell<BTreeMap<String, SimReactor>>,
}

/// See the module. Clones are the same process.
#[derive(Clone)]
pub(super) struct Node(SendWrapper<Rc<Shared>>);

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("process", &self.0.process).finish_non_exhaustive()
    }
}

impl Node {
    /// A process that starts now. Inside a runtime.
    pub(super) fn start(machine: &Rc<RefCell<Machine>>) -> Self {
        let (process, began_ms, served_until) = {
            let machine = machine.borrow();
            (machine.process, machine.now_ms, machine.served_until())
        };
        Self(SendWrapper::new(Rc::new(Shared {
            machine: Rc::clone(machine),
            process,
            began: tokio::time::Instant::now(),
            began_ms,
            served_until,
            names: PathBuf::from("/dev/umbra/by-id"),
            reactors: RefCell::default(),
        })))
    }

    /// Lets go of what would keep the process in memory.
    pub(super) fn forget(&self) {
        self.0.reactors.borrow_mut().clear();
    }

    /// The thread that serves a master, or served it last.
    pub(super) fn reactor(&self, master: &str) -> Option<SimReactor> {
        self.0.reactors.borrow().get(master).cloned()
    }

    fn is_dead(&self) -> bool {
        let machine = self.0.machine.borrow();
        machine.dead.is_some() || machine.process != self.0.process
    }

    pub(super) fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.began_ms + since
    }

    /// Looks at the machine, or changes it, without a step.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let now = self.now_ms();
        let mut machine = self.0.machine.borrow_mut();
        machine.now_ms = machine.now_ms.max(now);
        act(&mut machine)
    }

    /// Never returns, if the process is dead: the runtime that it is in is dropped.
    pub(super) async fn live(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// A step with an effect on the machine.
    pub(super) async fn step<T: Send>(
        &self,
        step: &'static str,
        about: impl std::fmt::Display + Send,
        act: impl FnOnce(&mut Machine) -> T + Send,
    ) -> Result<T, Stopped> {
        self.live().await;
        let about = format!("{step} {about}");
        let fate = self.with(|machine| machine.next(&about));
        match fate {
            Some(Fate::DieBefore(crash)) => self.with(|machine| machine.die(crash)),
            Some(Fate::Fail) => return Err(Stopped),
            Some(Fate::Hang(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Some(Fate::Panic) => self.panic_somewhere(),
            Some(Fate::DieAfter(_) | Fate::FailAfter) | None => {}
        }
        self.live().await;
        let done = self.with(act);
        if let Some(Fate::DieAfter(crash)) = fate {
            self.with(|machine| machine.die(crash));
        }
        self.live().await;
        if fate == Some(Fate::FailAfter) {
            return Err(Stopped);
        }
        // Others may come between any two steps.
        let pause = self.with(|machine| machine.rng.below(4));
        if pause == 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            tokio::task::yield_now().await;
        }
        self.live().await;
        Ok(done)
    }

    /// The thread of one of the masters ends as by a panic.
    fn panic_somewhere(&self) {
        let reactors = self.0.reactors.borrow();
        if !reactors.is_empty() {
            let at = self.with(|machine| machine.rng.index(reactors.len()));
            if let Some((master, reactor)) = reactors.iter().nth(at) {
                self.with(|machine| machine.note(|| format!("the thread of {master} panics")));
                reactor.die();
            }
        }
    }

    async fn command<T: Send>(
        &self,
        command: &'static str,
        number: u32,
        act: impl FnOnce(&mut Machine) -> Result<T, DriverError> + Send,
    ) -> Result<T, DriverError> {
        if let Some(stuck) = self.with(|machine| machine.driver.hangs(number)) {
            if stuck == Stuck::Unseen {
                tokio::time::sleep(Duration::from_millis(DRIVER_PATIENCE_MS)).await;
            }
            return Err(DriverError::Hung { command, number });
        }
        match tokio::time::timeout(Duration::from_millis(DRIVER_PATIENCE_MS), self.step(command, number, act))
            .await
        {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Stopped)) => Err(DriverError::Refused("it failed on demand".to_owned())),
            Err(_) => Err(DriverError::Hung { command, number }),
        }
    }

    fn facts(&self, path: &Path, depth: Depth) -> Result<DeviceFacts, LookError> {
        self.with(|machine| {
            if let Some(number) = presented_number(path) {
                return presented_facts(machine, number).ok_or_else(|| LookError::NotThere(path.to_owned()));
            }
            let id = machine.disk_at(path).ok_or_else(|| LookError::NotThere(path.to_owned()))?;
            let disk = &machine.disks[id];
            let mut facts = disk.facts(&machine.store, id, path, true);
            if depth == Depth::WhatAndWho && machine.claims.borrow().contains_key(&id) {
                facts =
                    facts.used_by(Holder::Opened { pid: 1, command: "umbra-io".to_owned(), writes: true });
            }
            Ok(facts)
        })
    }

    fn is_hung(&self, path: &Path) -> bool {
        self.with(|machine| machine.disk_at(path).is_some_and(|id| machine.disks[id].hung))
    }
}

fn presented_number(path: &Path) -> Option<u32> {
    path.to_str()?.strip_prefix("/dev/ublkb")?.parse().ok()
}

fn presented_facts(machine: &Machine, number: u32) -> Option<DeviceFacts> {
    let device = machine.driver.devices.get(&number)?;
    if device.state == DriverState::Dead {
        return None;
    }
    let mut facts = DeviceFacts::disk(&format!("ublkb{number}"), super::driver::block(number), 1 << 20);
    facts.key = DeviceKey::Block(super::driver::block(number));
    facts.identity.kind = umbra_identity::DeviceKind::Ublk;
    facts.identity.serial = None;
    facts.identity.strong = false;
    Some(facts)
}

/// A device that is claimed.
#[derive(Debug)]
pub(super) struct SimClaim(SendWrapper<Claimed>);

#[derive(Debug)]
struct Claimed {
    disk: DiskId,
    slot: DeviceSlot,
    path: PathBuf,
    capabilities: Capabilities,
    _guard: Guard<DiskId>,
}

impl SimClaim {
    pub(super) fn slot(&self) -> DeviceSlot {
        self.0.slot
    }
}

impl Claim for SimClaim {
    fn path(&self) -> &Path {
        &self.0.path
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }
}

/// A claim on a presented device.
#[derive(Debug)]
pub(super) struct SimHold {
    _guard: SendWrapper<Guard<u32>>,
}

impl World for Node {
    type Files = SimFiles;
    type Claim = SimClaim;
    type Store = SimStore;
    type Reactor = SimReactor;
    type Hold = SimHold;

    async fn look(&self, path: &Path, depth: Depth) -> Result<DeviceFacts, LookError> {
        let failed =
            |_| LookError::Failed { path: path.to_owned(), detail: "it failed on demand".to_owned() };
        let patience = Duration::from_millis(LOOK_PATIENCE_MS);
        let look = async {
            self.step("look", path.display(), |_| ()).await.map_err(failed)?;
            while self.is_hung(path) {
                tokio::time::sleep(POLL).await;
            }
            self.facts(path, depth)
        };
        tokio::time::timeout(patience, look).await.unwrap_or_else(|_| Err(LookError::Hung(path.to_owned())))
    }

    async fn survey(&self) -> Result<Vec<DeviceFacts>, LookError> {
        let surveyed = self.step("survey", "", |machine| {
            let now = machine.now_ms;
            let there = machine.disks.iter().enumerate().filter(|(_, disk)| disk.is_there(now));
            let disks = there.map(|(id, disk)| disk.facts(&machine.store, id, &disk.path(), false));
            let shown = machine.driver.devices.keys().filter_map(|number| presented_facts(machine, *number));
            disks.chain(shown).collect()
        });
        let failed = |_| LookError::Failed { path: "/sys".into(), detail: "it failed on demand".to_owned() };
        surveyed.await.map_err(failed)
    }

    async fn claim(&self, facts: &DeviceFacts, wait: Duration) -> Result<SimClaim, ClaimError> {
        let path = facts.path.clone();
        let deadline = tokio::time::Instant::now() + wait;
        let (key, seq) = (facts.key, facts.diskseq);
        loop {
            let at = path.clone();
            let claimed = self.step("claim", path.clone().display().to_string(), move |machine| {
                machine.claim(&at, key, seq).map(|claim| SimClaim(SendWrapper::new(claim)))
            });
            let failed = |_| ClaimError::Failed { path: path.clone(), detail: "on demand".to_owned() };
            match claimed.await.map_err(failed)? {
                Err(ClaimError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        claims: Vec<SimClaim>,
        work: impl FnOnce(&mut SimStore, &[DeviceSlot]) -> T + Send + 'static,
    ) -> Result<(T, Vec<SimClaim>), String> {
        let node = self.clone();
        // Whoever waits may give up; the work itself goes on, and the devices are held until it has ended.
        let task = tokio::spawn(async move {
            let slots: Vec<DeviceSlot> = claims.iter().map(SimClaim::slot).collect();
            let disks: Vec<DiskId> = claims.iter().map(|claim| claim.0.disk).collect();
            while node.with(|machine| disks.iter().any(|id| machine.disks[*id].hung)) {
                tokio::time::sleep(POLL).await;
            }
            let about = format!("{disks:?}");
            let (outcome, store) = node
                .step("work", about, move |machine| {
                    let world = SendWrapper::new(machine.store.clone());
                    let mut store = world.claim();
                    (work(&mut store, &slots), world)
                })
                .await
                .map_err(|_| "it failed on demand".to_owned())?;
            if let Some(crash) = store.crashed() {
                node.with(|machine| machine.die(crash));
                node.live().await;
            }
            Ok((outcome, claims))
        });
        task.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn fingerprint(&self, claim: &SimClaim) -> Result<String, String> {
        let disk = claim.0.disk;
        while self.with(|machine| machine.disks[disk].hung) {
            tokio::time::sleep(POLL).await;
        }
        let sampled = self.step("sample", disk, move |machine| machine.sample(disk));
        sampled.await.map_err(|_| "it failed on demand".to_owned())
    }

    async fn driver_list(&self) -> Result<Vec<DriverDevice>, DriverError> {
        self.command("list", u32::MAX, |machine| Ok(machine.driver.list(machine.process))).await
    }

    async fn driver_add(&self, spec: &DriverSpec) -> Result<u32, DriverError> {
        let (number, tag) = (spec.number, spec.tag);
        let added =
            self.command("add", number.unwrap_or(u32::MAX), move |machine| machine.driver.add(number, tag));
        added.await
    }

    async fn driver_start(&self, number: u32) -> Result<(), DriverError> {
        let outcome = self.command("start", number, move |machine| {
            machine.touches("start", number);
            machine.driver.start(number)
        });
        let outcome = outcome.await;
        self.with(|machine| machine.driver.is_up(number));
        outcome
    }

    async fn driver_recover(&self, number: u32) -> Result<(), DriverError> {
        self.command("recover", number, move |machine| {
            machine.touches("recovery", number);
            machine.driver.recover(number)
        })
        .await
    }

    async fn driver_recovered(&self, number: u32) -> Result<(), DriverError> {
        self.command("recovered", number, move |machine| {
            machine.touches("recovery", number);
            machine.driver.recovered(number)
        })
        .await
    }

    async fn driver_stop(&self, number: u32) -> Result<(), DriverError> {
        self.command("stop", number, move |machine| {
            machine.touches("stop", number);
            let live = machine.driver.devices.get(&number).is_some_and(|device| device.served);
            if live && machine.is_mounted(number) {
                machine.violation(format!("ublkb{number} is stopped under a mounted file system"));
            }
            machine.driver.stop(number);
            Ok(())
        })
        .await
    }

    async fn driver_delete(&self, number: u32) -> Result<(), DriverError> {
        self.command("delete", number, move |machine| {
            machine.touches("delete", number);
            machine.driver.delete(number)
        })
        .await
    }

    async fn hold_presented(&self, number: u32) -> Result<SimHold, NotHeld> {
        let device = umbra_lifecycle::device_path(&PathBuf::from(format!("/dev/ublkb{number}")));
        let open = |openers: &str, may_pass| NotHeld::Open {
            device: device.clone(),
            openers: openers.to_owned(),
            may_pass,
        };
        let held = self.step("hold", number, move |machine| {
            let holds = Rc::clone(&machine.holds);
            if machine.is_mounted(number) || holds.borrow().contains_key(&number) {
                return Err(open("mount", false));
            }
            if machine.is_looked_at(number) {
                return Err(open(LOOKER, true));
            }
            Ok(SimHold { _guard: SendWrapper::new(machine.guard(&holds, number)) })
        });
        held.await.unwrap_or_else(|Stopped| {
            Err(NotHeld::Failed(PlatformError::Io {
                device: device.clone(),
                operation: "flush of the page cache".into(),
                detail: "it failed on demand".into(),
            }))
        })
    }

    async fn reread_partitions(&self, number: u32) {
        let _ = self.step("reread", number, |_| ()).await;
    }

    async fn publish(&self, id: Uuid, number: u32) -> Result<(), String> {
        let published = self.step("publish", id, move |machine| {
            machine.names.insert(id, number);
        });
        published.await.map_err(|_| "it failed on demand".to_owned())
    }

    async fn unpublish(&self, id: Uuid) {
        let _ = self.step("unpublish", id, move |machine| machine.names.remove(&id)).await;
    }

    async fn sweep_names(&self, known: &BTreeSet<Uuid>) {
        let known = known.clone();
        let _ = self.step("sweep", "", move |machine| machine.names.retain(|id, _| known.contains(id))).await;
    }

    fn names(&self) -> &Path {
        &self.0.names
    }

    /// Nobody in this world follows links.
    async fn hide(&self, _sight: Sight) {}

    async fn start_reactor(&self, setup: ReactorSetup<Self>) -> Result<SimReactor, String> {
        let name = setup.name.clone();
        self.step("reactor", name.clone(), |_| ()).await.map_err(|_| "it failed on demand".to_owned())?;
        let reactor = SimReactor::start(self.clone(), setup);
        self.0.reactors.borrow_mut().insert(name, reactor.clone());
        Ok(reactor)
    }

    fn unix_ms(&self) -> u64 {
        self.with(|machine| machine.unix_ms())
    }

    fn served_until(&self) -> u64 {
        self.0.served_until
    }

    async fn kept_digest(&self, master: Uuid) -> Option<u64> {
        self.with(|machine| machine.digests.borrow().get(&master).copied())
    }

    async fn forget_digest(&self, master: Uuid) -> Result<(), String> {
        let forget = move |machine: &mut Machine| {
            machine.digests.borrow_mut().remove(&master);
        };
        self.step("forget", master, forget).await.map_err(|_| "it failed on demand".to_owned())
    }

    fn fresh(&self) -> Uuid {
        self.with(Machine::fresh)
    }
}

impl Machine {
    fn claim(&mut self, path: &Path, key: DeviceKey, seq: Option<u64>) -> Result<Claimed, ClaimError> {
        let failed = |detail: &str| ClaimError::Failed { path: path.to_owned(), detail: detail.to_owned() };
        if presented_number(path).is_some() {
            self.violation(format!("{} is claimed, which Umbra presents", path.display()));
            return Err(failed("it is presented"));
        }
        let Some(disk) = self.disk_at(path) else { return Err(failed("it is gone")) };
        let found = self.disks[disk].facts(&self.store, disk, path, false);
        if found.key != key || found.diskseq != seq {
            return Err(ClaimError::Changed(path.to_owned()));
        }
        let claims = Rc::clone(&self.claims);
        if self.lingering.contains(&disk) || claims.borrow().contains_key(&disk) {
            return Err(ClaimError::InUse { path: path.to_owned(), by: "an earlier user".to_owned() });
        }
        if !self.told.contains(&disk) {
            self.violation(format!(
                "disk {disk} at {} is opened for writing: nobody named it",
                path.display()
            ));
        }
        let (slot, capabilities) = (self.disks[disk].slot, found.capabilities);
        let guard = self.guard(&claims, disk);
        Ok(Claimed { disk, slot, path: path.to_owned(), capabilities, _guard: guard })
    }

    /// A hash of samples of a disk.
    fn sample(&self, disk: DiskId) -> String {
        let mut hash = std::hash::DefaultHasher::new();
        let mut bytes = [0; 4096];
        let disk = &self.disks[disk];
        for at in (0..disk.size.saturating_sub(4095)).step_by(64 << 10) {
            self.store.peek(disk.slot, at, &mut bytes);
            hash.write(&bytes);
        }
        format!("{:016x}", hash.finish())
    }
}
