//! Cuts: of one set, or of several at one instant, on one master or on many.
//!
//! ```text
//!  one set    hold ─────────────────────> Cut
//!  several    hold ─> cuts/UUID ─> Prepare ─> Flip ─> decision in cuts/UUID ─> Decide ─> cuts/UUID removed
//!                                  all gated  all in   the instant              all say
//!                                             doubt                             so
//! ```
//! Every arrow but those on both sides of the decision may fail: then every member is told that nothing happens,
//! and keeps its previous image. After the decision a member can only drop out by itself, when a volume of it
//! fails; the others stand. This file has the call, `group.rs` the arrows.

use super::member::{Member, Plan, Result, check_epoch, died, dropped_out, engine_status, has, refusal};
use super::restore;
use crate::host::Host;
use crate::mutation::{Rule, is_off};
use crate::present;
use crate::registry::{Entry, Turn};
use crate::words::{id128, io, label, set_name, set_ref};
use crate::world::{Reactor, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use umbra_engine::{CUT_MEMBERS_MAX, Command, Done, Epoch as EngineEpoch, Refusal, SetState};
use umbra_platform::PlatformError;
use umbra_platform::call::{Copied, CopyKind, CopySets, Direction, Reset, ResetDone, SetEpoch};
use umbra_platform::id::{CutId, Epoch, MasterRef, SetId};
use uuid::Uuid;

impl<W: World> Host<W> {
    /// Cuts one or several sets; a cut without a name is called `fresh`.
    ///
    /// # Errors
    /// What is in the way; then every image is what it was.
    pub(crate) async fn copy_sets(&self, call: CopySets, fresh: Uuid) -> Result<Copied> {
        let cut = call.cut.unwrap_or(CutId(fresh));
        let plan = Plan { direction: call.direction, kind: call.kind, cut, reset: false };
        let turns = self.turns(&call).await?;
        let members = self.members(&call, &turns).await?;
        let aborted = |member: &Member<W>| member.status.header.state == SetState::RestoreAborted;
        if call.direction == Direction::ToMaster && members.iter().all(aborted) {
            return restore::resume(&members).await;
        }
        if members.iter().any(|member| has(&member.status, cut)) {
            let epochs = members.iter().map(|member| member.status.header.epoch).collect();
            let out = members.iter().find(|member| !has(&member.status, cut));
            return out.map_or_else(|| Ok(copied(cut, &members, epochs)), |out| Err(dropped_out(out, cut)));
        }
        for (member, target) in members.iter().zip(call.sets.as_slice()) {
            check_epoch(target, &member.status)?;
            check(member, &plan).await?;
        }
        let epochs = self.cut(&turns, &members, &plan).await?;
        Ok(copied(cut, &members, epochs))
    }

    /// The turns of all masters concerned, taken in one order everywhere, so that no two changes wait for each other.
    async fn turns(&self, call: &CopySets) -> Result<Vec<Turn<W>>> {
        let mut entries: BTreeMap<Uuid, Arc<Entry<W>>> = BTreeMap::new();
        for target in call.sets.as_slice() {
            let found = self.registry.set(&target.set)?;
            entries.insert(found.entry.id(), found.entry);
        }
        let mut turns = Vec::new();
        for entry in entries.into_values() {
            turns.push(entry.turn("cut").await?);
        }
        Ok(turns)
    }

    async fn members(&self, call: &CopySets, turns: &[Turn<W>]) -> Result<Vec<Member<W>>> {
        let targets = call.sets.as_slice();
        if targets.len() > CUT_MEMBERS_MAX {
            let most = u64::try_from(CUT_MEMBERS_MAX).expect("16");
            return Err(PlatformError::LimitReached { limit: "sets of one cut".into(), most });
        }
        let mut members: Vec<Member<W>> = Vec::new();
        for target in targets {
            let found = self.registry.set(&target.set)?;
            if !turns.iter().any(|turn| turn.entry().id() == found.entry.id()) {
                // It was renamed to another master meanwhile: asked again it is found there.
                return Err(found.entry.busy());
            }
            if members.iter().any(|other| other.found.set.id == found.set.id) {
                let problem = format!("{} is named twice", set_name(&found.set)).into();
                return Err(PlatformError::BadArgument { argument: "sets".into(), problem });
            }
            let same = |other: &Member<W>| other.found.entry.id() == found.entry.id();
            if call.direction == Direction::ToMaster && members.iter().any(same) {
                let master = label(&found.seen.record.name);
                return Err(PlatformError::SameMaster { master: MasterRef::Name(master) });
            }
            let (reactor, status) = engine_status(&found.seen, &found.set).await?;
            members.push(Member { found, reactor, status });
        }
        Ok(members)
    }

    /// Takes a cut, and returns the epochs that it began.
    async fn cut(&self, turns: &[Turn<W>], members: &[Member<W>], plan: &Plan) -> Result<Vec<EngineEpoch>> {
        let step = |what: &str| turns.iter().for_each(|turn| turn.step(what));
        step("proof that nothing has the devices open");
        // Held over the flip: whoever opened a device would go on reading the old content from its page cache.
        let changed = changed(members, plan.direction)?;
        let mut holds = present::hold(self, &changed).await?;
        if is_off(Rule::HoldOverFlip) {
            holds.clear();
        }
        if plan.direction == Direction::ToMaster {
            step("record of the restore");
            self.mark_restores(members).await?;
        }
        step("the cut");
        let taken = match members {
            [one] => self.cut_one(one, plan).await.map(|epoch| vec![epoch]),
            all => self.cut_all(turns, all, plan).await,
        };
        if plan.direction == Direction::ToMaster && taken.is_err() {
            for member in members {
                self.unmark_restores(&member.found.entry).await;
            }
        }
        let epochs = taken?;
        for (member, epoch) in members.iter().zip(&epochs) {
            if let Err(error) = self.state.forget_end(id128(member.found.set.id), *epoch).await {
                tracing::warn!(%error, "the end of an earlier image could not be forgotten");
            }
        }
        drop(holds);
        step("partition tables");
        for device in changed {
            self.world.reread_partitions(device.number).await;
        }
        Ok(epochs)
    }

    async fn cut_one(&self, member: &Member<W>, plan: &Plan) -> Result<EngineEpoch> {
        let unix_ms = self.world.unix_ms();
        let command = Command::Cut { member: plan.member(member), cut: id128(plan.cut.0), unix_ms };
        let answer = member.reactor.command(command).await.map_err(|_| died(&member.found.seen))?;
        match answer {
            Ok(Done::Cut { epoch }) => Ok(epoch),
            Ok(other @ (Done::Gated | Done::InDoubt | Done::Ok)) => {
                Err(io(&member.found.set.bitmap.device, "cut", &format!("{other:?}")))
            }
            Err(refused) => Err(match refusal(&member.found, refused) {
                PlatformError::CutVoid { cause, .. } => PlatformError::CutVoid { cut: plan.cut, cause },
                error => error,
            }),
        }
    }

    /// Brings a set back that is offline, by a new image.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) async fn reset(&self, call: Reset, fresh: Uuid) -> Result<ResetDone> {
        let entry = self.registry.set(&call.target.set)?.entry;
        let turn = entry.turn("reset").await?;
        let found = self.registry.set(&call.target.set)?;
        let (reactor, status) = engine_status(&found.seen, &found.set).await?;
        let cut = CutId(fresh);
        if has(&status, cut) {
            return Ok(ResetDone::Cut { cut, epoch: Epoch(status.header.epoch.0) });
        }
        check_epoch(&call.target, &status)?;
        if status.header.state.is_online() {
            return Ok(ResetDone::NotNeeded);
        }
        restore::check_none(&found.seen, found.seen.serving()?).await?;
        let plan = Plan { direction: Direction::ToShadow, kind: CopyKind::Full, cut, reset: true };
        let members = [Member { found, reactor, status }];
        let epochs = self.cut(&[turn], &members, &plan).await?;
        Ok(ResetDone::Cut { cut, epoch: Epoch(epochs.first().expect("one per member").0) })
    }
}

