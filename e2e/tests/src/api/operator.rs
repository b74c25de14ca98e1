//! The operator, the nodes' facades and `kubectl umbra` as they are shipped, around a real API server. Only what stands behind a
//! facade is not real: a platform in memory.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use umbra_lab::{progress, static_binary};
use umbra_platform::Socket;
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::value::ByteCount;

use super::plugin::umbra;
use super::programs::{Authority, PATIENCE, Running};
use super::server::{NAMESPACE, Server};
use super::{Case, inventory, plugin};

const PROGRAM: &str = "umbra-operator";
/// The namespace of the operator itself.
const SYSTEM: &str = "umbra-system";
/// At rest, objects are looked at this often, and nothing may be written.
const REST: Duration = Duration::from_secs(20);

/// Builds the programs, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    progress::step(format_args!("building {PROGRAM}"), || static_binary(PROGRAM))?;
    inventory::build()?;
    plugin::build()
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, run: fn(&Server) -> Result<()>| Case::new(name, run).alone();
    vec![
        case("operator/story", story),
        case("operator/rest", rest),
        case("operator/two", two_operators),
        case("operator/kills", kills),
    ]
}

/// A cluster of one node with eight devices and their platform.
struct World<'a> {
    server: &'a Server,
    folder: TempDir,
    authority: Authority,
    // Processes end before what they use.
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
        let mut world = Self {
            server,
            folder: tempfile::tempdir()?,
            authority: Authority::new()?,
            node: None,
            platform,
            runtime: Runtime::new()?,
        };
        world.serve_platform()?;
        let server = world.server;
        server.expect(&["create", "namespace", SYSTEM])?;
        let labels = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"pool": "yes"}}});
        let answer = server.apply_as("a", &labels)?;
        ensure!(answer.success, "{}", answer.stderr);
        world.apply(
            "DeviceGrant",
            "all",
            &json!({"nodeSelector": {"matchLabels": {"pool": "yes"}},
            "devices": [{"idPattern": "/dev/disk/by-id/*"}], "roles": ["Master", "Shadow", "Bitmap"],
            "namespaces": [NAMESPACE]}),
        )?;
        world.start_node()?;
        Ok(world)
    }

    /// The platform in the place of umbra-io.
    fn serve_platform(&self) -> Result<()> {
        let path = self.folder.path().join("io.sock");
        let socket = self.runtime.block_on(Socket::bind(&path))?;
        self.runtime.spawn(umbra_platform::serve(socket, Arc::clone(&self.platform), std::future::pending()));
        let platform = Arc::clone(&self.platform);
        self.runtime.spawn(async move { platform.copy_in_background(Duration::from_millis(20)).await });
        Ok(())
    }

    fn certified(&self, role: &str) -> Result<std::path::PathBuf> {
        let folder = self.folder.path().join(role.replace('/', "-"));
        if !folder.exists() {
            std::fs::create_dir(&folder)?;
            self.authority.certify(&folder, role)?;
        }
        Ok(folder)
    }

    fn start_node(&mut self) -> Result<()> {
        // The facade must say where it is before it can know: nobody else takes a port of this host so soon again.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string();
        let mut command = Command::new(static_binary("umbra-node")?);
        command.args([
            "run",
            "--node",
            "a",
            "--cluster",
            "lab",
            "--log-format",
            "json",
            "--http",
            "127.0.0.1:0",
        ]);
        command.args(["--listen", &port, "--advertise", &port, "--publish", "--publish-interval", "1"]);
        command.arg("--kubeconfig").arg(self.server.kubeconfig());
        certificates(&mut command, &self.certified("node/a")?);
        let file = |name: &str| self.folder.path().join(name);
        command.arg("--socket").arg(file("io.sock")).arg("--local-socket").arg(file("node.sock"));
        command.arg("--state-dir").arg(file("state"));
        let node = Running::start("umbra-node", command)?;
        node.until("it has said where it is", || {
            let text =
                self.server.kubectl(&["get", "unode", "a", "--output", "jsonpath={.status.endpoint}"])?;
            Ok((text.stdout == port).then_some(()))
        })?;
        self.node = Some(node);
        Ok(())
    }

    fn start_operator(&self, name: &str) -> Result<Running> {
        let mut command = Command::new(static_binary(PROGRAM)?);
        command.args([
            "run",
            "--cluster",
            "lab",
            "--namespace",
            SYSTEM,
            "--name",
            name,
            "--http",
            "127.0.0.1:0",
        ]);
        command.arg("--kubeconfig").arg(self.server.kubeconfig());
        certificates(&mut command, &self.certified("operator")?);
        Running::start(PROGRAM, command)
    }

    fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let object = json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": kind,
            "metadata": {"namespace": NAMESPACE}, "spec": spec});
        let answer = self.server.apply_as(name, &object)?;
        ensure!(answer.success, "{kind} {name}: {}", answer.stderr);
        Ok(())
    }

    /// A database's volume on the node's first device, with a full and a lean image of it.
    fn apply_volumes(&self) -> Result<()> {
        let source =
            |at: usize| json!({"device": {"grantRef": {"name": "all"}, "nodeName": "a", "id": device(at)}});
        self.apply("MasterVolume", "pg", &json!({"source": source(0), "publish": {"claimName": "pg-data"}}))?;
        for (name, mode, at) in [("one", "Independent", 1), ("two", "Dependent", 4)] {
            let spec = json!({"masterRef": {"name": "pg"}, "mode": mode, "bitmap": {"source": source(at + 1)},
                "shadow": {"source": source(at), "publish": {"claimName": format!("{name}-image"), "readOnly": true}}});
            self.apply("VolumeSet", name, &spec)?;
        }
        let all = ["umaster/pg", "uset/one", "uset/two"];
        self.server.expect(
            &[&["wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"][..], &all].concat(),
        )?;
        Ok(())
    }

    /// Runs `kubectl umbra` in the namespace, which must end with this code.
    fn umbra(&self, arguments: &[&str], code: i32) -> Result<String> {
        let said = umbra(&mut self.server.plugin_host(), &[arguments, &["-n", NAMESPACE]].concat())?;
        let line = arguments.join(" ");
        ensure!(said.code == Some(code), "kubectl umbra {line} ended not with {code}: {said:?}");
        Ok(said.stdout)
    }

    fn path(&self, object: &str, path: &str) -> Result<String> {
        self.server.expect(&["get", "-n", NAMESPACE, object, "--output", &format!("jsonpath={{{path}}}")])
    }

    /// The fence on record.
    fn fence(&self) -> Result<u64> {
        let fence = ["get", "configmap", "umbra-fence", "-n", SYSTEM, "--output", "jsonpath={.data.fence}"];
        Ok(self.server.kubectl(&fence)?.stdout.parse().unwrap_or_default())
    }
}

