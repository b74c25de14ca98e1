//! The cluster, as `kubectl` would find it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use umbra_crds::{GROUP, VERSION};

use crate::error::Failure;

/// Objects of one answer; a cluster with more is asked again for the rest.
const PAGE: u32 = 500;

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

    /// All objects of a kind in the namespace that is meant.
    pub(crate) async fn namespaced<K>(&self) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        list(&api).await.map_err(|error| failure::<K>(&error))
    }

    /// All objects of a kind that belongs to no namespace; none where who asks may not see them.
    pub(crate) async fn visible<K>(&self) -> Result<Option<Vec<K>>, Failure>
    where
        K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        match list(&Api::all(self.client.clone())).await {
            Ok(objects) => Ok(Some(objects)),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
            Err(error) => Err(failure::<K>(&error)),
        }
    }
}

async fn list<K: Clone + Debug + DeserializeOwned>(api: &Api<K>) -> Result<Vec<K>, kube::Error> {
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
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
        kube::Error::Api(status) if status.code == 404 => {
            format!("the cluster does not know {plural}.{GROUP}/{VERSION}: install Umbra's kinds first")
        }
        kube::Error::Api(status) => format!("{plural}: {}", status.message),
        other => format!("{plural}: {other}"),
    })
}
