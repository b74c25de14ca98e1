//! The lab itself, on real machines: `cargo test -p umbra-lab --test machine -- --ignored`.
//!
//! Ignored by default because each boots a machine and the first of all downloads one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use umbra_lab::{Cache, Disk, Signal, Vm};

const SECOND: Duration = Duration::from_secs(1);

#[test]
#[ignore = "boots a machine"]
fn commands_jobs_and_files() -> Result<()> {
    let vm = Vm::builder("lab-commands").boot()?;
    let output = vm.sh("echo out; echo err >&2; exit 3").output()?;
    assert_eq!((output.text(), output.stderr.trim(), output.status.code), ("out", "err", 3));
    assert!(vm.sh("exit 3").run().is_err());
    assert!(vm.cmd(&["/no/such/program"]).output().is_err());
    assert_eq!(vm.sh("id -un").user("postgres").run()?.text(), "postgres");
    assert_eq!(vm.sh("echo $COLOUR").env("COLOUR", "red").run()?.text(), "red");

    let slow = vm.sh("sleep 60 & sleep 60").timeout(SECOND).output()?;
    assert!(slow.status.timed_out && slow.took < SECOND * 20, "{slow:?}");

    let job = vm.spawn("sh -c 'while :; do echo tick; sleep 0.2; done'")?;
    job.wait_for("tick\ntick", SECOND * 20)?;
    assert_eq!(vm.sh("echo meanwhile").run()?.text(), "meanwhile");
    job.kill(Signal::KILL)?;
    assert_eq!(job.wait(SECOND * 20)?.status.signal, 9);

    let alone = vm.spawn("sleep 300")?;
    let name = format!("sleep 1; cat /proc/{}/comm", alone.pid());
    assert_eq!(vm.sh(&name).run()?.text(), "sleep");
    let daemon = vm.sh("sleep 300 & echo started").run()?;
    assert_eq!(daemon.text(), "started", "a daemon that keeps the output open does not keep the step open");

    let many: Vec<u8> =
        (0..3_000_000_u32).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[1]).collect();
    let private = tempfile::tempdir()?;
    let folder = private.path();
    fs::write(folder.join("there"), &many)?;
    vm.put(folder.join("there"), "/tmp/file")?;
    assert_eq!(vm.sh("stat -c %s /tmp/file").run()?.text(), "3000000");
    vm.get("/tmp/file", folder.join("back"))?;
    assert!(fs::read(folder.join("back"))? == many);
    assert_eq!(vm.sh("cat /tmp/file").run()?.stdout.len(), String::from_utf8_lossy(&many).len());
    assert!(vm.get("/no/such/file", folder.join("none")).is_err());
    assert!(vm.put(folder.join("there"), "/no/such/folder/file").is_err());
    vm.finish()
}

#[test]
#[ignore = "boots a machine"]
fn disks_are_what_they_were_ordered_to_be() -> Result<()> {
    let vm = Vm::builder("lab-disks")
        .disk(Disk::blank("plain", 64 << 20))
        .disk(Disk::blank("through", 64 << 20).cache(Cache::WriteThrough))
        .disk(Disk::blank("large-blocks", 64 << 20).logical_block(4096))
        .disk(Disk::blank("fixed", 64 << 20).read_only().no_discard())
        .modules(&["dm-delay", "dm-flakey", "null_blk"])
        .boot()?;
    let queue = |disk: &str, file: &str| -> Result<String> {
        let path = format!("cat /sys/block/$(basename $(readlink -f /dev/lab/{disk}))/{file}");
        Ok(vm.sh(&path).run()?.text().to_owned())
    };
    assert_eq!(queue("plain", "queue/write_cache")?, "write back");
    assert_eq!(queue("through", "queue/write_cache")?, "write through");
    assert_eq!(queue("plain", "queue/logical_block_size")?, "512");
    assert_eq!(queue("large-blocks", "queue/logical_block_size")?, "4096");
    assert_eq!(queue("plain", "size")?, (64 << 20 >> 9).to_string());
    assert_eq!((queue("plain", "ro")?, queue("fixed", "ro")?), ("0".into(), "1".into()));
    assert_ne!(queue("plain", "queue/discard_max_bytes")?, "0");
    assert_eq!(queue("fixed", "queue/discard_max_bytes")?, "0");
    vm.sh("test -c /dev/ublk-control && test -b /dev/nullb0").run()?;
    vm.sh("dmsetup create slow --table \"0 8192 delay /dev/lab/plain 0 20\" && test -b /dev/mapper/slow")
        .run()?;
    vm.sh("fio --name=t --filename=/dev/mapper/slow --direct=1 --ioengine=io_uring --rw=randwrite --bs=4k --number_ios=20")
        .run()?;
    vm.finish()
}

#[test]
#[ignore = "boots a machine"]
fn a_power_cut_loses_memory_and_keeps_what_was_flushed() -> Result<()> {
    let mut vm = Vm::builder("lab-power").disk(Disk::blank("data", 256 << 20)).boot()?;
    vm.sh("mkfs.ext4 -q /dev/lab/data && mount /dev/lab/data /mnt").run()?;
    vm.sh("echo kept > /mnt/flushed; sync; touch /var/gone").run()?;
    vm.sh("echo lost > /mnt/in-page-cache").run()?;
    let load =
        vm.spawn("fio --name=load --directory=/mnt --size=32m --rw=randwrite --time_based --runtime=60")?;
    vm.sh("sleep 1").run()?;
    vm.reset()?;
    assert!(load.wait(SECOND * 5).is_err(), "the job went down with the machine");
    vm.sh("e2fsck -fp /dev/lab/data || test $? = 1").run()?;
    vm.sh("mount /dev/lab/data /mnt && grep kept /mnt/flushed && test ! -e /var/gone").run()?;
    assert!(!vm.sh("grep lost /mnt/in-page-cache").output()?.success());

    let mut off = vm.shut_down()?;
    assert!(off.disk_path("data").is_some_and(Path::exists));
    let disk = off.take_disk("data");
    assert!(disk.is_some() && off.disk_path("data").is_none());
    let vm = off.disk(disk.map_or_else(|| Disk::blank("data", 1), |disk| disk.read_only())).boot()?;
    vm.sh("mount -o ro,noload /dev/lab/data /mnt && grep kept /mnt/flushed").run()?;
    vm.finish()
}

#[test]
#[ignore = "boots a machine"]
fn a_kernel_that_panics_fails_the_run() -> Result<()> {
    let vm = Vm::builder("lab-panic").boot()?;
    assert!(vm.sh("echo c > /proc/sysrq-trigger").output().is_err());
    let complaint = vm.check_kernel().unwrap_err().to_string();
    assert!(complaint.contains("the kernel failed"), "{complaint}");
    vm.discard();
    Ok(())
}
