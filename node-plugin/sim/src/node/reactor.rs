//! The thread of a master: here a task that turns the real executor and engine on the machine's disks.

use super::driver::{Io, IoId};
use super::files::SimFiles;
use super::machine::{Digests, Machine as Hardware};
use super::world::{Node, SimClaim};
use crate::stamp::{self, SECTOR};
use send_wrapper::SendWrapper;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use umbra_engine::{
    ByteRange, Chunk, Command, CommandId, CutMember, Done, Geometry, Id128, Limits, Now, Refusal, Request,
    RequestId, RequestKind, RunCounts, SETS_MAX, SetIndex, Side,
};
use umbra_lifecycle::mutation::{Rule, is_off};
use umbra_lifecycle::state::{Decision, State};
use umbra_lifecycle::world::{
    DriverSpec, Reactor, ReactorEnd, ReactorGone, ReactorSetup, ReadySet, SetVolumes, Snapshot,
};
use umbra_store::{
    AlignedBuf, DeviceSlot, EndNote, IoBuf, Machine, Notes, SetConfig, SetDevices, SimStore, SimWorld,
};
use uuid::Uuid;

/// Time between ticks of the engine.
const TICK: Duration = Duration::from_millis(100);
/// How long operations that were given up are waited for when a set's volumes are let go.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);
/// A cut whose drain takes longer is void, in milliseconds.
const DRAIN_DEADLINE_MS: u64 = 10_000;
/// Turns without a pause; then others get theirs.
const TURNS: u32 = 8;

type Reply<T> = oneshot::Sender<T>;

#[derive(Debug)]
enum Call {
    AddSet(Box<ReadySet<SimClaim>>, Reply<Result<(), String>>),
    RemoveSet(SetIndex, Reply<Result<(), String>>),
    Command(Command, Reply<Result<Done, Refusal>>),
    Serve(Side, u32, DriverSpec, Reply<Result<(), String>>),
    Leave(Side, Reply<()>),
    Snapshot(Reply<Snapshot>),
    Map(SetIndex, Vec<Range<u64>>, Reply<Option<Vec<RunCounts>>>),
    Stop,
    Die,
}

/// A handle to the thread of a master.
#[derive(Clone, Debug)]
pub(super) struct SimReactor {
    node: Node,
    calls: mpsc::UnboundedSender<Call>,
    wake: Arc<Notify>,
    end: watch::Receiver<Option<bool>>,
}

/// Notes that were written, and whether they are durable.
type Written = Rc<RefCell<Vec<(EndNote, bool)>>>;

/// Ends of images on their way to the state directory.
#[derive(Debug)]
struct StateNotes {
    state: Arc<State<SimFiles>>,
    written: SendWrapper<Written>,
    wake: Arc<Notify>,
    master: Uuid,
    digests: SendWrapper<Digests>,
}

impl Notes for StateNotes {
    fn submit(&mut self, note: EndNote) {
        let (state, written, wake) = (Arc::clone(&self.state), self.written.clone(), Arc::clone(&self.wake));
        tokio::spawn(async move {
            let ok = state.record_end(&note).await.is_ok();
            written.borrow_mut().push((note, ok));
            wake.notify_one();
        });
    }

    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>) {
        done.append(&mut self.written.borrow_mut());
    }

    fn keep_digest(&mut self, digest: u64) {
        self.digests.borrow_mut().insert(self.master, digest);
    }

    fn withdraw_digest(&mut self) {
        if !is_off(Rule::DigestWithdrawn) {
            self.digests.borrow_mut().remove(&self.master);
        }
    }
}

/// A device that is presented.
#[derive(Debug)]
struct Front {
    side: Side,
    number: u32,
    base: u32,
    depth: u32,
}

#[derive(Debug)]
struct Removal {
    set: SetIndex,
    deadline: tokio::time::Instant,
    reply: Reply<Result<(), String>>,
}

