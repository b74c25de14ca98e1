//! The control plane with the kinds installed, and what cases do with it.

use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use umbra_lab::{ControlPlane, NodeAccess, binaries};

/// The namespace of the examples.
pub(crate) const NAMESPACE: &str = "prod";

/// What `kubectl` answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A control plane.
pub(crate) struct Server {
    control_plane: ControlPlane,
    has_controllers: bool,
}

impl Server {
    /// Starts it as an administrator would: with the manifests and `kubectl`.
    pub(crate) fn start() -> Result<Self> {
        let server = Self::bare()?;
        let crds = binaries::workspace().join("crds");
        server.expect(&["apply", "--server-side", "-k", &crds.display().to_string()])?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        server.expect(&established)?;
        Ok(server)
    }

    /// With the controllers and the scheduler that pods need, and without the kinds: they come with the chart.
    pub(crate) fn with_pods() -> Result<Self> {
        let mut server = Self::bare()?;
        server.control_plane.start_controllers()?;
        server.has_controllers = true;
        // Without it nobody may make a pod.
        let account = ["wait", "--for=create", "--timeout=60s", "serviceaccount/default", "-n", NAMESPACE];
        server.expect(&account)?;
        Ok(server)
    }

    fn bare() -> Result<Self> {
        let server = Self { control_plane: ControlPlane::start("api")?, has_controllers: false };
        server.expect(&["create", "namespace", NAMESPACE])?;
        Ok(server)
    }

    /// Whether controllers look after what is written.
    pub(crate) fn has_controllers(&self) -> bool {
        self.has_controllers
    }

    pub(crate) fn finish(self) {
        self.control_plane.finish();
    }

    /// `kubectl` for plugins, which find the cluster by the environment.
    pub(crate) fn plugin_host(&self) -> Command {
        self.control_plane.kubectl_for_plugins()
    }

    /// Where programs find it, and as whom they come.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.control_plane.kubeconfig()
    }

    /// `kubectl` itself.
    pub(crate) fn program(&self) -> PathBuf {
        self.control_plane.kubectl_for_plugins().get_program().into()
    }

    /// Where programs in a machine of the lab find it: the text of the kubeconfig, and the file that goes beside it.
    pub(crate) fn for_machines(&self) -> Result<(String, PathBuf)> {
        Ok((self.control_plane.kubeconfig_of_machines()?, self.control_plane.certificate()))
    }

    /// What the kubelet of a node needs.
    pub(crate) fn node_access(&self, name: &str) -> Result<NodeAccess> {
        self.control_plane.node_access(name)
    }

    /// Runs `kubectl`.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<Answer> {
        answer(self.control_plane.kubectl().args(arguments), None)
    }

    /// Runs `kubectl`, which must succeed; returns what it wrote.
    pub(crate) fn expect(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.kubectl(arguments)?;
        ensure!(answer.success, "kubectl {}: {}", arguments.join(" "), answer.stderr.trim());
        Ok(answer.stdout)
    }

    /// Runs `kubectl`, which must fail, and say this.
    pub(crate) fn expect_refusal(&self, arguments: &[&str], fragment: &str) -> Result<()> {
        refusal(&self.kubectl(arguments)?, fragment)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// An object, as it is stored.
    pub(crate) fn get(&self, resource: &str, name: &str) -> Result<Value> {
        let text = self.expect(&["get", resource, name, "--namespace", NAMESPACE, "--output", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("{resource} {name}"))
    }

    /// Applies a file.
    pub(crate) fn apply(&self, file: &Path) -> Result<Answer> {
        self.kubectl(&["apply", "--server-side", "--filename", &file.display().to_string()])
    }

    /// Runs `kubectl` with this on its standard input.
    pub(crate) fn fed(&self, arguments: &[&str], input: &Value) -> Result<Answer> {
        answer(self.control_plane.kubectl().args(arguments), Some(&input.to_string()))
    }

    /// As [`fed`](Self::fed), telling each line as it is written; it must succeed.
    pub(crate) fn fed_by_line(
        &self,
        arguments: &[&str],
        input: &Value,
        mut line: impl FnMut(&str),
    ) -> Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(input.to_string().as_bytes())?;
        file.rewind()?;
        let mut command = self.control_plane.kubectl();
        let mut child = command.args(arguments).stdin(file).stdout(Stdio::piped()).spawn()?;
        for written in BufReader::new(child.stdout.take().context("no standard output")?).lines() {
            line(&written?);
        }
        ensure!(child.wait()?.success(), "kubectl {} failed", arguments.join(" "));
        Ok(())
    }

    /// The memory of the API server, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        self.control_plane.api_server_bytes()
    }

    /// Applies an object under this name, which must be accepted.
    pub(crate) fn applied_as(&self, name: &str, object: &Value) -> Result<()> {
        let answer = self.apply_as(name, object)?;
        ensure!(answer.success, "{} {name}: {}", object["kind"], answer.stderr);
        Ok(())
    }

    /// Applies an object under this name.
    pub(crate) fn apply_as(&self, name: &str, object: &Value) -> Result<Answer> {
        let mut object = object.clone();
        object["metadata"]["name"] = name.into();
        self.fed(&["apply", "--server-side", "--filename", "-"], &object)
    }
}

/// Fails unless the answer is a refusal with these words.
pub(crate) fn refusal(answer: &Answer, fragment: &str) -> Result<()> {
    ensure!(!answer.success, "it was accepted, and should be refused with: {fragment}");
    let said = answer.stderr.trim();
    ensure!(said.contains(fragment), "it was refused with: {said}\nand should be with: {fragment}");
    Ok(())
}

fn answer(command: &mut Command, input: Option<&str>) -> Result<Answer> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start kubectl")?;
    if let (Some(input), Some(mut to)) = (input, child.stdin.take()) {
        to.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Answer { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
}
