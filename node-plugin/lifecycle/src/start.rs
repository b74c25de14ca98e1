//! Starting a master: after an attach, after whatever ended the last process, and after its own thread has died.
//!
//! The order (E6, E8): find and claim the master, however long that takes; find, claim and recover its sets side by
//! side; only then take over the ublk device, whose parked requests run at once. What is in the way is said in
//! status, and tried again for as long as it takes. Masters start side by side; one that waits holds up nothing else.
//!
//! ```text
//!   recognise ─> claim ─> flush ─┬─> reactor ─> present the master ─> present the shadows ─> served
//!   settle cuts ─> sets ─────────┘
//! ```
//! A start that fails leaves the presented devices waiting in the kernel, as a kill does, and nothing else.

use crate::deadline::{CLAIM_WAIT, STEP_DEADLINE, within};
use crate::host::{Host, Records};
use crate::mutation::{Rule, is_off};
use crate::obstacle::{Kind, Obstacle, hung};
use crate::present::{self, Presentation};
use crate::recognise::Recognised;
use crate::registry::{Entry, Phase, Seen, Serving, Turn};
use crate::start_set::{KnownAtStart, SetStart};
use crate::state::{CopyLimitsRecord, MasterRecord, SetRecord, SetStage, StateError};
use crate::tag::tag;
use crate::words::{io, master_ref};
use crate::world::{Claim, Reactor, ReactorEnd, ReactorSetup, ReadySet, SetVolumes, Sight, World};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{ByteRange, Command, CopyLimits, SetIndex, SetState, Side};
use umbra_format::data_hash;
use umbra_identity::{FsGeneration, World as InUse};
use umbra_platform::PlatformError;
use umbra_platform::status::{WaitReason, WaitingFor};
use umbra_platform::time::WallTime;
use umbra_store::{Blocking, FIRST_BYTES, IoBuf, Job};

const _: () = assert!(FsGeneration::PLACE.end <= FIRST_BYTES, "a mount for writing changes them");

/// Between two attempts at a start.
const RETRY: Duration = Duration::from_secs(1);

fn waiting(reason: WaitReason, what: &str) -> WaitingFor {
    WaitingFor { reason, what: what.into(), since: WallTime::now() }
}

/// A master whose start is about to begin.
pub(crate) fn claiming<W: World>() -> Phase<W> {
    Phase::Claiming(waiting(WaitReason::Claiming, "its device is being claimed"))
}

fn recovering<W: World>() -> Phase<W> {
    Phase::Recovering(waiting(WaitReason::Recovering, "what the last process left is being put in order"))
}

/// Whether the copies of a set may lose completed writes in a power cut (E13).
pub(crate) fn volatile<C: Claim>(volumes: &SetVolumes<C>) -> bool {
    volumes.shadow.capabilities().volatile_cache || volumes.bitmap.capabilities().volatile_cache
}

/// What is known of a set that was recovered, once its volumes are the reactor's.
#[derive(Clone, Copy, Debug)]
struct Image {
    index: SetIndex,
    state: SetState,
    volatile_cache: bool,
}

