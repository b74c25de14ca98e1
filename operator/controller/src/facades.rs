//! The facades of the nodes behind [`Nodes`]: a client each, made when it is needed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use umbra_facade::client::Target;
use umbra_facade::identity::Segment;
use umbra_facade::node::SeenFence;
use umbra_facade::{Client, ClientError, CredentialFiles, Fence};
use umbra_platform::CallDeadlines;
use umbra_platform::call::{Answer, Outcome, Scope};
use umbra_platform::id::RequestId;
use umbra_platform::status::Status;

use crate::lead::outdone_by;
use crate::nodes::{Change, NodeAddress, Nodes};

/// Clients of the nodes' facades.
#[derive(Debug)]
pub struct Facades {
    cluster: Segment,
    files: CredentialFiles,
    deadlines: CallDeadlines,
    /// That of this process while it leads.
    fence: watch::Receiver<Option<Fence>>,
    /// The highest that a node has refused this process for.
    outdone: watch::Sender<Option<Fence>>,
    clients: Mutex<BTreeMap<NodeAddress, Client>>,
}

impl Facades {
    /// Clients with the certificates in these files; what they change carries the fence of the moment.
    pub fn new(
        cluster: Segment,
        files: CredentialFiles,
        deadlines: CallDeadlines,
        fence: watch::Receiver<Option<Fence>>,
    ) -> Self {
        Self {
            cluster,
            files,
            deadlines,
            fence,
            outdone: watch::Sender::new(None),
            clients: Mutex::default(),
        }
    }

    /// Tells when a node has refused this process for a higher fence.
    pub fn outdone(&self) -> watch::Receiver<Option<Fence>> {
        self.outdone.subscribe()
    }

    /// The client of a node.
    ///
    /// # Errors
    /// Where no connection to it can even be begun.
    pub fn client(&self, node: &NodeAddress) -> Result<Client, ClientError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(node) {
            return Ok(client.clone());
        }
        // A node that has moved is not asked where it was.
        clients.retain(|known, _| known.name != node.name);
        let name: Segment = node.name.as_str().parse().map_err(|error| self.not_reachable(node, &error))?;
        let target = Target { address: node.endpoint.clone(), cluster: self.cluster.clone(), node: name };
        let client = Client::new(target, self.files.clone(), self.deadlines)
            .map_err(|error| self.not_reachable(node, &error))?;
        clients.insert(node.clone(), client.clone());
        Ok(client)
    }

    fn not_reachable(&self, node: &NodeAddress, problem: &dyn std::fmt::Display) -> ClientError {
        let problem = problem.to_string();
        let address = node.endpoint.clone();
        let node = node.name.as_str().parse().unwrap_or_else(|_| self.cluster.clone());
        ClientError::NotReachable { node, address, problem }
    }
}

impl Nodes for Facades {
    async fn status(&self, node: &NodeAddress, scope: Scope) -> Result<Status, ClientError> {
        self.client(node)?.status(scope).await
    }

    async fn query_op(&self, node: &NodeAddress, request: RequestId) -> Result<Outcome, ClientError> {
        self.client(node)?.query_op(request).await
    }

    async fn highest_fence(&self, node: &NodeAddress) -> Result<Option<Fence>, ClientError> {
        Ok(match self.client(node)?.list().await?.fence {
            SeenFence::Highest(fence) => Some(fence),
            SeenFence::Never | SeenFence::Unreadable => None,
        })
    }

    async fn fence(&self, node: &NodeAddress, fence: Fence) -> Result<(), ClientError> {
        self.client(node)?.fence(fence).await
    }

    async fn change(&self, node: &NodeAddress, change: Change) -> Result<Answer, ClientError> {
        let client = self.client(node)?;
        let Some(fence) = *self.fence.borrow() else {
            return Err(self.not_reachable(node, &"this process does not lead"));
        };
        let answer = match change {
            Change::Attach(call) => client.attach(fence, call).await.map(Answer::Attached),
            Change::Detach(call) => client.detach(fence, call).await.map(Answer::Done),
            Change::Enable(call) => client.enable(fence, call).await.map(Answer::Enabled),
            Change::Disable(call) => client.disable(fence, call).await.map(Answer::Done),
            Change::Copy(call) => client.copy(fence, call).await.map(Answer::Copied),
            Change::Abort(call) => client.abort(fence, call).await.map(Answer::Done),
            Change::Limits(call) => client.set_copy_parameters(fence, call).await.map(Answer::Done),
            Change::Reset(call) => client.reset(fence, call).await.map(Answer::Reset),
        };
        if let Some(highest) = answer.as_ref().err().and_then(outdone_by) {
            self.outdone.send_replace(Some(highest));
        }
        answer
    }
}
