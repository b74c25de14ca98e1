//! Machines: put together, booted, cut from power, booted again.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::artefacts::Run;
use crate::disk::Disk;
use crate::guest::{Guest, Job, STEP_TIMEOUT, Step};
use crate::host::tail;
use crate::kernel::Kernel;
use crate::network::{self, Network};
use crate::qemu::{self, Hardware};
use crate::rootfs::Root;
use crate::toolbox::Toolbox;
use crate::{initrd, progress, serial, space};

/// Under emulation, on a busy host, beside another machine.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Under emulation a kernel may fail before its first program runs, see [`EMULATED_WRONG`]; seen once in some fifty boots.
const BOOT_TRIES: u32 = 3;
/// What such a kernel says. It patches its own code while it boots, and another processor may meet a patched instruction
/// after the patch is forgotten; or a timer's interrupt is lost, and the kernel waits for it for ever.
const EMULATED_WRONG: [&str; 2] = ["int3: 0000", "kthread timer wakeup didn't happen"];

/// A machine that is off: before its first boot, or after a power cut.
#[derive(Debug)]
pub struct VmBuilder {
    name: String,
    memory_mib: u32,
    cpus: u32,
    kernel: Kernel,
    root: Root,
    kernel_arguments: Vec<String>,
    modules: Vec<String>,
    disks: Vec<Disk>,
    kept: Vec<String>,
    hung_tasks_allowed: bool,
    network: Network,
    boots: u32,
    run: Option<Arc<Mutex<Run>>>,
}

impl VmBuilder {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 1024,
            cpus: 2,
            kernel: Kernel::default(),
            root: Root::default(),
            kernel_arguments: Vec::new(),
            modules: vec!["ublk_drv".into()],
            disks: Vec::new(),
            kept: Vec::new(),
            hung_tasks_allowed: false,
            network: Network::default(),
            boots: 0,
            run: None,
        }
    }

    /// Sets the memory in MiB, 1024 unless set.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Raises the memory to so many MiB.
    pub(crate) fn at_least_memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = self.memory_mib.max(mib);
        self
    }

    /// Sets the number of processors, 2 unless set.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the kernel.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Sets what is installed.
    #[must_use]
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Adds an argument to the kernel's command line.
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.kernel_arguments.push(argument.to_owned());
        self
    }

    /// Loads these modules at boot besides `ublk_drv`; others load when they are asked for with `modprobe`.
    #[must_use]
    pub fn modules(mut self, modules: &[&str]) -> Self {
        self.modules.extend(modules.iter().map(|&module| module.to_owned()));
        self
    }

    /// A kernel without `ublk_drv` loaded, for tests of refusals.
    #[must_use]
    pub fn without_ublk(mut self) -> Self {
        self.modules.retain(|module| module != "ublk_drv");
        self
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Takes a disk out of a machine that is off; it can be put back, here or elsewhere, while this machine exists.
    pub fn take_disk(&mut self, name: &str) -> Option<Disk> {
        let index = self.disks.iter().position(|disk| disk.name() == name)?;
        Some(self.disks.remove(index))
    }

    /// The file of a disk on the host, to be looked at or damaged while the machine is off.
    #[must_use]
    pub fn disk_path(&self, name: &str) -> Option<&Path> {
        self.disks.iter().find(|disk| disk.name() == name)?.path()
    }

    /// Gives the machine a network, in which this host reaches that port; see [`Vm::address_of`] and [`HOST`](crate::HOST).
    ///
    /// # Errors
    /// Where this host has no port for it.
    pub fn publish_port(mut self, port: u16) -> Result<Self> {
        self.network.publish(port)?;
        Ok(self)
    }

    /// As [`publish_port`](Self::publish_port), for a port that has the same number on this host and in the machine, and that
    /// nobody uses. Returns it as well.
    ///
    /// # Errors
    /// Where this host has no port left.
    pub fn publish_any_port(mut self) -> Result<(Self, u16)> {
        let port = self.network.publish_any()?;
        Ok((self, port))
    }

    /// A task that the kernel reports as hung is part of the test.
    #[must_use]
    pub fn allow_hung_tasks(mut self) -> Self {
        self.hung_tasks_allowed = true;
        self
    }

    /// Boots.
    ///
    /// # Errors
    /// Where something cannot be downloaded or built, or the machine does not come up in time.
    pub fn boot(mut self) -> Result<Vm> {
        let begin = Instant::now();
        let toolbox = Toolbox::open()?;
        let kernel = self.kernel.open(&toolbox)?;
        let root = self.root.image(&toolbox)?;
        let run = match &self.run {
            Some(run) => run.clone(),
            None => Arc::new(Mutex::new(Run::new(&self.name)?)),
        };
        self.run = Some(run.clone());
        let (folder, logs) = {
            let run = lock(&run);
            (run.folder().to_path_buf(), run.logs())
        };
        space::ensure(&folder, space::OF_A_MACHINE).with_context(|| format!("booting {}", self.name))?;
        self.disks.iter_mut().try_for_each(|disk| disk.materialise(&folder))?;
        let ramdisk = folder.join("initrd");
        initrd::write(&toolbox, &kernel, &ramdisk)?;
        let disks: Result<Vec<Vec<String>>> =
            self.disks.iter().enumerate().map(|(index, disk)| disk.arguments(index)).collect();
        let mut devices = disks?.concat();
        devices.extend(self.network.arguments());
        let mut kernel_arguments = self.kernel_arguments.join(" ");
        if self.network.is_used() {
            kernel_arguments = format!("{kernel_arguments} {}", network::KERNEL_ARGUMENT);
        }
        let mut tries = 0;
        let (emulator, guest) = loop {
            let serial_log = logs.join(format!("serial-{}.log", self.boots));
            let socket = folder.join(format!("agent-{}", self.boots));
            let hardware = Hardware {
                memory_mib: self.memory_mib,
                cpus: self.cpus,
                kernel: &kernel.image(),
                initrd: &ramdisk,
                kernel_arguments: &kernel_arguments,
                root: &root,
                socket: &socket,
                serial_log: &serial_log,
                scratch: &folder,
                devices: devices.clone(),
            };
            lock(&run).note(&format!("boot {} with kernel {}", self.boots, kernel.version));
            let mut emulator = Emulator { child: qemu::start(&toolbox, &hardware)?, serial_log };
            self.boots += 1;
            tries += 1;
            match emulator.greet(&socket, &run) {
                Ok(guest) => break (emulator, guest),
                Err(error) if tries < BOOT_TRIES && emulator.has_emulated_wrong() => {
                    progress::say(format_args!("{}: the kernel does not boot, again: {error}", self.name));
                }
                Err(error) => return Err(error.context(format!("booting {}", self.name))),
            }
        };
        let (modules, has_network) = (self.modules.clone(), self.network.is_used());
        let vm = Vm { off: Some(self), emulator, guest, run, boot_took: begin.elapsed() };
        if !modules.is_empty() {
            let argv = ["modprobe", "-a"].into_iter().map(str::to_owned).chain(modules);
            Step::new(vm.guest.clone(), argv.collect()).run()?;
        }
        if has_network {
            vm.sh(network::SET_UP).run()?;
        }
        Ok(vm)
    }

    /// Declares the test good: nothing of the run is kept.
    pub fn finish(self) {
        if let Some(run) = self.run {
            lock(&run).declare_good();
        }
    }
}