fn device(at: usize) -> String {
    format!("/dev/disk/by-id/lab-{at}")
}

fn certificates(command: &mut Command, folder: &Path) {
    for (option, file) in
        [("--tls-certificate", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-authorities", "ca.crt")]
    {
        command.arg(option).arg(folder.join(file));
    }
}

fn leads(operator: &Running) -> Result<bool> {
    Ok(operator.metric("umbra_operator_leads")? == 1)
}

/// Waits until it is so.
fn until(what: &str, look: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// What a platform team does, with the commands that it types.
fn story(server: &Server) -> Result<()> {
    let world = World::new(server)?;
    let _operator = world.start_operator("one")?;
    world.apply_volumes()?;
    ensure!(world.path("pvc/pg-data", ".spec.volumeName")? == world.path("umaster/pg", ".status.pvName")?);
    let first = world.path("uset/one", ".status.image.cutID")?;

    let text = world.umbra(&["cut", "one", "--wait"], 0)?;
    let second = world.path("uset/one", ".status.image.cutID")?;
    ensure!(first != second, "{text}");
    world.umbra(&["restore", "one", "--cut", &first, "--no-safety", "--confirm=one", "--wait"], 3)?;
    world.umbra(&["restore", "one", "--confirm=one", "--wait"], 0)?;
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
        Ok(world.path("uset/one", ".status.copy.state")? == "None")
    })?;
    world.umbra(&["undo", name, "--confirm=two", "--wait"], 0)?;

    until(
        "the copy behind the undo is done",
        || Ok(world.path("uset/two", ".status.copy.state")? == "None"),
    )?;
    world.umbra(&["group", "create", "both", "one", "two"], 0)?;
    world.umbra(&["cut", "group:both", "--wait"], 0)?;
    until("the group knows its cut", || {
        let (one, two) =
            (world.path("uset/one", ".status.image.cutID")?, world.path("uset/two", ".status.image.cutID")?);
        Ok(one == two && world.path("ugroup/both", ".status.lastCut.id")? == one)
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
    server.expect(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=Failed",
        "--timeout=60s",
        &format!("uop/{name}"),
    ])?;
    let ready = world.path(&format!("uop/{name}"), r#".status.conditions[?(@.type=="Failed")].reason"#)?;
    ensure!(ready == "NameUsed", "{ready}");

    // Everything goes, and the device is free.
    server.expect(&["delete", "-n", NAMESPACE, "--wait=false", "ugroup,uset,umaster", "--all"])?;
    until("everything is gone", || {
        play_protection(server)?;
        Ok(world.path("uset,umaster,pvc,pv", ".items")? == "[]")
    })
}

/// No controller manager runs here, which lets claims and volumes go that nobody uses.
fn play_protection(server: &Server) -> Result<()> {
    for kind in ["pvc", "pv"] {
        let names = server.expect(&[
            "get",
            kind,
            "-n",
            NAMESPACE,
            "--output",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        for name in names.split_whitespace() {
            let object = server.get(kind, name)?;
            if object["metadata"]["deletionTimestamp"].is_string() {
                let patch = r#"{"metadata": {"finalizers": null}}"#;
                server.expect(&["patch", kind, name, "-n", NAMESPACE, "--type=merge", "--patch", patch])?;
            }
        }
    }
    Ok(())
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
    let _operator = world.start_operator("one")?;
    world.apply_volumes()?;
    world.umbra(&["cut", "two", "--wait"], 0)?;
    until("everything has come to rest", || Ok(world.path("uset/one", ".status.copy.state")? == "None"))?;
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
    let first = world.start_operator("first")?;
    until("the first leads", || leads(&first))?;
    let second = world.start_operator("second")?;
    let fence = world.fence()?;
    world.apply_volumes()?;
    ensure!(leads(&first)? && !leads(&second)?, "one leads, as long as it lives");

    first.signal(Signal::STOP)?;
    until("the second leads", || leads(&second))?;
    ensure!(world.fence()? == fence + 1, "a leader has a fence of its own");
    world.umbra(&["cut", "one", "--wait"], 0)?;
    let cut = world.path("uset/one", ".status.image.cutID")?;
    first.signal(Signal::CONT)?;
    until("the first leads no more", || Ok(!leads(&first)?))?;
    ensure!(leads(&second)? && world.fence()? == fence + 1, "the second goes on");
    world.umbra(&["cut", "one", "--wait"], 0)?;
    ensure!(world.path("uset/one", ".status.image.cutID")? != cut);

    // Told to stop, it goes; the other takes its place.
    second.signal(Signal::TERM)?;
    until("the first leads again", || leads(&first))?;
    ensure!(world.fence()? == fence + 2, "with a new fence");
    world.umbra(&["cut", "two", "--wait"], 0)?;
    Ok(())
}

/// Operator and node are killed while there is work; what was asked for is done, once.
fn kills(server: &Server) -> Result<()> {
    let mut world = World::new(server)?;
    let mut operator = world.start_operator("op-0")?;
    until("it leads", || leads(&operator))?;
    world.apply_volumes()?;
    for round in 1..4_u64 {
        for set in ["one", "two"] {
            let spec = json!({"target": {"kind": "VolumeSet", "name": set}, "command": "UpdateShadow"});
            world.apply("ImagingOperation", &format!("{set}-{round}"), &spec)?;
        }
        thread::sleep(Duration::from_millis(150 * round));
        operator.signal(Signal::KILL)?;
        if round == 2 {
            world.node.take().context("no node")?.signal(Signal::KILL)?;
            world.start_node()?;
        }
        operator = world.start_operator(&format!("op-{round}"))?;
    }
    let operations = ["uop/one-1", "uop/one-2", "uop/one-3", "uop/two-1", "uop/two-2", "uop/two-3"];
    let wait = ["wait", "-n", NAMESPACE, "--for=condition=Complete", "--timeout=120s"];
    server.expect(&[&wait[..], &operations].concat())?;
    let status = world
        .runtime
        .block_on(umbra_platform::Platform::status(&*world.platform, umbra_platform::call::Scope::All))?;
    let epochs: Vec<u64> = status.sets.iter().map(|set| set.epoch.0).collect();
    ensure!(epochs == [4, 4], "every cut was made once: {epochs:?}");
    Ok(())
}
