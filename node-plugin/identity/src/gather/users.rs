//! Mounts of every mount namespace, file systems over several devices, swap, locks.

use super::processes::{Process, processes};
use super::stack::{Stack, sight};
use super::{GatherError, Look, entries, number_in};
use crate::facts::{Blind, DeviceKey, Holder};
use crate::sysfs::DeviceNumber;
use procfs::process::MountInfo;
use procfs::{FromBufRead, LockType, Locks};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

type Uses = Vec<(DeviceKey, Holder)>;

pub(super) fn read(look: &Look, stack: &Stack, blind: &mut Vec<Blind>) -> Result<Uses, GatherError> {
    let mut uses = mounts(look, blind)?;
    uses.extend(members(look, blind));
    uses.extend(swaps(look, blind));
    // Mounts of what is no block device are nobody's business here.
    uses.retain(|(key, _)| match key {
        DeviceKey::Block(number) => stack.dir(*number).is_some(),
        DeviceKey::File { .. } => true,
    });
    Ok(uses)
}

/// One process of each mount namespace, ours first.
fn mounts(look: &Look, blind: &mut Vec<Blind>) -> Result<Uses, GatherError> {
    let own = fs::read_link(look.roots.proc.join("self/ns/mnt")).ok();
    let mut namespaces: BTreeMap<PathBuf, Vec<Process>> = BTreeMap::new();
    for process in processes(look)? {
        match fs::read_link(process.dir.join("ns/mnt")) {
            Ok(namespace) => namespaces.entry(namespace).or_default().push(process),
            Err(error) if process.is_gone(&error) => {}
            Err(error) => blind.push(sight(&process.dir.join("ns/mnt"), &error)),
        }
    }
    let mut uses = Vec::new();
    for (namespace, residents) in namespaces {
        let mut failed = None;
        for process in residents {
            let by = (own.as_ref() != Some(&namespace)).then_some(process.pid);
            let file = process.dir.join("mountinfo");
            match fs::read(&file) {
                Ok(text) => {
                    uses.extend(mounted(look, &process, &text, by, blind));
                    failed = None;
                    break;
                }
                // Another process of that namespace may live on.
                Err(error) if process.is_gone(&error) => {}
                Err(error) => failed = Some(sight(&file, &error)),
            }
        }
        blind.extend(failed);
    }
    Ok(uses)
}

fn mounted(look: &Look, process: &Process, text: &[u8], by: Option<u32>, blind: &mut Vec<Blind>) -> Uses {
    let text = String::from_utf8_lossy(text);
    let mut uses = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        // Line by line: one that the library does not understand must not hide the others.
        let Ok(mount) = MountInfo::from_line(line) else {
            let what = format!("a line of {}", process.dir.join("mountinfo").display());
            blind.push(Blind { what, why: format!("it is no mount: {line:.80}") });
            continue;
        };
        let at = unescape(&mount.mount_point.to_string_lossy());
        let mut keys: Vec<DeviceKey> =
            DeviceNumber::parse(&mount.majmin).map(DeviceKey::Block).into_iter().collect();
        // File systems over several devices have a number of their own: look at the source too.
        let source = mount.mount_source.filter(|source| source.starts_with('/'));
        keys.extend(source.and_then(|source| source_key(look, process, &unescape(&source))));
        keys.dedup();
        uses.extend(keys.into_iter().map(|key| (key, Holder::Mounted { at: at.clone(), by })));
    }
    uses
}

/// The source of a mount, as its namespace names it.
fn source_key(look: &Look, process: &Process, source: &Path) -> Option<DeviceKey> {
    let inside = process.dir.join("root").join(source.strip_prefix("/").ok()?);
    let block =
        |path: &Path| (look.key_of)(path).ok().flatten().filter(|key| matches!(key, DeviceKey::Block(_)));
    block(&inside).or_else(|| block(&look.own_path(source)))
}

/// The devices of mounted file systems over several devices: mountinfo names one of them.
fn members(look: &Look, blind: &mut Vec<Blind>) -> Uses {
    let mut uses = Vec::new();
    for (kind, list) in [("btrfs", "devices"), ("bcachefs", "")] {
        let systems = entries(&look.roots.sys.join("fs").join(kind)).unwrap_or_else(|error| {
            blind.push(sight(&look.roots.sys.join("fs").join(kind), &error));
            Vec::new()
        });
        for system in systems {
            let of = format!("{kind}:{}", system.file_name().unwrap_or_default().to_string_lossy());
            let devices = entries(&system.join(list)).unwrap_or_default();
            // btrfs links to the device, bcachefs to it from within.
            let number = |dir: &PathBuf| number_in(dir).or_else(|| number_in(&dir.join("block")));
            let numbers = devices.iter().filter_map(number);
            uses.extend(numbers.map(|number| (DeviceKey::Block(number), Holder::Member { of: of.clone() })));
        }
    }
    uses
}

/// `/proc/swaps`; the library has no reader for it.
fn swaps(look: &Look, blind: &mut Vec<Blind>) -> Uses {
    let file = look.roots.proc.join("swaps");
    let text = fs::read(&file).unwrap_or_else(|error| {
        // Without support for swap there is no such file.
        if !super::is_absent(&error) {
            blind.push(sight(&file, &error));
        }
        Vec::new()
    });
    let text = String::from_utf8_lossy(&text);
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let mut uses = Vec::new();
    for path in paths.map(unescape) {
        match look.resolve(&path) {
            Ok(Some(key)) => uses.push((key, Holder::Swap)),
            Ok(None) => {}
            Err(error) => blind.push(sight(&path, &error)),
        }
    }
    uses
}

/// Who has locked a file as a whole (`flock`, locks of open file descriptions).
pub(super) fn lockers(look: &Look, key: DeviceKey, blind: &mut Vec<Blind>) -> Vec<Holder> {
    let DeviceKey::File { on, inode } = key else { return Vec::new() };
    let file = look.roots.proc.join("locks");
    let locks = fs::File::open(&file).map_err(|error| error.to_string()).and_then(|file| {
        Locks::from_buf_read(std::io::BufReader::new(file)).map_err(|error| error.to_string())
    });
    let locks = locks.unwrap_or_else(|why| {
        blind.push(Blind { what: file.display().to_string(), why });
        Locks(Vec::new())
    });
    let ours = |lock: &&procfs::Lock| {
        let number = DeviceNumber { major: lock.devmaj, minor: lock.devmin };
        matches!(lock.lock_type, LockType::FLock | LockType::ODF) && number == on && lock.inode == inode
    };
    let pid = |lock: &procfs::Lock| lock.pid.and_then(|pid| u32::try_from(pid).ok());
    locks.0.iter().filter(ours).map(|lock| Holder::Locked { pid: pid(lock).unwrap_or(0) }).collect()
}

/// Undoes the kernel's octal escapes of blanks in paths.
fn unescape(path: &str) -> PathBuf {
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(plain).into()
}
