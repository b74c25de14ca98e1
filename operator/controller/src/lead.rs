//! Which of the operator's processes acts: a Lease elects, a fence protects (rule 12).
//!
//! ```text
//!   follows ── lease free, or not renewed for its whole duration ──> elected ── fence raised, nodes told ──> leads
//!      ^                                                                                                      |
//!      +──────────── the lease could not be renewed in time, or another holds it <─────────────────────────────+
//! ```
//!
//! A lease alone protects nothing: a process that was paused believes in it still. So every leader has a fence of its own,
//! higher than any before it, that it takes from a ConfigMap by a write that only one can win; nodes refuse lower ones. The
//! times in a Lease are of other machines' clocks: what counts is for how long this process has seen no renewal.

use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use umbra_crds::ImagingNode;
use umbra_facade::{ClientError, Fence};
use umbra_platform::value::InvalidValue;

use crate::cluster::{Cluster, ClusterError, Key};
use crate::nodes::{NodeAddress, Nodes};

/// The Lease.
const LEASE: &str = "umbra-operator";
/// The ConfigMap with the highest fence.
const FENCE: &str = "umbra-fence";
/// Its key there.
const HIGHEST: &str = "fence";

/// For how long a lease holds without renewal.
pub const LEASE_HOLDS: Duration = Duration::from_secs(15);
/// For how long the holder acts on it: less, because it counts from before its last renewal was sent and others from after they
/// have seen it, on clocks of other speeds.
pub const HOLDER_ACTS: Duration = Duration::from_secs(10);
/// How long a node has to answer about a fence; twice that and what the API server takes is less than a holder acts.
const NODE_ANSWERS: Duration = Duration::from_secs(2);
/// How often it is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Time since this process began, on its own clock.
pub type Uptime = Duration;

/// A lease of another process, as it was first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    version: Option<String>,
    at: Uptime,
}

/// This process among those that want to lead.
#[derive(Debug)]
pub struct Candidate {
    lease: Key,
    /// The name of this process, which no other ever has.
    name: String,
    seen: Option<Seen>,
    /// Until when it leads.
    leads_until: Option<Uptime>,
}

