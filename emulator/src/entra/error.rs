//! Entra's refusals: "Microsoft Entra authentication & authorization error codes".

use std::fmt;

use hyper::StatusCode;
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::format_description};

pub(super) struct Refusal {
    pub(super) status: StatusCode,
    error: &'static str,
    code: u32,
    text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AADSTS{}: {}", self.code, self.text)
    }
}

impl Refusal {
    pub(super) fn body(&self, host: &str, correlation_id: Option<String>) -> Value {
        let new_id = || uuid::Uuid::new_v4().to_string();
        let (trace_id, correlation_id) = (new_id(), correlation_id.unwrap_or_else(new_id));
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
        let timestamp = OffsetDateTime::now_utc().format(format).unwrap_or_default();
        json!({
            "error": self.error,
            "error_description": format!(
                "{self} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
            ),
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": format!("https://{host}/error?code={}", self.code),
        })
    }
}

fn bad_request(error: &'static str, code: u32, text: String) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, error, code, text }
}

/// The credential is refused.
pub(super) fn invalid_client(code: u32, text: impl Into<String>) -> Refusal {
    let (status, error, text) = (StatusCode::UNAUTHORIZED, "invalid_client", text.into());
    Refusal { status, error, code, text }
}

pub(super) fn not_found() -> Refusal {
    let text = "The emulator has nothing at this path for this method.".to_owned();
    Refusal { status: StatusCode::NOT_FOUND, ..bad_request("invalid_request", 900_561, text) }
}

pub(super) fn unknown_tenant(tenant: &str) -> Refusal {
    let text = format!("Tenant '{tenant}' not found. Check that the tenant ID or domain is right.");
    bad_request("invalid_request", 90_002, text)
}

pub(super) fn missing(parameter: &str) -> Refusal {
    let text = format!("The request body must contain the following parameter: '{parameter}'.");
    bad_request("invalid_request", 900_144, text)
}

pub(super) fn unsupported_grant(grant: &str) -> Refusal {
    let text = format!("The app requested an unsupported grant type '{grant}'.");
    bad_request("unsupported_grant_type", 70_003, text)
}

pub(super) fn unknown_application(client_id: &str, tenant: &str) -> Refusal {
    let text = format!(
        "Application with identifier '{client_id}' was not found in the directory '{tenant}'."
    );
    bad_request("unauthorized_client", 700_016, text)
}

pub(super) fn malformed_scope(scope: &str) -> Refusal {
    let text = format!(
        "The provided request must include a 'scope' input parameter. The provided value for the \
         input parameter 'scope' is not valid. The scope {scope} is not valid."
    );
    bad_request("invalid_scope", 70_011, text)
}

pub(super) fn not_a_default_scope(scope: &str) -> Refusal {
    let text = format!(
        "The provided value for scope {scope} is not valid. Client credential flows must have a \
         scope value with /.default suffixed to the resource identifier (application ID URI)."
    );
    bad_request("invalid_scope", 1_002_012, text)
}

pub(super) fn unknown_resource(resource: &str) -> Refusal {
    let text = format!("The resource principal named {resource} was not found in the tenant.");
    bad_request("invalid_resource", 500_011, text)
}
