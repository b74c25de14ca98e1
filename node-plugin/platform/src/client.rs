//! A client with a deadline on every call and errors that say who failed.

use crate::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Copied, CopySets, DetachMaster, DisableSet, EnableSet,
    EnabledSet, MapQuery, Outcome, RecoverShadow, Reset, ResetDone, Scope, SetCopyLimits, Wait, Watch,
};
use crate::error::PlatformError;
use crate::id::RequestId;
use crate::map::ChunkMap;
use crate::status::{Listing, SetStatus, Status};
use crate::time::Millis;
use crate::wire::pb::platform_client::PlatformClient;
use crate::wire::{BadField, InField, fault, pb};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response};
use tower::Service;

/// Largest answer: a status of every set of a node, some 2 KiB each.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Largest headers and trailers of an answer: they carry an error with its objects.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// Longest deadline, a year: what a person may type is longer than the header for it can say.
const DEADLINE_MAX: Millis = Millis(365 * 24 * 3_600_000);

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallDeadlines {
    /// To connect.
    pub connect: Millis,
    /// Calls that only read. A wait may take its own time-out longer.
    pub read: Millis,
    /// Calls that change something: they contain device I/O and a drain.
    pub change: Millis,
}

impl Default for CallDeadlines {
    fn default() -> Self {
        Self { connect: Millis::from_secs(5), read: Millis::from_secs(10), change: Millis::from_secs(120) }
    }
}

/// Why a call has no answer, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// Nobody answers on the socket. Nothing was asked.
    #[error("no interposer answers on {}: {problem}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// How connecting failed.
        problem: String,
    },
    /// The interposer refused or failed.
    #[error("{0}")]
    Refused(#[from] PlatformError),
    /// No answer came in time. A change may yet happen.
    #[error("{call}: no answer within {after}")]
    NoAnswer {
        /// The call.
        call: &'static str,
        /// The time that it had.
        after: Millis,
    },
    /// The socket is another user's.
    #[error("{problem}")]
    NotAllowed {
        /// Who asked, and who may.
        problem: String,
    },
    /// The connection broke before the answer. A change may yet happen.
    #[error("{call}: the connection broke: {problem}")]
    ConnectionLost {
        /// The call.
        call: &'static str,
        /// How.
        problem: String,
    },
    /// The answer cannot be understood: the interposer is of another version, or no interposer.
    #[error("{call}: the answer cannot be understood: {problem}")]
    BadAnswer {
        /// The call.
        call: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ClientError {
    /// Stable name for programs; that of the refusal where it is one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotRunning { .. } => "NOT_RUNNING",
            Self::Refused(error) => error.reason(),
            Self::NoAnswer { .. } => "NO_ANSWER",
            Self::NotAllowed { .. } => "NOT_ALLOWED",
            Self::ConnectionLost { .. } => "CONNECTION_LOST",
            Self::BadAnswer { .. } => "BAD_ANSWER",
        }
    }

    /// What a person can do now.
    pub fn remedy(&self) -> String {
        match self {
            Self::NotRunning { socket, .. } => {
                format!("start umbra-io, or name its socket if it is not {}", socket.display())
            }
            Self::Refused(error) => error.remedy(),
            Self::NoAnswer { .. } | Self::ConnectionLost { .. } => {
                "look at the status, then try again with the same request id".into()
            }
            Self::NotAllowed { .. } => "ask as root".into(),
            Self::BadAnswer { .. } => "use the client that came with this interposer".into(),
        }
    }
}

/// Statuses as they come; ends after the first error.
pub type Statuses = Pin<Box<dyn Stream<Item = Result<Status, ClientError>> + Send>>;

/// A connection to an interposer. Clones share it; it is made anew where it broke.
#[derive(Clone, Debug)]
pub struct Client {
    rpc: PlatformClient<Channel>,
    socket: PathBuf,
    deadlines: CallDeadlines,
}

