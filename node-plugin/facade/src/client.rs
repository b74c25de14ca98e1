//! A client of a node's facade: it speaks to that node only, gives every call a deadline, and says who failed.

use crate::call::Fenced;
use crate::credentials::{CredentialFiles, Credentials, CredentialsError};
use crate::error::FacadeError;
use crate::fence::Fence;
use crate::identity::{Identity, Role, Segment};
use crate::node::Inventory;
use crate::wire::pb;
use crate::wire::pb::facade_client::FacadeClient;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response};
use tower::Service;
use umbra_platform::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Copied, CopySets, DetachMaster, DisableSet, EnableSet,
    EnabledSet, MapQuery, Outcome, Reset, ResetDone, Scope, SetCopyLimits, Wait, Watch,
};
use umbra_platform::id::RequestId;
use umbra_platform::map::ChunkMap;
use umbra_platform::status::{SetStatus, Status};
use umbra_platform::time::Millis;
use umbra_platform::wire::pb as platform;
use umbra_platform::wire::{BadField, fault};
use umbra_platform::{CallDeadlines, PlatformError};

/// Largest answer: a status of every set of a node, some 2 KiB each.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Largest headers and trailers of an answer: they carry an error with its objects.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Longest deadline, a year: what a person may type is longer than the header for it can say.
const DEADLINE_MAX: Millis = Millis(365 * 24 * 3_600_000);
/// How often a call that only reads is tried, where the connection is what fails.
const READ_ATTEMPTS_MAX: u32 = 3;
/// Time before the second attempt; twice that before the third.
const RETRY_PAUSE: Millis = Millis(100);
/// How it reads that the other side has ended a TLS connection: in TLS 1.3 a client hears so after its handshake.
const ALERT: &str = "received fatal alert";
/// Time between pings of a connection that is in use, and for the answer to one: a node that is gone does not say so.
const KEEPALIVE: Millis = Millis::from_secs(10);

