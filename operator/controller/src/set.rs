//! VolumeSet: an image of a master, made once under its name and kept until the object goes.
//!
//! ```text
//!   created ── finalizer ── master live? ── volumes granted? ── there already? ── yes: as it is ──> in the node's words
//!                                                                    |                                    |
//!                                                                   no: Enabling (first cut) ─────────────+
//!   deleted: not protected, no operation, no pod ── claim, volume gone ── no copy runs ── disabled ── finalizer off
//! ```
//!
//! A set that the node already has under this name is never made anew: whoever applies a manifest again, in whatever
//! cluster state, keeps the image (rule 7).

pub(crate) mod picture;
mod plan;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use umbra_crds::{CutId, ImagingOperation, MasterVolume, Role, SetGroup, VolumeSet};
use umbra_facade::ClientError;
use umbra_platform::call::{DisableSet, EnableSet, SetCopyLimits};

use crate::access::{self, Device, NoAccess};
use crate::cluster::{ClusterError, Key};
use crate::nodes::{Attempt, Change, NodeAddress, NodeView};
use crate::publish::{Published, Step, volume_of_set};
use crate::reconcile::{Failure, Plan, Reconciled, World};

/// Keeps the object until the node has ended the set.
pub const FINALIZER: &str = "imaging.umbra.dev/set";

/// What is known of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The object.
    pub set: VolumeSet,
    /// When it was looked at.
    pub now: Time,
    /// Its master.
    pub master: Option<MasterVolume>,
    /// The node of the master; none where nobody knows which.
    pub node: Option<NodeView>,
    /// The shadow volume, if it may be used.
    pub shadow: Result<Device, NoAccess>,
    /// The bitmap volume, if it may be used.
    pub bitmap: Result<Device, NoAccess>,
    /// The operation that has the set to itself, if it still exists.
    pub operation: Option<ImagingOperation>,
    /// The last cuts of the namespace's groups.
    pub group_cuts: Vec<CutId>,
    /// How the shadow is published.
    pub published: Published,
    /// The next request of the step that may be needed now.
    pub attempt: Option<Attempt>,
}

/// What can be done about a set.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Keeps the object from being forgotten.
    AddFinalizer,
    /// Lets it go.
    RemoveFinalizer,
    /// Makes the set, with its first cut.
    Enable(NodeAddress, Box<EnableSet>),
    /// Changes how fast its copies may go.
    Limits(NodeAddress, SetCopyLimits),
    /// Ends the set.
    Disable(NodeAddress, DisableSet),
    /// Volume and claim.
    Publish(Step),
}

impl Reconciled for VolumeSet {
    type View = View;
    type Effect = Effect;

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    async fn observe(self, world: &impl World, now: Time) -> Result<View, ClusterError> {
        let namespace = self.namespace().unwrap_or_default();
        let master_key = Key::namespaced(&namespace, self.spec.master_ref.name.as_str());
        let master = world.get::<MasterVolume>(&master_key).await?;
        let status = self.status.clone().unwrap_or_default();
        let of_master = master.as_ref().and_then(|master| master.status.as_ref()?.node_name.clone());
        let node = match status.node_name.clone().or(of_master) {
            Some(name) => Some(NodeView::look(world, &name).await?),
            None => None,
        };
        let shadow = access::resolve(world, &namespace, &self.spec.shadow.source, Role::Shadow).await?;
        let bitmap = access::resolve(world, &namespace, &self.spec.bitmap.source, Role::Bitmap).await?;
        let operation = match &status.current_operation {
            Some(name) => world.get(&Key::namespaced(&namespace, name.as_str())).await?,
            None => None,
        };
        let groups = world.list::<SetGroup>(Some(&namespace)).await?;
        let group_cuts =
            groups.iter().filter_map(|group| Some(group.status.as_ref()?.last_cut.as_ref()?.id)).collect();
        let volume_name = volume_of_set(&status);
        let claim_name = self.spec.shadow.publish.as_ref().map(|publish| publish.claim_name.as_str());
        let published = Published::look(world, &namespace, volume_name.as_deref(), claim_name).await?;
        let mut view = View {
            set: self,
            now,
            master,
            node,
            shadow,
            bitmap,
            operation,
            group_cuts,
            published,
            attempt: None,
        };
        if let (Some(NodeView::Answers { address, .. }), Some(step)) = (view.node.clone(), plan::step(&view))
        {
            match Attempt::next(world, &address, &view.set.uid().unwrap_or_default(), &step).await {
                Ok(attempt) => view.attempt = Some(attempt),
                Err(error) => view.node = Some(NodeView::Silent { problem: error.to_string() }),
            }
        }
        Ok(view)
    }

    fn plan(view: &View, refused: Option<&ClientError>) -> Plan<Self, Effect> {
        plan::plan(view, refused)
    }

    fn observed(view: &View) -> &Self {
        &view.set
    }

    async fn act(mut self, world: &impl World, effect: Effect) -> Result<(), Failure> {
        let (node, change) = match effect {
            Effect::AddFinalizer => {
                self.finalizers_mut().push(FINALIZER.to_owned());
                world.replace(&self).await?;
                return Ok(());
            }
            Effect::RemoveFinalizer => {
                self.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
                world.replace(&self).await?;
                return Ok(());
            }
            Effect::Publish(step) => return Ok(step.carry_out(world).await?),
            Effect::Enable(node, call) => (node, Change::Enable(*call)),
            Effect::Limits(node, call) => (node, Change::Limits(call)),
            Effect::Disable(node, call) => (node, Change::Disable(call)),
        };
        world.change(&node, change).await?;
        Ok(())
    }
}
