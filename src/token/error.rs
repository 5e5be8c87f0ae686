use std::{error::Error, fmt, iter::successors, sync::Arc, time::Duration};

use super::Scope;

/// Why a credential gave no token.
///
/// The message says what was asked, what came back and what to do about it;
/// it never holds a token or a secret.
pub struct CredentialError {
    kind: CredentialErrorKind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What a failure of a credential means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialErrorKind {
    /// This credential does not exist here: no such endpoint, no `az`
    /// installed, nobody logged in. A chain goes on to its next member.
    Unavailable,
    /// The provider was reached and said no; asking again will not help until
    /// somebody changes something. A chain stops.
    Refused,
    /// It may work later: a time-out, throttling, a server error. A chain
    /// stops; the cache asks again after a pause.
    Transient,
}

impl CredentialErrorKind {
    /// In a word, for telemetry.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Transient => "transient",
        }
    }
}

impl CredentialError {
    /// An error of this kind. `message` says what happened and what to do.
    #[must_use]
    pub fn new(kind: CredentialErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with the pause that the provider asks for.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// What the failure means.
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

/// Why a [`TokenCache`](super::TokenCache) has no token to give.
///
/// Cheap to clone: everyone who waited for the same request gets the same
/// error. None is sticky: the next caller has the provider asked again. Within 1 s of a failure it
/// gets that failure; while the credential is unavailable or refuses, within up to 30 s.
/// [`troubleshooting`](crate::manual::troubleshooting#no-token) has the credentials' messages.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The credential gave none; the source says why and what to do.
    #[error("no token for {scope} from {credential}")]
    #[non_exhaustive]
    Credential {
        /// What was asked for.
        scope: Scope,
        /// Who was asked: [`TokenCredential::name`](super::TokenCredential::name).
        credential: String,
        /// Its answer.
        source: Arc<CredentialError>,
    },
    /// The credential has not answered in time. The request goes on, and the
    /// next caller joins it. The source is why its last try failed, or else the
    /// request before it, if one did.
    #[error(
        "no token for {scope} from {credential} within {waited:?}; the request goes on, try again"
    )]
    #[non_exhaustive]
    TimedOut {
        /// What was asked for.
        scope: Scope,
        /// Who was asked.
        credential: String,
        /// How long the caller waited.
        waited: Duration,
        /// Why the last try of the request failed, or the request before.
        source: Option<Arc<CredentialError>>,
    },
    /// The request was lost: its runtime was shut down, there is none, or the
    /// credential panicked. The next caller starts a new one.
    #[error(
        "the request for a token for {scope} from {credential} was lost (there is no tokio runtime, it was shut down, or the credential panicked); try again"
    )]
    #[non_exhaustive]
    Cancelled {
        /// What was asked for.
        scope: Scope,
        /// Who was asked.
        credential: String,
    },
}

impl TokenError {
    /// The kind of the failure in a few words.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn summary(&self) -> &'static str {
        match self {
            Self::Credential { source, .. } => match source.kind() {
                CredentialErrorKind::Unavailable => "no identity is available",
                CredentialErrorKind::Refused => "the request was refused",
                CredentialErrorKind::Transient => "the request failed and can be retried",
            },
            Self::TimedOut { .. } => "the request takes too long",
            Self::Cancelled { .. } => "the request was lost",
        }
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Credential { source, .. } => source.kind() == CredentialErrorKind::Transient,
            Self::TimedOut { .. } | Self::Cancelled { .. } => true,
        }
    }
}

/// The error and its causes, in one text.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    layers(error).join(": ")
}

/// The messages of the error and of its causes, without one that says nothing.
pub(crate) fn layers<'a>(error: &'a (dyn Error + 'static)) -> Vec<String> {
    let source = |error: &&'a (dyn Error + 'static)| (*error).source();
    let messages = successors(Some(error), source).map(ToString::to_string);
    messages.filter(|message| message != "db error").collect()
}

/// Implements `Debug` as the messages of the error and of its causes, each on a line:
/// `fn main() -> Result<…>` prints `Debug`, and what to do is in the messages.
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
