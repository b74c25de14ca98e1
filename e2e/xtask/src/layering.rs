//! The arrows of the design, held: who may use whom, who stays pure, and who may be unsafe.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package};
use umbra_lab::binaries;

use crate::{cargo, circles};

/// For each crate of the product, the crates of ours it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("umbra-crds", &[]),
    ("umbra-actions", &["umbra-crds", "umbra-engine", "umbra-format"]),
    ("kubectl-umbra", &["umbra-crds", "umbra-actions"]),
    ("umbra-operator", &["umbra-crds", "umbra-facade", "umbra-platform", "umbra-probes"]),
    ("umbra-engine", &[]),
    ("umbra-format", &["umbra-engine"]),
    ("umbra-store", &["umbra-engine", "umbra-format"]),
    ("umbra-identity", &["umbra-engine", "umbra-format", "umbra-store"]),
    ("umbra-uring", &["umbra-engine", "umbra-format", "umbra-store", "umbra-identity"]),
    ("umbra-ublk", &[]),
    ("umbra-platform", &[]),
    ("umbra-probes", &[]),
    ("umbra-facade", &["umbra-platform"]),
    // What lies on a device decides whether and how it is mounted.
    ("umbra-csi", &["umbra-identity", "umbra-platform"]),
    // It tells the cluster what its node is: in the words of the kinds, with the devices as they are recognised. Of ublk it
    // uses what judges a kernel.
    (
        "umbra-node",
        &[
            "umbra-crds",
            "umbra-identity",
            "umbra-platform",
            "umbra-facade",
            "umbra-csi",
            "umbra-probes",
            "umbra-ublk",
        ],
    ),
    (
        "umbra-io",
        &[
            "umbra-engine",
            "umbra-format",
            "umbra-store",
            "umbra-identity",
            "umbra-uring",
            "umbra-ublk",
            "umbra-platform",
            "umbra-probes",
            "umbra-lifecycle",
        ],
    ),
    ("umbra-lifecycle", &["umbra-engine", "umbra-format", "umbra-store", "umbra-identity", "umbra-platform"]),
    (
        "umbra-sim",
        &[
            "umbra-engine",
            "umbra-format",
            "umbra-store",
            "umbra-identity",
            "umbra-platform",
            "umbra-lifecycle",
        ],
    ),
    // Everything that reads something from outside.
    (
        "umbra-fuzz",
        &[
            "umbra-engine",
            "umbra-format",
            "umbra-store",
            "umbra-identity",
            "umbra-platform",
            "umbra-facade",
            "umbra-csi",
            "umbra-lifecycle",
        ],
    ),
];
/// The folders of the product; the others hold what tests it.
const PRODUCT: &[&str] = &["crds", "node-plugin", "operator"];
/// Programs, and what only serves tests: nobody else may depend on them, not even in tests.
const ENDS: &[&str] = &[
    "kubectl-umbra",
    "umbra-operator",
    "umbra-sim",
    "umbra-fuzz",
    "umbra-io",
    "umbra-node",
    "umbra-e2e",
    "umbra-bench",
    "xtask",
];
/// Circles between files that are still there, by crate. The list only gets shorter: one that is gone must go
/// from here too.
const CIRCLES: &[(&str, &[&str])] = &[
    ("umbra-engine", &["action", "command"]),
    ("umbra-engine", &["checkpoint", "copier", "copy", "gate", "owner", "restore", "set", "superblock"]),
    ("umbra-engine", &["port", "shared"]),
    ("umbra-format", &["in_doubt", "superblock"]),
    ("umbra-store", &["machine", "side_jobs"]),
    ("umbra-sim", &["node::calls", "node::io", "node::life"]),
    ("umbra-sim", &["node::files", "node::reactor", "node::world"]),
    ("umbra-bench", &["bed", "systems"]),
    ("umbra-bench", &["interruptions", "run"]),
];
/// What would tie a crate that stays pure to a runtime, a wire or a kernel.
const NEVER_REACHED: &[(&str, &[&str])] = &[
    ("umbra-engine", &["tokio", "tonic", "io-uring", "rustix", "libc"]),
    ("umbra-crds", &["tokio", "tonic", "hyper", "kube-client"]),
    ("umbra-actions", &["tokio", "tonic", "hyper", "kube-client", "io-uring"]),
];
/// The crates that talk to the kernel's rings.
const MAY_BE_UNSAFE: &[&str] = &["umbra-uring", "umbra-ublk"];

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(binaries::workspace().join("Cargo.toml")).features(CargoOpt::AllFeatures);
    // Only what is built here is surely downloaded.
    command.other_options(vec!["--filter-platform".into(), "x86_64-unknown-linux-gnu".into()]);
    command.exec().unwrap()
}

