//! Certificates are exchanged while calls run.

use crate::authority::{Authority, NOW};
use crate::node::{NODE, Node, OPERATOR};
use tokio_stream::StreamExt;
use umbra_platform::CallDeadlines;
use umbra_platform::call::{Cadence, Scope, Watch};
use umbra_platform::status::Mode;
use umbra_platform::time::Millis;

#[tokio::test]
async fn an_authority_is_exchanged_under_a_watch() {
    let (node, _, _) = Node::with_set(Mode::Dependent).await;
    let server = node.directory.path().join("server");
    let caller = node.caller_files(&[OPERATOR], NOW);
    let client = node.client_with(caller.clone(), CallDeadlines::default());
    let watch = Watch { scope: Scope::All, cadence: Cadence::Every(Millis(100)) };
    let mut statuses = client.watch(watch).await.expect("a watch");
    statuses.next().await.expect("one").expect("a status");

    // Both trust both, then the node shows the new one, then both trust only that.
    let (old, new) = (&node.authority, Authority::new("umbra, the second"));
    old.write(&server, &[NODE], NOW, &[old, &new]);
    let directory = caller.key.parent().expect("a directory");
    new.write(directory, &[OPERATOR], NOW, &[old, &new]);
    let renewed = || node.client_with(caller.clone(), CallDeadlines::default());
    renewed().list().await.expect("both are trusted");
    new.write(&server, &[NODE], NOW, &[&new]);
    renewed().list().await.expect("the new one is trusted");
    let left_behind = node.operator().list().await.expect_err("the old one is not trusted any more");
    assert_eq!(left_behind.reason(), "NOT_TRUSTED");

    // The watch has seen nothing of it.
    for _ in 0..3 {
        statuses.next().await.expect("more").expect("a status");
    }
    drop(statuses);
    node.stop().await;
}

#[tokio::test]
async fn files_that_do_not_go_together_change_nothing() {
    let node = Node::start().await;
    let files = node.server_files();
    let good: Vec<_> = [&files.certificate, &files.key, &files.authorities]
        .map(|file| std::fs::read(file).expect("read"))
        .into();
    let elsewhere = node.caller_files(&[NODE], NOW);
    let other_key = std::fs::read(&elsewhere.key).expect("read");
    for (file, bad) in [
        (&files.certificate, b"".as_slice()),
        (&files.certificate, b"no PEM"),
        (&files.key, &other_key),
        (&files.key, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        (&files.authorities, b""),
        (&files.authorities, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        std::fs::write(file, bad).expect("written");
        node.operator().list().await.expect("the last that went together are used");
        for (file, good) in [&files.certificate, &files.key, &files.authorities].into_iter().zip(&good) {
            std::fs::write(file, good).expect("written");
        }
    }
    std::fs::remove_file(&files.key).expect("removed");
    node.operator().list().await.expect("the last that were there are used");
    node.stop().await;
}

/// A node whose certificate is over says so itself: its callers only find no connection.
#[test]
fn a_certificate_that_is_over_is_told_from_one_that_cannot_be_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let (authority, stranger) = (Authority::new("umbra"), Authority::new("umbra"));
    let now = std::time::SystemTime::now();
    let expired = |years, trusted: &Authority| {
        let files = authority.write(directory.path(), &["spiffe://umbra/prod/node/a"], years, &[trusted]);
        files.has_expired(now).map_err(|error| error.to_string())
    };
    assert_eq!(expired(NOW, &authority), Ok(false));
    assert_eq!(expired(2019..2020, &authority), Ok(true));
    let foreign = expired(NOW, &stranger).expect_err("of another authority");
    assert!(foreign.contains("tls.crt"), "{foreign}");
}
