//! Service Fabric: "How to leverage a Service Fabric application's managed
//! identity to access Azure services". Over TLS, with a certificate that the
//! application knows by its thumbprint.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Host, Refusal, api_version, bad_request, unauthorized};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::Principal,
};

pub(in crate::identity) const PATH: &str = "/metadata/identity/oauth2/token";

pub(super) struct ServiceFabric;

impl Host for ServiceFabric {
    fn check(&self, _: &State, request: &Received) -> Result<(), Refusal> {
        if request.secret_is_right != Some(true) {
            return Err(unauthorized("Secret is not found in the request headers."));
        }
        api_version(request, "2019-07-01-preview")
    }

    /// The cluster's choice, which is the system-assigned one here; a selector
    /// is ignored.
    fn select(&self, inner: &Inner, _: &Received) -> Result<Principal, Refusal> {
        inner.system_assigned.clone().ok_or_else(|| Refusal {
            status: StatusCode::NOT_FOUND,
            ..bad_request("ManagedIdentityNotFound", "Managed identity is not found.")
        })
    }

    /// `expires_on` is a number here.
    fn token(&self, _: &Principal, resource: &str, signed: &Signed) -> Value {
        json!({
            "access_token": signed.token,
            "expires_on": signed.expires_on,
            "resource": resource,
            "token_type": "Bearer",
        })
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"error": {"code": refusal.error, "message": refusal.description}})
    }
}
