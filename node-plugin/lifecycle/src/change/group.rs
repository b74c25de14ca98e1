//! One cut over several sets (E4): the arrows of `cut.rs`, from the record of the cut to its end.

use super::member::{Member, Plan, Result, died, dropped_out, engine_status, has};
use crate::deadline::{STEP_DEADLINE, within};
use crate::host::Host;
use crate::mutation::{Rule, is_off};
use crate::registry::Turn;
use crate::state::{CutRecord, Decision};
use crate::words::id128;
use crate::world::{Reactor, ReactorGone, World};
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::{
    CUT_MEMBERS_MAX, Command, CutMember, Done, Epoch as EngineEpoch, Id128, Refusal, SetStatus,
};
use umbra_platform::PlatformError;
use umbra_platform::call::TARGETS_MAX;
use umbra_platform::id::CutId;
use uuid::Uuid;

/// How long the members may take to be gated, and to be in doubt. A gate's own deadlines are shorter; this one is for
/// a master whose flush does not return, so that the others do not wait for it.
const GATE_DEADLINE: Duration = Duration::from_secs(15);

const _: () = assert!(TARGETS_MAX == CUT_MEMBERS_MAX, "what may be asked for can be cut");

/// The members of one cut on one master.
struct Part<W: World> {
    master: Uuid,
    name: String,
    reactor: W::Reactor,
    members: Vec<CutMember>,
}

fn parts<W: World>(members: &[Member<W>], plan: &Plan) -> Vec<Part<W>> {
    let mut parts: Vec<Part<W>> = Vec::new();
    for member in members {
        let master = member.found.entry.id();
        match parts.iter_mut().find(|part| part.master == master) {
            Some(part) => part.members.push(plan.member(member)),
            None => parts.push(Part {
                master,
                name: member.found.seen.record.name.clone(),
                reactor: member.reactor.clone(),
                members: vec![plan.member(member)],
            }),
        }
    }
    parts
}

/// What a master answered; nothing: it did not, in time.
type Answer = Option<std::result::Result<std::result::Result<Done, Refusal>, ReactorGone>>;

/// The first answer that is not `expected`, in words.
fn dissent<W: World>(parts: &[Part<W>], answers: &[Answer], expected: Done) -> Option<String> {
    let dissents = |(part, answer): (&Part<W>, &Answer)| match answer {
        Some(Ok(Ok(done))) if *done == expected => None,
        Some(Ok(Ok(done))) => Some(format!("master {} answered {done:?}", part.name)),
        Some(Ok(Err(refusal))) => Some(format!("master {}: {refusal}", part.name)),
        Some(Err(gone)) => Some(format!("master {}: {gone}", part.name)),
        None => Some(format!("master {} does not answer: a device of it hangs", part.name)),
    };
    parts.iter().zip(answers).find_map(dissents)
}

/// Tells all masters at once, and waits for all of them.
async fn tell<W: World>(
    parts: &[Part<W>],
    deadline: Duration,
    command: impl Fn(&Part<W>) -> Command,
) -> Vec<Answer> {
    let ask = |part: &Part<W>| {
        let (reactor, command) = (part.reactor.clone(), command(part));
        tokio::spawn(async move { within(deadline, reactor.command(command)).await })
    };
    let asked: Vec<_> = parts.iter().map(ask).collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap_or(Some(Err(ReactorGone))));
    }
    answers
}

