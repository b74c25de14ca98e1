//! The operator as the authority: how it comes about, whom it signs for, how it is exchanged, and that peers know each other by it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use umbra_facade::client::Target;
use umbra_facade::identity::Identity;
use umbra_facade::listen::{Doors, TlsDoor};
use umbra_facade::node::About;
use umbra_facade::request::{AUTHORITIES, AUTHORITIES_KEY, SIGNER, USAGES};
use umbra_facade::{Client, CredentialFolder, Credentials, Facade, FenceKeeper, Life, SigningRequest, serve};
use umbra_operator::authority::{
    ANNOUNCED_FOR, Authorities, AuthorityError, RETIRED_FOR, SECRET, Settings, answer, tend,
};
use umbra_operator::cluster::{Cluster, Key};
use umbra_platform::CallDeadlines;

use crate::bench::{Bench, Kill};

const SYSTEM: &str = "umbra-system";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A cluster, an operator's own folder, and nodes that ask.
struct World {
    bench: Bench,
    directory: TempDir,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let bench = Bench::new();
        for node in ["a", "b"] {
            let pod = json!({"metadata": {"name": format!("umbra-node-{node}"), "namespace": "umbra-node"},
                "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"}});
            bench.make::<Pod>(&pod);
        }
        let settings = Settings {
            cluster: "prod".parse().expect("a name"),
            namespace: SYSTEM.into(),
            node_namespace: "umbra-node".into(),
            folder: folder(&directory, "operator", "spiffe://umbra/prod/operator"),
        };
        Self { bench, directory, settings }
    }

    /// An administrator wants another authority.
    fn ask_for_exchange(&self) {
        let mut secret = self.secret();
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert("imaging.umbra.dev/rotate".into(), "now".into());
        self.bench.objects.replace(&secret, false).expect("nobody else writes");
    }

    fn node_folder(&self, node: &str) -> CredentialFolder {
        folder(&self.directory, node, &format!("spiffe://umbra/prod/node/{node}"))
    }

    /// A pod of `runs_on` asks to be certified with this request.
    fn ask(&self, name: &str, runs_on: &str, request: &SigningRequest) -> Key {
        let pod = format!("umbra-node-{runs_on}");
        let living = self.bench.objects.get::<Pod>(&Key::namespaced("umbra-node", &pod)).expect("a pod");
        let extra = BTreeMap::from([
            ("authentication.kubernetes.io/node-name", [runs_on.to_owned()]),
            ("authentication.kubernetes.io/pod-name", [pod]),
            ("authentication.kubernetes.io/pod-uid", [living.metadata.uid.expect("a uid")]),
        ]);
        let mut asked: CertificateSigningRequest = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"request": "", "signerName": SIGNER, "usages": USAGES, "extra": extra,
                "username": "system:serviceaccount:umbra-node:umbra-node"},
        }))
        .expect("a request");
        asked.spec.request.0 = request.pem.clone().into_bytes();
        self.bench.objects.create(&asked).expect("it is new");
        Key::cluster(name)
    }

    async fn tend(&self, now: SystemTime) -> Result<(), AuthorityError> {
        tend(&self.bench, &self.settings, now).await
    }

    async fn answer(&self, key: &Key, now: SystemTime) -> Result<(), AuthorityError> {
        answer(&self.bench, &self.settings, key, now).await.map(drop)
    }

    fn request(&self, key: &Key) -> CertificateSigningRequest {
        self.bench.objects.get(key).expect("it is there")
    }

    fn conditions(&self, key: &Key) -> Vec<String> {
        let conditions = self.request(key).status.and_then(|status| status.conditions).unwrap_or_default();
        conditions
            .into_iter()
            .map(|found| format!("{} {}", found.type_, found.reason.unwrap_or_default()))
            .collect()
    }

    fn certificate(&self, key: &Key) -> Option<String> {
        let bytes = self.request(key).status?.certificate?.0;
        Some(String::from_utf8(bytes).expect("PEM"))
    }

    fn secret(&self) -> Secret {
        self.bench.objects.get(&Key::namespaced(SYSTEM, SECRET)).expect("it is there")
    }

    fn bundle(&self) -> String {
        let map: ConfigMap =
            self.bench.objects.get(&Key::namespaced(SYSTEM, AUTHORITIES)).expect("it is there");
        map.data.unwrap_or_default().remove(AUTHORITIES_KEY).expect("a bundle")
    }

    /// A node asks, is answered, and keeps what it gets.
    async fn certified(&self, node: &str, name: &str, now: SystemTime) -> (CredentialFolder, Life) {
        let folder = self.node_folder(node);
        let request = SigningRequest::new(folder.identity()).expect("a request");
        let key = self.ask(name, node, &request);
        self.answer(&key, now).await.expect("an answer");
        folder.keep_authorities(&self.bundle()).expect("authorities");
        let certificate = self.certificate(&key).expect("signed");
        let life = folder.keep(&certificate, &request.key, now).expect("usable");
        (folder, life)
    }
}

