//! Container images, put together without a container engine: one layer with a few files, in an archive of the Open
//! Container Initiative's image layout, which `ctr images import` and every engine read.
//!
//! ```text
//!   oci-layout   index.json ──> blobs/sha256/MANIFEST ──> CONFIG   what is started, and the digest of the layer
//!                                                    └──> LAYER    a tar archive with the files
//! ```
//!
//! The same files make the same archive, bit for bit.

mod postgres;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::binaries::static_binary;
use crate::toolbox::Toolbox;
use crate::{host, progress};

pub use postgres::archive as of_postgres;

/// Umbra's programs that run in pods.
const PROGRAMS: [&str; 3] = ["umbra-io", "umbra-node", "umbra-operator"];
/// Where their images are called to be from: by this name container engines look for nothing beyond this machine.
const REGISTRY: &str = "localhost/umbra";
/// Their tag, which is that of the release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What keeps the namespaces of a pod: it does nothing.
pub const PAUSE: &str = "lab.invalid/pause:1";
/// A shell and the usual commands.
pub const TOOLS: &str = "lab.invalid/tools:1";

/// The commands that images with a shell have.
const COMMANDS: &[&str] = &[
    "cat",
    "cp",
    "dd",
    "echo",
    "grep",
    "head",
    "ln",
    "ls",
    "mount",
    "rm",
    "sha256sum",
    "sh",
    "sleep",
    "sync",
    "tail",
    "timeout",
    "wc",
];

/// An image under construction.
#[derive(Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    path: String,
    layer: Archive,
}

impl Image {
    /// An image without files, under its full name with a tag.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let path = "/usr/bin:/bin".to_owned();
        Self { name: name.to_owned(), entrypoint: Vec::new(), path, layer: Archive::default() }
    }

    /// Sets what is started, with its arguments.
    #[must_use]
    pub fn entrypoint(mut self, argv: &[&str]) -> Self {
        self.entrypoint = argv.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Sets where programs are looked for, as in `PATH`.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Adds `/tmp`, where everybody may write.
    ///
    /// # Errors
    /// Where its name does not fit into an archive, here and below.
    pub fn scratch(mut self) -> Result<Self> {
        self.layer.folder("tmp/", 0o1777)?;
        Ok(self)
    }

    /// Adds a file that nobody starts.
    ///
    /// # Errors
    /// As [`scratch`](Self::scratch).
    pub fn text(mut self, path: &str, content: &[u8]) -> Result<Self> {
        self.layer.file(path, 0o644, content)?;
        Ok(self)
    }

    /// Adds a program of the host.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn program(mut self, from: &Path, path: &str) -> Result<Self> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.layer.file(path, 0o755, &content)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As [`scratch`](Self::scratch).
    pub fn link(mut self, path: &str, target: &str) -> Result<Self> {
        self.layer.link(path, target)?;
        Ok(self)
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(self, to: &Path) -> Result<()> {
        fs::write(to, self.finish()?).with_context(|| to.display().to_string())
    }

    fn finish(self) -> Result<Vec<u8>> {
        let layer = self.layer.finish()?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": [format!("PATH={}", self.path)]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut described = descriptor(MANIFEST, &manifest);
        // The first is the specification's and holds the tag, the second is containerd's and holds the whole name.
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        described["annotations"] =
            json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [described]});
        let mut archive = Archive::default();
        archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for blob in [&layer, &config, &manifest] {
            archive.file(&format!("blobs/{}", sha256(blob).replace(':', "/")), 0o644, blob)?;
        }
        archive.file("index.json", 0o644, index.to_string().as_bytes())?;
        archive.finish()
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(blob), "size": blob.len()})
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Writes the images of the lab, [`PAUSE`] and [`TOOLS`], into a folder, and returns their archives.
///
/// # Errors
/// Where the tools cannot be had or the files not be written.
pub fn of_the_lab(into: &Path) -> Result<Vec<PathBuf>> {
    let busybox = Toolbox::open()?.busybox();
    let with_busybox = |name| Image::new(name).program(&busybox, "bin/busybox");
    let pause = with_busybox(PAUSE)?.entrypoint(&["/bin/busybox", "sleep", "inf"]);
    let tools = COMMANDS
        .iter()
        .try_fold(with_busybox(TOOLS)?, |image, command| image.link(&format!("bin/{command}"), "busybox"))?;
    let archives = [into.join("pause.tar"), into.join("tools.tar")];
    pause.write(&archives[0])?;
    tools.write(&archives[1])?;
    Ok(archives.into())
}

