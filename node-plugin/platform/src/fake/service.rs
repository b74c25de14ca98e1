//! The calls of the fake.

use super::device::Content;
use super::model::{FakeSet, presented};
use super::{Fake, FakeMaster, State};
use crate::call::{
    Abort, AcceptMaster, Answer, AttachMaster, AttachedMaster, Cadence, Copied, CopyKind, CopySets,
    DetachMaster, Direction, DisableSet, EnableSet, EnabledSet, MapQuery, Outcome, RecoverShadow, Reset,
    ResetDone, Scope, SetCopyLimits, SetTarget, Wait, Watch,
};
use crate::error::{ObjectKind, PlatformError};
use crate::id::{CutId, MasterId, RequestId, SetId};
use crate::map::ChunkMap;
use crate::platform::{Platform, Result, StatusStream};
use crate::status::{Listing, MasterCounters, MasterEntry, MasterState, Role, SetStatus, Status};
use crate::value::{ByteCount, ChunkSize, DevicePath, Signatures, UblkId};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// Bytes that the fake wants of a bitmap volume: superblocks, ring and log, and four bits per chunk.
fn bitmap_bytes(chunks: u64) -> ByteCount {
    ByteCount((16 << 20) + chunks.div_ceil(2))
}

impl Fake {
    /// Runs a call once per request id.
    async fn once(
        &self,
        request: RequestId,
        call: &impl Debug,
        act: impl FnOnce(&mut State) -> Result<Answer>,
    ) -> Result<Answer> {
        let pause = {
            let mut state = self.lock();
            state.running.insert(request);
            state.pause
        };
        tokio::time::sleep(pause).await;
        self.change(|state| {
            state.running.remove(&request);
            let text = format!("{call:?}");
            if let Some((earlier, answer)) = state.answered.get(&request) {
                let same = *earlier == text;
                return if same { Ok(answer.clone()) } else { Err(PlatformError::RequestReused { request }) };
            }
            if let Some(planned) = state.planned.pop_front() {
                return Err(planned);
            }
            let answer = act(state)?;
            state.answered.insert(request, (text, answer.clone()));
            Ok(answer)
        })
    }
}

/// Takes the answer of the kind that the call gives.
macro_rules! expect_answer {
    ($answer:expr, $kind:ident) => {
        match $answer? {
            Answer::$kind(answer) => Ok(answer),
            other => unreachable!("the same call gave {other:?}"),
        }
    };
}

impl State {
    fn target(&self, target: &SetTarget) -> Result<SetId> {
        let set = self.set(&target.set)?;
        self.is_served(set.master)?;
        match target.expected_epoch {
            Some(expected) if expected != set.epoch => {
                Err(PlatformError::StaleEpoch { set: target.set.clone(), expected, actual: set.epoch })
            }
            Some(_) | None => Ok(set.id),
        }
    }

    /// The device has no part in anything.
    fn unused(&self, device: &DevicePath) -> Result<()> {
        let used = |role, owner: String| PlatformError::AlreadyInRole {
            device: device.clone(),
            role,
            owner: owner.into(),
        };
        if let Some(master) = self.masters.values().find(|m| m.attached && m.device == *device) {
            return Err(used(Role::Master, format!("master {}", master.name)));
        }
        for set in self.sets.values() {
            for (role, path) in [(Role::Shadow, &set.shadow), (Role::Bitmap, &set.bitmap)] {
                if path == device {
                    return Err(used(role, format!("set {}", set.name)));
                }
            }
        }
        Ok(())
    }

    /// No restore on this master is unfinished, but that of `except`.
    fn no_restore(&self, master: MasterId, except: Option<SetId>) -> Result<()> {
        let mut restoring = self.sets_of(master).filter(|s| s.direction() == Some(Direction::ToMaster));
        match restoring.find(|s| Some(s.id) != except) {
            Some(set) => set.check_settled(),
            None => Ok(()),
        }
    }

    fn attach(&mut self, call: &AttachMaster) -> Result<Answer> {
        self.unused(&call.device)?;
        self.devices.usable(&call.device, Role::Master)?;
        let identity = self.devices.identity(&call.device);
        if let Some(expected) = call.expected_identity.clone().filter(|expected| *expected != identity) {
            return Err(PlatformError::IdentityChanged {
                device: call.device.clone(),
                expected,
                found: identity,
            });
        }
        if identity.is_weak() && !call.accept_weak_identity {
            return Err(PlatformError::IdentityWeak { device: call.device.clone(), identity });
        }
        if self.masters.values().any(|m| m.attached && m.name == call.name) {
            let name = call.name.as_str().into();
            return Err(PlatformError::AlreadyExists { kind: ObjectKind::Master, name });
        }
        let known = self.masters.values().find(|m| m.device == call.device).map(|m| m.id);
        let id = known.unwrap_or_else(MasterId::random);
        let next = UblkId::new(u64::try_from(self.masters.len()).expect("few masters")).expect("few masters");
        let master = FakeMaster {
            id,
            name: call.name.clone(),
            device: call.device.clone(),
            attached: true,
            ublk: call.ublk.unwrap_or(next),
            queue_depth: call.queue_depth,
            counters: MasterCounters::default(),
            state: MasterState::Serving,
        };
        self.masters.insert(id, master);
        Ok(Answer::Attached(AttachedMaster { id, device: presented(id) }))
    }

