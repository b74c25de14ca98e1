//! A node under test: the fake behind a served socket in a directory of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use umbra_platform::call::{
    AttachMaster, CopyKind, CopySets, Direction, EnableSet, EnabledSet, SetTarget, WipeSignatures,
};
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::id::{RequestId, SetName, SetRef};
use umbra_platform::server::ServeError;
use umbra_platform::status::{Deadlines, Mode, Unrecordable};
use umbra_platform::value::{ByteCount, QueueDepth};
use umbra_platform::{CallDeadlines, Client, Socket, serve};

/// Long enough for the slowest machine; nothing waits for it unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

pub(crate) struct Node {
    pub(crate) fake: Arc<Fake>,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
    _directory: TempDir,
}

impl Node {
    /// A node with four disks: `/dev/master`, `/dev/other`, `/dev/shadow`, `/dev/shadow2` of 1 MiB, and bitmap
    /// volumes `/dev/bitmap`, `/dev/bitmap2` of 32 MiB. Nothing is attached.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("io.sock");
        let fake = Fake::new();
        for name in ["master", "other", "shadow", "shadow2"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(MIB), name));
        }
        for name in ["bitmap", "bitmap2"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(32 * MIB), name));
        }
        let bound = Socket::bind(&socket).await.expect("a free path");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&fake);
        let server = tokio::spawn(async move {
            serve(bound, served, async {
                stopped.await.expect("the test says when");
            })
            .await
        });
        let client = Client::connect(&socket, CallDeadlines::default()).await.expect("a server");
        Self { fake, client, socket, stop, server, _directory: directory }
    }

    /// A node with master `pg` attached and a set `pg-1` of 16 chunks enabled.
    pub(crate) async fn with_set(mode: Mode) -> (Self, EnabledSet) {
        let node = Self::start().await;
        node.client.attach_master(attach("pg", "/dev/master")).await.expect("attach");
        let set = node.client.enable_set(enable("pg-1", mode)).await.expect("enable");
        (node, set)
    }

    /// Stops the server and sees it end.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("the server runs");
        let ended = tokio::time::timeout(PATIENCE, self.server).await.expect("the server ends");
        ended.expect("no panic").expect("no failure");
        assert!(!self.socket.exists(), "the socket is gone");
    }
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

pub(crate) fn enable(name: &str, mode: Mode) -> EnableSet {
    EnableSet {
        request: RequestId::random(),
        master: "pg".parse().expect("a name"),
        name: SetName { cluster: None, namespace: None, name: name.parse().expect("a name") },
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

pub(crate) fn set(name: &str) -> SetRef {
    name.parse().expect("a name")
}

pub(crate) fn target(name: &str) -> SetTarget {
    set(name).into()
}

pub(crate) fn copy(name: &str, direction: Direction, kind: CopyKind) -> CopySets {
    CopySets { request: RequestId::random(), sets: target(name).into(), direction, kind, cut: None }
}
