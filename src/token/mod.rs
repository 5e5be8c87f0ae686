//! Tokens of an identity, cached for each scope and refreshed in the background.
//!
//! A [`TokenCredential`] requests tokens; its implementations are in
//! [`credential`](crate::credential). An [`Identity`] has one [`TokenCache`] for each scope,
//! and the cache decides when to send a request.

mod cache;
mod claims;
mod error;
mod identity;
mod policy;
mod request;
mod state;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use zeroize::Zeroizing;

pub use cache::{TokenCache, TokenReport};
pub use claims::Claims;
pub use error::{CredentialError, CredentialErrorKind, TokenError};
pub(crate) use error::{debug_as_text, layers, with_causes};
pub use identity::{Identity, IdentityBuilder};
pub(crate) use request::record_failed_try;

/// A source of tokens: a managed identity, the Azure CLI, a service principal and so on.
///
/// An implementation should request a new token on every call, because [`TokenCache`] caches the
/// tokens. If an implementation has its own cache, it must bypass that cache when the request's
/// [`reason`](TokenRequest::reason) is [`Reason::Rejected`].
///
/// ```
/// use entra_pool::token::{CredentialError, Token, TokenCredential, TokenRequest};
/// # use std::time::{Duration, SystemTime};
///
/// #[derive(Debug)]
/// struct FromVault;
///
/// #[async_trait::async_trait]
/// impl TokenCredential for FromVault {
///     fn name(&self) -> String {
///         "our vault".into()
///     }
///
///     async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
///         let (secret, expires_on) = ask_the_vault(request.scope.as_str()).await;
///         Ok(Token::new(secret, expires_on))
///     }
/// }
/// # async fn ask_the_vault(_: &str) -> (String, SystemTime) {
/// #     ("eyJ…".into(), SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000))
/// # }
/// ```
#[async_trait]
pub trait TokenCredential: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the credential in logs and errors, such as `managed identity (IMDS)` or
    /// `Azure CLI`. It must not contain a secret.
    fn name(&self) -> String;

    /// Requests a token.
    ///
    /// # Errors
    ///
    /// [`CredentialError`], whose kind determines how the cache and a chain of credentials react.
    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError>;
}

#[async_trait]
impl TokenCredential for Arc<dyn TokenCredential> {
    fn name(&self) -> String {
        self.as_ref().name()
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        self.as_ref().get_token(request).await
    }
}

/// A request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The requested scope.
    pub scope: Scope,
    /// The reason for the request.
    pub reason: Reason,
}

impl TokenRequest {
    /// Creates a request for a token with `scope`.
    #[must_use]
    pub fn new(scope: Scope, reason: Reason) -> Self {
        Self { scope, reason }
    }
}

/// The reason for a token request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The cache has no usable token.
    Missing,
    /// The cached token expires soon.
    Expiring,
    /// A server refused the cached token before its expiry: bypass the credential's own cache.
    Rejected,
}

impl Reason {
    /// The label in telemetry.
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expiring => "expiring",
            Self::Rejected => "rejected",
        }
    }
}

/// An OAuth 2.0 scope, which states what a token may be used for, such as
/// `https://database.windows.net/.default`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(Cow<'static, str>);

impl Scope {
    /// Azure SQL, public cloud.
    pub const AZURE_SQL: Self = Self(Cow::Borrowed("https://database.windows.net/.default"));

    /// Azure Database for PostgreSQL, public cloud.
    pub const AZURE_POSTGRESQL: Self =
        Self(Cow::Borrowed("https://ossrdbms-aad.database.windows.net/.default"));

    /// Creates a scope.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`], if it is empty or has a character other than `0-9A-Za-z._:/-`, because a
    /// scope becomes part of a URL and of a command line.
    pub fn new(scope: impl Into<String>) -> Result<Self, InvalidScope> {
        let scope = scope.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        if scope.is_empty() || !scope.chars().all(allowed) {
            return Err(InvalidScope(()));
        }
        Ok(Self(Cow::Owned(scope)))
    }

    /// Creates a scope from a constant, without checking it.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) const fn from_static(scope: &'static str) -> Self {
        Self(Cow::Borrowed(scope))
    }

    /// Returns the scope as it is sent to an identity provider.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the scope without the suffix `/.default`: the resource, which the endpoints of
    /// managed identities require.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.0.strip_suffix("/.default").unwrap_or(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for a scope that is empty or contains an invalid character. It does not contain the
/// text, which may be the rest of a connection string.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "the value is not a scope: it must consist of letters, digits and . _ : / - (such as https://database.windows.net/.default)"
)]
pub struct InvalidScope(());

debug_as_text!(InvalidScope);

/// An access token: a secret with its expiry.
///
/// Cloning is cheap. The secret is overwritten in memory when the last clone is dropped, and
/// [`Debug`](fmt::Debug) does not show it.
#[derive(Clone)]
pub struct Token(Arc<TokenInner>);

struct TokenInner {
    secret: Zeroizing<String>,
    expires_on: SystemTime,
    refresh_on: Option<SystemTime>,
}

impl Token {
    /// Creates a token with the expiry that the identity provider returned.
    #[must_use]
    pub fn new(secret: impl Into<String>, expires_on: SystemTime) -> Self {
        Self(Arc::new(TokenInner {
            secret: Zeroizing::new(secret.into()),
            expires_on,
            refresh_on: None,
        }))
    }

    /// Sets the time from which the provider recommends a refresh (`refresh_in`).
    #[must_use]
    pub fn with_refresh_on(self, refresh_on: Option<SystemTime>) -> Self {
        Self(Arc::new(TokenInner {
            secret: self.0.secret.clone(),
            expires_on: self.0.expires_on,
            refresh_on,
        }))
    }

    /// Returns the secret. Do not log it.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0.secret
    }

    /// Returns the expiry that the provider returned.
    #[must_use]
    pub fn expires_on(&self) -> SystemTime {
        self.0.expires_on
    }

    /// Returns the time from which the provider recommends a refresh, if it recommends one.
    #[must_use]
    pub fn refresh_on(&self) -> Option<SystemTime> {
        self.0.refresh_on
    }

    /// Returns the claims of the token, if it is a JWT. They are not verified: use them for
    /// messages, never to decide whether to trust the token.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        Claims::read(self.secret())
    }

    /// Returns the time from `now` until the expiry; zero if the token has expired.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.0.expires_on.duration_since(now).unwrap_or_default()
    }

    /// Returns whether both tokens have the same secret.
    #[must_use]
    pub fn same_secret(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0.secret == *other.0.secret
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("secret", &"[redacted]")
            .field("expires_on", &self.0.expires_on)
            .field("refresh_on", &self.0.refresh_on)
            .finish()
    }
}

/// Formats a time for messages: `2026-01-01T00:00:00Z`.
pub(crate) fn utc(time: SystemTime) -> String {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    // A time before 1970 or after 9999 is a mistake of the provider.
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.try_into().ok()?).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "an unknown time".to_owned())
}
