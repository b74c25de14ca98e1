//! The CSI plugin beside the facade: where it listens, and what it is made of.

use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use umbra_csi::{Doors, Ledger, Linux, Plugin, Sockets, Volumes};
use umbra_facade::identity::Segment;
use umbra_platform::Client;

/// Options of the CSI plugin.
#[derive(Clone, Debug, Args)]
#[group(id = "csi")]
pub(crate) struct Options {
    /// Serve CSI there: pods get masters and shadows through it. Without it, and without --kubelet-dir, nowhere.
    #[arg(long, value_name = "FILE")]
    csi_socket: Option<PathBuf>,
    /// Tell the kubelet with this folder that there is a CSI plugin, and serve CSI below it unless --csi-socket says where.
    /// The folder must have the same name here as for the kubelet.
    #[arg(long, value_name = "FOLDER")]
    kubelet_dir: Option<PathBuf>,
}

impl Options {
    /// The sockets; none where CSI is not served.
    pub(crate) fn sockets(&self) -> Option<Sockets> {
        let of_kubelet = self.kubelet_dir.as_deref().map(Sockets::of_kubelet);
        match (&self.csi_socket, of_kubelet) {
            (None, sockets) => sockets,
            (Some(csi), None) => Some(Sockets { csi: csi.clone(), registration: None }),
            (Some(csi), Some(sockets)) => Some(Sockets { csi: csi.clone(), ..sockets }),
        }
    }
}

/// The plugin and its sockets.
pub(crate) struct Csi {
    plugin: Plugin<Linux>,
    doors: Doors,
}

impl Csi {
    /// Opens the ledger and binds the sockets.
    pub(crate) async fn bind(
        node: &Segment,
        platform: Client,
        state_dir: &Path,
        sockets: &Sockets,
    ) -> anyhow::Result<Self> {
        let ledger = Linux::new(state_dir).and_then(|linux| Ledger::open(Arc::new(linux)));
        let ledger = ledger.context("open the ledger of the volumes that are in use")?;
        let doors = sockets.bind().await?;
        tracing::info!(socket = %sockets.csi.display(), "CSI is served");
        Ok(Self { plugin: Plugin::new(node.to_string(), platform, Volumes::new(ledger)), doors })
    }

    /// Serves until told to stop.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        Ok(umbra_csi::serve(self.plugin, self.doors, stop).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csi_is_served_where_somebody_says_so() {
        let sockets = |csi: Option<&str>, kubelet: Option<&str>| {
            Options { csi_socket: csi.map(Into::into), kubelet_dir: kubelet.map(Into::into) }.sockets()
        };
        assert_eq!(sockets(None, None), None);
        let alone = Sockets { csi: "/x/csi.sock".into(), registration: None };
        assert_eq!(sockets(Some("/x/csi.sock"), None), Some(alone));
        let own = "/var/lib/kubelet/plugins/imaging.umbra.dev/csi.sock";
        let registration = Some("/var/lib/kubelet/plugins_registry/imaging.umbra.dev-reg.sock".into());
        let told = Sockets { csi: own.into(), registration };
        assert_eq!(sockets(None, Some("/var/lib/kubelet")), Some(told.clone()));
        let elsewhere = Sockets { csi: "/x/csi.sock".into(), ..told };
        assert_eq!(sockets(Some("/x/csi.sock"), Some("/var/lib/kubelet")), Some(elsewhere));
    }
}
