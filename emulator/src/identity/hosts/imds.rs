//! IMDS, of virtual machines: "How to use managed identities for Azure
//! resources on an Azure VM to acquire an access token".

use serde_json::{Value, json};

use super::{Host, Refusal, api_version, bad_request, entra_answer, selector, wants_metadata};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::Principal,
};

pub(super) const PATH: &str = "/metadata/identity/oauth2/token";

pub(super) struct Imds;

impl Host for Imds {
    fn check(&self, _: &State, request: &Received) -> Result<(), Refusal> {
        wants_metadata(request)?;
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
        entra_answer(principal, resource, signed)
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"error": refusal.error, "error_description": refusal.description})
    }
}
