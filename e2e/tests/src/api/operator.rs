//! The operator, the nodes' facades and `kubectl umbra` as they are shipped, around a real API server. Only what stands behind a
//! facade is not real: a platform in memory.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use umbra_lab::static_binary;
use umbra_platform::Socket;
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::value::ByteCount;

use super::Case;
use crate::kubernetes::installation::{Devices, Installation, until};
use crate::kubernetes::programs::{CERTIFICATE, Running};
use crate::kubernetes::server::{NAMESPACE, Server};

/// At rest, objects are looked at this often, and nothing may be written.
const REST: Duration = Duration::from_secs(20);

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, run: fn(&Server) -> Result<()>| Case::new(name, run).alone();
    vec![
        case("operator/story", story),
        case("operator/rest", rest),
        case("operator/two", two_operators),
        case("operator/kills", kills),
    ]
}

/// An installation with one node of eight devices, whose platform is in memory.
struct World<'a> {
    umbra: Installation<'a>,
    // The process ends before what it uses.
    node: Option<Running>,
    platform: Arc<Fake>,
    runtime: Runtime,
}

impl<'a> World<'a> {
    fn new(server: &'a Server) -> Result<Self> {
        let platform = Fake::new();
        for at in 0..8 {
            let size = ByteCount(if at % 3 == 0 { 1 << 20 } else { 64 << 20 });
            platform.add_device(&device(at), FakeDevice::disk(size, &format!("disk-{at}")));
        }
        let umbra = Installation::new(server)?;
        let mut world = Self { umbra, node: None, platform, runtime: Runtime::new()? };
        world.serve_platform()?;
        world.start_node()?;
        Ok(world)
    }

    /// The platform in the place of umbra-io.
    fn serve_platform(&self) -> Result<()> {
        let path = self.umbra.file("io.sock");
        let socket = self.runtime.block_on(Socket::bind(&path))?;
        self.runtime.spawn(umbra_platform::serve(socket, Arc::clone(&self.platform), std::future::pending()));
        let platform = Arc::clone(&self.platform);
        self.runtime.spawn(async move { platform.copy_in_background(Duration::from_millis(20)).await });
        Ok(())
    }

    fn start_node(&mut self) -> Result<()> {
        // The facade must say where it is before it can know: nobody else takes a port of this host so soon again.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
        let mut command = Command::new(static_binary("umbra-node")?);
        command.args(["run", "--node", "a", "--cluster", "lab", "--log-format", "json"]);
        command.args(["--http", "127.0.0.1:0", "--publish", "--publish-interval", "1"]);
        command.args(["--listen", &port, "--advertise", &port]);
        command.arg("--kubeconfig").arg(self.umbra.server().kubeconfig());
        let certificate = self.umbra.certified("node/a")?;
        for (option, file) in CERTIFICATE {
            command.arg(option).arg(certificate.join(file));
        }
        for (option, file) in
            [("--socket", "io.sock"), ("--local-socket", "node.sock"), ("--state-dir", "state")]
        {
            command.arg(option).arg(self.umbra.file(file));
        }
        self.node = Some(Running::start("umbra-node", command)?);
        self.umbra.until_node_is_at(&port)
    }

    /// A database's volume on the node's first device, with a full and a lean image of it.
    fn apply_volumes(&self) -> Result<()> {
        self.umbra.apply_volumes(&Devices {
            master: device(0),
            one: [device(1), device(2)],
            two: [device(4), device(5)],
        })
    }
}

fn device(at: usize) -> String {
    format!("/dev/disk/by-id/lab-{at}")
}

fn leads(operator: &Running) -> Result<bool> {
    Ok(operator.metric("umbra_operator_leads")? == 1)
}

