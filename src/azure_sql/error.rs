use std::{fmt, io, time::Duration};

use tiberius::error::TokenError as ServerError;

use super::{Config, ConfigError};
use crate::{
    Cloud, TlsConfigError, credential,
    token::{Claims, Token, TokenError},
};

/// Why there is no connection to Azure SQL.
///
/// `Display` says what failed in this layer and what to do about it;
/// [`source`](std::error::Error::source) has the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string is refused.
    #[error("the connection string is not usable")]
    Config(#[from] ConfigError),
    /// The identity that the connection string or the environment names cannot be.
    #[error("the identity is not usable")]
    Identity(#[from] credential::ConfigError),
    /// The trusted certificates cannot be read.
    #[error("TLS cannot be set up")]
    TlsConfig(#[from] TlsConfigError),
    /// The identity gave no token.
    #[error("no token to log in to {server} with")]
    #[non_exhaustive]
    Token {
        /// `host,port`.
        server: String,
        /// Why not.
        source: TokenError,
    },
    /// The server could not be reached.
    #[error(
        "{server} cannot be reached: check the name, the port (1433, outgoing), and the server's network access and firewall"
    )]
    #[non_exhaustive]
    Dial {
        /// `host,port`.
        server: String,
        /// What the network said.
        source: io::Error,
    },
    /// What answered is no TDS server, or broke off.
    #[error("{server} does not answer as Azure SQL does: {problem}")]
    #[non_exhaustive]
    NotTds {
        /// `host,port`.
        server: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The server declines TLS. No token was sent.
    #[error(
        "{server} declines encryption, so no token was sent to it: Azure SQL always encrypts; check what listens there"
    )]
    #[non_exhaustive]
    EncryptionDeclined {
        /// `host,port`.
        server: String,
    },
    /// TLS failed: most often the certificate is for another name, or of an
    /// authority that is not trusted. No token was sent.
    #[error(
        "TLS with {server} failed, so no token was sent to it: its certificate must be for '{name}' (HostNameInCertificate) and of a trusted authority (TrustServerCertificateCA)"
    )]
    #[non_exhaustive]
    Tls {
        /// `host,port`.
        server: String,
        /// The name that the certificate must have.
        name: String,
        /// What rustls said.
        source: io::Error,
    },
    /// The server refused the login (error 18456).
    #[error("{0}")]
    LoginRefused(Box<LoginRefused>),
    /// The login failed with another error of the server, or the connection broke.
    #[error("the login to {server} failed{}", advice(source))]
    #[non_exhaustive]
    Login {
        /// `host,port`.
        server: String,
        /// What the server or the driver said.
        source: tiberius::error::Error,
    },
    /// The server sent the client elsewhere too often, or where it may not go.
    #[error("{server} routes the login to {target}: {problem}")]
    #[non_exhaustive]
    Routing {
        /// `host,port`.
        server: String,
        /// Where to.
        target: String,
        /// Why it is not followed.
        problem: &'static str,
    },
    /// The time for a connect is over.
    #[error(
        "connecting to {server} took longer than {limit:?} (Connect Timeout); it ended while {stage}"
    )]
    #[non_exhaustive]
    TimedOut {
        /// `host,port`.
        server: String,
        /// The limit.
        limit: Duration,
        /// What it was doing then.
        stage: Stage,
    },
    /// An idle connection is not fit to be used again. The pool takes the next,
    /// or makes a new one: callers of a pool do not see this.
    #[error("the connection is retired: {reason}")]
    #[non_exhaustive]
    Retired {
        /// Why.
        reason: super::RetireReason,
    },
}

/// How far a connect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for the identity's token.
    Token,
    /// Resolving the host's name and connecting.
    Dial,
    /// Agreeing with the server on encryption.
    Prelogin,
    /// The TLS handshake.
    Tls,
    /// Waiting for the answer to the login.
    Login,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "waiting for a token",
            Self::Dial => "resolving the name and dialling",
            Self::Prelogin => "waiting for the server's PRELOGIN",
            Self::Tls => "shaking hands for TLS",
            Self::Login => "waiting for the answer to the login",
        })
    }
}

impl Error {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Token { source, .. } => source.is_transient(),
            Self::Dial { .. }
            | Self::TimedOut { .. }
            | Self::Retired { .. }
            | Self::Login { source: tiberius::error::Error::Io { .. }, .. } => true,
            Self::Login { source: tiberius::error::Error::Server(error), .. } => {
                TRANSIENT.contains(&error.code())
            }
            _ => false,
        }
    }

    /// The server's error, if that is what it was.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::LoginRefused(refused) => Some(&refused.source),
            Self::Login { source: tiberius::error::Error::Server(error), .. } => Some(error),
            _ => None,
        }
    }
}

