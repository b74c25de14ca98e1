//! Authorities, and the certificates that they issue, as files.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::ops::Range;
use std::path::Path;
use umbra_facade::CredentialFiles;

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// Years in which a certificate is valid that is valid now.
pub(crate) const NOW: Range<i32> = 2020..4000;

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate with these URIs, valid in these years, and its key, as PEM.
    fn issue(&self, uris: &[&str], years: Range<i32>) -> (String, String) {
        let mut params = CertificateParams::default();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a new certificate with these URIs over the files in this directory; its owner trusts these authorities.
    pub(crate) fn write(
        &self,
        directory: &Path,
        uris: &[&str],
        years: Range<i32>,
        trusted: &[&Authority],
    ) -> CredentialFiles {
        std::fs::create_dir_all(directory).expect("a directory");
        let files = CredentialFiles {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
            authorities: directory.join("ca.crt"),
        };
        let (certificate, key) = self.issue(uris, years);
        std::fs::write(&files.certificate, certificate).expect("written");
        std::fs::write(&files.key, key).expect("written");
        let bundle: String = trusted.iter().map(|authority| authority.pem()).collect();
        std::fs::write(&files.authorities, bundle).expect("written");
        files
    }
}
