//! A world for tests in which nothing ever answers, but threads of masters and a device that are told to.

use crate::host::{Deaths, Host, Records};
use crate::registry::{Entry, Phase, Serving};
use crate::state::State;
use crate::state::tests::{Memory, master_record};
use crate::world::{
    Claim, ClaimError, Depth, DriverDevice, DriverError, DriverSpec, LookError, NotHeld, Reactor, ReactorEnd,
    ReactorGone, ReactorSetup, ReadySet, Sight, Snapshot, World,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use umbra_engine::{Command, Done, Id128, Refusal, RunCounts, SetIndex, Side};
use umbra_identity::DeviceFacts;
use umbra_store::{Capabilities, DeviceSlot, MemStore};
use uuid::Uuid;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Silent {
    there: Mutex<Option<DeviceFacts>>,
}

impl Silent {
    /// From now on this is what is found, under any name.
    pub(crate) fn finds(&self, device: DeviceFacts) {
        *self.there.lock().expect("no thread panics") = Some(device);
    }
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Nothing {}

impl Claim for Nothing {
    fn path(&self) -> &Path {
        match *self {}
    }

    fn capabilities(&self) -> Capabilities {
        match *self {}
    }
}

/// What a thread does when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    Hangs,
    Ended(ReactorEnd),
}

/// A thread that does as it is told.
#[derive(Clone, Debug)]
pub(crate) struct Puppet(Arc<watch::Sender<Manner>>);

impl Puppet {
    pub(crate) fn new(manner: Manner) -> Self {
        Self(Arc::new(watch::Sender::new(manner)))
    }

    pub(crate) fn becomes(&self, manner: Manner) {
        self.0.send_replace(manner);
    }

    /// A master that it serves.
    pub(crate) fn serving(&self) -> Serving<Silent> {
        let geometry = master_record("", 0).geometry().expect("a good record");
        Serving::new(self.clone(), geometry, CAPABILITIES, BTreeMap::new())
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    size: 1 << 30,
    logical_block: 512,
    physical_block: 4096,
    optimal_io: 0,
    volatile_cache: false,
    fua: false,
    rotational: false,
    discard: false,
    write_zeroes: false,
    read_only: false,
};

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

/// A process with these masters, each served by its thread.
pub(crate) fn host(masters: &[(&str, &Puppet)]) -> Arc<Host<Silent>> {
    let host = Host::new(
        Silent::default(),
        Arc::new(State::new(Memory::default())),
        Id128::default(),
        Box::new(NoDeaths),
    );
    for (id, (name, puppet)) in (1..).zip(masters) {
        host.registry.add(Entry::new(master_record(name, id), Phase::Serving(puppet.serving())));
    }
    host.records.send_replace(Records::Known);
    Arc::new(host)
}

impl Reactor<Silent> for Puppet {
    async fn add_set(&self, _: ReadySet<Nothing>) -> Result<Result<(), String>, ReactorGone> {
        pending().await
    }

    async fn remove_set(&self, _: SetIndex) -> Result<Result<(), String>, ReactorGone> {
        pending().await
    }

    async fn command(&self, _: Command) -> Result<Result<Done, Refusal>, ReactorGone> {
        pending().await
    }

    async fn serve(&self, _: Side, _: u32, _: DriverSpec) -> Result<Result<(), String>, ReactorGone> {
        pending().await
    }

    async fn leave(&self, _: Side) -> Result<(), ReactorGone> {
        pending().await
    }

    async fn snapshot(&self) -> Result<Snapshot, ReactorGone> {
        let manner = *self.0.borrow();
        match manner {
            Manner::Answers => Ok(Snapshot::default()),
            Manner::Hangs => pending().await,
            Manner::Ended(_) => Err(ReactorGone),
        }
    }

    async fn map(&self, _: SetIndex, _: Vec<Range<u64>>) -> Result<Option<Vec<RunCounts>>, ReactorGone> {
        pending().await
    }

    async fn stop(&self) {
        pending().await
    }

    async fn ended(&self) -> ReactorEnd {
        let mut told = self.0.subscribe();
        loop {
            if let Manner::Ended(end) = *told.borrow_and_update() {
                return end;
            }
            told.changed().await.expect("this thread holds the sender");
        }
    }
}

impl World for Silent {
    type Files = Memory;
    type Claim = Nothing;
    type Store = MemStore;
    type Reactor = Puppet;
    type Hold = Nothing;

    async fn look(&self, _: &Path, _: Depth) -> Result<DeviceFacts, LookError> {
        let there = self.there.lock().expect("no thread panics").clone();
        match there {
            Some(device) => Ok(device),
            None => pending().await,
        }
    }

    async fn survey(&self) -> Result<Vec<DeviceFacts>, LookError> {
        pending().await
    }

    async fn claim(&self, _: &DeviceFacts, _: Duration) -> Result<Nothing, ClaimError> {
        pending().await
    }

    fn work<T: Send + 'static>(
        &self,
        _: Vec<Nothing>,
        _: impl FnOnce(&mut MemStore, &[DeviceSlot]) -> T + Send + 'static,
    ) -> impl Future<Output = Result<(T, Vec<Nothing>), String>> + Send {
        pending()
    }

    async fn fingerprint(&self, claim: &Nothing) -> Result<String, String> {
        match *claim {}
    }

    async fn driver_list(&self) -> Result<Vec<DriverDevice>, DriverError> {
        pending().await
    }

    async fn driver_add(&self, _: &DriverSpec) -> Result<u32, DriverError> {
        pending().await
    }

    async fn driver_start(&self, _: u32) -> Result<(), DriverError> {
        pending().await
    }

    async fn driver_recover(&self, _: u32) -> Result<(), DriverError> {
        pending().await
    }

    async fn driver_recovered(&self, _: u32) -> Result<(), DriverError> {
        pending().await
    }

    async fn driver_stop(&self, _: u32) -> Result<(), DriverError> {
        pending().await
    }

    async fn driver_delete(&self, _: u32) -> Result<(), DriverError> {
        pending().await
    }

    async fn hold_presented(&self, _: u32) -> Result<Nothing, NotHeld> {
        pending().await
    }

    async fn reread_partitions(&self, _: u32) {
        pending().await
    }

    async fn publish(&self, _: Uuid, _: u32) -> Result<(), String> {
        pending().await
    }

    async fn unpublish(&self, _: Uuid) {
        pending().await
    }

    async fn sweep_names(&self, _: &BTreeSet<Uuid>) {
        pending().await
    }

    fn names(&self) -> &Path {
        Path::new("/dev/umbra/by-id")
    }

    async fn hide(&self, _: Sight) {
        pending().await
    }

    async fn start_reactor(&self, _: ReactorSetup<Self>) -> Result<Puppet, String> {
        pending().await
    }

    fn served_until(&self) -> u64 {
        0
    }

    async fn kept_digest(&self, _: Uuid) -> Option<u64> {
        pending().await
    }

    async fn forget_digest(&self, _: Uuid) -> Result<(), String> {
        pending().await
    }

    fn unix_ms(&self) -> u64 {
        0
    }

    fn fresh(&self) -> Uuid {
        Uuid::nil()
    }
}