impl Candidate {
    /// A process of this name, which no other may have, in the operator's namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            lease: Key::namespaced(namespace, LEASE),
            name: name.to_owned(),
            seen: None,
            leads_until: None,
        }
    }

    /// Whether it may act at this time.
    pub fn leads(&self, now: Uptime) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// Takes the lease if it is free, or renews it. `now` was read before this call.
    ///
    /// # Errors
    /// Those of the API server; how long it leads is not changed by them.
    pub async fn attend(
        &mut self,
        cluster: &impl Cluster,
        now: Uptime,
        wall: &Time,
    ) -> Result<(), ClusterError> {
        let Some(lease) = cluster.get::<Lease>(&self.lease).await? else {
            let new = Lease {
                metadata: ObjectMeta {
                    name: Some(self.lease.name.clone()),
                    namespace: self.lease.namespace.clone(),
                    ..ObjectMeta::default()
                },
                spec: Some(self.held(None, wall)),
            };
            cluster.create(&new).await?;
            return self.elected(now);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let is_mine = holder == self.name;
        let is_free = holder.is_empty() || (!is_mine && self.is_forsaken(&lease, now));
        if !is_mine && !is_free {
            self.leads_until = None;
            return Ok(());
        }
        let spec = self.held(lease.spec.as_ref(), wall);
        cluster.replace(&Lease { spec: Some(spec), ..lease }).await?;
        self.elected(now)
    }

    fn elected(&mut self, now: Uptime) -> Result<(), ClusterError> {
        self.seen = None;
        self.leads_until = Some(now + HOLDER_ACTS);
        Ok(())
    }

    /// Whether another's lease was not renewed for as long as it holds, by this process' own clock.
    fn is_forsaken(&mut self, lease: &Lease, now: Uptime) -> bool {
        let version = lease.metadata.resource_version.clone();
        match &self.seen {
            Some(seen) if seen.version == version => now.saturating_sub(seen.at) >= LEASE_HOLDS,
            _ => {
                self.seen = Some(Seen { version, at: now });
                false
            }
        }
    }

    /// The lease with this process as its holder.
    fn held(&self, before: Option<&LeaseSpec>, wall: &Time) -> LeaseSpec {
        let was_mine = before.and_then(|spec| spec.holder_identity.as_deref()) == Some(self.name.as_str());
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let acquired = before.and_then(|spec| spec.acquire_time.clone()).filter(|_| was_mine);
        LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: i32::try_from(LEASE_HOLDS.as_secs()).ok(),
            acquire_time: Some(acquired.unwrap_or(MicroTime(wall.0))),
            renew_time: Some(MicroTime(wall.0)),
            lease_transitions: Some(if was_mine { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

/// Takes a fence above every fence that is on record or that a node has seen, and tells the nodes.
///
/// A node that cannot be reached now learns it with the first call that it gets.
///
/// # Errors
/// Those of the API server, among them that another process was faster.
pub async fn raise_fence(world: &(impl Cluster + Nodes), namespace: &str) -> Result<Fence, ClusterError> {
    let key = Key::namespaced(namespace, FENCE);
    let nodes = addresses(&world.list::<ImagingNode>(None).await?);
    let seen = join_all(nodes.iter().map(|node| in_time(node, world.highest_fence(node)))).await;
    let highest = seen.into_iter().flatten().flatten().map(Fence::get).max().unwrap_or(0);
    let stored = world.get::<ConfigMap>(&key).await?;
    let on_record =
        stored.as_ref().and_then(|map| map.data.as_ref()?.get(HIGHEST)?.parse().ok()).unwrap_or(0);
    let next = highest.max(on_record).saturating_add(1);
    let data = Some([(HIGHEST.to_owned(), next.to_string())].into());
    match stored {
        Some(map) => world.replace(&ConfigMap { data, ..map }).await?,
        None => {
            let metadata = ObjectMeta {
                name: Some(key.name.clone()),
                namespace: key.namespace.clone(),
                ..ObjectMeta::default()
            };
            world.create(&ConfigMap { metadata, data, ..ConfigMap::default() }).await?
        }
    };
    let refused = |error: InvalidValue| ClusterError::Refused {
        object: format!("ConfigMap {key}"),
        problem: error.to_string(),
    };
    let fence = Fence::new(next).map_err(refused)?;
    join_all(nodes.iter().map(|node| in_time(node, world.fence(node, fence)))).await;
    Ok(fence)
}

/// What a node answers, if it does so soon: a leader must not wait for nodes that are switched off until it leads no more.
async fn in_time<T>(node: &NodeAddress, answer: impl Future<Output = Result<T, ClientError>>) -> Option<T> {
    match tokio::time::timeout(NODE_ANSWERS, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(node = %node.name, %error, "it learns the fence with its first call");
            None
        }
        Err(_) => {
            tracing::warn!(node = %node.name, "it does not answer, and learns the fence with its first call");
            None
        }
    }
}

/// The nodes that have said where they are.
pub fn addresses(nodes: &[ImagingNode]) -> Vec<NodeAddress> {
    let address = |node: &ImagingNode| {
        let name = umbra_crds::NodeName::new(node.metadata.name.clone()?);
        Some(NodeAddress { name, endpoint: node.status.as_ref()?.endpoint.clone()? })
    };
    nodes.iter().filter_map(address).collect()
}

/// The fence of another leader, where a node refuses this one's for it.
pub fn outdone_by(error: &ClientError) -> Option<Fence> {
    match error {
        ClientError::Denied(umbra_facade::FacadeError::StaleFence { highest, .. }) => Some(*highest),
        _ => None,
    }
}
