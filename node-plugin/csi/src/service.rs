//! The services of the plugin: CSI's Identity and Node, and the kubelet's registration.

use crate::handle::VolumeHandle;
use crate::refusal::Refusal;
use crate::request::{self, Leave, Publish, Stage};
use crate::volume::{self, Volume};
use crate::volumes::Volumes;
use crate::wire::csi::identity_server::Identity;
use crate::wire::csi::node_server::Node;
use crate::wire::registration::registration_server::Registration;
use crate::wire::{csi, registration};
use crate::world::{Usage, World};
use csi::node_service_capability::Rpc;
use csi::node_service_capability::rpc::Type as NodeCapability;
use csi::plugin_capability::{Service, service::Type as PluginCapability};
use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use umbra_platform::Client;
use umbra_platform::call::RecoverShadow;
use umbra_platform::ending::Stopping;
use umbra_platform::id::{SetId, SetRef};
use umbra_platform::time::Millis;
use umbra_platform::wire::fault;

/// The driver's name.
pub const DRIVER: &str = "imaging.umbra.dev";
/// The label by which a PersistentVolume is bound to its node.
pub const TOPOLOGY: &str = "topology.imaging.umbra.dev/node";

/// How long a file system may take to recover its journal.
const RECOVERY: Millis = Millis::from_secs(120);

type Answer<T> = Result<Response<T>, Status>;

/// The plugin of a node.
#[derive(Debug)]
pub struct Plugin<W> {
    node: String,
    platform: Client,
    volumes: Volumes<W>,
}

impl<W> Clone for Plugin<W> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), platform: self.platform.clone(), volumes: self.volumes.clone() }
    }
}

impl<W: World> Plugin<W> {
    /// The plugin of the node with this name.
    pub fn new(node: String, platform: Client, volumes: Volumes<W>) -> Self {
        Self { node, platform, volumes }
    }

    /// What a file system writes into an image for so long is to count as its recovery. Where umbra-io does not hear of it,
    /// it counts as written, or as recovered until its time is over; the mount goes on all the same.
    async fn recover(&self, set: SetId, lasts: Millis) {
        let call = RecoverShadow { set: SetRef::Id(set), lasts };
        if let Err(error) = self.platform.recover_shadow(call).await {
            tracing::warn!(%set, ?lasts, %error, "umbra-io was not told of the recovery of an image's file system");
        }
    }

    /// The volume, if umbra-io serves it now.
    async fn served(&self, handle: VolumeHandle) -> Result<Volume, Refusal> {
        let status = self.platform.status(volume::scope(handle)).await;
        let status = status.map_err(|error| Refusal::of_client(handle, &error))?;
        Volume::served(handle, &status)
    }
}

/// Answers calls of CSI.
#[derive(Debug)]
pub(crate) struct CsiService<W> {
    plugin: Plugin<W>,
    stopping: Stopping,
}

impl<W> Clone for CsiService<W> {
    fn clone(&self) -> Self {
        Self { plugin: self.plugin.clone(), stopping: self.stopping.clone() }
    }
}

impl<W: World> CsiService<W> {
    pub(crate) fn new(plugin: Plugin<W>, stopping: Stopping) -> Self {
        Self { plugin, stopping }
    }

    /// To the end, also where the kubelet does not wait any more: what counts as a recovery ends with the mount.
    async fn stage(self, ask: Stage) -> Result<(), Status> {
        let served = self.plugin.served(ask.volume).await;
        let recovers = ask.recovers().filter(|_| served.is_ok());
        if let Some(set) = recovers {
            self.plugin.recover(set, RECOVERY).await;
        }
        let volume = ask.volume;
        let staged =
            self.change("NodeStageVolume", volume, move |volumes| volumes.stage(&ask, &served?)).await;
        if let Some(set) = recovers {
            self.plugin.recover(set, Millis(0)).await;
        }
        staged
    }

    /// On a thread that may wait for the kernel, and to the end, also where the kubelet does not wait any more.
    async fn change(
        &self,
        call: &'static str,
        about: impl Display + Send + 'static,
        work: impl FnOnce(&Volumes<W>) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<(), Status> {
        let stopped = || Status::unavailable("umbra-node of this node is stopping; it is tried again");
        let begun = self.stopping.begin().ok_or_else(stopped)?;
        let volumes = self.plugin.volumes.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _begun = begun;
            let done = work(&volumes);
            match &done {
                Ok(()) => tracing::info!(call, volume = %about, "done"),
                Err(refusal) => {
                    tracing::warn!(call, volume = %about, reason = refusal.reason(), %refusal, "refused");
                }
            }
            done
        });
        finish(done.await)
    }
}

