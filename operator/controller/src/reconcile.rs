//! How every kind is reconciled: look, decide, write down, do one thing, and look again.
//!
//! ```text
//!      +--> observe ──> plan ──> write the status, if it is new ──> act ──+──> wait
//!      |                                                            |     |
//!      +---------------- one effect at a time ----------------------+     |
//!                                                  nothing to do ---------+
//! ```
//!
//! What is decided is decided by `plan` alone, which sees everything and does nothing. Nothing is kept in memory from one
//! look to the next: whatever the process knows, it knows from the API server and the nodes, so it can be killed anywhere.
//! The status is written before the effect, so an effect may rely on what it says.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::events::{Event, EventType};
use umbra_crds::conditions::{self, ConditionType};
use umbra_facade::ClientError;

use crate::cluster::{Cluster, ClusterError, Key, Kind};
use crate::nodes::Nodes;

/// Everything that the operator can ask anything of.
pub trait World: Cluster + Nodes {}
impl<W: Cluster + Nodes> World for W {}

/// Effects of one reconciliation. An object that needs more has its turn again after the others.
const EFFECTS_MAX: u32 = 16;

/// When an object is looked at again, unless it changes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It has ended: nothing more happens to it.
    Never,
    /// After this time.
    After(Duration),
}

/// While something is under way.
pub const SOON: Again = Again::After(Duration::from_secs(1));
/// While something must be waited for.
pub const LATER: Again = Again::After(Duration::from_secs(5));
/// At rest: what changes on a node by itself is seen at the latest after this time.
pub const AT_REST: Again = Again::After(Duration::from_secs(15));

/// What is to be done about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<O, E> {
    /// The object with the status that it should have.
    pub object: O,
    /// The next effect; none: nothing is to be done.
    pub effect: Option<E>,
    /// When to look again if there is none.
    pub again: Again,
}

/// Why an effect did not come about.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The API server.
    Cluster(ClusterError),
    /// The node.
    Node(ClientError),
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Node(error)
    }
}

/// A kind of object that the operator looks after.
pub trait Reconciled: Kind + PartialEq {
    /// What is known when it is decided what to do.
    type View: fmt::Debug + Send + Sync;
    /// What can be done.
    type Effect: fmt::Debug + Send + Sync;

    /// Conditions whose changes people are told of.
    const TOLD: &'static [ConditionType] =
        &[ConditionType::Ready, ConditionType::ImageTrusted, ConditionType::Consistent];

    /// What is true of it.
    fn conditions(&self) -> &[Condition];

    /// Gathers what there is to know.
    fn observe(
        self,
        world: &impl World,
        now: Time,
    ) -> impl Future<Output = Result<Self::View, ClusterError>> + Send;

    /// Decides. `refused` is how the node refused the last effect.
    fn plan(view: &Self::View, refused: Option<&ClientError>) -> Plan<Self, Self::Effect>;

    /// The object as it was observed.
    fn observed(view: &Self::View) -> &Self;

    /// Does one thing. `self` is the object with its new status.
    fn act(
        self,
        world: &impl World,
        effect: Self::Effect,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Brings what an object asks for about, as far as it can be now.
///
/// # Errors
/// Those of the API server; then it is tried again.
pub async fn reconcile<K: Reconciled>(
    world: &impl World,
    key: &Key,
    clock: impl Fn() -> Time,
) -> Result<Again, ClusterError> {
    let mut refused: Option<ClientError> = None;
    for _ in 0..EFFECTS_MAX {
        let Some(object) = world.get::<K>(key).await? else { return Ok(Again::Never) };
        let view = object.observe(world, clock()).await?;
        let Plan { mut object, effect, again } = K::plan(&view, refused.take().as_ref());
        let before = K::observed(&view);
        if object != *before {
            let written = world.replace_status(&object).await?;
            for event in news(K::TOLD, before.conditions(), object.conditions()) {
                world.announce(reference(&written), event).await;
            }
            object = written;
        }
        let Some(effect) = effect else { return Ok(again) };
        tracing::info!(kind = %K::kind(&()), object = %key, ?effect, "acts");
        match object.act(world, effect).await {
            Ok(()) => {}
            Err(Failure::Cluster(error)) => return Err(error),
            Err(Failure::Node(error)) => {
                tracing::warn!(kind = %K::kind(&()), object = %key, %error, "the node has not done it");
                refused = Some(error);
            }
        }
    }
    Ok(SOON)
}

/// Which object an event is about.
fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    }
}

/// What people are told of a change of the conditions.
fn news(told: &[ConditionType], before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let of = |conditions: &[Condition], about: ConditionType| conditions::find(conditions, about).cloned();
    let mut events = Vec::new();
    for &about in told {
        let Some(now) = of(after, about) else { continue };
        let was = of(before, about);
        if was.is_some_and(|was| (was.status, was.reason) == (now.status.clone(), now.reason.clone())) {
            continue;
        }
        let good = (now.status == "True") != (about == ConditionType::Failed);
        events.push(Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: now.reason,
            note: (!now.message.is_empty()).then_some(now.message),
            action: about.as_str().to_owned(),
            secondary: None,
        });
    }
    events
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use umbra_crds::conditions::{MasterReady, OperationFailed, set};

    use super::*;

    #[test]
    fn people_are_told_what_changes_and_nothing_twice() {
        let now = || Time(Timestamp::from_second(10).unwrap());
        let told = [ConditionType::Ready, ConditionType::Failed];
        let news = |before: &[Condition], after: &[Condition]| news(&told, before, after);
        let mut conditions = Vec::new();
        set(&mut conditions, &MasterReady::Starting, "the node is asked", 1, now());
        let first = news(&[], &conditions);
        assert_eq!(first.len(), 1);
        assert!(matches!(first[0].type_, EventType::Warning) && first[0].reason == "Starting");
        let before = conditions.clone();
        set(&mut conditions, &MasterReady::Starting, "still", 1, now());
        assert!(news(&before, &conditions).is_empty());
        set(&mut conditions, &MasterReady::Live, "", 1, now());
        set(&mut conditions, &OperationFailed::StaleGuard, "another cut", 1, now());
        let second = news(&before, &conditions);
        let told: Vec<(bool, &str)> = second
            .iter()
            .map(|event| (matches!(event.type_, EventType::Normal), event.reason.as_str()))
            .collect();
        assert_eq!(told, [(true, "Live"), (false, "StaleGuard")]);
    }
}
