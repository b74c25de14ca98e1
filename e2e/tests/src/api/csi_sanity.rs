//! That the CSI plugin of a node keeps what the specification promises: `csi-sanity` against `umbra-node` as it is shipped.
//!
//! umbra-io is the one in memory; the devices that it presents are loop devices with an ext4, at the paths at which an
//! interposer has them. So mounts are real. The plugin has no Controller service, and csi-sanity makes its volumes by one: what
//! stands in for it hands out the volume that is there. It also stands in front of the node and says that there is a
//! Controller, for those of csi-sanity's tests that are skipped otherwise; calls of Node and Identity go through it as they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use umbra_csi::wire::csi;
use umbra_csi::wire::csi::controller_server::{Controller, ControllerServer};
use umbra_csi::wire::csi::identity_client::IdentityClient;
use umbra_csi::wire::csi::identity_server::{Identity, IdentityServer};
use umbra_csi::wire::csi::node_client::NodeClient;
use umbra_csi::wire::csi::node_server::{Node, NodeServer};
use umbra_lab::{csi_sanity, progress, static_binary};
use umbra_platform::call::AttachMaster;
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::id::{MasterId, RequestId};
use umbra_platform::value::{ByteCount, QueueDepth};
use umbra_platform::{Platform, Socket};

use super::Case;
use crate::kubernetes::programs::{Authority, CERTIFICATE, Running};

const PROGRAM: &str = "umbra-node";
/// Where an interposer has its devices.
const PRESENTED: &str = "/dev/umbra/by-id";
const DEVICE_BYTES: u64 = 64 << 20;
/// The tests of Identity and Node that need no Controller of the plugin, and those that do; all others are about what the
/// plugin has no capability for.
const WITHOUT_CONTROLLER: u32 = 21;
const WITH_CONTROLLER: u32 = 2;

/// Builds the programs, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    csi_sanity::program()?;
    progress::step(format_args!("building {PROGRAM}"), || static_binary(PROGRAM)).map(drop)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::on_host("csi_sanity/file-system", || sane("mount")),
        Case::on_host("csi_sanity/block", || sane("block")),
    ]
}

/// A file as a block device.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(folder: &Path) -> Result<Self> {
        let file = folder.join("disk");
        fs::File::create(&file)?.set_len(DEVICE_BYTES)?;
        said(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file))?;
        let path = said(Command::new("losetup").args(["--find", "--show"]).arg(&file))?;
        Ok(Self(path.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = said(Command::new("losetup").arg("--detach").arg(&self.0)) {
            eprintln!("{} is left behind: {error:#}", self.0.display());
        }
    }
}

/// A link that goes with the test.
struct Link(PathBuf);

impl Link {
    fn new(to: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(PRESENTED)?;
        let link = Path::new(PRESENTED).join(name);
        symlink(to, &link).with_context(|| format!("link {} to {}", link.display(), to.display()))?;
        Ok(Self(link))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}

/// What a program writes, if it succeeds.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn sane(access: &str) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    let folder = tempfile::tempdir()?;
    let device = LoopDevice::new(folder.path())?;
    let runtime = Runtime::new()?;
    let master = runtime.block_on(serve_platform(&folder.path().join("io.sock")))?;
    let _link = Link::new(&device.0, &master.to_string())?;
    let node = start_node(&folder)?;
    let socket = folder.path().join("csi.sock");
    node.until("it serves CSI", || Ok(socket.exists().then_some(())))?;
    let front = folder.path().join("front.sock");
    let _inside = runtime.enter();
    serve_front(&front, &socket, format!("m/{master}"))?;

    let sanity = |endpoint: &Path, focus: &str| {
        let mut command = Command::new(csi_sanity::program()?);
        command.arg("--csi.endpoint").arg(endpoint).arg("--csi.controllerendpoint").arg(&front);
        command.args(["--csi.testvolumeaccesstype", access, "--ginkgo.focus", focus, "--ginkgo.no-color"]);
        command.arg("--csi.mountdir").arg(folder.path().join("target"));
        command.arg("--csi.stagingdir").arg(folder.path().join("staging"));
        let text = said(&mut command).with_context(|| node.log().join("\n"))?;
        passed(&text).with_context(|| format!("no count of tests in\n{text}"))
    };
    let count = sanity(&socket, "(Identity|Node) Service")?;
    ensure!(count == WITHOUT_CONTROLLER, "{count} tests passed, and not {WITHOUT_CONTROLLER}");
    let count = sanity(&front, "Node Service should")?;
    ensure!(count == WITH_CONTROLLER, "{count} tests passed, and not {WITH_CONTROLLER}");

    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let left: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&folder.path().display().to_string())).collect();
    ensure!(left.is_empty(), "these mounts are left: {left:#?}");
    let mut records = fs::read_dir(folder.path().join("state/volumes"))?.flatten();
    let left = records.find(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    ensure!(left.is_none(), "the ledger still says that {left:?} is in use");
    Ok(())
}

