//! Requests and responses of all hosts.

use std::sync::Arc;

use hyper::{
    Request, StatusCode,
    body::Incoming,
    header::{HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::json;

use super::{
    control::{Fault, Received, State},
    hosts::Host,
};
use crate::http::{self, Answer};

/// The path of health checks, which are not counted as requests.
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
        return http::json(status, &json!({"status": text}));
    }
    let received = read(&state, request, over_tls).await;
    state.record(received.clone());
    match state.admit().await {
        Some(fault) => {
            // Does not log the fault: a test may have put a token into its body.
            tracing::info!(path = received.path, "the identity endpoint failed as configured");
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
    let right = |value: String| value == state.secret;
    Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: http::pairs(head.uri.query().unwrap_or_default().as_bytes()),
        form: http::form(&head.headers, body).await,
        metadata: header("metadata"),
        identity_header_is_right: header("x-identity-header").map(right),
        secret_is_right: header("secret").map(right),
        key_is_right: header("authorization").map(|value| state.accept_key(&value)),
        user_agent: header("user-agent"),
        over_tls,
    }
}

fn respond(state: &State, request: &Received) -> Answer {
    let Some(host) = Host::of(request) else {
        tracing::info!(path = request.path, "the identity endpoint does not serve this path");
        return http::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"}));
    };
    if request.method != host.method() {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return http::json(status, &json!({"error": "method_not_allowed"}));
    }
    match host.read(state, request) {
        Ok((principal, resource)) => {
            let name = &principal.name;
            tracing::info!(path = request.path, principal = name, resource, "token issued");
            let signed = state.hand_out(&principal, resource);
            http::json(StatusCode::OK, &host.token(&principal, resource, &signed))
        }
        Err(refusal) => {
            let (status, reason) = (refusal.status, &refusal.description);
            tracing::info!(path = request.path, %status, reason, "token refused");
            let answer = http::json(status, &host.refusal(&refusal));
            match refusal.challenge {
                Some(challenge) => with_header(answer, WWW_AUTHENTICATE, &challenge),
                None => answer,
            }
        }
    }
}

async fn fail(fault: Fault) -> Answer {
    let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match fault {
        Fault::Status(code, body) => http::json_text(status(code), body),
        Fault::Throttled(seconds) => {
            let body = json!({"error": "too_many_requests", "error_description": "Slow down"});
            let answer = http::json(StatusCode::TOO_MANY_REQUESTS, &body);
            match seconds {
                Some(seconds) => with_header(answer, RETRY_AFTER, &seconds.to_string()),
                None => answer,
            }
        }
        Fault::Redirect(code, location) => {
            with_header(http::json_text(status(code), String::new()), LOCATION, &location)
        }
        Fault::Silence => std::future::pending().await,
    }
}

/// Adds a header, unless its value cannot be in one.
fn with_header(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = value.try_into() {
        answer.headers_mut().insert(name, value);
    }
    answer
}
