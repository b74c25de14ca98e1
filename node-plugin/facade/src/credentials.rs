//! Certificates: read from files, and read again when these have changed.
//!
//! Every connection begins with the files as they are then. One that exists goes on with what it began with: a certificate
//! that expires, or an authority that is taken out, ends no session, but begins none either, because sessions are never
//! resumed. While the files do not fit together, as when they are exchanged one by one, the last that did are used.
//!
//! TLS 1.3 only. Who a peer is says its URI ([`crate::identity`]); names and addresses of hosts say nothing.

use crate::identity::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, PeerIncompatible, RootCertStore,
    ServerConfig, SignatureScheme,
};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use thiserror::Error;

/// Longest file that is read: a bundle of authorities has some KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is spoken inside of TLS.
const PROTOCOL: &[u8] = b"h2";

/// Where the certificates are, each as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// The own certificate, and those between it and an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that a peer's certificate may come from: two while they are exchanged.
    pub authorities: PathBuf,
}

impl CredentialFiles {
    /// Whether the certificate that is there now is over: peers take up no connection then.
    ///
    /// # Errors
    /// [`CredentialsError`] where that cannot be told.
    pub fn has_expired(&self, now: SystemTime) -> Result<bool, CredentialsError> {
        match Texts::read(self)?.material(self)?.verify(now) {
            Ok(()) => Ok(false),
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Ok(true),
            Err(problem) => {
                Err(CredentialsError::Unusable { certificate: self.certificate.clone(), problem })
            }
        }
    }
}

/// Why certificates cannot be used.
#[derive(Clone, Debug, Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("read {file}: {problem}; look whether the path is right and the file is mounted", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// How it failed.
        problem: String,
    },
    /// A file does not hold what it should.
    #[error("{file} holds no {what}: {problem}; put one there, as PEM", file = file.display())]
    Holds {
        /// The file.
        file: PathBuf,
        /// What should be there.
        what: &'static str,
        /// How that was seen.
        problem: String,
    },
    /// Certificate, key and authorities do not go together.
    #[error("{certificate} cannot be used with its key: {problem}; issue both anew", certificate = certificate.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why not.
        problem: rustls::Error,
    },
}

/// What the files hold.
#[derive(PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) authorities: Vec<u8>,
}

/// The same, understood.
pub(crate) struct Material {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Material {
    /// Whether an authority vouches for the certificate at this time.
    pub(crate) fn verify(&self, now: SystemTime) -> Result<(), rustls::Error> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let [own, intermediates @ ..] = self.chain.as_slice() else { return Ok(()) };
        let parsed = ParsedCertificate::try_from(own)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let now = UnixTime::since_unix_epoch(now);
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.authorities, intermediates, now, algorithms)
    }

    /// Whether the key is that of the certificate.
    pub(crate) fn check_pair(self) -> Result<(), rustls::Error> {
        server_config(self).map(drop)
    }
}

impl Texts {
    pub(crate) fn read(files: &CredentialFiles) -> Result<Self, CredentialsError> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            authorities: read(&files.authorities)?,
        })
    }

    pub(crate) fn material(&self, files: &CredentialFiles) -> Result<Material, CredentialsError> {
        let chain = certificates(&self.certificate)
            .map_err(|problem| holds(&files.certificate, "certificate", &problem))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| holds(&files.key, "private key", &error))?;
        let authorities = Arc::new(roots(&self.authorities, &files.authorities)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Material { chain, key, authorities, provider })
    }
}

fn holds(file: &Path, what: &'static str, problem: &dyn fmt::Display) -> CredentialsError {
    CredentialsError::Holds { file: file.to_owned(), what, problem: problem.to_string() }
}

/// The authorities in a text that is, or is to be, in this file.
pub(crate) fn roots(text: &[u8], file: &Path) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(text).map_err(|problem| holds(file, "authority", &problem))? {
        roots.add(root).map_err(|error| holds(file, "authority", &error))?;
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<Vec<u8>, CredentialsError> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|open| open.take(FILE_BYTES_MAX).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(CredentialsError::Read { file: file.to_owned(), problem: error.to_string() }),
    }
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("nothing there".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

type Build<T> = Box<dyn Fn(Material) -> Result<T, rustls::Error> + Send + Sync>;

/// What connections of one kind begin with.
pub struct Credentials<T> {
    files: CredentialFiles,
    build: Build<T>,
    current: Mutex<(Texts, Arc<T>)>,
}

impl<T> fmt::Debug for Credentials<T> {
    // Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Credentials<ServerConfig> {
    /// For a server whose clients must have a certificate of one of the authorities.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn of_server(files: CredentialFiles) -> Result<Self, CredentialsError> {
        Self::new(files, Box::new(server_config))
    }
}

impl Credentials<ClientConfig> {
    /// For a client that speaks to `peer` and to nobody else.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn of_client(files: CredentialFiles, peer: Identity) -> Result<Self, CredentialsError> {
        Self::new(files, Box::new(move |material| client_config(material, peer.clone())))
    }
}

impl<T> Credentials<T> {
    fn new(files: CredentialFiles, build: Build<T>) -> Result<Self, CredentialsError> {
        let texts = Texts::read(&files)?;
        let config = built(&files, &texts, &build)?;
        Ok(Self { files, build, current: Mutex::new((texts, Arc::new(config))) })
    }

    /// What a connection that begins now begins with. Reads the files.
    pub fn current(&self) -> Arc<T> {
        // It is replaced whole, so that a panic leaves no half of it.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match Texts::read(&self.files) {
            Ok(texts) if texts == current.0 => {}
            read => match read.and_then(|texts| Ok((built(&self.files, &texts, &self.build)?, texts))) {
                Ok((config, texts)) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "new certificates are used");
                    *current = (texts, Arc::new(config));
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificates that are there cannot be used; the last ones are");
                }
            },
        }
        Arc::clone(&current.1)
    }
}

fn built<T>(files: &CredentialFiles, texts: &Texts, build: &Build<T>) -> Result<T, CredentialsError> {
    build(texts.material(files)?)
        .map_err(|problem| CredentialsError::Unusable { certificate: files.certificate.clone(), problem })
}

fn server_config(material: Material) -> Result<ServerConfig, rustls::Error> {
    let Material { chain, key, authorities, provider } = material;
    let clients = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(material: Material, peer: Identity) -> Result<ClientConfig, rustls::Error> {
    let Material { chain, key, authorities, provider } = material;
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyThisPeer { authorities, algorithms, peer }))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The URIs of a certificate.
pub(crate) fn uris<'a>(certificate: &'a CertificateDer<'_>) -> Vec<&'a str> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_uri_names().collect(),
        Err(_) => Vec::new(),
    }
}

/// A server is the right one by its chain and its identity.
#[derive(Debug)]
struct OnlyThisPeer {
    authorities: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    peer: Identity,
}

/// Somebody else answers.
#[derive(Debug, Error)]
#[error("this is {found:?} and not {expected}")]
struct WrongPeer {
    expected: Identity,
    found: Vec<String>,
}

impl ServerCertVerifier for OnlyThisPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (&self.authorities, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        let found = uris(end_entity);
        if found == [self.peer.to_string()] {
            return Ok(ServerCertVerified::assertion());
        }
        let found = found.into_iter().map(str::to_owned).collect();
        let wrong = WrongPeer { expected: self.peer.clone(), found };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
