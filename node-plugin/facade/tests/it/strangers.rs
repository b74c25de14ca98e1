//! Who is let in, and who may do what.

use crate::authority::{Authority, NOW};
use crate::fenced::every_change;
use crate::node::{CONSOLE, NODE, Node, OPERATOR, PATIENCE, fence};
use crate::raw;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use umbra_facade::ClientError;
use umbra_facade::client::Target;
use umbra_facade::{Client, FacadeError, FenceKeeper};
use umbra_platform::CallDeadlines;
use umbra_platform::call::Scope;
use umbra_platform::status::Mode;

#[tokio::test]
async fn the_console_reads_and_changes_nothing() {
    let (node, master, set) = Node::with_set(Mode::Dependent).await;
    let console = node.console();
    let before = console.status(Scope::All).await.expect("it may read");
    for (name, refused) in every_change(&console, fence(7), master.id, set.id).await {
        let Err(ClientError::Denied(FacadeError::Forbidden { caller, what })) = refused else {
            panic!("{name}: {refused:?}")
        };
        assert_eq!(caller.as_str(), "the console");
        assert_eq!(what.as_str(), format!("change anything by {name}"));
    }
    assert_eq!(console.status(Scope::All).await.expect("it may read"), before);
    let kept = FenceKeeper::new(node.directory.path());
    assert_eq!(kept.admit(fence(1)).await, Ok(()), "its fence was not taken");
    node.stop().await;
}

#[tokio::test]
async fn other_identities_get_nothing() {
    let node = Node::start().await;
    for uris in [
        &[][..],
        &[NODE],
        &["spiffe://umbra/staging/operator"],
        &["spiffe://umbra/prod/operator/"],
        &["spiffe://elsewhere/prod/operator"],
        &[OPERATOR, CONSOLE],
    ] {
        let files = node.caller_files(uris, NOW);
        let refused = node.client_with(files, CallDeadlines::default()).list().await;
        let refused = refused.expect_err("nobody we know");
        assert_eq!(refused.reason(), "FORBIDDEN", "{uris:?}: {refused}");
    }
    node.operator().list().await.expect("others are served");
    node.stop().await;
}

#[tokio::test]
async fn certificates_that_are_not_valid_let_nobody_in() {
    let node = Node::start().await;
    let foreign = Authority::new("somebody else");
    let mine = &node.authority;
    let directory = |name: &str| node.directory.path().join(name);
    for (why, files) in [
        ("expired", node.caller_files(&[OPERATOR], 2019..2020)),
        ("not yet valid", node.caller_files(&[OPERATOR], 3999..4000)),
        ("of another authority", foreign.write(&directory("foreign"), &[OPERATOR], NOW, &[mine])),
        // The client does not take the node's, whatever the node thinks of it.
        ("no trust in the node", mine.write(&directory("distrust"), &[OPERATOR], NOW, &[&foreign])),
    ] {
        let refused = node.client_with(files, CallDeadlines::default()).list().await;
        let refused = refused.expect_err(why);
        assert_eq!(refused.reason(), "NOT_TRUSTED", "{why}: {refused}");
    }
    node.operator().list().await.expect("others are served");
    node.stop().await;
}

/// What answers at the address must be the node that is meant: not another one of the cluster, and no operator.
#[tokio::test]
async fn a_client_speaks_to_its_node_only() {
    let node = Node::start().await;
    for (cluster, name) in [("prod", "b"), ("staging", "a")] {
        let target = Target {
            cluster: cluster.parse().expect("a name"),
            node: name.parse().expect("a name"),
            ..node.target()
        };
        let files = node.caller_files(&[OPERATOR], NOW);
        let client = Client::new(target, files, CallDeadlines::default()).expect("certificates");
        let refused = client.list().await.expect_err("another node answers");
        assert_eq!(refused.reason(), "NOT_TRUSTED", "{refused}");
        assert!(refused.to_string().contains(NODE), "{refused}");
    }
    let server = node.directory.path().join("server");
    node.authority.write(&server, &[OPERATOR], NOW, &[&node.authority]);
    let refused = node.operator().list().await.expect_err("the operator is no node");
    assert_eq!(refused.reason(), "NOT_TRUSTED");
    node.stop().await;
}

#[tokio::test]
async fn without_a_certificate_nobody_is_let_in() {
    let node = Node::start().await;
    let mut roots = RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_slice(node.authority.pem().as_bytes());
    roots.add(authority.expect("a certificate")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(raw::AnyServer))
        .with_no_client_auth();
    let stream = TcpStream::connect(&node.address).await.expect("a door");
    let name = ServerName::try_from("a.invalid").expect("a name");
    // In TLS 1.3 the client hears of it when it reads.
    let refused = match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(mut stream) => {
            let reading = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
            reading.expect("it is told").expect_err("nothing to read")
        }
        Err(refused) => refused,
    };
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    node.operator().list().await.expect("others are served");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_not_there_is_told_from_one_that_refuses() {
    let node = Node::start().await;
    let client = node.operator();
    client.list().await.expect("it is there");
    node.stop().await;
    let gone = client.list().await.expect_err("the server is stopped");
    assert_eq!(gone.reason(), "NOT_REACHABLE", "{gone}");
    assert!(gone.remedy().contains("umbra-node"), "{}", gone.remedy());
}
