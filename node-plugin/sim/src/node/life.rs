//! One life of a node: a plan is carried out on a machine, process after process, and judged by a model.

use super::calls::{Asked, Outcome};
use super::disk::{Disk, DiskId, path_of};
use super::files::SimFiles;
use super::io::Outstanding;
use super::machine::{Fate, Machine};
use super::model::{Here, MasterModel, Model, SetModel};
use super::plan::{Ask, DiskAt, Plan, SetAt, Step, Stop};
use super::world::Node;
use crate::oracle::{Verdict, Volume};
use crate::stamp;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use umbra_engine::Id128;
use umbra_format::Layout;
use umbra_lifecycle::files::{FileName, Folder};
use umbra_lifecycle::{Deaths, Service};
use umbra_platform::call::Scope;
use umbra_platform::{Platform, PlatformError};
use umbra_store::{Cache, Crash, Faults, Fill};
use uuid::Uuid;

/// This node.
pub(super) const NODE: Id128 = Id128(*b"umbra-sim's node");
/// How long a start may take when nothing is wrong any more.
const START_PATIENCE: Duration = Duration::from_secs(150);
/// Starts in a row that may die.
const STARTS_MAX: u32 = 8;

/// What has happened in a life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Steps of all processes.
    pub steps: u64,
    /// Processes that were started.
    pub starts: u64,
    /// Calls that were asked.
    pub calls: u64,
    /// Calls that were answered well.
    pub done: u64,
    /// Cuts that were answered.
    pub cuts: u64,
    /// Processes and machines that stopped at a step.
    pub met: u64,
    /// Sectors that were judged.
    pub judged: u64,
}

impl Tally {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.starts += other.starts;
        self.calls += other.calls;
        self.done += other.done;
        self.cuts += other.cuts;
        self.met += other.met;
        self.judged += other.judged;
    }
}

#[derive(Debug)]
struct NoDeaths;

impl Deaths for NoDeaths {
    fn passes_through(&self, _master: Uuid) -> bool {
        false
    }

    fn thread_died(&self, _master: Uuid) -> Duration {
        Duration::ZERO
    }
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) runtime: Runtime,
    pub(super) service: Service<Node>,
    pub(super) node: Node,
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    pub(super) plan: Plan,
    pub(super) machine: Rc<RefCell<Machine>>,
    pub(super) model: Model,
    pub(super) process: Option<Process>,
    pub(super) outstanding: BTreeMap<u64, Outstanding>,
    pub(super) last: Option<Asked>,
    pub(super) tally: Tally,
    spare: Vec<DiskId>,
    pub(super) rotten: Vec<(FileName, Vec<u8>)>,
    /// Disks have been exchanged.
    pub(super) exchanged: bool,
    /// A disk hangs, fails or is gone.
    failing: bool,
    /// Faults are active.
    pub(super) troubled: bool,
    /// The script is over, and nothing is wrong any more.
    pub(super) resting: bool,
}

fn through(cache: Cache) -> bool {
    cache == Cache::WriteThrough
}

/// Something lies on the volume, and the rest is zeros: bitmap volumes are large.
fn fill_head(sector: u64, bytes: &mut [u8]) {
    if sector < 8 { stamp::fill_stale(sector, bytes) } else { bytes.fill(0) }
}

fn layout(master: &super::plan::MasterPlan) -> Layout {
    let geometry = umbra_engine::Geometry::new(master.size, master.chunk).expect("plans have possible sizes");
    Layout::standard(geometry)
}

