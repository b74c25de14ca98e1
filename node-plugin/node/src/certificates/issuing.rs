//! Whoever issues certificates, as far as a node speaks to them: its own requests, and the bundle of authorities.

use crate::cluster::{self, NotFound};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use std::future::Future;
use std::path::PathBuf;
use thiserror::Error;
use umbra_facade::request::{AUTHORITIES, AUTHORITIES_KEY, LIFE_MAX, SIGNER, USAGES};

/// Longest beginning of a generated name that the API server takes whole.
const NAME_BYTES_MAX: usize = 57;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum IssuingError {
    /// Nobody says where the cluster is.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// There are no authorities yet.
    #[error(
        "ConfigMap {namespace}/{AUTHORITIES} with {AUTHORITIES_KEY} is not there: look whether an operator runs with \
         --tls-builtin, and whether --system-namespace is its namespace"
    )]
    NoAuthorities { namespace: String },
    /// The request is gone.
    #[error("CertificateSigningRequest {0} is not there any more: somebody has deleted it")]
    Gone(String),
    /// This node is not allowed to.
    #[error("{problem}; the role of umbra-node is in node-plugin/docs/facade.md")]
    Forbidden { problem: String },
    /// It did not answer, or not with what was asked for.
    #[error("ask the API server")]
    Failed(#[source] kube::Error),
}

impl From<kube::Error> for IssuingError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 || status.code == 401 => {
                Self::Forbidden { problem: status.message }
            }
            other => Self::Failed(other),
        }
    }
}

/// What became of a request so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    Pending,
    /// The certificate, as PEM.
    Issued(String),
    /// There will be none.
    Refused {
        /// `Denied` or `Failed`.
        how: String,
        /// For programs.
        reason: String,
        /// For people.
        message: String,
    },
}

/// What a node asks for.
pub(crate) trait Issuing: Send {
    /// The authorities, as PEM.
    fn authorities(&mut self) -> impl Future<Output = Result<String, IssuingError>> + Send;

    /// Asks with this PKCS#10 request. Returns the name under which the answer comes.
    fn ask(&mut self, pem: &str) -> impl Future<Output = Result<String, IssuingError>> + Send;

    /// What became of it.
    fn answer(&mut self, name: &str) -> impl Future<Output = Result<Answer, IssuingError>> + Send;
}

/// The operator, over the API server.
pub(crate) struct Cluster {
    kubeconfig: Option<PathBuf>,
    namespace: String,
    node: String,
    client: Option<Client>,
}

impl Cluster {
    pub(super) fn new(kubeconfig: Option<PathBuf>, namespace: String, node: String) -> Self {
        Self { kubeconfig, namespace, node, client: None }
    }

    /// The client; found when it is needed.
    async fn client(&mut self) -> Result<Client, NotFound> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = cluster::find(self.kubeconfig.as_deref()).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// One that failed is found anew: its address, or who we are there, may have changed.
    fn heard<T>(&mut self, answer: Result<T, kube::Error>) -> Result<T, IssuingError> {
        if answer.is_err() {
            self.client = None;
        }
        Ok(answer?)
    }
}

impl Issuing for Cluster {
    async fn authorities(&mut self) -> Result<String, IssuingError> {
        let maps = Api::<ConfigMap>::namespaced(self.client().await?, &self.namespace);
        let answer = maps.get_opt(AUTHORITIES).await;
        let map = self.heard(answer)?;
        let bundle = map.and_then(|map| map.data?.remove(AUTHORITIES_KEY));
        bundle.ok_or_else(|| IssuingError::NoAuthorities { namespace: self.namespace.clone() })
    }

    async fn ask(&mut self, pem: &str) -> Result<String, IssuingError> {
        let requests = Api::<CertificateSigningRequest>::all(self.client().await?);
        let answer = requests.create(&PostParams::default(), &object(&self.node, pem)).await;
        Ok(self.heard(answer)?.metadata.name.unwrap_or_default())
    }

    async fn answer(&mut self, name: &str) -> Result<Answer, IssuingError> {
        let requests = Api::<CertificateSigningRequest>::all(self.client().await?);
        let answer = requests.get_opt(name).await;
        self.heard(answer)?.as_ref().map(read).ok_or_else(|| IssuingError::Gone(name.to_owned()))
    }
}

/// The object that asks.
fn object(node: &str, pem: &str) -> CertificateSigningRequest {
    let mut name = format!("umbra-{node}");
    name.truncate(NAME_BYTES_MAX - 1);
    CertificateSigningRequest {
        metadata: ObjectMeta {
            // Unique for each attempt: one that was made is never changed.
            generate_name: Some(format!("{}-", name.trim_end_matches(['.', '-']))),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: SIGNER.to_owned(),
            usages: Some(USAGES.map(str::to_owned).to_vec()),
            expiration_seconds: i32::try_from(LIFE_MAX.as_secs()).ok(),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

fn read(request: &CertificateSigningRequest) -> Answer {
    let Some(status) = &request.status else { return Answer::Pending };
    let conditions = status.conditions.iter().flatten();
    let mut refusals = conditions.filter(|condition| {
        ["Denied", "Failed"].contains(&condition.type_.as_str()) && condition.status == "True"
    });
    if let Some(refusal) = refusals.next() {
        return Answer::Refused {
            how: refusal.type_.clone(),
            reason: refusal.reason.clone().unwrap_or_default(),
            message: refusal.message.clone().unwrap_or_default(),
        };
    }
    match &status.certificate {
        Some(ByteString(certificate)) if !certificate.is_empty() => {
            Answer::Issued(String::from_utf8_lossy(certificate).into_owned())
        }
        Some(_) | None => Answer::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::certificates::v1::{
        CertificateSigningRequestCondition, CertificateSigningRequestStatus,
    };

    #[test]
    fn a_request_asks_for_what_the_signer_gives() {
        let asked = object("a.example.com", "PEM");
        assert_eq!(asked.metadata.generate_name.as_deref(), Some("umbra-a.example.com-"));
        assert_eq!(asked.spec.request.0, b"PEM");
        assert_eq!(asked.spec.expiration_seconds, Some(2_592_000));
        let long = object(&"a.".repeat(100), "").metadata.generate_name.expect("a name");
        assert!(long.len() <= NAME_BYTES_MAX && long.ends_with("a-"), "{long}");
    }

    #[test]
    fn an_answer_is_what_the_conditions_say() {
        let with = |type_: Option<&str>, certificate: Option<&str>| {
            let condition = |type_: &str| CertificateSigningRequestCondition {
                type_: type_.into(),
                status: "True".into(),
                reason: Some("OtherNode".into()),
                message: Some("it runs on b".into()),
                ..CertificateSigningRequestCondition::default()
            };
            let status = CertificateSigningRequestStatus {
                conditions: type_.map(|type_| vec![condition(type_)]),
                certificate: certificate.map(|text| ByteString(text.into())),
            };
            read(&CertificateSigningRequest { status: Some(status), ..object("a", "") })
        };
        assert_eq!(read(&object("a", "")), Answer::Pending);
        assert_eq!(with(Some("Approved"), None), Answer::Pending);
        assert_eq!(with(Some("Approved"), Some("")), Answer::Pending);
        assert_eq!(with(Some("Approved"), Some("PEM")), Answer::Issued("PEM".into()));
        for how in ["Denied", "Failed"] {
            let (reason, message) = ("OtherNode".into(), "it runs on b".into());
            assert_eq!(with(Some(how), None), Answer::Refused { how: how.into(), reason, message });
        }
    }
}
