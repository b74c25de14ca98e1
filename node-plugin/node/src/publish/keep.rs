//! Looks, decides and tells, again and again.

use super::cluster::{Cluster, ClusterError};
use super::options::Options;
use super::report::{Ended, Report};
use super::status::{NodeUid, Observed, Platform, Step, next};
use crate::inventory::{GatherError, Rules, gather};
use crate::{certificates, facts, preflight, retry};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::path::Path;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use umbra_crds::{DevicePattern, FrontendInUse, NodeDevice};
use umbra_facade::{CredentialFiles, FenceKeeper};
use umbra_identity::Blind;
use umbra_platform::Client;
use umbra_platform::status::Listing;

/// The first pause after a look that failed; each further one is twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest, unless looks are further apart anyway.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The kubelet's folder, where no option says otherwise.
const KUBELET_FOLDER: &str = "/var/lib/kubelet";

/// What the cluster is told of a certificate that does not serve: one text for each, however often it is tried again.
const EXPIRED: &str = "the node's certificate is over, and nobody takes up a connection; issue another";
const NOT_SIGNED: &str = "the node has no certificate that serves; look at its CertificateSigningRequests, whether an operator leads, \
     and at the log of umbra-node";

/// Why a look came to nothing.
#[derive(Debug, Error)]
enum LookError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("look at the node's devices")]
    Devices(#[from] GatherError),
    #[error("look at the node's devices: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// How a look ended, and why nothing could be written.
type Looked = (Ended, Option<String>);

/// What is looked at, and where it is told.
pub(crate) struct Publisher {
    node: String,
    options: Options,
    rules: Rules,
    platform: Client,
    fence: FenceKeeper,
    credentials: CredentialFiles,
    /// How it stands with the certificate, where the operator signs it.
    enrolled: Option<certificates::Report>,
    cluster: Option<Cluster>,
    said: Said,
}

impl Publisher {
    pub(crate) fn new(
        node: String,
        options: Options,
        device_allow: &[DevicePattern],
        state_dir: &Path,
        platform: Client,
        fence: FenceKeeper,
        credentials: CredentialFiles,
    ) -> Self {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        let rules = Rules {
            allowed: device_allow.to_vec(),
            system_folders: vec!["/".into(), KUBELET_FOLDER.into(), state_dir],
        };
        let (enrolled, cluster, said) = (None, None, Said::default());
        Self { node, options, rules, platform, fence, credentials, enrolled, cluster, said }
    }

    /// With a certificate that the operator signs.
    pub(crate) fn enrolled(self, enrolled: Option<certificates::Report>) -> Self {
        Self { enrolled, ..self }
    }

    /// One look, and what follows from it.
    async fn look(&mut self) -> Result<Looked, LookError> {
        let machine_id = match read_machine_id(self.options.machine_id_file()) {
            Ok(id) => id,
            Err(problem) => return Ok((Ended::Refused, Some(problem))),
        };
        let cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => Cluster::find(self.options.kubeconfig()).await?,
        };
        let observed = self.observe(machine_id, cluster.node_uid(&self.node).await).await?;
        let stored = cluster.imaging_node(&self.node).await?;
        let looked = match next(&stored, &observed, Time(Timestamp::now())) {
            Step::Rest => (Ended::AtRest, None),
            Step::Write(status) => {
                cluster.write(stored, *status).await?;
                tracing::info!(node = self.node, "ImagingNode written");
                (Ended::Written, None)
            }
            Step::Refuse(foreign) => (Ended::Refused, Some(foreign.to_string())),
        };
        // One that failed is found anew: its address, or who we are there, may have changed.
        self.cluster = Some(cluster);
        Ok(looked)
    }

    async fn observe(&mut self, machine_id: String, node_uid: NodeUid) -> Result<Observed, LookError> {
        let listed = self.platform.list().await;
        let platform = match &listed {
            Ok(listing) => Platform::Up {
                masters: listing.masters.len(),
                version: listing.version.as_ref().map(ToString::to_string),
            },
            Err(error) => Platform::Down { problem: format!("{error}; {}", error.remedy()) },
        };
        let uncertified = self.uncertified();
        let devices = self.devices(listed.ok()).await?;
        let facts = facts::gather();
        self.said.private(facts.is_in_private_pid_namespace);
        Ok(Observed {
            machine_id,
            boot_id: read_line(Path::new("/proc/sys/kernel/random/boot_id")),
            node_uid,
            endpoint: self.options.endpoint(),
            kernel: facts.kernel_release.as_deref().map(|release| release.trim().to_owned()),
            frontend: facts.has_ublk.then_some(FrontendInUse::Ublk),
            fence: self.fence.highest().await,
            platform,
            findings: preflight::judge(&facts),
            uncertified,
            devices,
        })
    }

    fn uncertified(&self) -> Option<&'static str> {
        if let Some(enrolled) = &self.enrolled {
            return enrolled.waits().map(|_| NOT_SIGNED);
        }
        let expired = self.credentials.has_expired(SystemTime::now()).unwrap_or_else(|error| {
            tracing::debug!(%error, "whether the certificate is over cannot be told");
            false
        });
        expired.then_some(EXPIRED)
    }

    async fn devices(&mut self, configured: Option<Listing>) -> Result<Vec<NodeDevice>, LookError> {
        let rules = self.rules.clone();
        // What hangs here is a thread of its own; the facade goes on.
        let looking = tokio::task::spawn_blocking(move || gather(configured.as_ref(), &rules));
        let (inventory, blind) = looking.await??;
        self.said.left_out(inventory.left_out);
        self.said.blind(&blind);
        Ok(inventory.devices)
    }
}

