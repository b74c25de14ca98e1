//! Umbra in pods, as the chart installs it, under pods that use what the operator publishes.

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, devices};
use super::pod::Pod;
use crate::kubernetes::chart::{self, SYSTEM};
use crate::kubernetes::installation::{Installation, until};
use crate::kubernetes::server::Server;
use crate::node::{io_process, replaced_after};

/// The namespace of what runs on every node.
const NODES: &str = "umbra-node";

/// Writes as long as it can.
const BEAT: &str = "while echo >>/data/beats && sync /data/beats; do sleep 0.1; done";

/// Waits until the pod has written more, without an error.
fn until_it_beats(pod: &Pod<'_>) -> Result<()> {
    let beats = || pod.run("wc -c </data/beats");
    let before = beats()?;
    until("the pod writes on", || Ok(beats()? != before))
}

/// The one pod of a daemon set, by its UID; it must be one that is ready.
fn pod_of(server: &Server, name: &str) -> Result<String> {
    let of = format!("app.kubernetes.io/name={name}");
    let pods = ["get", "pods", "-n", NODES, "--selector", &of];
    server.expect(&[
        "wait",
        "-n",
        NODES,
        "--for=condition=Ready",
        "--timeout=120s",
        "pod",
        "--selector",
        &of,
    ])?;
    server.expect(&[&pods[..], &["--output", "jsonpath={.items[*].metadata.uid}"]].concat())
}

/// A database and a report on its image: what is in use is not restored, and nothing of a pod waits for `umbra-node`.
pub(super) fn pods(server: &Server) -> Result<()> {
    let mut machine = Machine::boot_for_pods(server, "cluster-pods")?;
    let umbra = Installation::by_chart(server)?;
    umbra.apply_volumes(&devices())?;

    let database = Pod::start(server, "database", "pg-data", false)?;
    database.run("echo 1 >/data/row && sync")?;
    umbra.umbra(&["cut", "one", "--wait"], 0)?;
    database.run("echo 2 >/data/row && sync")?;
    let report = Pod::start(server, "report", "one-image", true)?;
    ensure!(report.run("cat /data/row")? == "1", "the report does not read the image");
    ensure!(!report.exec("echo 3 >/data/row")?.success, "the report writes the image");

    // Both are in use.
    let refused = umbra.refused(&["restore", "one", "--confirm=one", "--no-safety", "--wait"])?;
    ensure!(refused.contains("database"), "the refusal does not name the pod: {refused}");
    umbra.refused(&["cut", "one", "--wait"])?;
    ensure!(database.run("cat /data/row")? == "2", "a refused restore changed something");

    // The facade and the data plane die under a pod that writes.
    database.run(&format!("{BEAT} >/dev/null 2>&1 &"))?;
    machine.vm.sh("pkill -KILL -x umbra-node").run()?;
    until_it_beats(&database)?;
    replaced_after(&machine.vm, "KILL")?;
    until_it_beats(&database)?;
    ensure!(report.run("cat /data/row")? == "1", "the image has changed");
    report.end()?;

    // A new release of all but the data plane leaves its process alone; its pod is replaced when it is deleted.
    let (node, io) = (pod_of(server, "umbra-node")?, pod_of(server, "umbra-io")?);
    let process = io_process(&machine.vm)?;
    umbra.upgrade(&["node.publishInterval=2", "operator.httpPort=8081"])?;
    ensure!(pod_of(server, "umbra-node")? != node, "the upgrade did not reach umbra-node");
    ensure!(pod_of(server, "umbra-io")? == io, "the upgrade replaced umbra-io");
    ensure!(io_process(&machine.vm)? == process, "the data plane has been started anew");
    until_it_beats(&database)?;
    let of_io = ["delete", "pod", "-n", NODES, "--selector", "app.kubernetes.io/name=umbra-io"];
    server.expect(&of_io)?;
    ensure!(pod_of(server, "umbra-io")? != io, "a pod that was deleted is there");
    until_it_beats(&database)?;

    let report = Pod::start(server, "report", "one-image", true)?;
    ensure!(report.run("cat /data/row")? == "1", "a pod that came later does not read the image");
    report.end()?;
    database.end()?;

    // The report's mount has replayed the journal of a file system that was in use at the cut, which does not count as written.
    ensure!(umbra.path("uset/one", ".status.image.recovered")? == "true", "the image was not recovered");
    umbra.umbra(&["restore", "one", "--confirm=one", "--wait"], 0)?;
    let database = Pod::start(server, "database", "pg-data", false)?;
    ensure!(database.run("cat /data/row")? == "1", "the master is not restored");
    until("the copy behind the restore is done", || {
        Ok(umbra.path("uset/one", ".status.copy.state")? == "None")
    })?;

    // The power fails. All pods come back by themselves, this one with what it had synced.
    database.run("echo 6 >/data/row && sync")?;
    machine.power_cut(&umbra).context("after the power cut")?;
    database.until_restarted()?;
    ensure!(database.run("cat /data/row")? == "6", "what was synced is lost");
    umbra.wait("Ready", &["umaster/pg"])?;

    // Umbra is not taken out from under what it serves.
    let refused = chart::uninstall(server)?.err().context("Umbra was taken out while it was in use")?;
    let why = server.expect(&["logs", "-n", SYSTEM, "job/umbra-removal-check"])?;
    ensure!(why.contains("MasterVolume prod/pg"), "it was refused with {refused} and {why}");
    ensure!(database.run("cat /data/row")? == "6", "a refused removal changed something");
    database.end()?;
    umbra.delete_all()?;
    chart::uninstall(server)?.map_err(anyhow::Error::msg)?;
    for namespace in [SYSTEM, NODES] {
        server.expect(&["wait", "-n", namespace, "--for=delete", "pod", "--all", "--timeout=120s"])?;
    }
    server.expect(&["get", "umaster", "--all-namespaces"])?;
    let left = machine.vm.sh("grep -c imaging.umbra.dev /proc/self/mounts").output()?;
    ensure!(left.text() == "0", "{} mounts are left", left.text());
    machine.finish()
}
