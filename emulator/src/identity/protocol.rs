//! Requests and answers, whatever the host.

use std::sync::Arc;

use hyper::{Request, StatusCode, body::Incoming, header};
use serde_json::json;

use super::{
    control::{Fault, Received, State},
    hosts,
};
use crate::http::{self, Answer, json as json_answer, plain};

/// Where containers are asked whether they run; counts as no request.
const HEALTH: &str = "/health";

pub(super) async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
    over_tls: bool,
) -> Answer {
    if request.uri().path() == HEALTH && !over_tls {
        let (status, text) = match state.is_ready() {
            true => (StatusCode::OK, "ready"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        };
        return json_answer(status, &json!({"status": text}));
    }
    let received = read(&state, request, over_tls).await;
    state.record(received.clone());
    match state.admit().await {
        Some(fault) => {
            // Not the fault itself: a test may have put a token into its answer.
            tracing::info!(path = received.path, "the identity endpoint fails as it is set");
            fail(fault).await
        }
        None => respond(&state, &received),
    }
}

async fn read(state: &State, request: Request<Incoming>, over_tls: bool) -> Received {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let right = |value: String| value == state.secret();
    Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: http::pairs(head.uri.query().unwrap_or_default().as_bytes()),
        form: http::form(&head.headers, body).await,
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
        tracing::info!(path = request.path, "the identity endpoint has nothing at this path");
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
            let (path, principal_name) = (&request.path, &principal.name);
            tracing::info!(path, principal = principal_name, resource, "a token is handed out");
            let signed = state.hand_out(&principal, resource);
            json_answer(StatusCode::OK, &host.token(&principal, resource, &signed))
        }
        Err(refusal) => {
            let status = refusal.status.as_u16();
            tracing::info!(path = request.path, status, %refusal, "a token is refused");
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