impl Client {
    /// Connects to the interposer that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if nobody does, or not in time.
    pub async fn connect(socket: &Path, deadlines: CallDeadlines) -> Result<Self, ClientError> {
        let not_running = |problem: String| ClientError::NotRunning { socket: socket.to_owned(), problem };
        let endpoint = endpoint();
        let connecting = endpoint.connect_with_connector(connector(socket));
        let channel = match tokio::time::timeout(deadlines.connect.duration(), connecting).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(not_running(innermost(&error))),
            Err(_) => return Err(not_running(format!("no connection within {}", deadlines.connect))),
        };
        Ok(Self::over(channel, socket, deadlines))
    }

    /// A client that connects with its first call, and anew with the next one where nobody listened: for programs that
    /// start before the interposer does. Needs a runtime around it.
    pub fn lazy(socket: &Path, deadlines: CallDeadlines) -> Self {
        Self::over(endpoint().connect_with_connector_lazy(connector(socket)), socket, deadlines)
    }

    fn over(channel: Channel, socket: &Path, deadlines: CallDeadlines) -> Self {
        let rpc = PlatformClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        Self { rpc, socket: socket.to_owned(), deadlines }
    }

    /// [`crate::Platform::attach_master`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn attach_master(&self, call: AttachMaster) -> Result<AttachedMaster, ClientError> {
        let request = Ask::new("AttachMaster", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.attach_master(wire).await).await
    }

    /// [`crate::Platform::accept_master`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn accept_master(&self, call: AcceptMaster) -> Result<(), ClientError> {
        let request = Ask::new("AcceptMaster", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.accept_master(wire).await).await
    }

    /// [`crate::Platform::detach_master`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn detach_master(&self, call: DetachMaster) -> Result<(), ClientError> {
        let request = Ask::new("DetachMaster", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.detach_master(wire).await).await
    }

    /// [`crate::Platform::enable_set`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn enable_set(&self, call: EnableSet) -> Result<EnabledSet, ClientError> {
        let request = Ask::new("EnableSet", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.enable_set(wire).await).await
    }

    /// [`crate::Platform::disable_set`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn disable_set(&self, call: DisableSet) -> Result<(), ClientError> {
        let request = Ask::new("DisableSet", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.disable_set(wire).await).await
    }

    /// [`crate::Platform::copy`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn copy(&self, call: CopySets) -> Result<Copied, ClientError> {
        let request = Ask::new("Copy", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.copy(wire).await).await
    }

    /// [`crate::Platform::abort`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn abort(&self, call: Abort) -> Result<(), ClientError> {
        let request = Ask::new("Abort", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.abort(wire).await).await
    }

    /// [`crate::Platform::wait`]. Its deadline is its own time-out and that of a read.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn wait(&self, call: Wait) -> Result<SetStatus, ClientError> {
        let request = Ask::new("Wait", Millis(call.timeout.0.saturating_add(self.deadlines.read.0)));
        request.run(self, call, async |mut rpc, wire| rpc.wait(wire).await).await
    }

    /// [`crate::Platform::recover_shadow`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn recover_shadow(&self, call: RecoverShadow) -> Result<(), ClientError> {
        let request = Ask::new("RecoverShadow", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.recover_shadow(wire).await).await
    }

    /// [`crate::Platform::set_copy_limits`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn set_copy_limits(&self, call: SetCopyLimits) -> Result<(), ClientError> {
        let request = Ask::new("SetCopyLimits", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.set_copy_limits(wire).await).await
    }

    /// [`crate::Platform::reset`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn reset(&self, call: Reset) -> Result<ResetDone, ClientError> {
        let request = Ask::new("Reset", self.deadlines.change);
        request.run(self, call, async |mut rpc, wire| rpc.reset(wire).await).await
    }

    /// [`crate::Platform::outcome`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn outcome(&self, request: RequestId) -> Result<Outcome, ClientError> {
        let ask = Ask::new("Outcome", self.deadlines.read);
        ask.run(self, request, async |mut rpc, wire| rpc.outcome(wire).await).await
    }

    /// [`crate::Platform::status`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn status(&self, scope: Scope) -> Result<Status, ClientError> {
        let request = Ask::new("Status", self.deadlines.read);
        request.run(self, scope, async |mut rpc, wire| rpc.status(wire).await).await
    }

    /// [`crate::Platform::watch`]. The stream itself has no deadline: a connection that died ends it.
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn watch(&self, call: Watch) -> Result<Statuses, ClientError> {
        let ask = Ask::new("Watch", self.deadlines.read);
        let mut rpc = self.rpc.clone();
        let request = Request::new(pb::WatchRequest::from(call));
        let answer = ask.within_deadline(self, rpc.watch(request)).await?;
        let client = self.clone();
        let statuses = answer.into_inner().map(move |item| match item {
            Ok(status) => status.try_into().map_err(|error| ask.bad_answer(&error)),
            Err(status) => Err(ask.failed(&client, &status)),
        });
        Ok(Box::pin(statuses))
    }

    /// [`crate::Platform::list`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn list(&self) -> Result<Listing, ClientError> {
        let request = Ask::new("List", self.deadlines.read);
        request.run(self, pb::ListRequest {}, async |mut rpc, wire| rpc.list(wire).await).await
    }

    /// [`crate::Platform::map`].
    ///
    /// # Errors
    /// [`ClientError`], as every call.
    pub async fn map(&self, call: MapQuery) -> Result<ChunkMap, ClientError> {
        let request = Ask::new("Map", self.deadlines.read);
        request.run(self, call, async |mut rpc, wire| rpc.map(wire).await).await
    }
}

