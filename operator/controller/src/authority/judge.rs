//! Whether a request for a certificate is one of the node that it names: a function of the request and of the pod that its
//! asker says it is.
//!
//! Nothing in a request is believed but its key. Who asks is what the API server has written down of the asker's token, and
//! the pod must be one that lives where the token says.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use k8s_openapi::api::core::v1::Pod;
use rcgen::{
    CertificateSigningRequestParams, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData,
    SanType,
};
use thiserror::Error;
use umbra_facade::identity::{Identity, Role, Segment};
use umbra_facade::request::{LIFE_MAX, USAGES};

use crate::cluster::Key;

/// The account of nodes, in their namespace.
const ACCOUNT: &str = "umbra-node";
/// What the API server writes down of a pod's token.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Longest request that is read: one of a node has some hundred bytes.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Length of a point of P-256, uncompressed.
const POINT_BYTES: usize = 65;
/// Shortest life that the API lets somebody ask for.
const LIFE_MIN: Duration = Duration::from_secs(600);

/// Who may be certified.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The cluster.
    pub cluster: &'a Segment,
    /// The namespace of umbra-node.
    pub node_namespace: &'a str,
}

/// What a request that fits asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub identity: Identity,
    /// The key to be certified.
    pub key: PublicKey,
    /// For how long.
    pub life: Duration,
}

/// Why a request is denied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error(
        "spec.request is no PKCS#10 request in PEM that is signed with its own key: {0}; bring umbra-node and the operator to versions that go together"
    )]
    NotReadable(String),
    /// Keys of this kind are not certified.
    #[error("the key is none of ECDSA P-256; bring umbra-node and the operator to versions that go together")]
    OtherKey,
    /// It is to be an authority.
    #[error("it asks for a certificate that may sign others; a node needs none")]
    Authority,
    /// It has not the one name.
    #[error(
        "it has the names {found:?}; ask with one URI, spiffe://umbra/{cluster}/node/NAME, and nothing else"
    )]
    Names {
        /// What it has.
        found: Vec<String>,
        /// The cluster.
        cluster: Segment,
    },
    /// The name is of something else.
    #[error("{found:.256} is no node of the cluster {cluster}; start umbra-node with --cluster {cluster}")]
    NoNode {
        /// The name.
        found: String,
        /// The cluster.
        cluster: Segment,
    },
    /// It is for something else.
    #[error("spec.usages must be {USAGES:?}, and nothing else")]
    Usages,
    /// Somebody else asks.
    #[error(
        "{found:?} asks, and only {expected} may; look at the operator's --node-namespace, and at the account that umbra-node runs as"
    )]
    Account {
        /// Who.
        found: String,
        /// Who may.
        expected: String,
    },
    /// The API server did not say from where it is asked.
    #[error(
        "{0} is not among what the API server knows of the asker: ask from a pod with a token of its own, on Kubernetes 1.30 or newer"
    )]
    NoToken(&'static str),
    /// It is asked from elsewhere.
    #[error(
        "it names node {named}, and the asker's pod runs on {runs_on}; start umbra-node with --node {runs_on}"
    )]
    OtherNode {
        /// The one that it names.
        named: String,
        /// The one that it comes from.
        runs_on: String,
    },
    /// The pod does not live.
    #[error("the asker's pod {pod} does not live there: {problem}; its successor asks for itself")]
    Pod {
        /// Its name.
        pod: String,
        /// What is there.
        problem: String,
    },
}

impl Refusal {
    /// For programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotReadable(_) => "NotReadable",
            Self::OtherKey => "KeyNotTaken",
            Self::Authority => "AuthorityAsked",
            Self::Names { .. } => "NotOneName",
            Self::NoNode { .. } => "NotANode",
            Self::Usages => "OtherUsages",
            Self::Account { .. } => "OtherAccount",
            Self::NoToken(_) => "NotFromAPod",
            Self::OtherNode { .. } => "OtherNode",
            Self::Pod { .. } => "NoSuchPod",
        }
    }
}

/// The pod that the asker says it is; it must be looked at before a request is judged.
pub fn witness(spec: &CertificateSigningRequestSpec, rules: Rules<'_>) -> Option<Key> {
    // It becomes a part of a path.
    let name: Segment = known(spec, POD_NAME).ok()?.parse().ok()?;
    Some(Key::namespaced(rules.node_namespace, name.as_str()))
}

