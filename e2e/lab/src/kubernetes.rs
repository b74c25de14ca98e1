//! The programs of Kubernetes, and etcd, built from modules that are pinned with their checksums.
//!
//! They are built in two groups, each when it is first needed: most tests need no controllers and no node.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::go::Go;
use crate::{binaries, cache, progress};

/// The release of Kubernetes; `control-plane/go.mod` pins its modules.
pub const KUBERNETES: &str = "v1.36.3";

/// The name of a program, and the package it is made from.
type Program = (&'static str, &'static str);

/// Programs that are built and kept together.
struct Group {
    name: &'static str,
    programs: &'static [Program],
}

/// What stores objects, and what asks for them.
const SERVER: Group = Group {
    name: "control-plane",
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
};
/// What makes pods of objects.
const PODS: Group = Group {
    name: "pods",
    programs: &[
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ],
};

/// The folder with `etcd`, `kube-apiserver` and `kubectl`.
///
/// # Errors
/// Where they cannot be fetched or built.
pub fn server() -> Result<PathBuf> {
    SERVER.open()
}

/// The folder with `kube-controller-manager`, `kube-scheduler` and `kubelet`.
///
/// # Errors
/// Where they cannot be fetched or built.
pub fn pods() -> Result<PathBuf> {
    PODS.open()
}

impl Group {
    /// Takes the folder from the cache, or builds what is in it.
    fn open(&self) -> Result<PathBuf> {
        let module = binaries::workspace().join("e2e/lab/control-plane");
        let read = |name: &str| fs::read_to_string(module.join(name)).with_context(|| name.to_owned());
        let flags = link_flags();
        cache::entry(self.name, &[KUBERNETES, &flags, &read("go.mod")?, &read("go.sum")?], |into| {
            let go = Go::open()?;
            progress::say(format_args!(
                "Kubernetes {KUBERNETES} is built from its sources, once; this takes some minutes"
            ));
            for (name, package) in self.programs {
                progress::step(format_args!("building {name}"), || {
                    go.build(&module, package, &flags, &into.join(name))
                })?;
            }
            Ok(())
        })
    }
}

/// Without symbols, and with the version that the programs say they are.
fn link_flags() -> String {
    let mut numbers = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    ["-s -w".to_owned(), set("gitVersion", KUBERNETES), set("gitMajor", major), set("gitMinor", minor)]
        .concat()
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
