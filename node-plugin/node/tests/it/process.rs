//! A node's process, its files, and the platform behind its socket.

use crate::authority::{Authority, NOW};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use umbra_facade::Client;
use umbra_facade::client::Target;
use umbra_platform::fake::{Fake, FakeDevice};
use umbra_platform::server::ServeError;
use umbra_platform::value::ByteCount;
use umbra_platform::{CallDeadlines, Socket};

/// Long enough for the slowest machine; nothing waits for it unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const OPERATOR: &str = "spiffe://umbra/prod/operator";
const NODE: &str = "spiffe://umbra/prod/node/a";

/// What a node has on disk, and the world around it.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    authority: Authority,
    pub(crate) fake: Arc<Fake>,
}

impl World {
    /// A node with certificates and a few devices. Nothing runs.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new("umbra");
        authority.write(&directory.path().join("server"), &[NODE], NOW, &[&authority]);
        let fake = Fake::new();
        for name in ["master", "shadow"] {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(1 << 20), name));
        }
        Self { directory, authority, fake }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("io.sock")
    }

    /// The node with certificates in files.
    pub(crate) fn command(&self) -> Command {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = self.without_certificates();
        command
            .arg("--tls-certificate")
            .arg(file("server/tls.crt"))
            .arg("--tls-key")
            .arg(file("server/tls.key"))
            .arg("--tls-authorities")
            .arg(file("server/ca.crt"));
        command
    }

    fn without_certificates(&self) -> Command {
        let file = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-node"));
        command
            .args(["run", "--node", "a", "--cluster", "prod", "--log-format", "json"])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--socket")
            .arg(self.socket())
            .arg("--local-socket")
            .arg(file("run/node.sock"))
            .arg("--state-dir")
            .arg(file("state"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts the node and waits until it says where it serves.
    pub(crate) async fn start(&self) -> Running {
        Self::started(&mut self.command()).await
    }

    /// Starts a node that serves CSI to a kubelet with this folder.
    pub(crate) async fn start_for_kubelet(&self, folder: &Path) -> Running {
        Self::started(self.command().arg("--kubelet-dir").arg(folder)).await
    }

    /// A kubeconfig for a cluster at an address where nobody listens.
    fn nowhere(&self) -> PathBuf {
        let file = self.directory.path().join("kubeconfig");
        let kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{name: x, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n\
             users: [{name: x, user: {token: x}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n";
        std::fs::write(&file, kubeconfig).expect("written");
        file
    }

    /// Starts a node that tells a cluster what it is, at an address where nobody listens.
    pub(crate) async fn start_without_cluster(&self) -> Running {
        let file = |name: &str| self.directory.path().join(name);
        std::fs::write(file("machine-id"), "3d1219c7c4c5404aaa1f6d2a48adfda4\n").expect("written");
        let mut command = self.command();
        command.args(["--publish", "--advertise", "192.0.2.7:9751", "--kubeconfig"]).arg(self.nowhere());
        command.arg("--machine-id-file").arg(file("machine-id"));
        Self::started(&mut command).await
    }

    /// Puts a certificate where a node keeps one that the operator has signed.
    pub(crate) fn enrol(&self) {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join("server").join(name));
        let pair = read("tls.crt").expect("read") + &read("tls.key").expect("read");
        let folder = self.directory.path().join("tls");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("tls.pem"), pair).expect("written");
        std::fs::write(folder.join("ca.crt"), read("ca.crt").expect("read")).expect("written");
    }

    /// Starts a node that has the operator sign, which is nowhere, and that serves CSI to a kubelet with this folder.
    pub(crate) async fn start_enrolled(&self, kubelet: &Path) -> Running {
        let mut command = self.without_certificates();
        command.args(["--tls-builtin", "--tls-dir"]).arg(self.directory.path().join("tls"));
        command.arg("--kubeconfig").arg(self.nowhere()).arg("--kubelet-dir").arg(kubelet);
        Self::started(&mut command).await
    }

    async fn started(command: &mut Command) -> Running {
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let (mut probes, mut facade, mut waits) = (None, None, false);
        let starting = async {
            while probes.is_none() || (facade.is_none() && !waits) {
                let line = lines.next_line().await.expect("text").expect("it goes on");
                if line.contains("probes and metrics are served") {
                    probes = address(&line);
                } else if line.contains("\"serving\"") {
                    facade = address(&line);
                } else if line.contains("not served to other hosts yet") {
                    waits = true;
                }
            }
        };
        tokio::time::timeout(PATIENCE, starting).await.expect("it serves");
        let log = tokio::spawn(async move {
            let mut log = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                log.push(line);
            }
            log
        });
        Running { child, log, probes: probes.expect("said"), facade }
    }

    /// A client of the operator.
    pub(crate) fn operator(&self, node: &Running) -> Client {
        let directory = self.directory.path().join("operator");
        let files = self.authority.write(&directory, &[OPERATOR], NOW, &[&self.authority]);
        let target = Target {
            address: node.facade.expect("it has a certificate").to_string(),
            cluster: "prod".parse().expect("a name"),
            node: "a".parse().expect("a name"),
        };
        Client::new(target, files, CallDeadlines::default()).expect("certificates")
    }

    /// Serves the platform, as umbra-io does.
    pub(crate) async fn platform(&self) -> Served {
        let socket = Socket::bind(&self.socket()).await.expect("a free path");
        let (stop, stopped) = oneshot::channel::<()>();
        let fake = Arc::clone(&self.fake);
        let server = tokio::spawn(async move {
            umbra_platform::serve(socket, fake, async {
                stopped.await.expect("the test says when");
            })
            .await
        });
        Served { stop, server }
    }
}

/// The address in a line of the log.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("\"address\":\"")?;
    rest.split('"').next()?.parse().ok()
}

/// A platform that is served.
pub(crate) struct Served {
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Served {
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.server.await.expect("no panic").expect("no failure");
    }
}

/// A node that runs.
pub(crate) struct Running {
    child: Child,
    log: JoinHandle<Vec<String>>,
    probes: SocketAddr,
    /// Where it serves other hosts, if it does.
    facade: Option<SocketAddr>,
}

impl Running {
    /// What `GET` says: the status, and the text.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.probes).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
            .await
            .expect("soon")
            .expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    /// Sends a signal, and waits for the end: how it ended, and what it has logged.
    pub(crate) async fn end(mut self, signal: rustix::process::Signal) -> (ExitStatus, Vec<String>) {
        let id = i32::try_from(self.child.id().expect("it runs")).expect("a process id");
        let id = rustix::process::Pid::from_raw(id).expect("not 0");
        rustix::process::kill_process(id, signal).expect("ours");
        let ended =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("waited");
        (ended, self.log.await.expect("no panic"))
    }
}
