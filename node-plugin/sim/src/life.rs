//! One life of a master with its sets: a plan is carried out, and everything that comes back is judged.
//!
//! The life plays everybody around the engine: the workload with its requests, the operator with commands, the
//! disks that fail and the machine that dies. After a kill it submits unfinished requests again, as ublk does;
//! after a power cut nobody remembers them.

mod answers;
mod check;
mod damage;
mod group;
mod restart;
mod steps;
mod tally;

use crate::notes::SimNotes;
use crate::oracle::{Oracle, SetNumber, Side, Time, Verdict};
use crate::plan::{Ask, Bounds, Disk, Plan, SetPlan, Step};
use crate::stamp::{self, SECTOR, Value};
use damage::Damage;
use group::{Group, SetMask, Stage};
use std::collections::BTreeMap;
pub use tally::Tally;
use umbra_engine::{
    ByteRange, CommandId, Id128, InFlight, Limits, Now, Request, RequestError, RequestId, RequestKind,
    SetIndex, SetState, SetStatus,
};
use umbra_format::SetIdentity;
use umbra_store::{
    AlignedBuf, Cache, DeviceSlot, Fill, Finished, IoBuf, Machine, Queue, SimRng, SimStore, SimWorld,
};

/// Requests at a time.
const REQUESTS: u32 = 24;
/// A shadow or bitmap operation has failed after this long, in simulated milliseconds.
const DEADLINE_MS: u64 = 400;
/// A cut's drain is void after this long.
const DRAIN_MS: u64 = 1500;
/// With `FailWrite`, writes fail after this long without a record.
const UNRECORDABLE_MS: u64 = 600;
/// Operations of a recovery.
const STARTING: usize = 128;
/// Invariant 1: no master request takes longer than all deadlines together, and the work in between.
const BOUND_MS: u64 = 2 * DEADLINE_MS + DRAIN_MS + 4000;
/// The end of a life whose master was refused because a restore could not be resumed.
const MASTER_INCOMPLETE: &str = "the master is incomplete";
/// Turns after which something that was to end without faults has not.
const PATIENCE: u32 = 30_000;

/// A request that the workload waits for.
#[derive(Clone, Debug)]
struct Outstanding {
    side: Side,
    ask: Ask,
    first: u64,
    count: u64,
    values: Vec<Value>,
    issued: Time,
    submitted_ms: u64,
    master_faults: u64,
    /// Submitted while a restore ran: a read of the master may have gone to the shadow.
    in_restore: bool,
    /// Part of a read-out: an error says that the sectors are lost.
    reads_out: bool,
}

/// A command that is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Cut {
        set: SetNumber,
        cut: Id128,
    },
    Restore {
        set: SetNumber,
        cut: Id128,
    },
    Group {
        sets: SetMask,
        cut: Id128,
        stage: Stage,
    },
    Repeat {
        set: SetNumber,
        epoch: u64,
    },
    /// A decision that is told again.
    Decided,
    Disable {
        set: SetNumber,
    },
    Detach,
    Minor {
        set: SetNumber,
    },
}

impl Running {
    /// Whether it may be for this set: a detach is for all of them.
    fn concerns(self, of: SetNumber) -> bool {
        match self {
            Self::Cut { set, .. }
            | Self::Restore { set, .. }
            | Self::Repeat { set, .. }
            | Self::Disable { set }
            | Self::Minor { set } => set == of,
            Self::Group { sets, .. } => sets >> of & 1 == 1,
            Self::Decided => false,
            Self::Detach => true,
        }
    }
}

/// The place of a set in a life.
#[derive(Clone, Debug, Default)]
struct Set {
    enabled: Option<Enabled>,
    /// The bitmap volume holds a set that was given up: preparing it again must be forced.
    bitmap_used: bool,
    was_complete: bool,
}

