//! Cuts: of one set, or of several at one instant, on one master or on many.
//!
//! ```text
//!  one set    claim ─────────────────────> Cut
//!  several    claim ─> cuts/UUID ─> Prepare ─> Flip ─> decision in cuts/UUID ─> Decide ─> cuts/UUID removed
//!                                   all gated  all in   the instant              all say
//!                                              doubt                             so
//! ```
//! Every arrow but those on both sides of the decision may fail: then every member is told that nothing happens,
//! and keeps its previous image. After the decision a member can only drop out by itself, when a volume of it
//! fails; the others stand.

use super::{Found, Result, Service};
use crate::masters::{Attached, id128};
use crate::present;
use crate::reactor::Call;
use crate::report;
use crate::state_dir::{CutRecord, Decision};
use std::sync::Arc;
use umbra_engine::{
    CUT_MEMBERS_MAX, Command, CutMember, Done, Epoch as EngineEpoch, Id128, OfflineCause, Refusal, SetState,
    SetStatus,
};
use umbra_platform::PlatformError;
use umbra_platform::call::{Copied, CopyKind, CopySets, Direction, SetEpoch};
use umbra_platform::id::{CutId, Epoch, MasterRef, SetId};
use umbra_platform::status::Role;
use umbra_platform::time::WallTime;
use umbra_ublk::DeviceId;
use uuid::Uuid;

/// A set that a cut is about, as it was when we looked.
pub(super) struct Member {
    pub(super) found: Found,
    pub(super) status: SetStatus,
}

/// What a cut does with all its members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) direction: Direction,
    pub(super) kind: CopyKind,
    pub(super) cut: CutId,
    pub(super) reset: bool,
}

impl Plan {
    fn member(&self, member: &Member) -> CutMember {
        CutMember {
            set: member.found.index(),
            direction: match self.direction {
                Direction::ToShadow => umbra_engine::Direction::ToShadow,
                Direction::ToMaster => umbra_engine::Direction::ToMaster,
            },
            kind: match self.kind {
                CopyKind::Full => umbra_engine::CopyKind::Full,
                CopyKind::Update => umbra_engine::CopyKind::Update,
            },
            reset: self.reset,
        }
    }
}

/// The members of one cut on one master.
struct Part {
    attached: Attached,
    members: Vec<CutMember>,
}

fn parts(members: &[Member], plan: &Plan) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for member in members {
        let attached = &member.found.attached;
        let same = |part: &&mut Part| part.attached.record.id == attached.record.id;
        match parts.iter_mut().find(same) {
            Some(part) => part.members.push(plan.member(member)),
            None => {
                parts.push(Part { attached: attached.clone(), members: vec![plan.member(member)] });
            }
        }
    }
    parts
}

/// Whether a set's present image is that of a cut.
fn has(status: &SetStatus, cut: CutId) -> bool {
    status.header.cut == id128(cut.0) && status.header.state.is_online()
}

/// The first answer that is not `expected`, in words.
fn dissent(parts: &[Part], answers: &[Answer], expected: Done) -> Option<String> {
    let dissents = |(part, answer): (&Part, &Answer)| match answer {
        Ok(Ok(done)) if *done == expected => None,
        Ok(Ok(done)) => Some(format!("master {} answered {done:?}", part.attached.record.name)),
        Ok(Err(refusal)) => Some(format!("master {}: {refusal}", part.attached.record.name)),
        Err(gone) => Some(format!("master {}: {gone}", part.attached.record.name)),
    };
    parts.iter().zip(answers).find_map(dissents)
}

type Answer = std::result::Result<std::result::Result<Done, Refusal>, crate::reactor::ReactorGone>;

/// Tells all masters at once, and waits for all of them.
async fn tell(parts: &[Part], command: impl Fn(&Part) -> Command) -> Vec<Answer> {
    let ask = |part: &Part| {
        let (reactor, command) = (part.attached.reactor.clone(), command(part));
        tokio::spawn(async move { reactor.ask(|reply| Call::Command(command, reply)).await })
    };
    let asked: Vec<_> = parts.iter().map(ask).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap_or(Err(crate::reactor::ReactorGone)));
    }
    answers
}

impl Service {
    pub(super) async fn copy_sets(&self, call: CopySets) -> Result<Copied> {
        let cut = call.cut.unwrap_or_else(CutId::random);
        let plan = Plan { direction: call.direction, kind: call.kind, cut, reset: false };
        let members = self.members(&call).await?;
        let aborted = |member: &Member| member.status.header.state == SetState::RestoreAborted;
        if call.direction == Direction::ToMaster && members.iter().all(aborted) {
            return self.resume_restores(&members).await;
        }
        if members.iter().any(|member| has(&member.status, cut)) {
            let epochs = members.iter().map(|member| member.status.header.epoch).collect();
            let out = members.iter().find(|member| !has(&member.status, cut));
            return out.map_or_else(|| Ok(copied(cut, &members, epochs)), |out| Err(dropped_out(out, cut)));
        }
        for member in &members {
            self.check(member, &plan).await?;
        }
        let epochs = self.take(&members, &plan).await?;
        Ok(copied(cut, &members, epochs))
    }

