//! The operator as the authority: it makes it, signs for the pod of a node, and refuses the same pod another node's name.
//!
//! No kubelet runs here, so the pod's requests come by impersonation, with what the API server would know of its token.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use umbra_lab::static_binary;

use super::Case;
use crate::kubernetes::installation::until;
use crate::kubernetes::programs::Running;
use crate::kubernetes::server::Server;

const SYSTEM: &str = "umbra-system";
const NODES: &str = "umbra-node";
const POD: &str = "umbra-node-x";

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("operator/certificates", certificates).alone()]
}

/// What the account of the nodes may do, and one of its pods, on node `a`.
fn furnish(server: &Server) -> Result<()> {
    for namespace in [SYSTEM, NODES] {
        server.expect(&["create", "namespace", namespace])?;
    }
    server.expect(&["create", "serviceaccount", "umbra-node", "-n", NODES])?;
    let role = ["--verb=create,get", "--resource=certificatesigningrequests.certificates.k8s.io"];
    server.expect(&[&["create", "clusterrole", "umbra-node"], &role[..]].concat())?;
    let account = format!("--serviceaccount={NODES}:umbra-node");
    server.expect(&["create", "clusterrolebinding", "umbra-node", "--clusterrole=umbra-node", &account])?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NODES},
        "spec": {"nodeName": "a", "serviceAccountName": "umbra-node", "automountServiceAccountToken": false,
            "containers": [{"name": "node", "image": "umbra-node"}]}});
    let answer = server.apply_as(POD, &pod)?;
    ensure!(answer.success, "{}", answer.stderr);
    Ok(())
}

fn start(server: &Server, folder: &Path, name: &str) -> Result<Running> {
    let mut command = Command::new(static_binary("umbra-operator")?);
    command.args(["run", "--cluster", "lab", "--namespace", SYSTEM, "--name", name, "--http", "127.0.0.1:0"]);
    command.args(["--tls-builtin", "--node-namespace", NODES, "--tls-dir"]).arg(folder.join(name));
    command.arg("--kubeconfig").arg(server.kubeconfig());
    Running::start("umbra-operator", command)
}

/// A kubeconfig by which the administrator comes as the pod.
fn as_pod(server: &Server, folder: &Path) -> Result<PathBuf> {
    let uid = ["get", "pod", POD, "-n", NODES, "--output", "jsonpath={.metadata.uid}"];
    let known = BTreeMap::from([
        ("authentication.kubernetes.io/node-name", ["a".to_owned()]),
        ("authentication.kubernetes.io/pod-name", [POD.to_owned()]),
        ("authentication.kubernetes.io/pod-uid", [server.expect(&uid)?]),
    ]);
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(server.kubeconfig())?)?;
    let user = &mut config["users"][0]["user"];
    user["as"] = format!("system:serviceaccount:{NODES}:umbra-node").into();
    user["as-user-extra"] = serde_json::to_value(known)?;
    let file = folder.join("pod.kubeconfig");
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

/// Asks for a certificate of this node under this name, as whom the kubeconfig says.
fn ask(server: &Server, kubeconfig: &Path, name: &str, node: &str) -> Result<()> {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        vec![SanType::URI(format!("spiffe://umbra/lab/node/{node}").as_str().try_into()?)];
    let request = params.serialize_request(&KeyPair::generate()?)?.pem()?;
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name}, "spec": {"request": ByteString(request.into_bytes()),
            "signerName": "imaging.umbra.dev/facade", "expirationSeconds": 86400,
            "usages": ["digital signature", "server auth", "client auth"]}});
    let mut kubectl = Command::new(server.program());
    kubectl.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(kubeconfig.with_extension("cache"));
    kubectl.args(["create", "--filename", "-"]).env_remove("KUBECONFIG").env("KUBERC", "off");
    kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = kubectl.spawn().context("cannot start kubectl")?;
    child.stdin.take().context("no input")?.write_all(object.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn path(server: &Server, object: &[&str], path: &str) -> Result<String> {
    let said =
        server.kubectl(&[&["get"], object, &["--output", &format!("jsonpath={{{path}}}")]].concat())?;
    Ok(if said.success { said.stdout } else { String::new() })
}

fn certificates(server: &Server) -> Result<()> {
    furnish(server)?;
    let folder = TempDir::new()?;
    let first = start(server, folder.path(), "first")?;
    let bundle = || path(server, &["configmap", "umbra-authorities", "-n", SYSTEM], r".data.ca\.crt");
    until("the authority is made and published", || Ok(bundle()?.contains("BEGIN CERTIFICATE")))?;
    let own = folder.path().join("first/tls.pem");
    until("the operator has a certificate", || Ok(own.exists()))?;

    let pod = as_pod(server, folder.path())?;
    ask(server, &pod, "good", "a")?;
    ask(server, &pod, "forged", "b")?;
    ask(server, &server.kubeconfig(), "foreign", "a")?;
    let of = |name: &str, what: &str| path(server, &["csr", name], what);
    until("the node has a certificate", || Ok(!of("good", ".status.certificate")?.is_empty()))?;
    ensure!(of("good", ".spec.username")? == format!("system:serviceaccount:{NODES}:umbra-node"));
    ensure!(of("good", ".status.conditions[*].type")? == "Approved");
    let certificate: ByteString = serde_json::from_value(of("good", ".status.certificate")?.into())?;
    ensure!(certificate.0.starts_with(b"-----BEGIN CERTIFICATE-----"));
    for (name, reason, remedy) in [
        ("forged", "OtherNode", "start umbra-node with --node a"),
        ("foreign", "OtherAccount", "--node-namespace"),
    ] {
        until("the request is refused", || Ok(of(name, ".status.conditions[*].type")? == "Denied"))?;
        let (why, text) =
            (of(name, ".status.conditions[0].reason")?, of(name, ".status.conditions[0].message")?);
        ensure!(why == reason && text.contains(remedy), "{name}: {why}: {text}");
        ensure!(of(name, ".status.certificate")?.is_empty());
    }

    // The next leader goes on with the same authority, and no key was told to anybody.
    let authority = || path(server, &["secret", "umbra-authority", "-n", SYSTEM], ".data");
    let (before, published) = (authority()?, bundle()?);
    first.signal(Signal::KILL)?;
    let second = start(server, folder.path(), "second")?;
    ask(server, &pod, "again", "a")?;
    until("the next leader signs", || Ok(!of("again", ".status.certificate")?.is_empty()))?;
    ensure!(authority()? == before && bundle()? == published, "there is one authority");
    let told = [first.log(), second.log()].concat().join("\n");
    ensure!(!told.contains("PRIVATE KEY") && !told.contains("BEGIN CERTIFICATE"), "{told}");
    Ok(())
}
