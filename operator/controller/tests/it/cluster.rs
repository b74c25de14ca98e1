//! A cluster in memory: what the API server promises of objects, versions, statuses and finalizers, without schemas.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestStatus};
use kube::runtime::events::Event;
use serde_json::{Value, json};
use umbra_operator::cluster::{ClusterError, Key, Kind};

use crate::controllers::{CLAIM_PROTECTION, VOLUME_PROTECTION};

type Place = (String, Key);

/// No two objects of any two clusters have the same.
static UIDS: AtomicU64 = AtomicU64::new(1);

/// Objects as they are stored.
#[derive(Debug, Default)]
pub(crate) struct Objects(Mutex<Stored>);

#[derive(Debug, Default)]
struct Stored {
    objects: BTreeMap<Place, Value>,
    /// The last version that was given.
    version: u64,
    events: Vec<String>,
    /// Whether claims and volumes are protected while they are used.
    protects: bool,
}

fn place<K: Kind>(key: &Key) -> Place {
    (K::kind(&()).into_owned(), key.clone())
}

fn name<K: Kind>(key: &Key) -> String {
    format!("{} {key}", K::kind(&()))
}

fn read<K: Kind>(value: &Value) -> K {
    serde_json::from_value(value.clone()).expect("what was stored can be read")
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().expect("no test goes on after a panic")
    }

    /// From now on, what is made of claims and volumes is protected, as the API server's admission has it.
    pub(crate) fn protect(&self) {
        self.lock().protects = true;
    }

    pub(crate) fn get<K: Kind>(&self, key: &Key) -> Option<K> {
        self.lock().objects.get(&place::<K>(key)).map(read)
    }

    pub(crate) fn list_where<K: Kind>(&self, namespace: &str, field: &str, value: &str) -> Vec<K> {
        let path = format!("/{}", field.replace('.', "/"));
        let has_it = |object: &K| {
            let object = serde_json::to_value(object).expect("an object");
            object.pointer(&path).and_then(Value::as_str) == Some(value)
        };
        self.list(Some(namespace)).into_iter().filter(has_it).collect()
    }

    pub(crate) fn list<K: Kind>(&self, namespace: Option<&str>) -> Vec<K> {
        let stored = self.lock();
        let of_kind = stored.objects.iter().filter(|((kind, key), _)| {
            *kind == K::kind(&()) && (namespace.is_none() || key.namespace.as_deref() == namespace)
        });
        of_kind.map(|(_, value)| read(value)).collect()
    }

    pub(crate) fn keys<K: Kind>(&self) -> Vec<Key> {
        self.list::<K>(None).iter().map(Key::of).collect()
    }

    pub(crate) fn create<K: Kind>(&self, object: &K) -> Result<K, ClusterError> {
        let key = Key::of(object);
        let mut value = serde_json::to_value(object).expect("an object");
        let stored = &mut *self.lock();
        if stored.objects.contains_key(&place::<K>(&key)) {
            return Err(ClusterError::Exists { object: name::<K>(&key) });
        }
        stored.version += 1;
        let meta = &mut value["metadata"];
        let uid = UIDS.fetch_add(1, Ordering::SeqCst);
        meta["uid"] = json!(format!("00000000-0000-4000-8000-{uid:012x}"));
        meta["resourceVersion"] = json!(stored.version.to_string());
        meta["generation"] = json!(1);
        let protection = match &*K::kind(&()) {
            "PersistentVolumeClaim" => Some(CLAIM_PROTECTION),
            "PersistentVolume" => Some(VOLUME_PROTECTION),
            _ => None,
        };
        if let Some(protection) = protection.filter(|_| stored.protects) {
            meta["finalizers"] = json!([protection]);
        }
        let made = read(&value);
        stored.objects.insert(place::<K>(&key), value);
        Ok(made)
    }

    /// Writes an object over the version that it was read in: its status only, or everything but its status.
    pub(crate) fn replace<K: Kind>(&self, object: &K, status: bool) -> Result<K, ClusterError> {
        let key = Key::of(object);
        let mut new = serde_json::to_value(object).expect("an object");
        let stored = &mut *self.lock();
        let Some(old) = stored.objects.get(&place::<K>(&key)).cloned() else {
            return Err(ClusterError::Missing { object: name::<K>(&key) });
        };
        if old["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"] {
            return Err(ClusterError::Changed { object: name::<K>(&key) });
        }
        if status {
            let written = new["status"].take();
            new = old.clone();
            new["status"] = written;
        } else {
            new["status"] = old["status"].clone();
            new["metadata"]["deletionTimestamp"] = old["metadata"]["deletionTimestamp"].clone();
            let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + u64::from(old["spec"] != new["spec"]));
        }
        if new == old {
            return Ok(read(&old));
        }
        stored.version += 1;
        new["metadata"]["resourceVersion"] = json!(stored.version.to_string());
        let kept = read(&new);
        let is_free = new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        if is_free && new["metadata"]["deletionTimestamp"].is_string() {
            stored.objects.remove(&place::<K>(&key));
        } else {
            stored.objects.insert(place::<K>(&key), new);
        }
        Ok(kept)
    }

    /// Writes the judgement on a request for a certificate; an API server takes no other part of it in this way.
    pub(crate) fn approve(
        &self,
        request: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, ClusterError> {
        let stored: Option<CertificateSigningRequest> = self.get(&Key::of(request));
        let before = stored.and_then(|stored| stored.status).unwrap_or_default();
        let conditions = request.status.clone().and_then(|status| status.conditions);
        let judged = |how: &str| conditions.iter().flatten().any(|condition| condition.type_ == how);
        assert!(!(judged("Approved") && judged("Denied")), "an API server takes one judgement");
        let status = CertificateSigningRequestStatus { conditions, ..before };
        self.replace(&CertificateSigningRequest { status: Some(status), ..request.clone() }, true)
    }

    pub(crate) fn delete<K: Kind>(&self, key: &Key) -> Result<(), ClusterError> {
        let stored = &mut *self.lock();
        let place = place::<K>(key);
        let Some(object) = stored.objects.get_mut(&place) else {
            return Err(ClusterError::Missing { object: name::<K>(key) });
        };
        stored.version += 1;
        if object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            stored.objects.remove(&place);
        } else if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["resourceVersion"] = json!(stored.version.to_string());
        }
        Ok(())
    }

    pub(crate) fn announce(&self, about: &str, event: &Event) {
        self.lock().events.push(format!("{about}: {}", event.reason));
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.lock().events.clone()
    }

    /// Grows with every write.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }
}
