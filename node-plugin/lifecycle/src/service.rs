//! The platform API on the masters of this process.
//!
//! Changes of one master run one after the other, those of different masters side by side; looking waits for none of
//! them. A change runs in a task of its own: a caller that has waited long enough is told what is being waited for, and
//! the change goes on.

use crate::change::member::{check_epoch, died, engine_status, refusal};
use crate::host::{Deaths, Host, Records};
use crate::registry::{Entry, Found, Phase};
use crate::report;
use crate::request::Running;
use crate::state::{CopyLimitsRecord, State};
use crate::words::set_ref;
use crate::world::{Reactor, Snapshot, World};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::IntervalStream;
use umbra_engine::{Command, Id128, SetIndex};
use umbra_platform::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Cadence, Copied, CopySets, DetachMaster, DisableSet,
    EnableSet, EnabledSet, MapQuery, Outcome, RECOVERY_MAX, RecoverShadow, Reset, ResetDone, Scope,
    SetCopyLimits, Wait, Watch,
};
use umbra_platform::id::{MasterRef, RequestId, SetRef};
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{Listing, MasterStatus, SetState, SetStatus, Status};
use umbra_platform::time::Millis;
use umbra_platform::{Platform, PlatformError, StatusStream};
use uuid::Uuid;

type Result<T> = std::result::Result<T, PlatformError>;

/// How often a wait looks.
const WAIT_PERIOD: Duration = Duration::from_millis(50);
/// How long a caller waits until the records of masters are read, before it is told why they are not.
const RECORDS_PATIENCE: Duration = Duration::from_secs(5);
/// How long a caller waits for a change before it is told what is being waited for.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// See the module. Clones are the same service.
#[derive(Debug)]
pub struct Service<W: World> {
    host: Arc<Host<W>>,
    running: Arc<Running>,
}

impl<W: World> Clone for Service<W> {
    fn clone(&self) -> Self {
        Self { host: Arc::clone(&self.host), running: Arc::clone(&self.running) }
    }
}

/// Whose change a caller waits for, if it has to be told.
enum Subject {
    Master(MasterRef),
    Set(SetRef),
}

impl<W: World> Service<W> {
    /// The masters that are on record in `files`, in `world`, on node `node`. Nothing is started yet.
    pub fn new(world: W, files: W::Files, node: Id128, deaths: Box<dyn Deaths>) -> Self {
        let state = Arc::new(State::new(files));
        Self { host: Arc::new(Host::new(world, state, node, deaths)), running: Arc::default() }
    }

    /// Starts what was attached when the last process ended, and goes on doing so in the background. Returns how many
    /// masters there are; all of them are in the status from now on. Calls are answered before, too: that nothing is known
    /// yet, and why.
    pub async fn resume(&self) -> usize {
        let masters = self.host.resume().await;
        tokio::spawn(Arc::clone(&self.host).watch_restores());
        masters
    }

    /// Ends what is served, when the process does. Presented devices stay.
    pub async fn close(&self) {
        self.host.close().await;
    }

    /// The thread of a master, if it is served: for tests that make it fail.
    #[must_use]
    pub fn reactor(&self, master: &MasterRef) -> Option<W::Reactor> {
        match self.host.registry.master(master).ok()?.seen().phase {
            Phase::Serving(serving) => Some(serving.reactor),
            _ => None,
        }
    }

    /// The world that it runs in.
    #[must_use]
    pub fn world(&self) -> &W {
        &self.host.world
    }

    /// Every master, its sets, and what its thread counts, if it is served.
    pub async fn look(&self) -> Vec<(MasterStatus, Vec<SetStatus>, Option<Snapshot>)> {
        self.look_at(self.host.registry.entries()).await
    }

    async fn look_at(
        &self,
        entries: Vec<Arc<Entry<W>>>,
    ) -> Vec<(MasterStatus, Vec<SetStatus>, Option<Snapshot>)> {
        let looks = self.host.look_at(entries).await;
        let told = looks.into_iter().map(|look| {
            let (master, sets) =
                report::statuses(self.host.world.names(), &look.seen, look.snapshot.as_ref());
            (master, sets, look.snapshot)
        });
        told.collect()
    }