/// The name is never looked up; HTTP/2 wants one.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://umbra.invalid").http2_max_header_list_size(HEADER_BYTES_MAX)
}

fn connector(
    socket: &Path,
) -> impl Service<Uri, Response = TokioIo<UnixStream>, Error = io::Error, Future: Send> + Send + use<> {
    let path = socket.to_owned();
    tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}

/// One call: its name and its time.
#[derive(Clone, Copy)]
struct Ask {
    call: &'static str,
    limit: Millis,
}

impl Ask {
    fn new(call: &'static str, limit: Millis) -> Self {
        Self { call, limit: limit.min(DEADLINE_MAX) }
    }

    /// Sends a call and reads the answer.
    async fn run<C, W, V, A>(
        self,
        client: &Client,
        call: C,
        send: impl AsyncFnOnce(PlatformClient<Channel>, Request<W>) -> Result<Response<V>, tonic::Status>,
    ) -> Result<A, ClientError>
    where
        W: From<C>,
        A: TryFrom<V, Error = BadField>,
    {
        let mut request = Request::new(W::from(call));
        // The server learns it too, and need not finish what nobody waits for.
        request.set_timeout(self.limit.duration());
        let answer = self.within_deadline(client, send(client.rpc.clone(), request)).await?;
        answer.into_inner().try_into().map_err(|error| self.bad_answer(&error))
    }

    async fn within_deadline<V>(
        self,
        client: &Client,
        answer: impl Future<Output = Result<V, tonic::Status>>,
    ) -> Result<V, ClientError> {
        match tokio::time::timeout(self.limit.duration(), answer).await {
            Ok(answer) => answer.map_err(|status| self.failed(client, &status)),
            Err(_) => Err(ClientError::NoAnswer { call: self.call, after: self.limit }),
        }
    }

    fn bad_answer(self, error: &BadField) -> ClientError {
        ClientError::BadAnswer { call: self.call, problem: error.to_string() }
    }

    /// Who failed, from a status: the interposer, the time, the connection or the understanding.
    fn failed(self, client: &Client, status: &tonic::Status) -> ClientError {
        if let Some(error) = fault::from_status(status) {
            return ClientError::Refused(error);
        }
        let call = self.call;
        let problem = match std::error::Error::source(status) {
            Some(source) => innermost(source),
            None => status.message().to_owned(),
        };
        match status.code() {
            Code::Unavailable if problem.contains("refused") || problem.contains("No such file") => {
                ClientError::NotRunning { socket: client.socket.clone(), problem }
            }
            Code::PermissionDenied => ClientError::NotAllowed { problem },
            Code::Cancelled | Code::DeadlineExceeded => ClientError::NoAnswer { call, after: self.limit },
            Code::Unavailable | Code::Unknown | Code::Aborted => {
                ClientError::ConnectionLost { call, problem }
            }
            code => ClientError::BadAnswer { call, problem: format!("{code:?}: {problem}") },
        }
    }
}

/// The last error of a chain: the outer ones only say "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Answers without content.
macro_rules! empty_answer {
    ($($wire:ident),+) => {
        $(impl TryFrom<pb::$wire> for () {
            type Error = BadField;
            fn try_from(_: pb::$wire) -> Result<Self, BadField> {
                Ok(())
            }
        })+
    };
}

empty_answer!(
    AcceptMasterResponse,
    DetachMasterResponse,
    DisableSetResponse,
    AbortResponse,
    RecoverShadowResponse,
    SetCopyLimitsResponse
);

impl TryFrom<pb::WaitResponse> for SetStatus {
    type Error = BadField;
    fn try_from(answer: pb::WaitResponse) -> Result<Self, BadField> {
        answer.set.within("set")?.try_into()
    }
}

impl From<Scope> for pb::StatusRequest {
    fn from(scope: Scope) -> Self {
        Self { scope: Some(scope.into()) }
    }
}
