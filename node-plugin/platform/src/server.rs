//! Serves a [`Platform`] on a Unix socket: gRPC with reflection and health.

use crate::call::Change;
use crate::connection::{accept_all, may_call};
use crate::ending::{Ending, Stopping};
use crate::error::PlatformError;
use crate::platform::{self, Platform, StatusStream};
use crate::socket::Socket;
use crate::wire::pb::platform_server::{Platform as Rpc, PlatformServer};
use crate::wire::{BadField, fault, pb};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

/// Largest request. The largest real one, a cut over the most sets, has some 20 KiB.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Time between a connection's keep-alive pings, and for the answer to one.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why a server ended that was not told to.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The descriptors built into this program cannot be read.
    #[error("set up server reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serve the platform API")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves `platform` on `socket` until `shutdown` is done; then ends watches and waits at once, gives other
/// requests up to [`GRACE`](crate::ending::GRACE), and removes the socket.
///
/// Calls that change something run on tasks of their own and are never cancelled by a client that goes away.
///
/// # Errors
/// [`ServeError`] if the server itself fails. Clients cannot make it fail.
pub async fn serve<P: Platform>(
    socket: Socket,
    platform: Arc<P>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (ending, stopping) = Ending::new();
    let service = PlatformServer::new(Service { platform, stopping: stopping.clone() })
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<PlatformServer<Service<P>>>().await;
    let router = Server::builder()
        .layer(InterceptorLayer::new(check_peer))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection()?.build_v1()?)
        .add_service(reflection()?.build_v1alpha()?);

    let (to_server, incoming) = mpsc::channel(1);
    let accepting = accept_all(&socket, to_server);
    let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopping.told());
    Ok(ending.serve(serving, accepting, shutdown).await?)
}

fn reflection() -> Result<tonic_reflection::server::Builder<'static>, ServeError> {
    Ok(tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET))
}

/// Refuses calls of other users than root and the one that this process runs as, by what the kernel says of the peer:
/// the socket's mode keeps them out, but a mode is easily changed, and a socket easily handed on.
///
/// # Errors
/// `PERMISSION_DENIED`.
#[allow(clippy::result_large_err, reason = "the signature of an interceptor")]
pub fn check_peer(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match peer.map(|peer| peer.uid()) {
        Some(user) if may_call(user, rustix::process::geteuid().as_raw()) => Ok(request),
        Some(user) => {
            Err(Status::permission_denied(format!("user {user} may not use this socket; root may, use sudo")))
        }
        None => Err(Status::permission_denied("the kernel does not say who asks")),
    }
}

fn stopped() -> PlatformError {
    PlatformError::Stopping { cause: "it was told to".into() }
}

struct Service<P> {
    platform: Arc<P>,
    stopping: Stopping,
}

impl<P: Platform> Service<P> {
    /// A call that only reads: dropped if the client goes away, ended if the server stops.
    async fn read<W, C, A, V, F, Fut>(&self, request: Request<W>, run: F) -> Result<Response<V>, Status>
    where
        C: TryFrom<W, Error = BadField>,
        F: FnOnce(Arc<P>, C) -> Fut,
        Fut: Future<Output = platform::Result<A>>,
        V: From<A>,
    {
        let call = C::try_from(request.into_inner()).map_err(|e| fault::bad_field(&e))?;
        tokio::select! {
            answer = run(Arc::clone(&self.platform), call) => finish(answer),
            () = self.stopping.clone().told() => Err(fault::to_status(&stopped())),
        }
    }

    /// A call that changes something: runs to its end whatever the client does.
    async fn change<W, C, A, V, F, Fut>(
        &self,
        name: &'static str,
        request: Request<W>,
        run: F,
    ) -> Result<Response<V>, Status>
    where
        C: TryFrom<W, Error = BadField> + Change + std::fmt::Debug,
        F: FnOnce(Arc<P>, C) -> Fut,
        Fut: Future<Output = platform::Result<A>> + Send + 'static,
        A: Send + 'static,
        V: From<A>,
    {
        let call = C::try_from(request.into_inner()).map_err(|e| fault::bad_field(&e))?;
        let begun = self.stopping.begin().ok_or_else(|| fault::to_status(&stopped()))?;
        let id = call.request();
        tracing::debug!(name, request = %id, ?call, "asked");
        let work = run(Arc::clone(&self.platform), call);
        let task = tokio::spawn(async move {
            let answer = work.await;
            match &answer {
                Ok(_) => tracing::info!(name, request = %id, "done"),
                Err(error) => tracing::warn!(name, request = %id, reason = error.reason(), %error, "refused"),
            }
            drop(begun);
            answer
        });
        // Only a defect of the implementation ends the task without an answer.
        finish(task.await.map_err(|_| Status::internal(format!("{name} ended without an answer")))?)
    }
}

fn finish<A, V: From<A>>(answer: platform::Result<A>) -> Result<Response<V>, Status> {
    answer.map(|answer| Response::new(answer.into())).map_err(|error| fault::to_status(&error))
}

