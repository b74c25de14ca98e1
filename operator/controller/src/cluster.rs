//! The objects of the cluster, as far as the operator reads and writes them.
//!
//! Whatever is written carries the version that was read, so nothing overwrites what it has not seen.

use std::fmt;
use std::future::Future;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A kind of object that the API server knows.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// Where an object of a kind is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace, of kinds that have one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Key {
    /// An object of a namespace.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }

    /// An object of a kind without namespaces.
    pub fn cluster(name: &str) -> Self {
        Self { namespace: None, name: name.to_owned() }
    }

    /// Where this object is.
    pub fn of<K: Kind>(object: &K) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(to, "{namespace}/{}", self.name),
            None => to.write_str(&self.name),
        }
    }
}

/// Why the API server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// Somebody has changed the object since it was read.
    #[error("{object} has been changed meanwhile")]
    Changed {
        /// Kind and name.
        object: String,
    },
    /// It is there already.
    #[error("{object} exists already")]
    Exists {
        /// Kind and name.
        object: String,
    },
    /// It is not there.
    #[error("{object} is not there any more")]
    Missing {
        /// Kind and name.
        object: String,
    },
    /// The API server does not want it.
    #[error("the API server refuses {object}: {problem}")]
    Refused {
        /// Kind and name.
        object: String,
        /// In its words.
        problem: String,
    },
    /// Nobody knows whether it was done.
    #[error("the API server gave no answer about {object}: {problem}")]
    Silent {
        /// Kind and name.
        object: String,
        /// How it failed.
        problem: String,
    },
}

/// What may be asked of the API server.
pub trait Cluster: Send + Sync + 'static {
    /// The object as it is now; none where there is none.
    fn get<K: Kind>(&self, key: &Key) -> impl Future<Output = Result<Option<K>, ClusterError>> + Send;

    /// Every object of the kind, of one namespace or of all.
    fn list<K: Kind>(
        &self,
        namespace: Option<&str>,
    ) -> impl Future<Output = Result<Vec<K>, ClusterError>> + Send;

    /// Every object of a namespace with this value of a field, which the kind must have among its selectable fields: the API
    /// server looks, and not this process through everything.
    fn list_where<K: Kind>(
        &self,
        namespace: &str,
        field: &'static str,
        value: &str,
    ) -> impl Future<Output = Result<Vec<K>, ClusterError>> + Send;

    /// Makes the object.
    fn create<K: Kind>(&self, object: &K) -> impl Future<Output = Result<K, ClusterError>> + Send;

    /// Writes the object, without its status.
    fn replace<K: Kind>(&self, object: &K) -> impl Future<Output = Result<K, ClusterError>> + Send;

    /// Writes the object's status only.
    fn replace_status<K: Kind>(&self, object: &K) -> impl Future<Output = Result<K, ClusterError>> + Send;

    /// Writes the judgement on a request for a certificate, and nothing else of it.
    fn replace_approval(
        &self,
        request: &CertificateSigningRequest,
    ) -> impl Future<Output = Result<CertificateSigningRequest, ClusterError>> + Send;

    /// Begins the deletion of the object, if it is still this one.
    fn delete<K: Kind>(&self, object: &K) -> impl Future<Output = Result<(), ClusterError>> + Send;

    /// Says what happened to an object, for people. It may be lost.
    fn announce(&self, about: ObjectReference, event: Event) -> impl Future<Output = ()> + Send;
}
