//! Debian packages of one release, whatever the host runs: an apt of our own below the cache.
//!
//! It has its own sources, lists and package status, so the host's packages, pins and sources stay as they are, and
//! what it downloads is unpacked into the cache, never installed. Only the address of the archive comes from the
//! host's own configuration.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, host, progress};

/// The release everything in the lab comes from: it has a kernel with `ublk_drv` and an emulator that runs it.
pub const SUITE: &str = "trixie";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The lab's own apt, with lists fetched.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Sets the private configuration up and fetches the package lists.
    ///
    /// # Errors
    /// Without apt, an archive or the network.
    pub fn open() -> Result<Self> {
        let needs = [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("perl", "perl"), ("mkfs.ext4", "e2fsprogs")];
        host::ensure_commands(&needs)?;
        let apt = Self { root: cache::root()?.join("lab").join(format!("apt-{SUITE}")) };
        for folder in ["state/lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(apt.root.join(folder))?;
        }
        let _lock = apt.lock()?;
        // No package counts as installed: what is asked for comes with everything it needs, down to the C library.
        fs::write(apt.root.join("status"), "")?;
        fs::write(apt.sources(), sources(&archive()?))?;
        progress::step(format_args!("fetching package lists of {SUITE}"), || {
            host::run(apt.command("apt-get").args(["update", "-qq"]))
        })?;
        Ok(apt)
    }

    /// The file with the lab's package sources.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources.list")
    }

    /// Downloads these packages with all they depend on and unpacks them into `into`.
    ///
    /// # Errors
    /// Of the network and the file system; unknown packages.
    pub fn unpack_closure(&self, packages: &[&str], into: &Path) -> Result<()> {
        let _lock = self.lock()?;
        host::run(self.command("apt-get").args(["install", "-y", "-qq", "--download-only"]).args(packages))?;
        self.unpack_archives(&self.root.join("cache/archives"), into)
    }

    /// Downloads exactly these packages and unpacks them into `into`.
    ///
    /// # Errors
    /// Of the network and the file system; unknown packages.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let _lock = self.lock()?;
        let folder = self.root.join("cache/single");
        fs::create_dir_all(&folder)?;
        host::run(self.command("apt-get").args(["download", "-qq"]).args(packages).current_dir(&folder))?;
        self.unpack_archives(&folder, into)
    }

    /// The package that the meta package `of` stands for at this moment: its first dependency.
    ///
    /// # Errors
    /// Where there is no such package.
    pub fn resolve(&self, of: &str) -> Result<String> {
        let text = host::read(self.command("apt-cache").args(["depends", of]))?;
        let first = text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned));
        first.with_context(|| format!("{SUITE} has no {of}"))
    }

    fn unpack_archives(&self, folder: &Path, into: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                host::run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<fs::File> {
        cache::lock(&self.root.join("lock"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let options = [
            set("Dir::Etc::sourcelist", &self.sources()),
            set("Dir::Etc::sourceparts", &self.root.join("empty")),
            set("Dir::Etc::preferences", Path::new("/dev/null")),
            set("Dir::Etc::preferencesparts", &self.root.join("empty")),
            set("Dir::State", &self.root.join("state")),
            set("Dir::State::status", &self.root.join("status")),
            set("Dir::Cache", &self.root.join("cache")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The unprivileged download user cannot read a cache in a home folder.
            "APT::Sandbox::User=root".to_owned(),
        ];
        options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

fn sources(archive: &str) -> String {
    let signed = if Path::new(KEYRING).exists() { format!(" signed-by={KEYRING}") } else { String::new() };
    let line = |suite: &str| format!("deb [arch=amd64{signed}] {archive} {suite} main\n");
    line(SUITE) + &line(&format!("{SUITE}-updates"))
}

/// The Debian archive that the host's apt uses, or the one named by `UMBRA_DEBIAN_ARCHIVE`.
fn archive() -> Result<String> {
    if let Ok(named) = env::var("UMBRA_DEBIAN_ARCHIVE") {
        return Ok(named);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let uris = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => deb822_uris(&text),
            Some("list") => one_line_uris(&text),
            _ => continue,
        };
        if let Some(uri) = uris.into_iter().find(|uri| is_debian(uri)) {
            return Ok(uri);
        }
    }
    bail!("apt on this host knows no Debian archive: name one in UMBRA_DEBIAN_ARCHIVE")
}

/// Third parties and the security archive have other last folders.
fn is_debian(uri: &str) -> bool {
    uri.trim_end_matches('/').rsplit('/').next() == Some("debian")
}

fn one_line_uris(text: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
            None => rest,
        };
        uris.extend(rest.split_whitespace().next().map(str::to_owned));
    }
    uris
}

fn deb822_uris(text: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let lines = stanza.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        let enabled = field("Enabled").is_none_or(|(_, value)| value.trim() != "no");
        let binary =
            field("Types").is_some_and(|(_, value)| value.split_whitespace().any(|kind| kind == "deb"));
        if enabled && binary {
            uris.extend(
                field("URIs").into_iter().flat_map(|(_, value)| value.split_whitespace()).map(str::to_owned),
            );
        }
    }
    uris
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_found_in_both_forms() {
        let old = "# deb http://no/debian x main\ndeb-src http://src/debian x main\n\
                   deb [arch=amd64 signed-by=/k] http://one/debian/ x main\ndeb http://two/other x main\n";
        assert_eq!(one_line_uris(old), ["http://one/debian/", "http://two/other"]);
        let new = "Types: deb deb-src\n# http://no/debian\nURIs: http://a/debian http://b/debian\nSuites: x\n\n\
                   Enabled: no\nTypes: deb\nURIs: http://off/debian\n\nTypes: deb-src\nURIs: http://src/debian\n";
        assert_eq!(deb822_uris(new), ["http://a/debian", "http://b/debian"]);
    }

    #[test]
    fn only_the_main_archive_counts() {
        assert!(is_debian("http://mirror.test/pub/debian/"));
        assert!(!is_debian("http://mirror.test/debian-security"));
        assert!(!is_debian("https://vendor.test/apt"));
    }
}
