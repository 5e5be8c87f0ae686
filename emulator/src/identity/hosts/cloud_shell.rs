//! Cloud Shell, as azidentity and MSAL speak to it: tokens of the user who is
//! logged in.

use hyper::Method;
use serde_json::{Value, json};

use super::{Host, Refusal, entra_answer, wants_metadata};
use crate::{
    identity::control::{Inner, Received, Signed, State},
    jwt::{Principal, PrincipalKind},
};

pub(in crate::identity) const PATH: &str = "/oauth2/token";

/// Who is logged in.
pub(in crate::identity) fn user() -> Principal {
    Principal::new("shell-user@contoso.com", PrincipalKind::User)
}

pub(super) struct CloudShell;

impl Host for CloudShell {
    fn method(&self) -> Method {
        Method::POST
    }

    fn parameters<'a>(&self, request: &'a Received) -> &'a [(String, String)] {
        &request.form
    }

    fn check(&self, _: &State, request: &Received) -> Result<(), Refusal> {
        wants_metadata(request)
    }

    /// There are no others; a selector is ignored.
    fn select(&self, _: &Inner, _: &Received) -> Result<Principal, Refusal> {
        Ok(user())
    }

    fn token(&self, principal: &Principal, resource: &str, signed: &Signed) -> Value {
        entra_answer(principal, resource, signed)
    }

    fn refusal(&self, refusal: &Refusal) -> Value {
        json!({"error": {"code": refusal.error, "message": refusal.description}})
    }
}
