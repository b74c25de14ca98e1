//! The operator in a large cluster: what it asks of the API server at rest and for a cut, how long a cut waits for it, how much
//! memory it takes, and how long it needs from a cold start.
//!
//! API server and operator are processes as they are shipped. The nodes are facades in this process, over mutual TLS as on a
//! node, each with a platform in memory behind it.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use umbra_facade::listen::{Doors, TlsDoor};
use umbra_facade::node::About;
use umbra_facade::{CredentialFiles, Credentials, Facade, FenceKeeper};
use umbra_lab::progress;
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::value::ByteCount;

use crate::kubernetes::installation::{self, Installation};
use crate::kubernetes::programs::Running;
use crate::kubernetes::server::{NAMESPACE, Server};

/// Sets of one master.
const SETS_PER_MASTER: usize = 4;
/// Objects of one `kubectl`.
const BATCH: usize = 250;
/// How long the operator may take for all objects.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long an operator takes to stop.
const GOES: Duration = Duration::from_secs(5);
/// Until nothing is under way any more that a change has set off.
const CALM: Duration = Duration::from_secs(30);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// VolumeSets.
    pub sets: usize,
    /// Nodes.
    pub nodes: usize,
    /// Cuts, of as many sets.
    pub cuts: usize,
    /// How long nothing is asked for.
    pub rest: Duration,
}

/// What was measured. Times are in milliseconds, memory in bytes.
#[derive(Debug, Serialize)]
pub struct Report {
    sets: usize,
    masters: usize,
    nodes: usize,
    /// From objects that are there to all of them being ready, by an operator that starts then.
    first_start_ms: u128,
    /// From the start of an operator to the last of the objects looked after, which were all done before.
    cold_start_ms: u128,
    rest_seconds: u64,
    /// Writes of Umbra's objects at rest.
    writes_at_rest: u64,
    /// Calls of the operator at rest, of any kind.
    calls_at_rest: u64,
    /// One cut after the other: from the command to the condition Complete.
    alone: Times,
    /// As many at once.
    together: Times,
    /// Calls of the operator for each cut, beyond those at rest.
    calls_per_cut: f64,
    operator_bytes: u64,
    /// Of the API server: before there was anything, and at the end.
    api_server_bytes: [u64; 2],
    /// Watches that the operator holds.
    watches: u64,
}

/// Times of several like things.
#[derive(Debug, Serialize)]
struct Times {
    count: usize,
    p50_ms: u128,
    p99_ms: u128,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let at = |percent: usize| {
            times.get((times.len().saturating_sub(1)) * percent / 100).map(Duration::as_millis)
        };
        let (p50_ms, p99_ms) = at(50).zip(at(99)).context("nothing was timed")?;
        Ok(Self { count: times.len(), p50_ms, p99_ms })
    }
}

impl Report {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{} sets of {} masters on {} nodes\n", self.sets, self.masters, self.nodes);
        let mut line = |what: &str, value: String| {
            // Writing into a text cannot fail.
            let _ = writeln!(text, "{what:44} {value}");
        };
        let seconds = |ms: u128| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let times =
            |times: &Times| format!("p50 {} ms, p99 {} ms, of {}", times.p50_ms, times.p99_ms, times.count);
        line("everything made by an operator that starts", seconds(self.first_start_ms));
        line("everything looked after from a cold start", seconds(self.cold_start_ms));
        line(&format!("writes in {} s at rest", self.rest_seconds), self.writes_at_rest.to_string());
        let rate = self.calls_at_rest / self.rest_seconds.max(1);
        line("calls to the API server at rest", format!("{} ({rate} each second)", self.calls_at_rest));
        line("created to complete, one cut after another", times(&self.alone));
        line("created to complete, all at once", times(&self.together));
        line("calls to the API server for a cut", format!("{:.1}", self.calls_per_cut));
        line("memory of the operator", mib(self.operator_bytes));
        line("memory of the API server, before and after", self.api_server_bytes.map(mib).join(", "));
        line("watches of the operator", self.watches.to_string());
        text
    }
}

