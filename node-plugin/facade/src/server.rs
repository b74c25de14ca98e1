//! Serves a [`Platform`] to the operator, the console and root of the node: gRPC with reflection and health.

use crate::call::{Fenced, FromAbove};
use crate::caller::{Caller, Right};
use crate::error::FacadeError;
use crate::fence::Fence;
use crate::keeper::FenceKeeper;
use crate::listen::{Doors, accept_all};
use crate::node::{About, Inventory, Problem};
use crate::wire::pb;
use crate::wire::pb::facade_server::{Facade as Rpc, FacadeServer};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use umbra_platform::call::Outcome;
use umbra_platform::ending::{Ending, Stopping};
use umbra_platform::id::RequestId;
use umbra_platform::value::DevicePath;
use umbra_platform::wire::pb as platform;
use umbra_platform::wire::{BadField, fault};
use umbra_platform::{Platform, PlatformError, StatusStream};

/// Largest request. The largest real one, a cut over the most sets, has some 20 KiB.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Time between a connection's keep-alive pings, and for the answer to one.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls and watches of one connection at a time: an operator has a few for each set of the node.
const STREAMS_MAX: u32 = 256;

/// Why a server ended that was not told to.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The descriptors built into this program cannot be read.
    #[error("set up server reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serve the facade")]
    Transport(#[from] tonic::transport::Error),
}

/// Why a call has no answer: the facade's own refusal, or the platform's.
#[derive(Debug)]
enum Refusal {
    Facade(FacadeError),
    Platform(PlatformError),
}

impl From<FacadeError> for Refusal {
    fn from(error: FacadeError) -> Self {
        Self::Facade(error)
    }
}

impl From<PlatformError> for Refusal {
    fn from(error: PlatformError) -> Self {
        Self::Platform(error)
    }
}

impl From<BadField> for Refusal {
    fn from(error: BadField) -> Self {
        let (argument, problem) = (error.field.into(), error.problem.as_str().into());
        Self::Platform(PlatformError::BadArgument { argument, problem })
    }
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Facade(error) => error.reason(),
            Self::Platform(error) => error.reason(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Facade(error) => error.fmt(f),
            Self::Platform(error) => error.fmt(f),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Facade(error) => fault::to_status(&error),
            Refusal::Platform(error) => fault::to_status(&error),
        }
    }
}

/// Requests that are on their way through this process.
#[derive(Debug, Default)]
struct InFlight(Mutex<HashMap<RequestId, usize>>);

impl InFlight {
    fn requests(&self) -> MutexGuard<'_, HashMap<RequestId, usize>> {
        // Counts are changed in one step each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, request: RequestId) -> bool {
        self.requests().contains_key(&request)
    }
}

/// Counts a request as on its way, as long as it lives.
struct OnItsWay {
    through: Arc<InFlight>,
    request: RequestId,
}

impl OnItsWay {
    fn new(through: &Arc<InFlight>, request: RequestId) -> Self {
        *through.requests().entry(request).or_default() += 1;
        Self { through: Arc::clone(through), request }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        let mut requests = self.through.requests();
        if let Some(count) = requests.get_mut(&self.request) {
            *count -= 1;
            if *count == 0 {
                requests.remove(&self.request);
            }
        }
    }
}

/// How often each call ended in which way.
#[derive(Clone, Debug, Default)]
pub struct CallCounts(Arc<Mutex<BTreeMap<(&'static str, &'static str), u64>>>);

impl CallCounts {
    fn count(&self, call: &'static str, ended: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((call, ended)).or_default() += 1;
    }

    /// Name of the call, `OK` or the reason of its refusal, and how often.
    pub fn get(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((call, ended), count)| (*call, *ended, *count)).collect()
    }
}

/// What a node offers: its platform, its fence and what it is. Clones share them.
pub struct Facade<P> {
    platform: Arc<P>,
    fence: FenceKeeper,
    about: Arc<dyn Fn() -> About + Send + Sync>,
    allows: Arc<dyn Fn(&DevicePath) -> bool + Send + Sync>,
    counts: CallCounts,
    in_flight: Arc<InFlight>,
}

impl<P> Clone for Facade<P> {
    fn clone(&self) -> Self {
        Self {
            platform: Arc::clone(&self.platform),
            fence: self.fence.clone(),
            about: Arc::clone(&self.about),
            allows: Arc::clone(&self.allows),
            counts: self.counts.clone(),
            in_flight: Arc::clone(&self.in_flight),
        }
    }
}

