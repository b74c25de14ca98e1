//! MasterVolume: the volume with the live data, presented on its node, with the claim through which pods use it.
//!
//! ```text
//!   created ── finalizer ── granted? ── node asked ──> Live ── volume ── claim
//!                               |           |           |
//!                        GrantMissing   refused:     deleted: no pod, no set ── claim, volume gone ── detached ── finalizer off
//!                                       the message says why
//! ```
//!
//! A master with `source.pvc` gets its device from the volume of a claim, and gives the claim a volume of Umbra's in its place:
//! [`takeover`](crate::takeover) says what is changed for that, and `operator/docs/architecture.md` in which order.

mod plan;
mod steps;
mod takeover;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use umbra_crds::conditions::ConditionType;
use umbra_crds::{MasterVolume, Role, VolumeSet};
use umbra_facade::ClientError;
use umbra_platform::call::{AttachMaster, DetachMaster};

use crate::access::{self, Device, NoAccess};
use crate::cluster::{ClusterError, Key};
use crate::nodes::{Attempt, Change, NodeAddress, NodeView};
use crate::publish::{Published, Step, claim_of_master, volume_of_master};
use crate::reconcile::{Failure, Plan, Reconciled, World};
use crate::takeover::Takeover;

pub use steps::label;

/// Keeps the object until the node has let go of the device.
pub const FINALIZER: &str = "imaging.umbra.dev/master";

/// What is known of a master.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The object.
    pub master: MasterVolume,
    /// When it was looked at.
    pub now: Time,
    /// The raw device, if it may be used.
    pub device: Result<Device, NoAccess>,
    /// The node that has, or shall have, the master; none where nobody knows which.
    pub node: Option<NodeView>,
    /// Sets that refer to the master, by name.
    pub sets: Vec<String>,
    /// How it is published.
    pub published: Published,
    /// The volume of a claim that is taken over; none of a master that has its device by a grant.
    pub takeover: Option<Takeover>,
    /// The next request to present the device; none where it need not be known.
    pub attach: Option<Attempt>,
    /// The next request to take it out.
    pub detach: Option<Attempt>,
}

/// What can be done about a master.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Keeps the object from being forgotten.
    AddFinalizer,
    /// Lets it go.
    RemoveFinalizer,
    /// Presents the device.
    Attach(NodeAddress, AttachMaster),
    /// Takes the interposer out.
    Detach(NodeAddress, DetachMaster),
    /// Volume and claim.
    Publish(Step),
    /// Writes the volume that a claim is taken from, or given back to.
    Raw(Box<PersistentVolume>),
}

impl Reconciled for MasterVolume {
    type View = View;
    type Effect = Effect;

    const TOLD: &'static [ConditionType] = &[ConditionType::Ready, ConditionType::TakenOver];

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }

    async fn observe(self, world: &impl World, now: Time) -> Result<View, ClusterError> {
        let key = Key::of(&self);
        let namespace = key.namespace.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let volume_name = volume_of_master(&status);
        let claim_name = claim_of_master(&self).map(|claim| claim.as_str());
        let published = Published::look(world, &namespace, volume_name.as_deref(), claim_name).await?;
        let takeover = match self.spec.source.pvc {
            Some(_) => Some(Takeover::look(world, &self, published.claim.as_ref()).await?),
            None => None,
        };
        let device = match &takeover {
            Some(takeover) => takeover.device(),
            None => access::resolve(world, &namespace, &self.spec.source, Role::Master).await?,
        };
        // Where it is counts for more than where it is wanted: what was granted may be granted no more. A volume of the
        // cluster says for ever which node it is on.
        let named = match &takeover {
            Some(takeover) => takeover.node.clone().ok().or(status.node_name),
            None => {
                let device = self.spec.source.device.as_ref();
                status.node_name.or_else(|| device.map(|device| device.node_name.clone()))
            }
        };
        let node = match named {
            Some(name) => Some(NodeView::look(world, &name).await?),
            None => None,
        };
        let sets = world.list_where::<VolumeSet>(&namespace, "spec.masterRef.name", &key.name).await?;
        let sets = sets.iter().map(ResourceExt::name_any).collect();
        let (attach, detach) = (None, None);
        let mut view = View { master: self, now, device, node, sets, published, takeover, attach, detach };
        if let (Some(NodeView::Answers { address, .. }), Some(step)) = (view.node.clone(), view.step()) {
            match Attempt::next(world, &address, &view.master.uid().unwrap_or_default(), step).await {
                Ok(attempt) if step == "detach" => view.detach = Some(attempt),
                Ok(attempt) => view.attach = Some(attempt),
                Err(error) => view.node = Some(NodeView::Silent { problem: error.to_string() }),
            }
        }
        Ok(view)
    }

    fn plan(view: &View, refused: Option<&ClientError>) -> Plan<Self, Effect> {
        plan::plan(view, refused)
    }

    fn observed(view: &View) -> &Self {
        &view.master
    }

    async fn act(mut self, world: &impl World, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::AddFinalizer => {
                self.finalizers_mut().push(FINALIZER.to_owned());
                world.replace(&self).await?;
            }
            Effect::RemoveFinalizer => {
                self.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
                world.replace(&self).await?;
            }
            Effect::Attach(node, call) => {
                world.change(&node, Change::Attach(call)).await?;
            }
            Effect::Detach(node, call) => {
                world.change(&node, Change::Detach(call)).await?;
            }
            Effect::Publish(step) => step.carry_out(world).await?,
            Effect::Raw(volume) => {
                world.replace(&*volume).await?;
            }
        }
        Ok(())
    }
}