impl Life {
    /// A machine with disks, and nothing attached.
    pub fn new(plan: Plan, traced: bool) -> Self {
        let mut machine = Machine::new(plan.seed, plan.timing, traced);
        (machine.mounts, machine.looks) = (plan.mounts, plan.looks);
        let mut made = 0;
        let mut disk = |machine: &mut Machine, size, cache, fill| {
            made += 1;
            let serial = plan.strong.then(|| format!("disk-{made}"));
            machine.add_disk(size, serial, cache, fill)
        };
        let mut masters = Vec::new();
        for (m, master) in plan.masters.iter().enumerate() {
            let device = disk(&mut machine, master.size, master.cache, Fill::Each(stamp::fill_original));
            let mut sets = Vec::new();
            for (s, set) in master.sets.iter().enumerate() {
                let fill = if set.used { Fill::Each(stamp::fill_stale) } else { Fill::Zero };
                let head = if set.used { Fill::Each(fill_head) } else { Fill::Zero };
                let [shadow, bitmap] = set.caches;
                sets.push(SetModel {
                    name: format!("set-{m}-{s}"),
                    shadow: disk(&mut machine, master.size, shadow, fill),
                    bitmap: disk(&mut machine, layout(master).total_bytes(), bitmap, head),
                    independent: set.independent,
                    here: Here::No,
                    id: None,
                    image: None,
                    epoch: 0,
                    excused: false,
                    refused: false,
                    doubt: None,
                    write_through: through(shadow) && through(bitmap),
                });
            }
            masters.push(MasterModel {
                name: format!("master-{m}"),
                disk: device,
                here: Here::No,
                id: None,
                volume: Volume::master(through(master.cache)),
                sets,
                faulty: false,
                unwatched: false,
                rotten: false,
                serving: false,
                quarantined: false,
            });
        }
        let spare = (0..2).map(|_| {
            machine.add_disk(16 << 20, Some("a-foreign-disk".to_owned()), Cache::Fua, Fill::Each(fill_head))
        });
        let spare = spare.collect();
        Self {
            plan,
            machine: Rc::new(RefCell::new(machine)),
            model: Model::new(masters),
            process: None,
            outstanding: BTreeMap::new(),
            last: None,
            tally: Tally::default(),
            spare,
            rotten: Vec::new(),
            exchanged: false,
            failing: false,
            troubled: false,
            resting: false,
        }
    }