/// How many tests have passed, by the line `Ran 21 of 91 Specs in 0.5 seconds` and the one that follows it.
fn passed(text: &str) -> Option<u32> {
    let count = text.lines().find_map(|line| line.split_once(" Passed")?.0.rsplit(' ').next()?.parse().ok());
    count.filter(|_| text.contains(" 0 Failed"))
}

/// Serves a platform in memory, with one master.
async fn serve_platform(at: &Path) -> Result<MasterId> {
    let fake = Fake::new();
    fake.add_device("/dev/raw", FakeDevice::disk(ByteCount(DEVICE_BYTES), "raw"));
    let attach = AttachMaster {
        request: RequestId::random(),
        device: "/dev/raw".parse()?,
        name: "pg".parse()?,
        expected_identity: None,
        accept_weak_identity: false,
        ublk: None,
        queue_depth: QueueDepth::default(),
    };
    let master = fake.attach_master(attach).await?.id;
    let socket = Socket::bind(at).await?;
    tokio::spawn(umbra_platform::serve(socket, fake, std::future::pending()));
    Ok(master)
}

fn start_node(folder: &TempDir) -> Result<Running> {
    let file = |name: &str| folder.path().join(name);
    Authority::new()?.certify(folder.path(), "node/a")?;
    let mut command = Command::new(static_binary(PROGRAM)?);
    command.args(["run", "--node", "a", "--cluster", "lab", "--log-format", "json"]);
    command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    for (option, name) in CERTIFICATE.into_iter().chain([
        ("--socket", "io.sock"),
        ("--local-socket", "node.sock"),
        ("--state-dir", "state"),
        ("--csi-socket", "csi.sock"),
    ]) {
        command.arg(option).arg(file(name));
    }
    Running::start(PROGRAM, command)
}

/// What stands in front of the node.
struct Front {
    identity: IdentityClient<Channel>,
    node: NodeClient<Channel>,
    /// The volume that there is.
    volume: String,
}

fn serve_front(at: &Path, node: &Path, volume: String) -> Result<()> {
    let channel = Endpoint::try_from(format!("unix://{}", node.display()))?.connect_lazy();
    let front = Arc::new(Front {
        identity: IdentityClient::new(channel.clone()),
        node: NodeClient::new(channel),
        volume,
    });
    let server = Server::builder()
        .add_service(IdentityServer::from_arc(Arc::clone(&front)))
        .add_service(NodeServer::from_arc(Arc::clone(&front)))
        .add_service(ControllerServer::from_arc(front));
    let incoming = UnixListenerStream::new(UnixListener::bind(at)?);
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(())
}

/// A service whose calls are passed on as they are.
macro_rules! passed_on {
    ($service:ident by $to:ident: $($call:ident($request:ident) -> $answer:ident),+; $($own:tt)*) => {
        #[tonic::async_trait]
        impl $service for Front {
            $(async fn $call(&self, request: Request<csi::$request>) -> Result<Response<csi::$answer>, Status> {
                self.$to.clone().$call(request.into_inner()).await
            })+

            $($own)*
        }
    };
}

passed_on! { Identity by identity:
    get_plugin_info(GetPluginInfoRequest) -> GetPluginInfoResponse,
    probe(ProbeRequest) -> ProbeResponse;

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        use csi::plugin_capability::{Service, Type, service};
        let mut answer = self.identity.clone().get_plugin_capabilities(request.into_inner()).await?;
        let controller = Type::Service(Service { r#type: service::Type::ControllerService.into() });
        answer.get_mut().capabilities.push(csi::PluginCapability { r#type: Some(controller) });
        Ok(answer)
    }
}

passed_on! { Node by node:
    node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse,
    node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse,
    node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse,
    node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse,
    node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse,
    node_get_capabilities(NodeGetCapabilitiesRequest) -> NodeGetCapabilitiesResponse,
    node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse;
}

#[tonic::async_trait]
impl Controller for Front {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let size = request.into_inner().capacity_range.map(|range| range.required_bytes);
        let volume = csi::Volume {
            capacity_bytes: size.unwrap_or_default(),
            volume_id: self.volume.clone(),
            ..csi::Volume::default()
        };
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        _: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: Vec::new() }))
    }
}
