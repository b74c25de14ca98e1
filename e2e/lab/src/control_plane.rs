//! A real Kubernetes control plane, as processes of this host: etcd and the API server, and the controllers where they are
//! asked for.
//!
//! Without the controllers what is written stays as it was written. Everything of a control plane, its data, its keys and
//! etcd's socket, is in a private folder that goes with it; the API server listens on this host only, and lets in who holds a
//! token from that folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::artefacts::Run;
use crate::network::{HOST, free_port};
use crate::{host, kubernetes, process, progress};

/// Who may come, each with a token of its own: a user, and a group. The API server reads them once, when it starts.
const USERS: &[(&str, &str)] = &[
    (ADMINISTRATOR, "system:masters"),
    (CONTROLLER_MANAGER, "lab"),
    (SCHEDULER, "lab"),
    ("system:node:a", "system:nodes"),
];
const API_SERVER: &str = "kube-apiserver";
const ADMINISTRATOR: &str = "admin";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
const CLIENT_CERTIFICATE: &str = "kubelet-client.crt";
const CLIENT_KEY: &str = "kubelet-client.key";
/// How long the API server may take to be ready. It takes some four seconds where nothing else runs.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How often another port is tried where somebody else was faster.
const PORT_TRIES: u32 = 5;

/// A control plane that runs.
#[derive(Debug)]
pub struct ControlPlane {
    // Ended in this order.
    processes: Vec<Process>,
    programs: PathBuf,
    run: Run,
    port: u16,
    tokens: BTreeMap<&'static str, String>,
}

/// What the kubelet of a machine needs to belong to a control plane.
#[derive(Debug, Clone)]
pub struct NodeAccess {
    /// Where the API server is, and as whom the kubelet comes. The certificate below goes beside it, as `apiserver.crt`.
    pub kubeconfig: String,
    /// The port of this host on which the API server listens.
    pub api_server_port: u16,
    /// The API server's own certificate.
    pub server_certificate: PathBuf,
    /// The certificate by which a kubelet knows the API server.
    pub client_certificate: PathBuf,
}

impl ControlPlane {
    /// Starts one and waits until it is ready. `name` is for people.
    ///
    /// # Errors
    /// Where it cannot be built or does not start.
    pub fn start(name: &str) -> Result<Self> {
        host::ensure_commands(&[("setpriv", "util-linux")])?;
        let programs = kubernetes::server()?;
        let run = Run::new(name)?;
        let begin = Instant::now();
        let mut control_plane = Self { processes: Vec::new(), programs, run, port: 0, tokens: tokens()? };
        control_plane.start_etcd()?;
        control_plane.start_api_server()?;
        progress::say(format_args!("{name}: API server ready after {:.1} s", begin.elapsed().as_secs_f64()));
        Ok(control_plane)
    }

    /// Starts the controllers and the scheduler: from now on objects become pods, and what is deleted waits for its users.
    ///
    /// # Errors
    /// Where they cannot be built or do not start.
    pub fn start_controllers(&mut self) -> Result<()> {
        let programs = kubernetes::pods()?;
        let mut manager = process::for_life(&[programs.join("kube-controller-manager")]);
        let key = self.run.folder().join("certs/apiserver.key");
        manager
            .arg("--root-ca-file")
            .arg(self.certificate())
            .arg("--service-account-private-key-file")
            .arg(key);
        manager.arg("--use-service-account-credentials");
        self.start_controller("kube-controller-manager", manager, CONTROLLER_MANAGER)?;
        let scheduler = process::for_life(&[programs.join("kube-scheduler")]);
        self.start_controller("kube-scheduler", scheduler, SCHEDULER)
    }

    fn start_controller(&mut self, name: &'static str, mut command: Command, user: &str) -> Result<()> {
        let kubeconfig = self.run.folder().join(format!("{name}.kubeconfig"));
        write_private(&kubeconfig, &self.kubeconfig_here(user)?)?;
        command.arg("--kubeconfig").arg(kubeconfig);
        // There is one of each, and nobody asks how it is.
        command.args(["--leader-elect=false", "--secure-port=0"]);
        let controller = Process::start(name, command, &self.run)?;
        // They end before what they talk to.
        self.processes.insert(0, controller);
        Ok(())
    }

