//! Sends a request for a token in a separate task, and records its outcome.

use std::{error::Error, sync::Arc, time::Duration};

use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use super::{
    CredentialError, CredentialErrorKind, Token, TokenError, TokenRequest,
    cache::Inner,
    policy::Now,
    state::{Change, Outcome, REQUEST_TIMEOUT, Ticket},
};
use crate::{
    clock,
    lock::Lock,
    telemetry::{TokenRequestOutcome, token_span},
};

tokio::task_local! {
    /// The error of the running request's last try.
    static LAST_TRY: LastTry;
}

/// The error of a request's last try, while the request runs.
pub(super) type LastTry = Arc<Lock<Option<Arc<CredentialError>>>>;

/// Records that a try of the running request failed and that another try follows. A caller whose
/// wait times out in the meantime gets this error as the source.
pub(crate) fn record_failed_try(error: CredentialError) {
    // The value is not set if the credential is used without a cache.
    let _ = LAST_TRY.try_with(|last| *last.lock() = Some(Arc::new(error)));
}

impl Inner {
    /// Starts the request as a separate task, so that a caller that gives up does not affect the
    /// other callers.
    pub(super) fn start(self: &Arc<Self>, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        // Without a runtime, the ticket is dropped, which cancels the request.
        let Ok(runtime) = Handle::try_current() else { return };
        let inner = self.clone();
        let span = token_span(self.scope.as_str(), ticket.reason.label());
        let requesting = span.clone();
        let request = async move {
            let request = TokenRequest::new(inner.scope.clone(), ticket.reason);
            let requested = inner.now();
            let mut guard = RequestGuard { inner: &inner, ticket: Some(ticket), requested, span };
            *inner.last_try.lock() = None;
            let answer =
                LAST_TRY.scope(inner.last_try.clone(), inner.credential.get_token(request));
            let answer = clock::timeout(&*inner.clock, REQUEST_TIMEOUT, answer).await;
            let answer = answer.unwrap_or_else(|clock::Elapsed| Err(no_response()));
            guard.finish(answer.and_then(not_empty));
        };
        runtime.spawn(request.instrument(requesting));
    }

    fn finish(
        &self,
        ticket: Ticket,
        answer: Result<Token, CredentialError>,
        requested: Now,
        span: &Span,
    ) {
        let now = self.now();
        let reason = ticket.reason.label();
        let error_type = answer.as_ref().err().map(|error| error.kind().label());
        let retry_after = answer.as_ref().err().and_then(CredentialError::retry_after);
        *self.last_try.lock() = None;
        let answer = answer.map_err(|error| TokenError::Credential {
            scope: self.scope.clone(),
            credential: self.credential.name(),
            source: Arc::new(error),
        });
        if answer.as_ref().is_ok_and(|token| token.expires_on() <= now.wall) {
            tracing::warn!(scope = %self.scope, "the token is already expired by this machine's clock, which may be wrong; using it for one minute");
        }
        let (change, outcome) =
            self.core.finish(ticket, answer, retry_after, requested, now, fastrand::f64());
        TokenRequestOutcome {
            scope: self.scope.as_str(),
            reason,
            outcome: self.log_outcome(change, &outcome, now),
            error_type,
            duration: now.monotonic.saturating_sub(requested.monotonic),
            expires_on: outcome.as_ref().ok().map(Token::expires_on),
        }
        .record(span);
    }

    /// Logs the outcome, and returns its name in telemetry.
    fn log_outcome(&self, change: Change, outcome: &Outcome, now: Now) -> &'static str {
        let (scope, credential) = (&self.scope, self.credential.name());
        let remaining = |token: &Token| Duration::from_secs(token.remaining(now.wall).as_secs());
        match (change, outcome) {
            (Change::Fetched, Ok(token)) => {
                tracing::info!(%scope, credential, expires_in = ?remaining(token), "token fetched");
                "fetched"
            }
            (Change::Refreshed, Ok(token)) => {
                tracing::info!(%scope, credential, expires_in = ?remaining(token), "token refreshed");
                "refreshed"
            }
            (_, Ok(token)) => {
                tracing::debug!(%scope, credential, expires_in = ?remaining(token), "the provider has no newer token yet");
                "unchanged"
            }
            (Change::FailedButUsable(left), Err(error)) => {
                tracing::warn!(%scope, credential, usable_for = ?left, error = error as &dyn Error, "token refresh failed; the current token remains usable");
                "failed"
            }
            (_, Err(error)) => {
                tracing::error!(%scope, credential, error = error as &dyn Error, "token request failed; no usable token is left");
                "failed"
            }
        }
    }
}

/// A running request. If the credential panics, the request fails. If the runtime shuts down, the
/// request is cancelled, and the next caller starts another request.
struct RequestGuard<'a> {
    inner: &'a Inner,
    ticket: Option<Ticket>,
    requested: Now,
    span: Span,
}

impl RequestGuard<'_> {
    fn finish(&mut self, answer: Result<Token, CredentialError>) {
        if let Some(ticket) = self.ticket.take() {
            self.inner.finish(ticket, answer, self.requested, &self.span);
        }
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.finish(Err(CredentialError::new(
                CredentialErrorKind::Refused,
                "the credential panicked: standard error has the location",
            )));
        }
    }
}

fn no_response() -> CredentialError {
    CredentialError::new(
        CredentialErrorKind::Transient,
        format!("the credential did not respond within {REQUEST_TIMEOUT:?}"),
    )
}

/// Refuses an empty token, because the server's error for it would not name the cause.
fn not_empty(token: Token) -> Result<Token, CredentialError> {
    if token.secret().is_empty() {
        return Err(CredentialError::new(
            CredentialErrorKind::Refused,
            "the credential returned an empty token",
        ));
    }
    Ok(token)
}
