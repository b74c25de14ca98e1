//! A node that is a machine: disks with stable names, and either `umbra-io` under its supervisor and `umbra-node` as processes
//! of it, or a kubelet, which runs them in pods as the chart says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use umbra_lab::{Disk, Job, Kubelet, Vm, VmBuilder, image, kubelet, static_binary};

use crate::kubernetes::installation::{Devices, Installation, until};
use crate::kubernetes::programs::CERTIFICATE;
use crate::kubernetes::server::Server;
use crate::node::Node;

const MIB: u64 = 1 << 20;
/// Size of the master and of the shadows.
pub(crate) const BYTES: u64 = 64 * MIB;
/// Sizes of a database's data and of its log.
const DATA: u64 = 192 * MIB;
const LOG: u64 = 96 * MIB;
/// Where the facade listens.
const FACADE: u16 = 9751;
/// Name of the node.
const NAME: &str = "a";
const NODE_LOG: &str = "/run/umbra-node.log";
const END: Duration = Duration::from_secs(30);

/// The node `a` of an installation.
pub(crate) struct Machine {
    // Ended in this order.
    umbra: Umbra,
    pub(crate) vm: Vm,
}

/// How Umbra's programs run on the node.
enum Umbra {
    Processes { node: Option<Job>, io: Option<Node> },
    Pods(Pods),
}

/// A kubelet, and the images that there are for it.
struct Pods {
    kubelet: Kubelet,
    _folder: TempDir,
    archives: Vec<PathBuf>,
}

impl Machine {
    /// Boots it, with a file system on the master-to-be, and waits until the cluster knows where its facade is.
    pub(crate) fn boot(umbra: &Installation<'_>, name: &str) -> Result<Self> {
        let processes = Umbra::Processes { node: None, io: None };
        let mut machine = Self { umbra: processes, vm: builder(name)?.boot()? };
        machine.vm.sh("mkfs.ext4 -q /dev/lab/master").run()?;
        machine.start_host()?;
        machine.start_processes(umbra)?;
        Ok(machine)
    }

    /// Boots it with a kubelet and Umbra's images, with a file system on the master-to-be, and waits until pods can run.
    pub(crate) fn boot_for_pods(server: &Server, name: &str) -> Result<Self> {
        let machine = Self::boot_kubelet(server, builder(name)?, Vec::new())?;
        machine.vm.sh("mkfs.ext4 -q /dev/lab/master").run()?;
        Ok(machine)
    }

    /// Boots it with a kubelet, Umbra's images and that of PostgreSQL, with empty disks for its data and its log, and for two
    /// images of each.
    pub(crate) fn boot_for_a_database(server: &Server, name: &str) -> Result<Self> {
        let disks = [("data", DATA), ("log", LOG)].into_iter().flat_map(|(role, bytes)| {
            let images = (1..=2).flat_map(move |number| {
                let bitmap = Disk::blank(&format!("{role}-bitmap{number}"), 64 * MIB);
                [Disk::blank(&format!("{role}-shadow{number}"), bytes), bitmap]
            });
            std::iter::once(Disk::blank(role, bytes)).chain(images)
        });
        let builder = disks.fold(bare(name)?, VmBuilder::disk).memory_mib(3072);
        Self::boot_kubelet(server, builder, vec![image::of_postgres()?])
    }