/// Why a call has no answer, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// There is no connection. Nothing was asked.
    #[error("the facade of node {node} at {address} cannot be reached: {problem}")]
    NotReachable {
        /// The node.
        node: Segment,
        /// Where it should be.
        address: String,
        /// How connecting failed.
        problem: String,
    },
    /// One side does not take the other's certificate. Nothing was asked.
    #[error("node {node} at {address} and this client do not take each other's certificates: {problem}")]
    NotTrusted {
        /// The node.
        node: Segment,
        /// Where it should be.
        address: String,
        /// Whose, and why not.
        problem: String,
    },
    /// The facade refused.
    #[error("{0}")]
    Denied(#[from] FacadeError),
    /// The platform refused or failed.
    #[error("{0}")]
    Refused(#[from] PlatformError),
    /// No answer came in time. A change may yet happen.
    #[error("{call} on node {node}: no answer within {after}")]
    NoAnswer {
        /// The call.
        call: &'static str,
        /// The node.
        node: Segment,
        /// The time that it had.
        after: Millis,
    },
    /// The connection broke before the answer. A change may yet happen.
    #[error("{call} on node {node}: the connection broke: {problem}")]
    ConnectionLost {
        /// The call.
        call: &'static str,
        /// The node.
        node: Segment,
        /// How.
        problem: String,
    },
    /// The answer cannot be understood: the node is of another version.
    #[error("{call} on node {node}: the answer cannot be understood: {problem}")]
    BadAnswer {
        /// The call.
        call: &'static str,
        /// The node.
        node: Segment,
        /// What is wrong with it.
        problem: String,
    },
}

impl ClientError {
    /// Stable name for programs; that of the refusal where it is one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReachable { .. } => "NOT_REACHABLE",
            Self::NotTrusted { .. } => "NOT_TRUSTED",
            Self::Denied(error) => error.reason(),
            Self::Refused(error) => error.reason(),
            Self::NoAnswer { .. } => "NO_ANSWER",
            Self::ConnectionLost { .. } => "CONNECTION_LOST",
            Self::BadAnswer { .. } => "BAD_ANSWER",
        }
    }

    /// What a person can do now.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotReachable { node, .. } => {
                format!("look whether umbra-node runs on {node} and whether a network policy is in the way")
            }
            Self::NotTrusted { .. } => {
                "look whether both certificates are valid now, are of one cluster, and come from an authority that the other \
                 side has"
                    .into()
            }
            Self::Denied(error) => error.remedy(),
            Self::Refused(error) => error.remedy(),
            Self::NoAnswer { .. } | Self::ConnectionLost { .. } => {
                "ask what became of the request, then try again with the same request id".into()
            }
            Self::BadAnswer { .. } => "bring the operator and the node to versions that go together".into(),
        }
    }

    /// Whether another attempt may do better, because only the connection failed.
    fn is_of_the_connection(&self) -> bool {
        match self {
            Self::NotReachable { .. } | Self::ConnectionLost { .. } => true,
            Self::NotTrusted { .. }
            | Self::Denied(_)
            | Self::Refused(_)
            | Self::NoAnswer { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// A facade, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// The cluster.
    pub cluster: Segment,
    /// The node.
    pub node: Segment,
}

/// Statuses as they come; ends after the first error.
pub type Statuses = Pin<Box<dyn Stream<Item = Result<Status, ClientError>> + Send>>;

/// A connection to a node's facade. Clones share it; it is made with the first call, and anew where it broke.
#[derive(Clone, Debug)]
pub struct Client {
    rpc: FacadeClient<Channel>,
    target: Arc<Target>,
    deadlines: CallDeadlines,
}

impl Client {
    /// A client of this node, with the certificates in these files. Needs a runtime around it.
    ///
    /// # Errors
    /// [`CredentialsError`]; nobody was asked anything yet.
    pub fn new(
        target: Target,
        files: CredentialFiles,
        deadlines: CallDeadlines,
    ) -> Result<Self, CredentialsError> {
        let peer = Identity { cluster: target.cluster.clone(), role: Role::Node(target.node.clone()) };
        let credentials = Arc::new(Credentials::of_client(files, peer)?);
        let target = Arc::new(target);
        // The name is never looked up; HTTP/2 wants one.
        let channel = Endpoint::from_static("http://umbra.invalid")
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE.duration())
            .keep_alive_timeout(KEEPALIVE.duration())
            .connect_with_connector_lazy(connector(Arc::clone(&target), credentials, deadlines.connect));
        let rpc = FacadeClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { rpc, target, deadlines })
    }

    /// Attaches a master.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn attach(&self, fence: Fence, call: AttachMaster) -> Result<AttachedMaster, ClientError> {
        self.change("Attach", fence, call, async |mut rpc, wire| rpc.attach(wire).await).await
    }

    /// Detaches a master.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn detach(&self, fence: Fence, call: DetachMaster) -> Result<(), ClientError> {
        self.change("Detach", fence, call, async |mut rpc, wire| rpc.detach(wire).await).await
    }

    /// Ends the quarantine of a master.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn accept_master(&self, fence: Fence, call: AcceptMaster) -> Result<(), ClientError> {
        self.change("AcceptMaster", fence, call, async |mut rpc, wire| rpc.accept_master(wire).await).await
    }

    /// Makes a set and takes its first cut.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn enable(&self, fence: Fence, call: EnableSet) -> Result<EnabledSet, ClientError> {
        self.change("Enable", fence, call, async |mut rpc, wire| rpc.enable(wire).await).await
    }

    /// Ends a set.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn disable(&self, fence: Fence, call: DisableSet) -> Result<(), ClientError> {
        self.change("Disable", fence, call, async |mut rpc, wire| rpc.disable(wire).await).await
    }

    /// Cuts sets of the node at one instant and starts their copies.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn copy(&self, fence: Fence, call: CopySets) -> Result<Copied, ClientError> {
        self.change("Copy", fence, call, async |mut rpc, wire| rpc.copy(wire).await).await
    }

    /// Stops a copier.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn abort(&self, fence: Fence, call: Abort) -> Result<(), ClientError> {
        self.change("Abort", fence, call, async |mut rpc, wire| rpc.abort(wire).await).await
    }

    /// Changes how fast a copier may go.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn set_copy_parameters(&self, fence: Fence, call: SetCopyLimits) -> Result<(), ClientError> {
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.set_copy_parameters(wire).await;
        self.change("SetCopyParameters", fence, call, send).await
    }

    /// Brings an offline or given-up set back.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn reset(&self, fence: Fence, call: Reset) -> Result<ResetDone, ClientError> {
        self.change("Reset", fence, call, async |mut rpc, wire| rpc.reset(wire).await).await
    }

    /// Makes the node refuse every fence below this one.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn fence(&self, fence: Fence) -> Result<(), ClientError> {
        let ask = Ask::new(self, "Fence", self.deadlines.change);
        ask.run::<_, pb::FenceRequest, _, _>(fence, async |mut rpc, wire| rpc.fence(wire).await).await
    }

    /// What became of a call that changes something.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn query_op(&self, request: RequestId) -> Result<Outcome, ClientError> {
        let ask = Ask::new(self, "QueryOp", self.deadlines.read);
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.query_op(wire).await;
        ask.read::<_, platform::OutcomeRequest, _, _>(request, send).await
    }

    /// Waits until no copy of the set runs. Its deadline is its own time-out and that of a read.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn wait(&self, call: Wait) -> Result<SetStatus, ClientError> {
        let limit = Millis(call.timeout.0.saturating_add(self.deadlines.read.0));
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.wait(wire).await;
        Ask::new(self, "Wait", limit).read::<_, platform::WaitRequest, _, _>(call, send).await
    }

    /// The node, and what is configured on it.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn list(&self) -> Result<Inventory, ClientError> {
        let ask = Ask::new(self, "List", self.deadlines.read);
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.list(wire).await;
        ask.read::<_, pb::ListRequest, _, _>(pb::ListRequest {}, send).await
    }

    /// What is going on now.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn status(&self, scope: Scope) -> Result<Status, ClientError> {
        let ask = Ask::new(self, "Status", self.deadlines.read);
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.status(wire).await;
        ask.read::<_, platform::StatusRequest, _, _>(scope, send).await
    }

    /// What is going on, again and again. The stream itself has no deadline: a connection that died ends it.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn watch(&self, call: Watch) -> Result<Statuses, ClientError> {
        let ask = Ask::new(self, "Watch", self.deadlines.read);
        let mut rpc = self.rpc.clone();
        let answer = ask.in_time(rpc.watch(platform::WatchRequest::from(call))).await?;
        let (name, client) = (ask.call, self.clone());
        let statuses = answer.into_inner().map(move |item| {
            let ask = Ask::new(&client, name, client.deadlines.read);
            match item {
                Ok(status) => status.try_into().map_err(|error| ask.bad_answer(&error)),
                Err(status) => Err(ask.failed(&status)),
            }
        });
        Ok(Box::pin(statuses))
    }

    /// A picture of what has changed in a set since its cut.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn changed_regions(&self, call: MapQuery) -> Result<ChunkMap, ClientError> {
        let ask = Ask::new(self, "ChangedRegions", self.deadlines.read);
        let send = async |mut rpc: FacadeClient<Channel>, wire| rpc.changed_regions(wire).await;
        ask.read::<_, platform::MapRequest, _, _>(call, send).await
    }

    async fn change<C, W, V, A>(
        &self,
        name: &'static str,
        fence: Fence,
        call: C,
        send: impl AsyncFnOnce(FacadeClient<Channel>, Request<W>) -> Result<Response<V>, tonic::Status>,
    ) -> Result<A, ClientError>
    where
        W: From<Fenced<C>>,
        A: TryFrom<V, Error = BadField>,
    {
        let ask = Ask::new(self, name, self.deadlines.change);
        ask.run(Fenced { fence, call }, send).await
    }
}

