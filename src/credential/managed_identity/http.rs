//! The HTTP client for identity endpoints. These are on the same machine or close to it, so the
//! client connects directly and with a short timeout.

use std::{error::Error, io, sync::Arc, time::Duration};

use reqwest::{
    Request, Response, StatusCode, Url,
    header::{HeaderMap, RETRY_AFTER},
};
use rustls::ClientConfig;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use zeroize::Zeroizing;

use super::{
    connection,
    key_file::KeyFileError,
    pinned::{self, Thumbprint},
    retry::Retry,
};
use crate::{
    clock::{Clock, SystemClock, timeout},
    credential::{ConfigError, InvalidAnswer, Problem},
    tls,
    token::{CredentialError, Token, record_failed_try},
};

/// The timeout for connecting. An existing endpoint accepts at once, because no network lies
/// between it and the program.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The timeout of one attempt, from connecting to the last byte of the body. IMDS sometimes takes
/// several seconds for the first token of an identity.
pub(super) const TRY_LIMIT: Duration = Duration::from_secs(20);

/// The maximum size of a body. Tokens have about 2,000 characters, and at most about 8,000.
const BODY_LIMIT: usize = 64 * 1024;

/// The longest `Retry-After` that is respected.
const PAUSE_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone)]
pub(super) struct Http {
    /// The configuration for `https://` endpoints.
    tls: Option<Arc<ClientConfig>>,
    clock: Arc<dyn Clock>,
}

/// A complete response.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) retry_after: Option<Duration>,
    /// The body. If the body of a refusal could not be read completely, the part that was read.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// The wall-clock time before the request.
    pub(super) asked_at: std::time::SystemTime,
}

/// The reasons for a missing or unusable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    #[error("the connection was lost before the response was complete")]
    ConnectionLost(#[source] Box<dyn Error + Send + Sync>),
    #[error("no response within {0:?}")]
    NoAnswer(Duration),
    #[error("cannot use the response")]
    Unusable(#[source] InvalidAnswer),
    #[error("cannot answer the challenge")]
    KeyFile(#[from] KeyFileError),
    /// The host does not know the identity that an optional setting selects.
    #[error("IMDS does not know the identity")]
    NotAssigned,
}

impl HttpError {
    pub(super) fn broken(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::ConnectionLost(error.into())
    }
}

impl Http {
    /// Returns a client for this endpoint. If `thumbprint` is set, it trusts only that certificate.
    pub(super) fn new(
        endpoint: &Url,
        thumbprint: Option<&Thumbprint>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let tls = match thumbprint.cloned() {
            // Root certificates are not needed, and a container may not have any.
            None if endpoint.scheme() == "http" => return Ok(Self { tls: None, clock }),
            None => tls::client_config(&tls::Trust::Platform).map_err(Into::into),
            Some(pinned) => pinned::client_config(pinned).map_err(Into::into),
        };
        Ok(Self { tls: Some(Arc::new(tls.map_err(Problem::Tls)?)), clock })
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Repeats `one_try` until `retry` returns no further pause. `failed` converts an outcome that
    /// is retried to its error.
    pub(super) async fn repeat<F>(
        &self,
        one_try: impl Fn() -> F,
        retry: &Retry,
        failed: impl Fn(Result<Answer, HttpError>) -> Result<Token, CredentialError>,
    ) -> Result<Answer, HttpError>
    where
        F: Future<Output = Result<Answer, HttpError>>,
    {
        let start = self.clock.monotonic();
        let mut tries = 0;
        loop {
            let outcome = one_try().await;
            // Failed connections do not count, because the endpoint may still be starting.
            tries += u32::from(!matches!(outcome, Err(HttpError::Unreachable(_))));
            let waited = self.clock.monotonic().saturating_sub(start);
            let Some(pause) = retry.pause(&outcome, tries, waited) else { return outcome };
            tracing::debug!(
                status = outcome.as_ref().ok().map(|answer| answer.status.as_u16()),
                error = outcome.as_ref().err().map(tracing::field::display),
                ?pause,
                "retrying the managed identity request"
            );
            let _ = failed(outcome).map_err(record_failed_try);
            self.clock.sleep(pause).await;
        }
    }

    /// Sends `request` once.
    pub(super) async fn send_once(
        &self,
        request: Request,
        limit: Duration,
    ) -> Result<Answer, HttpError> {
        let exchange = async {
            let asked_at = self.clock.wall();
            // Connecting is local, so its timeout uses the system clock, also in tests.
            let (tls, clock) = (self.tls.as_ref(), SystemClock::new());
            let stream = connection::open(request.url(), tls, &clock, CONNECT_LIMIT).await?;
            let reading = async |response: Response| {
                let status = response.status();
                tracing::debug!(%status, "the managed identity endpoint responded");
                let headers = response.headers().clone();
                let retry_after = retry_after(&headers, asked_at);
                let mut body = Zeroizing::new(Vec::with_capacity(BODY_LIMIT));
                match read(response, &mut body).await {
                    // The reason in a refusal is useful, but not required.
                    Err(_) if !status.is_success() => {}
                    read => read?,
                }
                Ok(Answer { status, headers, retry_after, body, asked_at })
            };
            connection::exchange(stream, request, reading).await
        };
        match timeout(self.clock(), limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpError::NoAnswer(limit)),
        }
    }
}

async fn read(mut response: Response, body: &mut Vec<u8>) -> Result<(), HttpError> {
    while let Some(chunk) = response.chunk().await.map_err(HttpError::broken)? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(HttpError::Unusable(InvalidAnswer::TooLong { limit: BODY_LIMIT }));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(())
}

/// Parses `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: std::time::SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
        Duration::try_from(date - OffsetDateTime::from(now)).unwrap_or_default()
    };
    Some(pause.min(PAUSE_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:00 GMT"), Some(Duration::from_secs(23)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("18446744073709551615"), Some(PAUSE_LIMIT));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
    }
}
