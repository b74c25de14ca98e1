//! The emulator's process.

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use crate::initrd::ROOT_SERIAL;
use crate::process;
use crate::protocol::PORT_NAME;
use crate::toolbox::Toolbox;

/// What the machine is made of.
pub(crate) struct Hardware<'a> {
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: &'a Path,
    pub(crate) initrd: &'a Path,
    pub(crate) kernel_arguments: &'a str,
    pub(crate) root: &'a Path,
    pub(crate) socket: &'a Path,
    pub(crate) serial_log: &'a Path,
    pub(crate) scratch: &'a Path,
    /// Disks under test, and the network.
    pub(crate) devices: Vec<String>,
}

/// Starts the emulator; it dies with this process.
pub(crate) fn start(toolbox: &Toolbox, hardware: &Hardware<'_>) -> Result<Child> {
    let mut command = process::for_life(&toolbox.argv("usr/bin/qemu-system-x86_64"));
    command.arg("-L").arg(toolbox.path("usr/share/qemu")).arg("-L").arg(toolbox.path("usr/share/seabios"));
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc"]);
    match env::var("UMBRA_LAB_ACCEL").as_deref() {
        Ok("kvm") => command.args(["-accel", "kvm", "-cpu", "host"]),
        _ => command.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]),
    };
    command.args(["-smp", &hardware.cpus.to_string(), "-m", &hardware.memory_mib.to_string()]);
    command.arg("-kernel").arg(hardware.kernel).arg("-initrd").arg(hardware.initrd);
    let arguments = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off random.trust_cpu=on";
    command.arg("-append").arg(format!("{arguments} {}", hardware.kernel_arguments));
    command.arg("-serial").arg(format!("file:{}", hardware.serial_log.display()));
    command.args(["-device", "virtio-serial-pci", "-chardev"]);
    command.arg(format!("socket,id=agent,path={},server=on,wait=off", hardware.socket.display()));
    command.arg("-device").arg(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
    // Writes to the root disk go to a nameless file that ends with the process.
    command.arg("-drive");
    command
        .arg(format!("id=root,if=none,format=raw,snapshot=on,cache=unsafe,file={}", hardware.root.display()));
    command.arg("-device").arg(format!("virtio-blk-pci,drive=root,serial={ROOT_SERIAL}"));
    command.args(&hardware.devices);
    command.env("TMPDIR", hardware.scratch).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(hardware.scratch.join("logs/qemu.log"))?);
    process::spawn(command).context("cannot start the emulator")
}