impl<W: World> Host<W> {
    /// Takes one cut of all members, or none.
    ///
    /// # Errors
    /// [`PlatformError::CutVoid`]: every image is what it was. After the decision: which member dropped out.
    pub(super) async fn cut_all(
        &self,
        turns: &[Turn<W>],
        members: &[Member<W>],
        plan: &Plan,
    ) -> Result<Vec<EngineEpoch>> {
        let void = |cause: String| PlatformError::CutVoid { cut: plan.cut, cause: cause.into() };
        let ids: Vec<Uuid> = members.iter().map(|member| member.found.set.id).collect();
        let record = CutRecord { cut: plan.cut.0, members: ids, decision: None };
        if matches!(self.state.cut(record.cut).await, Ok(Some(_))) {
            // An earlier attempt of the request was void, and its members may have come back since.
            self.forget_resolved_cuts().await;
        }
        match self.state.cut(record.cut).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(void("it was begun before, and a member has not come back since".into()));
            }
            Err(error) => return Err(void(error.to_string())),
        }
        self.state.begin_cut(record.cut, &record.members).await.map_err(|error| void(error.to_string()))?;
        let parts = parts(members, plan);
        let step = |what: &str| turns.iter().for_each(|turn| turn.step(what));
        step("gates, drain and flush of all masters");
        let decided = match self.bring_into_doubt(&parts, &record, plan).await {
            None if is_off(Rule::DecisionRecorded) => Ok(Decision::Commit),
            None => {
                step("record of the decision");
                let decided = self.state.decide_cut(&record, Decision::Commit).await;
                decided.map_err(|error| error.to_string())
            }
            Some(cause) => Err(cause),
        };
        step("end of the cut");
        match decided {
            Ok(Decision::Commit) => self.commit(&parts, &record, members).await,
            Ok(Decision::Void) => {
                self.call_off(&parts, &record, members).await;
                Err(void("it was decided before".into()))
            }
            // What could be there after a crash must hold: with all in doubt, going on is right in either case.
            Err(_) if self.is_on_record_as_taken(record.cut).await => {
                self.commit(&parts, &record, members).await
            }
            Err(cause) => {
                self.call_off(&parts, &record, members).await;
                Err(void(cause))
            }
        }
    }

    async fn is_on_record_as_taken(&self, cut: Uuid) -> bool {
        let record = self.state.cut(cut).await.ok().flatten();
        record.is_some_and(|record| record.decision == Some(Decision::Commit))
    }

    /// Gates and flips all members; says why not, if one does not.
    async fn bring_into_doubt(&self, parts: &[Part<W>], record: &CutRecord, plan: &Plan) -> Option<String> {
        let (cut, unix_ms) = (id128(plan.cut.0), self.world.unix_ms());
        let all: Arc<[Id128]> = record.members.iter().map(|id| id128(*id)).collect();
        let prepare = |part: &Part<W>| Command::Prepare {
            members: part.members.clone(),
            cut,
            unix_ms,
            all: Arc::clone(&all),
        };
        let gated = tell(parts, GATE_DEADLINE, prepare).await;
        if let Some(cause) = dissent(parts, &gated, Done::Gated) {
            return Some(cause);
        }
        let doubting = tell(parts, GATE_DEADLINE, |_| Command::Flip { cut }).await;
        dissent(parts, &doubting, Done::InDoubt)
    }

    /// Every member keeps its previous image.
    async fn call_off(&self, parts: &[Part<W>], record: &CutRecord, members: &[Member<W>]) {
        let cut = id128(record.cut);
        let answers = tell(parts, STEP_DEADLINE, |_| Command::Decide { cut, commit: false }).await;
        let resolved = dissent(parts, &answers, Done::Ok).is_none()
            && self.all(members, |status| status.header.state.is_online()).await;
        let kept = if resolved {
            self.state.forget_cut(record.cut).await
        } else {
            self.state.decide_cut(record, Decision::Void).await.map(drop)
        };
        if let Err(error) = kept {
            tracing::warn!(cut = %record.cut, %error, "the void cut stays on record as undecided");
        }
    }

    /// Every member that still can becomes what was decided; those that cannot are reported.
    async fn commit(
        &self,
        parts: &[Part<W>],
        record: &CutRecord,
        members: &[Member<W>],
    ) -> Result<Vec<EngineEpoch>> {
        let (cut, name) = (id128(record.cut), CutId(record.cut));
        let answers = tell(parts, STEP_DEADLINE, |_| Command::Decide { cut, commit: true }).await;
        if let Some(cause) = dissent(parts, &answers, Done::Ok) {
            tracing::error!(cut = %record.cut, cause, "a decided cut is not complete");
        }
        let mut epochs = Vec::new();
        let mut out = None;
        for member in members {
            let (_, status) = engine_status(&member.found.seen, &member.found.set)
                .await
                .map_err(|_| died(&member.found.seen))?;
            epochs.push(status.header.epoch);
            if !has(&status, name) {
                let (found, reactor) = (member.found.clone(), member.reactor.clone());
                out = out.or(Some(Member { found, reactor, status }));
            }
        }
        match out {
            Some(member) => Err(dropped_out(&member, name)),
            None => {
                if let Err(error) = self.state.forget_cut(record.cut).await {
                    tracing::warn!(cut = %record.cut, %error, "the cut stays on record");
                }
                Ok(epochs)
            }
        }
    }

    async fn all(&self, members: &[Member<W>], holds: impl Fn(&SetStatus) -> bool) -> bool {
        for member in members {
            match engine_status(&member.found.seen, &member.found.set).await {
                Ok((_, status)) if holds(&status) => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}
