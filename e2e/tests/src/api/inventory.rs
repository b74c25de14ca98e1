//! That a node says in the cluster what it is: once, nothing again while nothing changes, and never over another machine.
//!
//! `umbra-node` runs on this host as it is shipped, without an interposer beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use umbra_lab::{progress, static_binary};

use super::Case;
use crate::kubernetes::programs::{Authority, CERTIFICATE, Running};
use crate::kubernetes::server::Server;

const PROGRAM: &str = "umbra-node";
const MACHINE: &str = "3d1219c7c4c5404aaa1f6d2a48adfda4";
const OTHER_MACHINE: &str = "00000000000000000000000000000001";
/// Looks in which nothing may be written.
const LOOKS_AT_REST: u64 = 4;

/// Builds the program, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    progress::step(format_args!("building {PROGRAM}"), || static_binary(PROGRAM)).map(drop)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("inventory/told-once", told_once),
        Case::new("inventory/foreign-machine", foreign_machine),
        Case::new("inventory/impossible", impossible),
    ]
}

/// What a node has on disk.
struct World {
    folder: TempDir,
    name: &'static str,
}

impl World {
    fn new(name: &'static str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Authority::new()?.certify(folder.path(), &format!("node/{name}"))?;
        Ok(Self { folder, name })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the node on a machine with this identity, and waits until it serves.
    fn start(&self, server: &Server, machine: &str, advertised: &str) -> Result<Running> {
        let machine_id = self.file(machine);
        fs::write(&machine_id, format!("{machine}\n"))?;
        let mut command = Command::new(static_binary(PROGRAM)?);
        command.args(["run", "--node", self.name, "--cluster", "lab", "--log-format", "json"]);
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--publish",
            "--publish-interval",
            "1",
        ]);
        command.args(["--advertise", advertised]).arg("--kubeconfig").arg(server.kubeconfig());
        for (option, file) in CERTIFICATE.into_iter().chain([
            ("--socket", "io.sock"),
            ("--local-socket", &format!("{machine}.sock")),
            ("--state-dir", "state"),
        ]) {
            command.arg(option).arg(self.file(file));
        }
        command.arg("--machine-id-file").arg(machine_id);
        Running::start(PROGRAM, command)
    }
}

/// What a node counts.
trait Looks {
    /// How many looks have ended this way.
    fn looks(&self, ended: &str) -> Result<u64>;

    /// Waits until so many looks have ended this way.
    fn until_looks(&self, ended: &str, count: u64) -> Result<()>;
}

impl Looks for Running {
    fn looks(&self, ended: &str) -> Result<u64> {
        self.metric(&format!("umbra_node_published_total{{ended=\"{ended}\"}}"))
    }

    fn until_looks(&self, ended: &str, count: u64) -> Result<()> {
        self.until(
            &format!("{count} looks ended {ended}"),
            || Ok((self.looks(ended)? >= count).then_some(())),
        )
    }
}

/// What this host says of itself without a cluster: the first thing in the way, as a reason.
fn first_finding() -> Result<String> {
    let output = Command::new(static_binary(PROGRAM)?).arg("preflight").output()?;
    let text = String::from_utf8(output.stdout)?;
    let found = text.lines().find_map(|line| line.split_once(": ")).map(|(reason, _)| reason.to_owned());
    Ok(found.unwrap_or_else(|| "IODown".to_owned()))
}

/// The disks that sysfs shows with hardware behind them, with their sizes.
fn disks() -> Result<BTreeMap<String, u64>> {
    let mut disks = BTreeMap::new();
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let sectors: u64 = fs::read_to_string(entry.path().join("size"))?.trim().parse()?;
        if entry.path().join("device").exists() && sectors > 0 {
            disks.insert(entry.file_name().to_string_lossy().into_owned(), sectors * 512);
        }
    }
    Ok(disks)
}

fn unode(server: &Server, name: &str) -> Result<Value> {
    server.get("imagingnode", name)
}

