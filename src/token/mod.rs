//! One token for one identity and scope, kept fresh.
//!
//! [`TokenCredential`] is what gets asked for a token (the implementations
//! live in [`credential`](crate::credential)); [`Identity`] gives each scope
//! one [`TokenCache`]; the cache decides when to ask.

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
pub(crate) use request::tried;

/// Something that can ask an identity provider for a token: a managed
/// identity, the Azure CLI, a service principal, ….
///
/// Implementations ask anew on every call and do not cache: that is
/// [`TokenCache`]'s office, which knows when a token is worth replacing. One
/// that has a cache inside must pass it by when the request's
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
    /// What this is, in words a log reader knows: `managed identity (IMDS)`,
    /// `Azure CLI`. Never a secret.
    fn name(&self) -> String;

    /// Asks for a token.
    ///
    /// # Errors
    ///
    /// See [`CredentialErrorKind`] for what the cache and a chain of
    /// credentials do about each kind.
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

/// What a token is asked for, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The permission that the token shall carry.
    pub scope: Scope,
    /// Why it is asked for now.
    pub reason: Reason,
}

impl TokenRequest {
    /// A request for a token of `scope`.
    #[must_use]
    pub fn new(scope: Scope, reason: Reason) -> Self {
        Self { scope, reason }
    }
}

/// Why a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// There is none.
    Missing,
    /// The one there is nears its end.
    Expiring,
    /// A server refused the one there is, although its time has not come:
    /// whatever cache lies below must be passed by.
    Rejected,
}

impl Reason {
    /// In a word, for telemetry.
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expiring => "expiring",
            Self::Rejected => "rejected",
        }
    }
}

/// What a token is good for: an OAuth 2.0 scope, such as
/// `https://database.windows.net/.default`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(Cow<'static, str>);

impl Scope {
    /// Azure SQL, public cloud.
    pub const AZURE_SQL: Self = Self(Cow::Borrowed("https://database.windows.net/.default"));

    /// Azure Database for PostgreSQL, public cloud.
    pub const AZURE_POSTGRESQL: Self =
        Self(Cow::Borrowed("https://ossrdbms-aad.database.windows.net/.default"));

    /// A scope of your own.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`] if it is empty or has a character other than
    /// `0-9A-Za-z._:/-`: a scope becomes part of a URL and of a command line.
    pub fn new(scope: impl Into<String>) -> Result<Self, InvalidScope> {
        let scope = scope.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        if scope.is_empty() || !scope.chars().all(allowed) {
            return Err(InvalidScope(()));
        }
        Ok(Self(Cow::Owned(scope)))
    }

    /// A scope that is known when the program is compiled, unchecked.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) const fn from_static(scope: &'static str) -> Self {
        Self(Cow::Borrowed(scope))
    }

    /// As it goes to a credential.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The resource of this scope, as managed identity endpoints want it: the
    /// scope less one `/.default` at its end.
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

/// A scope has a character that none has, or no character at all. The text is not shown,
/// because it may be the rest of a connection string.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "the value is not a scope: it must consist of letters, digits and . _ : / - (such as https://database.windows.net/.default)"
)]
pub struct InvalidScope(());

debug_as_text!(InvalidScope);

/// An access token: a secret and the times that go with it.
///
/// Cheap to clone. The secret is zeroised when the last clone goes, and is not
/// in [`Debug`](fmt::Debug).
#[derive(Clone)]
pub struct Token(Arc<TokenInner>);

struct TokenInner {
    secret: Zeroizing<String>,
    expires_on: SystemTime,
    refresh_on: Option<SystemTime>,
}

impl Token {
    /// A token with its expiry, as the identity provider told it.
    #[must_use]
    pub fn new(secret: impl Into<String>, expires_on: SystemTime) -> Self {
        Self(Arc::new(TokenInner {
            secret: Zeroizing::new(secret.into()),
            expires_on,
            refresh_on: None,
        }))
    }

    /// The same token with the time from which the provider wants it replaced
    /// (`refresh_in`).
    #[must_use]
    pub fn with_refresh_on(self, refresh_on: Option<SystemTime>) -> Self {
        Self(Arc::new(TokenInner {
            secret: self.0.secret.clone(),
            expires_on: self.0.expires_on,
            refresh_on,
        }))
    }

    /// The secret itself. Mind where it goes.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0.secret
    }

    /// When it ends, as the provider told it.
    #[must_use]
    pub fn expires_on(&self) -> SystemTime {
        self.0.expires_on
    }

    /// When the provider wants it replaced, if it said so.
    #[must_use]
    pub fn refresh_on(&self) -> Option<SystemTime> {
        self.0.refresh_on
    }

    /// What the token says about itself, if it is a JWT. Nothing of it is
    /// verified: good for messages, never for decisions of trust.
    #[must_use]
    pub fn claims(&self) -> Option<Claims> {
        Claims::read(self.secret())
    }

    /// How long it lives from `now` on.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.0.expires_on.duration_since(now).unwrap_or_default()
    }

    /// Whether this is the same secret as `other`.
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

/// `2026-01-01T00:00:00Z`, for messages.
pub(crate) fn utc(time: SystemTime) -> String {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    // Beyond the year 9999, and before 1970, nobody means what is written.
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.try_into().ok()?).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "an unknown time".to_owned())
}
