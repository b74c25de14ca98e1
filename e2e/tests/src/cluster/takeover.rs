//! A database that was there before Umbra: a StatefulSet with a claim on a local volume. Umbra goes under it and out again, while
//! the StatefulSet deletes its claim whenever it is scaled down.

use anyhow::{Result, ensure};
use serde_json::json;

use super::machine::{Machine, devices};
use super::pod::{self, Pod};
use crate::kubernetes::installation::{Installation, until};
use crate::kubernetes::server::{NAMESPACE, Server};

/// The one pod, and its claim.
const POD: &str = "db-0";
const CLAIM: &str = "data-db-0";
/// The volume that is there.
const RAW: &str = "local-a";

/// The database: a volume of the node, and a StatefulSet on it.
fn apply_database(server: &Server) -> Result<()> {
    let on_node = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]);
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
        "local": {"path": devices().master, "fsType": "ext4"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": on_node}]}}}});
    server.applied_as(RAW, &volume)?;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "resources": {"requests": {"storage": "64Mi"}}}});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"namespace": NAMESPACE}, "spec": {
        "replicas": 1, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": pod::spec(false)},
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"},
        "volumeClaimTemplates": [claim]}});
    server.applied_as("db", &set)
}

fn stop(server: &Server) -> Result<()> {
    server.expect(&["scale", "statefulset", "db", "-n", NAMESPACE, "--replicas=0"])?;
    let gone = ["wait", "-n", NAMESPACE, "--for=delete", "--timeout=120s", &format!("pod/{POD}")];
    server.expect(&gone).map(drop)
}

fn start(server: &Server) -> Result<Pod<'_>> {
    server.expect(&["scale", "statefulset", "db", "-n", NAMESPACE, "--replicas=1"])?;
    Pod::made(server, POD)
}

/// The device under the pod's data.
fn device(pod: &Pod<'_>) -> Result<String> {
    pod.run("while read device folder rest; do [ $folder = /data ] && echo $device; done </proc/mounts; :")
}

fn raw(server: &Server, path: &str) -> Result<String> {
    server.expect(&["get", "pv", RAW, "--output", &format!("jsonpath={{{path}}}")])
}

pub(super) fn takeover(server: &Server) -> Result<()> {
    let machine = Machine::boot_for_pods(server, "cluster-takeover")?;
    let umbra = Installation::by_chart(server)?;
    apply_database(server)?;
    let database = Pod::made(server, POD)?;
    database.run("echo 1 >/data/row && sync")?;
    let (disk, before) = (device(&database)?, raw(server, ".metadata.finalizers")?);

    // Nothing happens under a pod that runs, but for what keeps the volume.
    umbra.umbra(&["takeover", CLAIM, "--name", "pg"], 0)?;
    let taken = ".status.conditions[?(@.type=='TakenOver')]";
    until("it waits for the pod", || {
        Ok(umbra.path("umaster/pg", &format!("{taken}.reason"))? == "WaitingForPods")
    })?;
    let said = umbra.path("umaster/pg", &format!("{taken}.message"))?;
    ensure!(said.contains(POD), "it does not say for which pod it waits: {said}");
    ensure!(
        raw(server, ".metadata.finalizers")?.contains("imaging.umbra.dev/raw"),
        "nothing keeps the volume"
    );
    ensure!(database.run("cat /data/row")? == "1", "it has lost its data");

    // One restart, in which the claim goes as well.
    stop(server)?;
    umbra.wait("TakenOver", &["umaster/pg"])?;
    let database = start(server)?;
    let presented = device(&database)?;
    ensure!(presented.starts_with("/dev/ublkb"), "after the takeover the pod uses {presented}");
    ensure!(database.run("cat /data/row")? == "1", "the takeover has lost data");

    // What it was taken over for.
    let source = |id: &str| json!({"device": {"grantRef": {"name": "all"}, "nodeName": "a", "id": id}});
    let [shadow, bitmap] = devices().one;
    umbra.apply(
        "VolumeSet",
        "one",
        &json!({"masterRef": {"name": "pg"}, "mode": "Independent",
        "shadow": {"source": source(&shadow)}, "bitmap": {"source": source(&bitmap)}}),
    )?;
    umbra.wait("Ready", &["uset/one"])?;
    database.run("echo 2 >/data/row && sync")?;
    umbra.umbra(&["cut", "one", "--wait"], 0)?;
    database.run("echo 3 >/data/row && sync")?;
    let refused = umbra.refused(&["restore", "one", "--confirm=one", "--no-safety", "--wait"])?;
    ensure!(refused.contains(POD), "the refusal does not name the pod: {refused}");
    stop(server)?;
    umbra.umbra(&["restore", "one", "--confirm=one", "--no-safety", "--wait"], 0)?;
    let database = start(server)?;
    ensure!(database.run("cat /data/row")? == "2", "the master is not restored");
    database.run("echo 4 >/data/row && sync")?;

    // The way back is refused while it would lose an image, or stand under a pod.
    umbra.refused(&["release", "pg", "--confirm=pg", "--wait"])?;
    server.expect(&["delete", "uset", "one", "-n", NAMESPACE, "--timeout=120s"])?;
    stop(server)?;
    umbra.umbra(&["release", "pg", "--confirm=pg", "--wait"], 0)?;
    let database = start(server)?;
    ensure!(device(&database)? == disk, "after the release the pod uses {}", device(&database)?);
    ensure!(database.run("cat /data/row")? == "4", "the release has lost data");
    ensure!(raw(server, ".metadata.finalizers")? == before, "the volume is not what it was");
    ensure!(raw(server, ".metadata.labels")?.is_empty(), "the volume is not what it was");
    machine.finish()
}