impl<W: World> Host<W> {
    /// Starts a master with its sets. The record is that of `turn`'s entry, and is kept up to date there and on disk.
    ///
    /// # Errors
    /// What is in the way. Its devices wait in the kernel then, as after a kill.
    pub(crate) async fn start_master(
        self: &Arc<Self>,
        turn: &Turn<W>,
        by_itself: bool,
    ) -> Result<Serving<W>, Obstacle> {
        let entry = turn.entry();
        turn.step("claim of the master");
        let in_use = self.in_use_now().await?;
        let master = self.recognise_master(&entry.record(), &in_use).await?;
        let master = self.check_written_outside(entry, master, by_itself).await?;
        let mut record = entry.record();
        put_found(&mut record, &master.ours.path, by_itself);
        if let Some(grown) = master.ours.grown {
            tracing::warn!(master = %record.name, ?grown, "the device has grown: it is served at its recorded size");
        }
        entry.put_phase(recovering());
        turn.step("flush of the master");
        let capabilities = master.claim.capabilities();
        let flushed = self
            .world
            .work(vec![master.claim], |store, slots| Blocking::new(store, STEP_DEADLINE).flush(slots[0]));
        let (sets, flushed) =
            tokio::join!(self.start_sets(turn, &record, in_use, by_itself), within(STEP_DEADLINE, flushed));
        let failed = |detail: &dyn std::fmt::Display| Obstacle::failed(io(&record.device, "flush", detail));
        let (outcome, mut claims) = flushed
            .ok_or_else(|| Obstacle::failed(hung(&record.device, "flush of the master")))?
            .map_err(|detail| failed(&detail))?;
        outcome.map_err(|error| failed(&error))?;
        let hung = || Obstacle::failed(hung(&record.device, "flush of the master"));
        let master = claims.pop().ok_or_else(hung)?;
        let sets = sets?;
        let (mut ready, mut unserved) = (Vec::new(), BTreeMap::new());
        for (id, start) in sets {
            match start {
                SetStart::Ready(set) => {
                    for on_record in record.sets.iter_mut().filter(|on_record| on_record.id == id) {
                        put_started(on_record, &set.volumes);
                    }
                    ready.push(*set);
                }
                SetStart::Unserved(why) => drop(unserved.insert(id, why)),
                SetStart::Gone => record.sets.retain(|set| set.id != id),
            }
        }
        if record != entry.record() {
            self.keep(entry, record.clone()).await.map_err(Obstacle::failed)?;
        }
        let images: Vec<Image> = ready.iter().map(image_of).collect();
        turn.step("start of its thread");
        let setup = ReactorSetup {
            id: record.id,
            name: record.name.clone(),
            master,
            geometry: record.geometry().expect("records are checked when they are read"),
            depth: record.queue_depth,
            sets: ready,
            state: Arc::clone(&self.state),
        };
        let geometry = setup.geometry;
        let started = self.world.start_reactor(setup).await;
        let reactor = started.map_err(|problem| Obstacle::failed(io(&record.device, "start", &problem)))?;
        let mut serving = Serving::new(reactor, geometry, capabilities, unserved);
        match self.show(turn, &record, &mut serving, &images).await {
            Ok(()) => {
                self.end_unserved(&record, &serving);
                Ok(serving)
            }
            Err(error) => {
                serving.reactor.stop().await;
                Err(Obstacle::failed(error))
            }
        }
    }

    async fn show(
        &self,
        turn: &Turn<W>,
        record: &MasterRecord,
        serving: &mut Serving<W>,
        images: &[Image],
    ) -> Result<(), PlatformError> {
        limit_copies::<W>(&serving.reactor, record, images).await?;
        turn.step("presentation of the master");
        let what = Presentation {
            id: record.id,
            side: Side::Master,
            number: record.ublk_wanted,
            depth: record.queue_depth,
            size: record.size,
            master: serving.capabilities,
            volatile_cache: serving.capabilities.volatile_cache,
        };
        let number = present::present(self, &serving.reactor, what).await?;
        serving.presented.insert(record.id, number);
        for image in images.iter().filter(|image| image.state != SetState::Prepared) {
            let Some(set) = record.sets.iter().find(|set| set.index == image.index.0) else { continue };
            turn.step(format_args!("presentation of the shadow of {}", set.name));
            self.present_shadow(record, serving, image.index, image.volatile_cache).await?;
        }
        Ok(())
    }

    /// Ends the presented shadows of sets that are not served: whoever has one open would wait for ever. Nobody waits for
    /// that in turn, since the driver does not remove a device as long as it is open.
    fn end_unserved(self: &Arc<Self>, record: &MasterRecord, serving: &Serving<W>) {
        for set in record.sets.iter().filter(|set| serving.unserved.contains_key(&set.id)) {
            let (host, id, name) = (Arc::clone(self), set.id, set.name.clone());
            tokio::spawn(async move {
                if let Err(error) = present::end_all(&host, id).await {
                    tracing::warn!(set = %name, %error, "the presented shadow cannot be taken away");
                }
            });
        }
    }

