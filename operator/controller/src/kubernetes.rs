//! The API server behind [`Cluster`].

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, ListParams, ObjectList, PostParams, Preconditions, PropagationPolicy};
use kube::core::request::Request;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::{Client, Error};

use crate::cluster::{Cluster, ClusterError, Key, Kind};
use crate::metrics::Tally;

/// Objects of one answer; where there are more, the rest is asked for.
const PAGE: u32 = 500;
/// The operator's name beside what it has written.
const MANAGER: &str = "umbra-operator";

/// A cluster, and the reporter of its events.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    recorder: Recorder,
    calls: Tally,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// The cluster that this client reaches; `instance` tells this process from others like it. `calls` counts what is asked
    /// of it, by method.
    pub fn new(client: Client, instance: &str, calls: Tally) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client.clone(), reporter), client, calls }
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        what: impl Fn() -> String,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, ClusterError> {
        let request =
            request.map_err(|error| ClusterError::Refused { object: what(), problem: error.to_string() })?;
        let method = request.method().clone();
        let answer = self.client.request(request).await;
        self.calls.count(method.as_str(), answer.is_ok());
        answer.map_err(|error| failure(what(), &error))
    }

    async fn pages<K: Kind>(
        &self,
        namespace: Option<&str>,
        wanted: ListParams,
    ) -> Result<Vec<K>, ClusterError> {
        let what = || format!("every {}", K::kind(&()));
        let mut objects = Vec::new();
        let mut page = wanted.limit(PAGE);
        loop {
            let answer: ObjectList<K> = self.send(what, url::<K>(namespace).list(&page)).await?;
            objects.extend(answer.items);
            match answer.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(objects),
            }
        }
    }

    async fn replace_part<K: Kind>(&self, part: &str, object: &K) -> Result<K, ClusterError> {
        let key = Key::of(object);
        let url = url::<K>(key.namespace.as_deref());
        let request = url.replace_subresource(part, &key.name, &written(), body(object)?);
        self.send(|| named::<K>(&key), request).await
    }
}

fn url<K: Kind>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

fn named<K: Kind>(key: &Key) -> String {
    format!("{} {key}", K::kind(&()))
}

fn body<K: Kind>(object: &K) -> Result<Vec<u8>, ClusterError> {
    serde_json::to_vec(object).map_err(|error| ClusterError::Refused {
        object: named::<K>(&Key::of(object)),
        problem: error.to_string(),
    })
}

fn written() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(MANAGER.to_owned()) }
}

/// What an answer means that is none of success.
fn failure(object: String, error: &Error) -> ClusterError {
    match error {
        Error::Api(status) => match (status.code, status.reason.as_str()) {
            (404, _) => ClusterError::Missing { object },
            (409, "AlreadyExists") => ClusterError::Exists { object },
            (409, _) => ClusterError::Changed { object },
            (429 | 500.., _) => ClusterError::Silent { object, problem: status.message.clone() },
            _ => ClusterError::Refused { object, problem: status.message.clone() },
        },
        other => ClusterError::Silent { object, problem: other.to_string() },
    }
}

impl Cluster for Kubernetes {
    async fn get<K: Kind>(&self, key: &Key) -> Result<Option<K>, ClusterError> {
        let request = url::<K>(key.namespace.as_deref()).get(&key.name, &kube::api::GetParams::default());
        match self.send(|| named::<K>(key), request).await {
            Ok(object) => Ok(Some(object)),
            Err(ClusterError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<Vec<K>, ClusterError> {
        self.pages(namespace, ListParams::default()).await
    }

    async fn list_where<K: Kind>(
        &self,
        namespace: &str,
        field: &'static str,
        value: &str,
    ) -> Result<Vec<K>, ClusterError> {
        self.pages(Some(namespace), ListParams::default().fields(&format!("{field}={value}"))).await
    }

    async fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        let key = Key::of(object);
        let request = url::<K>(key.namespace.as_deref()).create(&written(), body(object)?);
        self.send(|| named::<K>(&key), request).await
    }

    async fn replace<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        let key = Key::of(object);
        let request = url::<K>(key.namespace.as_deref()).replace(&key.name, &written(), body(object)?);
        self.send(|| named::<K>(&key), request).await
    }

    async fn replace_status<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        self.replace_part("status", object).await
    }

    async fn replace_approval(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        self.replace_part("approval", request).await
    }

    async fn delete<K: Kind>(&self, object: &K) -> Result<(), ClusterError> {
        let key = Key::of(object);
        let only_this = Preconditions { uid: object.meta().uid.clone(), resource_version: None };
        let parameters = DeleteParams {
            preconditions: Some(only_this),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let request = url::<K>(key.namespace.as_deref()).delete(&key.name, &parameters);
        self.send::<serde_json::Value>(|| named::<K>(&key), request).await.map(drop)
    }

    async fn announce(&self, about: ObjectReference, event: Event) {
        let published = self.recorder.publish(&event, &about).await;
        self.calls.count("EVENT", published.is_ok());
        if let Err(error) = published {
            tracing::warn!(kind = about.kind, object = about.name, %error, "an event is lost");
        }
    }
}