/// The process of the emulator, ended with this handle.
#[derive(Debug)]
struct Emulator {
    child: Child,
    serial_log: PathBuf,
}

impl Emulator {
    /// Connects to the port and waits until the agent is there.
    fn greet(&mut self, socket: &Path, run: &Arc<Mutex<Run>>) -> Result<Arc<Guest>> {
        let deadline = Instant::now() + BOOT_TIMEOUT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline && self.lives() => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).with_context(|| self.last_words()),
            }
        };
        Guest::connect(stream, BOOT_TIMEOUT, run.clone()).with_context(|| self.last_words())
    }

    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it is the emulator that keeps the kernel from booting: see [`EMULATED_WRONG`].
    fn has_emulated_wrong(&self) -> bool {
        let said = serial_text(&self.serial_log);
        EMULATED_WRONG.iter().any(|sign| said.contains(sign))
    }

    fn last_words(&self) -> String {
        let errors = self.serial_log.with_file_name("qemu.log");
        let read = |path: &Path| tail(&serial_text(path), 25);
        format!("last words of the machine:\n{}\n{}", read(&errors), read(&self.serial_log))
    }

    fn end(&mut self) -> Result<()> {
        // Fails only where it has ended already.
        self.child.kill().ok();
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end().ok();
    }
}

