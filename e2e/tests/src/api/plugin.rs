//! That `kubectl umbra` finds what is stored and shows it.

use std::env;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbra_lab::{progress, static_binary};

use super::server::{NAMESPACE, Server};
use super::{Case, examples, status};

const PLUGIN: &str = "kubectl-umbra";

/// Builds the program, which takes a while the first time, and belongs to no case.
pub(crate) fn build() -> Result<()> {
    progress::step(format_args!("building {PLUGIN}"), || static_binary(PLUGIN)).map(drop)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("plugin/version", version),
        Case::new("plugin/completion", completion),
        Case::new("plugin/size", size),
        Case::new("plugin/status", shows_status),
        Case::new("plugin/status-of-one-master", one_master),
        Case::new("plugin/no-cluster", no_cluster),
    ]
}

/// What the plugin wrote, and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs the program as it is shipped.
pub(super) fn umbra(command: &mut Command, arguments: &[&str]) -> Result<Said> {
    said(begin(command, arguments)?)
}

/// Begins to run the program. `kubectl` finds it by its name in `PATH`, and so does this.
pub(super) fn begin(command: &mut Command, arguments: &[&str]) -> Result<Child> {
    let program = static_binary(PLUGIN)?;
    let folder = program.parent().context("a program without a folder")?.to_owned();
    let inherited = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([folder].into_iter().chain(env::split_paths(&inherited)))?;
    let command = command.arg("umbra").args(arguments).env("PATH", path);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Runs the program on a terminal, on which this is typed.
pub(super) fn typed(server: &Server, arguments: &[&str], text: &str) -> Result<Said> {
    let program = static_binary(PLUGIN)?;
    let host = server.plugin_host();
    let environment = host.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let line = format!("{} {}", program.display(), arguments.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).envs(environment);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no way to type")?.write_all(text.as_bytes())?;
    said(child)
}

/// What the program wrote, once it has ended.
pub(super) fn said(child: Child) -> Result<Said> {
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
}

pub(super) fn good(server: &Server, arguments: &[&str]) -> Result<String> {
    let said = umbra(&mut server.plugin_host(), arguments)?;
    ensure!(said.code == Some(0), "kubectl umbra {}: {:?}\n{}", arguments.join(" "), said.code, said.stderr);
    Ok(said.stdout)
}

fn version(server: &Server) -> Result<()> {
    let text = good(server, &["version"])?;
    ensure!(text.contains("imaging.umbra.dev/v1alpha1"), "{text}");
    let json: Value = serde_json::from_str(&good(server, &["version", "-o", "json"])?)?;
    ensure!(json["kinds"].as_array().is_some_and(|kinds| kinds.contains(&json!("VolumeSet"))), "{json}");
    Ok(())
}

fn completion(server: &Server) -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = good(server, &["completion", shell])?;
        ensure!(script.contains("status") && script.contains("kubectl-umbra"), "{shell}: {script}");
    }
    Ok(())
}

fn size(server: &Server) -> Result<()> {
    let arguments = ["size", "--master-size", "1Ti", "--chunk", "16Ki", "-o", "json"];
    let json: Value = serde_json::from_str(&good(server, &arguments)?)?;
    ensure!(json["chunks"] == 1 << 26 && json["shadowBytes"] == 1_u64 << 40, "{json}");
    ensure!(json["bitmapBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 25), "{json}");
    let table = good(server, &["size", "--master-size", "1Ti"])?;
    ensure!(table.contains("bitmap") && table.contains("1Ti"), "{table}");
    for wrong in [
        &["size", "--master-size", "much"][..],
        &["size", "--master-size", "1Ti", "--chunk", "5Ki"],
        &["size"],
    ] {
        let said = umbra(&mut server.plugin_host(), wrong)?;
        ensure!(said.code == Some(1) && !said.stderr.is_empty(), "{wrong:?} ended with {:?}", said.code);
    }
    Ok(())
}

/// A master with two sets, one of which copies, an operation that failed, and a set without a master.
fn populate(server: &Server) -> Result<()> {
    let mut master = examples::valid("mastervolume-claim")?;
    let mut set = examples::valid("volumeset-dependent")?;
    let names = [("MasterVolume", &mut master, "shown"), ("VolumeSet", &mut set, "shown-1")];
    for (kind, object, name) in names {
        if kind == "VolumeSet" {
            object["spec"]["masterRef"]["name"] = "shown".into();
        }
        let answer = server.apply_as(name, object)?;
        ensure!(answer.success, "{}", answer.stderr);
        status::patch(server, kind, name, &status::status_of(kind)?)?;
    }
    set["spec"]["masterRef"]["name"] = "nowhere".into();
    let answer = server.apply_as("astray", &set)?;
    ensure!(answer.success, "{}", answer.stderr);
    let operation = examples::valid("imagingoperation-restore")?;
    let answer = server.apply_as("failed", &operation)?;
    ensure!(answer.success, "{}", answer.stderr);
    status::patch(server, "ImagingOperation", "failed", &status::status_of("ImagingOperation")?)
}

fn shows_status(server: &Server) -> Result<()> {
    populate(server)?;
    let text = good(server, &["status", "--namespace", NAMESPACE])?;
    let master = line(&text, "MASTER shown ")?;
    ensure!(master.contains("node-a  894Gi  pvc/data-pg-0  used by pod/pg-0  READY"), "{master}");
    let set = line(&text, "shown-1")?;
    ensure!(
        set.contains("cut 7c1e4a") && set.contains("3% changed") && set.contains("copying to shadow 61%"),
        "{set}"
    );
    ensure!(line(&text, "SET astray")?.contains("NOT READY (Unseen)"), "{text}");
    ensure!(
        line(&text, "! VolumeSet/prod/astray MasterMissing")?.contains("no MasterVolume nowhere"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&good(server, &["status", "-n", NAMESPACE, "-o", "json"])?)?;
    let masters = json["masters"].as_array().context("no masters")?;
    let shown = masters.iter().find(|master| master["name"] == "shown").context("not shown")?;
    ensure!(shown["sets"][0]["image"]["cutID"] == "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77", "{shown}");
    let names = good(server, &["status", "-A", "-o", "name"])?;
    ensure!(names.lines().any(|name| name == "mastervolume/shown"), "{names}");
    let elsewhere = good(server, &["status", "--namespace", "default", "--no-headers"])?;
    ensure!(!elsewhere.contains("MASTER") && !elsewhere.contains("astray"), "{elsewhere}");
    Ok(())
}

fn one_master(server: &Server) -> Result<()> {
    populate(server)?;
    let text = good(server, &["status", "shown", "--namespace", NAMESPACE])?;
    ensure!(text.contains("shown-1") && !text.contains("astray"), "{text}");
    let said = umbra(&mut server.plugin_host(), &["status", "no-such-master", "--namespace", NAMESPACE])?;
    ensure!(
        said.code == Some(2) && said.stderr.contains("no-such-master"),
        "{:?} {}",
        said.code,
        said.stderr
    );
    Ok(())
}

fn no_cluster(server: &Server) -> Result<()> {
    let arguments = ["status", "--kubeconfig", "/no/such/file"];
    let said = umbra(&mut server.plugin_host(), &arguments)?;
    ensure!(said.code == Some(2) && said.stderr.contains("/no/such/file"), "{:?} {}", said.code, said.stderr);
    Ok(())
}

/// The line with this in it.
pub(super) fn line<'a>(text: &'a str, part: &str) -> Result<&'a str> {
    text.lines()
        .find(|line| line.contains(part))
        .with_context(|| format!("no line with {part:?} in:\n{text}"))
}