/// Judges a request. `pod` is the [`witness`], where there is one.
///
/// # Errors
/// [`Refusal`]: why it is denied.
pub fn judge(
    spec: &CertificateSigningRequestSpec,
    rules: Rules<'_>,
    pod: Option<&Pod>,
) -> Result<Asked, Refusal> {
    let expected = format!("system:serviceaccount:{}:{ACCOUNT}", rules.node_namespace);
    let found = spec.username.as_deref().unwrap_or_default();
    if found != expected {
        return Err(Refusal::Account { found: found.to_owned(), expected });
    }
    let request = read(&spec.request.0)?;
    let usages: BTreeSet<&str> = spec.usages.iter().flatten().map(String::as_str).collect();
    if usages != BTreeSet::from(USAGES) {
        return Err(Refusal::Usages);
    }
    let (identity, node) = named(&request, rules.cluster)?;
    let runs_on = known(spec, NODE_NAME)?;
    if runs_on != node.as_str() {
        return Err(Refusal::OtherNode { named: node.to_string(), runs_on: runs_on.to_owned() });
    }
    lives(spec, pod, &node)?;
    let asked = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let life = asked.map_or(LIFE_MAX, Duration::from_secs).clamp(LIFE_MIN, LIFE_MAX);
    Ok(Asked { identity, key: request.public_key, life })
}

/// The key of a request that was made here.
pub(super) fn public_key(pem: &[u8]) -> Result<PublicKey, Refusal> {
    Ok(read(pem)?.public_key)
}

fn read(pem: &[u8]) -> Result<CertificateSigningRequestParams, Refusal> {
    let not_readable = |problem: &dyn std::fmt::Display| Refusal::NotReadable(problem.to_string());
    if pem.len() > REQUEST_BYTES_MAX {
        return Err(not_readable(&format_args!("it has {} bytes", pem.len())));
    }
    let text = std::str::from_utf8(pem).map_err(|error| not_readable(&error))?;
    // This verifies the signature, too.
    let request = CertificateSigningRequestParams::from_pem(text).map_err(|error| not_readable(&error))?;
    // The algorithm is that of the signature: a longer key may be signed with in the same way.
    let is_p256 = *request.public_key.algorithm() == PKCS_ECDSA_P256_SHA256
        && request.public_key.der_bytes().len() == POINT_BYTES;
    if !is_p256 {
        return Err(Refusal::OtherKey);
    }
    let signs = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let is_authority = matches!(request.params.is_ca, IsCa::Ca(_))
        || request.params.key_usages.iter().any(|usage| signs.contains(usage));
    if is_authority { Err(Refusal::Authority) } else { Ok(request) }
}

/// The one name of a request.
fn named(
    request: &CertificateSigningRequestParams,
    cluster: &Segment,
) -> Result<(Identity, Segment), Refusal> {
    let names = request.params.subject_alt_names.as_slice();
    let [SanType::URI(uri)] = names else {
        let found = names.iter().take(8).map(|name| format!("{name:.128?}")).collect();
        return Err(Refusal::Names { found, cluster: cluster.clone() });
    };
    match uri.as_str().parse() {
        Ok(Identity { cluster: of, role: Role::Node(node) }) if of == *cluster => {
            Ok((Identity { cluster: of, role: Role::Node(node.clone()) }, node))
        }
        Ok(_) | Err(_) => Err(Refusal::NoNode { found: uri.as_str().to_owned(), cluster: cluster.clone() }),
    }
}

/// The one value of what the API server knows of the asker.
fn known<'a>(spec: &'a CertificateSigningRequestSpec, what: &'static str) -> Result<&'a str, Refusal> {
    match spec.extra.as_ref().and_then(|extra| extra.get(what)).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value),
        Some(_) | None => Err(Refusal::NoToken(what)),
    }
}

fn lives(spec: &CertificateSigningRequestSpec, pod: Option<&Pod>, node: &Segment) -> Result<(), Refusal> {
    let (name, uid) = (known(spec, POD_NAME)?, known(spec, POD_UID)?);
    let not_there = |problem: &str| Err(Refusal::Pod { pod: name.to_owned(), problem: problem.to_owned() });
    let Some(pod) = pod.filter(|pod| pod.metadata.name.as_deref() == Some(name)) else {
        return not_there("there is none of this name");
    };
    if pod.metadata.uid.as_deref() != Some(uid) {
        return not_there("another has its name now");
    }
    let runs_on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if runs_on != Some(node.as_str()) {
        return not_there(&format!("it runs on {}", runs_on.unwrap_or("no node")));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match phase {
        Some("Succeeded" | "Failed") => not_there("it has ended"),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