    fn accept(&mut self, call: &AcceptMaster) -> Result<Answer> {
        let master = self.master(&call.master)?;
        if !matches!(master.state, MasterState::Quarantined(_)) {
            let problem = format!("{} was not written while nobody watched it", call.master).into();
            return Err(PlatformError::BadArgument { argument: "master".into(), problem });
        }
        let id = master.id;
        self.masters.get_mut(&id).expect("just found").state = MasterState::Serving;
        for set in self.sets.values_mut().filter(|set| set.master == id) {
            set.written_outside(call.images);
        }
        Ok(Answer::Done(()))
    }

    fn detach(&mut self, call: &DetachMaster) -> Result<Answer> {
        let id = self.served(&call.master)?.id;
        self.devices.free(&presented(id))?;
        for set in self.sets_of(id) {
            self.devices.free(&set.presented())?;
        }
        if let Some(set) = self.sets_of(id).find(|s| s.is_running()) {
            set.check_settled()?;
        }
        self.masters.get_mut(&id).expect("just found").attached = false;
        Ok(Answer::Done(()))
    }

    fn check_enable(&self, call: &EnableSet) -> Result<MasterId> {
        let master = self.served(&call.master)?;
        self.no_restore(master.id, None)?;
        if self
            .sets
            .values()
            .any(|s| s.name.namespace == call.name.namespace && s.name.name == call.name.name)
        {
            let name = call.name.to_string().into();
            return Err(PlatformError::AlreadyExists { kind: ObjectKind::Set, name });
        }
        let paths =
            [(Role::Master, &master.device), (Role::Shadow, &call.shadow), (Role::Bitmap, &call.bitmap)];
        for (i, (first, device)) in paths.iter().enumerate() {
            if let Some((second, _)) = paths[i + 1..].iter().find(|(_, other)| other == device) {
                let (first, second) = (*first, *second);
                return Err(PlatformError::SameDevice { device: (*device).clone(), first, second });
            }
        }
        self.unused(&call.shadow)?;
        self.unused(&call.bitmap)?;
        self.check_sizes(call, self.chunk(call, master.id)?, &master.device)?;
        self.may_be_wiped(call, &call.shadow, Role::Shadow)?;
        self.may_be_wiped(call, &call.bitmap, Role::Bitmap)?;
        Ok(master.id)
    }

    /// The chunk size of the master's other sets; for the first, what was asked for.
    fn chunk(&self, call: &EnableSet, master: MasterId) -> Result<ChunkSize> {
        match (self.sets_of(master).next().map(|set| set.chunk), call.chunk) {
            (Some(has), Some(asked)) if has != asked => {
                Err(PlatformError::ChunkSizeFixed { master: call.master.clone(), asked, has })
            }
            (Some(has), _) => Ok(has),
            (None, asked) => Ok(asked.unwrap_or_default()),
        }
    }

    /// What is on the device may be overwritten.
    fn may_be_wiped(&self, call: &EnableSet, device: &DevicePath, role: Role) -> Result<()> {
        match self.devices.get(device).map(|found| &found.content) {
            Some(Content::Foreign(found)) if !call.wipe.cover(std::slice::from_ref(found)) => {
                let signatures = Signatures::new(vec![found.clone()]).expect("one");
                Err(PlatformError::HasSignature { device: device.clone(), role, signatures })
            }
            _ => Ok(()),
        }
    }

    fn check_sizes(&self, call: &EnableSet, chunk: ChunkSize, master: &DevicePath) -> Result<()> {
        let shadow = self.devices.usable(&call.shadow, Role::Shadow)?;
        let bitmap = self.devices.usable(&call.bitmap, Role::Bitmap)?;
        let master = self.devices.get(master).expect("attached masters have a device");
        if shadow.size < master.size {
            let (actual, needed) = (shadow.size, master.size);
            return Err(PlatformError::ShadowTooSmall { shadow: call.shadow.clone(), actual, needed });
        }
        if shadow.block > master.block {
            let (block, allowed) = (shadow.block, master.block);
            return Err(PlatformError::BlockSizeMismatch { device: call.shadow.clone(), block, allowed });
        }
        let needed = bitmap_bytes(chunk.chunks_of(master.size));
        if bitmap.size < needed {
            return Err(PlatformError::BitmapTooSmall {
                bitmap: call.bitmap.clone(),
                actual: bitmap.size,
                needed,
            });
        }
        match &bitmap.content {
            Content::Blank | Content::Foreign(_) => Ok(()),
            Content::BitmapOf(set) => {
                let found = format!("the state of set {set}").into();
                Err(PlatformError::BitmapForeign { bitmap: call.bitmap.clone(), found })
            }
            Content::Damaged(detail) => {
                Err(PlatformError::BitmapDamaged { bitmap: call.bitmap.clone(), detail: detail.clone() })
            }
        }
    }

