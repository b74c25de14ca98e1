//! PostgreSQL as a container image: a server and its tools from Debian, the libraries that they load, and a shell.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{COMMANDS, Image};
use crate::apt::{Apt, SUITE};
use crate::toolbox::Toolbox;
use crate::{cache, host, progress};

/// The name of the image. What runs in it is in its path.
const POSTGRES: &str = "lab.invalid/postgres:1";

const PROGRAMS: &[&str] = &["createdb", "initdb", "pg_ctl", "pg_isready", "pgbench", "postgres", "psql"];
/// What the server loads when it is asked to, of a folder of far more.
const MODULES: &[&str] = &["plpgsql.so", "dict_snowball.so"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const USERS: &str = "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:postgres:/tmp:/bin/sh\n";

/// Takes the archive from the cache, or makes it.
///
/// # Errors
/// Without network, the first time.
pub fn archive() -> Result<PathBuf> {
    let recipe = [SUITE, "2", &PROGRAMS.join(" "), &MODULES.join(" "), &COMMANDS.join(" "), USERS];
    let entry = cache::entry("postgres-image", &recipe, |into| {
        progress::step("making an image with PostgreSQL", || {
            let (apt, tree) = (Apt::open()?, into.join("tree"));
            let package = apt.resolve("postgresql")?;
            apt.unpack_closure(&[&package], &tree)?;
            let version = package.strip_prefix("postgresql-").context("PostgreSQL without a version")?;
            image(&tree, version)?.write(&into.join("postgres.tar"))?;
            fs::remove_dir_all(tree).map_err(Into::into)
        })
    })?;
    Ok(entry.join("postgres.tar"))
}

fn image(tree: &Path, version: &str) -> Result<Image> {
    let home = format!("usr/lib/postgresql/{version}");
    let programs = PROGRAMS.iter().map(|name| format!("{home}/bin/{name}"));
    let modules = MODULES.iter().map(|name| format!("{home}/lib/{name}"));
    let busybox = Toolbox::open()?.busybox();
    let path = format!("/{home}/bin:/usr/bin:/bin");
    let mut image = Image::new(POSTGRES).path(&path).scratch()?.program(&busybox, "bin/busybox")?;
    for command in COMMANDS {
        image = image.link(&format!("bin/{command}"), "busybox")?;
    }
    let mut libraries = BTreeSet::new();
    for file in programs.chain(modules) {
        libraries.extend(loaded_by(tree, &file)?);
        image = image.program(&tree.join(&file), &file)?;
    }
    for library in libraries {
        image = image.program(&tree.join(LIBRARIES).join(&library), &format!("{LIBRARIES}/{library}"))?;
    }
    image = image.program(&tree.join(LIBRARIES).join(LOADER), &format!("lib64/{LOADER}"))?;
    let share = format!("usr/share/postgresql/{version}");
    for file in files(&tree.join(&share))? {
        let path = file.strip_prefix(tree)?.display().to_string();
        image = image.text(&path, &fs::read(&file)?)?;
    }
    image
        .text("usr/share/zoneinfo/UTC", &fs::read(tree.join("usr/share/zoneinfo/UTC"))?)?
        .text("etc/passwd", USERS.as_bytes())
}

/// The names of the libraries that a file of the tree loads when it starts.
fn loaded_by(tree: &Path, file: &str) -> Result<BTreeSet<String>> {
    let folder = tree.join(LIBRARIES);
    let mut command = Command::new(folder.join(LOADER));
    let listed = host::read(command.arg("--library-path").arg(&folder).arg("--list").arg(tree.join(file)))?;
    let names = listed.lines().filter_map(|line| line.trim().split_once(" => "));
    names
        .map(|(name, found)| {
            ensure!(
                found.starts_with(&folder.display().to_string()),
                "{file} loads {name}, and it is {found}"
            );
            Ok(name.to_owned())
        })
        .collect()
}

/// All files below a folder that are there; links may lead to what only an installation makes.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.is_file() {
            found.insert(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binaries::workspace;

    #[test]
    fn the_examples_ask_for_the_image_and_the_user_that_there_are() {
        let user = USERS.lines().last().and_then(|line| line.split(':').nth(2)).unwrap();
        for file in ["database.yaml", "report.yaml"] {
            let text = fs::read_to_string(workspace().join("e2e/lab/examples/database").join(file)).unwrap();
            assert!(text.contains(&format!("image: {POSTGRES}\n")), "{file}");
            assert!(text.contains(&format!("runAsUser: {user}, fsGroup: {user}")), "{file}");
        }
    }
}