impl<P> fmt::Debug for Facade<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facade").field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl<P: Platform> Facade<P> {
    /// The facade of this platform. `about` says what the node is, whenever somebody lists it.
    pub fn new(
        platform: Arc<P>,
        fence: FenceKeeper,
        about: impl Fn() -> About + Send + Sync + 'static,
    ) -> Self {
        let (counts, in_flight) = (CallCounts::default(), Arc::default());
        Self { platform, fence, about: Arc::new(about), allows: Arc::new(|_| true), counts, in_flight }
    }

    /// With no other devices than these: whoever may change something on this node cannot name another.
    #[must_use]
    pub fn with_devices(self, allows: impl Fn(&DevicePath) -> bool + Send + Sync + 'static) -> Self {
        Self { allows: Arc::new(allows), ..self }
    }

    fn admit_devices(&self, call: &impl FromAbove) -> Result<(), FacadeError> {
        match call.devices().into_iter().find(|device| !(self.allows)(device)) {
            None => Ok(()),
            Some(device) => Err(FacadeError::DeviceNotAllowed { device: device.clone() }),
        }
    }

    /// How often each call ended in which way, since this process began.
    pub fn counts(&self) -> CallCounts {
        self.counts.clone()
    }

    async fn list(&self) -> Inventory {
        let contents = self.platform.list().await.map_err(|error| Problem::from(&error));
        Inventory { about: (self.about)(), fence: self.fence.highest().await, contents }
    }

    /// What became of a request. One that is on its way may not be on the platform's record yet.
    async fn outcome(&self, request: RequestId) -> Result<Outcome, Refusal> {
        if self.in_flight.has(request) {
            return Ok(Outcome::Running);
        }
        Ok(self.platform.outcome(request).await?)
    }
}

/// Serves `facade` at its doors until `shutdown` is done; then ends watches and waits at once, and gives other calls up to
/// [`GRACE`](umbra_platform::ending::GRACE).
///
/// Calls that change something run on tasks of their own and are never cancelled by a client that goes away.
///
/// # Errors
/// [`ServeError`] if the server itself fails. Clients cannot make it fail.
pub async fn serve<P: Platform>(
    facade: Facade<P>,
    doors: Doors,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (ending, stopping) = Ending::new();
    let service = FacadeServer::new(Service { facade, stopping: stopping.clone() })
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FacadeServer<Service<P>>>().await;
    let router = Server::builder()
        .layer(InterceptorLayer::new(no_strangers))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?);

    let (to_server, incoming) = mpsc::channel(1);
    let accepting = accept_all(&doors, to_server);
    let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping.told());
    Ok(ending.serve(serving, accepting, shutdown).await?)
}

fn reflection() -> Result<tonic_reflection::server::Builder<'static>, ServeError> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

/// Who a request comes from: said by the door that it came through.
fn caller<T>(request: &Request<T>) -> Caller {
    let known = request.extensions().get::<Caller>().cloned();
    known.unwrap_or_else(|| Caller::Nobody("a caller that came through no door".into()))
}

fn forbidden(caller: &Caller, what: &str) -> FacadeError {
    FacadeError::Forbidden { caller: caller.to_string().into(), what: what.into() }
}

/// Who may not even read gets nothing from any service, health and reflection included.
fn no_strangers(request: Request<()>) -> Result<Request<()>, Status> {
    let caller = caller(&request);
    if caller.may(Right::Read) {
        return Ok(request);
    }
    Err(fault::to_status(&forbidden(&caller, "call anything")))
}

fn stopped() -> FacadeError {
    FacadeError::NodeStopping { cause: "it was told to".into() }
}

struct Service<P> {
    facade: Facade<P>,
    stopping: Stopping,
}

impl<P: Platform> Service<P> {
    fn ended<A>(&self, name: &'static str, answer: &Result<A, Refusal>) {
        self.facade.counts.count(name, answer.as_ref().map_or_else(Refusal::reason, |_| "OK"));
    }

