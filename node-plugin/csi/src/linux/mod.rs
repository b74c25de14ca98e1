//! The world as Linux has it: system calls for mounts, `/proc` for the mount table, one small file per volume.

mod files;
mod mount_table;
mod options;

use crate::handle::VolumeHandle;
use crate::path::PlacePath;
use crate::record::{Now, Record};
use crate::refusal::Refusal;
use crate::world::{Device, Effect, FileSystem, Mounted, Node, Place, Usage, World};
use files::RecordFiles;
use mount_table::Line;
use rustix::fs::{AtFlags, FileType, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;
use umbra_identity::gather::Machine;
use umbra_identity::{Contents, DeviceNumber};
use umbra_platform::value::DevicePath;

/// The machine that this process runs on.
#[derive(Debug)]
pub struct Linux {
    boot: String,
    files: RecordFiles,
}

/// What was tried, and what the kernel said.
fn failed(what: String, error: impl Into<io::Error>) -> Refusal {
    Refusal::Failed { what: what.into(), problem: error.into().to_string().into() }
}

impl Linux {
    /// With the ledger in a folder of the state directory, which this process has to itself.
    ///
    /// # Errors
    /// If the folder cannot be made or another process has it; if the kernel does not say which start this is.
    pub fn new(state_dir: &Path) -> Result<Self, Refusal> {
        let boot = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot, files: RecordFiles::open(&state_dir.join("volumes"))? })
    }
}

fn read(path: &str) -> Result<String, Refusal> {
    fs::read_to_string(path).map_err(|error| failed(format!("read {path}"), error))
}

/// The path with the links on its way followed; not its last part, which may not be there yet, and is no link if it is ours.
fn resolved(path: &PlacePath) -> Result<PlacePath, Refusal> {
    let cannot = |error: io::Error| failed(format!("follow {path}"), error);
    let (mut parent, mut rest) = (path.as_path(), Vec::new());
    let mut clean = loop {
        let (Some(up), Some(name)) = (parent.parent(), parent.file_name()) else { return Ok(path.clone()) };
        rest.push(name);
        parent = up;
        match fs::canonicalize(parent) {
            Ok(clean) => break clean,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot(error)),
        }
    };
    clean.extend(rest.into_iter().rev());
    let text = clean.into_os_string().into_string();
    let unreadable = || cannot(io::Error::new(io::ErrorKind::InvalidData, "its links lead to no text"));
    text.ok().and_then(|text| text.parse().ok()).ok_or_else(unreadable)
}

fn node(path: &Path) -> Node {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = match rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::TYPE) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Node::Absent,
        Err(_) => return Node::Other,
    };
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Node::Directory,
        FileType::RegularFile => Node::File,
        FileType::BlockDevice => {
            Node::Block(DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor })
        }
        _ => Node::Other,
    }
}

/// The block device of a mount. Some file systems have a number of their own instead, and say what they are mounted from.
fn device_of(line: &Line) -> Option<DeviceNumber> {
    if line.device.major != 0 {
        return Some(line.device);
    }
    match node(&fs::canonicalize(&line.source).ok()?) {
        Node::Block(number) => Some(number),
        _ => None,
    }
}

impl World for Linux {
    fn now(&self) -> Result<Now, Refusal> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
        Ok(Now { boot: self.boot.clone(), uptime: Duration::new(seconds, nanoseconds) })
    }

    fn place(&self, path: &PlacePath) -> Result<Place, Refusal> {
        let path = resolved(path)?;
        let table = fs::read("/proc/self/mountinfo")
            .map_err(|error| failed("read /proc/self/mountinfo".into(), error))?;
        let upon = mount_table::lines(&table).filter(|line| line.at == path.as_path());
        let mounts = upon
            .map(|line| Mounted {
                device: device_of(&line),
                kind: line.kind.clone(),
                read_only: line.read_only,
            })
            .collect();
        let node = node(path.as_path());
        Ok(Place { path, node, mounts })
    }

    fn device(&self, path: &DevicePath) -> Result<Option<Device>, Refusal> {
        let cannot = |error| failed(format!("look at {path}"), error);
        let own = match fs::canonicalize(path) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        let Node::Block(number) = node(&own) else { return Ok(None) };
        let size = fs::read_to_string(format!("/sys/dev/block/{number}/size"));
        let sectors: u64 = size.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let device = Device { path: own, number, size: sectors.saturating_mul(512) };
        Ok(Some(device).filter(|device| device.size > 0))
    }

    fn contents(&self, device: &Device) -> Contents {
        Machine::read_contents(&device.path, device.size)
    }

    fn usage(&self, path: &Path) -> Result<Usage, Refusal> {
        if let Node::Block(number) = node(path) {
            let file = format!("/sys/dev/block/{number}/size");
            let sectors: u64 = read(&file)?.trim().parse().unwrap_or_default();
            let bytes = sectors.saturating_mul(512);
            return Ok(Usage { bytes, bytes_free: 0, bytes_available: 0, inodes: None });
        }
        let found = rustix::fs::statvfs(path)
            .map_err(|errno| failed(format!("ask how full {} is", path.display()), errno))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Usage {
            bytes: bytes(found.f_blocks),
            bytes_free: bytes(found.f_bfree),
            bytes_available: bytes(found.f_bavail),
            inodes: Some((found.f_files, found.f_ffree)),
        })
    }

    fn act(&self, effect: &Effect) -> Result<(), Refusal> {
        tracing::debug!(?effect, "act");
        match effect {
            Effect::MakeDirectory(at) => make_directory(at),
            Effect::MakeFile(at) => make_file(at),
            Effect::Mount { device, file_system, at } => mount(device, file_system, at),
            Effect::Bind { from, at } => rustix::mount::mount_bind(from, at.as_path())
                .map_err(|errno| failed(format!("bind {} to {at}", from.display()), errno)),
            Effect::ForbidWrites(at) => forbid_writes(at),
            Effect::Unmount(at) => match rustix::mount::unmount(at.as_path(), UnmountFlags::NOFOLLOW) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
                Err(Errno::BUSY) => Err(Refusal::InUse { path: at.clone() }),
                Err(errno) => Err(failed(format!("unmount {at}"), errno)),
            },
            Effect::Remove(at) => remove(at),
        }
    }

    fn kept(&self, volume: VolumeHandle) -> Result<Option<Record>, Refusal> {
        self.files.read(volume)
    }

    fn keep(&self, volume: VolumeHandle, record: &Record) -> Result<(), Refusal> {
        if record.is_empty() { self.files.remove(volume) } else { self.files.write(volume, record) }
    }

    fn volumes(&self) -> Result<Vec<VolumeHandle>, Refusal> {
        self.files.list()
    }
}

