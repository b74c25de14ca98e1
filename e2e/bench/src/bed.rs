//! The test bed: one machine with two families of disks, for times each under a `dm-delay` whose delay changes live.
//!
//! ```text
//!   master  shadow1..4  bitmap1..4  pool data  pool metadata
//!   dm-delay, while times are taken; operations are counted without it, for it splits flushes from writes
//!   virtio disk (volatile cache, no FUA)   or   null_blk (volatile cache, FUA)
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use rand_xorshift::XorShiftRng;
use serde::Serialize;
use tempfile::TempDir;
use umbra_lab::{Disk, Output, Vm, static_binary};

use crate::iolog::{self, Request, SEED};
use crate::samples::Samples;

const MIB: u64 = 1 << 20;
/// Size of the master.
pub const MASTER: u64 = 128 * MIB;
/// Unit of copying of all that copy.
pub const CHUNK: u64 = 64 << 10;
/// Shadows and bitmap volumes of the virtio family.
pub const SHADOWS: usize = 4;
/// Where the data plane is put.
pub const UMBRA_IO: &str = "/usr/bin/umbra-io";
const LOAD: &str = "/usr/bin/umbra-bench-load";
const LOG: &str = "/tmp/load.iolog";
/// A load runs until it is done; only one that hangs meets this.
const LOAD_LIMIT: Duration = Duration::from_secs(180);
/// Device-mapper without a device manager that would make the nodes.
pub const DMSETUP: &str = "dmsetup --noudevrules --noudevsync";

/// A family of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// virtio disks: a volatile cache and no FUA, so durability is a flush.
    Virtio,
    /// `null_blk` in memory: a volatile cache and FUA.
    NullBlk,
}

impl Medium {
    /// In tables: what durability costs there.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Medium::Virtio => "flush",
            Medium::NullBlk => "fua",
        }
    }

    /// The disks of the family, and their sizes.
    fn disks(self) -> Vec<(String, u64)> {
        let shadows = if self == Medium::Virtio { SHADOWS } else { 1 };
        let mut disks = vec![("master".to_owned(), MASTER)];
        for number in 1..=shadows {
            // dm-snapshot keeps its own records beside the data.
            disks.push((format!("shadow{number}"), MASTER + 32 * MIB));
            disks.push((format!("bitmap{number}"), 64 * MIB));
        }
        if self == Medium::Virtio {
            disks.push(("pool-meta".to_owned(), 16 * MIB));
            disks.push(("pool-data".to_owned(), 4 * MASTER));
        }
        disks
    }

    /// The disk itself.
    fn physical(self, disk: &str) -> String {
        match self {
            Medium::Virtio => format!("/dev/lab/{disk}"),
            Medium::NullBlk => format!("/dev/null-{disk}"),
        }
    }

    /// Name of the disk's delay.
    fn delay(self, disk: &str) -> String {
        format!("{}-{disk}", self.word())
    }
}

/// What a load is.
#[derive(Debug, Clone, Copy)]
pub struct Drive<'a> {
    /// Requests, in order.
    pub requests: &'a [Request],
    /// In flight at most.
    pub depth: u16,
    /// Open loop, requests per second.
    pub rate: Option<f64>,
    /// Over and over for this time.
    pub seconds: Option<u64>,
}

impl<'a> Drive<'a> {
    /// All requests once, `depth` in flight.
    #[must_use]
    pub fn closed(requests: &'a [Request], depth: u16) -> Self {
        Self { requests, depth, rate: None, seconds: None }
    }
}

/// The machine with its disks.
#[derive(Debug)]
pub struct Bed {
    vm: Vm,
    unit_ms: u32,
    delayed: bool,
    // The disks' files go with it.
    _folder: TempDir,
}

impl Bed {
    /// Boots the machine and makes the disks; `unit_ms` is what a device operation takes when it is slowed down.
    ///
    /// # Errors
    /// Where the machine does not boot or a disk cannot be made.
    pub fn boot(unit_ms: u32) -> Result<Self> {
        let folder = memory_folder()?;
        let mut builder = Vm::builder("bench").memory_mib(2048).modules(&[
            "dm_delay",
            "dm_snapshot",
            "dm_thin_pool",
            "null_blk",
        ]);
        for (name, size) in Medium::Virtio.disks() {
            let path = folder.path().join(&name);
            File::create(&path)?.set_len(size)?;
            if name == "master" {
                // Old data that is all zeroes may be kept without being copied.
                fill(&path, size)?;
            }
            builder = builder.disk(Disk::file(&name, path));
        }
        // Parameters of a module that is loaded at boot: the disks are made one by one instead.
        let mut vm = builder.kernel_argument("null_blk.nr_devices=0").boot()?;
        vm.keep_on_failure(crate::systems::umbra::LOG);
        vm.put(static_binary("umbra-io")?, UMBRA_IO)?;
        vm.put(static_binary("umbra-bench-load")?, LOAD)?;
        let bed = Self { vm, unit_ms, delayed: false, _folder: folder };
        bed.sh("mount -t tracefs t /sys/kernel/tracing; mount -t configfs c /sys/kernel/config")?;
        bed.make_null_disks()?;
        let (from, to) = (Medium::Virtio.physical("master"), Medium::NullBlk.physical("master"));
        bed.sh(&format!("dd if={from} of={to} bs=1M iflag=direct oflag=direct status=none"))?;
        Ok(bed)
    }

    /// The kernel of the machine.
    ///
    /// # Errors
    /// A machine that hangs or is gone.
    pub fn kernel(&self) -> Result<String> {
        Ok(self.sh("uname -r")?.text().to_owned())
    }

