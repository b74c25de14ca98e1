//! The main job, told as it runs: a database on a raw disk that already holds a file system, a shadow cut under
//! load, mounted, and recovered by a second server; a bad migration, and the restore in place that undoes it; then
//! an independent copy, and an update that moves only what changed.
//!
//! The steps are one shell script, so that it runs the same in the lab's machine and, with `--host`, on a host that
//! has ublk itself. It speaks to `umbra-io ctl` like any user would.

use crate::node::Node;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use umbra_lab::{Disk, Vm, postgres, static_binary};

const MIB: u64 = 1 << 20;
const PG_BYTES: u64 = 512 * MIB;
const SCALE: u32 = 2;
const STORY: &str = include_str!("story.sh");
const LONG: Duration = Duration::from_secs(600);

/// Tells the story in the lab's machine.
///
/// # Errors
/// At the step that failed.
pub fn in_the_lab() -> Result<()> {
    let image = postgres::image(PG_BYTES, SCALE)?;
    let mut vm = Vm::builder("quickstart")
        .memory_mib(2048)
        .disk(Disk::copy_of("pg", image))
        .disk(Disk::blank("shadow", PG_BYTES))
        .disk(Disk::blank("bitmap", 64 * MIB))
        .disk(Disk::blank("copy", PG_BYTES))
        .disk(Disk::blank("copy-bitmap", 64 * MIB))
        .disk(Disk::blank("state", 64 * MIB))
        .boot()?;
    let _node = Node::start(&mut vm)?;
    vm.put_text(STORY, "/tmp/story.sh", 0o755)?;
    let story =
        "sh /tmp/story.sh /dev/lab/pg /dev/lab/shadow /dev/lab/bitmap /dev/lab/copy /dev/lab/copy-bitmap";
    let job = vm.spawn(&format!("{story} 2>/tmp/story.err"))?;
    let told = follow(&job)?;
    ensure!(
        told.contains("THE END"),
        "the story broke off: {}",
        vm.sh("cat /tmp/story.err").output()?.text()
    );
    vm.finish()
}

/// Prints what a job says as it says it; returns all of it.
fn follow(job: &umbra_lab::Job) -> Result<String> {
    let mut shown = 0;
    let deadline = std::time::Instant::now() + LONG;
    loop {
        let finished = job.is_finished();
        let text = job.stdout();
        print!("{}", text.get(shown..).unwrap_or_default());
        shown = text.len();
        if finished {
            return Ok(text);
        }
        ensure!(std::time::Instant::now() < deadline, "the story takes too long");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Tells the story on this host, on file-backed devices in a folder that is removed afterwards.
///
/// # Errors
/// At the step that failed, or if the host lacks ublk or PostgreSQL.
pub fn on_this_host() -> Result<()> {
    let program = static_binary("umbra-io")?;
    // Handed over as it is: a file in a folder for all could be anybody's by the time it is read.
    let status = Command::new("sh")
        .args(["-c", STORY, "umbra-story", "--host"])
        .arg(&program)
        .status()
        .context("the story's shell does not start")?;
    ensure!(status.success(), "the story broke off");
    Ok(())
}

/// The scenario that runs [`on_this_host`]'s part of the script inside a machine.
///
/// # Errors
/// At the step that failed.
pub fn inside_a_machine() -> Result<()> {
    let vm = Vm::builder("story-host").memory_mib(2048).disk(Disk::blank("work", 4096 * MIB)).boot()?;
    let program: &Path = &static_binary("umbra-io")?;
    vm.put(program, "/usr/bin/umbra-io")?;
    vm.put_text(STORY, "/tmp/story.sh", 0o755)?;
    vm.sh("mkfs.ext4 -q /dev/lab/work && mkdir -p /work && mount /dev/lab/work /work").timeout(LONG).run()?;
    let told = vm.sh("TMPDIR=/work sh /tmp/story.sh --host /usr/bin/umbra-io").timeout(LONG).run()?;
    ensure!(told.text().contains("THE END"), "the story broke off: {}", told.text());
    vm.finish()
}
