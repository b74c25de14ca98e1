//! That every example does what it says: the valid ones apply, and apply again without a change; the invalid ones are refused
//! with the words in their first line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use umbra_crds::{
    DeviceGrantSpec, ImagingNodeSpec, ImagingOperationSpec, MasterVolumeSpec, SetGroupSpec, VolumeSetSpec,
};
use umbra_lab::binaries;

use super::Case;
use crate::kubernetes::server::{Server, refusal};

/// What an invalid example begins with.
const REFUSED: &str = "# Refused: ";

pub(crate) fn cases() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for path in files("valid")? {
        cases.push(Case::new(format!("valid/{}", stem(&path)), move |server| applies(server, &path)));
    }
    for path in files("invalid")? {
        cases.push(Case::new(format!("invalid/{}", stem(&path)), move |server| is_refused(server, &path)));
    }
    Ok(cases)
}

/// A valid example of this kind.
pub(crate) fn one_of(kind: &str) -> Result<Value> {
    for path in files("valid")? {
        let object = read(&path)?;
        if object["kind"] == kind {
            return Ok(object);
        }
    }
    bail!("there is no valid example of a {kind}")
}

/// The valid example in this file.
pub(crate) fn valid(stem: &str) -> Result<Value> {
    read(&folder("valid").join(format!("{stem}.yaml")))
}

fn folder(sort: &str) -> PathBuf {
    binaries::workspace().join("crds/examples").join(sort)
}

fn files(sort: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder(sort)).with_context(|| folder(sort).display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path)?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}

fn applies(server: &Server, path: &Path) -> Result<()> {
    let object = read(path)?;
    let (kind, name) = (text(&object, "/kind")?, text(&object, "/metadata/name")?);
    let mut versions = Vec::new();
    for _ in 0..2 {
        let answer = server.apply(path)?;
        ensure!(answer.success, "{}", answer.stderr.trim());
        versions.push(server.get(&kind, &name)?["metadata"]["resourceVersion"].clone());
    }
    ensure!(versions[0] == versions[1], "applied again it changed");
    // What the API server fills in and what the types fill in must be one and the same.
    let stored = server.get(&kind, &name)?;
    let (ours, theirs) = match kind.as_str() {
        "MasterVolume" => both::<MasterVolumeSpec>(&object, &stored)?,
        "VolumeSet" => both::<VolumeSetSpec>(&object, &stored)?,
        "SetGroup" => both::<SetGroupSpec>(&object, &stored)?,
        "ImagingOperation" => both::<ImagingOperationSpec>(&object, &stored)?,
        "DeviceGrant" => both::<DeviceGrantSpec>(&object, &stored)?,
        "ImagingNode" => both::<ImagingNodeSpec>(&object, &stored)?,
        other => bail!("no kind {other}"),
    };
    ensure!(ours == theirs, "the API server stores {theirs}, the types mean {ours}");
    Ok(())
}

/// The spec of an object with the defaults of the types, and the spec of the same object as it is stored.
fn both<T: DeserializeOwned + Serialize>(object: &Value, stored: &Value) -> Result<(Value, Value)> {
    let ours: T =
        serde_json::from_value(object["spec"].clone()).context("the types do not read the example")?;
    let theirs: T =
        serde_json::from_value(stored["spec"].clone()).context("the types do not read what is stored")?;
    // Both ways, so that nothing that is stored is lost by the types.
    ensure!(
        serde_json::to_value(&theirs)? == stored["spec"],
        "the types lose something of {}",
        stored["spec"]
    );
    Ok((serde_json::to_value(ours)?, serde_json::to_value(theirs)?))
}

fn is_refused(server: &Server, path: &Path) -> Result<()> {
    let first = fs::read_to_string(path)?.lines().next().unwrap_or_default().to_owned();
    let fragment =
        first.strip_prefix(REFUSED).with_context(|| format!("the first line must be `{REFUSED}…`"))?;
    ensure!(fragment.len() > 6, "{fragment:?} says too little");
    refusal(&server.apply(path)?, fragment)?;
    let object = read(path)?;
    let (kind, name) = (text(&object, "/kind")?, text(&object, "/metadata/name")?);
    ensure!(server.get(&kind, &name).is_err(), "it was refused, and is there all the same");
    Ok(())
}

fn text(object: &Value, pointer: &str) -> Result<String> {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no {pointer}"))
}
