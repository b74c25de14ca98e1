//! A real Kubernetes control plane as far as objects go: etcd and the API server, as processes of this host.
//!
//! There is no node and no controller beside them: what is written stays as it was written. Everything of a control plane,
//! its data, its keys and etcd's socket, is in a private folder that goes with it; the API server listens on this host only,
//! and lets in who holds the token from that folder.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::artefacts::Run;
use crate::go::Go;
use crate::{binaries, cache, host, process, progress};

/// The release of Kubernetes; `control-plane/go.mod` pins its modules.
pub const KUBERNETES: &str = "v1.36.3";

/// What is built: the name of the program, and the package it is made from.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];
/// How long the API server may take to be ready. It takes some four seconds where nothing else runs.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How often another port is tried where somebody else was faster.
const PORT_TRIES: u32 = 5;

/// The folder with `etcd`, `kube-apiserver` and `kubectl`, built the first time.
///
/// # Errors
/// Where they cannot be fetched or built.
pub fn programs() -> Result<PathBuf> {
    let module = binaries::workspace().join("e2e/lab/control-plane");
    let read = |name: &str| fs::read_to_string(module.join(name)).with_context(|| name.to_owned());
    let flags = link_flags();
    cache::entry("control-plane", &[KUBERNETES, &flags, &read("go.mod")?, &read("go.sum")?], |into| {
        let go = Go::open()?;
        progress::say(format_args!(
            "Kubernetes {KUBERNETES} is built from its sources, once; this takes some minutes"
        ));
        for (name, package) in PROGRAMS {
            progress::step(format_args!("building {name}"), || {
                go.build(&module, package, &flags, &into.join(name))
            })?;
        }
        Ok(())
    })
}

/// Without symbols, and with the version that the programs say they are.
fn link_flags() -> String {
    let mut numbers = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    ["-s -w".to_owned(), set("gitVersion", KUBERNETES), set("gitMajor", major), set("gitMinor", minor)]
        .concat()
}

/// A control plane that runs.
#[derive(Debug)]
pub struct ControlPlane {
    // Ended in this order.
    processes: Vec<Process>,
    programs: PathBuf,
    run: Run,
}

impl ControlPlane {
    /// Starts one and waits until it is ready. `name` is for people.
    ///
    /// # Errors
    /// Where it cannot be built or does not start.
    pub fn start(name: &str) -> Result<Self> {
        host::ensure_commands(&[("setpriv", "util-linux")])?;
        let programs = programs()?;
        let run = Run::new(name)?;
        let begin = Instant::now();
        let mut control_plane = Self { processes: Vec::new(), programs, run };
        control_plane.start_etcd()?;
        control_plane.start_api_server()?;
        progress::say(format_args!("{name}: API server ready after {:.1} s", begin.elapsed().as_secs_f64()));
        Ok(control_plane)
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
        let token = token()?;
        let folder = self.run.folder().to_owned();
        write_private(&folder.join("tokens"), &format!("{token},admin,admin,\"system:masters\"\n"))?;
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            let mut server = Process::start("kube-apiserver", self.api_server(port), &self.run)?;
            write_private(
                &self.kubeconfig(),
                &kubeconfig(port, &folder.join("certs/apiserver.crt"), &token),
            )?;
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

    fn api_server(&self, port: u16) -> Command {
        let folder = self.run.folder();
        let mut command = process::for_life(&[self.programs.join("kube-apiserver")]);
        command.arg("--etcd-servers").arg(format!("unix://{}", folder.join("etcd.sock").display()));
        command.args(["--bind-address", "127.0.0.1", "--secure-port", &port.to_string()]);
        // It wants an address to tell pods, also on a host without a network; there are no pods.
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
        command.args(["--authorization-mode", "RBAC", "--anonymous-auth=false"]);
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

/// A port that nobody listens on at this moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on this host")?;
    Ok(listener.local_addr()?.port())
}

/// A secret of this run.
fn token() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).context(path)?.trim().to_owned())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}

fn kubeconfig(port: u16, authority: &Path, token: &str) -> String {
    let authority = authority.display();
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters: [{{name: lab, cluster: {{server: \"https://127.0.0.1:{port}\", certificate-authority: \"{authority}\"}}}}]\n\
         users: [{{name: admin, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: admin}}}}]\n\
         current-context: lab\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_say_which_version_they_are() {
        let flags = link_flags();
        assert!(
            flags.contains("version.gitVersion=v1.36.3") && flags.contains("version.gitMinor=36"),
            "{flags}"
        );
        let module = fs::read_to_string(binaries::workspace().join("e2e/lab/control-plane/go.mod")).unwrap();
        assert!(module.contains(&format!("k8s.io/kubernetes {KUBERNETES}")), "go.mod builds another version");
    }
}
