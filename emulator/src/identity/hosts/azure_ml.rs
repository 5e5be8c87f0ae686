//! Azure Machine Learning: App Service's older protocol, as azidentity and MSAL
//! speak it.

use serde_json::{Value, json};

use super::{Host, Refusal, Selector, api_version, bad_request, unauthorized};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::Principal,
};

pub(in crate::identity) const PATH: &str = "/ml/msi/token";

pub(super) struct AzureMl;

impl Host for AzureMl {
    fn check(&self, _: &State, request: &Received) -> Result<(), Refusal> {
        if request.secret_is_right != Some(true) {
            return Err(unauthorized("the header `secret` is missing or wrong"));
        }
        api_version(request, "2017-09-01")
    }

    /// By client ID; other selectors are ignored.
    fn select(&self, inner: &Inner, request: &Received) -> Result<Principal, Refusal> {
        match request.query_value("clientid") {
            Some(id) => Selector::Client(id).find(inner),
            None => inner.system_assigned.clone(),
        }
        .ok_or_else(|| bad_request("invalid_request", "No MSI found for specified ClientId"))
    }

    /// `expires_on` is a number here.
    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        json!({
            "access_token": signed.token,
            "client_id": principal.client_id,
            "expires_on": signed.expires_on,
            "resource": resource,
            "token_type": "Bearer",
        })
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"StatusCode": refusal.status.as_u16(), "Message": refusal.description})
    }
}
