//! Words that errors and reasons have for telemetry.

use std::{error::Error, fmt};

use tracing::Span;

use super::record_error;

/// Why a connection is retired.
pub(crate) trait Reason: Copy {
    /// The reason in a word of few, for a label.
    fn label(self) -> &'static str;
}

/// Why there is no connection.
pub(crate) trait Failure: Error + 'static {
    /// `error.type`: a word of few.
    fn error_type(&self) -> &'static str;

    /// `db.response.status_code`: what the server calls it.
    fn status_code(&self) -> Option<String>;
}

/// The `error.type` of a login that stays refused.
pub(crate) const LOGIN_REFUSED: &str = "login_refused";

/// Records in the span how a round trip between two borrowers ended.
pub(crate) fn recycled<R: Reason>(span: &Span, result: Result<(), R>) -> Result<(), R> {
    result.inspect_err(|reason| record_error(span, reason.label()))
}

/// A connect has reached a stage: an event of its span.
pub(crate) fn reached(stage: impl fmt::Display, server: &str) {
    tracing::debug!(server, %stage, "connecting");
}