    fn enable(&mut self, call: &EnableSet) -> Result<Answer> {
        let master = self.check_enable(call)?;
        let size =
            self.devices.get(&self.masters[&master].device).expect("attached masters have a device").size;
        let set = FakeSet::new(call, self.chunk(call, master)?, master, size);
        let answer =
            EnabledSet { id: set.id, shadow_device: set.presented(), cut: set.cut, epoch: set.epoch };
        self.devices.set_content(&call.bitmap, Content::BitmapOf(set.id));
        self.sets.insert(set.id, set);
        Ok(Answer::Enabled(answer))
    }

    fn disable(&mut self, call: &DisableSet) -> Result<Answer> {
        let id = self.target(&call.target)?;
        let set = &self.sets[&id];
        set.check_settled()?;
        self.no_restore(set.master, None)?;
        if set.flags.protected {
            return Err(PlatformError::Protected { set: call.target.set.clone() });
        }
        self.devices.free(&set.presented())?;
        let set = self.sets.remove(&id).expect("just found");
        self.devices.set_content(&set.bitmap, Content::Blank);
        Ok(Answer::Done(()))
    }

    fn copy(&mut self, call: &CopySets) -> Result<Answer> {
        let mut ids: Vec<SetId> = Vec::new();
        for target in call.sets.as_slice() {
            let id = self.target(target)?;
            let set = &self.sets[&id];
            if ids.contains(&id) {
                let problem = format!("{} is named twice", set.name).into();
                return Err(PlatformError::BadArgument { argument: "sets".into(), problem });
            }
            let to_master = call.direction == Direction::ToMaster;
            if to_master && ids.iter().any(|other| self.sets[other].master == set.master) {
                return Err(PlatformError::SameMaster { master: set.master.into() });
            }
            set.check_copy(call.direction)?;
            self.no_restore(set.master, Some(id))?;
            self.devices.free(&set.presented())?;
            if to_master {
                self.devices.free(&presented(set.master))?;
            }
            ids.push(id);
        }
        let mut cut = call.cut.unwrap_or_else(CutId::random);
        let mut sets = Vec::new();
        for id in ids {
            let set = self.sets.get_mut(&id).expect("just found");
            if set.direction() == Some(Direction::ToMaster) {
                // An aborted restore only goes on: its epoch has begun, with its cut.
                set.resume();
                cut = set.cut;
            } else {
                set.flip(call.direction, call.kind, cut);
            }
            sets.push(set.set_epoch());
        }
        Ok(Answer::Copied(Copied { cut, sets }))
    }

    fn reset(&mut self, call: &Reset) -> Result<Answer> {
        let id = self.target(&call.target)?;
        if self.sets[&id].check_alive().is_ok() {
            return Ok(Answer::Reset(ResetDone::NotNeeded));
        }
        self.no_restore(self.sets[&id].master, Some(id))?;
        let cut = CutId::random();
        let set = self.sets.get_mut(&id).expect("just found");
        set.flip(Direction::ToShadow, CopyKind::Full, cut);
        Ok(Answer::Reset(ResetDone::Cut { cut, epoch: set.epoch }))
    }

    fn map(&self, call: &MapQuery) -> Result<ChunkMap> {
        let set = self.set(&call.set)?;
        self.is_served(set.master)?;
        let index = |at: u64| usize::try_from(at).expect("the fake is for small masters");
        let runs = ChunkMap::runs(set.count(), call.columns);
        let columns = runs.map(|run| set.counts(index(run.start)..index(run.end))).collect();
        Ok(ChunkMap { set: set.id, epoch: set.epoch, chunk: set.chunk, columns })
    }
}

impl Platform for Fake {
    async fn attach_master(&self, call: AttachMaster) -> Result<AttachedMaster> {
        expect_answer!(self.once(call.request, &call, |state| state.attach(&call)).await, Attached)
    }

    async fn accept_master(&self, call: AcceptMaster) -> Result<()> {
        self.once(call.request, &call, |state| state.accept(&call)).await.map(drop)
    }

    async fn detach_master(&self, call: DetachMaster) -> Result<()> {
        self.once(call.request, &call, |state| state.detach(&call)).await.map(drop)
    }

