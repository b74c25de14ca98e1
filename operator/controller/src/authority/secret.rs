//! The authorities as the Secret holds them, and what of them the ConfigMap tells.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use thiserror::Error;
use umbra_facade::identity::Segment;
use umbra_facade::request::AUTHORITIES_KEY;

use super::ca::{Ca, CaError};
use super::plan::{Phase, View};

/// The Secret.
pub const SECRET: &str = "umbra-authority";
/// Its keys.
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const PREVIOUS_CERTIFICATE: &str = "previous.crt";
const PREVIOUS_KEY: &str = "previous.key";
/// Annotation by which somebody asks for an exchange.
const ROTATE: &str = "imaging.umbra.dev/rotate";
/// Annotation with the time since which it is so: on the Secret that the previous authority signs no more, on the ConfigMap that
/// it holds what it holds.
const SINCE: &str = "imaging.umbra.dev/since";

/// What is stored is no authority.
#[derive(Debug, Error)]
#[error(
    "Secret {namespace}/{SECRET} holds no authority in {key}: {problem}; restore it, or delete it: then another authority is made, \
     and nodes have new certificates of it within minutes"
)]
pub struct NotUsable {
    namespace: String,
    key: &'static str,
    problem: String,
}

/// The authority before the newest.
#[derive(Debug)]
pub enum Previous {
    /// There is none.
    None,
    /// It still signs.
    Signs(Box<Ca>),
    /// It is trusted.
    Trusted {
        /// As PEM.
        certificate: String,
        /// Since when no more than that.
        since: Option<SystemTime>,
    },
}

/// All that there are.
#[derive(Debug)]
pub struct Authorities {
    newest: Ca,
    previous: Previous,
    is_asked: bool,
}

impl Authorities {
    /// The first.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn made(cluster: &Segment, now: SystemTime) -> Result<Self, CaError> {
        Ok(Self { newest: Ca::make(cluster, now)?, previous: Previous::None, is_asked: false })
    }

    /// Those in the Secret.
    ///
    /// # Errors
    /// [`NotUsable`].
    pub fn read(secret: &Secret) -> Result<Self, NotUsable> {
        let not_usable = |key, problem: &dyn std::fmt::Display| NotUsable {
            namespace: secret.metadata.namespace.clone().unwrap_or_default(),
            key,
            problem: problem.to_string(),
        };
        let text = |key: &str| -> Option<String> {
            let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
            String::from_utf8(bytes.clone()).ok()
        };
        let needed = |key| text(key).ok_or_else(|| not_usable(key, &"it is not there"));
        let newest = Ca::read(&needed(CERTIFICATE)?, &needed(KEY)?);
        let newest = newest.map_err(|error| not_usable(CERTIFICATE, &error))?;
        let previous = match (text(PREVIOUS_CERTIFICATE), text(PREVIOUS_KEY)) {
            (None, _) => Previous::None,
            (Some(certificate), None) => Previous::Trusted { certificate, since: dated(&secret.metadata) },
            (Some(certificate), Some(key)) => {
                let read = Ca::read(&certificate, &key);
                Previous::Signs(Box::new(read.map_err(|error| not_usable(PREVIOUS_CERTIFICATE, &error))?))
            }
        };
        let is_asked =
            secret.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(ROTATE));
        Ok(Self { newest, previous, is_asked })
    }

    /// The one that signs.
    pub fn signing(&self) -> &Ca {
        match &self.previous {
            Previous::Signs(previous) => previous,
            Previous::None | Previous::Trusted { .. } => &self.newest,
        }
    }

    /// All that are trusted, as PEM.
    pub fn bundle(&self) -> String {
        let newest = self.newest.certificate().trim_end();
        let previous = match &self.previous {
            Previous::None => return format!("{newest}\n"),
            Previous::Signs(previous) => previous.certificate(),
            Previous::Trusted { certificate, .. } => certificate,
        };
        format!("{newest}\n{}\n", previous.trim_end())
    }

    /// What there is to decide on, with what the ConfigMap tells.
    pub fn view(&self, published: Option<&ConfigMap>) -> View {
        let bundle = BTreeMap::from([(AUTHORITIES_KEY.to_owned(), self.bundle())]);
        let whole = published.filter(|map| map.data.as_ref() == Some(&bundle));
        View {
            life: self.newest.life(),
            phase: match &self.previous {
                Previous::None => Phase::Alone,
                Previous::Signs(_) => Phase::Announced,
                Previous::Trusted { since, .. } => Phase::Retiring { since: *since },
            },
            is_asked: self.is_asked,
            published: whole.and_then(|map| dated(&map.metadata)),
        }
    }

    /// With a new one, which does not sign yet.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn begun(self, cluster: &Segment, now: SystemTime) -> Result<Self, CaError> {
        let newest = Ca::make(cluster, now)?;
        Ok(Self { newest, previous: Previous::Signs(Box::new(self.newest)), is_asked: false })
    }

    /// With the newest as the one that signs.
    #[must_use]
    pub fn switched(self, now: SystemTime) -> Self {
        let previous = match self.previous {
            Previous::None => Previous::None,
            Previous::Signs(previous) => {
                Previous::Trusted { certificate: previous.certificate().to_owned(), since: Some(now) }
            }
            Previous::Trusted { certificate, .. } => Previous::Trusted { certificate, since: Some(now) },
        };
        Self { previous, ..self }
    }

    /// Without the previous one.
    #[must_use]
    pub fn forgotten(self) -> Self {
        Self { previous: Previous::None, ..self }
    }

    /// The Secret with these in it.
    pub fn stored(&self, mut secret: Secret) -> Secret {
        let mut data =
            BTreeMap::from([(CERTIFICATE, self.newest.certificate().to_owned()), (KEY, self.newest.key())]);
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.remove(SINCE);
        if !self.is_asked {
            annotations.remove(ROTATE);
        }
        match &self.previous {
            Previous::None => {}
            Previous::Signs(previous) => {
                data.insert(PREVIOUS_CERTIFICATE, previous.certificate().to_owned());
                data.insert(PREVIOUS_KEY, previous.key());
            }
            Previous::Trusted { certificate, since } => {
                data.insert(PREVIOUS_CERTIFICATE, certificate.clone());
                if let Some(since) = since {
                    date(&mut secret.metadata, *since);
                }
            }
        }
        let data = data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        secret.data = Some(data.collect());
        secret.type_ = Some("Opaque".to_owned());
        secret
    }
}