    /// Presents the shadow of a set that is served.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) async fn present_shadow(
        &self,
        record: &MasterRecord,
        serving: &mut Serving<W>,
        index: SetIndex,
        volatile_cache: bool,
    ) -> Result<(), PlatformError> {
        let Some(set) = record.sets.iter().find(|set| set.index == index.0) else { return Ok(()) };
        let what = Presentation {
            id: set.id,
            side: Side::Shadow(index),
            number: None,
            depth: record.queue_depth,
            size: record.size,
            master: serving.capabilities,
            volatile_cache: volatile_cache || serving.capabilities.volatile_cache,
        };
        let number = present::present(self, &serving.reactor, what).await?;
        serving.presented.insert(set.id, number);
        Ok(())
    }

    async fn start_sets(
        self: &Arc<Self>,
        turn: &Turn<W>,
        record: &MasterRecord,
        in_use: Arc<InUse>,
        by_itself: bool,
    ) -> Result<Vec<(uuid::Uuid, SetStart<W::Claim>)>, Obstacle> {
        if record.sets.is_empty() {
            return Ok(Vec::new());
        }
        turn.step("recovery of its sets");
        let cuts = self.settle_cuts(record).await.map_err(|problem| {
            let error = io(&record.device, "decision of a cut", &problem);
            Obstacle::new(Kind::Passing, WaitReason::Recovering, error)
        })?;
        let known = KnownAtStart { cuts: Arc::new(cuts), in_use };
        let start = |set: &crate::state::SetRecord| {
            let (host, record, set) = (Arc::clone(self), record.clone(), set.clone());
            let known = known.clone();
            tokio::spawn(async move { (set.id, host.start_set(&record, &set, &known, by_itself).await) })
        };
        let started: Vec<_> = record.sets.iter().map(start).collect();
        let (mut sets, mut obstacle) = (Vec::new(), None);
        for started in started {
            match started.await {
                Ok((id, Ok(start))) => sets.push((id, start)),
                Ok((_, Err(found))) => obstacle = obstacle.or(Some(found)),
                Err(error) => {
                    let error = io(&record.device, "start of a set", &error);
                    obstacle = obstacle.or(Some(Obstacle::failed(error)));
                }
            }
        }
        obstacle.map_or(Ok(sets), Err)
    }

    /// Keeps the raw devices of all masters and sets out of sight, once what is configured or presented has changed.
    pub(crate) async fn hide_raw(&self) {
        // The rule is one for all masters: of two changes the later view must be written last.
        let _one_at_a_time = self.hiding.lock().await;
        let mut sight = Sight::default();
        for entry in self.registry.entries() {
            let Seen { record, phase, .. } = entry.seen();
            if let Phase::Serving(serving) = phase {
                for (id, number) in serving.presented {
                    let of = if id == record.id { &mut sight.masters } else { &mut sight.shadows };
                    of.push(number);
                }
            }
            sight.raw.extend(record.sets.into_iter().flat_map(|set| [set.shadow.device, set.bitmap.device]));
            sight.raw.push(record.device);
        }
        self.world.hide(sight).await;
    }

    /// Keeps a record, on disk and for whoever looks.
    ///
    /// # Errors
    /// What the state directory says; then the older one still holds.
    pub(crate) async fn keep(&self, entry: &Entry<W>, record: MasterRecord) -> Result<(), PlatformError> {
        if let Err(error) = self.state.save_master(&record).await {
            // It may be there all the same, and the next start would go by it.
            if let Err(left) = self.state.save_master(&entry.record()).await {
                tracing::warn!(master = %record.name, error = %left, "the record before the change cannot be put back");
            }
            return Err(io(&record.device, "record of the change", &error));
        }
        entry.put_record(record);
        Ok(())
    }

    /// Keeps a master served until it is detached: starts it, waits until its thread ends, starts it again.
    pub(crate) async fn keep_served(self: Arc<Self>, entry: Arc<Entry<W>>) {
        let mut told = None;
        while self.registry.has(&entry) {
            if let Phase::Serving(serving) = entry.seen().phase {
                told = None;
                let end = serving.reactor.ended().await;
                // Whoever had the turn first may have started it anew by now; who told it to end decides what comes next.
                if end == ReactorEnd::Told {
                    drop(entry.turn_patiently("look at what comes next").await);
                } else if end == ReactorEnd::Outdated {
                    let _turn = entry.turn_patiently("start on devices that have changed").await;
                    if entry.is_served_by(&serving) {
                        tracing::warn!(master = %entry.record().name, "a device has got a volatile cache; the master is started again");
                        entry.put_phase(claiming());
                    }
                } else {
                    let _turn = entry.turn_patiently("start after its thread died").await;
                    tracing::error!(master = %entry.record().name, "the master's thread died; it is started again");
                    let delay = self.deaths.thread_died(entry.id());
                    if entry.is_served_by(&serving) {
                        entry.put_phase(Phase::Failed("its thread died".to_owned()));
                        tokio::time::sleep(delay).await;
                    }
                }
                continue;
            }
            let turn = entry.turn_patiently("start").await;
            if !self.registry.has(&entry) {
                return;
            }
            if matches!(entry.seen().phase, Phase::Serving(_)) {
                continue;
            }
            let since = match entry.seen().phase {
                Phase::Blocked(wait) | Phase::Quarantined(wait) => Some(wait.since),
                _ => None,
            };
            match self.start_master(&turn, true).await {
                Ok(serving) => {
                    tracing::info!(master = %entry.record().name, "served again");
                    entry.put_phase(Phase::Serving(serving));
                    drop(turn);
                    // Devices that came late have a name by now.
                    self.hide_raw().await;
                    self.forget_resolved_cuts().await;
                }
                Err(obstacle) => {
                    if told.as_ref() != Some(&obstacle) {
                        tracing::warn!(master = %entry.record().name, error = %obstacle.error, "the master cannot be served yet");
                        told = Some(obstacle.clone());
                    }
                    let wait = obstacle.waiting(since.unwrap_or_else(WallTime::now));
                    let outside = obstacle.reason == WaitReason::WrittenOutside;
                    entry.put_phase(if outside { Phase::Quarantined(wait) } else { Phase::Blocked(wait) });
                    drop(turn);
                    entry.poked(RETRY).await;
                }
            }
        }
    }

    /// Starts everything that was attached when the last process ended, each master by itself.
    pub(crate) async fn resume(self: &Arc<Self>) -> usize {
        // Without it nobody knows what there is, and a call would be told that there is nothing.
        let (records, faults) = loop {
            let faulty = match self.state.masters().await {
                Ok((records, mut faults)) => match faults.iter().position(StateError::is_passing) {
                    None => break (records, faults),
                    Some(passing) => faults.swap_remove(passing),
                },
                Err(error) => error,
            };
            let faulty = faulty.to_string();
            let told = self.records.send_if_modified(|records| {
                let news = Records::Unread(faulty.clone());
                std::mem::replace(records, news.clone()) != news
            });
            if told {
                tracing::error!(error = faulty, "the state directory cannot be read: nothing is started yet");
            }
            tokio::time::sleep(RETRY).await;
        };
        for fault in faults {
            tracing::error!(error = %fault, "a master on record cannot be served");
        }
        let (detached, attached): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.clean);
        self.end_left_of(&detached).await;
        let known = attached
            .iter()
            .flat_map(|record| std::iter::once(record.id).chain(record.sets.iter().map(|set| set.id)));
        self.world.sweep_names(&known.collect()).await;
        let entries: Vec<_> = attached.into_iter().map(|record| Entry::new(record, claiming())).collect();
        // All of them are in the status before the first call is answered.
        entries.iter().for_each(|entry| self.registry.add(Arc::clone(entry)));
        self.records.send_replace(Records::Known);
        // Before anything is served: whoever follows a link to a raw device meanwhile writes past us.
        self.hide_raw().await;
        for entry in &entries {
            tokio::spawn(Arc::clone(self).keep_served(Arc::clone(entry)));
        }
        entries.len()
    }

    /// Ends the devices of detached masters: a process that died while it attached one again has left them, before it was
    /// answered and noted. Not beside anything: a call that attaches the master would find them.
    async fn end_left_of(&self, detached: &[MasterRecord]) {
        let ids = |record: &MasterRecord| {
            std::iter::once(record.id).chain(record.sets.iter().map(|set| set.id)).collect::<Vec<_>>()
        };
        let tags: BTreeSet<u64> = detached.iter().flat_map(ids).map(|id| tag(self.node, id)).collect();
        if tags.is_empty() {
            return;
        }
        let devices = match self.world.driver_list().await {
            Ok(devices) => devices,
            Err(error) => {
                tracing::warn!(%error, "what a broken attach has left in the driver, if anything, stays there");
                return;
            }
        };
        for device in devices.into_iter().filter(|device| tags.contains(&device.tag)) {
            match present::end(self, device.number).await {
                Ok(()) => {
                    tracing::info!(number = device.number, "a device that a broken attach has left is gone")
                }
                Err(error) => {
                    tracing::warn!(number = device.number, %error, "a device of a broken attach is left")
                }
            }
        }
    }

    /// Ends the threads in order, when the process does: presented devices stay and wait for the next one, which can
    /// tell by the file system's own count whether anybody has written in between.
    pub(crate) async fn close(self: &Arc<Self>) {
        let close = |entry: Arc<Entry<W>>| {
            let host = Arc::clone(self);
            tokio::spawn(async move { within(CLAIM_WAIT, host.close_one(&entry)).await })
        };
        let closing: Vec<_> = self.registry.entries().into_iter().map(close).collect();
        for closed in closing {
            let _ = closed.await;
        }
    }

    async fn close_one(&self, entry: &Arc<Entry<W>>) {
        let turn = entry.turn_patiently("end of the process").await;
        let Phase::Serving(serving) = entry.seen().phase else { return };
        self.registry.remove(entry.id());
        turn.step("end of its thread");
        serving.reactor.stop().await;
        let record = entry.record();
        if record.sets.is_empty() {
            return;
        }
        let looked = self.world.look(&record.device, crate::world::Depth::What).await.ok();
        let generation = looked.and_then(|facts| crate::recognise::generation(&facts));
        if let Err(error) = self.keep(entry, MasterRecord { generation, ..record }).await {
            tracing::warn!(%error, "what the file system counts is not on record");
        }
    }

    /// Rule 5, E19: what was written past us while the master was not served, as far as samples, the digest of its first
    /// bytes and the file system's own count tell.
    async fn check_written_outside(
        &self,
        entry: &Entry<W>,
        master: Recognised<W::Claim>,
        by_itself: bool,
    ) -> Result<Recognised<W::Claim>, Obstacle> {
        let record = entry.record();
        let (master, overwritten) = self.check_first_bytes(&record, master).await?;
        if record.sets.is_empty() || is_off(Rule::OutsideNoticed) {
            return Ok(master);
        }
        let sampled = match record.fingerprint.as_ref().filter(|_| record.clean) {
            Some(expected) => {
                let found = self.world.fingerprint(&master.claim).await;
                found.map_err(|e| Obstacle::failed(io(&record.device, "sample", &e)))? != *expected
            }
            None => false,
        };
        let counts = !record.clean && record.generation.is_none() && !entry.is_vouched_for();
        let since = master.generation.as_ref().filter(|_| counts);
        let later = since.is_some_and(|found| is_later(found, self.world.served_until()));
        if !sampled && !later && !overwritten && master.ours.written_outside.is_none() && !record.quarantined
        {
            return Ok(master);
        }
        let error = PlatformError::MasterWrittenOutside { master: master_ref(&record) };
        if by_itself && !record.quarantined {
            tracing::error!(master = %record.name, is = ?master.generation, was = ?record.generation, "the master was written while nobody watched it");
            self.keep(entry, MasterRecord { quarantined: true, ..record }).await.map_err(Obstacle::failed)?;
        }
        Err(Obstacle::new(Kind::Mistaken, WaitReason::WrittenOutside, error))
    }
}