    fn boot_kubelet(server: &Server, builder: VmBuilder, mut archives: Vec<PathBuf>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        archives.extend(image::of_the_lab(folder.path())?);
        archives.extend(image::of_umbra(folder.path())?);
        let (kubelet, builder) = Kubelet::plan(builder)?;
        let node =
            serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"pool": "yes"}}});
        server.applied_as(NAME, &node)?;
        let patch =
            ["patch", "node", NAME, "--subresource=status", "--type=merge", "--patch", kubelet::ADDRESSES];
        server.expect(&patch)?;
        let pods = Umbra::Pods(Pods { kubelet, _folder: folder, archives });
        let mut machine = Self { umbra: pods, vm: builder.boot()? };
        machine.vm.sh("mkfs.ext4 -q /dev/lab/state").run()?;
        machine.start_host()?;
        machine.start_kubelet(server)?;
        Ok(machine)
    }

    /// Starts what a distribution starts on a machine that has just booted.
    fn start_host(&self) -> Result<()> {
        self.vm.sh("/lib/systemd/systemd-udevd --daemon && udevadm trigger && udevadm settle").run()?;
        self.vm.put_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n", "/etc/machine-id", 0o444)
    }

    fn start_processes(&mut self, umbra: &Installation<'_>) -> Result<()> {
        let started = Node::supervised(&mut self.vm, "10s")?;
        if let Umbra::Processes { io, .. } = &mut self.umbra {
            *io = Some(started);
        }
        self.install_node(umbra)?;
        self.start_node(umbra)
    }

    fn start_kubelet(&mut self, server: &Server) -> Result<()> {
        let Umbra::Pods(pods) = &self.umbra else { return Ok(()) };
        self.vm
            .sh("mkdir -p /var/lib/umbra && mount /dev/lab/state /var/lib/umbra && modprobe ublk_drv")
            .run()?;
        pods.kubelet.start(&mut self.vm, NAME, &server.node_access(NAME)?, &pods.archives)?;
        let boot = self.vm.sh("cat /proc/sys/kernel/random/boot_id").run()?;
        let node = ["get", "node", NAME, "--output", "jsonpath={.status.nodeInfo.bootID}"];
        until("the kubelet says that it has started", || Ok(server.expect(&node)? == boot.text()))?;
        server.expect(&["wait", "--for=condition=Ready", "--timeout=120s", "node", NAME]).map(drop)
    }

    fn install_node(&mut self, umbra: &Installation<'_>) -> Result<()> {
        self.vm.keep_on_failure(NODE_LOG);
        self.vm.put(static_binary("umbra-node")?, "/usr/bin/umbra-node")?;
        self.vm.sh("mkdir -p /etc/umbra").run()?;
        let certificate = umbra.certified(&format!("node/{NAME}"))?;
        for (_, file) in CERTIFICATE {
            self.vm.put(certificate.join(file), &format!("/etc/umbra/{file}"))?;
        }
        let (kubeconfig, authority) = umbra.server().for_machines()?;
        self.vm.put_text(&kubeconfig, "/etc/umbra/kubeconfig", 0o600)?;
        self.vm.put(authority, "/etc/umbra/apiserver.crt")
    }

    /// Starts `umbra-node`, and waits until the cluster knows where it is.
    pub(crate) fn start_node(&mut self, umbra: &Installation<'_>) -> Result<()> {
        let endpoint = self.vm.address_of(FACADE).context("the machine has no network")?.to_string();
        let certificate: String =
            CERTIFICATE.iter().map(|(option, file)| format!(" {option} /etc/umbra/{file}")).collect();
        let published = format!(
            "--publish --publish-interval 1 --kubeconfig /etc/umbra/kubeconfig --advertise {endpoint}"
        );
        let started = self.vm.spawn(&format!(
            "exec umbra-node run --node {NAME} --cluster lab{certificate} {published} >>{NODE_LOG} 2>&1"
        ))?;
        if let Umbra::Processes { node, .. } = &mut self.umbra {
            *node = Some(started);
        }
        umbra.until_node_is_at(&endpoint)
    }

    /// Kills `umbra-node`.
    pub(crate) fn kill_node(&mut self) -> Result<()> {
        self.vm.sh("pkill -KILL -x umbra-node").run()?;
        let Umbra::Processes { node, .. } = &mut self.umbra else { return Ok(()) };
        node.take().context("umbra-node was not started")?.wait(END).map(drop)
    }

    /// Cuts the power, and starts everything again: the processes, or the kubelet, which knows what to start.
    pub(crate) fn power_cut(&mut self, umbra: &Installation<'_>) -> Result<()> {
        if let Umbra::Processes { node, io } = &mut self.umbra {
            (*node, *io) = (None, None);
        }
        self.vm.reset()?;
        self.start_host()?;
        match self.umbra {
            Umbra::Processes { .. } => self.start_processes(umbra),
            Umbra::Pods(_) => self.start_kubelet(umbra.server()),
        }
    }

    /// The first words of a file on a device, which is mounted for that.
    pub(crate) fn mounted<T>(
        &self,
        device: &str,
        options: &str,
        run: impl FnOnce(&Vm) -> Result<T>,
    ) -> Result<T> {
        self.vm.sh(&format!("mount -o {options} {device} /mnt")).run()?;
        let result = run(&self.vm);
        self.vm.sh("umount /mnt").run()?;
        result
    }

    /// Writes a file of this name on the file system of a device.
    pub(crate) fn write(&self, device: &str, name: &str) -> Result<()> {
        self.mounted(device, "rw", |vm| {
            vm.sh(&format!("dd if=/dev/urandom of=/mnt/{name} bs=64k count=20 status=none && sync"))
                .run()
                .map(drop)
        })
    }

    /// The files on the file system of a device, which must be whole.
    pub(crate) fn files(&self, device: &str) -> Result<Vec<String>> {
        let listed = self.mounted(device, "ro", |vm| {
            Ok(vm.sh("cd /mnt && for file in *; do [ ! -f $file ] || echo $file; done").run()?.stdout)
        })?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.vm.finish()
    }
}

/// A machine with a disk for what the node keeps.
fn bare(name: &str) -> Result<VmBuilder> {
    let builder = Vm::builder(name).memory_mib(1536).publish_port(FACADE)?;
    Ok(builder.disk(Disk::blank("state", 64 * MIB)))
}

/// One with disks for a database's volume and two sets of it.
fn builder(name: &str) -> Result<VmBuilder> {
    let mut builder = bare(name)?.disk(Disk::blank("master", BYTES));
    for number in 1..=2 {
        builder = builder
            .disk(Disk::blank(&format!("shadow{number}"), BYTES))
            .disk(Disk::blank(&format!("bitmap{number}"), BYTES));
    }
    Ok(builder)
}

/// The disks of the machine by the names that stay with them.
pub(crate) fn devices() -> Devices {
    let id = |serial: &str| format!("/dev/disk/by-id/virtio-{serial}");
    Devices { master: id("master"), one: [id("shadow1"), id("bitmap1")], two: [id("shadow2"), id("bitmap2")] }
}
