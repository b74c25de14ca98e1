//! Who has devices open or mapped: the descriptors and mappings of every process.

use super::stack::sight;
use super::{GatherError, Look, entries};
use crate::facts::{Blind, DeviceKey, Holder};
use procfs::FromRead;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) dir: PathBuf,
}

impl Process {
    /// Whether it ended meanwhile, or is a zombie, which has nothing open.
    pub(super) fn is_gone(&self, error: &io::Error) -> bool {
        super::is_absent(error)
            || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
            || !self.dir.exists()
            || matches!(self.state(), Some('Z' | 'X'))
    }

    /// The state in `/proc/PID/stat` (proc(5)): behind the name, which may hold anything, also this parenthesis. The
    /// library's reader panics on a line that ends with the name.
    fn state(&self) -> Option<char> {
        let text = fs::read(self.dir.join("stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.rsplit_once(')')?.1.trim_start().chars().next()
    }

    fn command(&self) -> String {
        crate::sysfs::text(&self.dir, "comm").unwrap_or_default()
    }
}

/// Every process that this process can see.
pub(super) fn processes(look: &Look) -> Result<Vec<Process>, GatherError> {
    let unreadable = |source| GatherError::Unreadable { what: look.roots.proc.clone(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(&look.roots.proc).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.push(Process { pid, dir: entry.path() });
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Openers of block devices, and of the files `wanted`.
pub(super) fn read(
    look: &Look,
    wanted: &BTreeSet<DeviceKey>,
    blind: &mut Vec<Blind>,
) -> Result<Vec<(DeviceKey, Holder)>, GatherError> {
    let interesting = |key: &DeviceKey| match key {
        DeviceKey::Block(_) => true,
        DeviceKey::File { .. } => wanted.contains(key),
    };
    let mut mapped = Mapped::default();
    let mut uses = Vec::new();
    for process in processes(look)? {
        let mut unseen = |what: PathBuf, error: io::Error| {
            if !process.is_gone(&error) {
                blind.push(sight(&what, &error));
            }
        };
        if look.except != Some(process.pid) {
            match descriptors(look, &process, interesting) {
                Ok(found) => uses.extend(found),
                Err(error) => unseen(process.dir.join("fd"), error),
            }
        }
        match maps(&process) {
            Ok(maps) => uses.extend(mapped.of(look, &process, &maps, interesting, &mut unseen)),
            Err(error) => unseen(process.dir.join("maps"), error),
        }
    }
    Ok(uses)
}

fn descriptors(
    look: &Look,
    process: &Process,
    interesting: impl Fn(&DeviceKey) -> bool,
) -> io::Result<Vec<(DeviceKey, Holder)>> {
    let mut found = Vec::new();
    for link in fs::read_dir(process.dir.join("fd"))? {
        let link = link?.path();
        // The link is followed: its text may be of another mount namespace. What was closed meanwhile is not open.
        let Some(key) = (look.key_of)(&link).ok().flatten().filter(&interesting) else { continue };
        // The link's own permissions are those of the descriptor.
        let writes = fs::symlink_metadata(&link).is_ok_and(|meta| meta.mode() & 0o200 != 0);
        found.push((key, Holder::Opened { pid: process.pid, command: process.command(), writes }));
    }
    Ok(found)
}

fn maps(process: &Process) -> io::Result<MemoryMaps> {
    let text = fs::read(process.dir.join("maps"))?;
    MemoryMaps::from_read(text.as_slice()).map_err(io::Error::other)
}

/// What is behind the inodes that are mapped. A mapping of a device names the inode of its node, not the device,
/// and most mappings are of the same few libraries: each is looked at once.
#[derive(Debug, Default)]
struct Mapped(HashMap<((i32, i32), u64), Option<DeviceKey>>);

impl Mapped {
    fn of(
        &mut self,
        look: &Look,
        process: &Process,
        maps: &MemoryMaps,
        interesting: impl Fn(&DeviceKey) -> bool,
        unseen: &mut impl FnMut(PathBuf, io::Error),
    ) -> Vec<(DeviceKey, Holder)> {
        let mut found = Vec::new();
        for map in maps.0.iter().filter(|map| map.inode != 0) {
            let key = match self.0.get(&(map.dev, map.inode)) {
                Some(key) => *key,
                None => match behind(look, process, map) {
                    Ok(Behind::Is(key)) => *self.0.entry((map.dev, map.inode)).or_insert(key),
                    Ok(Behind::Gone) => None,
                    Err(error) => {
                        unseen(map_file(process, map), error);
                        None
                    }
                },
            };
            let writes = map.perms.contains(MMPermissions::SHARED | MMPermissions::WRITE);
            let by = || Holder::Mapped { pid: process.pid, command: process.command(), writes };
            found.extend(key.filter(&interesting).map(|key| (key, by())));
        }
        found
    }
}

/// What a mapping leads to.
#[derive(Debug)]
enum Behind {
    /// This; none: no volume.
    Is(Option<DeviceKey>),
    /// It was unmapped meanwhile.
    Gone,
}

/// The link that leads to what is mapped, also when its descriptor is closed and its name gone.
fn map_file(process: &Process, map: &MemoryMap) -> PathBuf {
    let (start, end) = map.address;
    process.dir.join(format!("map_files/{start:x}-{end:x}"))
}

fn behind(look: &Look, process: &Process, map: &MemoryMap) -> io::Result<Behind> {
    let error = match (look.key_of)(&map_file(process, map)) {
        Ok(key) => return Ok(Behind::Is(key)),
        Err(error) => error,
    };
    let other_links = || entries(&process.dir.join("map_files")).is_ok_and(|links| !links.is_empty());
    if super::is_absent(&error) && other_links() {
        return Ok(Behind::Gone);
    }
    // A kernel without these links: the name, if it leads to the same inode.
    let MMapPath::Path(path) = &map.pathname else { return Ok(Behind::Is(None)) };
    let inside = process.dir.join("root").join(path.strip_prefix("/").unwrap_or(path));
    match fs::metadata(&inside) {
        Ok(meta) if meta.ino() == map.inode => (look.key_of)(&inside).map(Behind::Is),
        Ok(_) | Err(_) => Err(error),
    }
}
