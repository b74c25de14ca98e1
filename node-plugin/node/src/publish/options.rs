//! Options of what is published.

use clap::Args;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Longest address: a limit of the kind.
const ENDPOINT_BYTES_MAX: usize = 300;

/// What is published of this node, and where.
#[derive(Clone, Debug, Args)]
#[group(id = "published")]
pub(crate) struct Options {
    /// Keep the ImagingNode of this node's name up to date, in the cluster that this runs in.
    #[arg(long)]
    publish: bool,
    /// Find the cluster by this file and not as a pod does.
    #[arg(long, value_name = "FILE", requires = "asks-cluster")]
    kubeconfig: Option<PathBuf>,
    /// Where the operator reaches the facade.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "publish")]
    advertise: Option<Endpoint>,
    /// The identity of the installed system. In a container, mount the host's: an image's is that of many nodes.
    #[arg(long, value_name = "FILE", default_value = "/etc/machine-id")]
    machine_id_file: PathBuf,
    /// Seconds between two looks at what is to be published.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    publish_interval: u64,
}

impl Options {
    /// Whether anything is published.
    pub(crate) fn are_on(&self) -> bool {
        self.publish
    }

    /// The file by which the cluster is found; none: as a pod does.
    pub(crate) fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    pub(super) fn endpoint(&self) -> Option<String> {
        self.advertise.as_ref().map(Endpoint::to_string)
    }

    pub(super) fn machine_id_file(&self) -> &Path {
        &self.machine_id_file
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(self.publish_interval)
    }
}

/// Where a server is reached: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(String);

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or("no port: write ADDRESS:PORT")?;
        if !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("{port:?} is no port: write ADDRESS:PORT"));
        }
        let plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match in_brackets {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && plain(host),
        };
        if !is_host || text.len() > ENDPOINT_BYTES_MAX {
            return Err(format!(
                "{host:.64?} is neither a name nor an address; one of IPv6 is put in brackets"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_can_be_connected_to() {
        for good in ["192.0.2.7:9751", "[2001:db8::7]:9751", "node-a.example.com:1"] {
            assert_eq!(good.parse::<Endpoint>().map(|endpoint| endpoint.to_string()).as_deref(), Ok(good));
        }
        let long = format!("{}:9751", "a".repeat(ENDPOINT_BYTES_MAX));
        for bad in ["", "9751", ":9751", "a:", "a:0", "a:70000", "2001:db8::7:9751", "a b:1", "[x]:1", &long]
        {
            bad.parse::<Endpoint>().expect_err(bad);
        }
    }
}
