//! `umbra-io supervise` as a program, over I/O processes that die, hang and end in order.
//!
//! Most of them are shell scripts that write the heartbeat file by hand, as its format says.
#![expect(clippy::unwrap_used, reason = "clippy does not take the helpers of tests for tests")]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use umbra_io::logging::LogFormat;
use umbra_io::supervise::child::Supervision;
use umbra_io::supervise::deaths::{Cause, DeathLog};
use uuid::Uuid;

/// Time for anything that should happen soon.
const SOON: Duration = Duration::from_secs(60);
/// Long enough that a busy machine does not let a healthy script look hung.
const HANG_AFTER: &str = "2s";
/// What the scripts write as their master.
const MASTER: &str = "00000000-0000-0000-0000-000000000007";
/// Shell: `beat N DONE [PANICS]` writes that a reactor has beaten N times and completed DONE requests, and how often
/// the master's threads have panicked (all below 64).
const BEAT: &str = r#"
zeros() { for _ in $(seq "$1"); do printf '\000'; done; }
number() { printf "\\$(printf %03o "$1")"; zeros 7; }
beat() {
  { zeros 15; printf '\007'; number "$1"; number "$2"; number "${3:-0}"; zeros 24; } > "$0.slot"
  dd if="$0.slot" of="$UMBRA_HEARTBEAT" bs=64 seek=1 conv=notrunc status=none
}
"#;

struct Supervised {
    home: TempDir,
    process: Child,
}

impl Supervised {
    fn start(script: &str) -> Self {
        Self::with_stderr(script, Stdio::null())
    }

