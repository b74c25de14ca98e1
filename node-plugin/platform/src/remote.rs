//! A client is a platform: whoever serves one may serve the interposer behind a socket.

use crate::call::{
    Abort, AcceptMaster, AttachMaster, AttachedMaster, Copied, CopySets, DetachMaster, DisableSet, EnableSet,
    EnabledSet, MapQuery, Outcome, RecoverShadow, Reset, ResetDone, Scope, SetCopyLimits, Wait, Watch,
};
use crate::client::{Client, ClientError};
use crate::error::PlatformError;
use crate::id::RequestId;
use crate::map::ChunkMap;
use crate::platform::{Platform, Result, StatusStream};
use crate::status::{Listing, SetStatus, Status};
use tokio_stream::StreamExt;

impl From<ClientError> for PlatformError {
    /// A refusal stays what it is. Whatever else went wrong, the caller cannot tell whether the call has had its effect,
    /// but for the request id.
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refused) => refused,
            ClientError::NoAnswer { call, after } => Self::Deadline { operation: call.into(), after },
            away @ (ClientError::NotRunning { .. }
            | ClientError::ConnectionLost { .. }
            | ClientError::NotAllowed { .. }
            | ClientError::BadAnswer { .. }) => {
                Self::Unavailable { problem: away.to_string().into(), advice: away.remedy().into() }
            }
        }
    }
}

impl Platform for Client {
    async fn attach_master(&self, call: AttachMaster) -> Result<AttachedMaster> {
        Ok(Self::attach_master(self, call).await?)
    }

    async fn accept_master(&self, call: AcceptMaster) -> Result<()> {
        Ok(Self::accept_master(self, call).await?)
    }

    async fn detach_master(&self, call: DetachMaster) -> Result<()> {
        Ok(Self::detach_master(self, call).await?)
    }

    async fn enable_set(&self, call: EnableSet) -> Result<EnabledSet> {
        Ok(Self::enable_set(self, call).await?)
    }

    async fn disable_set(&self, call: DisableSet) -> Result<()> {
        Ok(Self::disable_set(self, call).await?)
    }

    async fn copy(&self, call: CopySets) -> Result<Copied> {
        Ok(Self::copy(self, call).await?)
    }

    async fn abort(&self, call: Abort) -> Result<()> {
        Ok(Self::abort(self, call).await?)
    }

    async fn wait(&self, call: Wait) -> Result<SetStatus> {
        Ok(Self::wait(self, call).await?)
    }

    async fn recover_shadow(&self, call: RecoverShadow) -> Result<()> {
        Ok(Self::recover_shadow(self, call).await?)
    }

    async fn set_copy_limits(&self, call: SetCopyLimits) -> Result<()> {
        Ok(Self::set_copy_limits(self, call).await?)
    }

    async fn reset(&self, call: Reset) -> Result<ResetDone> {
        Ok(Self::reset(self, call).await?)
    }

    async fn outcome(&self, request: RequestId) -> Result<Outcome> {
        Ok(Self::outcome(self, request).await?)
    }

    async fn status(&self, scope: Scope) -> Result<Status> {
        Ok(Self::status(self, scope).await?)
    }

    async fn watch(&self, call: Watch) -> Result<StatusStream> {
        let statuses = Self::watch(self, call).await?;
        Ok(Box::pin(statuses.map(|status| status.map_err(Into::into))))
    }

    async fn list(&self) -> Result<Listing> {
        Ok(Self::list(self).await?)
    }

    async fn map(&self, call: MapQuery) -> Result<ChunkMap> {
        Ok(Self::map(self, call).await?)
    }
}
