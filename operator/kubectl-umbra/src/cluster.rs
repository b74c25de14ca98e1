//! The cluster, as `kubectl` would find it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use umbra_actions::Objects;
use umbra_crds::{GROUP, VERSION};

use crate::error::Failure;
use crate::writing::{DryRun, Rehearsal, Written};

/// Objects of one answer; a cluster with more is asked again for the rest.
const PAGE: u32 = 500;
/// Under which name changes of fields are recorded.
const MANAGER: &str = "kubectl-umbra";

/// Where the cluster is, and what of it is meant.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The namespace. Left out, it is that of the context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The context of the kubeconfig file.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The kubeconfig file.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    request_timeout: u64,
}

/// A cluster, and what of it is meant.
pub(crate) struct Cluster {
    client: Client,
    /// None is all.
    namespace: Option<String>,
}

impl Cluster {
    pub(crate) async fn connect(options: &Options) -> Result<Self, Failure> {
        let config = config(options).await?;
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client =
            Client::try_from(config).map_err(|error| Failure::Failed(format!("no connection: {error}")))?;
        Ok(Self { client, namespace: (!options.all_namespaces).then_some(namespace) })
    }

    /// The one namespace that is meant: what is changed is changed in one.
    pub(crate) fn namespace(&self) -> Result<&str, Failure> {
        let all = || Failure::Usage("-A does not go with this command: name a namespace with -n".to_owned());
        self.namespace.as_deref().ok_or_else(all)
    }

    /// A kind in the one namespace that is meant.
    pub(crate) fn kind<K>(&self) -> Result<Api<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Ok(Api::namespaced(self.client.clone(), self.namespace()?))
    }

    /// A kind that belongs to no namespace.
    pub(crate) fn kind_of_cluster<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    /// Everything that decides about images in the namespace that is meant.
    pub(crate) async fn images(&self) -> Result<Objects, Failure> {
        let (masters, sets, groups) =
            tokio::try_join!(self.namespaced(), self.namespaced(), self.namespaced())?;
        Ok(Objects { masters, sets, groups, ..Objects::default() })
    }

    /// All objects of a kind in the namespace that is meant.
    pub(crate) async fn namespaced<K>(&self) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        list(&api, &ListParams::default()).await.map_err(|error| failure::<K>(&error))
    }

    /// All objects of a kind that belongs to no namespace; none where who asks may not see them.
    pub(crate) async fn visible<K>(&self) -> Result<Option<Vec<K>>, Failure>
    where
        K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        match list(&self.kind_of_cluster(), &ListParams::default()).await {
            Ok(objects) => Ok(Some(objects)),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            Err(error) => Err(failure::<K>(&error)),
        }
    }
}

/// The object of this name, if there is one.
pub(crate) async fn find<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match api.get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_missing(&error, |name| !name.is_empty()) => Ok(None),
        Err(error) => Err(failure::<K>(&error)),
    }
}

/// The object of this name, if there is one and who asks may see it.
pub(crate) async fn visible<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match api.get(name).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) if !is_missing(&error, |name| !name.is_empty()) => Err(failure::<K>(&error)),
        found => Ok(found.ok()),
    }
}

/// The object of this name.
pub(crate) async fn get<K>(api: &Api<K>, name: &str) -> Result<K, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let missing = || Failure::Failed(format!("there is no {} {name} here", K::kind(&())));
    find(api, name).await?.ok_or_else(missing)
}

/// Objects of a kind that a selector of fields chooses.
pub(crate) async fn select<K>(api: &Api<K>, fields: &str) -> Result<Vec<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    list(api, &ListParams::default().fields(fields)).await.map_err(|error| failure::<K>(&error))
}

/// Creates an object. One of the same name that is there already is left as it is, and that is a failure.
pub(crate) async fn create<K>(api: &Api<K>, object: K, rehearsal: Rehearsal) -> Result<Written<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let object = match rehearsal.dry_run() {
        Some(DryRun::Client) => object,
        how => {
            let parameters = PostParams { dry_run: how.is_some(), field_manager: Some(MANAGER.to_owned()) };
            api.create(&parameters, &object).await.map_err(|error| failure::<K>(&error))?
        }
    };
    Ok(Written::new(object, "created", rehearsal))
}

/// Changes the spec of an object that was read, unless it has changed since. `edited` is what it becomes, `spec` what of it is
/// sent: the rest may hold fields that this version does not know.
pub(crate) async fn change<K>(
    api: &Api<K>,
    edited: K,
    spec: Value,
    rehearsal: Rehearsal,
) -> Result<Written<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = edited.meta().name.clone().unwrap_or_default();
    let version = edited.meta().resource_version.clone();
    let object = match rehearsal.dry_run() {
        Some(DryRun::Client) => edited,
        how => {
            let parameters = PatchParams {
                dry_run: how.is_some(),
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = serde_json::json!({"metadata": {"resourceVersion": version}, "spec": spec});
            let changed = api.patch(&name, &parameters, &Patch::Merge(patch)).await;
            changed.map_err(|error| failure::<K>(&error))?
        }
    };
    Ok(Written::new(object, "changed", rehearsal))
}

/// Deletes an object that was read, and no other that has its name by now.
pub(crate) async fn delete<K>(api: &Api<K>, object: K, rehearsal: Rehearsal) -> Result<Written<K>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if rehearsal.dry_run() != Some(DryRun::Client) {
        let name = object.meta().name.clone().unwrap_or_default();
        let preconditions = Preconditions {
            uid: object.meta().uid.clone(),
            resource_version: object.meta().resource_version.clone(),
        };
        let mut parameters = DeleteParams::default().preconditions(preconditions);
        parameters.dry_run = rehearsal.dry_run().is_some();
        api.delete(&name, &parameters).await.map_err(|error| failure::<K>(&error))?;
    }
    Ok(Written::new(object, "deleted", rehearsal))
}

async fn list<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    chosen: &ListParams,
) -> Result<Vec<K>, kube::Error> {
    let mut objects = Vec::new();
    let mut page = chosen.clone().limit(PAGE);
    loop {
        let answer = api.list(&page).await?;
        objects.extend(answer.items);
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

async fn config(options: &Options) -> Result<Config, Failure> {
    let chosen = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let config = match &options.kubeconfig {
        Some(path) => {
            let found = Kubeconfig::read_from(path)
                .map_err(|error| Failure::Failed(format!("kubeconfig {}: {error}", path.display())))?;
            Config::from_custom_kubeconfig(found, &chosen).await
        }
        None => Config::from_kubeconfig(&chosen).await,
    };
    let mut config = config.map_err(|error| Failure::Failed(format!("kubeconfig: {error}")))?;
    let timeout = Duration::from_secs(options.request_timeout);
    config.connect_timeout = Some(timeout);
    config.read_timeout = Some(timeout);
    Ok(config)
}

/// What went wrong with a kind, and what can be done.
fn failure<K: Resource<DynamicType = ()>>(error: &kube::Error) -> Failure {
    let plural = K::plural(&());
    Failure::Failed(match error {
        error if is_missing(error, |name| name.is_empty()) => {
            format!("the cluster does not know {plural}.{GROUP}/{VERSION}: install Umbra's kinds first")
        }
        kube::Error::Api(status) => format!("{plural}: {}", status.message),
        other => format!("{plural}: {other}"),
    })
}

/// Whether something is not there: an object, which then has a name, or without one the kind itself.
fn is_missing(error: &kube::Error, named: impl Fn(&str) -> bool) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 404 && named(status.details.as_ref().map_or("", |details| &details.name))
}
