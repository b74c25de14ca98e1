//! ImagingOperation: one command on a set or a group, carried out once.
//!
//! ```text
//!   created ──> locked ──> planned ──(safety cut)──> cut ──> copying ──> Complete
//!      |          |           |                       |
//!      |     its sets are     |  cut id, epochs and   |  recorded: what the node has done under the operation's
//!      |     its own          |  members on record    |  own request
//!      +──────────+───────────+───────────────────────+──> Failed: a guard, a deadline, the node's refusal
//! ```
//!
//! The node is asked under a request that belongs to the operation's name, and only after the operation has on record which
//! cut it wants of which epochs. So a leader that takes over finds out by [`Outcome`](umbra_platform::call::Outcome) what has
//! become of it, and an operation that is created a second time under its name finds an answer that it never asked for, and
//! is refused.

mod plan;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use umbra_crds::conditions::ConditionType;
use umbra_crds::{
    Command, ImagingOperation, MasterVolume, ObjectName, Safety, SetGroup, Target, TargetKind, User,
    VolumeSet,
};
use umbra_facade::ClientError;
use umbra_platform::call::{Abort, CopySets, Outcome, Reset};
use umbra_platform::status::SetStatus;

use crate::cluster::{ClusterError, Key};
use crate::group;
use crate::nodes::{Change, NodeAddress, NodeView, is_named};
use crate::publish::{Published, claim_of_master, volume_of_master, volume_of_set};
use crate::reconcile::{Failure, Plan, Reconciled, World};
use crate::report::has_ended;

/// What is known of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The object.
    pub operation: ImagingOperation,
    /// When it was looked at.
    pub now: Time,
    /// The sets that it acts on, in order of their names; the problem where they cannot be told.
    pub members: Result<Vec<Member>, String>,
    /// The sets that take the safety cut, in order of their names; the problem where they cannot be told.
    pub safety: Option<Result<Vec<Member>, String>>,
    /// What became of the operation's requests on the node, where the node is known.
    pub asked: Option<Asked>,
}

/// What became of an operation's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The node of all members.
    pub node: NodeAddress,
    /// Of the command.
    pub command: Outcome,
    /// Of the safety cut.
    pub safety: Outcome,
}

/// A set that an operation acts on.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// The object.
    pub set: VolumeSet,
    /// Its node; none where nobody knows which.
    pub node: Option<NodeView>,
    /// Pods that use the shadow.
    pub shadow_users: Vec<User>,
    /// Pods that use the master.
    pub master_users: Vec<User>,
}

impl Member {
    /// The set in the node's words.
    pub fn there(&self) -> Option<&SetStatus> {
        let known = self.set.status.as_ref().and_then(|status| status.set_id);
        let key = Key::of(&self.set);
        let is_it = |set: &SetStatus| known.is_none_or(|id| set.id.0 == id.uuid());
        self.node.as_ref()?.set(|set| is_named(&set.name, &key) && is_it(set))
    }

    async fn look_at_all(
        world: &impl World,
        sets: Result<Vec<VolumeSet>, String>,
    ) -> Result<Result<Vec<Self>, String>, ClusterError> {
        let sets = match sets {
            Ok(sets) => sets,
            Err(problem) => return Ok(Err(problem)),
        };
        let mut members = Vec::new();
        for set in sets {
            members.push(Self::look(world, set).await?);
        }
        Ok(Ok(members))
    }

    async fn look(world: &impl World, set: VolumeSet) -> Result<Self, ClusterError> {
        let namespace = set.namespace().unwrap_or_default();
        let node = match set.status.as_ref().and_then(|status| status.node_name.clone()) {
            Some(name) => Some(NodeView::look(world, &name).await?),
            None => None,
        };
        let claim = set.spec.shadow.publish.as_ref().map(|publish| publish.claim_name.as_str());
        let volume = set.status.as_ref().and_then(volume_of_set);
        let shadow_users = Published::look(world, &namespace, volume.as_deref(), claim).await?.users;
        let master = Key::namespaced(&namespace, set.spec.master_ref.name.as_str());
        let master = world.get::<MasterVolume>(&master).await?;
        let claim = master.as_ref().and_then(claim_of_master).map(|claim| claim.as_str());
        let volume = master.as_ref().and_then(|master| volume_of_master(master.status.as_ref()?));
        let master_users = Published::look(world, &namespace, volume.as_deref(), claim).await?.users;
        Ok(Self { set, node, shadow_users, master_users })
    }
}

/// What can be done about an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Makes a set the operation's own.
    Lock(Box<VolumeSet>),
    /// Lets sets go.
    Unlock(Vec<VolumeSet>),
    /// Cuts, or restores.
    Copy(NodeAddress, CopySets),
    /// Breaks a copy off.
    Abort(NodeAddress, Abort),
    /// Brings a set back.
    Reset(NodeAddress, Reset),
    /// Forgets an operation that ended long ago.
    Delete,
}

impl Reconciled for ImagingOperation {
    type View = View;
    type Effect = Effect;

