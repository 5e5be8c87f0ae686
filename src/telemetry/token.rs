use std::time::{Duration, SystemTime};

use tracing::{Span, field::Empty};

#[cfg(feature = "metrics")]
use super::metrics::{self, Labels};
use super::record_error;

/// Creates the span of a request for a token.
///
/// The span follows from the current span, but is not its child: a background refresh may outlive
/// its caller, whose span would then last as long as the refresh.
pub(crate) fn token_span(scope: &str, reason: &'static str) -> Span {
    let span = tracing::debug_span!(
        parent: None,
        "request_token",
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "entra_pool.token.scope" = scope,
        "entra_pool.token.reason" = reason,
        "entra_pool.token.outcome" = Empty,
        "error.type" = Empty,
    );
    span.follows_from(Span::current());
    span
}

/// The outcome of a request for a token.
#[derive(Debug)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))] // Some fields are only for metrics.
pub(crate) struct TokenRequestOutcome<'a> {
    pub(crate) scope: &'a str,
    pub(crate) reason: &'static str,
    /// `fetched`, `refreshed`, `unchanged` or `failed`.
    pub(crate) outcome: &'static str,
    /// The `error.type` if the request failed, one of few words.
    pub(crate) error_type: Option<&'static str>,
    pub(crate) duration: Duration,
    /// The expiry of the cached token, if the request returned one.
    pub(crate) expires_on: Option<SystemTime>,
}

impl TokenRequestOutcome<'_> {
    pub(crate) fn record(self, span: &Span) {
        span.record("entra_pool.token.outcome", self.outcome);
        if let Some(error_type) = self.error_type {
            record_error(span, error_type);
        }
        #[cfg(feature = "metrics")]
        self.measure();
    }

    #[cfg(feature = "metrics")]
    fn measure(self) {
        let scope: std::sync::Arc<str> = self.scope.into();
        let labels = || Labels::of_scope(scope.clone());
        metrics::TOKEN_REQUESTS.count(
            labels()
                .with(metrics::TOKEN_REASON, self.reason)
                .with(metrics::TOKEN_OUTCOME, self.outcome)
                .with_error(self.error_type),
        );
        metrics::TOKEN_REQUEST_DURATION.record(labels().with_error(self.error_type), self.duration);
        if let Some(expires_on) = self.expires_on {
            let since = expires_on.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            metrics::TOKEN_EXPIRY.set(labels(), since.as_secs_f64());
        }
    }
}
