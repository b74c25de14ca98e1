//! The nodes of the cluster, as far as the operator asks anything of them.

use std::future::Future;

use umbra_crds::{ImagingNode, NodeName};
use umbra_facade::{ClientError, Fence};
use umbra_platform::call::{
    Abort, Answer, AttachMaster, CopySets, DetachMaster, DisableSet, EnableSet, Outcome, Reset, Scope,
    SetCopyLimits,
};
use umbra_platform::id::{RequestId, SetName};
use umbra_platform::status::{MasterStatus, SetStatus, Status};
use uuid::Uuid;

use crate::cluster::{Cluster, ClusterError, Key};

/// How often something can have been done and undone by others within a node's memory of requests.
const ATTEMPTS_MAX: u32 = 64;
/// Under it the names of operations become names of requests.
const REQUESTS: Uuid = Uuid::from_u128(0x2f1c_9a5e_58b7_4b0e_9d3a_6f1e_7c84_b2d0);

/// A node, and where its facade is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// The node.
    pub name: NodeName,
    /// Host and port of its facade.
    pub endpoint: String,
}

/// A call that changes something on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Puts the interposer between a device and its users.
    Attach(AttachMaster),
    /// Takes it out.
    Detach(DetachMaster),
    /// Makes a set.
    Enable(EnableSet),
    /// Ends a set.
    Disable(DisableSet),
    /// Cuts sets, or restores masters.
    Copy(CopySets),
    /// Stops a copy.
    Abort(Abort),
    /// Changes how fast copies may go.
    Limits(SetCopyLimits),
    /// Brings a set back.
    Reset(Reset),
}

/// What may be asked of nodes. Calls that change something carry the fence of this leader.
pub trait Nodes: Send + Sync + 'static {
    /// What goes on there.
    fn status(
        &self,
        node: &NodeAddress,
        scope: Scope,
    ) -> impl Future<Output = Result<Status, ClientError>> + Send;

    /// What became of a request.
    fn query_op(
        &self,
        node: &NodeAddress,
        request: RequestId,
    ) -> impl Future<Output = Result<Outcome, ClientError>> + Send;

    /// The highest fence that it has seen; none: no leader has been there, or it cannot be read.
    fn highest_fence(
        &self,
        node: &NodeAddress,
    ) -> impl Future<Output = Result<Option<Fence>, ClientError>> + Send;

    /// Makes it refuse every lower fence.
    fn fence(&self, node: &NodeAddress, fence: Fence)
    -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Changes something.
    fn change(
        &self,
        node: &NodeAddress,
        change: Change,
    ) -> impl Future<Output = Result<Answer, ClientError>> + Send;
}

/// What can be seen of a node at present.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeView {
    /// It has never said where it is.
    Unknown {
        /// What is missing.
        problem: String,
    },
    /// It does not answer.
    Silent {
        /// How that shows.
        problem: String,
    },
    /// It answers.
    Answers {
        /// Where.
        address: NodeAddress,
        /// What goes on there.
        status: Status,
    },
}

impl NodeView {
    /// Looks at a node.
    ///
    /// # Errors
    /// Those of the API server; a node that does not answer is a view of it.
    pub async fn look(world: &(impl Cluster + Nodes), name: &NodeName) -> Result<Self, ClusterError> {
        let Some(node) = world.get::<ImagingNode>(&Key::cluster(name.as_str())).await? else {
            return Ok(Self::Unknown {
                problem: format!("there is no ImagingNode {name}: umbra-node does not run there"),
            });
        };
        let Some(endpoint) = node.status.and_then(|status| status.endpoint) else {
            return Ok(Self::Unknown { problem: format!("node {name} has not said where its facade is") });
        };
        let address = NodeAddress { name: name.clone(), endpoint };
        Ok(match world.status(&address, Scope::All).await {
            Ok(status) => Self::Answers { address, status },
            // For how long it was waited differs from look to look.
            Err(ClientError::NoAnswer { .. }) => {
                Self::Silent { problem: format!("node {name} does not answer in time") }
            }
            Err(error) => Self::Silent { problem: format!("{error}; {}", error.remedy()) },
        })
    }

    /// Where it answers.
    pub fn address(&self) -> Option<&NodeAddress> {
        match self {
            Self::Answers { address, .. } => Some(address),
            Self::Unknown { .. } | Self::Silent { .. } => None,
        }
    }

    /// Why it does not answer.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Unknown { problem } | Self::Silent { problem } => Some(problem),
            Self::Answers { .. } => None,
        }
    }

    /// A master there.
    pub fn master(&self, is_it: impl Fn(&MasterStatus) -> bool) -> Option<&MasterStatus> {
        match self {
            Self::Answers { status, .. } => status.masters.iter().find(|master| is_it(master)),
            Self::Unknown { .. } | Self::Silent { .. } => None,
        }
    }

    /// A set there.
    pub fn set(&self, is_it: impl Fn(&SetStatus) -> bool) -> Option<&SetStatus> {
        match self {
            Self::Answers { status, .. } => status.sets.iter().find(|set| is_it(set)),
            Self::Unknown { .. } | Self::Silent { .. } => None,
        }
    }
}

/// Whether a set on a node is called like this object.
pub fn is_named(set: &SetName, key: &Key) -> bool {
    set.namespace.as_ref().map(|namespace| namespace.as_str()) == key.namespace.as_deref()
        && set.name.as_str() == key.name
}

/// A request for one step on behalf of an object, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The request.
    pub request: RequestId,
    /// How many times the step has been done before on behalf of the object. Above 0, others have undone it.
    pub before: u32,
    /// What became of the request.
    pub outcome: Outcome,
}

impl Attempt {
    /// Whether the step was ever begun on behalf of the object.
    pub fn was_begun(&self) -> bool {
        self.before > 0 || self.outcome != Outcome::NotSeen
    }

    /// Whether the step may be under way now.
    pub fn is_running(&self) -> bool {
        self.outcome == Outcome::Running
    }

    /// The request with which a step is to be done next.
    ///
    /// The same until it is answered, whoever asks: a leader that comes after another repeats what that one had begun. Once
    /// it is answered and the step is to be done again all the same, because others have undone it, it is the next.
    ///
    /// # Errors
    /// Those of the node.
    pub async fn next(
        nodes: &impl Nodes,
        node: &NodeAddress,
        uid: &str,
        step: &str,
    ) -> Result<Self, ClientError> {
        let mut before = 0;
        loop {
            let request = request(&format!("{uid}/{step}/{before}"));
            let outcome = nodes.query_op(node, request).await?;
            if !matches!(outcome, Outcome::Done(_)) || before == ATTEMPTS_MAX {
                return Ok(Self { request, before, outcome });
            }
            before += 1;
        }
    }
}

/// The request that has this text.
pub fn request(text: &str) -> RequestId {
    RequestId(Uuid::new_v5(&REQUESTS, text.as_bytes()))
}