    /// The memory of the API server, in bytes.
    ///
    /// # Errors
    /// Where it runs no more.
    pub fn api_server_bytes(&self) -> Result<u64> {
        let server = self.processes.iter().find(|process| process.name == API_SERVER);
        process::resident_bytes(server.context("there is no API server")?.child.id())
    }

    /// `kubectl`, as the administrator of this control plane.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).stdin(Stdio::null());
        // What it remembers of a server must not be taken for another's.
        command.arg("--cache-dir").arg(self.run.folder().join("kubectl"));
        // Settings of whoever runs this are not part of the test.
        command.env_remove("KUBECONFIG").env("KUBERC", "off");
        command
    }

    /// `kubectl` as the host of plugins: it hands its own options to none of them, but the environment to all.
    #[must_use]
    pub fn kubectl_for_plugins(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBERC", "off").stdin(Stdio::null());
        command
    }

    /// Where to reach it, and as whom.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.run.folder().join("kubeconfig")
    }

    /// What a machine of the lab with a network needs to reach it, as the same administrator. The file
    /// [`certificate`](Self::certificate) goes beside it, as `apiserver.crt`.
    ///
    /// # Errors
    /// None that a test can meet.
    pub fn kubeconfig_of_machines(&self) -> Result<String> {
        self.kubeconfig_there(ADMINISTRATOR)
    }

    /// What the kubelet of the machine that is the node `name` needs.
    ///
    /// # Errors
    /// Where no token was made for a node of that name.
    pub fn node_access(&self, name: &str) -> Result<NodeAccess> {
        Ok(NodeAccess {
            kubeconfig: self.kubeconfig_there(&format!("system:node:{name}"))?,
            api_server_port: self.port,
            server_certificate: self.certificate(),
            client_certificate: self.run.folder().join(CLIENT_CERTIFICATE),
        })
    }

    fn token(&self, user: &str) -> Result<&str> {
        self.tokens.get(user).map(String::as_str).with_context(|| format!("{user} has no token"))
    }

    fn kubeconfig_here(&self, user: &str) -> Result<String> {
        let authority = format!("certificate-authority: {}", self.certificate().display());
        Ok(kubeconfig(&format!("https://127.0.0.1:{}", self.port), &authority, self.token(user)?))
    }

    fn kubeconfig_there(&self, user: &str) -> Result<String> {
        // The certificate is not for the address under which a machine sees this host.
        let authority = "certificate-authority: apiserver.crt, tls-server-name: kubernetes.default.svc";
        Ok(kubeconfig(&format!("https://{HOST}:{}", self.port), authority, self.token(user)?))
    }

    /// The API server's own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.run.folder().join("certs/apiserver.crt")
    }

    /// Ends it, with nothing kept: the test went well.
    pub fn finish(mut self) {
        self.run.declare_good();
    }

    fn start_etcd(&mut self) -> Result<()> {
        let folder = self.run.folder().to_owned();
        let socket = |name: &str| format!("unix://{}", folder.join(name).display());
        let mut command = process::for_life(&[self.programs.join("etcd")]);
        command.arg("--data-dir").arg(folder.join("etcd")).args(["--name", "lab", "--log-level", "warn"]);
        // What it holds lives no longer than the test.
        command.arg("--unsafe-no-fsync");
        command.args([
            "--listen-client-urls",
            &socket("etcd.sock"),
            "--listen-peer-urls",
            &socket("peer.sock"),
        ]);
        // It has no peers, but wants to know under which address they would find it; a socket is none.
        let nowhere = "http://localhost:1";
        command.args(["--advertise-client-urls", nowhere, "--initial-advertise-peer-urls", nowhere]);
        command.args(["--initial-cluster", &format!("lab={nowhere}")]);
        let mut etcd = Process::start("etcd", command, &self.run)?;
        let deadline = Instant::now() + READY_WITHIN;
        while !folder.join("etcd.sock").exists() {
            etcd.expect_alive(deadline)?;
        }
        self.processes.push(etcd);
        Ok(())
    }

    fn start_api_server(&mut self) -> Result<()> {
        let folder = self.run.folder().to_owned();
        write_private(&folder.join("tokens"), &token_file(&self.tokens))?;
        write_client_certificate(&folder)?;
        for _ in 0..PORT_TRIES {
            self.port = free_port()?;
            let mut server = Process::start(API_SERVER, self.api_server(), &self.run)?;
            write_private(&self.kubeconfig(), &self.kubeconfig_here(ADMINISTRATOR)?)?;
            let deadline = Instant::now() + READY_WITHIN;
            let ready = loop {
                let answer =
                    self.kubectl().args(["get", "--raw", "/readyz", "--request-timeout", "5s"]).output()?;
                if answer.status.success() {
                    break Ok(());
                }
                if let Err(error) = server.expect_alive(deadline) {
                    break Err(error);
                }
            };
            match ready {
                Ok(()) => {
                    // The server ends before what it stores in.
                    self.processes.insert(0, server);
                    return Ok(());
                }
                // Between finding the port and using it somebody else took it.
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no free port for the API server after {PORT_TRIES} tries")
    }

    fn api_server(&self) -> Command {
        let folder = self.run.folder();
        let mut command = process::for_life(&[self.programs.join(API_SERVER)]);
        command.arg("--etcd-servers").arg(format!("unix://{}", folder.join("etcd.sock").display()));
        command.args(["--bind-address", "127.0.0.1", "--secure-port", &self.port.to_string()]);
        // It wants an address to tell pods, also on a host without a network; nodes of the lab lead pods to it themselves.
        command.args(["--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none"]);
        // It makes its own certificate there; its key also signs the tokens of service accounts.
        command.arg("--cert-dir").arg(folder.join("certs"));
        let key = folder.join("certs/apiserver.key");
        command
            .arg("--service-account-key-file")
            .arg(&key)
            .arg("--service-account-signing-key-file")
            .arg(&key);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.arg("--token-auth-file").arg(folder.join("tokens"));
        command.args(["--authorization-mode", "Node,RBAC", "--anonymous-auth=false"]);
        command.args(["--enable-admission-plugins", "NodeRestriction"]);
        command.arg("--kubelet-client-certificate").arg(folder.join(CLIENT_CERTIFICATE));
        command.arg("--kubelet-client-key").arg(folder.join(CLIENT_KEY));
        command.args(["--kubelet-preferred-address-types", "ExternalIP"]);
        command.args(["--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged=true"]);
        command
    }
}

/// A process of the control plane, with its log.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: &'static str, mut command: Command, run: &Run) -> Result<Self> {
        let log = run.logs().join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = process::spawn(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Waits a moment; fails where the process has ended or the deadline has passed.
    fn expect_alive(&mut self, deadline: Instant) -> Result<()> {
        thread::sleep(Duration::from_millis(50));
        let ended: Option<ExitStatus> = self.child.try_wait()?;
        if ended.is_none() && Instant::now() < deadline {
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let how =
            ended.map_or_else(|| "is not ready in time".to_owned(), |status| format!("ended with {status}"));
        bail!("{} {how}:\n{}", self.name, host::tail(&log, 20))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A secret of this run for each user.
fn tokens() -> Result<BTreeMap<&'static str, String>> {
    let path = "/proc/sys/kernel/random/uuid";
    let token = || fs::read_to_string(path).map(|text| text.trim().to_owned()).context(path);
    USERS.iter().map(|(user, _)| Ok((*user, token()?))).collect()
}

/// The tokens as the API server reads them.
fn token_file(tokens: &BTreeMap<&'static str, String>) -> String {
    let line = |(user, group): &(&str, &str)| {
        tokens.get(user).map(|token| format!("{token},{user},{user},\"{group}\"\n"))
    };
    USERS.iter().filter_map(line).collect()
}

/// Writes the certificate as which the API server comes to kubelets, and its key. It is its own authority.
fn write_client_certificate(folder: &Path) -> Result<()> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let key = KeyPair::generate()?;
    write_private(&folder.join(CLIENT_CERTIFICATE), &parameters.self_signed(&key)?.pem())?;
    write_private(&folder.join(CLIENT_KEY), &key.serialize_pem())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}

fn kubeconfig(server: &str, authority: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters: [{{name: lab, cluster: {{server: \"{server}\", {authority}}}}}]\n\
         users: [{{name: admin, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: admin}}}}]\n\
         current-context: lab\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_a_token_of_its_own() {
        let tokens = tokens().unwrap();
        let file = token_file(&tokens);
        let node = file.lines().find(|line| line.contains(",system:node:a,")).unwrap();
        assert!(node.starts_with(&tokens["system:node:a"]) && node.ends_with(",\"system:nodes\""), "{node}");
        let mut all: Vec<&String> = tokens.values().collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), USERS.len());
    }
}
