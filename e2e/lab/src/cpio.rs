//! Just enough of the `newc` archive format for an initial RAM disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

/// An archive under construction, owned by root throughout.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn folder(&mut self, name: &str) {
        self.member(name, 0o040_755, &[]);
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.member(name, 0o100_000 | mode, content);
    }

    /// Everything below a folder of the host, as `name`; the folders above must be there already.
    pub(crate) fn tree(&mut self, name: &str, from: &Path) -> Result<()> {
        self.folder(name);
        let mut entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let below = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.tree(&below, &entry.path())?;
            } else {
                let mode = entry.metadata()?.permissions().mode() & 0o777;
                self.file(&below, mode, &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn member(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let links = 1;
        let fields =
            [self.inode, mode, 0, 0, links, 0, length(content), 0, 0, 0, 0, length(name.as_bytes()) + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The format's fields have 32 bits; nothing that goes into a RAM disk is larger.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a member of a RAM disk below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_named() {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.file("init", 0o755, b"#!/bin/sh\n");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("000081ed"), "mode of a program");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0") || text.contains("TRAILER!!!\0"));
    }
}
