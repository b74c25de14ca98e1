//! `umbra-operator run`: everything is wired here. One process leads and acts; the others wait.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::events::Event;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use umbra_crds::{DeviceGrant, ImagingOperation, MasterVolume, Safety, SetGroup, TargetKind, VolumeSet};
use umbra_facade::folder::FolderError;
use umbra_facade::identity::{Identity, Role, Segment};
use umbra_facade::request::SIGNER;
use umbra_facade::{ClientError, CredentialFiles, CredentialFolder, Fence};
use umbra_platform::CallDeadlines;
use umbra_platform::call::{Answer, Outcome, Scope};
use umbra_platform::id::RequestId;
use umbra_platform::status::Status;
use uuid::Uuid;

use crate::authority::{self, AuthorityError, Settings};
use crate::certificates::{self, Way};
use crate::cluster::{Cluster, ClusterError, Key, Kind};
use crate::facades::Facades;
use crate::kubernetes::Kubernetes;
use crate::lead::{Candidate, LOOK_EVERY, raise_fence};
use crate::metrics::Tally;
use crate::nodes::{Change, NodeAddress, Nodes};
use crate::reconcile::{Again, Reconciled, reconcile};

/// After a failure of the API server.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// After somebody else has written what this process was about to write.
const AFTER_RACE: Duration = Duration::from_millis(50);

/// How long a process that is about to lead looks for a certificate of its own: a part of the time that a lease holds.
const CERTIFIED_WITHIN: Duration = Duration::from_secs(2);

/// Options of the operator.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The kubeconfig file; without it, what the pod's service account gives.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of the cluster in certificates.
    #[arg(long)]
    cluster: Segment,
    /// The namespace of the Lease and of the fence.
    #[arg(long, default_value = "umbra-system")]
    namespace: String,
    /// A name for this process among its like, such as that of its pod.
    #[arg(long, env = "POD_NAME", default_value = "umbra-operator")]
    name: String,
    #[command(flatten)]
    tls: certificates::Options,
    /// Serve probes and metrics there; without it, nowhere.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
}

/// Why the operator could not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("kubeconfig: {0}")]
    Kubeconfig(String),
    #[error("no client of the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("the operator's own certificate: {0}")]
    Folder(#[from] FolderError),
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::System { what, source }
}

/// The cluster and its nodes as they are.
#[derive(Debug)]
struct Real {
    cluster: Kubernetes,
    nodes: Facades,
    looks: Tally,
}

impl Cluster for Real {
    async fn get<K: Kind>(&self, key: &Key) -> Result<Option<K>, ClusterError> {
        self.cluster.get(key).await
    }

    async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClusterError> {
        self.cluster.list(namespace).await
    }

    async fn list_where<K: Kind>(
        &self,
        namespace: &str,
        field: &'static str,
        value: &str,
    ) -> Result<Vec<K>, ClusterError> {
        self.cluster.list_where(namespace, field, value).await
    }

    async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.cluster.create(object).await
    }

    async fn replace<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.cluster.replace(object).await
    }

    async fn replace_status<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.cluster.replace_status(object).await
    }

    async fn replace_approval(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        self.cluster.replace_approval(request).await
    }

    async fn delete<K: Kind>(&self, object: &K) -> Result<(), ClusterError> {
        self.cluster.delete(object).await
    }

    async fn announce(&self, about: ObjectReference, event: Event) {
        self.cluster.announce(about, event).await;
    }
}

impl Nodes for Real {
    async fn status(&self, node: &NodeAddress, scope: Scope) -> Result<Status, ClientError> {
        self.nodes.status(node, scope).await
    }

    async fn query_op(&self, node: &NodeAddress, request: RequestId) -> Result<Outcome, ClientError> {
        self.nodes.query_op(node, request).await
    }

    async fn highest_fence(&self, node: &NodeAddress) -> Result<Option<Fence>, ClientError> {
        self.nodes.highest_fence(node).await
    }