/// A TLS connection to the target, with the certificates as they are when it is made.
fn connector(
    target: Arc<Target>,
    credentials: Arc<Credentials<ClientConfig>>,
    limit: Millis,
) -> impl Service<Uri, Response = TokioIo<TlsStream<TcpStream>>, Error = io::Error, Future: Send> + Send {
    tower::service_fn(move |_: Uri| {
        let (target, credentials) = (Arc::clone(&target), Arc::clone(&credentials));
        let connecting = async move {
            let config = tokio::task::spawn_blocking(move || credentials.current());
            let config = config.await.map_err(io::Error::other)?;
            let stream = TcpStream::connect(&target.address).await?;
            // Requests are small and waited for.
            stream.set_nodelay(true)?;
            // Peers are known by their identity: no name is sent, and none is verified.
            let nobody = ServerName::try_from("umbra.invalid").map_err(io::Error::other)?;
            TlsConnector::from(config).connect(nobody, stream).await.map(TokioIo::new)
        };
        async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit}"));
            tokio::time::timeout(limit.duration(), connecting).await.map_err(|_| late())?
        }
    })
}

/// One call: its name and its time.
#[derive(Clone, Copy)]
struct Ask<'a> {
    client: &'a Client,
    call: &'static str,
    limit: Millis,
}

impl<'a> Ask<'a> {
    fn new(client: &'a Client, call: &'static str, limit: Millis) -> Self {
        Self { client, call, limit: limit.min(DEADLINE_MAX) }
    }