    fn with_stderr(script: &str, stderr: Stdio) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("script");
        let log = home.path().join("log");
        // Every start is one line; the fourth ends in order, so that no test runs for ever.
        let opening = format!(
            "echo \"$UMBRA_PASS_THROUGH\" >> {log}\nstarts=$(wc -l < {log})\n[ \"$starts\" -ge 4 ] && exit 0\n",
            log = log.display()
        );
        fs::write(&path, format!("{BEAT}{opening}{script}\n")).unwrap();
        Self::program(home, Path::new("/bin/sh"), &[path.to_str().unwrap()], stderr)
    }

    fn program(home: TempDir, program: &Path, arguments: &[&str], stderr: Stdio) -> Self {
        let process = supervisor(home.path(), program, arguments).stderr(stderr).spawn().unwrap();
        Self { home, process }
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The exit code, or none if it was killed.
    fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        until("the supervisor has ended", || {
            let status = self.process.try_wait().unwrap();
            code = status.map(|status| status.code());
            status.is_some()
        });
        code.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Causes of the deaths, and whether each counted.
    fn deaths(&self) -> Vec<(Cause, bool)> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let path = self.home.path().join("run/deaths.json");
        let log = DeathLog::load(&path, boot.trim(), Duration::from_secs(2));
        log.deaths().iter().map(|death| (death.cause, death.counts())).collect()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Of a test that failed; one that has ended cannot be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn supervisor(home: &Path, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-io"));
    command.args(["supervise", "--hang-after", HANG_AFTER, "--run-dir"]).arg(home.join("run"));
    command.arg("--program").arg(program).arg("--").args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_end_in_order_and_wrong_arguments_are_final() {
    for code in [0, 2] {
        let mut supervised = Supervised::start(&format!("exit {code}"));
        assert_eq!(supervised.ended(), Some(code));
        assert_eq!(supervised.log(), ["none"]);
        assert_eq!(supervised.deaths(), []);
    }
}

#[test]
fn it_is_run_that_is_supervised_with_the_arguments_given() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-io"));
    command.args(["supervise", "--run-dir"]).arg(home.path()).args(["--", "--no-such-option"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("--no-such-option") && text.contains("umbra-io run"), "{text}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_process_that_dies_before_it_serves_starts_without_shadows_the_fourth_time() {
    let mut supervised = Supervised::start("kill -SEGV $$");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none", "none", "none", "all"]);
    assert_eq!(supervised.deaths(), [(Cause::Signal(11), true); 3]);
}

#[test]
fn only_the_master_that_was_known_loses_its_shadows() {
    let mut supervised = Supervised::start("beat 1 0; kill -KILL $$");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none", "none", "none", MASTER]);
}

#[test]
fn a_process_that_refuses_to_start_costs_no_shadows() {
    let mut supervised = Supervised::start("exit 1");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none"; 4]);
    assert_eq!(supervised.deaths(), [(Cause::Exit(1), true); 3]);
}

#[test]
fn a_process_that_has_served_is_started_again_whenever_it_dies() {
    let mut supervised = Supervised::start("beat 1 1; kill -KILL $$");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none"; 4]);
    assert_eq!(supervised.deaths(), [(Cause::Signal(9), false); 3]);
}

#[test]
fn a_reactor_that_hangs_is_ended_and_gives_up_its_shadows_the_fourth_time() {
    let mut supervised = Supervised::start("beat 1 1; exec sleep 1000");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none", "none", "none", MASTER]);
    assert_eq!(supervised.deaths(), [(Cause::Hung, true); 3]);
}

/// What a reactor that had gone round for some seconds was killed of, it was not its start.
#[test]
fn an_idle_master_that_was_calm_is_not_to_blame() {
    let mut supervised = Supervised::start("beat 9 0; kill -KILL $$");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none"; 4]);
    assert_eq!(supervised.deaths(), [(Cause::Signal(9), false); 3]);
}

#[test]
fn a_process_that_dies_of_a_panic_blames_the_master_whose_it_was() {
    let mut supervised = Supervised::start("beat 9 1 1; kill -ABRT $$");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none", "none", "none", MASTER]);
    assert_eq!(supervised.deaths(), [(Cause::Signal(6), true); 3]);
}

/// Three panics that cost only the master count as three deaths of it, also for later starts of the process.
#[test]
fn panics_that_the_process_outlives_are_counted() {
    let beats = "for i in $(seq 2 50); do beat $i 1 3; sleep 0.1; done; kill -KILL $$";
    let mut supervised = Supervised::start(&format!("beat 1 1 3; [ $starts -ge 2 ] && exit 0; {beats}"));
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none", MASTER]);
    let panicked = (Cause::Panicked, true);
    assert_eq!(supervised.deaths(), [panicked, panicked, panicked, (Cause::Signal(9), false)]);
}

/// A log that nobody can take: a full disk, a reader that has gone, one that stands still.
fn bad_logs() -> [(&'static str, Stdio); 3] {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (reader, broken) = std::io::pipe().unwrap();
    drop(reader);
    [("full", full.into()), ("broken", broken.into()), ("unread", unread_pipe())]
}

/// A pipe that holds as much as it can, and whose reader never reads.
fn unread_pipe() -> Stdio {
    use std::io::Write;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    // Open for as long as the tests run.
    std::mem::forget(reader);
    writer.into()
}

/// A supervisor that waits for its log, or dies of it, watches nobody.
#[test]
fn whatever_becomes_of_the_log_a_reactor_that_hangs_is_ended() {
    for (name, stderr) in bad_logs() {
        let mut supervised = Supervised::with_stderr("beat 1 1; exec sleep 1000", stderr);
        assert_eq!(supervised.ended(), Some(0), "{name}");
        assert_eq!(supervised.log(), ["none", "none", "none", MASTER], "{name}");
        assert_eq!(supervised.deaths(), [(Cause::Hung, true); 3], "{name}");
    }
}

/// The I/O process logs by the same means, and does not stop for it either; it logs more than a pipe holds.
#[test]
fn whatever_becomes_of_the_log_the_io_process_goes_on() {
    for (name, stderr) in bad_logs() {
        let home = tempfile::tempdir().unwrap();
        let alive = home.path().join("run/alive");
        let own = std::env::current_exe().unwrap();
        let arguments = ["the_io_process_of_other_tests", "--exact", "--ignored"];
        let mut supervised = Supervised::program(home, &own, &arguments, stderr);
        let turns = || fs::read_to_string(&alive).ok()?.parse::<u64>().ok();
        until("it has logged and gone on", || turns().is_some_and(|turns| turns >= 3));
        supervised.signal(Signal::TERM);
        assert_eq!(supervised.ended(), Some(0), "{name}");
        assert_eq!(supervised.deaths(), [], "{name}");
    }
}

#[test]
fn a_terminal_that_goes_away_ends_nothing() {
    let mut supervised = Supervised::start("trap '' HUP; echo > $0.ready; exec sleep 1000");
    until("the script runs", || supervised.home.path().join("script.ready").exists());
    supervised.signal(Signal::HUP);
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.ended(), Some(0), "it ended of the second signal, in order");
    assert_eq!(supervised.log(), ["none"]);
}

#[test]
fn slow_starts_and_beating_reactors_are_left_alone() {
    // Without a beat for longer than the limit, then beats for longer than the limit.
    let mut supervised =
        Supervised::start("beat 0 0; sleep 3; for i in $(seq 1 30); do beat $i 0; sleep 0.1; done; exit 0");
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none"]);
}

#[test]
fn signals_are_passed_on_and_the_end_is_waited_for() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let script = format!(
            "trap 'sleep 0.3; echo told >> $0.told; exit 0' {name}; echo > $0.ready; while :; do sleep 0.05; done"
        );
        let mut supervised = Supervised::start(&script);
        let path = |suffix: &str| supervised.home.path().join(format!("script.{suffix}"));
        until("the script runs", || path("ready").exists());
        supervised.signal(signal);
        let told = path("told");
        assert_eq!(supervised.ended(), Some(0));
        assert!(told.exists(), "{name} was not passed on, or its handler not waited for");
    }
}

#[test]
fn a_process_that_dies_of_the_signal_it_was_sent_has_ended_in_order() {
    let mut supervised = Supervised::start("echo > $0.ready; exec sleep 1000");
    until("the script runs", || supervised.home.path().join("script.ready").exists());
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.ended(), Some(0));
    assert_eq!(supervised.log(), ["none"]);
}