impl<W: World> Host<W> {
    /// Whether the master's first bytes are others than its thread has kept a digest of. They are read with the master
    /// claimed, and whatever was in flight landed.
    async fn check_first_bytes(
        &self,
        record: &MasterRecord,
        master: Recognised<W::Claim>,
    ) -> Result<(Recognised<W::Claim>, bool), Obstacle> {
        let Some(kept) = self.world.kept_digest(record.id).await else { return Ok((master, false)) };
        let failed =
            |what: &str, problem: &dyn std::fmt::Display| Obstacle::failed(io(&record.device, what, problem));
        // Without sets nothing is lost, and between a detach and an attach samples decide.
        if record.sets.is_empty() || record.clean {
            let forgotten = self.world.forget_digest(record.id).await;
            forgotten.map_err(|problem| failed("forget what was kept of the content of", &problem))?;
            return Ok((master, false));
        }
        let range = ByteRange::new(0, FIRST_BYTES.min(record.size));
        let read = self.world.work(vec![master.claim], move |store, slots| {
            let mut found = None;
            let digest = |_, buf: Option<IoBuf>| found = buf.map(|buf| data_hash(buf.bytes()));
            let read = Blocking::new(store, STEP_DEADLINE).run([Job::read(slots[0], range)], digest);
            read.map(|()| found)
        });
        let late = || Obstacle::failed(hung(&record.device, "look at its first bytes"));
        let read = within(STEP_DEADLINE, read).await.ok_or_else(late)?;
        let (found, mut claims) = read.map_err(|problem| failed("look at the first bytes", &problem))?;
        let master = Recognised { claim: claims.pop().ok_or_else(late)?, ..master };
        let overwritten = match found {
            Ok(found) => found != Some(kept) && !is_off(Rule::DigestCompared),
            Err(error) => {
                // A master with a bad sector is served as far as it can be read.
                tracing::warn!(master = %record.name, %error, "nobody can say whether its first bytes are what they were");
                false
            }
        };
        Ok((master, overwritten))
    }
}

