use std::{error::Error, fmt, iter::successors, sync::Arc, time::Duration};

use super::Scope;

/// The error of a credential.
///
/// The message states the request, the response and what to do. It never contains a token or
/// another secret.
pub struct CredentialError {
    kind: CredentialErrorKind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The kind of a credential's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialErrorKind {
    /// The credential is not available here: the endpoint does not exist, `az` is not installed or
    /// not logged in. A chain tries its next member.
    Unavailable,
    /// The provider refused the request, and will refuse it again until a setting changes. A chain
    /// stops.
    Refused,
    /// A transient failure: a timeout, throttling, a server error. A chain stops, and the cache
    /// retries after a pause.
    Transient,
}

impl CredentialErrorKind {
    /// The label in telemetry.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Transient => "transient",
        }
    }
}

impl CredentialError {
    /// Creates an error. `message` states what failed and what to do.
    #[must_use]
    pub fn new(kind: CredentialErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// Sets the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets the pause that the provider asked for.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> CredentialErrorKind {
        self.kind
    }

    /// The pause that the provider asked for (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CredentialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The error of a [`TokenCache`](super::TokenCache).
///
/// Cloning is cheap: all callers that waited for the same request get the same error. So do callers
/// within 1 s of the failure. While the credential is unavailable or refuses, this time doubles up
/// to 30 s. [`troubleshooting`](crate::manual::troubleshooting#no-token) lists the credentials'
/// messages.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The request failed. The source states why, and what to do.
    #[error("cannot get a token for {scope} from {credential}")]
    #[non_exhaustive]
    Credential {
        /// The requested scope.
        scope: Scope,
        /// The credential's name: [`TokenCredential::name`](super::TokenCredential::name).
        credential: String,
        /// The credential's error.
        source: Arc<CredentialError>,
    },
    /// The credential did not respond in time. The request continues, and the next caller joins
    /// it. The source is the error of the request's last try, otherwise of the previous request.
    #[error(
        "timed out after {waited:?} while getting a token for {scope} from {credential}: the request continues in the background; retry to join it"
    )]
    #[non_exhaustive]
    TimedOut {
        /// The requested scope.
        scope: Scope,
        /// The credential's name.
        credential: String,
        /// The time that the caller waited.
        waited: Duration,
        /// The error of the request's last try, or of the previous request.
        source: Option<Arc<CredentialError>>,
    },
    /// The request was cancelled, because the tokio runtime is missing or was shut down. The next
    /// caller starts another request.
    #[error(
        "the request for a token for {scope} from {credential} was cancelled: the tokio runtime is missing or was shut down"
    )]
    #[non_exhaustive]
    Cancelled {
        /// The requested scope.
        scope: Scope,
        /// The credential's name.
        credential: String,
    },
}

impl TokenError {
    /// Returns the kind of the failure, for the error of a connect.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn summary(&self) -> &'static str {
        match self {
            Self::Credential { source, .. } => match source.kind() {
                CredentialErrorKind::Unavailable => "no identity is available",
                CredentialErrorKind::Refused => "the request was refused",
                CredentialErrorKind::Transient => "the request failed and can be retried",
            },
            Self::TimedOut { .. } => "the request timed out",
            Self::Cancelled { .. } => "the request was cancelled",
        }
    }

    /// Returns whether the same call may succeed later without a change of settings.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Credential { source, .. } => source.kind() == CredentialErrorKind::Transient,
            Self::TimedOut { .. } | Self::Cancelled { .. } => true,
        }
    }
}

/// Joins the messages of the error and of its causes.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    layers(error).join(": ")
}

/// Returns the messages of the error and of its causes, except tokio-postgres' bare `db error`.
pub(crate) fn layers<'a>(error: &'a (dyn Error + 'static)) -> Vec<String> {
    let source = |error: &&'a (dyn Error + 'static)| (*error).source();
    let messages = successors(Some(error), source).map(ToString::to_string);
    messages.filter(|message| message != "db error").collect()
}

/// Implements `Debug` as the messages of the error and of its causes, each on a line, because
/// `fn main() -> Result<…>` prints the `Debug` output and the messages state what to do.
macro_rules! debug_as_text {
    ($($error:ty),+) => {$(
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&crate::token::layers(self).join("\ncaused by: "))
            }
        }
    )+};
}
pub(crate) use debug_as_text;

debug_as_text!(CredentialError, TokenError);
