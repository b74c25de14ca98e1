//! The network of a machine: ports of its own that this host reaches, and this host as it sees it.
//!
//! It is the emulator's own network, which needs no rights and touches nothing of the host's. What the machine connects to
//! under [`HOST`] is this host's loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};

/// This host, as a machine of the lab with a network sees it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// A machine, as it sees itself.
pub(crate) const MACHINE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Sets up the one interface; names do not change, for udev is told to leave them.
pub(crate) const SET_UP: &str = "modprobe virtio_net && ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && ip route add default via 10.0.2.2";
/// Keeps the interface's name, whoever starts udev.
pub(crate) const KERNEL_ARGUMENT: &str = "net.ifnames=0";

/// Ports of a machine, each with the one of this host that leads there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    ports: BTreeMap<u16, u16>,
}

impl Network {
    /// Finds a port of this host for one of the machine's.
    pub(crate) fn publish(&mut self, guest: u16) -> Result<()> {
        self.ports.insert(guest, free_port()?);
        Ok(())
    }

    /// Finds a port of this host, and takes the one of the machine with the same number.
    pub(crate) fn publish_any(&mut self) -> Result<u16> {
        let port = free_port()?;
        self.ports.insert(port, port);
        Ok(port)
    }

    pub(crate) fn is_used(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Where this host reaches the port of the machine.
    pub(crate) fn address(&self, guest: u16) -> Option<SocketAddr> {
        self.ports.get(&guest).map(|&port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Options of the emulator.
    pub(crate) fn arguments(&self) -> Vec<String> {
        if !self.is_used() {
            return Vec::new();
        }
        let forwards =
            self.ports.iter().map(|(guest, host)| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        let netdev = format!("user,id=net,ipv6=off{}", forwards.collect::<String>());
        ["-netdev", &netdev, "-device", "virtio-net-pci,netdev=net,romfile="].map(str::to_owned).to_vec()
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on this host")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_publishes_nothing_has_no_network() {
        let mut network = Network::default();
        assert!(network.arguments().is_empty() && network.address(9751).is_none());
        network.publish(9751).unwrap();
        let address = network.address(9751).unwrap();
        assert!(network.arguments()[1].contains(&format!("hostfwd=tcp:{address}-:9751")));
    }
}