/// Builds Umbra's programs that run in pods, writes an image of each into a folder, with nothing else in it, and returns their
/// archives.
///
/// # Errors
/// Where they do not build, or the files cannot be written.
pub fn of_umbra(into: &Path) -> Result<Vec<PathBuf>> {
    let archive = |program: &&str| {
        let binary = progress::step(format_args!("building {program}"), || static_binary(program))?;
        // Nobody debugs in there, and it is most of the file.
        let bare = into.join(program);
        host::run(Command::new("strip").args(["--strip-debug", "-o"]).arg(&bare).arg(binary))?;
        let path = format!("usr/bin/{program}");
        let image = Image::new(&format!("{REGISTRY}/{program}:{VERSION}"));
        let image = image.program(&bare, &path)?.entrypoint(&[&format!("/{path}")]);
        fs::remove_file(bare)?;
        let archive = into.join(format!("{program}.tar"));
        image.write(&archive)?;
        Ok(archive)
    };
    PROGRAMS.iter().map(archive).collect()
}

/// A tar archive under construction, owned by root throughout and without times.
struct Archive {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Default for Archive {
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), folders: BTreeSet::new() }
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_tuple("Archive").field(&self.tar.get_ref().len()).finish()
    }
}

impl Archive {
    /// Adds the folders above a path that are not there yet.
    fn folders_of(&mut self, path: &str) -> Result<()> {
        for (end, _) in path.match_indices('/') {
            let folder = path[..=end].to_owned();
            if self.folders.insert(folder.clone()) {
                self.folder(&folder, 0o755)?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = header(EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, path, &[][..]).with_context(|| path.to_owned())
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.folders_of(path)?;
        let mut header = header(EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content).with_context(|| path.to_owned())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.folders_of(path)?;
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).with_context(|| path.to_owned())
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binaries::workspace;

    #[test]
    fn the_archive_holds_what_its_digests_say() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let archive = folder.path().join("image.tar");
        let image = || Image::new("a.test/b:3").program(&program, "bin/p")?.link("bin/q", "p");
        let image = || image().unwrap().entrypoint(&["/bin/p", "x"]);
        image().write(&archive).unwrap();
        assert_eq!(
            fs::read(&archive).unwrap(),
            image().finish().unwrap(),
            "the same files make the same archive"
        );

        // Another program reads it.
        host::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path())).unwrap();
        let blob = |digest: &Value| {
            let digest = digest.as_str().unwrap();
            let path = folder.path().join("blobs").join(digest.replace(':', "/"));
            let bytes = fs::read(&path).unwrap();
            assert_eq!(sha256(&bytes), digest);
            (path, bytes)
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = read(&fs::read(folder.path().join("index.json")).unwrap());
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "a.test/b:3");
        let manifest = read(&blob(&index["manifests"][0]["digest"]).1);
        let config = read(&blob(&manifest["config"]["digest"]).1);
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/p", "x"]));
        let (layer, _) = blob(&config["rootfs"]["diff_ids"][0]);
        let listed = host::read(Command::new("tar").arg("-tvf").arg(layer)).unwrap();
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x 0/0") && lines[0].ends_with("bin/"), "{listed}");
        assert!(lines[1].starts_with("-rwxr-xr-x 0/0") && lines[1].ends_with("bin/p"), "{listed}");
        assert!(lines[2].ends_with("bin/q -> p"), "{listed}");
    }

    #[test]
    fn the_chart_asks_for_the_images_that_are_made() {
        let read = |name: &str| fs::read_to_string(workspace().join("charts/umbra").join(name)).unwrap();
        let chart = read("Chart.yaml");
        for line in [format!("version: {VERSION}"), format!("appVersion: {VERSION}")] {
            assert!(chart.lines().any(|given| given == line), "{line} is not in the chart");
        }
        assert!(read("values.yaml").contains(&format!("registry: {REGISTRY}\n")));
    }

    #[test]
    fn a_digest_is_the_one_of_everybody_else() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), empty);
    }
}
