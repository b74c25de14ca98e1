//! Programs written in Go, built from modules that are pinned with their checksums.
//!
//! Go itself is the host's where there is one, and Debian's otherwise. Either fetches the release that the modules ask for
//! through Go's module proxy, and checks it as it checks any module.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::apt::{Apt, SUITE};
use crate::{binaries, cache, host, progress};

/// Debian's packages with a Go that can fetch other releases.
const PACKAGES: &[&str] = &["golang-1.24-go", "golang-1.24-src"];
/// The first release that fetches the one a module asks for.
const MINOR_MIN: u32 = 21;
/// How often a build that goes on says so.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// A Go toolchain.
#[derive(Debug)]
pub(crate) struct Go {
    program: PathBuf,
}

impl Go {
    /// Takes the host's Go, or fetches one.
    pub(crate) fn open() -> Result<Self> {
        let found = [host::find("go"), Some(PathBuf::from("/usr/local/go/bin/go"))];
        let usable =
            |program: &PathBuf| program.is_file() && minor(program).is_some_and(|minor| minor >= MINOR_MIN);
        if let Some(program) = found.into_iter().flatten().find(usable) {
            return Ok(Self { program });
        }
        let root = cache::entry("go-bootstrap", &[SUITE, "1", &PACKAGES.join(" ")], |into| {
            let apt = Apt::open()?;
            progress::step("downloading Go", || apt.unpack(PACKAGES, into))
        })?;
        Ok(Self { program: root.join("usr/lib/go-1.24/bin/go") })
    }

    /// Builds the program of `package` from the module in `module` and puts it at `into`.
    pub(crate) fn build(&self, module: &Path, package: &str, flags: &str, into: &Path) -> Result<()> {
        let name = into.file_name().unwrap_or_default().display();
        let mut command = self.command(module)?;
        command.args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o"]);
        command.arg(into).arg(package).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        let (begin, mut told) = (Instant::now(), Instant::now());
        let mut last: VecDeque<String> = VecDeque::new();
        let (mut fetched, mut built) = (0, 0);
        // It says a line for each module it fetches and each package it builds; what goes wrong comes last.
        for line in BufReader::new(child.stderr.take().context("go without output")?).lines() {
            let line = line?;
            if line.starts_with("go: downloading ") {
                fetched += 1
            } else {
                built += 1
            }
            if told.elapsed() >= TELL_EVERY {
                let seconds = begin.elapsed().as_secs();
                progress::say(format_args!(
                    "  {name}: {fetched} modules fetched, {built} packages built, {seconds} s"
                ));
                told = Instant::now();
            }
            last.push_back(line);
            if last.len() > 20 {
                last.pop_front();
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("go build {package}: {status}\n{}", Vec::from(last).join("\n"));
        }
        Ok(())
    }

    fn command(&self, module: &Path) -> Result<Command> {
        let own = cache::root()?.join("lab/go");
        let mut command = Command::new(&self.program);
        command.current_dir(module).stdin(Stdio::null());
        command.env("GOMODCACHE", own.join("mod")).env("GOCACHE", own.join("build"));
        // The checksums in go.sum are all that counts; nothing may change them on the way.
        command.env("GOFLAGS", "-mod=readonly").env("GOTOOLCHAIN", "auto");
        command.env("GOWORK", "off").env("CGO_ENABLED", "0").env_remove("GOROOT");
        Ok(command)
    }
}

/// The one program of the module in `e2e/lab/NAME`, which pins it and what it is made of, built the first time.
pub(crate) fn program(name: &str, release: &str, package: &str) -> Result<PathBuf> {
    let module = binaries::workspace().join("e2e/lab").join(name);
    let read = |file: &str| fs::read_to_string(module.join(file)).with_context(|| format!("{name}/{file}"));
    let folder = cache::entry(name, &[release, &read("go.mod")?, &read("go.sum")?], |into| {
        progress::step(format_args!("building {name} {release}"), || {
            Go::open()?.build(&module, package, "-s -w", &into.join(name))
        })
    })?;
    Ok(folder.join(name))
}

/// The minor version of a Go program, without fetching another.
fn minor(program: &Path) -> Option<u32> {
    let mut command = Command::new(program);
    minor_of(&host::read(command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local")).ok()?)
}

/// Reads `go1.26.8`.
fn minor_of(version: &str) -> Option<u32> {
    let minor = version.trim().strip_prefix("go1.")?;
    minor.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(minor_of("go1.26.8\n"), Some(26));
        assert_eq!(minor_of("go1.21rc2"), Some(21));
        assert_eq!(minor_of("devel go1.30"), None);
    }
}