    /// What a device operation takes when it is slowed down, in milliseconds.
    #[must_use]
    pub fn unit_ms(&self) -> u32 {
        self.unit_ms
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Runs a script that must succeed.
    ///
    /// # Errors
    /// What the script said.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.vm.sh(script).timeout(Duration::from_secs(60)).run()
    }

    /// Ends the machine.
    ///
    /// # Errors
    /// The kernel's complaint about itself.
    pub fn finish(self) -> Result<()> {
        self.vm.finish()
    }

    fn make_null_disks(&self) -> Result<()> {
        let mut script = String::new();
        for (disk, size) in Medium::NullBlk.disks() {
            let item = format!("/sys/kernel/config/nullb/null-{disk}");
            writeln!(script, "mkdir {item}")?;
            let settings =
                ["memory_backed=1", "cache_size=1", "fua=1", &format!("size={}", size / MIB), "power=1"];
            for setting in settings {
                let (name, value) = setting.split_once('=').context("a setting")?;
                writeln!(script, "echo {value} > {item}/{name}")?;
            }
            let device = Medium::NullBlk.physical(&disk);
            writeln!(script, "test -b {device}; grep -q 1 /sys/block/null-{disk}/queue/fua")?;
        }
        self.sh(&script).context("making the disks with FUA").map(drop)
    }

    /// Puts a delay under everything that is presented from now on; it is 0 at first. No disk may be in use.
    ///
    /// # Errors
    /// Where a disk is in use.
    pub fn put_delays(&mut self) -> Result<()> {
        let mut script = String::new();
        for medium in [Medium::Virtio, Medium::NullBlk] {
            for (disk, size) in medium.disks() {
                let (name, place) = (medium.delay(&disk), format!("{} 0 0", medium.physical(&disk)));
                let table = format!("0 {} delay {place} {place} {place}", size / 512);
                writeln!(script, "{DMSETUP} create {name} --table '{table}'")?;
            }
        }
        self.sh(&script)?;
        self.delayed = true;
        Ok(())
    }

    /// What a system is to use as this disk.
    ///
    /// # Errors
    /// Where there is none.
    pub fn device(&self, medium: Medium, disk: &str) -> Result<String> {
        if self.delayed { self.mapped(&medium.delay(disk)) } else { Ok(medium.physical(disk)) }
    }

    /// The device of a mapping.
    ///
    /// # Errors
    /// Where there is none.
    pub fn mapped(&self, name: &str) -> Result<String> {
        let minor = self.sh(&format!("{DMSETUP} info -c --noheadings -o minor {name}"))?;
        Ok(format!("/dev/dm-{}", minor.text()))
    }

    /// From now on every read, write and flush of these disks takes so long.
    ///
    /// # Errors
    /// Where a table is refused.
    pub fn set_delay(&self, medium: Medium, ms: u32) -> Result<()> {
        let mut script = String::new();
        for (disk, size) in medium.disks() {
            let (name, device) = (medium.delay(&disk), medium.physical(&disk));
            let place = format!("{device} 0 {ms}");
            writeln!(
                script,
                "{DMSETUP} load {name} --table '0 {} delay {place} {place} {place}'
                 {DMSETUP} suspend --noflush --nolockfs {name}; {DMSETUP} resume {name}",
                size / 512
            )?;
        }
        self.sh(&script).map(drop)
    }

    /// The physical disks of a family, as the kernel counts them, by the names of their parts.
    ///
    /// # Errors
    /// A machine that hangs or is gone.
    pub fn disks(&self, medium: Medium) -> Result<Vec<(String, String)>> {
        let names = medium.disks();
        let paths: Vec<String> = names.iter().map(|(disk, _)| medium.physical(disk)).collect();
        let output = self.sh(&format!("readlink -f {}", paths.join(" ")))?;
        let nodes: Vec<&str> = output.text().lines().map(|line| line.trim_start_matches("/dev/")).collect();
        ensure!(nodes.len() == names.len(), "a disk is missing: {nodes:?}");
        Ok(names.into_iter().map(|(disk, _)| disk).zip(nodes.into_iter().map(str::to_owned)).collect())
    }

    /// The command line of a load.
    ///
    /// # Errors
    /// A machine that hangs or is gone.
    pub fn load_command(&self, device: &str, drive: &Drive<'_>) -> Result<String> {
        self.vm.put_text(&iolog::text(drive.requests), LOG, 0o644)?;
        let mut command = format!("{LOAD} {device} {LOG} --depth {}", drive.depth);
        if let Some(rate) = drive.rate {
            write!(command, " --rate {rate}")?;
        }
        if let Some(seconds) = drive.seconds {
            write!(command, " --seconds {seconds}")?;
        }
        Ok(command)
    }

    /// Puts a load on a device, to its end.
    ///
    /// # Errors
    /// A request that failed.
    pub fn load(&self, device: &str, drive: &Drive<'_>) -> Result<Samples> {
        let command = self.load_command(device, drive)?;
        samples(&self.vm.sh(&command).timeout(LOAD_LIMIT).run()?)
    }
}

/// What a load said at its end.
///
/// # Errors
/// Anything else than its report.
pub fn samples(output: &Output) -> Result<Samples> {
    serde_json::from_str(output.text()).context("the load's report")
}

/// A folder for disks: in memory where the host has such a file system, so that its disk is no part of the figures.
fn memory_folder() -> Result<TempDir> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("umbra-bench-").tempdir_in(parent).context("a folder for the disks")
}

fn fill(path: &Path, size: u64) -> Result<()> {
    let mut random = XorShiftRng::seed_from_u64(SEED);
    let mut file = File::create(path)?;
    let mut block = vec![0; usize::try_from(MIB)?];
    for _ in 0..size / MIB {
        random.fill_bytes(&mut block);
        file.write_all(&block)?;
    }
    Ok(())
}