    /// A call that changes nothing on the platform: dropped if the client goes away, ended if the server stops.
    async fn read<W, C, A, V, F, Fut, E>(
        &self,
        (name, right): (&'static str, Right),
        request: Request<W>,
        run: F,
    ) -> Result<Response<V>, Status>
    where
        C: TryFrom<W, Error = BadField>,
        F: FnOnce(Facade<P>, C) -> Fut,
        Fut: Future<Output = Result<A, E>>,
        Refusal: From<E>,
        V: From<A>,
    {
        let answer = async {
            allowed(name, right, &request)?;
            let call = C::try_from(request.into_inner())?;
            tokio::select! {
                answer = run(self.facade.clone(), call) => Ok(answer?),
                () = self.stopping.clone().told() => Err(stopped().into()),
            }
        };
        let answer = answer.await;
        self.ended(name, &answer);
        answer.map(|answer| Response::new(answer.into())).map_err(Into::into)
    }

    /// A call that changes something: runs to its end whatever the client does.
    async fn change<C, W, A, V, F, Fut>(
        &self,
        name: &'static str,
        request: Request<W>,
        run: F,
    ) -> Result<Response<V>, Status>
    where
        C: FromAbove + fmt::Debug + Send + 'static,
        Fenced<C>: TryFrom<W, Error = BadField>,
        F: FnOnce(Arc<P>, C) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, PlatformError>> + Send + 'static,
        A: Send + 'static,
        V: From<A>,
    {
        let answer = self.carry_out(name, request, run).await;
        self.ended(name, &answer);
        answer.map(|answer| Response::new(answer.into())).map_err(Into::into)
    }

    async fn carry_out<C, W, A, F, Fut>(
        &self,
        name: &'static str,
        request: Request<W>,
        run: F,
    ) -> Result<A, Refusal>
    where
        C: FromAbove + fmt::Debug + Send + 'static,
        Fenced<C>: TryFrom<W, Error = BadField>,
        F: FnOnce(Arc<P>, C) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, PlatformError>> + Send + 'static,
        A: Send + 'static,
    {
        allowed(name, Right::Change, &request)?;
        let Fenced { fence, call } = Fenced::<C>::try_from(request.into_inner())?;
        let begun = self.stopping.begin().ok_or_else(stopped)?;
        let id = call.request();
        let span = tracing::info_span!("call", name, request = %id, %fence);
        tracing::debug!(parent: &span, ?call, "asked");
        let facade = self.facade.clone();
        // Before it is admitted: once a newer leader's fence is kept, every older call is either refused or seen.
        let on_its_way = OnItsWay::new(&self.facade.in_flight, id);
        let work = async move {
            let admitted = facade.fence.admit(fence).await.and_then(|()| facade.admit_devices(&call));
            let answer = match admitted {
                Ok(()) => run(facade.platform, call).await.map_err(Refusal::from),
                Err(refused) => Err(refused.into()),
            };
            match &answer {
                Ok(_) => tracing::info!("done"),
                Err(error) => tracing::warn!(reason = error.reason(), %error, "refused"),
            }
            drop((on_its_way, begun));
            answer
        };
        // Only a defect of the implementation ends the task without an answer.
        tokio::spawn(work.instrument(span)).await.unwrap_or_else(|error| {
            Err(FacadeError::NodeStopping {
                cause: format!("{name} ended without an answer: {error}").into(),
            }
            .into())
        })
    }
}

fn allowed<W>(name: &str, right: Right, request: &Request<W>) -> Result<(), Refusal> {
    let caller = caller(request);
    if caller.may(right) {
        return Ok(());
    }
    tracing::warn!(name, %caller, "somebody asked for what it may not");
    let what = match right {
        Right::Read => format!("read anything by {name}"),
        Right::Change => format!("change anything by {name}"),
    };
    Err(forbidden(&caller, &what).into())
}

/// Without the numbers of devices of one kind of platform: above the node they mean nothing.
fn from_above(mut status: umbra_platform::status::Status) -> umbra_platform::status::Status {
    for master in &mut status.masters {
        master.ublk = None;
    }
    status
}

/// The unit of a call without arguments.
struct Nothing;

impl TryFrom<pb::ListRequest> for Nothing {
    type Error = BadField;
    fn try_from(_: pb::ListRequest) -> Result<Self, BadField> {
        Ok(Self)
    }
}

/// Passes statuses on until the stream ends, the client goes away or the server stops.
async fn forward(
    mut statuses: StatusStream,
    to: mpsc::Sender<Result<platform::StatusResponse, Status>>,
    stopping: Stopping,
) {
    let mut told = std::pin::pin!(stopping.told());
    loop {
        let item = tokio::select! {
            item = statuses.next() => item.map(|item| item.map_err(Refusal::from)),
            () = to.closed() => return,
            () = &mut told => Some(Err(stopped().into())),
        };
        let Some(item) = item else { return };
        let last = item.is_err();
        let item = item.map(|status| from_above(status).into()).map_err(Into::into);
        if to.send(item).await.is_err() || last {
            return;
        }
    }
}

#[tonic::async_trait]
impl<P: Platform> Rpc for Service<P> {
    type WatchStream = ReceiverStream<Result<platform::StatusResponse, Status>>;

