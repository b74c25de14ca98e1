//! One authority: its certificate, and the key that signs.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use thiserror::Error;
use umbra_facade::Life;
use umbra_facade::identity::{Identity, Role, Segment};
use uuid::Uuid;
use x509_parser::parse_x509_certificate;

use super::judge::Refusal;

/// How long an authority is valid.
const LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long before it is made what is made is valid: for clocks that are behind.
const BACK: Duration = Duration::from_secs(300);
/// Longest common name that X.509 allows.
const COMMON_NAME_BYTES_MAX: usize = 64;

/// Why there is no authority, or nothing that it has signed.
#[derive(Debug, Error)]
pub enum CaError {
    /// Making or signing failed.
    #[error("no certificate could be made: {0}")]
    Making(#[from] rcgen::Error),
    /// The certificate is not one of an authority.
    #[error("the certificate is not one of an authority: {0}")]
    NoAuthority(String),
    /// The key is another's.
    #[error("the key is not that of the certificate")]
    OtherKey,
    /// The own request is not taken.
    #[error(transparent)]
    Request(#[from] Refusal),
}

/// An authority. Its key is shown nowhere.
pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    life: Life,
}

impl fmt::Debug for Ca {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Ca").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Ca {
    /// A new one for this cluster.
    ///
    /// # Errors
    /// [`CaError::Making`].
    pub fn make(cluster: &Segment, now: SystemTime) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let mut name = format!("Umbra {cluster}");
        name.truncate(COMMON_NAME_BYTES_MAX);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        params.not_before = (now - BACK).into();
        params.not_after = (now + LIFE).into();
        let certificate = params.self_signed(&key)?.pem();
        Self::read(&certificate, &key.serialize_pem())
    }

    /// The one in these PEM texts.
    ///
    /// # Errors
    /// [`CaError`].
    pub fn read(certificate: &str, key: &str) -> Result<Self, CaError> {
        let no_authority = |problem: &dyn fmt::Display| CaError::NoAuthority(problem.to_string());
        let key = KeyPair::from_pem(key)?;
        let life = Life::of_pem(certificate).map_err(|error| no_authority(&error))?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|error| no_authority(&error))?;
        let (_, parsed) = parse_x509_certificate(&pem.contents).map_err(|error| no_authority(&error))?;
        if !parsed.is_ca() {
            return Err(no_authority(&"it may not sign others"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key)?;
        Ok(Self { certificate: certificate.to_owned(), issuer, life })
    }

    /// Its certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, as PEM: for the Secret.
    pub(super) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When it is valid.
    pub fn life(&self) -> Life {
        self.life
    }

    /// A certificate, as PEM, that says who has this key. What it says is decided here, whatever else was asked for.
    ///
    /// # Errors
    /// [`CaError::Making`].
    pub fn issue(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let role = match identity.role {
            Role::Operator => "umbra-operator",
            Role::Console => "umbra-console",
            Role::Node(_) => "umbra-node",
        };
        params.distinguished_name.push(DnType::CommonName, role);
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial());
        params.not_before = (now - BACK).into();
        params.not_after = (now + life).min(self.life.ends).into();
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

/// Random, as no certificate may have the number of another.
fn serial() -> SerialNumber {
    SerialNumber::from_slice(Uuid::new_v4().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::extensions::GeneralName;

    #[test]
    fn what_is_made_can_be_read_again_and_shows_no_key() {
        let (now, cluster) = (SystemTime::now(), "prod".parse().expect("a name"));
        let (one, two) = (Ca::make(&cluster, now).expect("made"), Ca::make(&cluster, now).expect("made"));
        let again = Ca::read(one.certificate(), &one.key()).expect("read");
        assert_eq!(again.life(), one.life());
        let shown = format!("{one:?} {:?}", CaError::OtherKey);
        assert!(!shown.contains("PRIVATE") && !shown.contains("CERTIFICATE"), "{shown}");
        assert!(matches!(Ca::read(one.certificate(), &two.key()), Err(CaError::OtherKey)));
        let (identity, key) =
            ("spiffe://umbra/prod/operator".parse().expect("one"), KeyPair::generate().expect("one"));
        let leaf = one.issue(&identity, &key, LIFE, now).expect("signed");
        assert!(matches!(Ca::read(&leaf, &key.serialize_pem()), Err(CaError::NoAuthority(_))));
        for (certificate, key) in [("", ""), ("x", &*one.key()), (one.certificate(), "x")] {
            Ca::read(certificate, key).expect_err("nothing");
        }
    }

    #[test]
    fn a_certificate_says_who_has_the_key_and_no_more() {
        let now = SystemTime::now();
        let ca = Ca::make(&"prod".parse().expect("a name"), now).expect("made");
        let identity: Identity = "spiffe://umbra/prod/node/a".parse().expect("an identity");
        let key = KeyPair::generate().expect("a key");
        let month = Duration::from_secs(30 * 24 * 3600);
        let leaf = ca.issue(&identity, &key, month, now).expect("signed");
        let life = Life::of_pem(&leaf).expect("a certificate");
        let lived = life.ends.duration_since(life.begins).expect("it ends after it begins");
        assert_eq!(lived.as_secs(), (month + BACK).as_secs());
        let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.as_bytes()).expect("PEM");
        let (_, parsed) = parse_x509_certificate(&pem.contents).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("one").expect("names");
        assert_eq!(names.value.general_names, [GeneralName::URI(&identity.to_string())]);
        assert!(!parsed.is_ca());
        let usages = parsed.extended_key_usage().expect("one").expect("usages").value;
        assert!(usages.server_auth && usages.client_auth && !usages.any);
        // None outlives its authority, and no two have one number.
        let other = ca.issue(&identity, &key, LIFE * 2, now).expect("signed");
        assert_eq!(Life::of_pem(&other).expect("a certificate").ends, ca.life().ends);
        let (_, pem) = x509_parser::pem::parse_x509_pem(other.as_bytes()).expect("PEM");
        assert_ne!(
            parse_x509_certificate(&pem.contents).expect("a certificate").1.raw_serial(),
            parsed.raw_serial()
        );
    }
}