#[derive(Debug)]
struct Loop {
    disks: SimWorld,
    machine: Machine<SimStore, StateNotes>,
    claims: BTreeMap<Option<SetIndex>, Vec<SimClaim>>,
    devices: BTreeMap<SetIndex, SetDevices>,
    names: BTreeMap<SetIndex, u32>,
    fronts: Vec<Front>,
    /// Requests that the engine has, by its number: the device, and the workload's number.
    requests: BTreeMap<u32, (u32, IoId)>,
    commands: BTreeMap<CommandId, (Command, Reply<Result<Done, Refusal>>)>,
    /// The members of cuts over several sets that are being taken.
    prepared: BTreeMap<Id128, Vec<CutMember>>,
    removals: Vec<Removal>,
    next_command: u64,
    depth: u32,
    began: tokio::time::Instant,
    ticked: Now,
}

fn limits(geometry: &Geometry, requests: usize) -> Limits {
    let chunk = geometry.chunk_bytes();
    Limits {
        requests,
        write_buffers: 4,
        copier_buffers: 2,
        write_buffer_bytes: chunk.max(64 << 10),
        copier_buffer_bytes: chunk.max(128 << 10),
        drain_deadline_ms: DRAIN_DEADLINE_MS,
    }
}

impl SimReactor {
    /// Starts the thread.
    pub(super) fn start(node: Node, setup: ReactorSetup<Node>) -> Self {
        let (calls, inbox) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(None);
        let wake = Arc::new(Notify::new());
        let (disks, digests) = node.with(|machine| (machine.store.clone(), Rc::clone(&machine.digests)));
        let reactor = Loop::new(disks, digests, setup, Arc::clone(&wake));
        tokio::spawn(run(node.clone(), SendWrapper::new(reactor), inbox, Arc::clone(&wake), end));
        Self { node, calls, wake, end: ended }
    }

    /// Ends the thread as a panic would.
    pub(super) fn die(&self) {
        let _ = self.calls.send(Call::Die);
        self.wake.notify_one();
    }

    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, ReactorGone> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(reply)).map_err(|_| ReactorGone)?;
        self.wake.notify_one();
        answer.await.map_err(|_| ReactorGone)
    }

    /// A call that changes something is a step.
    async fn change<T: Send>(
        &self,
        what: &'static str,
        about: String,
        call: impl FnOnce(Reply<T>) -> Call + Send,
    ) -> Result<T, ReactorGone> {
        // It cannot fail by itself.
        let _ = self.node.step(what, about.clone(), |_| ()).await;
        let answer = self.ask(call).await?;
        let _ = self.node.step("answer", about, |_| ()).await;
        Ok(answer)
    }

    async fn has_ended(&self) -> bool {
        let mut end = self.end.clone();
        end.wait_for(Option::is_some).await.is_ok_and(|end| end.unwrap_or_default())
    }
}

impl Reactor<Node> for SimReactor {
    async fn add_set(&self, set: ReadySet<SimClaim>) -> Result<Result<(), String>, ReactorGone> {
        self.change("add", format!("{:?}", set.index), |reply| Call::AddSet(Box::new(set), reply)).await
    }

    async fn remove_set(&self, set: SetIndex) -> Result<Result<(), String>, ReactorGone> {
        self.change("remove", format!("{set:?}"), |reply| Call::RemoveSet(set, reply)).await
    }

    async fn command(&self, command: Command) -> Result<Result<Done, Refusal>, ReactorGone> {
        self.change("tell", format!("{command:?}"), |reply| Call::Command(command, reply)).await
    }

    async fn serve(
        &self,
        side: Side,
        number: u32,
        spec: DriverSpec,
    ) -> Result<Result<(), String>, ReactorGone> {
        self.change("serve", format!("{side:?} {number}"), |reply| Call::Serve(side, number, spec, reply))
            .await
    }