fn folder(directory: &TempDir, name: &str, identity: &str) -> CredentialFolder {
    let identity: Identity = identity.parse().expect("an identity");
    CredentialFolder::open(&directory.path().join(name), identity).expect("a folder")
}

#[tokio::test]
async fn the_first_leader_makes_the_authority_and_at_rest_nothing_is_written() {
    let (world, now) = (World::new(), SystemTime::now());
    world.tend(now).await.expect("made");
    assert_eq!(world.bundle(), Authorities::read(&world.secret()).expect("read").bundle());
    let life = world.settings.folder.held(now).expect("its own certificate");
    let before = world.bench.objects.version();
    world.tend(now + DAY).await.expect("at rest");
    assert_eq!(world.bench.objects.version(), before);
    // Its own is renewed when two thirds of it are over; what somebody did to the bundle is undone.
    world.tend(life.renew_at()).await.expect("at rest");
    assert!(world.settings.folder.held(life.renew_at()).expect("the next").ends > life.ends);
    let bundle = world.bundle();
    let mut map: ConfigMap = world.bench.objects.get(&Key::namespaced(SYSTEM, AUTHORITIES)).expect("one");
    map.data = None;
    world.bench.objects.replace(&map, false).expect("nobody else writes");
    world.tend(now).await.expect("mended");
    assert_eq!(world.bundle(), bundle);
}

/// Killed before and after each call: the next goes on, and there is one authority and one certificate.
#[tokio::test]
async fn a_kill_anywhere_leaves_what_the_next_goes_on_with() {
    let now = SystemTime::now();
    for call in 0.. {
        let mut is_over = true;
        for kill in [Kill::Before(call), Kill::After(call)] {
            let world = World::new();
            let request = SigningRequest::new(world.node_folder("a").identity()).expect("a request");
            let key = world.ask("one", "a", &request);
            world.bench.kill(kill);
            let killed = world.tend(now).await.is_err() || world.answer(&key, now).await.is_err();
            is_over &= !killed;
            let made = world.bench.objects.get::<Secret>(&Key::namespaced(SYSTEM, SECRET));
            world.bench.revive();
            world.tend(now).await.expect("the next goes on");
            world.answer(&key, now).await.expect("the next goes on");
            assert!(
                made.is_none_or(|made| made.data == world.secret().data),
                "{kill:?}: there is one authority"
            );
            assert_eq!(world.conditions(&key), ["Approved AsksForItself"], "{kill:?}");
            let folder = world.node_folder("a");
            folder.keep_authorities(&world.bundle()).expect("authorities");
            let certificate = world.certificate(&key).expect("signed");
            folder.keep(&certificate, &request.key, now).expect("usable");
        }
        if is_over {
            return;
        }
    }
}

/// Of two that lead at one moment one makes it, and both sign with that.
#[tokio::test]
async fn two_operators_agree() {
    let (world, now) = (World::new(), SystemTime::now());
    let other = Settings {
        folder: folder(&world.directory, "other", "spiffe://umbra/prod/operator"),
        ..world.settings.clone()
    };
    let (one, two) = tokio::join!(world.tend(now), tend(&world.bench, &other, now));
    one.and(two).expect("made");
    let bundle = std::fs::read_to_string(other.folder.files().authorities).expect("read");
    assert_eq!(bundle, world.bundle());
    other.folder.held(now).expect("usable");
    world.settings.folder.held(now).expect("usable");
}

#[tokio::test]
async fn who_does_not_ask_for_itself_is_told_why_and_gets_nothing() {
    let (world, now) = (World::new(), SystemTime::now());
    world.tend(now).await.expect("made");
    let request = SigningRequest::new(world.node_folder("a").identity()).expect("a request");
    let forged = world.ask("forged", "b", &request);
    world.answer(&forged, now).await.expect("an answer");
    assert_eq!(world.conditions(&forged), ["Denied OtherNode"]);
    let message = world.request(&forged).status.and_then(|status| status.conditions?.pop()?.message);
    assert!(message.is_some_and(|text| text.contains("runs on b") && text.contains("--node b")));
    // Answered is answered.
    let before = world.bench.objects.version();
    world.answer(&forged, now).await.expect("an answer");
    assert_eq!((world.bench.objects.version(), world.certificate(&forged)), (before, None));

    // An approval of somebody else is none of ours.
    let approved = world.ask("approved", "b", &request);
    let mut object = world.request(&approved);
    let condition = json!([{"type": "Approved", "status": "True", "reason": "ByHand"}]);
    object.status.get_or_insert_default().conditions = serde_json::from_value(condition).expect("conditions");
    world.bench.replace_approval(&object).await.expect("written");
    world.answer(&approved, now).await.expect("an answer");
    assert_eq!(world.conditions(&approved), ["Approved ByHand", "Failed OtherNode"]);
    assert_eq!(world.certificate(&approved), None);

    // Requests for other signers are nobody's business here.
    let mut other = world.request(&forged);
    other.metadata = serde_json::from_value(json!({"name": "other"})).expect("metadata");
    (other.spec.signer_name, other.status) = ("kubernetes.io/kubelet-serving".into(), None);
    world.bench.objects.create(&other).expect("it is new");
    world.answer(&Key::cluster("other"), now).await.expect("left alone");
    assert!(world.conditions(&Key::cluster("other")).is_empty());
}

