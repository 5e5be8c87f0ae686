//! App Service, Functions and Container Apps: "How to use managed identities
//! for App Service and Azure Functions", REST endpoint reference.

use serde_json::{Value, json};

use super::{
    Host, Refusal, Selector, add_refresh_in, api_version, bad_request, more_than_one, selector,
    unauthorized,
};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::Principal,
};

pub(in crate::identity) const PATH: &str = "/msi/token";

pub(super) struct AppService;

impl Host for AppService {
    fn check(&self, _: &State, request: &Received) -> Result<(), Refusal> {
        if request.identity_header_is_right != Some(true) {
            return Err(unauthorized("the X-IDENTITY-HEADER is missing or wrong"));
        }
        api_version(request, "2019-08-01")
    }

    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal> {
        // Microsoft's page has `principal_id`, its SDKs send `object_id`.
        let documented = selector(request, ["client_id", "principal_id", "mi_res_id"])?;
        let selector = match (documented, request.query_value("object_id")) {
            (None, object_id) => object_id.map(Selector::Object),
            (selector, None) => selector,
            (Some(_), Some(_)) => return Err(more_than_one()),
        };
        match selector {
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