    async fn statuses(&self, scope: &Scope) -> Result<Status> {
        self.known().await?;
        // What is not asked for is not waited for.
        let entries = match scope {
            Scope::All => self.host.registry.entries(),
            Scope::Master(wanted) => vec![self.host.registry.master(wanted)?],
            Scope::Set(wanted) => vec![self.host.registry.set(wanted)?.entry],
        };
        let mut status = Status::default();
        for (master, sets, _) in self.look_at(entries).await {
            status.masters.push(master);
            status.sets.extend(sets);
        }
        if let Scope::Set(wanted) = scope {
            status.sets.retain(|set| wanted.matches(set.id, &set.name));
            if status.sets.is_empty() {
                return Err(PlatformError::no_set(wanted));
            }
        }
        status.masters.sort_by(|a, b| a.name.cmp(&b.name));
        status.sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(status)
    }

    /// Until it is known what there is nobody is answered: who were told that a thing is not there would make it anew.
    ///
    /// # Errors
    /// [`PlatformError::Unavailable`], after some seconds.
    pub async fn known(&self) -> Result<()> {
        let mut records = self.host.records.subscribe();
        let read = records.wait_for(|records| *records == Records::Known);
        if matches!(tokio::time::timeout(RECORDS_PATIENCE, read).await, Ok(Ok(_))) {
            return Ok(());
        }
        let problem = match &*self.host.records.borrow() {
            Records::Known => return Ok(()),
            Records::Reading => "it is still reading its state directory".to_owned(),
            Records::Unread(why) => format!("its state directory cannot be read: {why}"),
        };
        let advice =
            "look at the disk of the state directory; when that can be read, everything is started by itself";
        Err(PlatformError::Unavailable { problem: problem.into(), advice: advice.into() })
    }

    /// Carries out a change in a task of its own.
    async fn change<T: Send + 'static>(
        &self,
        subject: Subject,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = tokio::spawn(change);
        match tokio::time::timeout(CALL_PATIENCE, task).await {
            Ok(Ok(outcome)) => outcome,
            // The process ends, and the task with it: what it left is put in order by the next start.
            Ok(Err(error)) => Err(PlatformError::Stopping { cause: error.to_string().into() }),
            Err(_) => Err(self.waits_for(&subject)),
        }
    }

    fn waits_for(&self, subject: &Subject) -> PlatformError {
        let entry = match subject {
            Subject::Master(master) => self.host.registry.master(master).ok(),
            Subject::Set(set) => self.host.registry.set(set).ok().map(|found| found.entry),
        };
        entry.map_or_else(
            || PlatformError::Deadline {
                operation: "the change".into(),
                after: Millis(u64::try_from(CALL_PATIENCE.as_millis()).expect("a minute")),
            },
            |entry| entry.busy(),
        )
    }

    /// Carries out a change that has its effect once, however often it is asked for. `named` is what it makes, under a
    /// new name, or what it takes away.
    async fn once<T, C>(
        &self,
        subject: Subject,
        request: RequestId,
        text: String,
        named: Uuid,
        change: impl FnOnce(Arc<Host<W>>, Uuid) -> C + Send + 'static,
    ) -> Result<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
        C: Future<Output = Result<T>> + Send + 'static,
    {
        self.known().await?;
        let (host, running) = (Arc::clone(&self.host), Arc::clone(&self.running));
        let whole = async move {
            let call = |named| change(Arc::clone(&host), named);
            running.once(&host.state, request, &text, named, call).await
        };
        self.change(subject, Box::pin(whole)).await
    }

    async fn command(&self, found: &Found<W>, command: Command) -> Result<()> {
        let (reactor, _) = engine_status(&found.seen, &found.set).await?;
        let answer = reactor.command(command).await.map_err(|_| died(&found.seen))?;
        answer.map(drop).map_err(|refused| refusal(found, refused))
    }

    async fn abort_copy(&self, call: Abort) -> Result<()> {
        let entry = self.host.registry.set(&call.target.set)?.entry;
        let turn = entry.turn("abort").await?;
        let found = self.host.registry.set(&call.target.set)?;
        let (_, status) = engine_status(&found.seen, &found.set).await?;
        check_epoch(&call.target, &status)?;
        let state = status.header.state;
        if !state.is_copying() && !state.is_restoring() {
            return Ok(());
        }
        let aborted = self.command(&found, Command::Abort { set: SetIndex(found.set.index) }).await;
        drop(turn);
        aborted
    }

    async fn limit(&self, call: SetCopyLimits) -> Result<()> {
        let entry = self.host.registry.set(&call.target.set)?.entry;
        let _turn = entry.turn("change of the limits").await?;
        let found = self.host.registry.set(&call.target.set)?;
        let (_, status) = engine_status(&found.seen, &found.set).await?;
        check_epoch(&call.target, &status)?;
        let bytes_per_second = call.limits.bytes_per_second.map(umbra_platform::value::ByteRate::get);
        let in_flight = call.limits.in_flight.get();
        // On record first: what holds now must also hold after a start.
        let mut record = entry.record();
        for set in record.sets.iter_mut().filter(|set| set.id == found.set.id) {
            set.copy_limits = CopyLimitsRecord { bytes_per_second, in_flight };
        }
        self.host.keep(&entry, record).await?;
        let limits = umbra_engine::CopyLimits { bytes_per_second, in_flight };
        self.command(&found, Command::SetCopyLimits { set: SetIndex(found.set.index), limits }).await
    }
}

