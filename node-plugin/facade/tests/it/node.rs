//! A node for tests: its files, a fake that it serves, and a server that can be started anew.

use crate::authority::{Authority, NOW};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use umbra_facade::client::Target;
use umbra_facade::listen::{Doors, TlsDoor};
use umbra_facade::node::{About, Finding, FindingReason};
use umbra_facade::server::ServeError;
use umbra_facade::{Client, CredentialFiles, Credentials, Facade, Fence, FenceKeeper, serve};
use umbra_platform::call::{
    AttachMaster, AttachedMaster, CopyKind, CopySets, Direction, EnableSet, EnabledSet, SetTarget,
    WipeSignatures,
};
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::id::{MasterId, RequestId, SetId, SetName};
use umbra_platform::status::{Deadlines, Mode, Unrecordable};
use umbra_platform::value::{ByteCount, DevicePath, QueueDepth};
use umbra_platform::{CallDeadlines, Socket};

/// Long enough for the slowest machine; nothing waits for it unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
pub(crate) const OPERATOR: &str = "spiffe://umbra/prod/operator";
pub(crate) const CONSOLE: &str = "spiffe://umbra/prod/console";
pub(crate) const NODE: &str = "spiffe://umbra/prod/node/a";

/// A server that runs: how it is stopped, and how it has ended.
type Serving = (oneshot::Sender<()>, JoinHandle<Result<(), ServeError>>);

pub(crate) struct Node {
    pub(crate) fake: Arc<Fake>,
    pub(crate) authority: Authority,
    pub(crate) directory: TempDir,
    pub(crate) facade: Facade<Fake>,
    pub(crate) address: String,
    server: Option<Serving>,
}

impl Node {
    /// A node `a` of the cluster `prod` with four disks: `/dev/master`, `/dev/other`, `/dev/shadow`, `/dev/shadow2` of
    /// 1 MiB, and bitmap volumes `/dev/bitmap`, `/dev/bitmap2` of 32 MiB. Nothing is attached.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new("umbra");
        authority.write(&directory.path().join("server"), &[NODE], NOW, &[&authority]);
        let fake = Fake::new();
        for name in ["master", "other", "shadow", "shadow2"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(MIB), name));
        }
        for name in ["bitmap", "bitmap2"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(32 * MIB), name));
        }
        let facade = facade(&fake, directory.path());
        let address = String::new();
        let mut node = Self { fake, authority, directory, facade, address, server: None };
        node.serve().await;
        node
    }

    /// A node with a master attached and a set of 16 chunks enabled.
    pub(crate) async fn with_set(mode: Mode) -> (Self, AttachedMaster, EnabledSet) {
        let node = Self::start().await;
        let client = node.operator();
        let master = client.attach(fence(1), attach("pg", "/dev/master")).await.expect("attach");
        let set = client.enable(fence(1), enable("pg-1", master.id, mode)).await.expect("enable");
        (node, master, set)
    }

    async fn serve(&mut self) {
        // The address stays, as that of a node does.
        let wanted = if self.address.is_empty() { "127.0.0.1:0" } else { &self.address };
        let listener = TcpListener::bind(wanted).await.expect("a free port");
        self.address = listener.local_addr().expect("an address").to_string();
        let credentials = Arc::new(Credentials::of_server(self.server_files()).expect("certificates"));
        let cluster = "prod".parse().expect("a name");
        let doors = Doors {
            tls: Some(TlsDoor { listener, credentials, cluster }),
            local: Some(Socket::bind(&self.socket()).await.expect("a free path")),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let facade = self.facade.clone();
        let server = tokio::spawn(async move {
            serve(facade, doors, async {
                stopped.await.expect("the test says when");
            })
            .await
        });
        self.server = Some((stop, server));
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("node.sock")
    }

    pub(crate) fn server_files(&self) -> CredentialFiles {
        let directory = self.directory.path().join("server");
        CredentialFiles {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
            authorities: directory.join("ca.crt"),
        }
    }

    /// Files for a caller with these URIs, issued by the node's authority.
    pub(crate) fn caller_files(&self, uris: &[&str], years: Range<i32>) -> CredentialFiles {
        let directory = self.directory.path().join(format!("caller-{}", RequestId::random()));
        self.authority.write(&directory, uris, years, &[&self.authority])
    }

    pub(crate) fn client_with(&self, files: CredentialFiles, deadlines: CallDeadlines) -> Client {
        Client::new(self.target(), files, deadlines).expect("certificates")
    }

    pub(crate) fn target(&self) -> Target {
        let (cluster, node) = ("prod".parse().expect("a name"), "a".parse().expect("a name"));
        Target { address: self.address.clone(), cluster, node }
    }

    pub(crate) fn client(&self, uri: &str) -> Client {
        self.client_with(self.caller_files(&[uri], NOW), CallDeadlines::default())
    }

    pub(crate) fn operator(&self) -> Client {
        self.client(OPERATOR)
    }

    pub(crate) fn console(&self) -> Client {
        self.client(CONSOLE)
    }

    async fn end(&mut self) {
        let (stop, server) = self.server.take().expect("it runs");
        stop.send(()).expect("the server runs");
        let ended = tokio::time::timeout(PATIENCE, server).await.expect("the server ends");
        ended.expect("no panic").expect("no failure");
    }

    /// Ends the process of the node, as far as a test can, and starts it anew: only its files and the platform stay.
    pub(crate) async fn restart(&mut self) {
        self.end().await;
        self.facade = facade(&self.fake, self.directory.path());
        self.serve().await;
    }

    /// From now on the node's administrator lets no other devices be used.
    pub(crate) async fn allow(&mut self, allows: impl Fn(&DevicePath) -> bool + Send + Sync + 'static) {
        self.end().await;
        self.facade = facade(&self.fake, self.directory.path()).with_devices(allows);
        self.serve().await;
    }

    /// Stops the server and sees it end.
    pub(crate) async fn stop(mut self) {
        self.end().await;
    }
}

