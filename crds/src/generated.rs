//! The files that are written from the kinds, and never by hand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::definitions::{Definition, definitions};
use crate::reference;

const HEADER: &str = "# Written from the types in crds/src by `cargo xtask crds`: change those, not this.\n";
const MANIFESTS: &str = "crds/manifests";
/// Helm reads nothing outside of a chart, and not every way to get a checkout keeps links.
const IN_CHART: &str = "charts/umbra/files/crds";
/// What the chart has of CSI stands beside the driver.
const CSI: [(&str, &str); 2] = [
    ("csidriver", include_str!("../../node-plugin/csi/manifests/csidriver.yaml")),
    ("storageclass", include_str!("../../node-plugin/csi/manifests/storageclass.yaml")),
];

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct GeneratedFile {
    /// Its path from the root of the workspace.
    pub path: String,
    /// What it holds.
    pub text: String,
}

/// Every generated file.
///
/// # Errors
/// Where a definition cannot be written as YAML.
pub fn files() -> Result<Vec<GeneratedFile>, serde_saphyr::ser::Error> {
    let definitions = definitions();
    let mut files = Vec::new();
    for definition in &definitions {
        let text = format!("{HEADER}{}", serde_saphyr::to_string(definition.json())?);
        for folder in [MANIFESTS, IN_CHART] {
            files.push(GeneratedFile { path: manifest(folder, definition), text: text.clone() });
        }
    }
    for (name, text) in CSI {
        let path = format!("charts/umbra/files/csi/{name}.yaml");
        files.push(GeneratedFile { path, text: text.to_owned() });
    }
    files.push(GeneratedFile {
        path: "crds/kustomization.yaml".to_owned(),
        text: kustomization(&definitions),
    });
    files.push(GeneratedFile {
        path: "operator/docs/kinds.md".to_owned(),
        text: reference::markdown(&definitions),
    });
    Ok(files)
}

/// Manifests that stand for no kind any more.
///
/// # Errors
/// Where the folder cannot be read.
pub fn surplus() -> io::Result<Vec<PathBuf>> {
    let root = workspace();
    let mut surplus = Vec::new();
    for folder in [MANIFESTS, IN_CHART].map(|folder| root.join(folder)).iter().filter(|path| path.is_dir()) {
        let known: Vec<PathBuf> =
            definitions().iter().map(|definition| folder.join(file_of(definition))).collect();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !known.contains(&path) {
                surplus.push(path);
            }
        }
    }
    Ok(surplus)
}

/// The root of the workspace this was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

fn manifest(folder: &str, definition: &Definition) -> String {
    format!("{folder}/{}", file_of(definition))
}

fn file_of(definition: &Definition) -> String {
    format!("{}.yaml", definition.plural())
}

/// What `kubectl apply --server-side -k crds` reads.
fn kustomization(definitions: &[Definition]) -> String {
    let resources =
        definitions.iter().map(|definition| format!("  - manifests/{}.yaml\n", definition.plural()));
    let head =
        format!("{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n");
    resources.fold(head, |text, line| text + &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_is_what_the_kinds_say() {
        for file in files().unwrap() {
            let found = fs::read_to_string(workspace().join(&file.path)).unwrap_or_default();
            assert!(found == file.text, "{} is not what the kinds say: run `cargo xtask crds`", file.path);
        }
        assert_eq!(surplus().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn yaml_says_what_the_definition_says() {
        for definition in definitions() {
            let text = serde_saphyr::to_string(definition.json()).unwrap();
            let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(&back, definition.json(), "{}", definition.kind());
        }
    }
}
