//! Errors as gRPC statuses with `google.rpc.ErrorInfo`, both ways, without loss.

use super::BadField;
use crate::error::PlatformError;
use std::collections::HashMap;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every reason of this API.
pub(crate) const DOMAIN: &str = "platform.umbra.dev";
/// Key of the remedy among the fields: for readers that do not know the reason.
const REMEDY: &str = "remedy";

/// The status that carries an error.
pub(crate) fn to_status(error: &PlatformError) -> Status {
    let remedy = error.remedy();
    let text = format!("{error}; {remedy}");
    let mut fields: HashMap<String, String> =
        error.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    fields.insert(REMEDY.into(), remedy);
    Status::with_error_details(
        error.code(),
        text,
        ErrorDetails::with_error_info(error.reason(), DOMAIN, fields),
    )
}

/// The error that a status carries, if it carries one of this API that this build knows.
pub(crate) fn from_status(status: &Status) -> Option<PlatformError> {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    PlatformError::from_parts(&info.reason, &info.metadata).ok()
}

/// A field of a request that cannot be read is the caller's mistake.
pub(crate) fn bad_field(error: &BadField) -> Status {
    to_status(&PlatformError::BadArgument {
        argument: error.field.into(),
        problem: error.problem.as_str().into(),
    })
}