fn facade(fake: &Arc<Fake>, directory: &Path) -> Facade<Fake> {
    Facade::new(Arc::clone(fake), FenceKeeper::new(directory), about)
}

/// What the node says about itself.
pub(crate) fn about() -> About {
    let finding = Finding {
        reason: FindingReason::MemlockTooLow,
        what: "64Ki may be locked".into(),
        remedy: "raise the limit".into(),
    };
    About { name: "a".into(), version: "0.1.0".into(), findings: vec![finding] }
}

pub(crate) fn fence(number: u64) -> Fence {
    Fence::new(number).expect("above 0")
}

pub(crate) fn attach(name: &str, device: &str) -> AttachMaster {
    AttachMaster {
        request: RequestId::random(),
        device: device.parse().expect("a path"),
        name: name.parse().expect("a name"),
        expected_identity: None,
        accept_weak_identity: false,
        ublk: None,
        queue_depth: QueueDepth::default(),
    }
}

pub(crate) fn enable(name: &str, master: MasterId, mode: Mode) -> EnableSet {
    EnableSet {
        request: RequestId::random(),
        master: master.into(),
        name: SetName {
            cluster: Some("prod".parse().expect("a name")),
            namespace: Some("db".parse().expect("a name")),
            name: name.parse().expect("a name"),
        },
        mode,
        shadow: "/dev/shadow".parse().expect("a path"),
        bitmap: "/dev/bitmap".parse().expect("a path"),
        chunk: None,
        deadlines: Deadlines::default(),
        unrecordable: Unrecordable::default(),
        protected: false,
        wipe: WipeSignatures::default(),
    }
}

pub(crate) fn target(set: SetId) -> SetTarget {
    SetTarget { set: set.into(), expected_epoch: None }
}

pub(crate) fn copy(set: SetId, direction: Direction, kind: CopyKind) -> CopySets {
    CopySets { request: RequestId::random(), sets: target(set).into(), direction, kind, cut: None }
}