/// A panic of the work is a fault of this program, and the caller's call has failed.
fn finish<T>(done: Result<Result<T, Refusal>, tokio::task::JoinError>) -> Result<T, Status> {
    match done {
        Ok(done) => done.map_err(|refusal| fault::to_status(&refusal)),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

fn checked<T, R>(request: Request<R>) -> Result<T, Status>
where
    T: TryFrom<R, Error = Refusal>,
{
    T::try_from(request.into_inner()).map_err(|refusal| fault::to_status(&refusal))
}

#[tonic::async_trait]
impl<W: World> Identity for CsiService<W> {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Answer<csi::GetPluginInfoResponse> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER.into(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Answer<csi::GetPluginCapabilitiesResponse> {
        let service = Service { r#type: PluginCapability::VolumeAccessibilityConstraints.into() };
        let capability =
            csi::PluginCapability { r#type: Some(csi::plugin_capability::Type::Service(service)) };
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Answer<csi::ProbeResponse> {
        let answer = self.plugin.platform.list().await;
        if let Err(error) = &answer {
            tracing::debug!(%error, "not ready");
        }
        Ok(Response::new(csi::ProbeResponse { ready: Some(answer.is_ok()) }))
    }
}

#[tonic::async_trait]
impl<W: World> Node for CsiService<W> {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Answer<csi::NodeStageVolumeResponse> {
        let staging = tokio::spawn(self.clone().stage(checked(request)?));
        staging.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Answer<csi::NodeUnstageVolumeResponse> {
        let ask: Leave = checked(request)?;
        self.change("NodeUnstageVolume", ask.volume, move |volumes| volumes.unstage(&ask)).await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Answer<csi::NodePublishVolumeResponse> {
        let ask: Publish = checked(request)?;
        let handle = ask.stage.volume;
        let served = self.plugin.served(handle).await;
        self.change("NodePublishVolume", handle, move |volumes| volumes.publish(&ask, &served?)).await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Answer<csi::NodeUnpublishVolumeResponse> {
        let ask: Leave = checked(request)?;
        self.change("NodeUnpublishVolume", ask.volume, move |volumes| volumes.unpublish(&ask)).await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Answer<csi::NodeGetVolumeStatsResponse> {
        let asked = request::stats(request.get_ref()).map_err(|refusal| fault::to_status(&refusal))?;
        let volumes = self.plugin.volumes.clone();
        let usage = finish(tokio::task::spawn_blocking(move || volumes.usage(asked.0, &asked.1)).await)?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage: in_wire(&usage), volume_condition: None }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Answer<csi::NodeGetCapabilitiesResponse> {
        let capabilities = [
            NodeCapability::StageUnstageVolume,
            NodeCapability::GetVolumeStats,
            NodeCapability::SingleNodeMultiWriter,
        ];
        let capability = |capability: NodeCapability| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(Rpc { r#type: capability.into() })),
        };
        let capabilities = capabilities.into_iter().map(capability).collect();
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<csi::NodeGetInfoRequest>) -> Answer<csi::NodeGetInfoResponse> {
        let node = &self.plugin.node;
        let segments = HashMap::from([(TOPOLOGY.to_owned(), node.clone())]);
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: node.clone(),
            max_volumes_per_node: 0,
            accessible_topology: Some(csi::Topology { segments }),
        }))
    }
}

fn in_wire(usage: &Usage) -> Vec<csi::VolumeUsage> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let entry = |unit: csi::volume_usage::Unit, total: u64, free: u64, available: u64| csi::VolumeUsage {
        unit: unit.into(),
        total: number(total),
        used: number(total.saturating_sub(free)),
        available: number(available),
    };
    let bytes = csi::volume_usage::Unit::Bytes;
    match usage.inodes {
        Some((inodes, free)) => vec![
            entry(bytes, usage.bytes, usage.bytes_free, usage.bytes_available),
            entry(csi::volume_usage::Unit::Inodes, inodes, free, free),
        ],
        // What of a device is in use is known to whoever uses it.
        None => vec![csi::VolumeUsage { used: 0, ..entry(bytes, usage.bytes, 0, 0) }],
    }
}

/// Tells the kubelet where the plugin is.
#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) endpoint: PathBuf,
}

#[tonic::async_trait]
impl Registration for Arc<Register> {
    async fn get_info(&self, _: Request<registration::InfoRequest>) -> Answer<registration::PluginInfo> {
        Ok(Response::new(registration::PluginInfo {
            r#type: "CSIPlugin".into(),
            name: DRIVER.into(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Answer<registration::RegistrationStatusResponse> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!(driver = DRIVER, "the kubelet has registered the driver");
        } else {
            // It looks at the socket again by itself.
            tracing::error!(driver = DRIVER, error = status.error, "the kubelet did not register the driver");
        }
        Ok(Response::new(registration::RegistrationStatusResponse {}))
    }
}