    /// Sends a call and reads the answer.
    async fn run<C, W, V, A>(
        self,
        call: C,
        send: impl AsyncFnOnce(FacadeClient<Channel>, Request<W>) -> Result<Response<V>, tonic::Status>,
    ) -> Result<A, ClientError>
    where
        W: From<C>,
        A: TryFrom<V, Error = BadField>,
    {
        let mut request = Request::new(W::from(call));
        // The server learns it too, and need not finish what nobody waits for.
        request.set_timeout(self.limit.duration());
        let answer = self.in_time(send(self.client.rpc.clone(), request)).await?;
        answer.into_inner().try_into().map_err(|error| self.bad_answer(&error))
    }

    /// Sends a call that only reads, again where the connection fails.
    async fn read<C, W, V, A>(
        mut self,
        call: C,
        send: impl AsyncFn(FacadeClient<Channel>, Request<W>) -> Result<Response<V>, tonic::Status>,
    ) -> Result<A, ClientError>
    where
        C: Clone,
        W: From<C>,
        A: TryFrom<V, Error = BadField>,
    {
        let end = Instant::now() + self.limit.duration();
        let mut pause = RETRY_PAUSE;
        for _ in 1..READ_ATTEMPTS_MAX {
            let answer = self.run(call.clone(), &send).await;
            match &answer {
                Err(error) if error.is_of_the_connection() => {
                    tracing::debug!(call = self.call, %error, "it is tried again");
                }
                _ => return answer,
            }
            tokio::time::sleep(pause.duration()).await;
            pause = Millis(pause.0 * 2);
            self.limit = end.saturating_duration_since(Instant::now()).into();
        }
        self.run(call, &send).await
    }

    async fn in_time<V>(
        self,
        answer: impl Future<Output = Result<V, tonic::Status>>,
    ) -> Result<V, ClientError> {
        match tokio::time::timeout(self.limit.duration(), answer).await {
            Ok(answer) => answer.map_err(|status| self.failed(&status)),
            Err(_) => Err(self.no_answer()),
        }
    }

    fn no_answer(self) -> ClientError {
        ClientError::NoAnswer { call: self.call, node: self.client.target.node.clone(), after: self.limit }
    }

    fn bad_answer(self, problem: &dyn fmt::Display) -> ClientError {
        let node = self.client.target.node.clone();
        ClientError::BadAnswer { call: self.call, node, problem: problem.to_string() }
    }

    /// Who failed, from a status: the facade, the platform, the certificates, the time, the connection or the
    /// understanding.
    fn failed(self, status: &tonic::Status) -> ClientError {
        if let Some(error) = fault::from_status(status) {
            return ClientError::Denied(error);
        }
        if let Some(error) = fault::from_status(status) {
            return ClientError::Refused(error);
        }
        let Target { address, node, .. } = &*self.client.target;
        let (address, node) = (address.clone(), node.clone());
        let cause = StdError::source(status).map(Cause::of);
        match (cause, status.code()) {
            (Some(Cause::Tls(problem)), _) => ClientError::NotTrusted { node, address, problem },
            (Some(Cause::Connect(problem)), _) => ClientError::NotReachable { node, address, problem },
            (_, Code::Cancelled | Code::DeadlineExceeded) => self.no_answer(),
            (Some(Cause::Other(problem)), _) => {
                ClientError::ConnectionLost { call: self.call, node, problem }
            }
            (None, Code::Unavailable | Code::Unknown | Code::Aborted) => {
                let problem = status.message().to_owned();
                ClientError::ConnectionLost { call: self.call, node, problem }
            }
            (None, code) => self.bad_answer(&format!("{code:?}: {}", status.message())),
        }
    }
}

/// What is at the bottom of a failed call.
enum Cause {
    /// One side did not take the other's certificate, or does not speak TLS as we do.
    Tls(String),
    /// There was no connection.
    Connect(String),
    /// Anything else.
    Other(String),
}

impl Cause {
    /// Goes down to what happened: the outer errors only say "transport error".
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let (mut last, mut connecting) = (error, false);
        loop {
            if let Some(error) = last.downcast_ref::<rustls::Error>() {
                return Self::Tls(error.to_string());
            }
            connecting |= last.is::<tonic::ConnectError>();
            // What an I/O error is made from is not its source.
            let inner = last.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let inner = inner.map(|inner| -> &(dyn StdError + 'static) { inner });
            match inner.or_else(|| last.source()) {
                Some(source) => last = source,
                // HTTP/2 keeps only the text of what ended its connection.
                None if last.to_string().contains(ALERT) => return Self::Tls(last.to_string()),
                None if connecting => return Self::Connect(last.to_string()),
                None => return Self::Other(last.to_string()),
            }
        }
    }
}