/// Every certificate that is valid is trusted by everybody who looks each minute, at every moment of an exchange.
#[tokio::test]
async fn an_exchange_leaves_nobody_behind() {
    let (world, begin) = (World::new(), SystemTime::now());
    world.tend(begin).await.expect("made");
    let old = Authorities::read(&world.secret()).expect("read").signing().certificate().to_owned();
    let (before, life) = world.certified("a", "before", begin).await;

    world.ask_for_exchange();
    world.tend(begin).await.expect("begun");
    assert_eq!(world.bundle().matches("BEGIN").count(), 2, "both are trusted");
    let signing = || Authorities::read(&world.secret()).expect("read").signing().certificate().to_owned();
    assert_eq!(signing(), old, "the new one does not sign yet");
    world.tend(begin + ANNOUNCED_FOR - Duration::from_secs(1)).await.expect("waits");
    assert_eq!(signing(), old);

    let switched = begin + ANNOUNCED_FOR;
    world.tend(switched).await.expect("switched");
    assert_ne!(signing(), old);
    let (after, _) = world.certified("b", "after", switched).await;
    before.keep_authorities(&world.bundle()).expect("authorities");
    after.held(switched).expect("of the new one");
    before.held(switched).expect("of the old one");
    world.tend(life.ends).await.expect("waits");
    before.keep_authorities(&world.bundle()).expect("authorities");
    before.held(life.ends - Duration::from_secs(1)).expect("to its last second");

    world.tend(switched + RETIRED_FOR).await.expect("forgotten");
    assert_eq!(world.bundle().matches("BEGIN").count(), 1);
    let version = world.bench.objects.version();
    world.tend(switched + RETIRED_FOR + DAY).await.expect("at rest");
    assert_eq!(world.bench.objects.version(), version, "it was asked for once");

    // A lost Secret is another authority, without a word to those that it finds.
    world.bench.objects.delete::<Secret>(&Key::namespaced(SYSTEM, SECRET)).expect("it is there");
    world.tend(switched + RETIRED_FOR + DAY).await.expect("made anew");
    assert_eq!(world.bundle().matches("BEGIN").count(), 1);
    world.settings.folder.held(switched + RETIRED_FOR + DAY).expect("its own is of it");
}

/// Handshakes of the real facade and its client with what was issued; in the middle of an exchange, too.
#[tokio::test]
async fn peers_know_each_other_by_what_was_issued_and_nobody_by_anothers() {
    let (world, now) = (World::new(), SystemTime::now());
    world.tend(now).await.expect("made");
    let (a, _) = world.certified("a", "a", now).await;
    let (b, _) = world.certified("b", "b", now).await;
    world.ask_for_exchange();
    world.tend(now).await.expect("begun");
    a.keep_authorities(&world.bundle()).expect("authorities");

    for (shown, of, expected) in [(&a, "a", Ok(())), (&b, "a", Err("NOT_TRUSTED")), (&b, "b", Ok(()))] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let credentials = Arc::new(Credentials::of_server(shown.files()).expect("a pair"));
        let tls = Some(TlsDoor { listener, credentials, cluster: "prod".parse().expect("a name") });
        let about = || About { name: "x".into(), version: "0".into(), findings: Vec::new() };
        let keeper = FenceKeeper::new(world.directory.path());
        let facade = Facade::new(Arc::clone(world.bench.fake("a")), keeper, about);
        let serving = tokio::spawn(serve(facade, Doors { tls, local: None }, std::future::pending()));
        let target =
            Target { address, cluster: "prod".parse().expect("a name"), node: of.parse().expect("a name") };
        let asked = async |files| {
            let client = Client::new(target.clone(), files, CallDeadlines::default()).expect("a pair");
            client.list().await.map(drop).map_err(|error| error.reason())
        };
        assert_eq!(
            asked(world.settings.folder.files()).await,
            expected,
            "node {of} with {}",
            shown.identity()
        );
        if expected.is_ok() {
            assert_eq!(asked(b.files()).await, Err("FORBIDDEN"), "a node may do nothing at another");
        }
        serving.abort();
    }
}