fn serial_text(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A running machine.
#[derive(Debug)]
pub struct Vm {
    /// `None` only while it changes hands.
    off: Option<VmBuilder>,
    guest: Arc<Guest>,
    emulator: Emulator,
    run: Arc<Mutex<Run>>,
    boot_took: Duration,
}

impl Vm {
    /// A machine to be put together; `name` names its logs.
    #[must_use]
    pub fn builder(name: &str) -> VmBuilder {
        VmBuilder::new(name)
    }

    /// From the call of [`VmBuilder::boot`] to an agent that answers.
    #[must_use]
    pub fn boot_took(&self) -> Duration {
        self.boot_took
    }

    /// A shell script, run with `sh -euc`.
    pub fn sh(&self, script: &str) -> Step {
        self.cmd(&["sh", "-euc", script])
    }

    /// A program with its arguments.
    pub fn cmd(&self, argv: &[&str]) -> Step {
        Step::new(self.guest.clone(), argv.iter().map(|&word| word.to_owned()).collect())
    }

    /// Starts a shell script in the background. The shell becomes its last command, so the job's process is that of
    /// a script of one command.
    ///
    /// # Errors
    /// A command that cannot start; a machine that hangs or is gone.
    pub fn spawn(&self, script: &str) -> Result<Job> {
        // Debian's sh would stay as the parent.
        self.cmd(&["bash", "-euc", script]).spawn()
    }

    /// Puts a file of the host into the machine, with its permissions. A file there is replaced, not written over, so
    /// a running program stays what it is.
    ///
    /// # Errors
    /// A file that cannot be read or written; a machine that hangs or is gone.
    pub fn put(&self, from: impl AsRef<Path>, to: &str) -> Result<()> {
        self.guest.put(from.as_ref(), to, STEP_TIMEOUT * 4)
    }

    /// Puts a text into a file of the machine.
    ///
    /// # Errors
    /// As [`Vm::put`].
    pub fn put_text(&self, text: &str, to: &str, mode: u32) -> Result<()> {
        self.guest.put_stream(&mut text.as_bytes(), to, mode, STEP_TIMEOUT)
    }

    /// Gets a file from the machine.
    ///
    /// # Errors
    /// As [`Vm::put`].
    pub fn get(&self, from: &str, to: impl AsRef<Path>) -> Result<()> {
        self.guest.get(from, &mut File::create(to)?, STEP_TIMEOUT * 4)
    }

    /// Where the run fails, this file of the machine is kept with its logs, if the machine still answers.
    pub fn keep_on_failure(&mut self, path: &str) {
        if let Some(off) = &mut self.off {
            off.kept.push(path.to_owned());
        }
    }

    /// Where this host reaches a published port. It stays the same over power cuts.
    #[must_use]
    pub fn address_of(&self, port: u16) -> Option<SocketAddr> {
        self.off.as_ref()?.network.address(port)
    }

    /// The serial log of this boot.
    #[must_use]
    pub fn serial_log(&self) -> String {
        serial_text(&self.emulator.serial_log)
    }

    /// Fails where the kernel complained about itself.
    ///
    /// # Errors
    /// The kernel's complaint.
    pub fn check_kernel(&self) -> Result<()> {
        let allowed = self.off.as_ref().is_some_and(|off| off.hung_tasks_allowed);
        match serial::kernel_failure(&self.serial_log(), allowed) {
            None => Ok(()),
            Some(line) => bail!("the kernel failed: {line}"),
        }
    }

    /// Ends the machine at once. Its disks keep what they acknowledged; memory, processes and the root file system are
    /// lost. See the crate's page for what this does not model.
    ///
    /// # Errors
    /// A kernel that had complained before.
    pub fn power_cut(mut self) -> Result<VmBuilder> {
        lock(&self.run).note("power cut");
        self.emulator.end()?;
        self.check_kernel()?;
        self.off.take().context("a machine without parts")
    }

    /// A power cut, and the power comes back.
    ///
    /// # Errors
    /// As [`Vm::power_cut`] and [`VmBuilder::boot`].
    pub fn reset(&mut self) -> Result<()> {
        lock(&self.run).note("power cut, and back");
        self.emulator.end()?;
        self.check_kernel()?;
        let off = self.off.take().ok_or_else(|| anyhow!("a machine without parts"))?;
        // On failure the machine stays in pieces and the run's logs are kept.
        *self = off.boot()?;
        Ok(())
    }

    /// Switches off in good order: file systems synchronised and unmounted as far as that goes.
    ///
    /// # Errors
    /// Where it does not go off in time, or the kernel had complained.
    pub fn shut_down(mut self) -> Result<VmBuilder> {
        let script = "sync; umount -a -t ext4,xfs 2>/dev/null; sync; echo o > /proc/sysrq-trigger";
        // The answer may or may not make it out.
        // Debian's sh would stay as the parent.
        self.cmd(&["bash", "-euc", script]).spawn().ok();
        let deadline = Instant::now() + STEP_TIMEOUT;
        while self.emulator.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the machine does not switch off");
            thread::sleep(Duration::from_millis(10));
        }
        self.check_kernel()?;
        self.off.take().context("a machine without parts")
    }

    /// Ends the machine and declares the test good, unless the kernel complained.
    ///
    /// # Errors
    /// The kernel's complaint.
    pub fn finish(self) -> Result<()> {
        self.power_cut()?.finish();
        Ok(())
    }

    /// Ends the machine and declares the test good, whatever the kernel said: for tests that break it on purpose.
    pub fn discard(mut self) {
        if let Some(off) = self.off.take() {
            off.finish();
        }
    }

    fn rescue(&self) {
        let Some(off) = &self.off else { return };
        if let Err(error) = self.check_kernel() {
            progress::say(format_args!("{}: {error}", off.name));
        }
        for path in &off.kept {
            let name = path.trim_start_matches('/').replace('/', "-");
            let target = lock(&self.run).logs().join(name);
            let result = File::create(target)
                .map_err(Into::into)
                .and_then(|mut file| self.guest.get(path, &mut file, Duration::from_secs(5)));
            if let Err(error) = result {
                self.guest.note(&format!("{error:#}"));
            }
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.rescue();
    }
}

fn lock(run: &Mutex<Run>) -> MutexGuard<'_, Run> {
    run.lock().unwrap_or_else(PoisonError::into_inner)
}
