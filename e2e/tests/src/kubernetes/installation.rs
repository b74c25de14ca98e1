//! Umbra installed in a control plane: its namespaces, its certificates, its operator, and a database's volumes.

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use umbra_lab::{binaries, progress, static_binary};

use super::chart::{self, SYSTEM};
use super::plugin::{self, umbra};
use super::programs::{Authority, CERTIFICATE, PATIENCE, Running};
use super::server::{NAMESPACE, Server};

const OPERATOR: &str = "umbra-operator";

/// Builds the programs, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    for program in [OPERATOR, "umbra-node"] {
        progress::step(format_args!("building {program}"), || static_binary(program))?;
    }
    plugin::build()
}

/// The devices of a database's volume, and of a full and a lean image of it; stable names.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    pub(crate) master: String,
    /// Shadow and bitmap volume of the set `one`, which is independent.
    pub(crate) one: [String; 2],
    /// Those of the set `two`, which is dependent.
    pub(crate) two: [String; 2],
}

/// Umbra in a control plane of its own.
pub(crate) struct Installation<'a> {
    server: &'a Server,
    folder: TempDir,
    authority: Authority,
}

impl<'a> Installation<'a> {
    /// Whose programs are processes, with a node `a` that the namespace of tests may use every device of.
    pub(crate) fn new(server: &'a Server) -> Result<Self> {
        server.expect(&["create", "namespace", SYSTEM])?;
        let csi = binaries::workspace().join("node-plugin/csi/manifests");
        server.expect(&["apply", "--server-side", "-k", &csi.display().to_string()])?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"pool": "yes"}}});
        server.applied_as("a", &node)?;
        Self::with_a_grant(server)
    }

    /// As the chart installs it, on the nodes that there are; they serve volumes to pods.
    pub(crate) fn by_chart(server: &'a Server) -> Result<Self> {
        chart::install(server, &[])?;
        until("the kubelet knows the driver", || {
            let drivers = ["get", "csinode", "a", "--output", "jsonpath={.spec.drivers[*].name}"];
            Ok(server.kubectl(&drivers)?.stdout == "imaging.umbra.dev")
        })?;
        Self::with_a_grant(server)
    }

    /// Installs the chart once more, with other values.
    pub(crate) fn upgrade(&self, values: &[&str]) -> Result<()> {
        chart::install(self.server, values)
    }

    fn with_a_grant(server: &'a Server) -> Result<Self> {
        let installation = Self { server, folder: tempfile::tempdir()?, authority: Authority::new()? };
        installation.apply(
            "DeviceGrant",
            "all",
            &json!({"nodeSelector": {"matchLabels": {"pool": "yes"}},
            "devices": [{"idPattern": "/dev/disk/by-id/*"}], "roles": ["Master", "Shadow", "Bitmap"],
            "namespaces": [NAMESPACE]}),
        )?;
        Ok(installation)
    }

    pub(crate) fn server(&self) -> &'a Server {
        self.server
    }

    /// A file of this run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder with a role's certificate.
    pub(crate) fn certified(&self, role: &str) -> Result<PathBuf> {
        let folder = self.file(&role.replace('/', "-"));
        if !folder.exists() {
            std::fs::create_dir(&folder)?;
            self.authority.certify(&folder, role)?;
        }
        Ok(folder)
    }

    pub(crate) fn start_operator(&self, name: &str) -> Result<Running> {
        let mut command = Command::new(static_binary(OPERATOR)?);
        command.args(["run", "--cluster", "lab", "--namespace", SYSTEM, "--name", name]);
        command.args(["--http", "127.0.0.1:0"]).arg("--kubeconfig").arg(self.server.kubeconfig());
        let certificate = self.certified("operator")?;
        for (option, file) in CERTIFICATE {
            command.arg(option).arg(certificate.join(file));
        }
        Running::start(OPERATOR, command)
    }

    /// Waits until the node's facade has said in the cluster where it is.
    pub(crate) fn until_node_is_at(&self, endpoint: &str) -> Result<()> {
        until("the node has said where it is", || {
            let said = ["get", "unode", "a", "--output", "jsonpath={.status.endpoint}"];
            Ok(self.server.kubectl(&said)?.stdout == endpoint)
        })
    }

    pub(crate) fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let object = json!({"apiVersion": "imaging.umbra.dev/v1alpha1", "kind": kind,
            "metadata": {"namespace": NAMESPACE}, "spec": spec});
        self.server.applied_as(name, &object)
    }

    /// A database's volume with a full and a lean image of it, and waits until they are ready.
    pub(crate) fn apply_volumes(&self, devices: &Devices) -> Result<()> {
        let source = |id: &str| json!({"device": {"grantRef": {"name": "all"}, "nodeName": "a", "id": id}});
        let master = json!({"source": source(&devices.master), "publish": {"claimName": "pg-data"}});
        self.apply("MasterVolume", "pg", &master)?;
        for (name, mode, [shadow, bitmap]) in
            [("one", "Independent", &devices.one), ("two", "Dependent", &devices.two)]
        {
            let spec = json!({"masterRef": {"name": "pg"}, "mode": mode, "bitmap": {"source": source(bitmap)},
                "shadow": {"source": source(shadow),
                    "publish": {"claimName": format!("{name}-image"), "readOnly": true}}});
            self.apply("VolumeSet", name, &spec)?;
        }
        self.wait("Ready", &["umaster/pg", "uset/one", "uset/two"])
    }

    /// Waits until a condition of all these is true.
    pub(crate) fn wait(&self, condition: &str, objects: &[&str]) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        let wait = ["wait", "-n", NAMESPACE, &condition, "--timeout=120s"];
        let answer = self.server.kubectl(&[&wait[..], objects].concat())?;
        if answer.success {
            return Ok(());
        }
        let status = self.server.expect(&[&["get", "-n", NAMESPACE, "-o", "yaml"][..], objects].concat())?;
        anyhow::bail!("{}\n{status}", answer.stderr.trim())
    }

    /// Runs `kubectl umbra` in the namespace, which must end with this code.
    pub(crate) fn umbra(&self, arguments: &[&str], code: i32) -> Result<String> {
        let said = umbra(&mut self.server.plugin_host(), &[arguments, &["-n", NAMESPACE]].concat())?;
        let line = arguments.join(" ");
        ensure!(said.code == Some(code), "kubectl umbra {line} ended not with {code}: {said:?}");
        Ok(said.stdout)
    }

    /// Runs `kubectl umbra` in the namespace, which must be refused; returns all it said.
    pub(crate) fn refused(&self, arguments: &[&str]) -> Result<String> {
        let said = umbra(&mut self.server.plugin_host(), &[arguments, &["-n", NAMESPACE]].concat())?;
        ensure!(said.code == Some(3), "kubectl umbra {} was not refused: {said:?}", arguments.join(" "));
        Ok(said.stdout + &said.stderr)
    }

    pub(crate) fn path(&self, object: &str, path: &str) -> Result<String> {
        self.server.expect(&["get", "-n", NAMESPACE, object, "--output", &format!("jsonpath={{{path}}}")])
    }

    /// The fence on record.
    pub(crate) fn fence(&self) -> Result<u64> {
        let fence = ["get", "configmap", "umbra-fence", "-n", SYSTEM, "--output", "jsonpath={.data.fence}"];
        Ok(self.server.kubectl(&fence)?.stdout.parse().unwrap_or_default())
    }

    /// Deletes every object and waits until they are gone.
    pub(crate) fn delete_all(&self) -> Result<()> {
        self.server.expect(&["delete", "-n", NAMESPACE, "--wait=false", "ugroup,uset,umaster", "--all"])?;
        until("everything is gone", || {
            if !self.server.has_controllers() {
                play_protection(self.server)?;
            }
            Ok(self.path("uset,umaster,pvc,pv", ".items")? == "[]")
        })
    }
}

/// Waits until it is so.
pub(crate) fn until(what: &str, look: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Does what a controller manager does where one runs: lets claims and volumes go that nobody uses.
fn play_protection(server: &Server) -> Result<()> {
    for kind in ["pvc", "pv"] {
        let names = ["get", kind, "-n", NAMESPACE, "--output", "jsonpath={.items[*].metadata.name}"];
        for name in server.expect(&names)?.split_whitespace() {
            let object = server.get(kind, name)?;
            if object["metadata"]["deletionTimestamp"].is_string() {
                let patch = r#"{"metadata": {"finalizers": null}}"#;
                server.expect(&["patch", kind, name, "-n", NAMESPACE, "--type=merge", "--patch", patch])?;
            }
        }
    }
    Ok(())
}
