//! The client credentials grant: "Microsoft identity platform and the OAuth 2.0
//! client credentials flow".

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::SystemTime,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    Application, State, assertion,
    error::{self, Refusal, invalid_client},
};
use crate::http::pairs;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The answer with a token.
pub(super) fn grant(
    state: &State,
    tenant: &str,
    host: &str,
    form: &[(String, String)],
    authorization: Option<&str>,
) -> Result<Value, Refusal> {
    state.tenant(tenant)?;
    let value = |name: &str| {
        let pair = form.iter().find(|(key, value)| key == name && !value.is_empty());
        pair.map(|(_, value)| value.as_str())
    };
    let wanted = |name: &str| value(name).ok_or_else(|| error::missing(name));
    let grant = wanted("grant_type")?;
    if grant != "client_credentials" {
        return Err(error::unsupported_grant(grant));
    }
    let basic = authorization.and_then(basic);
    let basic = basic.as_ref().map(|(id, secret)| (id.as_str(), secret.as_str()));
    let client_id = match basic {
        Some((id, _)) => id,
        None => wanted("client_id")?,
    };
    let scope = wanted("scope")?;
    let resource = resource(scope)?;
    let application = state.application(client_id, tenant)?;
    match (value("client_assertion"), value("client_secret").or(basic.map(|(_, secret)| secret))) {
        (Some(assertion), _) if value("client_assertion_type") == Some(ASSERTION_TYPE) => {
            assertion::check(state, &application, assertion, host)?;
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
    let lifetime = state.options.token_lifetime;
    let token =
        state.issuer.sign(&application.principal, resource, SystemTime::now() + lifetime, 1_500);
    state.tokens.fetch_add(1, Ordering::Relaxed);
    tracing::info!(application = application.principal.name, resource, "a token is handed out");
    // Rounded down, as Entra does.
    let seconds = lifetime.as_secs().saturating_sub(1);
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": seconds,
        "ext_expires_in": seconds,
        "access_token": token,
    }))
}

impl State {
    fn application(&self, client_id: &str, tenant: &str) -> Result<Application, Refusal> {
        let applications = self.applications.read().unwrap_or_else(PoisonError::into_inner);
        let application = applications.get(&client_id.to_lowercase()).cloned();
        application.ok_or_else(|| error::unknown_application(client_id, tenant))
    }
}

/// RFC 6749, section 2.3.1: both parts are encoded as in a form.
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (id, secret) = text.split_once(':').filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let decode = |part: &str| pairs(part.as_bytes()).pop().map(|(text, _)| text);
    Some((decode(id)?, decode(secret)?))
}

/// The application ID URI, or the client ID, that a scope is for.
fn resource(scope: &str) -> Result<&str, Refusal> {
    if scope.split_whitespace().count() != 1 || scope.trim() != scope {
        return Err(error::malformed_scope(scope));
    }
    let Some(resource) = scope.strip_suffix("/.default") else {
        return Err(error::not_a_default_scope(scope));
    };
    let is_uri = url::Url::parse(resource).is_ok_and(|url| url.has_host());
    if is_uri || uuid::Uuid::try_parse(resource).is_ok() {
        return Ok(resource);
    }
    Err(error::unknown_resource(resource))
}