/// Measures.
///
/// # Errors
/// Where something cannot be built or started, or the operator does not come to an end.
pub fn run(extent: Extent) -> Result<Report> {
    ensure!(extent.nodes > 0 && extent.cuts > 0 && extent.cuts <= extent.sets, "there is nothing to measure");
    installation::build()?;
    let server = Server::start()?;
    let at_first = server.memory()?;
    let umbra = Installation::new(&server)?;
    let nodes = Nodes::start(&umbra, extent)?;
    let objects = objects(extent);
    progress::step(format_args!("making {} objects", objects.len()), || apply(&server, &objects))?;

    let begin = Instant::now();
    let operator = umbra.start_operator("one")?;
    let masters = extent.sets.div_ceil(SETS_PER_MASTER);
    progress::step(format_args!("the operator makes what they ask for"), || until_ready(&server, &objects))?;
    let first_start_ms = begin.elapsed().as_millis();
    // In good order: the next does not wait until the lease has run out.
    operator.signal(Signal::TERM)?;
    thread::sleep(GOES);
    drop(operator);

    let begin = Instant::now();
    let operator = umbra.start_operator("two")?;
    until("every object is looked after", || {
        let looks = |kind: &str| {
            let series =
                format!("umbra_operator_reconciliations_total{{kind=\"{kind}\",result=\"success\"}}");
            operator.metric(&series)
        };
        Ok(looks("MasterVolume")? >= masters as u64 && looks("VolumeSet")? >= extent.sets as u64)
    })?;
    let cold_start_ms = begin.elapsed().as_millis();
    thread::sleep(CALM);

    let before = (versions(&server)?, calls(&operator)?);
    progress::step(format_args!("at rest for {} s", extent.rest.as_secs()), || {
        thread::sleep(extent.rest);
        Ok(())
    })?;
    let (calls_before, calls_after) = (before.1, calls(&operator)?);
    let calls_at_rest = calls_after - calls_before;
    let writes_at_rest = changed(&before.0, &versions(&server)?);

    let sets: Vec<String> = (0..extent.cuts).map(set_name).collect();
    let watch = Completions::watch(&server)?;
    let (first, rest) = sets.split_at((extent.cuts / 10).max(1));
    let alone = progress::step(format_args!("{} cuts, one after another", first.len()), || {
        first
            .iter()
            .map(|set| watch.cut(&server, "alone", std::slice::from_ref(set)))
            .collect::<Result<Vec<_>>>()
    })?;
    let (begin, calls_before) = (Instant::now(), calls(&operator)?);
    let together =
        progress::step(format_args!("{} cuts at once", rest.len()), || watch.cut(&server, "together", rest))?;
    let quiet = u128::from(calls_at_rest) * begin.elapsed().as_millis() / extent.rest.as_millis().max(1);
    let beyond = u128::from(calls(&operator)? - calls_before).saturating_sub(quiet);
    let report = Report {
        sets: extent.sets,
        masters,
        nodes: extent.nodes,
        first_start_ms,
        cold_start_ms,
        rest_seconds: extent.rest.as_secs(),
        writes_at_rest,
        calls_at_rest,
        alone: Times::of(alone.concat())?,
        calls_per_cut: beyond as f64 / rest.len().max(1) as f64,
        together: Times::of(together)?,
        operator_bytes: operator.memory()?,
        api_server_bytes: [at_first, server.memory()?],
        watches: watches(&server)?,
    };
    drop((operator, nodes));
    server.finish();
    Ok(report)
}

fn node_name(at: usize) -> String {
    format!("node-{at}")
}

fn set_name(at: usize) -> String {
    format!("set-{at}")
}

fn device(at: usize) -> String {
    format!("/dev/disk/by-id/lab-{at}")
}

/// The facades.
struct Nodes {
    _runtime: Runtime,
    _folder: TempDir,
}

