//! What is asked and answered, whatever the host.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    control::{Fault, Received, State},
    hosts,
};

type Answer = Response<Full<Bytes>>;

/// Requests are small: what is longer is cut off.
const BODY_LIMIT: usize = 16 * 1024;

pub(super) async fn serve<S>(state: Arc<State>, stream: S, over_tls: bool)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request| answer(&state, request, over_tls));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = connection {
        tracing::debug!(%error, "identity endpoint: connection ended");
    }
}

async fn answer(
    state: &State,
    request: Request<Incoming>,
    over_tls: bool,
) -> Result<Answer, Infallible> {
    let received = read(state, request, over_tls).await;
    state.record(received.clone());
    Ok(match state.admit().await {
        Some(fault) => fail(fault).await,
        None => respond(state, &received),
    })
}

async fn read(state: &State, request: Request<Incoming>, over_tls: bool) -> Received {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let pairs = |text: &[u8]| url::form_urlencoded::parse(text).into_owned().collect();
    let body = Limited::new(body, BODY_LIMIT).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let is_form = header("content-type").as_deref() == Some("application/x-www-form-urlencoded");
    let right = |value: String| value == state.secret();
    Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: pairs(head.uri.query().unwrap_or_default().as_bytes()),
        form: if is_form { pairs(&body) } else { Vec::new() },
        metadata: header("metadata"),
        identity_header_is_right: header("x-identity-header").map(right),
        secret_is_right: header("secret").map(right),
        key_is_right: header("authorization").map(|value| state.agent().accept(&value)),
        user_agent: header("user-agent"),
        over_tls,
    }
}

fn respond(state: &State, request: &Received) -> Answer {
    let Some(host) = hosts::host(request) else {
        return json_answer(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    };
    if request.method != host.method().as_str() {
        return json_answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "method_not_allowed"}),
        );
    }
    let outcome = host.check(state, request).and_then(|()| {
        let resource = hosts::resource(host.parameters(request))?;
        let principal = host.select(&state.lock(), request)?;
        Ok((principal, resource))
    });
    match outcome {
        Ok((principal, resource)) => {
            let signed = state.hand_out(&principal, resource);
            json_answer(StatusCode::OK, &host.token(&principal, resource, &signed))
        }
        Err(refusal) => {
            let mut answer = json_answer(refusal.status, &host.refusal(&refusal));
            if let Some(challenge) = refusal.challenge.and_then(|text| text.try_into().ok()) {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            answer
        }
    }
}

async fn fail(fault: Fault) -> Answer {
    match fault {
        Fault::Status(status, body) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            plain(status, "application/json", body)
        }
        Fault::Throttled(retry_after) => {
            let body = json!({"error": "too_many_requests", "error_description": "Slow down"});
            let mut answer = json_answer(StatusCode::TOO_MANY_REQUESTS, &body);
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            answer
        }
        Fault::Redirect(status, location) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
            let mut answer = plain(status, "text/plain", String::new());
            if let Ok(location) = location.try_into() {
                answer.headers_mut().insert(header::LOCATION, location);
            }
            answer
        }
        Fault::Silence => std::future::pending().await,
        Fault::Html => plain(
            StatusCode::OK,
            "text/html",
            "<!doctype html><title>Welcome</title><p>Please sign in to the network.".to_owned(),
        ),
        Fault::TruncatedJson => plain(
            StatusCode::OK,
            "application/json",
            r#"{"token_type":"Bearer","resource":"https://data"#.to_owned(),
        ),
        Fault::EmptyBody => plain(StatusCode::OK, "application/json", String::new()),
    }
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    plain(status, "application/json; charset=utf-8", body.to_string())
}

fn plain(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}
