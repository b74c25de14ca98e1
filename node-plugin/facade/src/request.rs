//! What a process asks for its certificate with, where the operator issues them: a key of its own that never leaves it, and
//! a PKCS#10 request whose only name is the identity.
//!
//! It travels as a CertificateSigningRequest for [`SIGNER`]. Whom the asker may trust then says the ConfigMap
//! [`AUTHORITIES`] in the operator's namespace.

use crate::identity::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Who signs: the name in requests.
pub const SIGNER: &str = "imaging.umbra.dev/facade";
/// What certificates are for, in the words of the API.
pub const USAGES: [&str; 3] = ["client auth", "digital signature", "server auth"];
/// Longest life of a certificate. Long enough that a cluster may be without its operator for ten days.
pub const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// ConfigMap with the certificates of the authorities.
pub const AUTHORITIES: &str = "umbra-authorities";
/// Their key there: PEM, one after the other.
pub const AUTHORITIES_KEY: &str = "ca.crt";

/// Why no request could be made.
#[derive(Debug, Error)]
#[error("no request for a certificate could be made for {identity}: {problem}")]
pub struct RequestError {
    identity: Identity,
    problem: rcgen::Error,
}

/// A private key, as PEM.
pub struct PrivateKey(String);

impl PrivateKey {
    /// For the one file that holds it.
    pub(crate) fn pem(&self) -> &str {
        &self.0
    }
}

impl From<&KeyPair> for PrivateKey {
    fn from(pair: &KeyPair) -> Self {
        Self(pair.serialize_pem())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A request, and the key that it is made with.
#[derive(Debug)]
pub struct SigningRequest {
    /// Stays here.
    pub key: PrivateKey,
    /// PKCS#10, as PEM.
    pub pem: String,
}

impl SigningRequest {
    /// A new key, and the request to certify it for this identity.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn new(identity: &Identity) -> Result<Self, RequestError> {
        let failed = |problem| RequestError { identity: identity.clone(), problem };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let request = params.serialize_request(&pair).map_err(failed)?;
        Ok(Self { key: PrivateKey::from(&pair), pem: request.pem().map_err(failed)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::CertificateSigningRequestParams;

    #[test]
    fn a_request_names_the_identity_and_nothing_else_and_shows_no_key() {
        let identity: Identity = "spiffe://umbra/prod/node/a".parse().expect("an identity");
        let request = SigningRequest::new(&identity).expect("a request");
        let read =
            CertificateSigningRequestParams::from_pem(&request.pem).expect("it is signed with its key");
        let uri = SanType::URI(identity.to_string().try_into().expect("ASCII"));
        assert_eq!(read.params.subject_alt_names, [uri]);
        assert!(request.key.pem().contains("PRIVATE KEY"));
        let shown = format!("{request:?}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}
