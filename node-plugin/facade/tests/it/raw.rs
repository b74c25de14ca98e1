//! Channels and messages that the client would not make.

use crate::node::Node;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use umbra_facade::{CredentialFiles, Credentials};

/// A verifier that takes whatever answers.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS stream to the node.
pub(crate) async fn stream(
    node: &Node,
    files: CredentialFiles,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let peer = crate::node::NODE.parse().expect("an identity");
    let credentials = Credentials::of_client(files, peer).expect("certificates");
    let stream = TcpStream::connect(&node.address).await.expect("a door");
    let name = ServerName::try_from("a.invalid").expect("a name");
    TlsConnector::from(credentials.current()).connect(name, stream).await.expect("let in")
}

/// A channel to the node.
pub(crate) async fn channel(node: &Node, files: CredentialFiles) -> Channel {
    let mut stream = Some(stream(node, files).await);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("once"));
        async move { stream.map(TokioIo::new) }
    });
    Endpoint::from_static("http://umbra.invalid").connect_with_connector(connector).await.expect("a server")
}

/// A channel through the node's own socket.
pub(crate) async fn local_channel(socket: PathBuf) -> Channel {
    let socket = Arc::new(socket);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = Arc::clone(&socket);
        async move { UnixStream::connect(&*socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://umbra.invalid").connect_with_connector(connector).await.expect("a server")
}

/// Calls a method of the facade with any message.
pub(crate) async fn ask<M, A>(channel: &Channel, method: &str, message: M) -> Result<A, Status>
where
    M: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let mut rpc = tonic::client::Grpc::new(channel.clone());
    rpc.ready().await.expect("connected");
    let path: PathAndQuery = format!("/umbra.facade.v1alpha1.Facade/{method}").parse().expect("a path");
    let codec = ProstCodec::<M, A>::default();
    rpc.unary(Request::new(message), path, codec).await.map(Response::into_inner)
}