/// As when `/run` is full: without a heartbeat file no process is started, and the supervisor must not end for it.
#[test]
fn a_heartbeat_file_that_cannot_be_made_is_tried_again() {
    let script =
        "case $starts in 1) rm $UMBRA_HEARTBEAT; mkdir $UMBRA_HEARTBEAT.new; exit 9;; esac; exec sleep 1000";
    let mut supervised = Supervised::start(script);
    let in_the_way = supervised.home.path().join("run/heartbeat.new");
    until("the first process is in the way of the second", || in_the_way.is_dir());
    until("its death is noted", || supervised.home.path().join("run/deaths.json").exists());
    fs::remove_dir(&in_the_way).unwrap();
    until("the second is started", || supervised.log().len() == 2);
    supervised.signal(Signal::TERM);
    assert_eq!(supervised.ended(), Some(0));
}

#[test]
fn a_second_supervisor_and_a_missing_program_are_refused() {
    let mut first = Supervised::start("exec sleep 1000");
    until("the script runs", || !first.log().is_empty());
    let second =
        supervisor(first.home.path(), Path::new("/bin/true"), &["run"]).stderr(Stdio::piped()).output();
    let second = second.unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("another `umbra-io supervise` uses"), "{text}");
    first.signal(Signal::TERM);
    assert_eq!(first.ended(), Some(0));
    let home = tempfile::tempdir().unwrap();
    let missing = supervisor(home.path(), Path::new("/nonexistent/umbra-io"), &["run"]).status().unwrap();
    assert_eq!(missing.code(), Some(1));
}

#[test]
fn the_io_process_does_not_outlive_its_supervisor() {
    let home = tempfile::tempdir().unwrap();
    let own = std::env::current_exe().unwrap();
    let pid_file = home.path().join("run/pid");
    let arguments = ["the_io_process_of_other_tests", "--exact", "--ignored"];
    let mut supervised = Supervised::program(home, &own, &arguments, Stdio::null());
    let read_pid = || fs::read_to_string(&pid_file).ok().and_then(|text| text.parse().ok());
    until("the I/O process runs", || read_pid().is_some());
    let child = Pid::from_raw(read_pid().unwrap()).unwrap();
    test_kill_process(child).unwrap();
    supervised.signal(Signal::KILL);
    assert_eq!(supervised.ended(), None);
    // Reaped by whoever adopts it; until then it is there, but no longer runs.
    until("the I/O process is gone", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
        stat.is_err() || stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')))
    });
}

/// Not a test: an I/O process that beats until it is killed.
#[test]
#[ignore = "runs as the I/O process of another test"]
fn the_io_process_of_other_tests() {
    let Some(heartbeat) = std::env::var_os("UMBRA_HEARTBEAT") else { return };
    umbra_io::logging::init(LogFormat::Text);
    let supervision = Supervision::take().unwrap();
    let mut beat = supervision.heartbeats.register(Uuid::from_u128(1));
    let pid_file = PathBuf::from(heartbeat).with_file_name("pid");
    let alive = pid_file.with_file_name("alive");
    fs::write(pid_file.with_extension("new"), std::process::id().to_string()).unwrap();
    fs::rename(pid_file.with_extension("new"), pid_file).unwrap();
    for completed in 0.. {
        beat.beat(completed);
        for line in 0..2000 {
            tracing::error!(line, "more than anybody reads, and than a pipe holds");
        }
        fs::write(&alive, completed.to_string()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}
