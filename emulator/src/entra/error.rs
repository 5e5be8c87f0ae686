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
                "{self} Trace ID: {trace_id} Correlation ID: {correlation_id} \
                 Timestamp: {timestamp}"
            ),
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace_id,
            "correlation_id": correlation_id,
            "error_uri": format!("https://{host}/error?code={}", self.code),
        })
    }
}

/// Entra's answer 400 with this `error`.
pub(super) fn bad_request(error: &'static str, code: u32, text: impl Into<String>) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, error, code, text: text.into() }
}

/// The credential is refused.
pub(super) fn invalid_client(code: u32, text: impl Into<String>) -> Refusal {
    let (status, error, text) = (StatusCode::UNAUTHORIZED, "invalid_client", text.into());
    Refusal { status, error, code, text }
}

pub(super) fn not_found() -> Refusal {
    let text = "The emulator does not serve this path with this method.";
    Refusal { status: StatusCode::NOT_FOUND, ..bad_request("invalid_request", 900_561, text) }
}