/// A set, from enable to disable.
#[derive(Clone, Debug)]
struct Enabled {
    identity: SetIdentity,
    /// Faults before it was enabled.
    faults_before: u64,
    bitmap_faults_before: u64,
    damage: Damage,
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    plan: Plan,
    rng: SimRng,
    world: SimWorld,
    disks: Vec<DeviceSlot>,
    notes: SimNotes,
    machine: Option<Machine<SimStore, SimNotes>>,
    now_ms: u64,
    turns: u64,
    idle: u32,
    oracle: Oracle,
    outstanding: BTreeMap<u32, Outstanding>,
    commands: BTreeMap<CommandId, Running>,
    next_command: u64,
    sets: Vec<Set>,
    ids: u64,
    /// The end: no new crashes.
    calm: bool,
    /// From a restore's command until its set is seen at rest.
    restoring: Option<SetNumber>,
    /// A cut over several sets under way.
    group: Option<Group>,
    /// Restores that a fault has stopped were told to go on: they must end.
    restores_end: bool,
    /// Per disk: no faults are set.
    healthy: Vec<bool>,
    /// Per disk: damage that counts as a fault.
    damaged: Vec<u64>,
    damage_rng: SimRng,
    tally: Tally,
    trace: Option<Vec<String>>,
}

/// As many places to wait as the engine says that the disk needs; in a start, as a store takes in hand.
fn queue(plan: &Plan, disk: Disk, bounds: Bounds, starting: bool) -> Queue {
    let (limits, depth) = (limits(plan), REQUESTS as usize);
    let InFlight { transfers, blocking } = match disk {
        Disk::Master => limits.in_flight_on_master(depth),
        Disk::Shadow(_) | Disk::Bitmap(_) => limits.in_flight_on_side(depth),
    };
    let least = if starting { STARTING } else { 0 };
    let waiting = [transfers.max(least), blocking.max(least)];
    Queue { transfers: bounds.transfers, blocking: bounds.blocking, waiting }
}

fn limits(plan: &Plan) -> Limits {
    let chunk = plan.geometry.chunk_bytes();
    Limits {
        requests: REQUESTS as usize,
        write_buffers: plan.write_buffers,
        copier_buffers: plan.copier_buffers,
        write_buffer_bytes: chunk * plan.buffer_chunks.min(4),
        copier_buffer_bytes: chunk * plan.buffer_chunks,
        drain_deadline_ms: DRAIN_MS,
    }
}

impl Life {
    /// A life that begins with full disks and no sets.
    pub fn new(plan: Plan, traced: bool) -> Self {
        let world = SimWorld::new(plan.seed ^ 0x51ab, plan.timing);
        let size = plan.geometry.master_bytes();
        let disks: Vec<DeviceSlot> = Disk::all(plan.sets.len())
            .map(|disk| (disk, disk.name()))
            .map(|(disk, name)| match disk {
                Disk::Master => world.add_device(name, size, plan.cache, Fill::Each(stamp::fill_original)),
                Disk::Shadow(set) => {
                    let [cache, _] = plan.sets[usize::from(set)].caches;
                    world.add_device(name, size, cache, Fill::Each(stamp::fill_stale))
                }
                Disk::Bitmap(set) => {
                    let SetPlan { caches: [_, cache], ring_blocks, head_bytes, .. } =
                        plan.sets[usize::from(set)];
                    let layout = umbra_format::Layout::new(plan.geometry, ring_blocks, head_bytes);
                    world.add_device(name, layout.total_bytes(), cache, Fill::Each(stamp::fill_stale))
                }
            })
            .collect();
        let blocks = plan.sets.iter().flat_map(|set| set.blocks);
        for (disk, block) in disks.iter().zip(std::iter::once(plan.block).chain(blocks)) {
            world.set_logical_block(*disk, block);
        }
        world.set_log(traced);
        let through = |cache: &Cache| *cache == Cache::WriteThrough;
        let shadows: Vec<bool> = plan.sets.iter().map(|set| set.caches.iter().all(through)).collect();
        let oracle = Oracle::new(through(&plan.cache), &shadows);
        Self {
            rng: SimRng::new(plan.seed ^ 0x7e57),
            notes: SimNotes::new(world.clone(), plan.seed ^ 0x0d1e),
            world,
            healthy: vec![true; disks.len()],
            damaged: vec![0; disks.len()],
            damage_rng: SimRng::new(plan.seed ^ 0x0507),
            disks,
            sets: vec![Set::default(); plan.sets.len()],
            plan,
            machine: None,
            now_ms: 0,
            turns: 0,
            idle: 0,
            oracle,
            outstanding: BTreeMap::new(),
            commands: BTreeMap::new(),
            next_command: 0,
            ids: 0,
            calm: false,
            restoring: None,
            group: None,
            restores_end: false,
            tally: Tally::default(),
            trace: traced.then(Vec::new),
        }
    }