    /// Carries out the plan, puts everything right, and takes everything away again.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn run(&mut self) -> Verdict {
        let verdict = self.live();
        self.end_process();
        verdict
    }

    fn live(&mut self) -> Verdict {
        for at in 0..self.plan.script.len() {
            let step = self.plan.script[at].clone();
            self.note(|| format!("== {at}: {step:?}"));
            self.step(step)?;
            self.check_machine()?;
        }
        self.come_to_rest()
    }

    /// Has the step after so many meet this fate.
    pub fn arm(&mut self, after: u64, fate: Fate) {
        let mut machine = self.machine.borrow_mut();
        let at = machine.steps + 1 + after;
        machine.armed.insert(at, fate);
    }

    /// What has happened.
    pub fn tally(&self) -> Tally {
        let machine = self.machine.borrow();
        Tally { steps: machine.steps, met: machine.met, ..self.tally }
    }

    /// Moves out the trace.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.machine.borrow_mut().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.machine.borrow_mut().note(line);
    }

    fn check_machine(&self) -> Verdict {
        if let Some(text) = crate::run::take_panic() {
            return Err(text);
        }
        self.machine.borrow().violations.first().map_or(Ok(()), |first| Err(first.clone()))
    }

    pub(super) fn disk(&self, at: DiskAt) -> DiskId {
        match at {
            DiskAt::Master(m) => self.model.masters[m].disk,
            DiskAt::Shadow((m, s)) => self.model.masters[m].sets[s].shadow,
            DiskAt::Bitmap((m, s)) => self.model.masters[m].sets[s].bitmap,
        }
    }

    pub(super) fn set(&mut self, (m, s): SetAt) -> &mut SetModel {
        &mut self.model.masters[m].sets[s]
    }

    /// Starts a process, if none runs. It may die at once.
    fn start(&mut self) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime needs no more than memory");
        let (service, node) = {
            let _inside = runtime.enter();
            let node = Node::start(&self.machine);
            (Service::new(node.clone(), SimFiles(node.clone()), NODE, Box::new(NoDeaths)), node)
        };
        self.tally.starts += 1;
        self.note(|| "---- start".to_owned());
        self.process = Some(Process { runtime, service: service.clone(), node });
        let asked = service.clone();
        let resumed = self.drive(START_PATIENCE, async move {
            tokio::time::timeout(START_PATIENCE / 2, service.resume()).await.is_ok()
        });
        if resumed == Some(false) {
            let answer = self.drive(START_PATIENCE, async move { asked.status(Scope::All).await });
            if !matches!(answer, None | Some(Err(PlatformError::Unavailable { .. }))) {
                let text = format!("nothing is known yet, and the status is {answer:?}");
                self.machine.borrow_mut().violation(text);
            }
            // Its state directory hangs, and it waits for it; so does everybody.
            self.machine.borrow_mut().files_hang = false;
            self.stop(Stop::Kill);
        }
    }

    /// Lets the process run until this ends; nothing, if the process died or it takes too long.
    pub(super) fn drive<T>(&mut self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        let process = self.process.as_ref()?;
        let killed = std::sync::Arc::clone(&self.machine.borrow().killed);
        let ended = process.runtime.block_on(async {
            tokio::select! {
                biased;
                () = killed.notified() => None,
                done = work => Some(done),
                () = tokio::time::sleep(patience) => None,
            }
        });
        if self.machine.borrow().dead.is_some() {
            self.bury();
            return None;
        }
        ended
    }

    fn end_process(&mut self) {
        if let Some(process) = self.process.take() {
            process.node.forget();
        }
    }

    /// The process is gone with everything that it had in memory.
    fn bury(&mut self) {
        self.end_process();
        let crash = self.machine.borrow().dead.unwrap_or(Crash::Kill);
        self.model.died(crash != Crash::Kill);
        self.machine.borrow_mut().buried();
        self.model.masters.iter_mut().for_each(|master| master.serving = false);
        if crash != Crash::Kill {
            self.outstanding.clear();
            self.boot();
        }
    }

    /// The machine starts again: names are given anew.
    fn boot(&mut self) {
        let mut machine = self.machine.borrow_mut();
        machine.boots += 1;
        if self.plan.renames {
            for at in (1..machine.disks.len()).rev() {
                let other = machine.rng.index(at + 1);
                machine.exchange(at, other);
            }
        }
        machine.disks.iter_mut().for_each(|disk| disk.letter = disk.next_letter);
        if self.plan.late_ms > 0 {
            for at in 0..machine.disks.len() {
                let late = if machine.rng.chance(300) { machine.rng.below(self.plan.late_ms) } else { 0 };
                machine.disks[at].appears_ms = machine.now_ms + late;
            }
        }
        if self.plan.foreign {
            for number in std::mem::take(&mut machine.numbers) {
                if machine.rng.chance(600) {
                    machine.add_foreign(number);
                }
            }
        }
    }

    pub(super) fn stop(&mut self, stop: Stop) {
        {
            let mut machine = self.machine.borrow_mut();
            let crash = match stop {
                Stop::Kill => Crash::Kill,
                Stop::Power | Stop::Reboot => Crash::PowerCut { granule: 512 },
            };
            if machine.dead.is_none() {
                machine.die(crash);
            }
        }
        self.bury();
    }

    /// Has a process that runs.
    pub(super) fn up(&mut self) -> Verdict {
        for _ in 0..STARTS_MAX {
            if self.process.is_some() {
                return Ok(());
            }
            self.start();
        }
        self.machine.borrow_mut().armed.clear();
        self.start();
        Ok(())
    }

    /// Waits until all masters are served, for so long, and judges what is seen.
    pub(super) fn settle(&mut self, patience: Duration) -> Verdict {
        for _ in 0..STARTS_MAX {
            self.up()?;
            let service = self.process.as_ref().map(|process| process.service.clone()).expect("it is up");
            let waiting: Vec<String> = self.expected();
            let settled = self.drive(patience, async move {
                loop {
                    let status = service.status(Scope::All).await;
                    let listing = service.list().await;
                    if let (Ok(status), Ok(listing)) = (status, listing) {
                        let serving = |name: &String| {
                            let of = |m: &&umbra_platform::status::MasterStatus| m.name.as_str() == name;
                            let found = status.masters.iter().find(of);
                            found.is_none_or(|m| m.state == umbra_platform::status::MasterState::Serving)
                        };
                        if waiting.iter().all(serving) {
                            return (status, listing);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            if self.process.is_none() {
                continue;
            }
            return match settled {
                Some((status, listing)) => {
                    self.judge_faults();
                    self.model.check_list(&listing)?;
                    self.model.check_status(&status)
                }
                None => self.glance(),
            };
        }
        Ok(())
    }

    /// Masters that may be served.
    fn expected(&self) -> Vec<String> {
        let here = self.model.masters.iter().filter(|master| master.here != Here::No);
        here.map(|master| master.name.clone()).collect()
    }

    /// What is seen now must be true, whether masters are served or not.
    pub(super) fn glance(&mut self) -> Verdict {
        let Some(process) = &self.process else { return Ok(()) };
        let service = process.service.clone();
        let seen = self.drive(Duration::from_secs(30), async move {
            (service.status(Scope::All).await, service.list().await)
        });
        let Some((status, listing)) = seen else { return Ok(()) };
        let text = |error: PlatformError| format!("a look at everything was refused: {error}");
        self.judge_faults();
        self.model.check_list(&listing.map_err(text)?)?;
        self.model.check_status(&status.map_err(text)?)
    }

    /// Disks that were seen to fail excuse what stands on them.
    fn judge_faults(&mut self) {
        let failed: Vec<DiskId> = {
            let machine = self.machine.borrow();
            let disks = machine.disks.iter().enumerate();
            disks.filter(|(_, disk)| machine.store.injected(disk.slot) > 0).map(|(id, _)| id).collect()
        };
        failed.into_iter().for_each(|disk| self.model.excuse(disk));
        if self.machine.borrow().slow {
            self.machine.borrow_mut().slow = false;
            self.model.excuse_everything();
        }
    }

    fn step(&mut self, step: Step) -> Verdict {
        match step {
            Step::Calls(asks) => self.calls(asks),
            Step::Again => self.again(),
            Step::Impatient(ask, pauses) => self.impatient(ask, &pauses),
            Step::Arm(after, fate) => {
                self.arm(after, fate);
                Ok(())
            }
            Step::Write { master, first, count, wait } => self.write(master, first, count, wait),
            Step::WriteShadow(set, first, count) => self.write_shadow(set, first, count),
            Step::Flush(master) => self.flush(master),
            Step::ReadOut => self.read_out(),
            Step::Wait(ms) => {
                self.up()?;
                self.drive(Duration::from_millis(ms), std::future::pending::<()>());
                self.glance()
            }
            Step::Stop(stop) => {
                self.stop(stop);
                self.up()
            }
            Step::Die(master) => self.thread_dies(master),
            Step::WriteOutside(master, writer, kept) => self.written_outside(master, writer, kept),
            fault => {
                self.fault(&fault);
                Ok(())
            }
        }
    }

    fn thread_dies(&mut self, master: usize) -> Verdict {
        let Some(process) = &self.process else { return Ok(()) };
        let name = self.model.masters[master].name.clone();
        if let Some(reactor) = process.node.reactor(&name) {
            reactor.die();
            self.drive(Duration::from_millis(200), std::future::pending::<()>());
        }
        self.settle(Duration::from_secs(20))
    }

    fn fault(&mut self, step: &Step) {
        self.troubled = true;
        let worst = Faults { read: 1000, write: 1000, flush: 1000, drop_cache: false, hang: 0 };
        match step {
            Step::Hang(at) | Step::Break(at) | Step::Miss(at) => {
                self.failing = true;
                let disk = self.disk(*at);
                let faults = match step {
                    Step::Hang(_) => Faults { hang: 1000, ..Faults::default() },
                    _ => worst,
                };
                let mut machine = self.machine.borrow_mut();
                let slot = machine.disks[disk].slot;
                match step {
                    Step::Miss(_) => machine.disks[disk].missing = true,
                    Step::Hang(_) => {
                        machine.disks[disk].hung = true;
                        machine.store.set_faults(slot, faults);
                    }
                    _ => machine.store.set_faults(slot, faults),
                }
                drop(machine);
                self.model.excuse(disk);
                if self.exchanged {
                    // It may be in the place of another, which is then what is away.
                    self.model.excuse_everything();
                }
            }
            Step::Exchange(a, b) => {
                self.exchanged = true;
                let (a, b) = (self.disk(*a), self.disk(*b));
                self.machine.borrow_mut().exchange(a, b);
                if self.failing && !self.plan.strong {
                    // A disk without a name is what its place is: who comes there may be away, or fail.
                    self.model.excuse_everything();
                }
            }
            Step::Full => self.machine.borrow_mut().disk_full = true,
            Step::FilesHang => {
                self.machine.borrow_mut().files_hang = true;
                self.model.excuse_everything();
            }
            Step::Rot(master) => self.rot(*master),
            Step::Heal => self.heal(),
            _ => {}
        }
    }

    fn rot(&mut self, at: usize) {
        let Some(id) = self.model.masters[at].id.filter(|_| !self.model.masters[at].rotten) else { return };
        let name = FileName { folder: Folder::Masters, name: id.to_string() };
        let mut machine = self.machine.borrow_mut();
        let Some(stored) = machine.files.get_mut(&name) else { return };
        self.rotten.push((name, stored.bytes.clone()));
        let half = stored.bytes.len() / 2;
        stored.bytes.truncate(half);
        let stray = FileName { folder: Folder::Masters, name: "notes.txt".to_owned() };
        machine.files.insert(stray, super::machine::Stored { bytes: b"hello".to_vec(), written: 0 });
        self.model.masters[at].rotten = true;
    }

    /// Puts everything right. What rotted is put back, and read at the next start.
    pub(super) fn heal(&mut self) {
        if !self.rotten.is_empty() {
            self.stop(Stop::Kill);
        }
        let mut machine = self.machine.borrow_mut();
        for at in 0..machine.disks.len() {
            let disk = &mut machine.disks[at];
            (disk.missing, disk.hung) = (false, false);
            let slot = disk.slot;
            machine.store.set_faults(slot, Faults::default());
        }
        machine.lingering.clear();
        machine.store.release();
        (machine.disk_full, machine.files_hang) = (false, false);
        for (name, bytes) in std::mem::take(&mut self.rotten) {
            machine.files.insert(name, super::machine::Stored { bytes, written: 0 });
        }
        drop(machine);
        self.put_disks_back();
        (self.troubled, self.failing) = (false, false);
        self.model.masters.iter_mut().for_each(|master| master.rotten = false);
    }

    /// Everything is where it was. That takes a start of the machine: a device that is open keeps its name.
    fn put_disks_back(&mut self) {
        if self.plan.renames {
            return;
        }
        for (at, disk) in (0..).zip(&mut self.machine.borrow_mut().disks) {
            disk.next_letter = at;
        }
        if !self.plan.strong {
            self.put_where_recorded();
        }
        let moves = self.machine.borrow().disks.iter().any(|disk| disk.letter != disk.next_letter);
        if moves {
            self.stop(Stop::Reboot);
        }
    }

    /// A disk without a name that was taken while it stood in another's place is known by that place from then on.
    fn put_where_recorded(&mut self) {
        let mut machine = self.machine.borrow_mut();
        for set in machine.masters_on_record().into_iter().flat_map(|master| master.sets) {
            let mut models = self.model.masters.iter().flat_map(|master| &master.sets);
            let Some(model) = models.find(|model| model.name == set.name) else { continue };
            for (disk, path) in [(model.shadow, set.shadow.device), (model.bitmap, set.bitmap.device)] {
                let at_path = |disk: &Disk| path_of(disk.next_letter) == path;
                let Some(other) = machine.disks.iter().position(at_path) else { continue };
                machine.exchange(disk, other);
            }
        }
    }

    /// Everything is put right: everything must be served, whole, and can be taken away.
    fn come_to_rest(&mut self) -> Verdict {
        self.note(|| "== the end".to_owned());
        self.machine.borrow_mut().armed.clear();
        self.machine.borrow_mut().mounts = 0;
        self.machine.borrow_mut().mounted.clear();
        self.heal();
        self.resting = true;
        self.stop(Stop::Kill);
        self.settle(START_PATIENCE)?;
        self.check_machine()?;
        self.check_served()?;
        self.read_out()?;
        self.drive(Duration::from_secs(2), std::future::pending::<()>());
        self.check_cuts()?;
        self.check_machine()?;
        for m in 0..self.model.masters.len() {
            for s in 0..self.model.masters[m].sets.len() {
                self.end_set((m, s))?;
            }
            if self.model.masters[m].here == Here::Yes {
                self.must(Ask::Detach(m))?;
            }
        }
        self.check_machine()?;
        let machine = self.machine.borrow();
        let left = machine.driver.left_behind();
        if left > 0 || !machine.names.is_empty() || !machine.claims.borrow().is_empty() {
            let (names, claims) = (machine.names.len(), machine.claims.borrow().len());
            return Err(format!(
                "all is taken away, but {left} ublk devices, {names} names and {claims} claims are left"
            ));
        }
        Ok(())
    }

    fn check_served(&self) -> Verdict {
        let waits = |master: &&MasterModel| master.here != Here::No && !master.serving && !master.unwatched;
        self.model.masters.iter().find(waits).map_or(Ok(()), |master| {
            Err(format!("nothing is wrong any more, and master {} is not served", master.name))
        })
    }

    /// E4: a cut stays on record for no longer than somebody may be in doubt about it.
    fn check_cuts(&self) -> Verdict {
        let machine = self.machine.borrow();
        let masters = self.model.masters.iter();
        let sets: Vec<(&MasterModel, &SetModel)> =
            masters.flat_map(|master| master.sets.iter().map(move |set| (master, set))).collect();
        // A set that is not served may be in doubt yet.
        let doubts = |member: &Uuid| {
            let of = sets.iter().find(|(_, set)| set.id == Some(*member) && set.here != Here::No);
            of.is_some_and(|(master, set)| !master.serving || set.image.is_none())
        };
        for file in machine.files.keys().filter(|file| file.folder == Folder::Cuts) {
            let record = file.name.parse().ok().and_then(|cut| machine.cut_on_record(cut));
            if record.is_none_or(|record| !record.members.iter().any(doubts)) {
                return Err(format!("{file} is on record, and none of its sets can be in doubt about it"));
            }
        }
        Ok(())
    }

    fn end_set(&mut self, at: SetAt) -> Verdict {
        if self.set(at).here == Here::No || self.model.masters[at.0].here != Here::Yes {
            return Ok(());
        }
        self.wait_for_copies(at)?;
        self.must(Ask::Disable(at))
    }

    /// A call that nothing stands in the way of.
    fn must(&mut self, ask: Ask) -> Verdict {
        let mut outcome = Outcome::Skipped;
        for _ in 0..4 {
            outcome = self.call(ask.clone())?;
            if matches!(outcome, Outcome::Done) {
                return Ok(());
            }
            self.drive(Duration::from_secs(2), std::future::pending::<()>());
            self.settle(START_PATIENCE)?;
        }
        Err(format!("nothing is wrong, and {ask:?} is not possible: {outcome:?}"))
    }

    /// A disk that nobody may use.
    pub(super) fn foreign_disk(&self) -> DiskId {
        self.spare[0]
    }
}
