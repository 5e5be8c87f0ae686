//! The client credentials grant: "Microsoft identity platform and the OAuth 2.0
//! client credentials flow".

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    State, assertion,
    error::{Refusal, bad_request, invalid_client},
};
use crate::identity::is_resource;

const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The response with a token.
pub(super) fn grant(
    state: &State,
    tenant: &str,
    host: &str,
    form: &[(String, String)],
) -> Result<Value, Refusal> {
    state.tenant(tenant)?;
    let value = |name: &str| {
        let pair = form.iter().find(|(key, value)| key == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    };
    let wanted = |name: &str| {
        value(name).ok_or_else(|| {
            let text = format!("The request body must contain the following parameter: '{name}'.");
            bad_request("invalid_request", 900_144, text)
        })
    };
    let grant = wanted("grant_type")?;
    if grant != "client_credentials" {
        let text = format!("The app requested an unsupported grant type '{grant}'.");
        return Err(bad_request("unsupported_grant_type", 70_003, text));
    }
    let client_id = wanted("client_id")?;
    let scope = wanted("scope")?;
    let resource = resource(scope)?;
    let applications = state.applications.read();
    let application = applications.get(&client_id.to_lowercase()).ok_or_else(|| {
        let text = format!(
            "Application with identifier '{client_id}' was not found in the directory '{tenant}'."
        );
        bad_request("unauthorized_client", 700_016, text)
    })?;
    match (value("client_assertion"), value("client_secret")) {
        (Some(assertion), _) if value("client_assertion_type") == Some(ASSERTION_TYPE) => {
            assertion::check(state, application, assertion, host)?;
        }
        (None, Some(secret)) => {
            if !application.secrets.iter().any(|own| own == secret) {
                let text = format!(
                    "Invalid client secret provided. Ensure the secret being sent in the request \
                     is the client secret value, not the client secret ID, for a secret added to \
                     app '{client_id}'."
                );
                return Err(invalid_client(7_000_215, text));
            }
        }
        (Some(_), _) | (None, None) => {
            let text = "The request body must contain the following parameter: \
                        'client_assertion' or 'client_secret'.";
            return Err(invalid_client(7_000_218, text));
        }
    }
    let expires_on = SystemTime::now() + TOKEN_LIFETIME;
    let token = state.issuer.sign(&application.principal, resource, expires_on, 1_500);
    state.tokens.fetch_add(1, Ordering::Relaxed);
    tracing::info!(application = application.principal.name, resource, "token issued");
    // Entra rounds down.
    let seconds = TOKEN_LIFETIME.as_secs() - 1;
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": token,
    }))
}

/// The application ID URI, or the client ID, that a scope is for.
fn resource(scope: &str) -> Result<&str, Refusal> {
    if scope.split_whitespace().count() != 1 || scope.trim() != scope {
        let text = format!(
            "The provided request must include a 'scope' input parameter. The provided value for \
             the input parameter 'scope' is not valid. The scope {scope} is not valid."
        );
        return Err(bad_request("invalid_scope", 70_011, text));
    }
    let Some(resource) = scope.strip_suffix("/.default") else {
        let text = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have \
             a scope value with /.default suffixed to the resource identifier (application ID \
             URI)."
        );
        return Err(bad_request("invalid_scope", 1_002_012, text));
    };
    if is_resource(resource) {
        return Ok(resource);
    }
    let text = format!("The resource principal named {resource} was not found in the tenant.");
    Err(bad_request("invalid_resource", 500_011, text))
}