impl Nodes {
    fn start(umbra: &Installation<'_>, extent: Extent) -> Result<Self> {
        let (runtime, folder) = (Runtime::new()?, tempfile::tempdir()?);
        let mut objects = Vec::new();
        for at in 0..extent.nodes {
            let name = node_name(at);
            let state = folder.path().join(&name);
            fs::create_dir(&state)?;
            let endpoint = runtime.block_on(serve(umbra, &name, &state, devices(extent, at)))?;
            objects.push(json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingNode",
                "metadata": {"name": name}, "spec": {}, "status": {"endpoint": endpoint}}));
            objects.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": "yes"}}}));
        }
        apply(umbra.server(), &objects)?;
        for node in objects.iter().filter(|object| object["kind"] == "ImagingNode") {
            let patch = json!({"status": node["status"]}).to_string();
            let name = node["metadata"]["name"].as_str().context("a node has a name")?;
            let merge =
                ["patch", "imagingnode", name, "--subresource=status", "--type=merge", "--patch", &patch];
            umbra.server().expect(&merge)?;
        }
        Ok(Self { _runtime: runtime, _folder: folder })
    }
}

/// Serves the facade of a node with so many devices; returns where.
async fn serve(
    umbra: &Installation<'_>,
    name: &str,
    state: &std::path::Path,
    devices: usize,
) -> Result<String> {
    let platform = Fake::new();
    for at in 0..devices {
        platform.add_device(&device(at), FakeDevice::disk(ByteCount(1 << 26), &format!("{name}-{at}")));
    }
    platform.copy_in_background(Duration::from_millis(20));
    let folder = umbra.certified(&format!("node/{name}"))?;
    let files = CredentialFiles {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        authorities: folder.join("ca.crt"),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = listener.local_addr()?.to_string();
    let cluster = "lab".parse().context("the name of the cluster")?;
    let tls = TlsDoor { listener, credentials: Arc::new(Credentials::of_server(files)?), cluster };
    let about = About { name: name.to_owned(), version: "bench".to_owned(), findings: Vec::new() };
    let facade = Facade::new(platform, FenceKeeper::new(state), move || about.clone());
    let doors = Doors { tls: Some(tls), local: None };
    tokio::spawn(umbra_facade::serve(facade, doors, std::future::pending()));
    Ok(endpoint)
}

/// How many devices a node must have for its part of the masters.
fn devices(extent: Extent, node: usize) -> usize {
    let masters =
        (0..extent.sets.div_ceil(SETS_PER_MASTER)).filter(|master| master % extent.nodes == node).count();
    masters * (1 + 2 * SETS_PER_MASTER)
}

/// The masters and their sets: master M is on node M mod nodes.
fn objects(extent: Extent) -> Vec<Value> {
    let mut objects = Vec::new();
    let object = |kind: &str, name: String, spec: Value| {
        json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": NAMESPACE}})
    };
    for master in 0..extent.sets.div_ceil(SETS_PER_MASTER) {
        let first = master / extent.nodes * (1 + 2 * SETS_PER_MASTER);
        let source = |at: usize| {
            json!({"device": {"grantRef": {"name": "all"}, "nodeName": node_name(master % extent.nodes),
                "id": device(first + at)}})
        };
        let name = format!("master-{master}");
        let spec = json!({"source": source(0), "publish": {"claimName": name}});
        objects.push(object("MasterVolume", name.clone(), spec));
        for at in 0..SETS_PER_MASTER.min(extent.sets - master * SETS_PER_MASTER) {
            let spec = json!({"masterRef": {"name": name}, "mode": "Dependent",
                "shadow": {"source": source(1 + 2 * at)}, "bitmap": {"source": source(2 + 2 * at)}});
            objects.push(object("VolumeSet", set_name(master * SETS_PER_MASTER + at), spec));
        }
    }
    objects
}

fn apply(server: &Server, objects: &[Value]) -> Result<()> {
    for batch in objects.chunks(BATCH) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": batch});
        let answer = server.fed(&["apply", "--server-side", "--filename", "-"], &list)?;
        ensure!(answer.success, "{}", answer.stderr);
    }
    Ok(())
}