/// What a crate of ours is built from where it is built alone: together, others would switch features on for it.
fn reachable(name: &str) -> BTreeSet<String> {
    let mut tree = cargo::command(&["tree", "--package", name, "--edges", "normal", "--prefix", "none"]);
    tree.args(["--format", "{p}", "--target", "x86_64-unknown-linux-gnu"]);
    let output = tree.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn ours<'a>(metadata: &'a Metadata, package: &'a Package) -> impl Iterator<Item = (&'a str, DependencyKind)> {
    let names: BTreeSet<&str> =
        metadata.workspace_packages().iter().map(|package| package.name.as_str()).collect();
    let dependencies =
        package.dependencies.iter().map(|dependency| (dependency.name.as_str(), dependency.kind));
    dependencies.filter(move |(name, _)| names.contains(name))
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let is_in = |folder: &&str| package.manifest_path.starts_with(metadata.workspace_root.join(folder));
        let of_product = PRODUCT.iter().any(is_in);
        let allowed = MAY_USE.iter().find(|(user, _)| *user == name);
        assert_eq!(of_product, allowed.is_some(), "{name} has no place in the layers: give it one");
        for (used, kind) in ours(&metadata, package) {
            assert!(!ENDS.contains(&used), "{name} uses {used}, which nobody may");
            let Some((_, allowed)) = allowed else { continue };
            assert!(
                kind == DependencyKind::Development || allowed.contains(&used),
                "{name} must not use {used}"
            );
            assert_ne!(used, "umbra-lab", "{name} must not use the lab");
        }
    }
}

#[test]
fn files_of_a_crate_use_each_other_one_way() {
    let metadata = metadata();
    let mut found: BTreeSet<(String, Vec<String>)> = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let libraries = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        for target in libraries {
            let circles = circles::of_crate(target.src_path.as_std_path());
            found.extend(circles.into_iter().map(|circle| (package.name.to_string(), circle)));
        }
    }
    let known: BTreeSet<(String, Vec<String>)> = CIRCLES
        .iter()
        .map(|(name, circle)| {
            ((*name).to_owned(), circle.iter().map(|module| (*module).to_owned()).collect())
        })
        .collect();
    let is_part = |(name, circle): &&(String, Vec<String>)| {
        let holds = |(of, known): &(String, Vec<String>)| {
            of == name && circle.iter().all(|module| known.contains(module))
        };
        known.iter().any(holds)
    };
    let new: Vec<_> = found.iter().filter(|circle| !is_part(circle)).collect();
    assert!(new.is_empty(), "files that use each other in a circle: {new:#?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(
        gone.is_empty(),
        "these circles have become smaller, or are gone: take them from the list: {gone:#?}, now {found:#?}"
    );
}

#[test]
fn what_is_pure_reaches_no_runtime_and_no_kernel() {
    for (name, never) in NEVER_REACHED {
        let reachable = reachable(name);
        assert!(reachable.contains(*name), "{name} is not in its own tree: {reachable:?}");
        for never in *never {
            assert!(!reachable.contains(*never), "{name} reaches {never}");
        }
    }
}

#[test]
fn only_the_kernel_facing_crates_are_unsafe() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        let name = package.name.as_str();
        if MAY_BE_UNSAFE.contains(&name) {
            continue;
        }
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} does not follow the workspace's lints"
        );
        for file in sources(package.manifest_path.parent().unwrap().as_std_path()) {
            let text = fs::read_to_string(&file).unwrap();
            for (index, line) in text.lines().enumerate() {
                assert!(!is_unsafe(line), "{}:{}: {line}", file.display(), index + 1);
            }
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Whether a line of code has the keyword, or lifts the lint that forbids it; comments and strings may speak of it.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or(line);
    let code: String = code.replace("\\\"", "").split('"').step_by(2).collect();
    let words: Vec<&str> =
        code.split(|character: char| !character.is_alphanumeric() && character != '_').collect();
    let lifted = words.iter().any(|word| ["allow", "expect", "warn"].contains(word));
    words.contains(&"unsafe") || (lifted && words.contains(&"unsafe_code"))
}

#[test]
fn unsafety_is_recognised() {
    assert!(is_unsafe("    let x = unsafe { *pointer };"));
    assert!(is_unsafe("#![allow(unsafe_code, reason = \"rings\")]"));
    assert!(!is_unsafe("#![forbid(unsafe_code)]"));
    assert!(!is_unsafe("// this would be unsafe"));
    assert!(!is_unsafe("    is_unsafe(\"unsafe\")"));
}
