//! Looking at the machine that the test runs on: its processes, and loop devices where the host has them and we may
//! make one. Elsewhere a test says that it was skipped, and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use umbra_identity::gather::{Look, Machine};
use umbra_identity::proof::{NotFree, prove_path_free};
use umbra_identity::{Contents, DeviceFacts, DeviceKind, Holder};

const SIZE: u64 = 32 << 20;

/// A file or directory, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("identity-{}-{name}", std::process::id()))
    }

    fn file(name: &str) -> Self {
        let path = Self::path(name);
        let file = fs::File::create(&path).expect("create a scratch file");
        file.set_len(SIZE).expect("give it a size");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir(&self.0);
    }
}

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn new(of: &Path) -> Option<Self> {
        match Command::new("losetup").args(["--find", "--show"]).arg(of).output() {
            Ok(made) if made.status.success() => {
                Some(Self(String::from_utf8(made.stdout).expect("a path").trim().into()))
            }
            made => {
                eprintln!("skipped: no loop device: {made:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A process, ended when dropped.
struct Running(Child);

impl Running {
    fn new(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().expect("start a process"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn facts(look: &Look, path: &Path) -> DeviceFacts {
    let machine = Machine::look(look, &[path]).expect("look at this machine");
    machine.facts(path).expect("look at the device").expect("it is there")
}

/// Waits until the device is seen in use as `wanted` says; a process that was just started needs a moment.
fn used(path: &Path, wanted: impl Fn(&str) -> bool) -> String {
    let start = Instant::now();
    loop {
        let found = match prove_path_free(path, std::process::id()) {
            Err(NotFree::Used { used, .. }) => used,
            Ok(()) | Err(NotFree::Unproven { .. }) => Vec::new(),
        };
        let found = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if wanted(&found) || start.elapsed() > Duration::from_secs(30) {
            return found;
        }
    }
}

#[test]
fn an_opener_of_a_file_is_found_and_we_are_left_out() {
    let scratch = Scratch::file("opened");
    let _own = fs::File::open(&scratch.0).unwrap();
    let child = Running::new(Command::new("tail").arg("-f").arg(&scratch.0));
    let wanted = format!("open in process {} (tail)", child.0.id());
    let found = used(&scratch.0, |found| found.contains(&wanted));
    assert!(found.contains(&wanted), "{found}");
    assert!(!found.contains(&format!("process {} ", std::process::id())), "{found}");
}

#[test]
fn a_loop_device_is_what_is_behind_it() {
    let scratch = Scratch::file("behind");
    let Some(disk) = Loop::new(&scratch.0) else { return };
    let look = Look::default().with_contents();
    let (file, device) = (facts(&look, &scratch.0), facts(&look, &disk.0));
    assert_eq!((device.identity.kind, device.capabilities.size), (DeviceKind::Loop, SIZE));
    assert!(device.stands_on(file.key) && file.overlaps(&device));
    assert!(file.used.iter().any(|used| matches!(used.by, Holder::Stacked { .. })), "{:?}", file.used);
    let Contents::Read(content) = &device.contents else { panic!("{}", device.contents) };
    assert_eq!(content.signatures, []);
}

#[test]
fn a_file_system_is_named_and_its_generation_moves_with_a_mount() {
    let scratch = Scratch::file("ext4");
    if !ran(Command::new("mkfs.ext4").arg("-q").arg(&scratch.0)) {
        eprintln!("skipped: no mkfs.ext4");
        return;
    }
    let Some(disk) = Loop::new(&scratch.0) else { return };
    let look = Look::default().with_contents();
    let read = || match facts(&look, &disk.0).contents {
        Contents::Read(content) => *content,
        other => panic!("{other}"),
    };
    let before = read();
    assert_eq!(before.signatures.len(), 1);
    assert_eq!(before.signatures[0].id.kind(), "ext4");
    assert_eq!(before.generation, read().generation, "looking changes nothing");
    let at = Scratch(Scratch::path("ext4-mount"));
    fs::create_dir_all(&at.0).unwrap();
    if !ran(Command::new("mount").arg(&disk.0).arg(&at.0)) {
        eprintln!("skipped: no permission to mount");
        return;
    }
    let mounted = facts(&look, &disk.0).used;
    assert!(ran(Command::new("umount").arg(&at.0)));
    assert!(
        mounted.iter().any(|used| used.by == Holder::Mounted { at: at.0.clone(), by: None }),
        "{mounted:?}"
    );
    assert_ne!(before.generation, read().generation);
}

#[test]
fn a_mount_through_a_loop_device_on_top_in_another_namespace_is_found() {
    let scratch = Scratch::file("nested");
    let Some(disk) = Loop::new(&scratch.0) else { return };
    if !ran(Command::new("mkfs.ext4").arg("-q").arg(&disk.0)) {
        eprintln!("skipped: no mkfs.ext4");
        return;
    }
    let Some(upper) = Loop::new(&disk.0) else { return };
    let at = Scratch(Scratch::path("nested-mount"));
    fs::create_dir_all(&at.0).unwrap();
    let script = format!("mount {} {} && exec sleep 60", upper.0.display(), at.0.display());
    let child = Running::new(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    let wanted = format!("mounted at {} in the mount namespace of process {}", at.0.display(), child.0.id());
    let found = used(&disk.0, |found| found.contains(&wanted));
    assert!(found.contains(&wanted), "{found}");
    assert!(found.contains("part of the device loop"), "{found}");
}
