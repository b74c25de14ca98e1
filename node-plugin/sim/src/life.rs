//! One life of a master with its set: a plan is carried out, and everything that comes back is judged.
//!
//! The life plays everybody around the engine: the workload with its requests, the operator with commands, the
//! disks that fail and the machine that dies. After a kill it submits unfinished requests again, as ublk does;
//! after a power cut nobody remembers them.

mod answers;
mod check;
mod restart;
mod steps;

use crate::notes::SimNotes;
use crate::oracle::{Oracle, Side, Time, Verdict};
use crate::plan::{Ask, Disk, Plan, Step};
use crate::stamp::{self, SECTOR, Value};
use std::collections::BTreeMap;
use umbra_engine::{
    ByteRange, CommandId, Id128, Now, Request, RequestError, RequestId, RequestKind, SetIndex, SetState,
    SetStatus,
};
use umbra_format::SetIdentity;
use umbra_store::{
    AlignedBuf, Cache, DeviceSlot, Fill, Finished, IoBuf, Machine, SimRng, SimStore, SimWorld,
};

/// The one set of a life.
const SET: SetIndex = SetIndex(0);
/// Requests at a time.
const REQUESTS: u32 = 24;
/// A shadow or bitmap operation has failed after this long, in simulated milliseconds.
const DEADLINE_MS: u64 = 400;
/// A cut's drain is void after this long.
const DRAIN_MS: u64 = 1500;
/// With `FailWrite`, writes fail after this long without a record.
const UNRECORDABLE_MS: u64 = 600;
/// Invariant 1: no master request takes longer than all deadlines together, and the work in between.
const BOUND_MS: u64 = 2 * DEADLINE_MS + DRAIN_MS + 4000;
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
    /// Part of a read-out: an error says that the sectors are lost.
    reads_out: bool,
}

/// A command that is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Cut { cut: Id128 },
    Repeat { epoch: u64 },
    Disable,
    Detach,
    Minor,
}

/// The set, from enable to disable.
#[derive(Clone, Debug)]
struct Set {
    identity: SetIdentity,
    /// Faults before it was enabled.
    faults_before: u64,
    bitmap_faults_before: u64,
}

/// What a life has seen; for the summary, and to see that nothing is switched off by accident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Store operations.
    pub operations: u64,
    /// Of these, before the script had ended.
    pub scripted: u64,
    /// Requests of the workload.
    pub requests: u64,
    /// Kills and power cuts.
    pub crashes: u64,
    /// Points in time.
    pub cuts: u64,
    /// Faults injected.
    pub faults: u64,
    /// Sectors found lost, or of a set that is offline.
    pub lost: u64,
    /// Independent sets that became complete.
    pub completed: u64,
    /// Sets whose bitmap volume could not be recovered after faults.
    pub given_up: u64,
    /// Sectors read and judged.
    pub judged: u64,
}

impl Tally {
    /// Adds another life's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.scripted += other.scripted;
        self.requests += other.requests;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.faults += other.faults;
        self.lost += other.lost;
        self.completed += other.completed;
        self.given_up += other.given_up;
        self.judged += other.judged;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    plan: Plan,
    rng: SimRng,
    world: SimWorld,
    disks: [DeviceSlot; 3],
    notes: SimNotes,
    machine: Option<Machine<SimStore, SimNotes>>,
    now_ms: u64,
    turns: u64,
    idle: u32,
    oracle: Oracle,
    outstanding: BTreeMap<u32, Outstanding>,
    commands: BTreeMap<CommandId, Running>,
    next_command: u64,
    set: Option<Set>,
    /// The bitmap volume holds a set that was given up: preparing it again must be forced.
    bitmap_used: bool,
    ids: u64,
    /// The end: no new crashes.
    calm: bool,
    /// Per disk: no faults are set.
    healthy: [bool; 3],
    was_complete: bool,
    tally: Tally,
    trace: Option<Vec<String>>,
}

impl Life {
    /// A life that begins with full disks and no set.
    pub fn new(plan: Plan, traced: bool) -> Self {
        let world = SimWorld::new(plan.seed ^ 0x51ab, plan.timing);
        let size = plan.geometry.master_bytes();
        let bitmap =
            umbra_format::Layout::new(plan.geometry, plan.ring_blocks, plan.head_bytes).total_bytes();
        let [master, shadow, bitmaps] = plan.caches;
        let disks = [
            world.add_device("master", size, master, Fill::Each(stamp::fill_original)),
            world.add_device("shadow", size, shadow, Fill::Each(stamp::fill_stale)),
            world.add_device("bitmap", bitmap, bitmaps, Fill::Each(stamp::fill_stale)),
        ];
        world.set_log(traced);
        let through = |cache: Cache| cache == Cache::WriteThrough;
        let oracle = Oracle::new(through(master), through(shadow) && through(bitmaps));
        Self {
            rng: SimRng::new(plan.seed ^ 0x7e57),
            notes: SimNotes::new(world.clone(), plan.seed ^ 0x0d1e),
            world,
            disks,
            plan,
            machine: None,
            now_ms: 0,
            turns: 0,
            idle: 0,
            oracle,
            outstanding: BTreeMap::new(),
            commands: BTreeMap::new(),
            next_command: 0,
            set: None,
            bitmap_used: false,
            ids: 0,
            calm: false,
            healthy: [true; 3],
            was_complete: false,
            tally: Tally::default(),
            trace: traced.then(Vec::new),
        }
    }

