//! What is asked and answered, in both protocols.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::control::{Fault, Inner, Received, Signed, State};
use crate::jwt::Principal;

pub(super) const APP_SERVICE_PATH: &str = "/msi/token";
const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

type Answer = Response<Full<Bytes>>;

pub(super) async fn serve(state: Arc<State>, stream: TcpStream) {
    let service = service_fn(|request| answer(&state, request));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = connection {
        tracing::debug!(%error, "identity endpoint: connection ended");
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let received = read(state, &request);
    state.record(received.clone());
    Ok(match state.admit().await {
        Some(fault) => fail(fault).await,
        None => respond(state, &received),
    })
}

fn read(state: &State, request: &Request<Incoming>) -> Received {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let query = request.uri().query().unwrap_or_default();
    Received {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        metadata: header("metadata"),
        identity_header_is_right: header("x-identity-header").map(|value| value == state.secret()),
        user_agent: header("user-agent"),
    }
}

fn respond(state: &State, request: &Received) -> Answer {
    let host: &dyn Host = match request.path.as_str() {
        APP_SERVICE_PATH => &AppService,
        IMDS_PATH => &Imds,
        _ => return json_answer(StatusCode::NOT_FOUND, &json!({"error": "not_found"})),
    };
    if request.method != Method::GET.as_str() {
        return json_answer(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({"error": "method_not_allowed"}),
        );
    }
    let outcome = host.check(request).and_then(|()| {
        let resource = resource(request)?;
        let principal = host.select(&state.lock(), request)?;
        Ok((principal, resource))
    });
    match outcome {
        Ok((principal, resource)) => {
            let signed = state.hand_out(&principal, resource);
            json_answer(StatusCode::OK, &host.token(&principal, resource, &signed))
        }
        Err(refusal) => json_answer(refusal.status, &host.refusal(&refusal)),
    }
}

/// Why there is no token.
struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
}

fn bad_request(error: &'static str, description: impl Into<String>) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, error, description: description.into() }
}

/// What differs between the two protocols.
trait Host {
    fn check(&self, request: &Received) -> Result<(), Refusal>;
    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal>;
    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value;
    fn refusal(&self, refusal: &Refusal) -> Value;
}

struct AppService;

impl Host for AppService {
    fn check(&self, request: &Received) -> Result<(), Refusal> {
        if request.identity_header_is_right != Some(true) {
            return Err(Refusal {
                status: StatusCode::UNAUTHORIZED,
                error: "unauthorized",
                description: "the X-IDENTITY-HEADER is missing or wrong".to_owned(),
            });
        }
        api_version(request, "2019-08-01")
    }

    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal> {
        match selector(request, ["client_id", "principal_id", "mi_res_id"])? {
            Some(selector) => selector.find(inner),
            None => inner.system_assigned.clone(),
        }
        .ok_or_else(|| {
            bad_request(
                "invalid_request",
                "No managed identity found for the ClientId, ResourceId or PrincipalId specified",
            )
        })
    }

    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        let mut answer = json!({
            "access_token": signed.token,
            "client_id": principal.client_id,
            "expires_on": signed.expires_on.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        add_refresh_in(&mut answer, signed);
        answer
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"statusCode": refusal.status.as_u16(), "message": refusal.description})
    }
}

struct Imds;

impl Host for Imds {
    fn check(&self, request: &Received) -> Result<(), Refusal> {
        if request.metadata.as_deref() != Some("true") {
            return Err(bad_request("invalid_request", "Required metadata header not specified"));
        }
        api_version(request, "2018-02-01")
    }

    /// Without a selector: the system-assigned identity or, where there is
    /// none, the only user-assigned one.
    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal> {
        let not_found = || bad_request("invalid_request", "Identity not found");
        if let Some(selector) = selector(request, ["client_id", "object_id", "msi_res_id"])? {
            return selector.find(inner).ok_or_else(not_found);
        }
        match (&inner.system_assigned, inner.user_assigned.as_slice()) {
            (Some(principal), _) | (None, [principal]) => Ok(principal.clone()),
            (None, []) => Err(not_found()),
            (None, _) => Err(bad_request(
                "invalid_request",
                "Multiple user assigned identities exist, please specify the clientId / \
                 resourceId of the identity in the token request",
            )),
        }
    }

    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        let expires_in = signed.expires_on.saturating_sub(signed.not_before);
        // Entra rounds down: of 24 hours, 86399 seconds are left.
        let expires_in = expires_in.saturating_sub(1).to_string();
        let mut answer = json!({
            "access_token": signed.token,
            "client_id": principal.client_id,
            "expires_in": expires_in,
            "expires_on": signed.expires_on.to_string(),
            "ext_expires_in": expires_in,
            "not_before": signed.not_before.to_string(),
            "resource": resource,
            "token_type": "Bearer",
        });
        add_refresh_in(&mut answer, signed);
        answer
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"error": refusal.error, "error_description": refusal.description})
    }
}

fn api_version(request: &Received, known: &str) -> Result<(), Refusal> {
    match request.query_value("api-version") {
        Some(version) if version == known => Ok(()),
        Some(version) => Err(bad_request(
            "invalid_request",
            format!("api-version '{version}' is not supported: '{known}' is"),
        )),
        None => {
            Err(bad_request("invalid_request", "Required query variable 'api-version' is missing"))
        }
    }
}

/// A resource is an application ID URI or a client ID; a scope is neither.
fn resource(request: &Received) -> Result<&str, Refusal> {
    let Some(resource) = request.query_value("resource").filter(|r| !r.is_empty()) else {
        return Err(bad_request(
            "invalid_request",
            "Required query variable 'resource' is missing",
        ));
    };
    let is_uri = url::Url::parse(resource).is_ok_and(|url| url.has_host());
    let is_guid = uuid::Uuid::try_parse(resource).is_ok();
    if (is_uri || is_guid) && !resource.ends_with("/.default") {
        return Ok(resource);
    }
    Err(bad_request(
        "invalid_resource",
        format!(
            "AADSTS500011: The resource principal named {resource} was not found in the tenant"
        ),
    ))
}

/// One of the ways to name a user-assigned identity, and its value.
enum Selector<'a> {
    Client(&'a str),
    Object(&'a str),
    Resource(&'a str),
}

impl Selector<'_> {
    fn find(&self, inner: &Inner) -> Option<Principal> {
        let is_it = |principal: &&Principal| match self {
            Selector::Client(id) => principal.client_id.eq_ignore_ascii_case(id),
            Selector::Object(id) => principal.object_id.eq_ignore_ascii_case(id),
            Selector::Resource(id) => {
                principal.resource_id().is_some_and(|own| own.eq_ignore_ascii_case(id))
            }
        };
        inner.user_assigned.iter().find(is_it).cloned()
    }
}

/// The selector among `names` (client, object and resource ID): parameters of
/// other names are ignored, as the real endpoints do.
fn selector<'a>(request: &'a Received, names: [&str; 3]) -> Result<Option<Selector<'a>>, Refusal> {
    let values = names.map(|name| request.query_value(name));
    match values {
        [None, None, None] => Ok(None),
        [Some(id), None, None] => Ok(Some(Selector::Client(id))),
        [None, Some(id), None] => Ok(Some(Selector::Object(id))),
        [None, None, Some(id)] => Ok(Some(Selector::Resource(id))),
        _ => Err(bad_request("invalid_request", "More than one identity is specified")),
    }
}

fn add_refresh_in(answer: &mut Value, signed: &Signed) {
    if let Some(refresh_in) = signed.refresh_in {
        answer["refresh_in"] = refresh_in.to_string().into();
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