fn make_directory(at: &PlacePath) -> Result<(), Refusal> {
    match DirBuilder::new().mode(0o750).create(at.as_path()) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists && node(at.as_path()) == Node::Directory =>
        {
            Ok(())
        }
        made => made.map_err(|error| failed(format!("make the directory {at}"), error)),
    }
}

fn make_file(at: &PlacePath) -> Result<(), Refusal> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    let made = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .custom_flags(no_follow)
        .open(at.as_path());
    made.map(drop).map_err(|error| failed(format!("make the file {at}"), error))
}

fn mount(device: &Path, file_system: &FileSystem, at: &PlacePath) -> Result<(), Refusal> {
    let (mut flags, data) = options::parse(&file_system.options);
    if file_system.read_only {
        flags |= MountFlags::RDONLY;
    }
    let what = || format!("mount {} of {} at {at}", file_system.kind, device.display());
    let data = data.map(std::ffi::CString::new).transpose().map_err(|error| failed(what(), error))?;
    rustix::mount::mount(device, at.as_path(), file_system.kind, flags, data.as_deref())
        .map_err(|errno| failed(what(), errno))
}

/// A remount of a bind sets all its flags, so those that it has are said again.
fn forbid_writes(at: &PlacePath) -> Result<(), Refusal> {
    let cannot = |errno| failed(format!("make {at} read-only"), errno);
    let has = rustix::fs::statvfs(at.as_path()).map_err(cannot)?.f_flag;
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(found, _)| has.contains(*found)).map(|(_, flag)| flag);
    let flags = kept.fold(MountFlags::BIND | MountFlags::RDONLY, |flags, flag| flags | flag);
    rustix::mount::mount_remount(at.as_path(), flags, "").map_err(cannot)
}

/// Only what is empty: nothing of anybody's goes with it.
fn remove(at: &PlacePath) -> Result<(), Refusal> {
    let path = at.as_path();
    let removed = match fs::symlink_metadata(path) {
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir(path),
        Ok(found) if found.is_file() && found.size() == 0 => fs::remove_file(path),
        Ok(_) => {
            let found = "a file that is not empty, or none at all";
            return Err(Refusal::Occupied { path: at.clone(), found: found.into() });
        }
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(format!("remove {at}"), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_on_the_way_are_followed_and_what_is_not_there_yet_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("it is there");
        fs::create_dir(root.join("real")).expect("made");
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).expect("made");
        let place =
            |text: &str| -> PlacePath { format!("{}/{text}", root.display()).parse().expect("a path") };
        assert_eq!(resolved(&place("link/a")).expect("followed"), place("real/a"));
        assert_eq!(resolved(&place("link/a/b")).expect("followed"), place("real/a/b"));
        // The last part is looked at as it is: a link is not a place of ours.
        assert_eq!(resolved(&place("link")).expect("followed"), place("link"));
        assert_eq!(node(place("link").as_path()), Node::Other);
        let top: PlacePath = "/no-such-folder".parse().expect("a path");
        assert_eq!(resolved(&top).expect("followed"), top);
        assert_eq!(node(top.as_path()), Node::Absent);
        assert_eq!(node(Path::new("/dev/null")), Node::Other);
    }

    #[test]
    fn only_what_is_empty_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |text: &str| -> PlacePath {
            format!("{}/{text}", folder.path().display()).parse().expect("a path")
        };
        let (file, directory) = (place("file"), place("directory"));
        make_file(&file).expect("made");
        make_file(&file).expect("it is there");
        make_directory(&directory).expect("made");
        make_directory(&directory).expect("it is there");
        make_directory(&file).expect_err("a file is in the way");
        fs::write(file.as_path(), "x").expect("written");
        fs::write(directory.as_path().join("x"), "x").expect("written");
        assert_eq!(remove(&file).expect_err("not empty").reason(), "OCCUPIED");
        assert_eq!(remove(&directory).expect_err("not empty").reason(), "FAILED");
        fs::write(file.as_path(), "").expect("written");
        fs::remove_file(directory.as_path().join("x")).expect("removed");
        for place in [&file, &directory, &file, &directory] {
            remove(place).expect("empty, or gone");
            assert_eq!(node(place.as_path()), Node::Absent);
        }
    }
}
