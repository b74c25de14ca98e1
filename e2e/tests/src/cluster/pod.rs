//! A pod that does nothing by itself, and is told what to do.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use umbra_lab::image;

use crate::kubernetes::server::{Answer, NAMESPACE, Server};

/// What such a pod runs, on a volume `data` that it does not name yet.
pub(super) fn spec(read_only: bool) -> Value {
    let container = json!({"name": "main", "image": image::TOOLS, "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": read_only}]});
    json!({"containers": [container], "terminationGracePeriodSeconds": 5})
}

/// A pod that uses one claim, at `/data`.
pub(super) struct Pod<'a> {
    server: &'a Server,
    name: &'static str,
}

impl<'a> Pod<'a> {
    /// One that somebody else makes, once it runs.
    pub(super) fn made(server: &'a Server, name: &'static str) -> Result<Self> {
        let pod = Self { server, name };
        server.expect(&["wait", "-n", NAMESPACE, "--for=create", "--timeout=60s", &format!("pod/{name}")])?;
        pod.until_ready()?;
        Ok(pod)
    }

    /// Makes it, and waits until it runs.
    pub(super) fn start(
        server: &'a Server,
        name: &'static str,
        claim: &str,
        read_only: bool,
    ) -> Result<Self> {
        let pod = Self { server, name };
        let claim = json!({"claimName": claim, "readOnly": read_only});
        let mut spec = spec(read_only);
        spec["volumes"] = json!([{"name": "data", "persistentVolumeClaim": claim}]);
        let object =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE}, "spec": spec});
        let answer = server.apply_as(name, &object)?;
        ensure!(answer.success, "pod {name}: {}", answer.stderr);
        pod.until_ready()?;
        Ok(pod)
    }

    fn until_ready(&self) -> Result<()> {
        self.wait("condition=Ready")
    }

    /// Waits until it runs for the second time, which nobody but the kubelet has seen to.
    pub(super) fn until_restarted(&self) -> Result<()> {
        self.wait("jsonpath={.status.containerStatuses[0].restartCount}=1")?;
        self.until_ready()
    }

    fn wait(&self, until: &str) -> Result<()> {
        let (name, until) = (format!("pod/{}", self.name), format!("--for={until}"));
        let wait = ["wait", "-n", NAMESPACE, &until, "--timeout=180s", &name];
        let answer = self.server.kubectl(&wait)?;
        if answer.success {
            return Ok(());
        }
        let described = self.server.expect(&["describe", "-n", NAMESPACE, &name])?;
        anyhow::bail!("{}\n{described}", answer.stderr.trim())
    }

    /// Runs a script in it, as an administrator would.
    pub(super) fn exec(&self, script: &str) -> Result<Answer> {
        self.server.kubectl(&["exec", "-n", NAMESPACE, self.name, "--", "sh", "-c", script])
    }

    /// Runs a script in it, which must succeed.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let answer = self.exec(script)?;
        ensure!(answer.success, "in pod {}: {script}: {}", self.name, answer.stderr.trim());
        Ok(answer.stdout.trim().to_owned())
    }

    /// Deletes it, and waits until it has gone.
    pub(super) fn end(self) -> Result<()> {
        self.server.expect(&["delete", "pod", "-n", NAMESPACE, self.name, "--timeout=120s"]).map(drop)
    }
}
