//! The chart, as an administrator uses it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umbra_lab::{binaries, helm};

use super::server::Server;

/// The name of the release.
const RELEASE: &str = "umbra";
/// The namespace of the release.
pub(crate) const SYSTEM: &str = "umbra-system";

fn folder() -> PathBuf {
    binaries::workspace().join("charts/umbra")
}

/// The file with values of this name, which is tried with the chart.
pub(crate) fn values(name: &str) -> PathBuf {
    folder().join(format!("ci/{name}-values.yaml"))
}

/// Helm, as the administrator of a cluster.
fn on(server: &Server) -> Result<Command> {
    let (mut command, kubeconfig) = (Command::new(helm::program()?), server.kubeconfig());
    command.arg("--kubeconfig").arg(&kubeconfig);
    // What it has seen there before the kinds came must not be taken for what is there now, by nobody.
    command.env("KUBECACHEDIR", kubeconfig.with_file_name("helm"));
    Ok(command)
}

/// Installs the chart, or upgrades it, with the values of the lab and these, and waits until everything of it is ready.
pub(crate) fn install(server: &Server, set: &[&str]) -> Result<()> {
    let mut command = on(server)?;
    command.args(["upgrade", "--install", RELEASE]).arg(folder());
    command.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "5m"]);
    command.arg("--values").arg(values("lab")).args(set.iter().flat_map(|value| ["--set", value]));
    let output = command.stdin(Stdio::null()).output().context("cannot start helm")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let pods = server.expect(&["describe", "pods", "--all-namespaces"])?;
    let logs = ["logs", "--all-namespaces", "--selector", "app.kubernetes.io/name", "--prefix", "--tail=20"];
    bail!("helm: {said}\n{pods}\n{}", server.kubectl(&logs)?.stdout)
}

/// Takes it out of the cluster; what helm says where it does not.
pub(crate) fn uninstall(server: &Server) -> Result<Result<(), String>> {
    let mut command = on(server)?;
    let output = command
        .args(["uninstall", RELEASE, "--namespace", SYSTEM])
        .args(["--wait", "--timeout", "3m"])
        .stdin(Stdio::null())
        .output();
    let output = output.context("cannot start helm")?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said()) })
}

/// What helm says against the chart with these values; nothing is said against a good one.
pub(crate) fn lint(values: &Path) -> Result<()> {
    run(Command::new(helm::program()?).args(["lint", "--strict"]).arg(folder()).arg("--values").arg(values))
        .map(drop)
}

/// The manifests that the chart makes of these values.
pub(crate) fn render(values: &Path, set: &[&str]) -> Result<String> {
    let mut command = Command::new(helm::program()?);
    command.args(["template", RELEASE]).arg(folder()).args(["--namespace", SYSTEM, "--values"]).arg(values);
    // Without a cluster to ask, it takes the one of its own release.
    command.args(["--kube-version", umbra_lab::kubernetes::KUBERNETES]);
    run(command.args(set.iter().flat_map(|value| ["--set", value])))
}

/// The same, as objects.
pub(crate) fn objects(values: &Path, set: &[&str]) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&render(values, set)?)?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("cannot start helm")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "helm: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}
