//! The hosts' protocols, a file each.

pub(super) mod app_service;
pub(super) mod azure_arc;
pub(super) mod azure_ml;
pub(super) mod cloud_shell;
mod imds;
pub(super) mod service_fabric;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::control::{Inner, Received, Signed, State};
use crate::jwt::Principal;

/// Who answers at this path.
pub(super) fn host(request: &Received) -> Option<&'static dyn Host> {
    Some(match (request.path.as_str(), request.over_tls) {
        (app_service::PATH, false) => &app_service::AppService,
        (azure_arc::PATH, false) => &azure_arc::AzureArc,
        (azure_ml::PATH, false) => &azure_ml::AzureMl,
        (cloud_shell::PATH, false) => &cloud_shell::CloudShell,
        (imds::PATH, false) => &imds::Imds,
        (service_fabric::PATH, true) => &service_fabric::ServiceFabric,
        _ => return None,
    })
}

/// Why there is no token.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    error: &'static str,
    description: String,
    /// `WWW-Authenticate`.
    pub(super) challenge: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.description)
    }
}

fn bad_request(error: &'static str, description: impl Into<String>) -> Refusal {
    let (status, description) = (StatusCode::BAD_REQUEST, description.into());
    Refusal { status, error, description, challenge: None }
}

fn unauthorized(description: &str) -> Refusal {
    let status = StatusCode::UNAUTHORIZED;
    Refusal { status, ..bad_request("unauthorized", description) }
}

/// What differs between the protocols.
pub(super) trait Host: Sync {
    fn method(&self) -> Method {
        Method::GET
    }

    /// Where the parameters are.
    fn parameters<'a>(&self, request: &'a Received) -> &'a [(String, String)] {
        &request.query
    }

    /// Who may ask, and how.
    fn check(&self, state: &State, request: &Received) -> Result<(), Refusal>;
    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal>;
    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value;
    fn refusal(&self, refusal: &Refusal) -> Value;
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
pub(super) fn resource(parameters: &[(String, String)]) -> Result<&str, Refusal> {
    let resource = parameters.iter().find(|(name, _)| name == "resource");
    let Some((_, resource)) = resource.filter(|(_, resource)| !resource.is_empty()) else {
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

/// The selector among `names` (of client, object and resource ID): parameters of
/// other names are ignored, as the real endpoints do.
fn selector<'a>(request: &'a Received, names: [&str; 3]) -> Result<Option<Selector<'a>>, Refusal> {
    let values = names.map(|name| request.query_value(name));
    match values {
        [None, None, None] => Ok(None),
        [Some(id), None, None] => Ok(Some(Selector::Client(id))),
        [None, Some(id), None] => Ok(Some(Selector::Object(id))),
        [None, None, Some(id)] => Ok(Some(Selector::Resource(id))),
        _ => Err(more_than_one()),
    }
}

fn more_than_one() -> Refusal {
    bad_request("invalid_request", "More than one identity is specified")
}

fn add_refresh_in(answer: &mut Value, signed: &Signed) {
    if let Some(refresh_in) = signed.refresh_in {
        answer["refresh_in"] = refresh_in.to_string().into();
    }
}

fn wants_metadata(request: &Received) -> Result<(), Refusal> {
    if request.metadata.as_deref() == Some("true") {
        return Ok(());
    }
    Err(bad_request("invalid_request", "Required metadata header not specified"))
}

/// An answer with all that Entra tells.
fn entra_answer(principal: &Principal, resource: &str, signed: &Signed) -> Value {
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
