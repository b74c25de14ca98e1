//! The main job in a cluster, told as it runs: the commands that a person would type, and what they show.
//!
//! A database is there, its data and its log on two raw disks. Umbra is installed and goes under both with one restart; both
//! are cut at one instant while it works, its image answers beside it, and a migration that went wrong is taken back, and that
//! as well. At the end Umbra goes, and the database runs on its disks as before.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umbra_lab::binaries;

use super::hand::Place;
use crate::kubernetes::plugin::{Said, said};
use crate::kubernetes::server::NAMESPACE;

/// What `kubectl umbra` ends with where somebody must decide.
const REFUSED: i32 = 3;
const ACCOUNTS: &str = "select count(*) from pgbench_accounts";
const PAYMENTS: &str = "select count(*) from pgbench_history";
/// The roles of the database's disks.
const DISKS: [&str; 2] = ["data", "log"];

/// Tells the story in a cluster that `serve` is, a command that calls [`Place::serve`] with [`Stock::Disks`](super::Stock).
/// With `keep` the cluster stays, however the story ends.
///
/// # Errors
/// At the step that failed; where a cluster is up already.
pub fn tell(place: &Place, serve: Command, keep: bool) -> Result<()> {
    ensure!(!place.is_up()?, "a cluster is up: `cargo xtask cluster down` ends it");
    let begin = Instant::now();
    let mut story = Story { place, begin, step: begin };
    story.step(
        "A cluster: a control plane, and a node that is a virtual machine with a kubelet and raw disks",
    );
    place.up(serve)?;
    story.took();
    let told = story.tell();
    if keep {
        println!(
            "\nThe cluster stays: `cargo xtask cluster kubectl get pods -A`; `cargo xtask cluster down` ends it."
        );
    } else {
        place.down(told.is_ok())?;
    }
    told?;
    println!("\nTHE END, after {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

struct Story<'a> {
    place: &'a Place,
    begin: Instant,
    step: Instant,
}

impl Story<'_> {
    fn tell(&mut self) -> Result<()> {
        self.database()?;
        self.umbra()?;
        self.takeover()?;
        let before = self.cut_under_load()?;
        self.second_server(&before)?;
        self.migration(&before)?;
        self.release()
    }

    fn database(&mut self) -> Result<()> {
        self.step(
            "A database that is there: PostgreSQL in a StatefulSet, its data and its log on two raw disks",
        );
        self.apply("database.yaml")?;
        self.until_ready("db-0")?;
        self.kubectl(&["exec", "-n", NAMESPACE, "db-0", "--", "createdb", "-h", "/tmp", "bench"])?;
        let fill = ["exec", "-n", NAMESPACE, "db-0", "--", "pgbench", "-h", "/tmp", "-q", "-i", "bench"];
        self.kubectl(&fill)?;
        self.took();
        Ok(())
    }

    fn umbra(&mut self) -> Result<()> {
        self.step("Umbra is installed; the database does not notice");
        let chart = binaries::workspace().join("charts/umbra").display().to_string();
        let values = format!("{chart}/ci/lab-values.yaml");
        let mut helm = self.place.helm()?;
        helm.args(["install", "umbra", &chart, "--namespace", "umbra-system", "--create-namespace"]);
        self.run(helm.args(["--values", &values, "--wait", "--timeout", "5m"]))?;
        self.kubectl(&["umbra", "node", "list"])?;
        let of = ["--roles", "Master,Shadow,Bitmap", "--namespaces", NAMESPACE];
        let grant = ["umbra", "grant", "create", "disks", "--device", "/dev/disk/by-id/virtio-*"];
        self.kubectl(&[&grant[..], &of].concat())?;
        self.kubectl(&["umbra", "devices"])?;
        self.took();
        Ok(())
    }

    fn takeover(&mut self) -> Result<()> {
        self.step("Umbra goes under both claims, with one restart of the pod; no byte is moved");
        for disk in DISKS {
            self.tool(&["takeover", &format!("{disk}-db-0"), "--name", disk])?;
        }
        self.stop()?;
        let taken = ["wait", "-n", NAMESPACE, "--for=condition=TakenOver", "--timeout=120s"];
        self.kubectl(&[&taken[..], &["umaster/data", "umaster/log"]].concat())?;
        self.start()?;
        self.took();

        self.step("Two images of each disk: one to work with, one to keep what is overwritten");
        for number in ["1", "2"] {
            for disk in DISKS {
                let of = |role: &str| format!("device:disks/a/virtio-{disk}-{role}{number}");
                let (shadow, bitmap) = (of("shadow"), of("bitmap"));
                let (set, claim) = (format!("{disk}-{number}"), format!("{disk}-image"));
                let create = ["set", "create", &set, "--master", disk, "--mode", "dependent"];
                let volumes = ["--shadow", &shadow, "--bitmap", &bitmap, "--wait"];
                let publish = ["--publish", &claim];
                let published = if number == "1" { &publish[..] } else { &[] };
                self.tool(&[&create[..], &volumes, published].concat())?;
            }
        }
        self.tool(&["group", "create", "db", "data-1", "log-1"])?;
        self.tool(&["group", "create", "db-before", "data-2", "log-2"])?;
        self.took();
        Ok(())
    }

    /// Returns how many payments there are when the load has ended.
    fn cut_under_load(&mut self) -> Result<Counted> {
        self.step("Both disks are cut at one instant, while the database works");
        let load = self.begin(&[
            "exec", "-n", NAMESPACE, "db-0", "--", "pgbench", "-h", "/tmp", "-c", "4", "-T", "20", "bench",
        ])?;
        thread::sleep(Duration::from_secs(5));
        self.tool(&["cut", "group:db", "--wait"])?;
        let load = said(load)?;
        ensure!(load.code == Some(0), "the load saw an error: {}", load.stderr);
        load.stdout
            .lines()
            .filter(|line| line.contains("tps") || line.contains("processed"))
            .for_each(|line| println!("{line}"));
        let counted = self.counts("db-0")?;
        self.tool(&["status"])?;
        self.took();
        Ok(counted)
    }

    fn second_server(&mut self, before: &Counted) -> Result<()> {
        self.step("A second server recovers on the image of both disks, and counts");
        self.apply("report.yaml")?;
        self.until_ready("report")?;
        let image = self.counts("report")?;
        ensure!(image.accounts == before.accounts, "the image has lost accounts");
        ensure!(
            image.payments > 0 && image.payments <= before.payments,
            "the image is not of the time of its cut"
        );
        self.kubectl(&["delete", "pod", "report", "-n", NAMESPACE])?;
        self.took();
        Ok(())
    }

    fn migration(&mut self, before: &Counted) -> Result<()> {
        self.step("A migration goes wrong");
        self.sql("db-0", "delete from pgbench_accounts where aid % 2 = 0")?;
        let broken = self.counts("db-0")?;
        ensure!(broken.accounts < before.accounts, "nothing went wrong");
        self.took();

        self.step("Both disks become what their images are, at once; what they were is kept");
        self.refused(&["restore", "group:db", "--confirm=db", "--wait"])?;
        self.stop()?;
        let restored = self.tool(&["restore", "group:db", "--confirm=db", "--wait"])?;
        let restore = restored.split_whitespace().next().and_then(|name| name.split_once('/'));
        let (_, restore) = restore.with_context(|| format!("which restore was it: {restored}"))?;
        self.start()?;
        let restored = self.counts("db-0")?;
        ensure!(restored.accounts == before.accounts, "not all accounts are back");
        ensure!(restored.payments <= before.payments, "the image is not of the time of its cut");
        self.took();

        self.step("And back: the later payments were worth more");
        for disk in DISKS {
            self.tool(&["wait", &format!("set:{disk}-1")])?;
        }
        self.stop()?;
        self.tool(&["undo", restore, "--confirm=db-before", "--wait"])?;
        self.start()?;
        ensure!(self.counts("db-0")? == broken, "what was overwritten is not back");
        self.took();
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.step("Umbra goes, and the database runs on its disks as before");
        let broken = self.counts("db-0")?;
        self.kubectl(&["delete", "ugroup,uset", "--all", "-n", NAMESPACE])?;
        self.stop()?;
        for disk in DISKS {
            self.tool(&["release", disk, &format!("--confirm={disk}"), "--wait"])?;
        }
        self.start()?;
        let mounts = ["exec", "-n", NAMESPACE, "db-0", "--", "grep", "-E", " /(data|log) ", "/proc/mounts"];
        let mounts = self.kubectl(&mounts)?;
        ensure!(!mounts.contains("ublk"), "the database does not run on its disks");
        ensure!(self.counts("db-0")? == broken, "the database has lost data");
        let mut helm = self.place.helm()?;
        self.run(helm.args([
            "uninstall",
            "umbra",
            "--namespace",
            "umbra-system",
            "--wait",
            "--timeout",
            "3m",
        ]))?;
        self.took();
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        self.kubectl(&["scale", "statefulset", "db", "-n", NAMESPACE, "--replicas=0"])?;
        self.kubectl(&["wait", "-n", NAMESPACE, "--for=delete", "--timeout=120s", "pod/db-0"]).map(drop)
    }

    fn start(&self) -> Result<()> {
        self.kubectl(&["scale", "statefulset", "db", "-n", NAMESPACE, "--replicas=1"])?;
        self.until_ready("db-0")
    }

    /// Waits until the server in a pod answers. Probes of the kubelet would start a program every few seconds, which under
    /// emulation takes a processor.
    fn until_ready(&self, name: &str) -> Result<()> {
        let pod = format!("pod/{name}");
        self.kubectl(&["wait", "-n", NAMESPACE, "--for=create", "--timeout=60s", &pod])?;
        self.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=180s", &pod])?;
        let answers = "until pg_isready -q -h /tmp; do sleep 1; done";
        self.kubectl(&["exec", "-n", NAMESPACE, name, "--", "timeout", "180", "sh", "-c", answers]).map(drop)
    }

    fn apply(&self, file: &str) -> Result<()> {
        let path: PathBuf = binaries::workspace().join("e2e/lab/examples/database").join(file);
        self.kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
    }

    fn counts(&self, pod: &str) -> Result<Counted> {
        let count = |query| -> Result<u64> {
            let text = self.sql(pod, query)?;
            text.trim().parse().with_context(|| format!("{query}: {text}"))
        };
        Ok(Counted { accounts: count(ACCOUNTS)?, payments: count(PAYMENTS)? })
    }

    fn sql(&self, pod: &str, query: &str) -> Result<String> {
        self.kubectl(&["exec", "-n", NAMESPACE, pod, "--", "psql", "-h", "/tmp", "-qtAc", query, "bench"])
    }

    /// Runs `kubectl umbra` in the namespace.
    fn tool(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl(&[&["umbra"], arguments, &["-n", NAMESPACE]].concat())
    }

    /// Runs `kubectl umbra` in the namespace, which must be refused.
    fn refused(&self, arguments: &[&str]) -> Result<()> {
        let command = [&["umbra"], arguments, &["-n", NAMESPACE]].concat();
        let said = self.shown(self.place.kubectl()?.args(&command))?;
        ensure!(said.code == Some(REFUSED), "it was not refused");
        Ok(())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run(self.place.kubectl()?.args(arguments))
    }

    /// Runs a command, which must succeed; returns what it wrote.
    fn run(&self, command: &mut Command) -> Result<String> {
        let said = self.shown(command)?;
        ensure!(said.code == Some(0), "it ended with {:?}: {}", said.code, said.stderr.trim());
        Ok(said.stdout)
    }

    /// Runs a command, and shows it and what it says.
    fn shown(&self, command: &mut Command) -> Result<Said> {
        println!("$ {}", line(command));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = said(child)?;
        print!("{}{}", said.stderr, said.stdout);
        Ok(said)
    }

    /// Starts `kubectl` beside what follows.
    fn begin(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = self.place.kubectl()?;
        println!("$ {} &", line(command.args(arguments)));
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn step(&mut self, what: &str) {
        self.step = Instant::now();
        println!("\n== {what}");
    }

    fn took(&self) {
        println!(
            "   ({:.1} s; {:.0} s so far)",
            self.step.elapsed().as_secs_f64(),
            self.begin.elapsed().as_secs_f64()
        );
    }
}

/// What a server counted.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    accounts: u64,
    payments: u64,
}

/// A command as a person would type it.
fn line(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let workspace = format!("{}/", binaries::workspace().display());
    let quoted = |word: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=/.,:@%+".contains(letter);
        if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
    };
    let words = command.get_args().map(|word| quoted(&word.to_string_lossy().replace(&workspace, "")));
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    [name].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_person_types_it() {
        let chart = binaries::workspace().join("charts/umbra");
        let mut command = Command::new("/somewhere/helm");
        command.arg("install").arg(chart).arg("delete from a where b % 2 = 0");
        assert_eq!(line(&command), "helm install charts/umbra 'delete from a where b % 2 = 0'");
    }
}