    const TOLD: &'static [ConditionType] = &[ConditionType::Complete, ConditionType::Failed];

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    async fn observe(self, world: &impl World, now: Time) -> Result<View, ClusterError> {
        let mut members = Member::look_at_all(world, targets(world, &self).await?).await?;
        let safety = match self.spec.safety.as_ref().and_then(Safety::target) {
            None => None,
            Some(target) => {
                let namespace = self.namespace().unwrap_or_default();
                let sets = sets_of(world, &namespace, &target).await?;
                let sets = sets.map_err(|problem| format!("{problem} for the safety cut"));
                Some(Member::look_at_all(world, sets).await?)
            }
        };
        let mut asked = None;
        if let Ok(members) = &mut members
            && !has_ended(self.conditions())
            && let Some(node) =
                members.first().and_then(|member| member.node.as_ref()).and_then(NodeView::address).cloned()
        {
            let key = Key::of(&self);
            let command = world.query_op(&node, plan::command_request(&key)).await;
            let safety = world.query_op(&node, plan::safety_request(&key)).await;
            match (command, safety) {
                (Ok(command), Ok(safety)) => asked = Some(Asked { node, command, safety }),
                (Err(error), _) | (_, Err(error)) => {
                    members[0].node = Some(NodeView::Silent { problem: error.to_string() });
                }
            }
        }
        Ok(View { operation: self, now, members, safety, asked })
    }

    fn plan(view: &View, refused: Option<&ClientError>) -> Plan<Self, Effect> {
        plan::plan(view, refused)
    }

    fn observed(view: &View) -> &Self {
        &view.operation
    }

    async fn act(self, world: &impl World, effect: Effect) -> Result<(), Failure> {
        let name = ObjectName::new(self.name_any());
        match effect {
            Effect::Lock(mut set) => {
                let uid = self.uid();
                let status = set.status.get_or_insert_default();
                status.current_operation = Some(name);
                status.last_op_id = uid;
                world.replace_status(set.as_ref()).await?;
            }
            Effect::Unlock(sets) => {
                for mut set in sets {
                    set.status.get_or_insert_default().current_operation = None;
                    world.replace_status(&set).await?;
                }
            }
            Effect::Copy(node, call) => {
                world.change(&node, Change::Copy(call)).await?;
            }
            Effect::Abort(node, call) => {
                world.change(&node, Change::Abort(call)).await?;
            }
            Effect::Reset(node, call) => {
                world.change(&node, Change::Reset(call)).await?;
            }
            Effect::Delete => match world.delete(&self).await {
                Ok(()) | Err(ClusterError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }
}

/// The sets that an operation acts on, in order of their names.
async fn targets(
    world: &impl World,
    operation: &ImagingOperation,
) -> Result<Result<Vec<VolumeSet>, String>, ClusterError> {
    let namespace = operation.namespace().unwrap_or_default();
    if let Some(cut) = operation.status.as_ref().and_then(|status| status.cut.as_ref()) {
        // What is on record counts, whatever has become of the group.
        let mut sets = Vec::new();
        for member in &cut.members {
            match world.get::<VolumeSet>(&Key::namespaced(&namespace, member.name.as_str())).await? {
                Some(set) => sets.push(set),
                None => return Ok(Err(format!("there is no VolumeSet {} any more", member.name))),
            }
        }
        return Ok(Ok(sets));
    }
    sets_of(world, &namespace, &operation.spec.target).await
}

/// A set, or the sets of a group, in order of their names.
async fn sets_of(
    world: &impl World,
    namespace: &str,
    target: &Target,
) -> Result<Result<Vec<VolumeSet>, String>, ClusterError> {
    let key = Key::namespaced(namespace, target.name.as_str());
    match target.kind {
        TargetKind::VolumeSet => Ok(match world.get::<VolumeSet>(&key).await? {
            Some(set) => Ok(vec![set]),
            None => Err(format!("there is no VolumeSet {}", target.name)),
        }),
        TargetKind::SetGroup => {
            let Some(group) = world.get::<SetGroup>(&key).await? else {
                return Ok(Err(format!("there is no SetGroup {}", target.name)));
            };
            let sets = world.list::<VolumeSet>(Some(namespace)).await?;
            Ok(group::members(&group, sets).map_err(|problem| problem.to_string()))
        }
        TargetKind::ShadowExport => Ok(Err("exports are not served by this version".to_owned())),
    }
}

/// Whether the command changes what the master reads.
pub(crate) const fn is_restore(command: Command) -> bool {
    matches!(command, Command::CopyToMaster | Command::UpdateMaster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_different_steps_and_operations_differ() {
        let key = |namespace: &str, name: &str| Key::namespaced(namespace, name);
        let all = [
            plan::command_request(&key("a", "b")),
            plan::safety_request(&key("a", "b")),
            plan::command_request(&key("a", "b-safety")),
            plan::command_request(&key("b", "a")),
            crate::nodes::request("a/b"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