    async fn leave(&self, side: Side) -> Result<(), ReactorGone> {
        self.change("leave", format!("{side:?}"), |reply| Call::Leave(side, reply)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, ReactorGone> {
        self.ask(Call::Snapshot).await
    }

    async fn map(&self, set: SetIndex, runs: Vec<Range<u64>>) -> Result<Option<Vec<RunCounts>>, ReactorGone> {
        self.ask(|reply| Call::Map(set, runs, reply)).await
    }

    async fn stop(&self) {
        let _ = self.node.step("stop", "reactor", |_| ()).await;
        if self.calls.send(Call::Stop).is_ok() {
            self.wake.notify_one();
        }
        self.has_ended().await;
    }

    async fn ended(&self) -> ReactorEnd {
        if self.has_ended().await { ReactorEnd::Told } else { ReactorEnd::Died }
    }
}

async fn run(
    node: Node,
    mut reactor: SendWrapper<Loop>,
    mut inbox: mpsc::UnboundedReceiver<Call>,
    wake: Arc<Notify>,
    end: watch::Sender<Option<bool>>,
) {
    let told = loop {
        node.live().await;
        let (mut moved, mut ending) = (false, None);
        while let Ok(call) = inbox.try_recv() {
            moved = true;
            if matches!(call, Call::Command(..)) {
                lag(&node).await;
            }
            match call {
                Call::Stop => ending = Some(true),
                Call::Die => ending = Some(false),
                call => node.with(|hardware| reactor.call(hardware, call, &wake)),
            }
        }
        if let Some(told) = ending {
            break told;
        }
        for _ in 0..TURNS {
            moved |= node.with(|hardware| reactor.turn(hardware));
        }
        if let Some(crash) = reactor.disks.crashed() {
            node.with(|hardware| hardware.die(crash));
        }
        node.live().await;
        if moved || reactor.is_waiting_for_disks() {
            tokio::task::yield_now().await;
        } else {
            let _ = tokio::time::timeout(TICK, wake.notified()).await;
        }
    };
    drop(inbox);
    node.with(|hardware| reactor.leave_all(hardware));
    // The claims fall when all that is in flight has landed; the thread has ended then.
    while reactor.drains() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        node.live().await;
    }
    drop(reactor);
    end.send_replace(Some(told));
}

/// Threads do not run at one pace: one may have carried out a command before another has heard of it.
async fn lag(node: &Node) {
    let lag = node.with(|hardware| if hardware.rng.chance(500) { hardware.rng.range(1, 40) } else { 0 });
    if lag > 0 {
        tokio::time::sleep(Duration::from_millis(lag)).await;
        node.live().await;
    }
}

impl Loop {
    fn new(disks: SimWorld, digests: Digests, setup: ReactorSetup<Node>, wake: Arc<Notify>) -> Self {
        let written = SendWrapper::new(Rc::default());
        let digests = SendWrapper::new(digests);
        let notes = StateNotes { state: setup.state, written, wake, master: setup.id, digests };
        let depth = u32::from(setup.depth);
        let requests = usize::from(setup.depth) * (1 + SETS_MAX);
        let master = (disks.claim(), setup.master.slot());
        let machine =
            Machine::new(setup.geometry, limits(&setup.geometry, requests), master, disks.claim(), notes);
        let mut reactor = Self {
            disks,
            machine,
            claims: BTreeMap::from([(None, vec![setup.master])]),
            devices: BTreeMap::new(),
            names: BTreeMap::new(),
            fronts: Vec::new(),
            requests: BTreeMap::new(),
            commands: BTreeMap::new(),
            prepared: BTreeMap::new(),
            removals: Vec::new(),
            next_command: 0,
            depth,
            began: tokio::time::Instant::now(),
            ticked: Now(0),
        };
        setup.sets.into_iter().for_each(|set| reactor.add_set(set));
        reactor
    }