    /// Carries out the whole plan, then lets everything come to rest and checks it.
    ///
    /// # Errors
    /// The first thing that must not be.
    pub fn run(&mut self) -> Verdict {
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

    fn status(&self) -> Option<SetStatus> {
        self.machine.as_ref().and_then(|machine| machine.master().status(SET))
    }

    fn state(&self) -> Option<SetState> {
        self.status().map(|status| status.header.state)
    }

    fn disk(&self, disk: Disk) -> DeviceSlot {
        self.disks[disk as usize]
    }

    /// Faults injected so far, those of the state directory included.
    fn faults(&self) -> u64 {
        let disks: u64 = self.disks.iter().map(|disk| self.world.injected(*disk)).sum();
        disks + self.notes.failures()
    }

    fn fresh_id(&mut self) -> Id128 {
        self.ids += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.plan.seed.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id128(bytes)
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
        self.watch_state();
        if ticks { self.check_deadlines() } else { Ok(()) }
    }

    fn watch_state(&mut self) {
        let complete = self.state() == Some(SetState::Complete);
        self.tally.completed += u64::from(complete && !self.was_complete);
        self.was_complete = complete;
    }

    /// Invariant 1: nobody waits longer than the deadlines allow.
    fn check_deadlines(&self) -> Verdict {
        if self.notes.is_failing() {
            return Ok(());
        }
        for (id, request) in self.outstanding.iter().filter(|(_, request)| request.side == Side::Master) {
            let waited = self.now_ms - request.submitted_ms;
            if waited > BOUND_MS {
                let Outstanding { ask, first, count, .. } = request;
                return Err(format!(
                    "invariant 1: master request {id} ({ask:?} {first}+{count}) waits for {waited} ms"
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
        let request = self.outstanding.get_mut(&id).expect("a request that is outstanding");
        request.submitted_ms = now.0;
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
            Side::Shadow => umbra_engine::Side::Shadow(SET),
        };
        let range = ByteRange::new(request.first * SECTOR as u64, len);
        let request = Request { id: RequestId(id), side, kind, range };
        self.machine().request(now, request, buf);
    }

    /// A request has come back.
    fn finished(&mut self, finished: Finished) -> Verdict {
        let Finished { id: RequestId(id), result, buf } = finished;
        let request = self.outstanding.remove(&id).ok_or("a request came back twice")?;
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

    fn judge_error(&mut self, id: u32, request: &Outstanding, error: RequestError) -> Verdict {
        let Outstanding { side, ask, first, count, .. } = *request;
        let excused = match side {
            Side::Master => {
                self.world.injected(self.disk(Disk::Master)) > request.master_faults
                    || self.plan.fail_write && self.notes.failures() > 0
            }
            Side::Shadow => {
                self.oracle.image.as_ref().is_none_or(|image| self.faults() > image.faults_before)
            }
        };
        if !excused || (side == Side::Master && error == RequestError::Invalid) {
            return Err(format!(
                "{side:?} request {id} ({ask:?} {first}+{count}) failed without a fault: {error}"
            ));
        }
        if request.reads_out && side == Side::Shadow && self.is_healthy() {
            self.tally.lost += count;
            self.oracle.lost(first, count);
        }
        Ok(())
    }

    /// Whether no device misbehaves now.
    fn is_healthy(&self) -> bool {
        self.healthy == [true; 3] && self.world.hanging() == 0 && !self.notes.is_failing()
    }

    fn step(&mut self, step: Step) -> Verdict {
        match step {
            Step::Request { side, ask, first, count } => self.ask(side, ask, first, count),
            Step::Turns(turns) => (0..turns).try_for_each(|_| self.turn()),
            Step::Settle => self.settle(2000).map(drop),
            Step::ReadOut => self.read_out().map(drop),
            Step::Enable => self.enable(),
            Step::Cut { update } => self.cut(update),
            Step::Abort | Step::Resume | Step::Limit(_) => self.steer_copier(step),
            Step::Disable { force } => self.disable(force),
            Step::Detach => self.detach(),
            Step::Crash { after, crash } => self.arm(after, crash),
            Step::Faults(disk, faults) => {
                self.world.set_faults(self.disk(disk), faults);
                self.healthy[disk as usize] = faults == umbra_store::Faults::default();
                Ok(())
            }
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
