//! Errors as gRPC statuses with `google.rpc.ErrorInfo`, both ways, without loss.

use super::BadField;
use crate::error::{PlatformError, TypedError};
use std::collections::HashMap;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// Key of the remedy among the fields: for readers that do not know the reason.
const REMEDY: &str = "remedy";

/// The status that carries an error.
pub fn to_status(error: &impl TypedError) -> Status {
    let remedy = error.remedy();
    let text = format!("{error}; {remedy}");
    let mut fields: HashMap<String, String> =
        error.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    fields.insert(REMEDY.into(), remedy);
    Status::with_error_details(
        error.code(),
        text,
        ErrorDetails::with_error_info(error.reason(), domain(error), fields),
    )
}

fn domain<E: TypedError>(_: &E) -> &'static str {
    E::DOMAIN
}

/// The error that a status carries, if it carries one of this API that this build knows.
pub fn from_status<E: TypedError>(status: &Status) -> Option<E> {
    let info = status.get_details_error_info().filter(|info| info.domain == E::DOMAIN)?;
    E::from_parts(&info.reason, &info.metadata).ok()
}

/// A field of a request that cannot be read is the caller's mistake.
pub fn bad_field(error: &BadField) -> Status {
    to_status(&PlatformError::BadArgument {
        argument: error.field.into(),
        problem: error.problem.as_str().into(),
    })
}
