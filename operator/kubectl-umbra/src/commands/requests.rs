//! Asking for an operation: its name, its object, and waiting for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use umbra_actions::{operation, standing};
use umbra_crds::{ImagingOperation, ImagingOperationSpec, ObjectName, Target};
use uuid::Uuid;

use crate::cluster::{self, Cluster};
use crate::error::Failure;
use crate::follow::{Waiting, follow};
use crate::writing::{Rehearsal, Written};

pub(super) fn now() -> Time {
    Time(Timestamp::now())
}

/// A name that no operation has had.
pub(super) fn name(verb: &str, target: &Target) -> ObjectName {
    operation::operation_name(verb, target, &now(), Uuid::new_v4().as_u64_pair().0)
}

/// Asks for an operation, and waits for it where that is wanted.
pub(super) async fn ask(
    cluster: &Cluster,
    name: &ObjectName,
    spec: ImagingOperationSpec,
    rehearsal: Rehearsal,
    waiting: &Waiting,
) -> Result<Written<ImagingOperation>, Failure> {
    let api = cluster.kind()?;
    let created = cluster::create(&api, operation::operation(name, spec), rehearsal).await?;
    match waiting.patience().filter(|_| rehearsal.dry_run().is_none()) {
        Some(patience) => {
            let done = follow(&api, name.as_str(), patience, standing::of_operation).await?;
            Ok(Written::new(done, "complete", rehearsal))
        }
        None => Ok(created),
    }
}