/// Refuses what the set's state does not allow, in words that name it. The engine decides under its gate.
async fn check<W: World>(member: &Member<W>, plan: &Plan) -> Result<()> {
    let (found, status) = (&member.found, &member.status);
    let set = set_ref(&found.set);
    if plan.direction == Direction::ToShadow && found.set.protected {
        return Err(PlatformError::Protected { set });
    }
    let (pending, other) = (status.pending, Direction::ToShadow);
    match (status.header.state, plan.direction) {
        (SetState::Offline(cause), _) if !plan.reset => {
            return Err(refusal(found, Refusal::Offline(cause)));
        }
        (SetState::RestoreAborted, Direction::ToShadow) => {
            return Err(PlatformError::OppositePending { set, direction: Direction::ToMaster, pending });
        }
        (SetState::Copying, Direction::ToMaster) => {
            return Err(PlatformError::Copying { set, direction: other });
        }
        (SetState::CopyAborted, Direction::ToMaster) => {
            return Err(PlatformError::OppositePending { set, direction: other, pending });
        }
        _ => {}
    }
    if plan.direction == Direction::ToMaster && status.lost > 0 {
        return Err(PlatformError::Incomplete { set, lost: status.lost });
    }
    restore::check_none(&found.seen, found.seen.serving()?).await
}

/// The presented devices whose content the flip changes.
fn changed<W: World>(members: &[Member<W>], direction: Direction) -> Result<Vec<present::Shown>> {
    let mut devices = Vec::new();
    for member in members {
        let seen = &member.found.seen;
        let concerned =
            |id: Uuid| id == member.found.set.id || direction == Direction::ToMaster && id == seen.record.id;
        let of = present::presented(seen, seen.serving()?).into_iter().filter(|shown| concerned(shown.id));
        devices.extend(of);
    }
    devices.sort();
    devices.dedup();
    Ok(devices)
}

fn copied<W: World>(cut: CutId, members: &[Member<W>], epochs: Vec<EngineEpoch>) -> Copied {
    let named = |(member, epoch): (&Member<W>, EngineEpoch)| SetEpoch {
        id: SetId(member.found.set.id),
        name: set_name(&member.found.set),
        epoch: Epoch(epoch.0),
    };
    Copied { cut, sets: members.iter().zip(epochs).map(named).collect() }
}
