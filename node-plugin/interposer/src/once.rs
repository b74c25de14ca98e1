//! Calls that have their effect once, whatever is repeated (request ids).

use crate::state_dir::StateDir;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::Path;
use umbra_platform::PlatformError;
use umbra_platform::id::RequestId;

/// Runs `call` unless its request was answered before; then gives that answer. `text` tells calls apart.
///
/// Only answers of calls that had an effect are kept: a refused call has changed nothing and may be tried again.
///
/// # Errors
/// The call's own, or [`PlatformError::RequestReused`].
pub(crate) async fn once<T: Serialize + DeserializeOwned>(
    state: &StateDir,
    request: RequestId,
    text: String,
    call: impl Future<Output = Result<T, PlatformError>>,
) -> Result<T, PlatformError> {
    let fingerprint = umbra_format::data_hash(text.as_bytes());
    let name = request.to_string();
    let broken = |error: &dyn std::fmt::Display| PlatformError::Io {
        device: crate::volumes::device_path(Path::new("/")),
        operation: "remember the request".into(),
        detail: error.to_string().into(),
    };
    if let Some((before, answer)) = state.recall(&name).map_err(|error| broken(&error))? {
        if before != fingerprint {
            return Err(PlatformError::RequestReused { request });
        }
        return serde_json::from_value(answer).map_err(|error| broken(&error));
    }
    let answer = call.await?;
    let kept = serde_json::to_value(&answer).map_err(|error| broken(&error))?;
    if let Err(error) = state.remember(&name, fingerprint, &kept) {
        // The effect is there; a repetition after a restart would be a new request.
        tracing::warn!(%error, request = %name, "the answer could not be kept");
    }
    Ok(answer)
}