/// Whether the file system says that it was mounted or written after we had served it last. After a kill in the midst of
/// writes there is neither a count on record nor a digest that could be compared; a time can.
fn is_later(generation: &FsGeneration, served_until: u64) -> bool {
    match generation {
        FsGeneration::Ext { mounted, written, .. } => (*mounted).max(*written) > served_until,
        FsGeneration::Xfs { .. } | FsGeneration::Btrfs { .. } => false,
    }
}

/// What is served from now on: at this path, and with another content than was counted or sampled before.
fn put_found(record: &mut MasterRecord, path: &Path, by_itself: bool) {
    // By its old name another device may be found.
    path.clone_into(&mut record.device);
    record.generation = None;
    if by_itself {
        // It may be an attach that could not be undone: somebody may use it now.
        (record.clean, record.fingerprint) = (false, None);
    }
}

/// What a recovery has made of a set, and where it has found its volumes.
fn put_started<C: Claim>(set: &mut SetRecord, volumes: &SetVolumes<C>) {
    set.stage = SetStage::Enabled;
    set.master_changed = false;
    set.shadow.device = volumes.shadow.path().to_owned();
    set.bitmap.device = volumes.bitmap.path().to_owned();
}

fn image_of<C: Claim>(set: &ReadySet<C>) -> Image {
    Image { index: set.index, state: set.image.header.state, volatile_cache: volatile(&set.volumes) }
}

