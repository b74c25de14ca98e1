//! Umbra's programs as they are shipped, as processes of this host, and the certificates by which they know each other.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustix::process::{Pid, Signal};

/// Nothing takes that long unless something is wrong.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs, and what it has logged.
pub(crate) struct Running {
    program: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    probes: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Running {
    /// Starts it, with probes served wherever there is room, and waits until it says where.
    pub(crate) fn start(program: &'static str, command: Command) -> Result<Self> {
        let mut command = for_life(&command);
        command.stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("RUST_LOG");
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let lines = BufReader::new(child.stderr.take().context("no log")?).lines();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                into.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let mut running = Self { program, child, log, probes: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let address = |log: &[String]| {
            let line = log.iter().find(|line| line.contains("probes and metrics are served"))?;
            line.split_once("\"address\":\"")?.1.split('"').next()?.parse().ok()
        };
        running.probes = running.until("it serves probes", || Ok(address(&running.log())))?;
        Ok(running)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks until there is something, for as long as the process lives.
    pub(crate) fn until<T>(&self, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "waited in vain until {what}; {} says:\n{}",
                self.program,
                self.log().join("\n")
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        umbra_lab::resident_bytes(self.child.id())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        rustix::process::kill_process(id, signal).with_context(|| format!("signal to {}", self.program))
    }

    /// The value of a series of its metrics; 0 where there is none.
    pub(crate) fn metric(&self, series: &str) -> Result<u64> {
        let text = self.get("/metrics")?.1;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// What `GET` says of its probes and metrics: the status, and the text.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.probes)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }
}

/// The same command; it ends with this process, however that ends.
fn for_life(command: &Command) -> Command {
    let mut outer = Command::new("setpriv");
    outer.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    outer
}

/// The files that [`Authority::certify`] writes, with the options that take them.
pub(crate) const CERTIFICATE: [(&str, &str); 3] =
    [("--tls-certificate", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-authorities", "ca.crt")];

/// An authority for certificates of the cluster `lab`.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(parameters, key) })
    }

    /// Writes a certificate for a role, its key and the authority's certificate into a folder.
    pub(crate) fn certify(&self, folder: &Path, role: &str) -> Result<()> {
        let mut own = CertificateParams::default();
        own.subject_alt_names = vec![SanType::URI(format!("spiffe://umbra/lab/{role}").as_str().try_into()?)];
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.crt"), &self.pem)?;
        fs::write(folder.join("tls.crt"), own.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        Ok(())
    }
}
