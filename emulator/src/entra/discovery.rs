//! The documents that MSAL reads before it requests a token.

use serde_json::{Value, json};

use super::State;
use crate::jwt::TENANT_ID;

/// The document at `/TENANT/PATH`.
pub(super) fn document(state: &State, tenant: &str, host: &str, path: &str) -> Option<Value> {
    match path {
        "v2.0/.well-known/openid-configuration" | ".well-known/openid-configuration" => {
            Some(configuration(tenant, host))
        }
        "discovery/v2.0/keys" | "discovery/keys" => Some(state.issuer.public_keys()),
        _ => None,
    }
}

fn configuration(tenant: &str, host: &str) -> Value {
    let base = format!("https://{host}/{tenant}");
    json!({
        "issuer": format!("https://{host}/{TENANT_ID}/v2.0"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "response_types_supported": ["code", "id_token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// The endpoint's own host is the only authority.
pub(super) fn instance(host: &str) -> Value {
    json!({
        "tenant_discovery_endpoint":
            format!("https://{host}/{TENANT_ID}/v2.0/.well-known/openid-configuration"),
        "api-version": "1.1",
        "metadata": [{
            "preferred_network": host,
            "preferred_cache": host,
            "aliases": [host],
        }],
    })
}