/// Notes since when it is so.
pub(super) fn date(metadata: &mut ObjectMeta, now: SystemTime) {
    if let Ok(now) = Timestamp::try_from(now) {
        metadata.annotations.get_or_insert_default().insert(SINCE.to_owned(), now.to_string());
    }
}

fn dated(metadata: &ObjectMeta) -> Option<SystemTime> {
    let noted: Timestamp = metadata.annotations.as_ref()?.get(SINCE)?.parse().ok()?;
    Some(noted.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(authorities: &Authorities) -> usize {
        authorities.bundle().matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn every_state_is_found_again_in_the_secret() {
        let (now, cluster) = (SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000), "prod");
        let cluster = cluster.parse().expect("a name");
        let alone = Authorities::made(&cluster, now).expect("made");
        let mut secret = alone.stored(Secret::default());
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        secret.metadata.annotations.get_or_insert_default().insert(ROTATE.into(), String::new());
        let asked = Authorities::read(&secret).expect("read");
        let view = asked.view(None);
        assert_eq!((view.phase, view.is_asked, trusted(&asked)), (Phase::Alone, true, 1));
        let old = asked.signing().certificate().to_owned();

        let secret = asked.begun(&cluster, now).expect("made").stored(secret);
        let announced = Authorities::read(&secret).expect("read");
        let view = announced.view(None);
        assert_eq!((view.phase, view.is_asked, trusted(&announced)), (Phase::Announced, false, 2));
        assert_eq!(announced.signing().certificate(), old);

        let secret = announced.switched(now).stored(secret);
        let retiring = Authorities::read(&secret).expect("read");
        assert_eq!(retiring.view(None).phase, Phase::Retiring { since: Some(now) });
        assert_eq!((retiring.signing().certificate() == old, trusted(&retiring)), (false, 2));
        assert_eq!(secret.data.as_ref().expect("data").len(), 3, "the old key is gone");

        let secret = retiring.forgotten().stored(secret);
        let alone = Authorities::read(&secret).expect("read");
        assert_eq!((alone.view(None).phase, trusted(&alone)), (Phase::Alone, 1));
        assert!(secret.metadata.annotations.is_some_and(|left| left.is_empty()));
    }

    #[test]
    fn a_bundle_that_is_not_whole_is_not_published() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        let one = Authorities::made(&"prod".parse().expect("a name"), now).expect("made");
        let mut map = ConfigMap::default();
        assert_eq!(one.view(Some(&map)).published, None);
        map.data = Some([(AUTHORITIES_KEY.to_owned(), one.bundle())].into());
        assert_eq!(one.view(Some(&map)).published, None, "nobody can tell since when");
        date(&mut map.metadata, now);
        assert_eq!(one.view(Some(&map)).published, Some(now));
        map.data.get_or_insert_default().insert("more".into(), String::new());
        assert_eq!(one.view(Some(&map)).published, None);
    }

    #[test]
    fn a_secret_without_an_authority_says_what_to_do() {
        let secret = Secret::default();
        let refused = Authorities::read(&secret).expect_err("empty").to_string();
        assert!(refused.contains("ca.crt") && refused.contains("delete it"), "{refused}");
        let good = Authorities::made(&"prod".parse().expect("a name"), SystemTime::now()).expect("made");
        let other = Authorities::made(&"prod".parse().expect("a name"), SystemTime::now()).expect("made");
        let mut secret = good.stored(secret);
        let foreign = other.stored(Secret::default()).data.unwrap_or_default().remove(KEY).expect("a key");
        secret.data.get_or_insert_default().insert(KEY.into(), foreign);
        let refused = Authorities::read(&secret).expect_err("two halves").to_string();
        assert!(refused.contains("not that of the certificate") && !refused.contains("BEGIN"), "{refused}");
    }
}