    async fn fence(&self, node: &NodeAddress, fence: Fence) -> Result<(), ClientError> {
        self.nodes.fence(node, fence).await
    }

    async fn change(&self, node: &NodeAddress, change: Change) -> Result<Answer, ClientError> {
        self.nodes.change(node, change).await
    }
}

/// Runs until it is told to stop.
pub fn main(run: &Run) -> ExitCode {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(system("start")).and_then(|runtime| runtime.block_on(serve(run)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A client of the API server, by a kubeconfig file or as a pod has it.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> Result<Client, StartError> {
    let config = match kubeconfig {
        Some(path) => {
            let unusable = |error: kube::config::KubeconfigError| {
                StartError::Kubeconfig(format!("{}: {error}", path.display()))
            };
            let found = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(found, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::incluster().map_err(|error| StartError::Kubeconfig(error.to_string()))?,
    };
    Ok(Client::try_from(config)?)
}

async fn serve(run: &Run) -> Result<(), StartError> {
    let mut term = signal(SignalKind::terminate()).map_err(system("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("signals"))?;
    let client = client(run.kubeconfig.as_deref()).await?;
    // A process that follows another of the same pod is another.
    let name = format!("{}_{}", run.name, Uuid::new_v4());
    let (files, authority) = credentials(run)?;
    let (fence_to, fence) = watch::channel(None);
    let nodes = Facades::new(run.cluster.clone(), files, CallDeadlines::default(), fence.clone());
    let (calls, looks) = (Tally::default(), Tally::default());
    let cluster = Kubernetes::new(client.clone(), &name, calls.clone());
    let real = Arc::new(Real { cluster, nodes, looks: looks.clone() });
    if let Some(address) = run.http {
        let listener = TcpListener::bind(address).await.map_err(system(format!("listen on {address}")))?;
        let address = listener.local_addr().map_err(system("listen"))?;
        tracing::info!(%address, "probes and metrics are served");
        tokio::spawn(umbra_probes::serve(listener, Look { fence: fence.clone(), calls, looks }));
    }
    tracing::info!(name, cluster = %run.cluster, "starts");
    tokio::select! {
        () = lead(&real, &client, run, authority.as_ref(), &name, &fence_to) => {}
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// Where the certificates are; and, where this process is the authority, what it signs by.
fn credentials(run: &Run) -> Result<(CredentialFiles, Option<Settings>), FolderError> {
    match run.tls.way() {
        Way::External(files) => Ok((files, None)),
        Way::Builtin { folder, node_namespace } => {
            let identity = Identity { cluster: run.cluster.clone(), role: Role::Operator };
            let folder = CredentialFolder::open(&folder, identity)?;
            let settings = Settings {
                cluster: run.cluster.clone(),
                namespace: run.namespace.clone(),
                node_namespace,
                folder,
            };
            Ok((settings.folder.files(), Some(settings)))
        }
    }
}

/// Leads whenever it may, and acts while it leads.
async fn lead(
    real: &Arc<Real>,
    client: &Client,
    run: &Run,
    authority: Option<&Settings>,
    name: &str,
    fence: &watch::Sender<Option<Fence>>,
) {
    let begin = Instant::now();
    let mut candidate = Candidate::new(&run.namespace, name);
    let mut outdone = real.nodes.outdone();
    let mut acting: Option<JoinSet<()>> = None;
    loop {
        let now = begin.elapsed();
        match tokio::time::timeout(LOOK_EVERY * 2, candidate.attend(&**real, now, &wall())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be taken or renewed now"),
            Err(_) => tracing::warn!("the API server does not answer about the lease"),
        }
        let leads = candidate.leads(begin.elapsed());
        let beaten =
            outdone.borrow_and_update().is_some_and(|other| fence.borrow().is_some_and(|own| own < other));
        if (!leads || beaten) && acting.take().is_some() {
            // What is under way is dropped: the node goes on with what it has begun, and is asked about it.
            fence.send_replace(None);
            tracing::warn!(beaten, "it leads no more");
        }
        if leads && acting.is_none() {
            if let Some(authority) = authority {
                certify_itself(real, authority).await;
            }
            match raise_fence(&**real, &run.namespace).await {
                // Between winning the lease and having the fence another may have won both.
                Ok(raised) if candidate.leads(begin.elapsed()) => {
                    tracing::info!(fence = %raised, "leads");
                    fence.send_replace(Some(raised));
                    acting = Some(controllers(real, client, authority));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "it cannot take a fence"),
            }
        }
        let ended = async {
            match &mut acting {
                Some(acting) => acting.join_next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = outdone.changed() => {}
            _ = ended => {
                // One kind would be looked after by nobody: another process takes the place of this one.
                tracing::error!("what looks after a kind has ended");
                return;
            }
        }
    }
}

/// Nodes are asked for the highest fence with the certificate of this process, which may have none yet.
async fn certify_itself(real: &Real, authority: &Settings) {
    let tended = authority::tend(real, authority, SystemTime::now());
    match tokio::time::timeout(CERTIFIED_WITHIN, tended).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "nodes may not know this leader yet"),
        Err(_) => tracing::warn!(
            "the API server does not answer about the authority; nodes may not know this leader yet"
        ),
    }
}

fn wall() -> Time {
    Time(Timestamp::now())
}

/// A task for each kind; they end when the set is dropped.
fn controllers(real: &Arc<Real>, client: &Client, authority: Option<&Settings>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(authority) = authority {
        tasks.spawn(authority::keep(Arc::clone(real), authority.clone()));
        tasks.spawn(sign(client.clone(), Arc::clone(real), authority.clone()));
    }
    let sets = || Api::<VolumeSet>::all(client.clone());
    let of_kind = watcher::Config::default;
    let masters = Controller::new(Api::<MasterVolume>::all(client.clone()), of_kind()).watches(
        sets(),
        of_kind(),
        |set: VolumeSet| {
            let master = ObjectRef::new(set.spec.master_ref.name.as_str());
            set.metadata.namespace.as_deref().map(|namespace| master.within(namespace))
        },
    );
    tasks.spawn(attend(masters, Arc::clone(real)));
    let operations = || Api::<ImagingOperation>::all(client.clone());
    let with_operations = Controller::new(sets(), of_kind()).watches(operations(), of_kind(), sets_of);
    tasks.spawn(attend(with_operations, Arc::clone(real)));
    let groups = Controller::new(Api::<SetGroup>::all(client.clone()), of_kind());
    tasks.spawn(attend(groups.watches(operations(), of_kind(), groups_of), Arc::clone(real)));
    let with_sets = Controller::new(operations(), of_kind()).watches(sets(), of_kind(), operation_of);
    tasks.spawn(attend(with_sets, Arc::clone(real)));
    tasks
        .spawn(attend(Controller::new(Api::<DeviceGrant>::all(client.clone()), of_kind()), Arc::clone(real)));
    tasks
}

/// The sets that an operation acts on: they change with it.
fn sets_of(operation: ImagingOperation) -> Vec<ObjectRef<VolumeSet>> {
    let namespace = operation.metadata.namespace.unwrap_or_default();
    let status = operation.status.unwrap_or_default();
    let members = status.cut.into_iter().flat_map(|cut| cut.members).map(|member| member.name);
    let keepers = status.safety.into_iter().flat_map(|safety| safety.members);
    let kept = operation.spec.safety.and_then(|safety| safety.volume_set_ref).map(|set| set.name);
    let target = Some(operation.spec.target).filter(|target| target.kind == TargetKind::VolumeSet);
    let names = members.chain(keepers).chain(kept).chain(target.map(|target| target.name));
    names.map(|name| ObjectRef::new(name.as_str()).within(&namespace)).collect()
}

/// The groups that an operation cuts.
fn groups_of(operation: ImagingOperation) -> Vec<ObjectRef<SetGroup>> {
    let namespace = operation.metadata.namespace.unwrap_or_default();
    let targets = [Some(operation.spec.target), operation.spec.safety.as_ref().and_then(Safety::target)];
    let groups = targets.into_iter().flatten().filter(|target| target.kind == TargetKind::SetGroup);
    groups.map(|group| ObjectRef::new(group.name.as_str()).within(&namespace)).collect()
}

/// The operation that has a set to itself: it waits for what the set shows.
fn operation_of(set: VolumeSet) -> Option<ObjectRef<ImagingOperation>> {
    let operation = set.status?.current_operation?;
    Some(ObjectRef::new(operation.as_str()).within(&set.metadata.namespace?))
}

/// Looks after every object of a kind.
async fn attend<K>(controller: Controller<K>, real: Arc<Real>)
where
    K: Reconciled + Debug,
{
    let look = |object: Arc<K>, real: Arc<Real>| async move {
        let looked = reconcile::<K>(&*real, &Key::of(&*object), wall).await;
        real.looks.count(&K::kind(&()), looked.is_ok());
        Ok(match looked? {
            Again::Never => Action::await_change(),
            Again::After(time) => Action::requeue(time),
        })
    };
    let failed = |_: Arc<K>, error: &ClusterError, _: Arc<Real>| {
        Action::requeue(match error {
            ClusterError::Changed { .. } | ClusterError::Missing { .. } => AFTER_RACE,
            ClusterError::Exists { .. } | ClusterError::Refused { .. } | ClusterError::Silent { .. } => {
                AFTER_FAILURE
            }
        })
    };
    let mut ends = std::pin::pin!(controller.run(look, failed, real));
    while let Some(end) = ends.next().await {
        if let Err(error) = end {
            tracing::debug!(kind = %K::kind(&()), %error, "tried again");
        }
    }
}

/// Answers every request for a certificate.
async fn sign(client: Client, real: Arc<Real>, authority: Settings) {
    let ours = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
    let requests = Controller::new(Api::<CertificateSigningRequest>::all(client), ours);
    let look = |request: Arc<CertificateSigningRequest>, context: Arc<(Arc<Real>, Settings)>| async move {
        let (real, authority) = &*context;
        let again = authority::answer(&**real, authority, &Key::of(&*request), SystemTime::now()).await?;
        Ok(match again {
            Again::Never => Action::await_change(),
            Again::After(time) => Action::requeue(time),
        })
    };
    let failed = |request: Arc<CertificateSigningRequest>, error: &AuthorityError, _| {
        if error.is_overtaken() {
            return Action::requeue(AFTER_RACE);
        }
        tracing::warn!(request = %Key::of(&*request), %error, "a certificate cannot be signed now");
        Action::requeue(AFTER_FAILURE)
    };
    let mut ends = std::pin::pin!(requests.run(look, failed, Arc::new((real, authority))));
    while let Some(end) = ends.next().await {
        if let Err(error) = end {
            tracing::debug!(%error, "tried again");
        }
    }
}

/// What probes and scrapes look at.
struct Look {
    fence: watch::Receiver<Option<Fence>>,
    calls: Tally,
    looks: Tally,
}

impl umbra_probes::Told for Look {
    // A process that waits for its turn is as ready as one that leads.
    async fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn metrics(&self) -> Result<String, String> {
        let fence = self.fence.borrow().map_or(0, Fence::get);
        let leads = u8::from(fence > 0);
        let calls = ("umbra_operator_api_calls_total", "Calls to the API server, by method.", "method");
        let looks = ("umbra_operator_reconciliations_total", "How often an object was looked after.", "kind");
        let calls = self.calls.series(calls.0, calls.1, calls.2);
        let looks = self.looks.series(looks.0, looks.1, looks.2);
        Ok(format!(
            "# HELP umbra_operator_leads Whether this process acts.\n\
             # TYPE umbra_operator_leads gauge\n\
             umbra_operator_leads {leads}\n\
             # HELP umbra_operator_fence The fence of this leader, 0 while it does not lead.\n\
             # TYPE umbra_operator_fence gauge\n\
             umbra_operator_fence {fence}\n\
             {calls}{looks}"
        ))
    }
}
