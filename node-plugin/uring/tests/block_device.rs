//! The store and its claims on a block device: a loop device, where the host has them and we may make one.
//! Elsewhere each test says that it was skipped, and why; the virtual machines of `e2e` run the same on
//! real disks.

mod common;

use common::oracle::run_against_oracle;
use common::{Scratch, fingerprint, op, run, store, write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use umbra_engine::ByteRange;
use umbra_store::{BlockStore, StoreOpKind};
use umbra_uring::{Device, DeviceKind, Holder, OpenError, Role, StoreLimits, Used};

const SIZE: u64 = 8 << 20;
const LONG: Duration = common::CLAIM_WAIT;

/// A loop device on a scratch file, detached when dropped.
struct Loop {
    path: PathBuf,
    _file: Scratch,
}

impl Loop {
    /// None, with a line that says why, where there can be none.
    fn new(options: &[&str]) -> Option<Self> {
        let file = Scratch::new(SIZE);
        let made = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file.path()).output();
        match made {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).expect("a path").trim().into();
                Some(Self { path, _file: file })
            }
            Ok(output) => {
                eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                eprintln!("skipped: no losetup: {error}");
                None
            }
        }
    }

    fn claim(&self) -> Device {
        // Right after it was attached, udev or a partition scan may hold it for a moment.
        Device::open_claimed(&self.path, Role::ReadWrite, Some(LONG)).expect("claim the loop device")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

fn read_all(device: &Device) -> Vec<u8> {
    let mut all = umbra_store::AlignedBuf::zeroed(usize::try_from(SIZE).expect("small"));
    device.read_exact_at(0, &mut all).expect("read the device");
    all.to_vec()
}

#[test]
fn random_operations_agree_with_a_byte_array() {
    for seed in 0..4 {
        let Some(disk) = Loop::new(&[]) else { return };
        let oracle = run_against_oracle(disk.claim(), seed, StoreLimits::default());
        assert!(read_all(&disk.claim()) == oracle, "seed {seed}: the device holds something else");
    }
}

#[test]
fn a_discard_reaches_the_device() {
    let Some(disk) = Loop::new(&[]) else { return };
    let device = disk.claim();
    if !device.capabilities().discard {
        eprintln!("skipped: the loop device has no discard");
        return;
    }
    let (mut store, slot) = store(device);
    assert_eq!(run(&mut store, write(1, slot, 0, &[9; 1 << 20], true)).result, Ok(()));
    let range = ByteRange::new(4096, 65536);
    assert_eq!(run(&mut store, op(2, slot, StoreOpKind::Discard(range))).result, Ok(()));
    eprintln!(
        "entries beyond the first (0 where the kernel has the discard command): {}",
        store.stats().continued
    );
    let device = store.remove_device(slot).unwrap();
    let bytes = read_all(&device);
    assert_eq!((bytes[4095], bytes[4096], bytes[4096 + 65535], bytes[4096 + 65536]), (9, 0, 0, 9));
}

#[test]
fn a_claimed_device_is_refused_to_others_but_not_to_mere_openers() {
    let Some(disk) = Loop::new(&[]) else { return };
    let first = disk.claim();
    assert!(Device::open(&disk.path, Role::ReadOnly).unwrap_err().is_in_use());
    // That is why openers are looked for, by umbra-identity.
    std::fs::File::open(&disk.path).unwrap();
    drop(first);
    disk.claim();
}

#[test]
fn the_claim_of_a_dropped_store_falls_with_its_last_write() {
    let Some(disk) = Loop::new(&[]) else { return };
    let ring = common::ring();
    let limits = StoreLimits { drop_wait: Duration::ZERO, ..StoreLimits::default() };
    let mut store = umbra_uring::UringStore::new(ring.clone(), umbra_uring::Owner::new(1), limits);
    let slot = store.add_device(disk.claim()).unwrap();
    for token in 0..SIZE >> 16 {
        store.submit(write(token, slot, token << 16, &[7; 1 << 16], true));
    }
    store.poll(&mut Vec::new());
    drop(store);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| disk.claim());
        while !next.is_finished() {
            ring.borrow_mut().submit_and_wait(1, Some(Duration::from_millis(1))).unwrap();
            ring.borrow_mut().drain_completions(&mut Vec::new());
        }
        assert!(read_all(&next.join().expect("the thread ends")).iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_mounted_device_is_refused_with_its_mount_point() {
    let Some(disk) = Loop::new(&[]) else { return };
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mount point {}", std::process::id()));
    std::fs::create_dir_all(&at).unwrap();
    let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let mounted = ran(Command::new("mkfs.ext4").arg("-q").arg(&disk.path))
        && ran(Command::new("mount").arg(&disk.path).arg(&at));
    if !mounted {
        eprintln!("skipped: no mkfs.ext4, or no permission to mount");
        return;
    }
    let error = Device::open(&disk.path, Role::ReadWrite);
    assert!(ran(Command::new("umount").arg(&at)));
    std::fs::remove_dir(&at).unwrap();
    let error = error.unwrap_err();
    let OpenError::InUse { holders, .. } = &error else { panic!("{error}") };
    assert_eq!(holders, &[Used { by: Holder::Mounted { at: at.clone(), by: None }, through: None }]);
    assert!(error.to_string().contains("unmount it"), "{error}");
}

#[test]
fn a_read_only_device_is_refused_for_writing() {
    let Some(disk) = Loop::new(&["--read-only"]) else { return };
    let error = Device::open_claimed(&disk.path, Role::ReadWrite, Some(LONG)).unwrap_err();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    let device = Device::open_claimed(&disk.path, Role::ReadOnly, Some(LONG)).unwrap();
    assert!(device.capabilities().read_only);
}

#[test]
fn a_loop_device_has_a_queue_but_no_identity() {
    let Some(disk) = Loop::new(&["--sector-size", "4096"]) else { return };
    let device = disk.claim();
    let capabilities = device.capabilities();
    assert_eq!((capabilities.size, capabilities.logical_block), (SIZE, 4096));
    let identity = device.identity();
    assert_eq!((identity.kind, identity.strong), (DeviceKind::Loop, false));
    assert!(device.number().is_some() && device.is_block_device());
    assert_eq!(fingerprint(&device).size, SIZE);
}
