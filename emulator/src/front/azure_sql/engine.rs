//! The connection to the engine, until its login is answered.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{EngineTrust, response::LoginResponse};
use crate::azure_sql::{
    packets::{DEFAULT_PACKET_SIZE, expect, kind, write_message},
    prelogin::{HandshakeStream, Prelogin, encryption},
};

pub(super) type Stream = TlsStream<HandshakeStream>;

/// An engine that has answered PRELOGIN.
pub(super) struct Upstream {
    stream: TcpStream,
    /// The engine's answer.
    pub(super) prelogin: Prelogin,
    /// The engine's host, and its instance if it has one.
    pub(super) name: String,
}

impl Upstream {
    /// Connects to `name` (`HOST` or `HOST\INSTANCE`) with the client's version and MARS.
    pub(super) async fn hello(name: &str, port: u16, client: Prelogin) -> io::Result<Self> {
        let mut stream = TcpStream::connect((host(name), port)).await?;
        stream.set_nodelay(true)?;
        let hello = Prelogin { encryption: encryption::ON, fed_auth: None, ..client };
        let hello = hello.write(&[0; 4]);
        write_message(&mut stream, kind::PRELOGIN, &hello, DEFAULT_PACKET_SIZE, 0).await?;
        let prelogin = Prelogin::parse(&expect(&mut stream, kind::TABULAR_RESULT).await?.payload)?;
        if !matches!(prelogin.encryption, encryption::ON | encryption::REQUIRED) {
            return Err(io::Error::other("the engine does not encrypt"));
        }
        Ok(Self { stream, prelogin, name: name.to_owned() })
    }

    /// Shakes hands and sends this LOGIN7.
    pub(super) async fn log_in(
        self,
        tls: &TlsConnector,
        login: &[u8],
    ) -> io::Result<(Stream, LoginResponse)> {
        let name = ServerName::try_from(host(&self.name).to_owned()).map_err(io::Error::other)?;
        let stream = HandshakeStream::new(Box::new(self.stream), kind::PRELOGIN, false);
        let mut stream = tls.connect(name, stream).await?;
        stream.get_mut().0.handshake_done();
        write_message(&mut stream, kind::LOGIN7, login, DEFAULT_PACKET_SIZE, 0).await?;
        let response = LoginResponse::parse(expect(&mut stream, kind::TABULAR_RESULT).await?)?;
        Ok((stream, response))
    }
}

fn host(name: &str) -> &str {
    name.split('\\').next().unwrap_or_default()
}

pub(super) fn tls(trust: &EngineTrust) -> io::Result<TlsConnector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match trust {
        EngineTrust::CaFile(path) => builder.with_root_certificates(roots(path)?),
        EngineTrust::DangerousAny => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
    };
    Ok(Arc::new(config.with_no_client_auth()).into())
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
    match roots.add_parsable_certificates(certificates).0 {
        0 => Err(io::Error::other(format!("cannot read a certificate from {}", path.display()))),
        _ => Ok(roots),
    }
}

/// Accepts every certificate. The signatures of the handshake would prove nothing, so they are
/// not verified.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
