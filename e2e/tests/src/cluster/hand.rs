//! A cluster to work with by hand: it stays, in a process of its own, until it is told to go.
//!
//! ```text
//!   up ──starts──> serve ──writes──> access      kubectl and umbra read it
//!                    ^
//!   node, down ──────+  one line in, one line out, on a socket
//! ```
//!
//! Who holds the lock of the folder is the cluster; a process that was killed leaves no lock, and nothing else that counts.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use umbra_lab::{cache, helm, host, progress};

use super::machine::{Machine, devices};
use crate::kubernetes::installation::Installation;
use crate::kubernetes::plugin;
use crate::kubernetes::server::Server;

/// How long a command on the node may take.
const COMMAND: Duration = Duration::from_secs(3600);
/// A look at whether the cluster is up, or has gone.
const LOOK: Duration = Duration::from_millis(200);

/// Where the cluster of this user is found.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
}

/// What programs need to reach it.
#[derive(Debug, Serialize, Deserialize)]
struct Access {
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    /// The folder with the plugin.
    plugin: PathBuf,
}

impl Access {
    /// A program that reaches it, and keeps what it has seen there with it.
    fn reached_by(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("KUBECACHEDIR", self.kubeconfig.with_file_name("by-hand"));
        command
    }
}

/// What is in a cluster when it is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stock {
    /// Umbra, as the chart installs it, a database's volume and two sets of it.
    Volumes,
    /// Disks, an image of PostgreSQL, and Umbra nowhere but on the shelf.
    Disks,
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Runs a shell script on the node.
    Run(String),
    /// Ends everything; if nothing was wrong, its logs as well.
    Down { good: bool },
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    /// The place of this user, made where it is not there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open() -> Result<Self> {
        let folder = cache::root()?.join("cluster");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        // Who reaches what is in it is administrator of the cluster.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Takes the place, unless a cluster has it.
    fn take(&self) -> Result<Option<File>> {
        let lock = File::create(self.file("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Whether a cluster has it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn is_up(&self) -> Result<bool> {
        Ok(self.take()?.is_none())
    }

    fn access(&self) -> Result<Access> {
        ensure!(self.take()?.is_none(), "no cluster is up: `cargo xtask cluster up` starts one");
        let text =
            fs::read_to_string(self.file("access")).context("the cluster is starting; wait for `up`")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Starts a cluster with `serve`, a command that calls [`Place::serve`], and waits until it can be used. What it says
    /// meanwhile is passed on. One that is up is left as it is.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn up(&self, mut serve: Command) -> Result<()> {
        let Some(lock) = self.take()? else {
            progress::say(format_args!("the cluster is up"));
            return Ok(());
        };
        for left in ["access", "socket"] {
            match fs::remove_file(self.file(left)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        drop(lock);
        let log = self.file("log");
        let file = File::create(&log)?;
        serve.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Not in this terminal's group: it outlives the interrupt that ends a later command.
        std::os::unix::process::CommandExt::process_group(&mut serve, 0);
        let child = serve.spawn().context("cannot start the cluster")?;
        self.follow(child, &log)
    }

    fn follow(&self, mut child: Child, log: &Path) -> Result<()> {
        let mut shown = 0;
        loop {
            let ended = child.try_wait()?;
            let text = fs::read_to_string(log)?;
            eprint!("{}", text.get(shown..).unwrap_or_default());
            shown = text.len();
            if self.file("access").exists() {
                return Ok(());
            }
            ensure!(ended.is_none(), "the cluster did not come up:\n{}", host::tail(&text, 20));
            thread::sleep(LOOK);
        }
    }

    /// Is the cluster, until it is told to end: a control plane, and a node with a kubelet.
    ///
    /// # Errors
    /// Where anything of it does not start.
    pub fn serve(&self, stock: Stock) -> Result<()> {
        let Some(_lock) = self.take()? else { bail!("a cluster is up already") };
        plugin::build()?;
        let server = Server::with_pods()?;
        let machine = match stock {
            Stock::Volumes => {
                let machine = Machine::boot_for_pods(&server, "cluster")?;
                machine.write("/dev/lab/master", "hello")?;
                Installation::by_chart(&server)?.apply_volumes(&devices())?;
                machine
            }
            Stock::Disks => Machine::boot_for_a_database(&server, "quickstart")?,
        };
        let socket = UnixListener::bind(self.file("socket"))?;
        let access =
            Access { kubeconfig: server.kubeconfig(), kubectl: server.program(), plugin: plugin::folder()? };
        // Whole or not there: its presence says that the cluster can be used.
        fs::write(self.file("access.new"), serde_json::to_string(&access)?)?;
        fs::rename(self.file("access.new"), self.file("access"))?;
        let mut good = false;
        for stream in socket.incoming() {
            match answer(&machine, stream?) {
                Ok(Some(was_good)) => {
                    good = was_good;
                    break;
                }
                Ok(None) => {}
                Err(error) => progress::say(format_args!("{error:#}")),
            }
        }
        fs::remove_file(self.file("access"))?;
        if good {
            machine.finish()?;
            server.finish();
        }
        Ok(())
    }

    /// Runs a shell script on the node; returns its exit code.
    ///
    /// # Errors
    /// Where no cluster is up.
    pub fn node(&self, script: &str) -> Result<i32> {
        let answer = self.order(&Order::Run(script.to_owned()))?;
        print!("{}", answer.stdout);
        eprint!("{}", answer.stderr);
        Ok(answer.code)
    }

    /// Ends the cluster, and waits until it has gone. Its logs stay unless all was good.
    ///
    /// # Errors
    /// Where no cluster is up.
    pub fn down(&self, good: bool) -> Result<()> {
        self.order(&Order::Down { good })?;
        while self.take()?.is_none() {
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// `kubectl` as the cluster's administrator, with the plugin at hand.
    ///
    /// # Errors
    /// Where no cluster is up.
    pub fn kubectl(&self) -> Result<Command> {
        let access = self.access()?;
        let mut command = access.reached_by(&access.kubectl);
        command.env("KUBERC", "off").env("PATH", plugin::path(access.plugin)?);
        Ok(command)
    }

    /// `helm` as the cluster's administrator.
    ///
    /// # Errors
    /// Where no cluster is up.
    pub fn helm(&self) -> Result<Command> {
        Ok(self.access()?.reached_by(&helm::program()?))
    }

    fn order(&self, order: &Order) -> Result<Answer> {
        self.access()?;
        let mut stream = UnixStream::connect(self.file("socket")).context("the cluster does not answer")?;
        writeln!(stream, "{}", serde_json::to_string(order)?)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        serde_json::from_str(&line).context("the cluster ended before it answered")
    }
}

/// Does what is asked; where that is the end, returns whether all was good.
fn answer(machine: &Machine, mut stream: UnixStream) -> Result<Option<bool>> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let (answer, ends) = match serde_json::from_str(&line)? {
        Order::Down { good } => {
            (Answer { code: 0, stdout: String::new(), stderr: String::new() }, Some(good))
        }
        Order::Run(script) => {
            let output = machine.vm.sh(&script).timeout(COMMAND).output()?;
            (Answer { code: output.status.code, stdout: output.stdout, stderr: output.stderr }, None)
        }
    };
    writeln!(stream, "{}", serde_json::to_string(&answer)?)?;
    Ok(ends)
}