    async fn attach(
        &self,
        request: Request<pb::AttachRequest>,
    ) -> Result<Response<platform::AttachMasterResponse>, Status> {
        self.change("Attach", request, |p, call| async move { p.attach_master(call).await }).await
    }

    async fn detach(
        &self,
        request: Request<pb::DetachRequest>,
    ) -> Result<Response<platform::DetachMasterResponse>, Status> {
        self.change("Detach", request, |p, call| async move { p.detach_master(call).await }).await
    }

    async fn accept_master(
        &self,
        request: Request<pb::AcceptMasterRequest>,
    ) -> Result<Response<platform::AcceptMasterResponse>, Status> {
        self.change("AcceptMaster", request, |p, call| async move { p.accept_master(call).await }).await
    }

    async fn enable(
        &self,
        request: Request<pb::EnableRequest>,
    ) -> Result<Response<platform::EnableSetResponse>, Status> {
        self.change("Enable", request, |p, call| async move { p.enable_set(call).await }).await
    }

    async fn disable(
        &self,
        request: Request<pb::DisableRequest>,
    ) -> Result<Response<platform::DisableSetResponse>, Status> {
        self.change("Disable", request, |p, call| async move { p.disable_set(call).await }).await
    }

    async fn copy(
        &self,
        request: Request<pb::CopyRequest>,
    ) -> Result<Response<platform::CopyResponse>, Status> {
        self.change("Copy", request, |p, call| async move { p.copy(call).await }).await
    }

    async fn abort(
        &self,
        request: Request<pb::AbortRequest>,
    ) -> Result<Response<platform::AbortResponse>, Status> {
        self.change("Abort", request, |p, call| async move { p.abort(call).await }).await
    }

    async fn set_copy_parameters(
        &self,
        request: Request<pb::SetCopyParametersRequest>,
    ) -> Result<Response<platform::SetCopyLimitsResponse>, Status> {
        let run = |p: Arc<P>, call| async move { p.set_copy_limits(call).await };
        self.change("SetCopyParameters", request, run).await
    }

    async fn reset(
        &self,
        request: Request<pb::ResetRequest>,
    ) -> Result<Response<platform::ResetResponse>, Status> {
        self.change("Reset", request, |p, call| async move { p.reset(call).await }).await
    }

    async fn fence(&self, request: Request<pb::FenceRequest>) -> Result<Response<pb::FenceResponse>, Status> {
        let run = |facade: Facade<P>, fence: Fence| async move { facade.fence.admit(fence).await };
        self.read(("Fence", Right::Change), request, run).await
    }

    async fn query_op(
        &self,
        request: Request<platform::OutcomeRequest>,
    ) -> Result<Response<platform::OutcomeResponse>, Status> {
        let run = |facade: Facade<P>, request| async move { facade.outcome(request).await };
        self.read(("QueryOp", Right::Read), request, run).await
    }

    async fn wait(
        &self,
        request: Request<platform::WaitRequest>,
    ) -> Result<Response<platform::WaitResponse>, Status> {
        self.read(
            ("Wait", Right::Read),
            request,
            |facade, call| async move { facade.platform.wait(call).await },
        )
        .await
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let run = |facade: Facade<P>, _: Nothing| async move { Ok::<_, Refusal>(facade.list().await) };
        self.read(("List", Right::Read), request, run).await
    }

    async fn status(
        &self,
        request: Request<platform::StatusRequest>,
    ) -> Result<Response<platform::StatusResponse>, Status> {
        let run =
            |facade: Facade<P>, scope| async move { facade.platform.status(scope).await.map(from_above) };
        self.read(("Status", Right::Read), request, run).await
    }

    async fn watch(
        &self,
        request: Request<platform::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let stopping = self.stopping.clone();
        let run = |facade: Facade<P>, call| async move {
            let statuses = facade.platform.watch(call).await?;
            let (to, from) = mpsc::channel(1);
            tokio::spawn(forward(statuses, to, stopping));
            Ok::<_, Refusal>(ReceiverStream::new(from))
        };
        self.read(("Watch", Right::Read), request, run).await
    }

    async fn changed_regions(
        &self,
        request: Request<platform::MapRequest>,
    ) -> Result<Response<platform::MapResponse>, Status> {
        self.read(("ChangedRegions", Right::Read), request, |facade, call| async move {
            facade.platform.map(call).await
        })
        .await
    }
}