    async fn members(&self, call: &CopySets) -> Result<Vec<Member>> {
        let targets = call.sets.as_slice();
        if targets.len() > CUT_MEMBERS_MAX {
            let most = u64::try_from(CUT_MEMBERS_MAX).expect("16");
            return Err(PlatformError::LimitReached { limit: "sets of one cut".into(), most });
        }
        let mut members: Vec<Member> = Vec::new();
        for target in targets {
            let found = self.target(target).await?;
            if members.iter().any(|other| other.found.set.id == found.set.id) {
                let problem = format!("{} is named twice", report::set_name(&found.set)).into();
                return Err(PlatformError::BadArgument { argument: "sets".into(), problem });
            }
            let same = |other: &Member| other.found.attached.record.id == found.attached.record.id;
            if call.direction == Direction::ToMaster && members.iter().any(same) {
                let master = report::label(&found.attached.record.name);
                return Err(PlatformError::SameMaster { master: MasterRef::Name(master) });
            }
            let status = self.engine_status(&found).await?;
            members.push(Member { found, status });
        }
        Ok(members)
    }

    /// Refuses what the set's state does not allow, in words that name it. The engine decides under its gate.
    async fn check(&self, member: &Member, plan: &Plan) -> Result<()> {
        let (found, status) = (&member.found, &member.status);
        let set = found.reference();
        if plan.direction == Direction::ToShadow && found.set.protected {
            return Err(PlatformError::Protected { set });
        }
        let (pending, other) = (status.pending, Direction::ToShadow);
        match (status.header.state, plan.direction) {
            (SetState::Offline(cause), _) if !plan.reset => {
                return Err(self.refusal(found, Refusal::Offline(cause)));
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
        super::restore::check_none(&found.attached).await
    }

    /// Takes the cut, and returns the epochs that it began.
    pub(super) async fn take(&self, members: &[Member], plan: &Plan) -> Result<Vec<EngineEpoch>> {
        // Held over the flip: whoever opened a device would go on reading the old content from its page cache.
        let _claims = present::claim_for_change(changed(members, plan.direction)).await?;
        if plan.direction == Direction::ToMaster {
            self.mark_restores(members)?;
        }
        let taken = match members {
            [one] => self.take_one(one, plan).await.map(|epoch| vec![epoch]),
            all => self.take_all(all, plan).await,
        };
        if plan.direction == Direction::ToMaster && taken.is_err() {
            self.unmark_restores().await;
        }
        let epochs = taken?;
        for (member, epoch) in members.iter().zip(&epochs) {
            if let Err(error) = self.host.state.forget_end(id128(member.found.set.id), *epoch) {
                tracing::warn!(%error, "the end of an earlier image could not be forgotten");
            }
        }
        Ok(epochs)
    }

    async fn take_one(&self, member: &Member, plan: &Plan) -> Result<EngineEpoch> {
        let unix_ms = WallTime::now().unix_millis();
        let command = Command::Cut { member: plan.member(member), cut: id128(plan.cut.0), unix_ms };
        match self.command(&member.found, command).await {
            Ok(Done::Cut { epoch }) => Ok(epoch),
            Ok(Done::Gated | Done::InDoubt | Done::Ok) => unreachable!("a cut answers with its epoch"),
            Err(PlatformError::CutVoid { cause, .. }) => Err(PlatformError::CutVoid { cut: plan.cut, cause }),
            Err(error) => Err(error),
        }
    }

    async fn take_all(&self, members: &[Member], plan: &Plan) -> Result<Vec<EngineEpoch>> {
        let void = |cause: String| PlatformError::CutVoid { cut: plan.cut, cause: cause.into() };
        let ids: Vec<Uuid> = members.iter().map(|member| member.found.set.id).collect();
        let record = CutRecord { cut: plan.cut.0, members: ids, decision: None };
        let state = &self.host.state;
        match state.cut(record.cut) {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(void("it was begun before, and a member has not come back since".into()));
            }
            Err(error) => return Err(void(error.to_string())),
        }
        // Also a record that may be there by halves makes nobody believe in a cut.
        state.begin_cut(record.cut, &record.members).map_err(|error| void(error.to_string()))?;
        let parts = parts(members, plan);
        let decided = match self.bring_into_doubt(&parts, &record, plan).await {
            None => state.decide_cut(&record, Decision::Commit).map_err(|error| error.to_string()),
            Some(cause) => Err(cause),
        };
        match decided {
            Ok(Decision::Commit) => {}
            Ok(Decision::Void) => unreachable!("nobody else decides on this cut"),
            // What could be there after a crash must hold: with all in doubt, going on is right in either case.
            Err(_) if is_decided(state.cut(record.cut)) => {}
            Err(cause) => {
                self.call_off(&parts, &record, members).await;
                return Err(void(cause));
            }
        }
        self.commit(&parts, &record, members).await
    }

    /// Gates and flips all members; says why not, if one does not.
    async fn bring_into_doubt(&self, parts: &[Part], record: &CutRecord, plan: &Plan) -> Option<String> {
        let (cut, unix_ms) = (id128(plan.cut.0), WallTime::now().unix_millis());
        let all: Arc<[Id128]> = record.members.iter().map(|id| id128(*id)).collect();
        let prepare = |part: &Part| Command::Prepare {
            members: part.members.clone(),
            cut,
            unix_ms,
            all: Arc::clone(&all),
        };
        let gated = tell(parts, prepare).await;
        if let Some(cause) = dissent(parts, &gated, Done::Gated) {
            return Some(cause);
        }
        let doubting = tell(parts, |_| Command::Flip { cut }).await;
        dissent(parts, &doubting, Done::InDoubt)
    }

    /// Every member keeps its previous image.
    async fn call_off(&self, parts: &[Part], record: &CutRecord, members: &[Member]) {
        let cut = id128(record.cut);
        let answers = tell(parts, |_| Command::Decide { cut, commit: false }).await;
        let resolved = dissent(parts, &answers, Done::Ok).is_none()
            && self.all(members, |status| status.header.state.is_online()).await;
        let state = &self.host.state;
        let kept = if resolved {
            state.forget_cut(record.cut)
        } else {
            state.decide_cut(record, Decision::Void).map(drop)
        };
        if let Err(error) = kept {
            tracing::warn!(cut = %record.cut, %error, "the void cut stays on record as undecided");
        }
    }

    /// Every member that still can becomes what was decided; those that cannot are reported.
    async fn commit(
        &self,
        parts: &[Part],
        record: &CutRecord,
        members: &[Member],
    ) -> Result<Vec<EngineEpoch>> {
        let (cut, name) = (id128(record.cut), CutId(record.cut));
        let answers = tell(parts, |_| Command::Decide { cut, commit: true }).await;
        if let Some(cause) = dissent(parts, &answers, Done::Ok) {
            tracing::error!(cut = %record.cut, cause, "a decided cut is not complete");
        }
        let mut epochs = Vec::new();
        let mut out = None;
        for member in members {
            let status = self.engine_status(&member.found).await?;
            epochs.push(status.header.epoch);
            if !has(&status, name) {
                out = out.or_else(|| Some(Member { found: member.found.clone(), status }));
            }
        }
        match out {
            Some(member) => Err(dropped_out(&member, name)),
            None => {
                if let Err(error) = self.host.state.forget_cut(record.cut) {
                    tracing::warn!(cut = %record.cut, %error, "the cut stays on record");
                }
                Ok(epochs)
            }
        }
    }

    async fn all(&self, members: &[Member], holds: impl Fn(&SetStatus) -> bool) -> bool {
        for member in members {
            match self.engine_status(&member.found).await {
                Ok(status) if holds(&status) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

/// A cut stands for other members, and this one does not have it (any more).
fn dropped_out(member: &Member, cut: CutId) -> PlatformError {
    let set = member.found.reference();
    match member.status.header.state {
        SetState::Offline(cause) => {
            let role = match cause {
                OfflineCause::Shadow => Role::Shadow,
                OfflineCause::Bitmap => Role::Bitmap,
            };
            let cause = format!("it failed during cut {cut}, which stands for the other sets").into();
            PlatformError::Offline { set, role, cause }
        }
        _ => {
            let problem =
                format!("cut {cut} was taken without set {set}, or the set is in a later one").into();
            PlatformError::BadArgument { argument: "cut".into(), problem }
        }
    }
}

fn is_decided(record: std::result::Result<Option<CutRecord>, crate::state_dir::StateDirError>) -> bool {
    record.is_ok_and(|record| record.is_some_and(|record| record.decision == Some(Decision::Commit)))
}

/// The presented devices whose content the flip changes.
fn changed(members: &[Member], direction: Direction) -> Vec<DeviceId> {
    let of = |member: &Member| {
        let master = Some(member.found.attached.record.ublk_id).filter(|_| direction == Direction::ToMaster);
        [Some(member.found.set.shadow_ublk_id), master]
    };
    let ids = members.iter().flat_map(of).flatten();
    ids.filter(|id| *id != u32::MAX).map(DeviceId::new).collect()
}

fn copied(cut: CutId, members: &[Member], epochs: Vec<EngineEpoch>) -> Copied {
    let named = |(member, epoch): (&Member, EngineEpoch)| SetEpoch {
        id: SetId(member.found.set.id),
        name: report::set_name(&member.found.set),
        epoch: Epoch(epoch.0),
    };
    Copied { cut, sets: members.iter().zip(epochs).map(named).collect() }
}
