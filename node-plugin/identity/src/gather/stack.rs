//! Which block devices there are, and which stands on which.

use super::{GatherError, Look, entries, is_absent, number_in};
use crate::facts::{Blind, DeviceKey, Layer};
use crate::sysfs::{BlockDir, DeviceNumber, text};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
struct Node {
    dir: BlockDir,
    kernel_name: String,
    name: String,
}

/// All block devices, with the arrows from each to what it stands on.
#[derive(Clone, Debug, Default)]
pub(super) struct Stack {
    nodes: BTreeMap<DeviceNumber, Node>,
    /// Upper, lower.
    arrows: BTreeSet<(DeviceKey, DeviceKey)>,
    files: BTreeMap<DeviceKey, String>,
}

impl Stack {
    pub(super) fn read(look: &Look, blind: &mut Vec<Blind>) -> Result<Self, GatherError> {
        let list = look.roots.sys.join("dev/block");
        let mut stack = Self::default();
        let unreadable = |source| GatherError::Unreadable { what: list.clone(), source };
        for entry in std::fs::read_dir(&list).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            let Some(number) = name.to_str().and_then(DeviceNumber::parse) else { continue };
            match BlockDir::of_in(&look.roots, number) {
                Ok(dir) => stack.add(number, dir),
                Err(error) if is_absent(&error) => {}
                Err(error) => blind.push(sight(&list.join(name), &error)),
            }
        }
        let numbers: Vec<DeviceNumber> = stack.nodes.keys().copied().collect();
        for number in numbers {
            stack.add_arrows(look, number, blind);
        }
        Ok(stack)
    }

    fn add(&mut self, number: DeviceNumber, dir: BlockDir) {
        // A slash in a name, as of cciss, is an exclamation mark here.
        let kernel_name = dir.dir.file_name().unwrap_or_default().to_string_lossy().replace('!', "/");
        let name = text(&dir.dir, "dm/name").unwrap_or_else(|| kernel_name.clone());
        self.nodes.insert(number, Node { dir, kernel_name, name });
    }

    fn add_arrows(&mut self, look: &Look, number: DeviceNumber, blind: &mut Vec<Blind>) {
        let Some(node) = self.nodes.get(&number) else { return };
        let dir = node.dir.clone();
        let own = DeviceKey::Block(number);
        if dir.partition.is_some()
            && let Some(disk) = number_in(&dir.disk)
        {
            self.arrows.insert((own, DeviceKey::Block(disk)));
        }
        for (list, above) in [("holders", true), ("slaves", false)] {
            let others = entries(&dir.dir.join(list)).unwrap_or_else(|error| {
                blind.push(sight(&dir.dir.join(list), &error));
                Vec::new()
            });
            for other in others.iter().filter_map(|other| number_in(other)).map(DeviceKey::Block) {
                self.arrows.insert(if above { (other, own) } else { (own, other) });
            }
        }
        if let Some(file) = text(&dir.dir, "loop/backing_file") {
            self.add_backing(look, own, &file, blind);
        }
    }

    /// What is behind a loop device, by the name that the kernel shows: a path of the mount namespace in which it was
    /// set up.
    fn add_backing(&mut self, look: &Look, own: DeviceKey, file: &str, blind: &mut Vec<Blind>) {
        let by_name = || {
            // A device node of another mount namespace: its name is all there is, and is believed.
            self.number_of(Path::new(file).file_name()?.to_str()?).map(DeviceKey::Block)
        };
        let key = match look.resolve(Path::new(file)) {
            Ok(Some(key)) => Some(key),
            Ok(None) => by_name(),
            Err(error) => by_name().or_else(|| {
                // A file that was deleted, or is elsewhere: its file system is mounted, and seen by that. A device
                // under a name of its own would not be.
                if !file.ends_with(" (deleted)") {
                    blind.push(sight(Path::new(file), &error));
                }
                None
            }),
        };
        let Some(key) = key else { return };
        self.arrows.insert((own, key));
        if let DeviceKey::File { on, .. } = key {
            self.files.insert(key, file.to_owned());
            self.arrows.insert((key, DeviceKey::Block(on)));
        }
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = DeviceNumber> {
        self.nodes.keys().copied()
    }

    /// Files behind loop devices.
    pub(super) fn files(&self) -> impl Iterator<Item = DeviceKey> {
        self.files.keys().copied()
    }

    pub(super) fn dir(&self, number: DeviceNumber) -> Option<&BlockDir> {
        self.nodes.get(&number).map(|node| &node.dir)
    }

    pub(super) fn kernel_name(&self, number: DeviceNumber) -> Option<&str> {
        self.nodes.get(&number).map(|node| node.kernel_name.as_str())
    }

    pub(super) fn number_of(&self, kernel_name: &str) -> Option<DeviceNumber> {
        self.nodes.iter().find(|(_, node)| node.kernel_name == kernel_name).map(|(number, _)| *number)
    }

    pub(super) fn layer(&self, key: DeviceKey) -> Option<Layer> {
        match key {
            DeviceKey::Block(number) => self.nodes.get(&number).map(|node| Layer {
                key,
                name: node.name.clone(),
                partition: node.dir.partition.is_some(),
            }),
            DeviceKey::File { .. } => {
                self.files.get(&key).map(|name| Layer { key, name: name.clone(), partition: false })
            }
        }
    }

    /// The disk of a partition.
    pub(super) fn disk_of(&self, key: DeviceKey) -> Option<Layer> {
        let DeviceKey::Block(number) = key else { return None };
        let dir = self.dir(number)?;
        dir.partition.and_then(|_| self.layer(DeviceKey::Block(number_in(&dir.disk)?)))
    }

    pub(super) fn straight_above(&self, key: DeviceKey) -> Vec<Layer> {
        self.arrows
            .iter()
            .filter(|(_, lower)| *lower == key)
            .filter_map(|(upper, _)| self.layer(*upper))
            .collect()
    }

    /// Everything above, up to the top.
    pub(super) fn above(&self, key: DeviceKey) -> Vec<Layer> {
        self.reach(key, |(upper, lower), from| (*lower == from).then_some(*upper))
    }

    /// Everything below, down to the disks.
    pub(super) fn below(&self, key: DeviceKey) -> Vec<Layer> {
        self.reach(key, |(upper, lower), from| (*upper == from).then_some(*lower))
    }

    fn reach(
        &self,
        from: DeviceKey,
        step: impl Fn(&(DeviceKey, DeviceKey), DeviceKey) -> Option<DeviceKey>,
    ) -> Vec<Layer> {
        let mut seen = BTreeSet::from([from]);
        let (mut todo, mut found) = (vec![from], Vec::new());
        while let Some(at) = todo.pop() {
            for next in self.arrows.iter().filter_map(|arrow| step(arrow, at)) {
                if seen.insert(next) {
                    todo.push(next);
                    found.extend(self.layer(next));
                }
            }
        }
        found.sort();
        found
    }
}

impl Look {
    /// A path of our own mount namespace.
    pub(super) fn own_path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix("/dev") {
            Ok(below) => self.roots.dev.join(below),
            Err(_) => path.to_owned(),
        }
    }

    /// What a path in a file of the kernel leads to. It is mostly one of the host's mount namespace, that of its first
    /// process, which a container does not have.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<Option<DeviceKey>> {
        let of_host = self.roots.proc.join("1/root").join(path.strip_prefix("/").unwrap_or(path));
        (self.key_of)(&of_host).or_else(|_| (self.key_of)(&self.own_path(path)))
    }
}

/// Something that could not be looked at.
pub(super) fn sight(what: &Path, error: &io::Error) -> Blind {
    Blind { what: what.display().to_string(), why: error.to_string() }
}
