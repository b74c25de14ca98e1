//! That `kubectl umbra` finds what is stored and shows it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Case, examples, status};
use crate::kubernetes::plugin::{good, line, umbra};
use crate::kubernetes::server::{NAMESPACE, Server};

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