impl<W: World> Platform for Service<W> {
    async fn attach_master(&self, call: AttachMaster) -> Result<AttachedMaster> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Master(MasterRef::Name(call.name.clone()));
        self.known().await?;
        let named = self.host.id_to_attach(&call).await;
        self.once(subject, request, text, named, |host, id| async move { host.attach(call, id).await }).await
    }

    async fn detach_master(&self, call: DetachMaster) -> Result<()> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Master(call.master.clone());
        self.known().await?;
        let attached = self.host.registry.master(&call.master).map(|entry| entry.id());
        let named = attached.unwrap_or(Uuid::nil());
        self.once(subject, request, text, named, |host, id| async move { host.detach(call, id).await }).await
    }

    async fn accept_master(&self, call: AcceptMaster) -> Result<()> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Master(call.master.clone());
        self.once(subject, request, text, Uuid::nil(), |host, _| async move { host.accept(call).await }).await
    }

    async fn enable_set(&self, call: EnableSet) -> Result<EnabledSet> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Master(call.master.clone());
        let fresh = self.host.world.fresh();
        self.once(subject, request, text, fresh, |host, id| async move { host.enable(call, id).await }).await
    }

    async fn disable_set(&self, call: DisableSet) -> Result<()> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Set(call.target.set.clone());
        self.known().await?;
        let there = self.host.registry.set(&call.target.set).map(|found| found.set.id);
        let named = there.unwrap_or(Uuid::nil());
        self.once(subject, request, text, named, |host, id| async move { host.disable(call, id).await }).await
    }

    async fn copy(&self, call: CopySets) -> Result<Copied> {
        let (request, text) = (call.request, format!("{call:?}"));
        let first = call.sets.as_slice().first().map(|target| target.set.clone());
        let subject = Subject::Set(first.expect("a cut has a member"));
        let fresh = self.host.world.fresh();
        self.once(subject, request, text, fresh, |host, cut| async move { host.copy_sets(call, cut).await })
            .await
    }

    async fn abort(&self, call: Abort) -> Result<()> {
        let (request, text, service) = (call.request, format!("{call:?}"), self.clone());
        let subject = Subject::Set(call.target.set.clone());
        let abort = |_, _| async move { service.abort_copy(call).await };
        self.once(subject, request, text, Uuid::nil(), abort).await
    }

    async fn wait(&self, call: Wait) -> Result<SetStatus> {
        self.known().await?;
        let wait = async {
            loop {
                let status = self.statuses(&Scope::Set(call.set.clone())).await?;
                match status.sets.into_iter().next() {
                    // One whose master is being started may be copying: nobody knows yet.
                    Some(set) if set.state.is_running() || matches!(set.state, SetState::Blocked(_)) => {
                        tokio::time::sleep(WAIT_PERIOD).await;
                    }
                    Some(set) => return Ok(set),
                    None => return Err(PlatformError::no_set(&call.set)),
                }
            }
        };
        let late = PlatformError::Deadline { operation: "the copy".into(), after: call.timeout };
        tokio::time::timeout(call.timeout.duration(), wait).await.unwrap_or(Err(late))
    }

    async fn recover_shadow(&self, call: RecoverShadow) -> Result<()> {
        if call.lasts > RECOVERY_MAX {
            let problem = format!("at most {RECOVERY_MAX}").into();
            return Err(PlatformError::BadArgument { argument: "lasts".into(), problem });
        }
        self.known().await?;
        let found = self.host.registry.set(&call.set)?;
        let set = SetIndex(found.set.index);
        self.command(&found, Command::Recovering { set, lasts_ms: call.lasts.0 }).await
    }

    async fn set_copy_limits(&self, call: SetCopyLimits) -> Result<()> {
        let (request, text, service) = (call.request, format!("{call:?}"), self.clone());
        let subject = Subject::Set(call.target.set.clone());
        let limit = |_, _| async move { service.limit(call).await };
        self.once(subject, request, text, Uuid::nil(), limit).await
    }

    async fn reset(&self, call: Reset) -> Result<ResetDone> {
        let (request, text) = (call.request, format!("{call:?}"));
        let subject = Subject::Set(call.target.set.clone());
        let fresh = self.host.world.fresh();
        self.once(subject, request, text, fresh, |host, cut| async move { host.reset(call, cut).await }).await
    }

    async fn outcome(&self, request: RequestId) -> Result<Outcome> {
        self.known().await?;
        self.running.outcome(&self.host.state, request).await
    }

    async fn status(&self, scope: Scope) -> Result<Status> {
        self.statuses(&scope).await
    }

    async fn watch(&self, call: Watch) -> Result<StatusStream> {
        // The first look also refuses a scope that names nothing.
        self.statuses(&call.scope).await?;
        let service = self.clone();
        let on_change = call.cadence == Cadence::OnChange;
        let Millis(period) = call.cadence.period();
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(period)));
        let scope = Arc::new(call.scope);
        let looks = ticks.then(move |_| {
            let (service, scope) = (service.clone(), Arc::clone(&scope));
            async move { service.statuses(&scope).await }
        });
        let mut last: Option<Status> = None;
        let changed = looks.filter(move |look| {
            let new = look.as_ref().ok() != last.as_ref() || look.is_err();
            last = look.as_ref().ok().cloned();
            !on_change || new
        });
        Ok(Box::pin(changed))
    }

    async fn list(&self) -> Result<Listing> {
        self.known().await?;
        let records: Vec<_> = self.host.registry.entries().iter().map(|entry| entry.record()).collect();
        Ok(report::listing(self.host.world.names(), &records))
    }

    async fn map(&self, call: MapQuery) -> Result<ChunkMap> {
        self.known().await?;
        let found = self.host.registry.set(&call.set)?;
        let (reactor, status) = engine_status(&found.seen, &found.set).await?;
        let geometry = found.seen.serving()?.geometry;
        let runs: Vec<_> = ChunkMap::runs(geometry.chunk_count(), call.columns).collect();
        let counts = reactor.map(SetIndex(found.set.index), runs.clone()).await;
        let counts = counts.map_err(|_| died(&found.seen))?;
        let counts = counts.ok_or_else(|| PlatformError::no_set(&set_ref(&found.set)))?;
        Ok(report::chunk_map(&found.set, &status, &runs, &counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent::{Manner, Puppet, host};
    use umbra_platform::id::MasterId;

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_one_master_waits_for_that_one_alone() {
        let (hangs, answers) = (Puppet::new(Manner::Hangs), Puppet::new(Manner::Answers));
        let host = host(&[("a", &hangs), ("b", &answers)]);
        let service = Service { host, running: Arc::default() };
        let before = tokio::time::Instant::now();
        let b = MasterRef::Id(MasterId(Uuid::from_u128(2)));
        let status = service.status(Scope::Master(b)).await.expect("there is one");
        assert_eq!(status.masters.iter().map(|master| master.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!((status.sets.len(), before.elapsed()), (1, Duration::ZERO));
        let all = service.status(Scope::All).await.expect("there are two");
        assert_eq!(all.masters.len(), 2);
        let nobody = MasterRef::Id(MasterId(Uuid::from_u128(3)));
        assert!(matches!(service.status(Scope::Master(nobody)).await, Err(PlatformError::NotFound { .. })));
    }
}