/// Copies that were limited go on so.
async fn limit_copies<W: World>(
    reactor: &W::Reactor,
    record: &MasterRecord,
    images: &[Image],
) -> Result<(), PlatformError> {
    for image in images {
        let Some(set) = record.sets.iter().find(|set| set.index == image.index.0) else { continue };
        let CopyLimitsRecord { bytes_per_second, in_flight } = set.copy_limits;
        let limits = CopyLimits { bytes_per_second, in_flight };
        let command = Command::SetCopyLimits { set: image.index, limits };
        let limited = reactor.command(command).await;
        let limited = limited.map_err(|gone| io(&record.device, "limit the copies of", &gone))?;
        limited.map_err(|refusal| io(&record.device, "limit the copies of", &refusal))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::silent::{Manner, Puppet, host};

    /// The thread of a master dies while a change has the turn, which starts it anew before anybody else gets the turn.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_thread_does_not_take_the_next_one_s_place() {
        for end in [ReactorEnd::Died, ReactorEnd::Outdated, ReactorEnd::Told] {
            let (first, second) = (Puppet::new(Manner::Answers), Puppet::new(Manner::Answers));
            let host = host(&[("a", &first)]);
            let entry = host.registry.entries().remove(0);
            tokio::spawn(Arc::clone(&host).keep_served(Arc::clone(&entry)));
            let turn = entry.turn("a change").await.expect("it is free");
            first.becomes(Manner::Ended(end));
            // As long as it takes until everybody waits.
            tokio::time::sleep(Duration::from_secs(3600)).await;
            let serving = second.serving();
            entry.put_phase(Phase::Serving(serving.clone()));
            drop(turn);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            assert!(entry.is_served_by(&serving), "{end:?}: {:?}", entry.seen().phase);
        }
    }

    /// A master that was detached and attached again has another entry, which is served by another task.
    #[tokio::test(start_paused = true)]
    async fn what_was_detached_is_not_served_again_when_it_is_attached_anew() {
        let thread = Puppet::new(Manner::Answers);
        let host = host(&[("a", &thread)]);
        let before = host.registry.entries().remove(0);
        host.registry.remove(before.id());
        let after = Entry::new(before.record(), Phase::Serving(thread.serving()));
        host.registry.add(Arc::clone(&after));
        let hour = Duration::from_secs(3600);
        let kept = |entry: &Arc<Entry<_>>| Arc::clone(&host).keep_served(Arc::clone(entry));
        assert!(tokio::time::timeout(hour, kept(&before)).await.is_ok(), "nobody serves it any more");
        assert!(tokio::time::timeout(hour, kept(&after)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_whose_thread_died_is_started_again() {
        let thread = Puppet::new(Manner::Answers);
        let host = host(&[("a", &thread)]);
        let entry = host.registry.entries().remove(0);
        tokio::spawn(Arc::clone(&host).keep_served(Arc::clone(&entry)));
        thread.becomes(Manner::Ended(ReactorEnd::Died));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let PlatformError::Hung { step, .. } = entry.busy() else { panic!("{}", entry.busy()) };
        assert_eq!(step.to_string(), "start: claim of the master");
    }
}