/// Transient errors of a login, as Microsoft.Data.SqlClient has them.
const TRANSIENT: &[u32] = &[4060, 10928, 10929, 40197, 40501, 40613, 42108, 42109];

/// Login failed.
pub(super) const LOGIN_FAILED: u32 = 18456;

/// What to do about an error of the server during the login.
fn advice(source: &tiberius::error::Error) -> &'static str {
    match source.code() {
        Some(4060) => ": the database does not exist, or this identity has no user in it",
        Some(40613) => {
            ": the database is not available now; a paused serverless database resumes within a minute, try again"
        }
        Some(40615) => {
            ": the server's firewall does not let this address in; add a rule for it, or a private endpoint"
        }
        _ => "",
    }
}

/// A refused login: who was refused, by whom, and what would let them in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoginRefused {
    /// `host,port`.
    pub server: String,
    /// The database that was asked for.
    pub database: Option<String>,
    /// What the token says about itself.
    pub claims: Option<Claims>,
    /// The audience that this server's tokens should have.
    pub audience: String,
    /// When the token ends.
    pub expires_on: std::time::SystemTime,
    /// Whether another token was tried, too.
    pub retried: bool,
    /// What the server said.
    pub source: ServerError,
}

impl LoginRefused {
    pub(super) fn new(
        config: &Config,
        server: String,
        token: &Token,
        retried: bool,
        source: ServerError,
    ) -> Self {
        Self {
            server,
            database: config.database.clone(),
            claims: token.claims(),
            audience: config.scope.resource().to_owned(),
            expires_on: token.expires_on(),
            retried,
            source,
        }
    }

    /// The audience of the token, if it is another than this server's.
    fn wrong_audience(&self) -> Option<&str> {
        let audience = self.claims.as_ref()?.audience.as_deref()?;
        let bare = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
        (bare(audience) != bare(&self.audience)).then_some(audience)
    }
}

impl fmt::Display for LoginRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} refused the login: {} (error {}, state {}).",
            self.server,
            self.source.message(),
            self.source.code(),
            self.source.state()
        )?;
        let unknown = "unknown";
        let Some(claims) = &self.claims else {
            return write!(
                f,
                " The token is no JWT, so that it cannot be told for whom it stands."
            );
        };
        let or_unknown = |claim: &Option<String>| claim.clone().unwrap_or_else(|| unknown.into());
        write!(
            f,
            " The token stands for {}{} (object ID {}, tenant {}), is for {}, and ends at {}.",
            match (claims.principal_name(), &claims.application_id) {
                (Some(name), _) => format!("'{name}'"),
                (None, Some(_)) => "an application".to_owned(),
                (None, None) => "somebody unnamed".to_owned(),
            },
            match &claims.application_id {
                Some(id) => format!(", application {id}"),
                None => String::new(),
            },
            or_unknown(&claims.object_id),
            or_unknown(&claims.tenant_id),
            or_unknown(&claims.audience),
            crate::token::utc(self.expires_on),
        )?;
        if let Some(audience) = self.wrong_audience() {
            return write!(
                f,
                " That is the wrong audience: this server wants tokens for {}, not {audience}; check \
                 the scope{}.",
                self.audience,
                match Cloud::of_azure_sql_host(&self.server) {
                    Some(_) => " (leave out Entra Scope to have it follow from the host)",
                    None => " (Entra Scope)",
                }
            );
        }
        // The number is the same for all refusals; only the text tells this one.
        if self.source.message().contains("expired") {
            return f.write_str(
                " The server takes it for expired: check this machine's clock, and what hands the \
                 tokens out.",
            );
        }
        if self.database.is_none() {
            f.write_str(
                " The connection string names no database, so that the login went to master, where \
                 a database's own users do not exist: add Database=….",
            )?;
        }
        let database = self.database.as_deref().unwrap_or("the database");
        let name = claims.principal_name().unwrap_or("the identity's display name");
        write!(
            f,
            " If it is not known there, let it in, in {database}, as the server's Entra \
             administrator: CREATE USER {name} FROM EXTERNAL PROVIDER; ALTER ROLE db_datareader ADD \
             MEMBER {name}; (an identity that was recreated has another object ID: drop its user \
             first).",
            name = quoted(name),
        )
    }
}

/// `[name]`, as T-SQL quotes it.
fn quoted(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}