    async fn enable_set(&self, call: EnableSet) -> Result<EnabledSet> {
        expect_answer!(self.once(call.request, &call, |state| state.enable(&call)).await, Enabled)
    }

    async fn disable_set(&self, call: DisableSet) -> Result<()> {
        self.once(call.request, &call, |state| state.disable(&call)).await.map(drop)
    }

    async fn copy(&self, call: CopySets) -> Result<Copied> {
        expect_answer!(self.once(call.request, &call, |state| state.copy(&call)).await, Copied)
    }

    async fn abort(&self, call: Abort) -> Result<()> {
        let act = |state: &mut State| {
            let id = state.target(&call.target)?;
            state.sets.get_mut(&id).expect("just found").stop();
            Ok(Answer::Done(()))
        };
        self.once(call.request, &call, act).await.map(drop)
    }

    async fn wait(&self, call: Wait) -> Result<SetStatus> {
        let mut changes = self.changes.subscribe();
        let ended = async {
            loop {
                changes.borrow_and_update();
                {
                    let state = self.lock();
                    let set = state.set(&call.set)?;
                    state.is_served(set.master)?;
                    if !set.is_running() {
                        return Ok(state.set_status(set));
                    }
                }
                // The sender lives in `self`.
                let _still_there = changes.changed().await;
            }
        };
        let late = PlatformError::Deadline {
            operation: format!("copy of set {}", call.set).into(),
            after: call.timeout,
        };
        tokio::time::timeout(call.timeout.duration(), ended).await.unwrap_or(Err(late))
    }

    async fn recover_shadow(&self, call: RecoverShadow) -> Result<()> {
        self.change(|state| {
            state.set_mut(&call.set)?.recoveries.push(call.lasts);
            Ok(())
        })
    }

    async fn set_copy_limits(&self, call: SetCopyLimits) -> Result<()> {
        let act = |state: &mut State| {
            let id = state.target(&call.target)?;
            state.sets.get_mut(&id).expect("just found").limits = call.limits;
            Ok(Answer::Done(()))
        };
        self.once(call.request, &call, act).await.map(drop)
    }

    async fn reset(&self, call: Reset) -> Result<ResetDone> {
        expect_answer!(self.once(call.request, &call, |state| state.reset(&call)).await, Reset)
    }

    async fn outcome(&self, request: RequestId) -> Result<Outcome> {
        let state = self.lock();
        Ok(match state.answered.get(&request) {
            Some((_, answer)) => Outcome::Done(answer.clone()),
            None if state.running.contains(&request) => Outcome::Running,
            None => Outcome::NotSeen,
        })
    }

    async fn status(&self, scope: Scope) -> Result<Status> {
        let mut state = self.lock();
        if let Some(planned) = state.planned.pop_front() {
            return Err(planned);
        }
        state.status(&scope)
    }

    async fn watch(&self, call: Watch) -> Result<StatusStream> {
        let (to, from) = mpsc::channel(1);
        self.lock().status(&call.scope)?;
        tokio::spawn(send_statuses(Arc::clone(&self.state), self.changes.subscribe(), call, to));
        Ok(Box::pin(ReceiverStream::new(from)))
    }

    async fn list(&self) -> Result<Listing> {
        let state = self.lock();
        let attached = state.masters.values().filter(|m| m.attached);
        let version = env!("CARGO_PKG_VERSION").parse().ok();
        let mut listing = Listing { version, ..Listing::default() };
        for master in attached {
            let (name, device) = (master.name.clone(), master.device.clone());
            listing.masters.push(MasterEntry { id: master.id, name, device, presented: master.presented() });
            listing.sets.extend(state.sets_of(master.id).map(|s| s.entry(&master.device)));
        }
        listing.masters.sort_by(|a, b| a.name.cmp(&b.name));
        listing.sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    async fn map(&self, call: MapQuery) -> Result<ChunkMap> {
        self.lock().map(&call)
    }
}

/// Sends statuses by cadence until nobody wants them, one cannot be had, or the fake is gone.
async fn send_statuses(
    state: Arc<Mutex<State>>,
    mut changes: watch::Receiver<u64>,
    call: Watch,
    to: mpsc::Sender<Result<Status>>,
) {
    let mut last = None;
    loop {
        changes.borrow_and_update();
        let now = state.lock().unwrap_or_else(PoisonError::into_inner).status(&call.scope);
        let news = matches!(call.cadence, Cadence::Every(_)) || last.as_ref() != Some(&now);
        if news {
            last = Some(now.clone());
            if to.send(now.clone()).await.is_err() || now.is_err() {
                return;
            }
        }
        tokio::time::sleep(call.cadence.period().duration()).await;
        if call.cadence == Cadence::OnChange && changes.changed().await.is_err() {
            return;
        }
    }
}
