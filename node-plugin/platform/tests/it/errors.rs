//! The table of errors: complete, stable, and the same on both ends of the wire.

use crate::node::Node;
use crate::samples;
use std::collections::{BTreeSet, HashMap};
use umbra_platform::PlatformError;
use umbra_platform::call::Scope;
use umbra_platform::client::ClientError;
use umbra_platform::error::UnknownError;

#[test]
fn every_variant_has_a_sample_and_a_reason_of_its_own() {
    let reasons: BTreeSet<_> = PlatformError::REASONS.iter().copied().collect();
    assert_eq!(reasons.len(), PlatformError::REASONS.len(), "a reason is used twice");
    let sampled: BTreeSet<_> = samples::all().iter().map(PlatformError::reason).collect();
    assert_eq!(sampled, reasons);
    for reason in reasons {
        assert!(reason.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{reason} is not UPPER_SNAKE");
    }
}

/// Reasons are API: programs and dashboards know them. This list only grows.
#[test]
fn no_reason_that_was_ever_published_is_gone() {
    let published = "NOT_FOUND ALREADY_EXISTS ALREADY_IN_ROLE VOLUME_IN_USE MOUNTED SAME_DEVICE NOT_A_VOLUME \
        SHADOW_TOO_SMALL BITMAP_TOO_SMALL READ_ONLY_DEVICE BLOCK_SIZE_MISMATCH BITMAP_FOREIGN BITMAP_STALE \
        BITMAP_DAMAGED SESSION_OPEN IDENTITY_CHANGED IDENTITY_WEAK SIZE_CHANGED MASTER_WRITTEN_OUTSIDE \
        MASTER_INCOMPLETE COPYING \
        COPY_PENDING OPPOSITE_PENDING SAME_MASTER OFFLINE GIVEN_UP INCOMPLETE HAS_OPENERS PROTECTED STALE_EPOCH \
        CUT_VOID REQUEST_REUSED BAD_ARGUMENT LIMIT_REACHED UNSUPPORTED_HOST DEADLINE IO STOPPING";
    assert_eq!(published.split_whitespace().collect::<Vec<_>>(), PlatformError::REASONS);
}

#[test]
fn reason_and_fields_are_the_whole_error() {
    for error in samples::all() {
        let fields: HashMap<String, String> =
            error.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(PlatformError::from_parts(error.reason(), &fields), Ok(error.clone()));
        for name in fields.keys() {
            let mut fewer = fields.clone();
            fewer.remove(name);
            let missing = PlatformError::from_parts(error.reason(), &fewer).expect_err("a field is missing");
            assert!(matches!(missing, UnknownError::Missing { .. }), "{missing}");
        }
    }
    let unknown = PlatformError::from_parts("FROM_THE_FUTURE", &HashMap::new());
    assert_eq!(unknown, Err(UnknownError::Reason("FROM_THE_FUTURE".into())));
}

#[test]
fn text_and_remedy_are_sentences_without_an_end() {
    for error in samples::all() {
        for text in [error.to_string(), error.remedy()] {
            assert!(!text.is_empty() && !text.contains(['\n', '{', '}']) && !text.ends_with('.'), "{text}");
        }
    }
}

/// The longest errors pass through the trailers of a real answer, unabridged.
#[tokio::test]
async fn every_error_arrives_as_it_was() {
    let node = Node::start().await;
    for error in samples::all() {
        node.fake.fail_next(error.clone());
        let answer = node.client.status(Scope::All).await;
        assert_eq!(answer, Err(ClientError::Refused(error)));
    }
    node.stop().await;
}