fn until(what: &str, look: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        // Each look reads every object.
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn until_ready(server: &Server, objects: &[Value]) -> Result<()> {
    let ready = ["get", "umaster,uset", "-n", NAMESPACE, "--output"];
    let path = r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    until("every object is ready", || {
        // A server that is busy may give a look up; what it answers then is no line.
        let text = server.kubectl(&[&ready[..], &[path]].concat())?.stdout;
        Ok(text.lines().filter(|line| *line == "True").count() == objects.len())
    })
}

/// The versions of all objects of Umbra.
fn versions(server: &Server) -> Result<HashMap<String, String>> {
    let path = r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}"#;
    let text = server.expect(&["get", "umbra", "--all-namespaces", "--output", path])?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

fn changed(before: &HashMap<String, String>, after: &HashMap<String, String>) -> u64 {
    after.iter().filter(|(name, version)| before.get(*name) != Some(version)).count() as u64
}

/// The operator's calls to the API server so far.
fn calls(operator: &Running) -> Result<u64> {
    let text = operator.get("/metrics")?.1;
    let lines = text.lines().filter(|line| line.starts_with("umbra_operator_api_calls_total{"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// Watches of Umbra's kinds, of which there are no others than the operator's at that moment, less the one of [`Completions`].
fn watches(server: &Server) -> Result<u64> {
    let text = server.expect(&["get", "--raw", "/metrics"])?;
    let lines = text.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
    let ours = lines.filter(|line| line.contains("imaging.umbra.dev") && line.contains("verb=\"WATCH\""));
    let all: u64 = ours.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    Ok(all.saturating_sub(1))
}

/// Tells when operations are complete.
struct Completions {
    told: Receiver<(String, Instant)>,
}

impl Completions {
    fn watch(server: &Server) -> Result<Self> {
        let path = r#"jsonpath={.metadata.name} {.status.conditions[?(@.type=="Complete")].status}{.status.conditions[?(@.type=="Failed")].status}{"\n"}"#;
        let mut command = server.plugin_host();
        command.args(["get", "uop", "-n", NAMESPACE, "--watch", "--output", path]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("kubectl does not start")?;
        let lines = BufReader::new(child.stdout.take().context("kubectl says nothing")?).lines();
        let (to, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((name, "True")) = line.split_once(' ').map(|(name, how)| (name, how.trim()))
                    && to.send((name.to_owned(), Instant::now())).is_err()
                {
                    break;
                }
            }
            child.kill().ok();
            child.wait().ok();
        });
        Ok(Self { told })
    }

    /// Cuts sets; returns how long each took from when its operation was there.
    fn cut(&self, server: &Server, how: &str, sets: &[String]) -> Result<Vec<Duration>> {
        let operation = |set: &String| {
            json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingOperation",
                "metadata": {"name": format!("{how}-{set}"), "namespace": NAMESPACE},
                "spec": {"target": {"kind": "VolumeSet", "name": set}, "command": "UpdateShadow", "waitFor": "Cut"}})
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": sets.iter().map(operation).collect::<Vec<_>>()});
        let mut created = HashMap::new();
        server.fed_by_line(&["create", "--output", "name", "--filename", "-"], &list, |line| {
            let name = line.rsplit('/').next().unwrap_or_default().trim().to_owned();
            created.insert(name, Instant::now());
        })?;
        ensure!(created.len() == sets.len(), "{} of {} operations were made", created.len(), sets.len());
        let mut times = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while times.len() < sets.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (name, done) = self.told.recv_timeout(left).context("operations do not come to an end")?;
            if let Some(begun) = created.remove(&name) {
                times.push(done.saturating_duration_since(begun));
            }
        }
        Ok(times)
    }
}
