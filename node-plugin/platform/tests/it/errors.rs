//! The table of errors: complete, stable, and the same on both ends of the wire.

use crate::node::Node;
use crate::samples;
use std::collections::{BTreeSet, HashMap};
use umbra_platform::PlatformError;
use umbra_platform::call::Scope;
use umbra_platform::client::ClientError;
use umbra_platform::error::UnknownError;
use umbra_platform::status::{Role, WaitReason, WaitingFor};
use umbra_platform::time::WallTime;
use umbra_platform::value::ByteCount;

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
        CUT_VOID REQUEST_REUSED BAD_ARGUMENT LIMIT_REACHED UNSUPPORTED_HOST DEADLINE IO STOPPING \
        FOREIGN PRESENTED_DEVICE SAME_DEVICE_AS NAME_TAKEN HAS_SIGNATURE CHUNK_SIZE_FIXED HUNG BLOCKED UNAVAILABLE";
    let published: BTreeSet<_> = published.split_whitespace().collect();
    assert_eq!(published, PlatformError::REASONS.iter().copied().collect());
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

/// What the remedies of these errors name is there: commands that exist, with the objects at hand.
#[test]
fn remedies_name_commands_that_work() {
    let device = || "/dev/sdb".parse().expect("a path");
    let signatures = "ext4:1b4e28ba-2fa1-11d2-883f-0016d3cca427 gpt:77".parse().expect("two signatures");
    let wait = |reason| {
        PlatformError::blocked(
            "pg".parse().expect("a name"),
            &WaitingFor { reason, what: "it".into(), since: WallTime::from_unix_millis(0) },
        )
    };
    let bitmap = device();
    let small = PlatformError::BitmapTooSmall { bitmap, actual: ByteCount(1), needed: ByteCount(1 << 20) };
    let used = PlatformError::VolumeInUse { device: device(), holder: "mounted at /srv; unmount it".into() };
    assert_eq!(used.to_string(), "/dev/sdb is in use: mounted at /srv; unmount it");
    for (error, has, has_not) in [
        (
            PlatformError::HasSignature { device: device(), role: Role::Shadow, signatures },
            "--wipe-signature ext4:1b4e28ba-2fa1-11d2-883f-0016d3cca427 --wipe-signature gpt:77",
            "{",
        ),
        (wait(WaitReason::WrittenOutside), "umbra-io ctl accept pg --images lost", "wait"),
        (wait(WaitReason::Recovering), "umbra-io ctl status", "accept"),
        (small, "at least 1Mi", "chunks"),
        (
            PlatformError::no_master(&"pg".parse().expect("a name")),
            "umbra-io ctl attach",
            "look at the names",
        ),
        (
            PlatformError::GivenUp { set: "s1".parse().expect("a name"), cause: "gone".into() },
            "start umbra-io again, then umbra-io ctl reset s1",
            "which takes a new image",
        ),
    ] {
        let remedy = error.remedy();
        assert!(remedy.contains(has) && !remedy.contains(has_not), "{remedy}");
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
