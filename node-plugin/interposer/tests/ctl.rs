//! `umbra-io ctl` as a program, against the fake platform behind a real socket.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use umbra_platform::fake::{Content, Fake, FakeDevice};
use umbra_platform::status::{MasterState, WaitReason, WaitingFor};
use umbra_platform::time::WallTime;
use umbra_platform::value::ByteCount;
use umbra_platform::{Socket, serve};

/// A served fake; commands run as processes of their own.
struct Node {
    fake: Arc<Fake>,
    socket: PathBuf,
    // Before the directory: the server removes its socket.
    runtime: Runtime,
    _directory: TempDir,
}

impl Node {
    /// One disk of 1 MiB each for master and shadow, one of 32 MiB for the bitmap volume.
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("io.sock");
        let runtime = Runtime::new().expect("a runtime");
        let fake = Fake::new();
        for (name, size) in
            [("master", 1 << 20), ("shadow", 1 << 20), ("bitmap", 32 << 20), ("small", 1 << 20)]
        {
            fake.add_device(&format!("/dev/{name}"), FakeDevice::disk(ByteCount(size), name));
        }
        let bound = runtime.block_on(Socket::bind(&socket)).expect("a free path");
        runtime.spawn(serve(bound, Arc::clone(&fake), std::future::pending()));
        Self { fake, socket, runtime, _directory: directory }
    }

    /// With master `pg` attached and set `pg-1` enabled in this mode, of 16 chunks.
    fn with_set(mode: &str) -> Self {
        let node = Self::start();
        node.ok("attach /dev/master --name pg");
        node.ok(&format!("enable pg-1 --master pg --mode {mode} --shadow /dev/shadow --bitmap /dev/bitmap"));
        node
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-io"));
        command
            .arg("ctl")
            .arg("--socket")
            .arg(&self.socket)
            .args(line.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    /// Runs a command that succeeds; what it printed.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{line}: {out}{err}");
        assert_eq!(err, "", "{line}");
        out
    }

    /// The same as JSON.
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("--json {line}"))).expect("one JSON document")
    }

    /// Runs a command that is refused, as JSON; the reason, and the text on stderr.
    fn refused(&self, line: &str) -> (String, String) {
        let output = self.run(&format!("--json {line}"));
        assert_eq!(output.status.code(), Some(1), "{line}");
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let reason = document["error"]["reason"].as_str().expect("a reason").to_owned();
        (reason, text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_set_lives_from_attach_to_detach() {
    let node = Node::start();
    let master = node.json("attach /dev/master --name pg --queue-depth 64 --expect-identity serial:master");
    let id = master["id"].as_str().expect("an id");
    assert_eq!(master["device"], format!("/dev/umbra/by-id/{id}"));
    let set = node.json(
        "enable pg-1 --master pg --mode dependent --shadow /dev/shadow --bitmap /dev/bitmap --chunk 128Ki \
         --namespace prod --shadow-deadline 2s --unrecordable fail-write",
    );
    assert_eq!(set["epoch"], 1);
    let status = node.json("status prod/pg-1");
    let status = &status["sets"][0];
    assert_eq!(
        (&status["chunkBytes"], &status["chunks"]["total"]),
        (&Value::from(128 << 10), &Value::from(8))
    );
    assert_eq!(status["deadlines"]["shadowMs"], 2000);
    assert_eq!(status["unrecordable"]["then"], "fail-write");

    let cut = node.json("update to-shadow pg-1@1 --cut 33333333-3333-4333-8333-333333333333");
    assert_eq!(cut["cut"], "33333333-3333-4333-8333-333333333333");
    assert_eq!(cut["sets"][0]["epoch"], 2);
    assert_eq!(node.refused("update to-shadow pg-1@1").0, "STALE_EPOCH");
    assert_eq!(node.json("reset pg-1")["reset"]["kind"], "notNeeded");
    assert!(node.ok("list").contains("prod/pg-1  pg      dependent  /dev/shadow"));
    assert!(node.ok("status").contains("prod/pg-1"));
    assert!(node.ok("status --master pg").contains("serving"));
    node.ok("disable prod/pg-1");
    node.ok("detach pg");
    let left = node.json("list");
    assert_eq!((&left["masters"], &left["sets"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn a_copy_is_waited_for_aborted_and_limited() {
    let node = Node::with_set("independent");
    assert_eq!(node.ok("limits pg-1"), "set pg-1: rate none, in flight 16\n");
    assert_eq!(node.ok("limits pg-1 --rate 10Mi"), "set pg-1: rate 10Mi/s, in flight 16\n");
    assert_eq!(node.ok("limits pg-1 --in-flight 4"), "set pg-1: rate 10Mi/s, in flight 4\n");
    assert_eq!(node.ok("limits pg-1 --rate none"), "set pg-1: rate none, in flight 4\n");
    let late = node.refused("wait pg-1 --timeout 20ms");
    assert_eq!(late.0, "DEADLINE");
    node.ok("abort pg-1");
    let (reason, message) = node.refused("wait pg-1");
    assert_eq!(reason, "COPY_NOT_ENDED");
    assert!(message.contains("pg-1") && message.contains("copy-aborted"), "{message}");

    let _entered = node.runtime.enter();
    let _copier = node.fake.copy_in_background(Duration::from_millis(5));
    let text = node.ok("copy to-shadow pg-1 --wait --timeout 30s");
    assert!(text.contains("set pg-1 is in epoch 2") && text.contains("nothing is pending"), "{text}");
    let waited = node.json("update to-shadow pg-1 --wait");
    assert_eq!(waited["ended"][0]["state"]["kind"], "idle");
    assert_eq!(node.json("wait pg-1")["ended"][0]["epoch"], 3);
}

/// Without a terminal nobody can be asked, and nothing is overwritten unasked.
#[test]
fn a_restore_brings_the_old_chunks_back() {
    let node = Node::with_set("dependent");
    node.fake.write_master(&"pg".parse().expect("a name"), 0..200_000).expect("a master");
    assert_eq!(node.json("status pg-1")["sets"][0]["chunks"]["held"], 4);
    let (reason, message) = node.refused("update to-master pg-1");
    assert!(reason == "DECLINED" && message.contains("--yes"), "{reason}: {message}");
    assert_eq!(node.json("status pg-1")["sets"][0]["state"]["kind"], "idle");
    node.ok("update to-master pg-1 --yes");
    assert_eq!(node.json("status pg-1")["sets"][0]["state"]["total"], 4);
    node.fake.copy_some(u64::MAX);
    assert_eq!(node.json("wait pg-1")["ended"][0]["state"]["kind"], "idle");
    node.ok("copy to-master pg-1 --yes");
}

#[test]
fn a_map_shows_each_kind_of_run() {
    let node = Node::with_set("dependent");
    let (chunk, set) = (64 << 10, "pg-1".parse().expect("a name"));
    node.fake.write_master(&"pg".parse().expect("a name"), 0..3 * chunk).expect("a master");
    node.fake.lose(&set, 15 * chunk..16 * chunk).expect("a set");
    let picture =
        |width: &str| node.ok(&format!("map pg-1 {width}")).lines().next().expect("a line").to_owned();
    assert_eq!(picture("--width 8"), "#+.....!");
    assert_eq!(picture(""), "###............!", "80 columns, but one per chunk is enough");
    assert_eq!(node.json("map pg-1 --width 4")["columns"].as_array().expect("columns").len(), 4);
    node.ok("update to-shadow pg-1");
    node.fake.write_master(&"pg".parse().expect("a name"), 0..2 * chunk).expect("a master");
    node.ok("update to-master pg-1 --yes");
    assert_eq!(picture("--width 16"), ">>..............");
}

#[test]
fn a_watch_prints_a_document_per_change() {
    let node = Node::with_set("dependent");
    let mut watch =
        node.command("--json status pg-1 --watch").stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut held = || {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str::<Value>(&line).expect("JSON")["sets"][0]["chunks"]["held"].as_u64()
    };
    assert_eq!(held(), Some(0));
    node.fake.write_master(&"pg".parse().expect("a name"), 0..1).expect("a master");
    assert_eq!(held(), Some(1));
    watch.kill().expect("it runs");
    watch.wait().expect("it ended");
}

#[test]
fn refusals_name_object_reason_and_remedy() {
    let node = Node::start();
    node.ok("attach /dev/master --name pg");
    let enable = "enable pg-1 --master pg --mode dependent --shadow /dev/shadow --bitmap";
    let output = node.run(&format!("{enable} /dev/small"));
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    let message = text(&output.stderr);
    for part in ["/dev/small", "1Mi", "BITMAP_TOO_SMALL", "use a bitmap volume of at least"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let (reason, message) = node.refused("disable pg-9");
    assert_eq!(reason, "NOT_FOUND");
    assert!(message.contains("pg-9"), "{message}");
    assert_eq!(node.refused("copy to-shadow pg-1 pg-1").0, "BAD_ARGUMENT");
}

#[test]
fn a_volume_with_something_on_it_takes_the_flag_that_the_refusal_prints() {
    let node = Node::start();
    node.ok("attach /dev/master --name pg");
    let content = Content::Foreign("xfs:77-ab".parse().expect("a signature"));
    node.fake.add_device("/dev/used", FakeDevice { content, ..FakeDevice::disk(ByteCount(1 << 20), "used") });
    let enable = "enable pg-1 --master pg --mode dependent --shadow /dev/used --bitmap /dev/bitmap";
    let (reason, message) = node.refused(enable);
    assert_eq!(reason, "HAS_SIGNATURE");
    let flag = message.split("enable with ").nth(1).expect("a flag").split(" [").next().expect("its end");
    assert_eq!(flag, "--wipe-signature xfs:77-ab");
    node.ok(&format!("{enable} {flag}"));
}

#[test]
fn a_master_in_quarantine_is_in_the_status_and_accepted_by_the_command_that_is_named() {
    let node = Node::with_set("dependent");
    let what = "the ext4 on /dev/master was mounted elsewhere".into();
    let since = WallTime::from_unix_millis(0);
    let wait = WaitingFor { reason: WaitReason::WrittenOutside, what, since };
    let pg = "pg".parse().expect("a name");
    node.fake.set_master_state(&pg, MasterState::Quarantined(wait)).expect("a master");
    let status = node.ok("status");
    assert!(
        status.contains("! master pg is quarantined since 1970-01-01T00:00:00.000Z: the ext4"),
        "{status}"
    );
    assert!(node.ok("list").contains("pg-1"));
    let (reason, message) = node.refused("update to-shadow pg-1");
    assert!(reason == "BLOCKED" && message.contains("umbra-io ctl accept pg --images lost"), "{message}");
    assert_eq!(node.ok("accept pg --images changed"), "master pg is accepted as it is, its images changed\n");
    node.ok("update to-shadow pg-1");
}

/// Of every command that changes something, and of those that look.
#[test]
fn help_says_what_must_be_closed() {
    let help =
        Command::new(env!("CARGO_BIN_EXE_umbra-io")).args(["ctl", "--help"]).output().expect("it starts");
    let help = text(&help.stdout);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 10, "{help}");
    for name in commands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-io"));
        let output = command.args(["ctl", name, "--help"]).output().expect("it starts");
        let about = text(&output.stdout).replace('\n', " ");
        assert!(
            about.to_lowercase().contains("nothing may have") || about.contains("Nothing needs to be closed"),
            "{name}: {about}"
        );
    }
}

/// The same request id twice is one request.
#[test]
fn a_request_id_makes_a_command_repeatable() {
    let node = Node::with_set("dependent");
    let command = "update to-shadow pg-1 --request-id 44444444-4444-4444-8444-444444444444";
    assert_eq!(node.ok(command), node.ok(command));
    assert_eq!(node.json("status pg-1")["sets"][0]["epoch"], 2);
}

#[test]
fn without_an_interposer_it_fails_and_says_which_socket() {
    let nowhere = tempfile::tempdir().expect("a directory");
    let socket = nowhere.path().join("none.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-io"));
    let output =
        command.args(["ctl", "--json", "list", "--socket"]).arg(&socket).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("none.sock"));
    assert!(text(&output.stdout).contains("NOT_RUNNING"));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let node = Node::start();
    let lines = [
        "",
        "explode",
        "map",
        "map pg-1 --width 0",
        "copy sideways pg-1",
        "copy to-shadow",
        "copy to-shadow pg-1 --timeout 5s",
        "copy to-shadow pg-1@first",
        "attach relative/path --name x",
        "attach /dev/x --name -x",
        "enable x --master m --mode compact --shadow /dev/a --bitmap /dev/b",
        "enable x --master m --mode dependent --shadow /dev/a --bitmap /dev/b --chunk 100k",
        "attach /dev/x --name x --queue-depth 129",
        "accept pg --images kept",
        "accept pg",
        "enable x --master m --mode dependent --shadow /dev/a --bitmap /dev/b --wipe-signature ext4",
        "enable x --master m --mode dependent --shadow /dev/a --bitmap /dev/b --expected-epoch 3",
        "limits pg-1 --rate 0",
        "wait pg-1 --timeout 5",
        "status pg-1 --interval 1s",
    ];
    for line in lines {
        let output = node.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{line}");
    }
}

/// A reader that goes away, as `head` does, is no failure.
#[test]
fn a_closed_pipe_is_no_panic() {
    let node = Node::with_set("dependent");
    let mut child = node.command("status --watch --interval 100ms");
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends by itself");
    assert_eq!(text(&output.stderr), "");
}