/// What a platform team does, with the commands that it types.
fn story(server: &Server) -> Result<()> {
    let world = World::new(server)?;
    let _operator = world.umbra.start_operator("one")?;
    world.apply_volumes()?;
    ensure!(
        world.umbra.path("pvc/pg-data", ".spec.volumeName")?
            == world.umbra.path("umaster/pg", ".status.pvName")?
    );
    let first = world.umbra.path("uset/one", ".status.image.cutID")?;

    let text = world.umbra.umbra(&["cut", "one", "--wait"], 0)?;
    let second = world.umbra.path("uset/one", ".status.image.cutID")?;
    ensure!(first != second, "{text}");
    world.umbra.umbra(&["restore", "one", "--cut", &first, "--no-safety", "--confirm=one", "--wait"], 3)?;
    world.umbra.umbra(&["restore", "one", "--confirm=one", "--wait"], 0)?;
    let restored = server.expect(&["get", "uop", "-n", NAMESPACE, "--output", "json"])?;
    let operations: Value = serde_json::from_str(&restored)?;
    let mut items = operations["items"].as_array().context("no list")?.iter();
    let restore = items.find(|item| item["spec"]["command"] == "UpdateMaster").context("no restore")?;
    let name = restore["metadata"]["name"].as_str().context("no name")?;
    ensure!(restore["status"]["safety"]["cutID"].is_string(), "it proposes the other set: {restore}");
    ensure!(
        restore["status"]["undoHint"] == format!("kubectl umbra undo {name} --namespace {NAMESPACE}"),
        "{restore}"
    );
    until("the copy behind the restore is done", || {
        Ok(world.umbra.path("uset/one", ".status.copy.state")? == "None")
    })?;
    world.umbra.umbra(&["undo", name, "--confirm=two", "--wait"], 0)?;

    until("the copy behind the undo is done", || {
        Ok(world.umbra.path("uset/two", ".status.copy.state")? == "None")
    })?;
    world.umbra.umbra(&["group", "create", "both", "one", "two"], 0)?;
    world.umbra.umbra(&["cut", "group:both", "--wait"], 0)?;
    until("the group knows its cut", || {
        let (one, two) = (
            world.umbra.path("uset/one", ".status.image.cutID")?,
            world.umbra.path("uset/two", ".status.image.cutID")?,
        );
        Ok(one == two && world.umbra.path("ugroup/both", ".status.lastCut.id")? == one)
    })?;
    // What has ended is told to people, too.
    let events =
        server.expect(&["get", "events", "-n", NAMESPACE, "--output", "jsonpath={.items[*].reason}"])?;
    ensure!(
        ["Live", "InSync", "CutDone", "CopyDone", "OneInstant"].iter().all(|reason| events.contains(reason)),
        "{events}"
    );

    // A name is used once.
    let object = server.expect(&["get", "uop", name, "-n", NAMESPACE, "--output", "json"])?;
    let mut object: Value = serde_json::from_str(&object)?;
    server.expect(&["delete", "uop", name, "-n", NAMESPACE])?;
    object["metadata"] = json!({"namespace": NAMESPACE});
    object.as_object_mut().context("no object")?.remove("status");
    let answer = server.apply_as(name, &object)?;
    ensure!(answer.success, "{}", answer.stderr);
    world.umbra.wait("Failed", &[&format!("uop/{name}")])?;
    let ready =
        world.umbra.path(&format!("uop/{name}"), r#".status.conditions[?(@.type=="Failed")].reason"#)?;
    ensure!(ready == "NameUsed", "{ready}");

    // Everything goes, and the device is free.
    world.umbra.delete_all()
}

/// Versions of everything that is stored, but for the leader's lease.
fn versions(server: &Server) -> Result<String> {
    let kinds = "umaster,uset,uop,ugroup,ugrant,unode,pvc,pv,configmap,event";
    server.expect(&[
        "get",
        kinds,
        "-A",
        "--output",
        "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}\n{end}",
    ])
}

/// At rest nothing is written.
fn rest(server: &Server) -> Result<()> {
    let world = World::new(server)?;
    let _operator = world.umbra.start_operator("one")?;
    world.apply_volumes()?;
    world.umbra.umbra(&["cut", "two", "--wait"], 0)?;
    until("everything has come to rest", || {
        Ok(world.umbra.path("uset/one", ".status.copy.state")? == "None")
    })?;
    thread::sleep(Duration::from_secs(3));
    let before = versions(server)?;
    thread::sleep(REST);
    let after = versions(server)?;
    ensure!(before == after, "it was written at rest:\n{before}\n{after}");
    Ok(())
}

/// A leader that was paused comes back when another leads: it does nothing any more.
fn two_operators(server: &Server) -> Result<()> {
    let world = World::new(server)?;
    let first = world.umbra.start_operator("first")?;
    until("the first leads", || leads(&first))?;
    let second = world.umbra.start_operator("second")?;
    let fence = world.umbra.fence()?;
    world.apply_volumes()?;
    ensure!(leads(&first)? && !leads(&second)?, "one leads, as long as it lives");

    first.signal(Signal::STOP)?;
    until("the second leads", || leads(&second))?;
    ensure!(world.umbra.fence()? == fence + 1, "a leader has a fence of its own");
    world.umbra.umbra(&["cut", "one", "--wait"], 0)?;
    let cut = world.umbra.path("uset/one", ".status.image.cutID")?;
    first.signal(Signal::CONT)?;
    until("the first leads no more", || Ok(!leads(&first)?))?;
    ensure!(leads(&second)? && world.umbra.fence()? == fence + 1, "the second goes on");
    world.umbra.umbra(&["cut", "one", "--wait"], 0)?;
    ensure!(world.umbra.path("uset/one", ".status.image.cutID")? != cut);

    // Told to stop, it goes; the other takes its place.
    second.signal(Signal::TERM)?;
    until("the first leads again", || leads(&first))?;
    ensure!(world.umbra.fence()? == fence + 2, "with a new fence");
    world.umbra.umbra(&["cut", "two", "--wait"], 0)?;
    Ok(())
}

/// Operator and node are killed while there is work; what was asked for is done, once.
fn kills(server: &Server) -> Result<()> {
    let mut world = World::new(server)?;
    let mut operator = world.umbra.start_operator("op-0")?;
    until("it leads", || leads(&operator))?;
    world.apply_volumes()?;
    for round in 1..4_u64 {
        for set in ["one", "two"] {
            let spec = json!({"target": {"kind": "VolumeSet", "name": set}, "command": "UpdateShadow"});
            world.umbra.apply("ImagingOperation", &format!("{set}-{round}"), &spec)?;
        }
        thread::sleep(Duration::from_millis(150 * round));
        operator.signal(Signal::KILL)?;
        if round == 2 {
            world.node.take().context("no node")?.signal(Signal::KILL)?;
            world.start_node()?;
        }
        operator = world.umbra.start_operator(&format!("op-{round}"))?;
    }
    let operations = ["uop/one-1", "uop/one-2", "uop/one-3", "uop/two-1", "uop/two-2", "uop/two-3"];
    world.umbra.wait("Complete", &operations)?;
    let status = world
        .runtime
        .block_on(umbra_platform::Platform::status(&*world.platform, umbra_platform::call::Scope::All))?;
    let epochs: Vec<u64> = status.sets.iter().map(|set| set.epoch.0).collect();
    ensure!(epochs == [4, 4], "every cut was made once: {epochs:?}");
    Ok(())
}
