//! The table of errors: complete, stable, and the same on both ends of the wire.

use crate::node::{Node, fence};
use std::collections::{BTreeSet, HashMap};
use umbra_facade::{ClientError, FacadeError};
use umbra_platform::PlatformError;
use umbra_platform::call::Scope;
use umbra_platform::error::ObjectKind;

fn samples() -> Vec<FacadeError> {
    vec![
        FacadeError::StaleFence { sent: fence(1), highest: fence(u64::MAX) },
        FacadeError::FenceNotKept { file: "/var/lib/umbra-node/fence".into(), problem: "no space".into() },
        FacadeError::Forbidden { caller: "the console".into(), what: "change anything by Copy".into() },
        FacadeError::DeviceNotAllowed { device: "/dev/disk/by-id/nvme-1".parse().expect("a path") },
        FacadeError::NodeStopping { cause: "it was told to".into() },
    ]
}

/// Reasons are API: programs and dashboards know them. This list only grows.
#[test]
fn no_reason_that_was_ever_published_is_gone() {
    let published =
        BTreeSet::from(["STALE_FENCE", "FENCE_NOT_KEPT", "FORBIDDEN", "DEVICE_NOT_ALLOWED", "NODE_STOPPING"]);
    assert_eq!(published, FacadeError::REASONS.iter().copied().collect());
    assert_eq!(published, samples().iter().map(FacadeError::reason).collect());
    let platform: BTreeSet<_> = PlatformError::REASONS.iter().copied().collect();
    assert!(published.is_disjoint(&platform), "a reason means one thing, whoever says it");
}

#[test]
fn reason_and_fields_are_the_whole_error() {
    for error in samples() {
        let fields: HashMap<String, String> =
            error.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(FacadeError::from_parts(error.reason(), &fields), Ok(error.clone()));
        for text in [error.to_string(), error.remedy()] {
            assert!(!text.is_empty() && !text.contains(['\n', '{', '}']) && !text.ends_with('.'), "{text}");
        }
    }
}

/// What the platform refuses passes the facade as it was, and so does that it is away.
#[tokio::test]
async fn errors_of_the_platform_arrive_as_they_were() {
    let node = Node::start().await;
    let client = node.console();
    for error in [
        PlatformError::NotFound { kind: ObjectKind::Set, name: "db/pg-1".into() },
        PlatformError::Unavailable { problem: "no interposer answers".into(), advice: "start it".into() },
    ] {
        node.fake.fail_next(error.clone());
        assert_eq!(client.status(Scope::All).await, Err(ClientError::Refused(error)));
    }
    node.stop().await;
}
