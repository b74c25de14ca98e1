//! The authority behind `--tls-builtin`: the operator signs the certificates of the nodes, and its own.
//!
//! ```text
//!   Secret umbra-authority                         ConfigMap umbra-authorities        nodes read it each minute
//!     ca.crt, ca.key, previous.crt, previous.key ──bundle──> ca.crt
//!          │ signing
//!          v
//!   CertificateSigningRequest of a node ──judge──> denied, or approved ──> status.certificate
//!   this process' own certificate, in --tls-dir
//! ```
//!
//! An authority is exchanged when two thirds of its life are over, or when the Secret has the annotation
//! `imaging.umbra.dev/rotate`. Every state is what the Secret and the ConfigMap hold ([`plan`]), so that a leader that is
//! killed is followed by one that goes on:
//!
//! ```text
//!   Alone ──begin──> Announced ──switch──> Retiring ──forget──> Alone
//!
//!   state      in the Secret                              signs      trusted
//!   Alone      ca.crt ca.key                              ca         ca
//!   Announced  ca.crt ca.key previous.crt previous.key    previous   both, until the bundle was out for ten minutes
//!   Retiring   ca.crt ca.key previous.crt                 ca         both, until nothing that previous has signed is valid
//! ```
//!
//! Whoever wants an authority out at once, as after its key was seen, deletes the Secret: another is made, nodes read it
//! within a minute and ask for new certificates, and until then they and the operator do not know each other.
//!
//! Only a leader acts here. What it writes carries the version that it has read, so of two that take each other for gone
//! one finds the other.

mod ca;
mod judge;
mod plan;
mod secret;
mod signer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;
use umbra_facade::CredentialFolder;
use umbra_facade::folder::KeepError;
use umbra_facade::identity::Segment;
use umbra_facade::request::{AUTHORITIES, AUTHORITIES_KEY, LIFE_MAX, RequestError, SigningRequest};

use crate::cluster::{Cluster, ClusterError, Key};

pub use ca::{Ca, CaError};
pub use judge::{Asked, Refusal, Rules, judge, witness};
pub use plan::{ANNOUNCED_FOR, Phase, RETIRED_FOR, Step, View, plan};
pub use secret::{Authorities, NotUsable, Previous, SECRET};
pub use signer::answer;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Steps of one look: through every state, and some that another has overtaken.
const STEPS_MAX: u32 = 8;

/// Where the authority is kept, and for whom it signs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster in certificates.
    pub cluster: Segment,
    /// The operator's namespace: that of the Secret and of the ConfigMap.
    pub namespace: String,
    /// The namespace of umbra-node.
    pub node_namespace: String,
    /// Where this process keeps its own certificate.
    pub folder: CredentialFolder,
}

/// Why the authority cannot do what it should.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The API server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What is stored is no authority.
    #[error(transparent)]
    NotUsable(#[from] NotUsable),
    /// Nothing can be made or signed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// No key of its own.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its own certificate cannot be kept.
    #[error("the operator's own certificate: {0}")]
    Own(#[from] KeepError),
}

impl AuthorityError {
    /// Whether somebody else has written what this process was about to write.
    pub fn is_overtaken(&self) -> bool {
        match self {
            Self::Cluster(
                ClusterError::Changed { .. } | ClusterError::Exists { .. } | ClusterError::Missing { .. },
            ) => true,
            Self::Cluster(ClusterError::Refused { .. } | ClusterError::Silent { .. })
            | Self::NotUsable(_)
            | Self::Ca(_)
            | Self::Request(_)
            | Self::Own(_) => false,
        }
    }
}

/// Looks after the authority for as long as this process leads.
pub async fn keep(cluster: Arc<impl Cluster>, settings: Settings) {
    loop {
        if let Err(error) = tend(&*cluster, &settings, SystemTime::now()).await {
            tracing::warn!(%error, "the authority is looked after again soon");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Brings the authority to where it should be, and keeps this process' own certificate.
///
/// # Errors
/// [`AuthorityError`]; then it is tried again.
pub async fn tend(
    cluster: &impl Cluster,
    settings: &Settings,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    for _ in 0..STEPS_MAX {
        match step(cluster, settings, now).await {
            Ok(Step::Rest) => return Ok(()),
            Ok(step) => tracing::info!(?step, "the authority goes on"),
            Err(error) if error.is_overtaken() => tracing::debug!(%error, "it looks again"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One step, and what it was.
async fn step(cluster: &impl Cluster, settings: &Settings, now: SystemTime) -> Result<Step, AuthorityError> {
    let Some(secret) = cluster.get::<Secret>(&secret_key(settings)).await? else {
        let made = Authorities::made(&settings.cluster, now)?;
        let metadata = named(&settings.namespace, SECRET);
        cluster.create(&made.stored(Secret { metadata, ..Secret::default() })).await?;
        return Ok(Step::Begin);
    };
    let authorities = Authorities::read(&secret)?;
    let map = cluster.get::<ConfigMap>(&Key::namespaced(&settings.namespace, AUTHORITIES)).await?;
    let bundle = authorities.bundle();
    let step = plan(&authorities.view(map.as_ref()), now);
    match step {
        Step::Rest => own(&authorities, &bundle, settings, now)?,
        Step::Publish => publish(cluster, settings, map, bundle, now).await?,
        Step::Begin => {
            cluster.replace(&authorities.begun(&settings.cluster, now)?.stored(secret)).await?;
        }
        Step::Switch => {
            cluster.replace(&authorities.switched(now).stored(secret)).await?;
        }
        Step::Forget => {
            cluster.replace(&authorities.forgotten().stored(secret)).await?;
        }
    }
    Ok(step)
}

fn secret_key(settings: &Settings) -> Key {
    Key::namespaced(&settings.namespace, SECRET)
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() }
}

async fn publish(
    cluster: &impl Cluster,
    settings: &Settings,
    stored: Option<ConfigMap>,
    bundle: String,
    now: SystemTime,
) -> Result<(), ClusterError> {
    let is_new = stored.is_none();
    let mut map = stored.unwrap_or_else(|| ConfigMap {
        metadata: named(&settings.namespace, AUTHORITIES),
        ..ConfigMap::default()
    });
    map.data = Some([(AUTHORITIES_KEY.to_owned(), bundle)].into());
    secret::date(&mut map.metadata, now);
    match is_new {
        true => cluster.create(&map).await.map(drop),
        false => cluster.replace(&map).await.map(drop),
    }
}

/// Keeps this process' own certificate: it must be there before nodes are asked anything.
fn own(
    authorities: &Authorities,
    bundle: &str,
    settings: &Settings,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    let folder = &settings.folder;
    if folder.keep_authorities(bundle)? {
        tracing::info!("new authorities are trusted");
    }
    if folder.held(now).is_ok_and(|life| now < life.renew_at()) {
        return Ok(());
    }
    // Asked for as a node does, so that there is one way in which a certificate comes about.
    let request = SigningRequest::new(folder.identity())?;
    let key = judge::public_key(request.pem.as_bytes()).map_err(CaError::from)?;
    let certificate = authorities.signing().issue(folder.identity(), &key, LIFE_MAX, now)?;
    folder.keep(&certificate, &request.key, now)?;
    tracing::info!("a new certificate of the operator serves");
    Ok(())
}