/// Keeps the object up to date for as long as the process lives.
pub(crate) async fn keep(mut publisher: Publisher, report: Report) {
    let interval = publisher.options.interval();
    let mut failures = 0_u32;
    loop {
        let looked = publisher.look().await;
        let (ended, trouble) = looked.unwrap_or_else(|error| (Ended::Failed, Some(retry::chain(&error))));
        publisher.said.trouble(trouble.as_deref());
        report.ended(ended, trouble);
        failures = if ended == Ended::Failed { failures.saturating_add(1) } else { 0 };
        tokio::time::sleep(pause_after(failures, interval)).await;
    }
}

/// How long to wait after so many looks in a row that failed.
fn pause_after(failures: u32, interval: Duration) -> Duration {
    retry::pause(failures, RETRY_FIRST, RETRY_MAX.max(interval)).unwrap_or(interval)
}

/// The identity of the installed system, or why nobody can tell.
fn read_machine_id(file: &Path) -> Result<String, String> {
    let id = read_line(file).filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    id.ok_or_else(|| {
        format!(
            "{} holds no machine id, so nobody can tell whether ImagingNode is that of this machine; mount the host's \
             /etc/machine-id there",
            file.display()
        )
    })
}

fn read_line(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What was said in the log, so that it is said once.
#[derive(Debug, Default)]
struct Said {
    trouble: Option<String>,
    left_out: usize,
    is_blind: bool,
    is_private: bool,
}

impl Said {
    fn trouble(&mut self, what: Option<&str>) {
        if self.trouble.as_deref() == what {
            return;
        }
        match what {
            Some(what) => tracing::warn!("what this node is cannot be published; it is tried again: {what}"),
            None => tracing::info!("what this node is is published again"),
        }
        self.trouble = what.map(str::to_owned);
    }

    fn private(&mut self, is_private: bool) {
        if is_private && !self.is_private {
            tracing::warn!(
                "this runs in a PID namespace of its own, and sees neither the host's mounts nor who has devices open: devices \
                 that are in use may look free; set hostPID"
            );
        }
        self.is_private = is_private;
    }

    fn left_out(&mut self, count: usize) {
        if count != self.left_out {
            tracing::warn!(count, "ImagingNode cannot name all devices; those of least use are left out");
            self.left_out = count;
        }
    }

    /// What it is changes with the processes that there are; that there is anything does not.
    fn blind(&mut self, what: &[Blind]) {
        if let Some(first) = what.first()
            && !self.is_blind
        {
            tracing::warn!(%first, "not everything that may use a device could be looked at");
        }
        self.is_blind = !what.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_more_slowly() {
        let interval = Duration::from_secs(30);
        let seconds = |failures| pause_after(failures, interval).as_secs();
        let first: Vec<u64> = (0..9).map(seconds).collect();
        assert_eq!(first, [30, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(u32::MAX), 60);
        assert_eq!(pause_after(u32::MAX, Duration::from_secs(600)).as_secs(), 600, "never faster than looks");
    }

    #[test]
    fn a_machine_without_an_identity_is_told_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("machine-id");
        let refused = read_machine_id(&file).expect_err("there is none");
        assert!(refused.contains("machine-id") && refused.contains("mount"), "{refused}");
        for bad in ["", "uninitialized\n", "3d1219c7"] {
            std::fs::write(&file, bad).expect("written");
            read_machine_id(&file).expect_err(bad);
        }
        std::fs::write(&file, "3d1219c7c4c5404aaa1f6d2a48adfda4\n").expect("written");
        assert_eq!(read_machine_id(&file).as_deref(), Ok("3d1219c7c4c5404aaa1f6d2a48adfda4"));
    }
}