    fn now(&self) -> Now {
        Now(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn add_set(&mut self, set: ReadySet<SimClaim>) {
        let SetVolumes { shadow, bitmap } = set.volumes;
        let devices = SetDevices { shadow: shadow.slot(), bitmap: bitmap.slot() };
        self.claims.insert(Some(set.index), vec![shadow, bitmap]);
        self.devices.insert(set.index, devices);
        self.machine.add_set(set.index, SetConfig { devices, ..set.config }, set.image);
    }

    fn slots(&self) -> impl Iterator<Item = DeviceSlot> + '_ {
        self.claims.values().flatten().map(SimClaim::slot)
    }

    fn is_waiting_for_disks(&self) -> bool {
        self.slots().any(|slot| self.disks.in_flight_on(slot) > self.disks.hanging_on(slot))
    }

    /// Goes round without new work; true while something is in flight.
    fn drains(&mut self) -> bool {
        let mut done = Vec::new();
        for _ in 0..32 {
            umbra_store::BlockStore::poll(self.machine.master_store(), &mut done);
            umbra_store::BlockStore::poll(self.machine.sides(), &mut done);
        }
        let busy = self.slots().any(|slot| self.disks.in_flight_on(slot) > 0);
        busy && self.disks.crashed().is_none()
    }

    fn call(&mut self, hardware: &mut Hardware, call: Call, wake: &Arc<Notify>) {
        match call {
            Call::AddSet(set, reply) => {
                self.add_set(*set);
                let _ = reply.send(Ok(()));
            }
            Call::RemoveSet(set, reply) => {
                let deadline = tokio::time::Instant::now() + RELEASE_PATIENCE;
                self.removals.push(Removal { set, deadline, reply });
            }
            Call::Command(command, reply) => {
                judge_decision(hardware, &command);
                self.judge_told(hardware, &command);
                let id = CommandId(self.next_command);
                self.next_command += 1;
                self.commands.insert(id, (command.clone(), reply));
                let now = self.now();
                self.machine.command(now, id, command);
            }
            Call::Serve(side, number, spec, reply) => {
                let served = hardware.driver.serve(number).map(|woken| {
                    self.serve(side, number, u32::from(spec.depth));
                    let wake = Arc::clone(wake);
                    tokio::spawn(async move {
                        loop {
                            woken.notified().await;
                            wake.notify_one();
                        }
                    });
                });
                let _ = reply.send(served);
            }
            Call::Leave(side, reply) => {
                while let Some(at) = self.fronts.iter().position(|front| front.side == side) {
                    hardware.driver.left(self.fronts.swap_remove(at).number);
                }
                let _ = reply.send(());
            }
            Call::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            Call::Map(set, runs, reply) => {
                let count =
                    |run: &Range<u64>| self.machine.master().count(set, Chunk(run.start), Chunk(run.end));
                let _ = reply.send(runs.iter().map(count).collect());
            }
            Call::Stop | Call::Die => unreachable!("the loop takes them"),
        }
    }

    fn serve(&mut self, side: Side, number: u32, depth: u32) {
        let base = match side {
            Side::Master => 0,
            Side::Shadow(set) => (u32::from(set.0) + 1) * self.depth,
        };
        if let Side::Shadow(set) = side {
            self.names.insert(set, number);
        }
        self.fronts.push(Front { side, number, base, depth: depth.min(self.depth) });
    }

    fn leave_all(&mut self, hardware: &mut Hardware) {
        for front in self.fronts.drain(..) {
            hardware.driver.left(front.number);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let master = self.machine.master();
        let indexes = (0..u8::try_from(SETS_MAX).expect("16")).map(SetIndex);
        let sets = indexes.filter_map(|index| Some((index, master.status(index)?))).collect();
        Snapshot { sets, counters: master.counters(), ..Snapshot::default() }
    }

    /// One turn; true if anything happened.
    fn turn(&mut self, hardware: &mut Hardware) -> bool {
        let now = self.now();
        let mut moved = self.fetch(hardware, now);
        if now.0 >= self.ticked.0 + 100 {
            self.ticked = now;
            self.machine.tick(now);
        }
        moved |= self.machine.turn(now);
        let (mut finished, mut answers) = (Vec::new(), Vec::new());
        self.machine.finished(&mut finished);
        self.machine.answers(&mut answers);
        moved |= !finished.is_empty() || !answers.is_empty();
        for finished in finished {
            if let Some((number, id)) = self.requests.remove(&finished.id.0) {
                let read = finished.buf.map(|buf| buf.bytes().to_vec());
                let result = finished.result.map(|()| read).map_err(|error| error.to_string());
                hardware.driver.finish(number, id, result);
            }
        }
        for (id, result) in answers {
            if let Some((command, reply)) = self.commands.remove(&id) {
                self.judge_done(hardware, &command, &result);
                let _ = reply.send(result);
            }
        }
        self.remove_sets();
        moved
    }

    /// A command that is told: of a cut over several sets each must find its members held.
    fn judge_told(&mut self, hardware: &mut Hardware, command: &Command) {
        match command {
            Command::Prepare { members, cut, .. } => {
                self.judge_content(hardware, members);
                self.prepared.insert(*cut, members.clone());
            }
            Command::Flip { cut } | Command::Decide { cut, commit: true } => {
                if let Some(members) = self.prepared.get(cut) {
                    self.judge_content(hardware, members);
                }
            }
            Command::Decide { cut, commit: false } => drop(self.prepared.remove(cut)),
            _ => {}
        }
    }

    /// A command that is carried out: what it has changed was held until then.
    fn judge_done(&mut self, hardware: &mut Hardware, command: &Command, result: &Result<Done, Refusal>) {
        match (command, result) {
            (Command::Cut { member, .. }, Ok(Done::Cut { .. })) => {
                self.judge_content(hardware, std::slice::from_ref(member));
            }
            (Command::Decide { cut, commit: true }, Ok(_)) => {
                if let Some(members) = self.prepared.remove(cut) {
                    self.judge_content(hardware, &members);
                }
            }
            _ => {}
        }
    }

    /// Nobody may have a device open whose content changes: not in fact, and provably not.
    fn judge_content(&self, hardware: &mut Hardware, members: &[CutMember]) {
        let restores = |member: &CutMember| member.direction == umbra_engine::Direction::ToMaster;
        let changes = |front: &&Front| {
            let of = |member: &CutMember| {
                front.side == Side::Shadow(member.set) || restores(member) && front.side == Side::Master
            };
            members.iter().any(of)
        };
        for front in self.fronts.iter().filter(changes) {
            let number = front.number;
            if hardware.is_mounted(number) {
                hardware
                    .violation(format!("the content of ublkb{number} changes under a mounted file system"));
            } else if !hardware.holds.borrow().contains_key(&number) {
                hardware
                    .violation(format!("the content of ublkb{number} changes, and nothing keeps others out"));
            }
        }
    }

    fn fetch(&mut self, hardware: &mut Hardware, now: Now) -> bool {
        let mut moved = false;
        for at in 0..self.fronts.len() {
            let Front { side, number, base, depth } = self.fronts[at];
            for id in base..base + depth {
                if self.requests.contains_key(&id) {
                    continue;
                }
                let Some(io) = hardware.driver.take(number) else { break };
                self.requests.insert(id, (number, io.id));
                let (request, buf) = request(id, side, &io);
                self.machine.request(now, request, buf);
                moved = true;
            }
        }
        moved
    }

    fn remove_sets(&mut self) {
        for removal in std::mem::take(&mut self.removals) {
            let Some(devices) = self.devices.get(&removal.set).copied() else {
                let _ = removal.reply.send(Err("no such set".to_owned()));
                continue;
            };
            let busy = [devices.shadow, devices.bitmap].iter().any(|slot| self.disks.in_flight_on(*slot) > 0);
            if !busy {
                self.machine.remove_set(removal.set);
                self.devices.remove(&removal.set);
                self.claims.remove(&Some(removal.set));
                let _ = removal.reply.send(Ok(()));
            } else if tokio::time::Instant::now() >= removal.deadline {
                let late = "an operation on a volume of the set has not ended".to_owned();
                let _ = removal.reply.send(Err(late));
            } else {
                self.removals.push(removal);
            }
        }
    }
}

/// E4: who is told that a cut has been taken can rely on it after a power cut, too.
fn judge_decision(hardware: &mut Hardware, command: &Command) {
    let Command::Decide { cut, commit: true } = command else { return };
    let cut = Uuid::from_bytes(cut.0);
    if hardware.cut_on_record(cut).is_none_or(|record| record.decision != Some(Decision::Commit)) {
        hardware.violation(format!("cut {cut} is taken, and its record does not say so"));
    }
}

fn request(id: u32, side: Side, io: &Io) -> (Request, Option<IoBuf>) {
    let range = ByteRange::new(io.first * SECTOR as u64, io.bytes());
    let with_data = matches!(io.kind, RequestKind::Read | RequestKind::Write { .. });
    let buf = with_data.then(|| {
        let mut bytes = AlignedBuf::zeroed(usize::try_from(io.bytes()).expect("small requests"));
        for (value, sector) in io.values.iter().zip(bytes.chunks_mut(SECTOR)) {
            stamp::encode(*value, sector);
        }
        IoBuf::whole(bytes)
    });
    (Request { id: RequestId(id), side, kind: io.kind, range }, buf)
}
