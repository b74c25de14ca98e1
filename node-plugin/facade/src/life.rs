//! From when to when a certificate is valid, and when its holder asks for the next one.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use x509_parser::parse_x509_certificate;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Not before this.
    pub begins: SystemTime,
    /// Not after this.
    pub ends: SystemTime,
}

/// What should be a certificate is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this is no certificate: {0}")]
pub struct NoCertificate(String);

impl Life {
    /// That of the first certificate in a PEM text.
    ///
    /// # Errors
    /// [`NoCertificate`].
    pub fn of_pem(text: &str) -> Result<Self, NoCertificate> {
        let der = CertificateDer::from_pem_slice(text.as_bytes());
        Self::of(&der.map_err(|error| NoCertificate(error.to_string()))?)
    }

    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, NoCertificate> {
        let (_, parsed) =
            parse_x509_certificate(certificate).map_err(|error| NoCertificate(error.to_string()))?;
        let validity = parsed.validity();
        Ok(Self {
            begins: moment(validity.not_before.timestamp()),
            ends: moment(validity.not_after.timestamp()),
        })
    }

    /// When two thirds of it are over: the last third is for finding somebody who signs.
    pub fn renew_at(&self) -> SystemTime {
        let whole = self.ends.duration_since(self.begins).unwrap_or_default();
        self.begins.checked_add(whole / 3 * 2).unwrap_or(self.ends)
    }
}

/// Before 1970 is as long over as 1970 is.
fn moment(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2030, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 31);
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let life = Life::of_pem(&certificate.pem()).expect("a certificate");
        let days = |count: u64| Duration::from_secs(count * 86_400);
        assert_eq!(life.ends, life.begins + days(30));
        assert_eq!(life.renew_at(), life.begins + days(20));
    }

    #[test]
    fn what_is_no_certificate_has_no_life() {
        for text in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            Life::of_pem(text).expect_err(text);
        }
        let never = Life { begins: moment(10), ends: moment(-10) };
        assert_eq!(never.renew_at(), never.begins, "it is renewed at once");
    }
}
