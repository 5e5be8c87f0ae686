//! The connection to an identity endpoint, for one HTTP/1.1 request. It uses no proxy and follows
//! no redirect, because another server would receive the identity header and the token.
//!
//! It does not use reqwest's connections, because reqwest has no limit for 1xx responses: if a
//! server sends them endlessly, it reads up to 50 MB within one poll.

use std::{io, pin::pin, sync::Arc, time::Duration};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reqwest::{
    Body, Request, Response, Url,
    header::{HOST, HeaderValue, USER_AGENT},
};
use rustls::{CertificateError, ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::Position;

use super::http::HttpError;
use crate::{
    clock::{Clock, timeout},
    limited::{Allowance, Limited},
};

/// Removes the names in a certificate from an error. The owner of the certificate chooses the
/// names, which may therefore contain a secret that it has received before.
fn without_names(error: io::Error) -> io::Error {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match rustls {
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            ..
        })) => io::Error::other("the certificate is for another name"),
        _ => error,
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the host of `url` within `limit`, over TLS if `tls` is set.
pub(super) async fn open(
    url: &Url,
    tls: Option<&Arc<ClientConfig>>,
    clock: &dyn Clock,
    limit: Duration,
) -> Result<Box<dyn Stream>, HttpError> {
    let opening = async {
        // An IPv6 address has brackets in a URL.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, url.port_or_known_default().unwrap_or(80))).await?;
        let tcp = Limited::new(tcp, Allowance::for_login());
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let connected = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
                Box::new(connected.map_err(without_names)?)
            }
        };
        Ok(stream)
    };
    let opened = timeout(clock, limit, opening).await.unwrap_or_else(|_| {
        let said = format!("no connection within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, said))
    });
    opened.map_err(HttpError::Unreachable)
}

/// Sends `request` over this connection, and reads the response with `read`.
pub(super) async fn exchange<T>(
    stream: Box<dyn Stream>,
    request: Request,
    read: impl AsyncFnOnce(Response) -> Result<T, HttpError>,
) -> Result<T, HttpError> {
    let url = request.url();
    let (host, path) = (
        HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]),
        url[Position::BeforePath..Position::AfterQuery].parse(),
    );
    let mut request: hyper::Request<Body> = request.try_into().map_err(HttpError::broken)?;
    *request.uri_mut() = path.map_err(HttpError::broken)?;
    let user_agent = concat!("entra-pool/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(HOST, host.map_err(HttpError::broken)?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(user_agent));

    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::broken)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(HttpError::broken)?;
        read(response.map(Body::wrap).into()).await
    };
    let mut answered = pin!(answered);
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // The response may already be complete; otherwise, it returns the cause of the failure.
        _ = connection => answered.await,
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error, pki_types::ServerName};

    use super::*;

    #[test]
    fn the_names_in_the_certificate_of_an_endpoint_are_not_shown() {
        let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("localhost").unwrap().to_owned(),
            presented: vec!["\u{1b}[31mred.example".to_owned()],
        });
        let said = without_names(io::Error::other(error)).to_string();
        assert_eq!(said, "the certificate is for another name");
        let usual = without_names(io::Error::other(Error::HandshakeNotComplete));
        assert!(
            usual.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).is_some(),
            "any other error is unchanged"
        );
    }
}