/// Answers without content.
macro_rules! empty_answer {
    ($($wire:ident),+) => {
        $(impl From<()> for pb::$wire {
            fn from((): ()) -> Self {
                Self {}
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

impl From<crate::status::SetStatus> for pb::WaitResponse {
    fn from(set: crate::status::SetStatus) -> Self {
        Self { set: Some(set.into()) }
    }
}

impl TryFrom<pb::StatusRequest> for crate::call::Scope {
    type Error = BadField;
    fn try_from(request: pb::StatusRequest) -> Result<Self, BadField> {
        request.scope.try_into()
    }
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
    to: mpsc::Sender<Result<pb::StatusResponse, Status>>,
    stopping: Stopping,
) {
    let mut told = std::pin::pin!(stopping.told());
    loop {
        let item = tokio::select! {
            item = statuses.next() => item,
            () = to.closed() => return,
            () = &mut told => Some(Err(stopped())),
        };
        let Some(item) = item else { return };
        let last = item.is_err();
        let item = item.map(Into::into).map_err(|error| fault::to_status(&error));
        if to.send(item).await.is_err() || last {
            return;
        }
    }
}

#[tonic::async_trait]
impl<P: Platform> Rpc for Service<P> {
    type WatchStream = ReceiverStream<Result<pb::StatusResponse, Status>>;

    async fn attach_master(
        &self,
        request: Request<pb::AttachMasterRequest>,
    ) -> Result<Response<pb::AttachMasterResponse>, Status> {
        self.change("AttachMaster", request, |p, call| async move { p.attach_master(call).await }).await
    }

    async fn accept_master(
        &self,
        request: Request<pb::AcceptMasterRequest>,
    ) -> Result<Response<pb::AcceptMasterResponse>, Status> {
        self.change("AcceptMaster", request, |p, call| async move { p.accept_master(call).await }).await
    }

    async fn detach_master(
        &self,
        request: Request<pb::DetachMasterRequest>,
    ) -> Result<Response<pb::DetachMasterResponse>, Status> {
        self.change("DetachMaster", request, |p, call| async move { p.detach_master(call).await }).await
    }

    async fn enable_set(
        &self,
        request: Request<pb::EnableSetRequest>,
    ) -> Result<Response<pb::EnableSetResponse>, Status> {
        self.change("EnableSet", request, |p, call| async move { p.enable_set(call).await }).await
    }

    async fn disable_set(
        &self,
        request: Request<pb::DisableSetRequest>,
    ) -> Result<Response<pb::DisableSetResponse>, Status> {
        self.change("DisableSet", request, |p, call| async move { p.disable_set(call).await }).await
    }

    async fn copy(&self, request: Request<pb::CopyRequest>) -> Result<Response<pb::CopyResponse>, Status> {
        self.change("Copy", request, |p, call| async move { p.copy(call).await }).await
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Result<Response<pb::AbortResponse>, Status> {
        self.change("Abort", request, |p, call| async move { p.abort(call).await }).await
    }

    async fn wait(&self, request: Request<pb::WaitRequest>) -> Result<Response<pb::WaitResponse>, Status> {
        self.read(request, |p, call| async move { p.wait(call).await }).await
    }

    async fn recover_shadow(
        &self,
        request: Request<pb::RecoverShadowRequest>,
    ) -> Result<Response<pb::RecoverShadowResponse>, Status> {
        self.read(request, |p, call| async move { p.recover_shadow(call).await }).await
    }

    async fn set_copy_limits(
        &self,
        request: Request<pb::SetCopyLimitsRequest>,
    ) -> Result<Response<pb::SetCopyLimitsResponse>, Status> {
        self.change("SetCopyLimits", request, |p, call| async move { p.set_copy_limits(call).await }).await
    }

    async fn reset(&self, request: Request<pb::ResetRequest>) -> Result<Response<pb::ResetResponse>, Status> {
        self.change("Reset", request, |p, call| async move { p.reset(call).await }).await
    }

    async fn outcome(
        &self,
        request: Request<pb::OutcomeRequest>,
    ) -> Result<Response<pb::OutcomeResponse>, Status> {
        self.read(request, |p, request| async move { p.outcome(request).await }).await
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.read(request, |p, scope| async move { p.status(scope).await }).await
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = request.into_inner().try_into().map_err(|e| fault::bad_field(&e))?;
        let statuses = self.platform.watch(call).await.map_err(|error| fault::to_status(&error))?;
        let (to, from) = mpsc::channel(1);
        tokio::spawn(forward(statuses, to, self.stopping.clone()));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.read(request, |p, _: Nothing| async move { p.list().await }).await
    }

    async fn map(&self, request: Request<pb::MapRequest>) -> Result<Response<pb::MapResponse>, Status> {
        self.read(request, |p, call| async move { p.map(call).await }).await
    }
}
