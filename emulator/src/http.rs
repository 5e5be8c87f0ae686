//! The HTTP server of the identity endpoint and of Entra's token endpoint.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::listener::Listener;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Requests are small: the body of a longer request is ignored.
const BODY_LIMIT: usize = 64 * 1024;

/// Serves HTTP on this address, over TLS if a configuration is given.
pub(crate) fn listen<F, C>(
    addr: impl Into<SocketAddr>,
    tls: Option<Arc<ServerConfig>>,
    answer: F,
) -> io::Result<Listener>
where
    F: Fn(Request<Incoming>) -> C + Clone + Send + Sync + 'static,
    C: Future<Output = Answer> + Send + 'static,
{
    let acceptor = tls.map(TlsAcceptor::from);
    Listener::start(addr, move |stream| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            let Some(acceptor) = acceptor else { return serve(stream, answer).await };
            match acceptor.accept(stream).await {
                Ok(stream) => serve(stream, answer).await,
                Err(error) => tracing::info!(
                    %error,
                    "TLS handshake failed: check that the client trusts EMULATOR_CA"
                ),
            }
        }
    })
}

async fn serve<S, F, C>(stream: S, answer: F)
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
        tracing::debug!(%error, "HTTP connection failed");
    }
}

/// Names and values of a form or a query, decoded, in order.
pub(crate) fn pairs(text: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text).into_owned().collect()
}

/// The form in a request's body; empty if the body is not a form.
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
    json_text(status, body.to_string())
}

/// A response of the type JSON, with any text.
pub(crate) fn json_text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}
