//! A plugin that is served, the platform behind it, and loop devices where an interposer would have its own.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use umbra_csi::wire::csi;
use umbra_csi::wire::csi::identity_client::IdentityClient;
use umbra_csi::wire::csi::node_client::NodeClient;
use umbra_csi::wire::csi::volume_capability::{
    AccessMode, AccessType, BlockVolume, MountVolume, access_mode,
};
use umbra_csi::{Ledger, Linux, Plugin, Refusal, ServeError, Sockets, Volumes};
use umbra_platform::call::{AttachMaster, EnableSet, WipeSignatures};
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::id::{MasterId, MasterRef, RequestId, SetId, SetName};
use umbra_platform::status::{Deadlines, Mode, Unrecordable};
use umbra_platform::value::{ByteCount, QueueDepth};
use umbra_platform::wire::fault;
use umbra_platform::{CallDeadlines, Client, Platform, Socket};

/// Where an interposer has its devices.
const PRESENTED: &str = "/dev/umbra/by-id";
/// Size of the devices.
pub(crate) const DEVICE_BYTES: u64 = 64 << 20;

/// The node.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) fake: Arc<Fake>,
    pub(crate) master: MasterId,
    pub(crate) set: SetId,
}

impl World {
    /// A master and a set. Nothing is served yet.
    pub(crate) async fn new() -> Self {
        let fake = Fake::new();
        for name in ["master", "shadow", "bitmap"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(DEVICE_BYTES), name));
        }
        let attach = AttachMaster {
            request: RequestId::random(),
            device: "/dev/master".parse().expect("a path"),
            name: "pg".parse().expect("a name"),
            expected_identity: None,
            accept_weak_identity: false,
            ublk: None,
            queue_depth: QueueDepth::default(),
        };
        let master = fake.attach_master(attach).await.expect("attached").id;
        let enable = EnableSet {
            request: RequestId::random(),
            master: MasterRef::Id(master),
            name: SetName { cluster: None, namespace: None, name: "nightly".parse().expect("a name") },
            mode: Mode::Dependent,
            shadow: "/dev/shadow".parse().expect("a path"),
            bitmap: "/dev/bitmap".parse().expect("a path"),
            chunk: None,
            deadlines: Deadlines::default(),
            unrecordable: Unrecordable::default(),
            protected: false,
            wipe: WipeSignatures::default(),
        };
        let set = fake.enable_set(enable).await.expect("enabled").id;
        Self { folder: tempfile::tempdir().expect("a folder"), fake, master, set }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Serves the platform, as umbra-io does.
    pub(crate) async fn serve_platform(&self) {
        let socket = Socket::bind(&self.path("io.sock")).await.expect("a free path");
        tokio::spawn(umbra_platform::serve(socket, Arc::clone(&self.fake), std::future::pending()));
    }

    /// A process of the plugin.
    pub(crate) async fn serve(&self) -> Served {
        let linux = Linux::new(&self.path("state")).expect("the ledger is ours");
        let ledger = Ledger::open(Arc::new(linux)).expect("it can be read");
        let platform = Client::lazy(&self.path("io.sock"), CallDeadlines::default());
        let plugin = Plugin::new("node-a".into(), platform, Volumes::new(ledger.clone()));
        let sockets = Sockets::of_kubelet(&self.path("kubelet"));
        let doors = sockets.bind().await.expect("free paths");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(umbra_csi::serve(plugin, doors, async {
            stopped.await.expect("the test says when");
        }));
        let channel = channel(&sockets.csi);
        Served {
            identity: IdentityClient::new(channel.clone()),
            node: NodeClient::new(channel),
            ledger,
            sockets,
            stop,
            server,
        }
    }
}

pub(crate) fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).expect("a path");
    endpoint.connect_lazy()
}

/// A plugin that is served.
pub(crate) struct Served {
    pub(crate) identity: IdentityClient<Channel>,
    pub(crate) node: NodeClient<Channel>,
    pub(crate) ledger: Ledger<Linux>,
    pub(crate) sockets: Sockets,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub(crate) async fn stop(self) {
        drop((self.identity, self.node, self.ledger));
        self.stop.send(()).expect("it runs");
        self.server.await.expect("no panic").expect("no failure");
        assert!(!self.sockets.csi.exists(), "the socket goes with the server");
    }
}

/// The refusal in an answer.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Refusal {
    let status = answer.expect_err("a refusal");
    fault::from_status(&status).unwrap_or_else(|| panic!("no refusal of ours: {status:?}"))
}

pub(crate) fn capability(
    access: Option<AccessType>,
    mode: access_mode::Mode,
) -> Option<csi::VolumeCapability> {
    Some(csi::VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: access })
}

pub(crate) fn directory(kind: &str) -> Option<AccessType> {
    Some(AccessType::Mount(MountVolume { fs_type: kind.into(), ..MountVolume::default() }))
}

pub(crate) fn block() -> Option<AccessType> {
    Some(AccessType::Block(BlockVolume {}))
}

/// Whether devices and mounts can be made. Said where nothing hides it: whoever reads the output of a test that passed must
/// see that it has shown nothing.
pub(crate) fn may_mount(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        writeln!(io::stderr(), "SKIPPED {test}: loop devices and mounts need root").expect("written");
    }
    is_root
}

/// Runs a program, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// A loop device where the interposer would present a volume. It goes with the test, and so does what is mounted below the
/// folder of its file.
pub(crate) struct Presented {
    pub(crate) device: PathBuf,
    pub(crate) file: PathBuf,
    link: PathBuf,
}

impl Presented {
    /// An empty one.
    pub(crate) fn new(file: PathBuf, id: impl std::fmt::Display) -> Self {
        Self::sized(file, id, DEVICE_BYTES)
    }

    /// An empty one of so many bytes.
    pub(crate) fn sized(file: PathBuf, id: impl std::fmt::Display, bytes: u64) -> Self {
        fs::File::create(&file).expect("created").set_len(bytes).expect("sized");
        let device = run("losetup", &["--find", "--show", &file.display().to_string()]);
        let device = PathBuf::from(device.trim());
        let link = Path::new(PRESENTED).join(id.to_string());
        fs::create_dir_all(PRESENTED).expect("made");
        symlink(&device, &link).expect("linked");
        Self { device, file, link }
    }

    /// With a file system.
    pub(crate) fn with(self, make: &str) -> Self {
        run(make, &["-q", &self.device.display().to_string()]);
        self
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        let device = self.device.display().to_string();
        // Of a test that failed.
        let folder = self.file.parent().expect("a file in a folder").display().to_string();
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for at in table.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if at.starts_with(&folder) {
                Command::new("umount").arg(at).status().ok();
            }
        }
        Command::new("losetup").args(["--detach", &device]).status().ok();
        fs::remove_file(&self.link).ok();
    }
}
