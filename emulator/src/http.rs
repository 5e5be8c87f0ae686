//! HTTP as the identity endpoint and Entra's stand-in serve it.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(crate) type Answer = Response<Full<Bytes>>;

/// Requests are small: a longer one is taken for an empty one.
const BODY_LIMIT: usize = 64 * 1024;

pub(crate) async fn serve<S, F, C>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>) -> C,
    C: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = connection {
        tracing::debug!(%error, "HTTP: connection ended");
    }
}

/// Shakes hands.
pub(crate) async fn over_tls(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> Option<TlsStream<TcpStream>> {
    match acceptor.accept(stream).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::info!(%error, "TLS handshake failed: does the client trust EMULATOR_CA?");
            None
        }
    }
}

/// Names and values, decoded, in their order.
pub(crate) fn pairs(text: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text).into_owned().collect()
}

/// The form in a request's body; nothing if it is something else.
pub(crate) async fn form(headers: &HeaderMap, body: Incoming) -> Vec<(String, String)> {
    let body = Limited::new(body, BODY_LIMIT).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        pairs(&body)
    } else {
        Vec::new()
    }
}

pub(crate) fn json(status: StatusCode, body: &Value) -> Answer {
    plain(status, "application/json; charset=utf-8", body.to_string())
}

pub(crate) fn plain(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
