//! A kubelet on a machine, with containerd under it, and the images of the lab in that.
//!
//! Both keep what they know on disks of the machine, so that a power cut is to them what it is to those of a real node. There
//! is no init system: they are processes that the lab starts, and after a power cut it starts them again.
//!
//! Pods have a network of their own on the machine, a bridge that leads nowhere else but to the node and, under the address
//! of its service, to the API server; no other service has an address. What needs more asks for the network of the node.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::control_plane::NodeAccess;
use crate::disk::Disk;
use crate::network::{HOST, MACHINE};
use crate::rootfs::Root;
use crate::vm::{Vm, VmBuilder};

/// Where the kubelet keeps what it knows; CSI drivers are called there.
pub const FOLDER: &str = "/var/lib/kubelet";
/// The addresses of a node as a patch of its status. Pods and their like reach it under the first; this host, and the API
/// server on it, under the second.
pub const ADDRESSES: &str = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "10.0.2.15"},
    {"type": "ExternalIP", "address": "127.0.0.1"}]}}"#;
/// The service of the API server, whose address pods are told.
const API_SERVICE: &str = "10.96.0.1";
/// What both log.
const LOGS: [&str; 2] = ["/run/containerd.log", "/run/kubelet.log"];
/// Under emulation, on a busy host.
const START: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

/// The kubelet of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Kubelet {
    /// The port by which the API server reaches it.
    port: u16,
}

impl Kubelet {
    /// Gives a machine that is off what a kubelet needs.
    ///
    /// # Errors
    /// Where this host has no port left.
    pub fn plan(machine: VmBuilder) -> Result<(Self, VmBuilder)> {
        let (machine, port) = machine.publish_any_port()?;
        let machine = machine.root(Root::Pods).at_least_memory_mib(2048);
        let machine =
            machine.disk(Disk::blank("kubelet", 256 * MIB)).disk(Disk::blank("containerd", 1024 * MIB));
        Ok((Self { port }, machine))
    }

    /// Starts containerd, with the images in these archives, and the kubelet on the machine, which is the node `name`. That the
    /// node is ready is for the cluster to say.
    ///
    /// # Errors
    /// Where one of them does not start.
    pub fn start(self, vm: &mut Vm, name: &str, access: &NodeAccess, images: &[PathBuf]) -> Result<()> {
        LOGS.iter().for_each(|log| vm.keep_on_failure(log));
        // What the kubelet mounts must be seen by pods, and what pods mount by it.
        vm.sh("mount --make-rshared /
             for each in kubelet containerd; do
                 blkid /dev/lab/$each >/dev/null || mkfs.ext4 -q /dev/lab/$each
                 mkdir -p /var/lib/$each
                 mount /dev/lab/$each /var/lib/$each
             done")
            .run()?;
        service(vm, "containerd", LOGS[0])?;
        until(vm, "ctr version >/dev/null", LOGS[0])?;
        for image in images {
            vm.put(image, "/run/image.tar")?;
            vm.sh("ctr -n k8s.io images import /run/image.tar && rm /run/image.tar").timeout(START).run()?;
        }
        vm.sh(&format!("ip addr add {API_SERVICE}/32 dev lo")).run()?;
        let to_api_server = format!(
            "socat TCP-LISTEN:443,bind={API_SERVICE},fork,reuseaddr TCP:{HOST}:{}",
            access.api_server_port
        );
        service(vm, &to_api_server, "/dev/null")?;
        vm.put_text(&access.kubeconfig, "/etc/kubernetes/kubeconfig", 0o600)?;
        vm.put(&access.server_certificate, "/etc/kubernetes/apiserver.crt")?;
        vm.put(&access.client_certificate, "/etc/kubernetes/client.crt")?;
        // The node has in the cluster the address under which this host reaches the machine, which the kubelet cannot know. It
        // leaves addresses alone where somebody else, a cloud as a rule, gives them.
        let command = format!(
            "kubelet --config /etc/kubernetes/kubelet.yaml --kubeconfig /etc/kubernetes/kubeconfig --port {} \
             --hostname-override {name} --node-ip {MACHINE} --cloud-provider external",
            self.port
        );
        service(vm, &command, LOGS[1])
    }
}

fn service(vm: &Vm, command: &str, log: &str) -> Result<()> {
    vm.spawn(&format!("exec {command} >>{log} 2>&1")).map(drop)
}

fn until(vm: &Vm, script: &str, log: &str) -> Result<()> {
    let deadline = Instant::now() + START;
    while !vm.sh(script).output()?.success() {
        if Instant::now() > deadline {
            let said = vm.sh(&format!("tail -n 30 {log}")).output()?.stdout;
            bail!("{script} fails:\n{said}");
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