    /// Carries out the whole plan, then lets everything come to rest and checks it.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn run(&mut self) -> Verdict {
        match self.live() {
            // A restore that cannot go on leaves a master that nobody can judge, and that nobody is served.
            Err(message) if message == MASTER_INCOMPLETE => {
                self.tally.given_up += 1;
                Ok(())
            }
            verdict => verdict,
        }
    }

    fn live(&mut self) -> Verdict {
        self.live_on()?;
        let (waited, refused) = self.world.queued();
        self.tally.waited = waited;
        if refused > 0 {
            return Err(format!(
                "{refused} operations were refused: a device was given more than there can be"
            ));
        }
        Ok(())
    }

    fn live_on(&mut self) -> Verdict {
        self.restart()?;
        for at in 0..self.plan.script.len() {
            let step = self.plan.script[at];
            self.log(|| format!("step {at}: {step:?}"));
            self.step(step)?;
        }
        self.tally.scripted = self.world.operations();
        self.come_to_rest()
    }

    /// Sets the crash of a sweep: with the store's operation number `at`.
    pub fn crash_at(&self, at: u64, crash: umbra_store::Crash) {
        self.world.crash_at(Some((at, crash)));
    }

    /// What has happened so far.
    pub fn tally(&self) -> Tally {
        let faults = self.faults();
        Tally { operations: self.world.operations(), faults, ..self.tally }
    }

    /// Moves out the trace, if there is one.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.extend(self.world.take_log().into_iter().map(|line| format!("      {line}")));
            trace.push(line());
        }
    }

    fn machine(&mut self) -> &mut Machine<SimStore, SimNotes> {
        self.machine.as_mut().expect("the machine runs")
    }

    fn set_numbers(&self) -> impl Iterator<Item = SetNumber> + use<> {
        (0..).take(self.sets.len())
    }

    fn set(&mut self, set: SetNumber) -> &mut Set {
        &mut self.sets[usize::from(set)]
    }

    fn enabled(&self, set: SetNumber) -> Option<&Enabled> {
        self.sets[usize::from(set)].enabled.as_ref()
    }

    fn status(&self, set: SetNumber) -> Option<SetStatus> {
        self.machine.as_ref().and_then(|machine| machine.master().status(SetIndex(set)))
    }

    fn state(&self, set: SetNumber) -> Option<SetState> {
        self.status(set).map(|status| status.header.state)
    }

    /// Whether the master is read from the set's shadow in part.
    fn is_restoring(&self, set: SetNumber) -> bool {
        self.state(set).is_some_and(SetState::is_restoring)
    }

    fn disk(&self, disk: Disk) -> DeviceSlot {
        self.disks[disk.index()]
    }

    fn injected(&self, disk: Disk) -> u64 {
        self.world.injected(self.disk(disk)) + self.damaged[disk.index()]
    }

    /// Faults injected so far, those of the state directory included.
    fn faults(&self) -> u64 {
        let disks: u64 = self.disks.iter().map(|disk| self.world.injected(*disk)).sum();
        disks + self.damaged.iter().sum::<u64>() + self.notes.failures()
    }

    /// Of these, the ones that a set may suffer from: those of its own volumes, and of what all sets share (E13).
    fn faults_of(&self, set: SetNumber) -> u64 {
        let disks = [Disk::Master, Disk::Shadow(set), Disk::Bitmap(set)];
        disks.into_iter().map(|disk| self.injected(disk)).sum::<u64>() + self.unrecorded(set)
    }

    /// Failures of the state directory, if the set may have had to do with it: it is for when a bitmap volume fails.
    fn unrecorded(&self, set: SetNumber) -> u64 {
        if self.injected(Disk::Bitmap(set)) > 0 { self.notes.failures() } else { 0 }
    }

    fn fresh_id(&mut self) -> Id128 {
        self.ids += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.plan.seed.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id128(bytes)
    }

    /// Lets each disk take what the plan says at a time, and have as much waiting as there can be.
    fn bound_queues(&self, starting: bool) {
        for (slot, disk) in self.disks.iter().zip(Disk::all(self.sets.len())) {
            let bounds = self.plan.queue.map(|bounds| queue(&self.plan, disk, bounds, starting));
            self.world.set_queue(*slot, bounds);
        }
    }

    /// One turn of the machine's loop, with everything that comes of it.
    fn turn(&mut self) -> Verdict {
        self.now_ms += 1;
        self.turns += 1;
        let now = Now(self.now_ms);
        let ticks = self.turns.is_multiple_of(5);
        let small = self.plan.geometry.chunk_count() < 1000;
        let machine = self.machine();
        if ticks {
            machine.tick(now);
        }
        let moved = machine.turn(now);
        if self.world.crashed().is_some() {
            // What the dead machine had to say reached nobody.
            return self.crashed();
        }
        let machine = self.machine();
        let (mut finished, mut answers) = (Vec::new(), Vec::new());
        machine.finished(&mut finished);
        machine.answers(&mut answers);
        if small {
            machine.master().self_check();
        }
        for finished in finished {
            self.finished(finished)?;
        }
        for (id, answer) in answers {
            self.answered(id, answer)?;
        }
        self.idle = if moved { 0 } else { self.idle + 1 };
        if self.idle > 30 {
            // Only time can help.
            self.now_ms += 20;
        }
        self.watch_states()?;
        if ticks { self.check_deadlines() } else { Ok(()) }
    }

    fn watch_states(&mut self) -> Verdict {
        for number in self.set_numbers() {
            let status = self.status(number);
            let complete = status.is_some_and(|status| status.header.state == SetState::Complete);
            let set = self.set(number);
            let completed = complete && !set.was_complete;
            set.was_complete = complete;
            self.tally.completed += u64::from(completed);
            if let Some(status) = status {
                self.check_alone(number, &status)?;
            }
        }
        let asked = self.group.is_some()
            || self.commands.values().any(|running| matches!(running, Running::Restore { .. }));
        if let Some(set) = self.restoring
            && !asked
            && !self.is_restoring(set)
        {
            self.restoring = None;
        }
        Ok(())
    }

    /// E13: a set that fails is lost or offline alone.
    fn check_alone(&self, set: SetNumber, status: &SetStatus) -> Verdict {
        let suffers = status.lost > 0 || matches!(status.header.state, SetState::Offline(_));
        // An image suffers from what came after its cut, and from nothing before.
        let image = self.oracle.image(set).filter(|image| image.epoch == status.header.epoch.0);
        let image = image.map_or(0, |image| image.faults_before);
        let own = |enabled: &Enabled| self.faults_of(set) > enabled.faults_before.max(image);
        if suffers && !self.enabled(set).is_some_and(own) {
            return Err(format!("E13: set {set} suffers without a fault of its own: {status:?}"));
        }
        Ok(())
    }

    /// Invariant 1: nobody waits longer than the deadlines allow.
    fn check_deadlines(&self) -> Verdict {
        if self.notes.is_failing() {
            return Ok(());
        }
        let bounded = |side| match side {
            Side::Master => true,
            // E13: nobody waits for what fails at a sibling.
            Side::Shadow(set) => {
                self.enabled(set).is_some_and(|enabled| self.faults_of(set) == enabled.faults_before)
            }
        };
        for (id, request) in self.outstanding.iter().filter(|(_, request)| bounded(request.side)) {
            let waited = self.now_ms - request.submitted_ms;
            // Its second exception: what is read from a shadow that hangs comes when the shadow does.
            let excepted = request.ask == Ask::Read && request.in_restore;
            if waited > BOUND_MS && !excepted {
                let Outstanding { side, ask, first, count, .. } = request;
                return Err(format!(
                    "invariant 1: {side:?} request {id} ({ask:?} {first}+{count}) waits for {waited} ms"
                ));
            }
        }
        Ok(())
    }

    /// Turns until `done`, at most `patience`; whether it came to that.
    fn turn_until(&mut self, patience: u32, mut done: impl FnMut(&Self) -> bool) -> Result<bool, String> {
        for _ in 0..patience {
            if done(self) {
                return Ok(true);
            }
            self.turn()?;
        }
        Ok(done(self))
    }

    /// Hands a request to the machine, for the first time or again.
    fn submit(&mut self, id: u32) {
        let now = Now(self.now_ms);
        let in_restore = self.restoring.is_some();
        let request = self.outstanding.get_mut(&id).expect("a request that is outstanding");
        (request.submitted_ms, request.in_restore) = (now.0, in_restore);
        let len = request.count * SECTOR as u64;
        let kind = match request.ask {
            Ask::Read => RequestKind::Read,
            Ask::Write { fua } => RequestKind::Write { fua },
            Ask::Zeroes { fua } => RequestKind::WriteZeroes { fua },
            Ask::Discard => RequestKind::Discard,
            Ask::Flush => RequestKind::Flush,
        };
        let buf = matches!(request.ask, Ask::Read | Ask::Write { .. }).then(|| {
            let mut bytes = AlignedBuf::zeroed(usize::try_from(len).expect("small requests"));
            if matches!(request.ask, Ask::Write { .. }) {
                for (value, sector) in request.values.iter().zip(bytes.chunks_mut(SECTOR)) {
                    stamp::encode(*value, sector);
                }
            }
            IoBuf::whole(bytes)
        });
        let side = match request.side {
            Side::Master => umbra_engine::Side::Master,
            Side::Shadow(set) => umbra_engine::Side::Shadow(SetIndex(set)),
        };
        let range = ByteRange::new(request.first * SECTOR as u64, len);
        let request = Request { id: RequestId(id), side, kind, range };
        self.machine().request(now, request, buf);
    }

    /// A request has come back.
    fn finished(&mut self, finished: Finished) -> Verdict {
        let Finished { id: RequestId(id), result, buf } = finished;
        let request = self.outstanding.remove(&id).ok_or("a request came back twice")?;
        if !self.is_of_blocks(request.ask, request.first, request.count) {
            self.tally.unaligned += 1;
            return match result {
                Err(RequestError::Invalid) => Ok(()),
                result => Err(format!("E17: {request:?} is not of whole blocks and came back {result:?}")),
            };
        }
        let ok = result.is_ok();
        if let Err(error) = result {
            self.log(|| format!("request {id} failed: {result:?}"));
            self.judge_error(id, &request, error)?;
        }
        if request.ask == Ask::Read
            && let Some(volume) = self.oracle.volume(request.side)
        {
            volume.looked(request.issued);
        }
        match request.ask {
            Ask::Read if ok => {
                let buf = buf.ok_or("a read came back without its buffer")?;
                let values: Vec<Option<Value>> = buf.bytes().chunks(SECTOR).map(stamp::decode).collect();
                self.tally.judged += request.count;
                self.oracle.read(request.side, request.first, &values, request.issued)?;
            }
            Ask::Read => {}
            Ask::Write { .. } | Ask::Zeroes { .. } | Ask::Discard => {
                let now = self.oracle.now();
                if let Some(volume) = self.oracle.volume(request.side) {
                    volume.end(id, ok, now);
                }
            }
            Ask::Flush => {
                if let (true, Some(volume)) = (ok, self.oracle.volume(request.side)) {
                    volume.flushed(request.issued);
                }
            }
        }
        Ok(())
    }

    /// Whether a request is of whole logical blocks of the master; the others are no business of the oracle's.
    fn is_of_blocks(&self, ask: Ask, first: u64, count: u64) -> bool {
        let block = u64::from(self.plan.block) / SECTOR as u64;
        ask == Ask::Flush || first.is_multiple_of(block) && count.is_multiple_of(block)
    }

    fn judge_error(&mut self, id: u32, request: &Outstanding, error: RequestError) -> Verdict {
        let Outstanding { side, ask, first, count, .. } = *request;
        let may_fail =
            |set: SetNumber| self.plan.sets[usize::from(set)].fail_write && self.unrecorded(set) > 0;
        let excused = match side {
            Side::Master => {
                self.injected(Disk::Master) > request.master_faults
                    || self.set_numbers().any(may_fail)
                    || self.is_source_faulty() && !self.is_overwrite(request)
            }
            Side::Shadow(set) => {
                self.oracle.image(set).is_none_or(|image| self.faults_of(set) > image.faults_before)
            }
        };
        if !excused || (side == Side::Master && error == RequestError::Invalid) {
            return Err(format!(
                "{side:?} request {id} ({ask:?} {first}+{count}) failed without a fault: {error}"
            ));
        }
        if let Side::Shadow(set) = side
            && request.reads_out
            && self.is_healthy()
            && !self.is_restoring(set)
        {
            self.tally.lost += count;
            self.oracle.lost(set, first, count);
        }
        Ok(())
    }

    /// E9: what is pending in a restore is an error on the master while it cannot be read from the shadow.
    fn is_source_faulty(&self) -> bool {
        self.restoring.is_some_and(|set| {
            let own = |enabled: &Enabled| self.faults_of(set) > enabled.faults_before;
            self.enabled(set).is_some_and(own)
        })
    }

    /// E9: a write of whole chunks needs nothing of the shadow.
    fn is_overwrite(&self, request: &Outstanding) -> bool {
        let chunk = self.plan.geometry.chunk_bytes() / SECTOR as u64;
        let end = request.first + request.count;
        let ends = end.is_multiple_of(chunk) || end == self.plan.geometry.master_bytes() / SECTOR as u64;
        let writes = matches!(request.ask, Ask::Write { .. } | Ask::Zeroes { .. });
        writes && request.first.is_multiple_of(chunk) && ends
    }

    /// Whether no device misbehaves now.
    fn is_healthy(&self) -> bool {
        self.healthy.iter().all(|healthy| *healthy) && self.world.hanging() == 0 && !self.notes.is_failing()
    }

    fn step(&mut self, step: Step) -> Verdict {
        match step {
            Step::Request { side, ask, first, count } => self.ask(side, ask, first, count),
            Step::Turns(turns) => (0..turns).try_for_each(|_| self.turn()),
            Step::Settle => self.settle(2000).map(drop),
            Step::ReadOut => self.read_out().map(drop),
            Step::Enable(set) => self.enable(set),
            Step::Cut { set, update } => self.cut(set, update),
            Step::Restore { set, update } => self.restore(set, update),
            Step::Group { sets, update, restore } => self.cut_together(sets, update, restore),
            Step::Abort(set) | Step::Resume(set) | Step::Limit(set, _) => self.steer_copier(set, step),
            Step::Disable { set, force } => self.disable(set, force),
            Step::Detach => self.detach(),
            Step::Crash { after, crash } => self.arm(after, crash),
            Step::Faults(disk, faults) => {
                self.world.set_faults(self.disk(disk), faults);
                self.healthy[disk.index()] = faults == umbra_store::Faults::default();
                Ok(())
            }
            Step::Rot { set, area, pick } => {
                self.rot(set, area, pick);
                Ok(())
            }
            Step::Stray { set, area, pick } => self.lead_astray(set, area, pick),
            Step::NoteFaults(rate) => {
                self.notes.set_failing(rate);
                Ok(())
            }
            Step::Heal => {
                self.heal();
                Ok(())
            }
        }
    }
}