fn told_once(server: &Server) -> Result<()> {
    let name = "told-once";
    let world = World::new(name)?;
    let answer = server.apply_as(name, &json!({"apiVersion": "v1", "kind": "Node", "metadata": {}}))?;
    ensure!(answer.success, "{}", answer.stderr);
    let node = world.start(server, MACHINE, "192.0.2.7:9751")?;
    node.until_looks("at-rest", 1)?;

    let object = unode(server, name)?;
    let status = &object["status"];
    ensure!(status["endpoint"] == "192.0.2.7:9751" && status["machineID"] == MACHINE, "{status}");
    ensure!(status["nodeUID"] == server.get("node", name)?["metadata"]["uid"], "{status}");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    ensure!(status["bootID"] == boot.trim(), "{status}");
    let ready = &status["conditions"][0];
    let reason = first_finding()?;
    ensure!(
        ready["type"] == "Ready" && ready["status"] == "False" && ready["reason"] == reason.as_str(),
        "{ready}"
    );
    let message = ready["message"].as_str().unwrap_or_default();
    ensure!(message.contains("io.sock") && message.contains("start umbra-io"), "{message}");
    devices_are_those_of_this_host(status)?;

    let text = server.expect(&["get", "unode", name])?;
    let row: Vec<&str> = text.lines().nth(1).context("no row")?.split_whitespace().collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(row[..3] == [name, "False", &reason] && row.contains(&kernel.trim()), "{text}");

    // At rest nothing is written, however often it looks.
    let before = node.looks("at-rest")?;
    node.until_looks("at-rest", before + LOOKS_AT_REST)?;
    let after = unode(server, name)?;
    ensure!(after == object, "it was written at rest:\n{object}\n{after}");
    ensure!(node.looks("written")? == 1, "{}", node.get("/metrics")?.1);
    drop(node);

    // Another process of the same machine says only what is new.
    let node = world.start(server, MACHINE, "192.0.2.8:9751")?;
    node.until_looks("at-rest", 1)?;
    let mut wanted = object["status"].clone();
    wanted["endpoint"] = "192.0.2.8:9751".into();
    let status = &unode(server, name)?["status"];
    ensure!(*status == wanted, "{status} is not {wanted}");
    Ok(())
}

fn devices_are_those_of_this_host(status: &Value) -> Result<()> {
    let devices = status["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = BTreeMap::new();
    for device in devices {
        let id = device["id"].as_str().context("a device without a name")?;
        let is_stable = id.starts_with("/dev/disk/by-") || id.starts_with("/dev/mapper/");
        ensure!(is_stable || device["denied"].is_string(), "nobody could name {device}");
        let path = fs::canonicalize(id).unwrap_or_else(|_| id.into());
        let kernel_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.insert(kernel_name, device["sizeBytes"].as_u64().unwrap_or_default());
    }
    for (name, size) in disks()? {
        ensure!(found.get(&name) == Some(&size), "{name} of {size} bytes is not in {devices:?}");
    }
    Ok(())
}

/// Two machines with one name: the second leaves the object alone, says so, and lives on.
fn foreign_machine(server: &Server) -> Result<()> {
    let name = "foreign-machine";
    let world = World::new(name)?;
    let first = world.start(server, MACHINE, "192.0.2.7:9751")?;
    first.until_looks("at-rest", 1)?;
    ensure!(unode(server, name)?["status"]["nodeUID"].is_null(), "there is no Node of that name");
    drop(first);
    let object = unode(server, name)?;

    let second = world.start(server, OTHER_MACHINE, "192.0.2.8:9751")?;
    second.until_looks("refused", LOOKS_AT_REST)?;
    ensure!(unode(server, name)? == object, "the object of another machine was written");
    let (status, said) = second.get("/readyz")?;
    ensure!(
        status == 503 && said.contains(MACHINE) && said.contains("kubectl delete imagingnode"),
        "{status} {said}"
    );
    ensure!(second.get("/healthz")? == (200, "ok\n".to_owned()), "it lives on");
    let lines = second.log().iter().filter(|line| line.contains(MACHINE)).count();
    ensure!(lines == 1, "it is said once in the log, not {lines} times");

    // What it told people to do is enough.
    server.expect(&["delete", "imagingnode", name])?;
    second.until_looks("at-rest", 1)?;
    ensure!(unode(server, name)?["status"]["machineID"] == OTHER_MACHINE, "it has taken the other's place");
    let said = second.get("/readyz")?.1;
    ensure!(said.contains("start umbra-io") && !said.contains(MACHINE), "{said}");
    Ok(())
}

/// A device that nobody could name is never offered, whoever writes the object.
fn impossible(server: &Server) -> Result<()> {
    let object = json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingNode", "metadata": {}, "spec": {}});
    let answer = server.apply_as("impossible", &object)?;
    ensure!(answer.success, "{}", answer.stderr);
    let patched = |device: Value| {
        let patch = json!({"status": {"devices": [device]}}).to_string();
        let patch = ["--subresource=status", "--type=merge", "--patch", &patch];
        server.kubectl(&[&["patch", "imagingnode", "impossible"][..], &patch].concat())
    };
    let answer = patched(json!({"id": "/dev/sda", "sizeBytes": 1, "denied": "NoStableName"}))?;
    ensure!(answer.success, "{}", answer.stderr);
    let answer = patched(json!({"id": "/dev/sda", "sizeBytes": 1}))?;
    crate::kubernetes::server::refusal(&answer, "cannot be used")?;
    let answer = patched(json!({"id": "sda", "sizeBytes": 1, "denied": "NoStableName"}))?;
    crate::kubernetes::server::refusal(&answer, "should match")
}
