use std::{io, net::IpAddr, time::Duration};

use super::{
    ConfigError, LoginError, LoginRefused, PoolError, RetireReason, ServerError, Stage,
    response::{READ_ONLY, TOKEN_EXPIRED},
};
use crate::{
    TlsConfigError,
    connect::pool_message,
    credential,
    telemetry::{self, Failure},
    token::{TokenError, debug_as_text},
};

/// An error of connecting to Azure SQL.
///
/// A pool returns a [`PoolError`] that contains this error. `Error::from` extracts it, and so does
/// `?` in a function that returns this error.
///
/// `Display` states what failed in this layer and what to do, and
/// [`source`](std::error::Error::source) returns the cause. `Debug` shows both, one layer per line.
/// [`server_error`](Self::server_error) returns the server's error with its number. Messages from
/// the server are filtered: see [`ServerError`]. The headings of
/// [`troubleshooting`](crate::manual::troubleshooting) are the messages.
///
/// | error | cause | what to do |
/// |---|---|---|
/// | [`Config`](Self::Config), [`Identity`](Self::Identity), [`TlsConfig`](Self::TlsConfig) | an invalid setting | correct the setting that the message names |
/// | [`Token`](Self::Token) | the identity returned no token | follow the source's advice |
/// | [`Resolve`](Self::Resolve) | the server's name cannot be resolved | check its spelling, and DNS (a private endpoint needs a private DNS zone) |
/// | [`Dial`](Self::Dial) | no connection at that address and port | allow outgoing port 1433 (from within Azure also 11000 to 11999); check network rules |
/// | [`Tls`](Self::Tls), [`EncryptionDeclined`](Self::EncryptionDeclined), [`UnexpectedProtocol`](Self::UnexpectedProtocol), [`NotLoopback`](Self::NotLoopback) | the server is not the intended one, or its certificate is not trusted | check `HostNameInCertificate` and `TrustServerCertificateCA` |
/// | [`ConnectionLost`](Self::ConnectionLost), [`Login`](Self::Login) with an I/O error | the connection broke before or during the login | check firewalls and proxies if retries do not help |
/// | [`LoginRefused`](Self::LoginRefused) (18456) | the identity has no user in the database, or the token is for another tenant or audience | run the statements in the message, or follow its advice about the token |
/// | [`Login`](Self::Login) 4060 | the database does not exist, or the identity has no user in it | check `Database`; run `CREATE USER … FROM EXTERNAL PROVIDER` |
/// | [`Login`](Self::Login) 40532 | the server does not accept logins under this name | use the server's own name, also through a proxy or a DNS entry |
/// | [`Login`](Self::Login) 40613, 615, 921, 926, 18401, 40197, 40971, 42108, 42109 | the database is resuming, moving or recovering | set `Connect Timeout` to 60 s or more |
/// | [`Login`](Self::Login) 40615, 40914, 47073 | the server's firewall | add a rule for the address or the subnet, or use a private endpoint |
/// | [`Login`](Self::Login) 10928 to 10930, 10936, 40501, 49918, 49919, 49920 | the database or server is busy | use fewer connections or a larger tier |
/// | [`Routing`](Self::Routing) | the login was routed too often, or to a host outside of the cloud | call `Config::allow_routing_to` |
/// | [`TimedOut`](Self::TimedOut) | the connect timed out | check the stage in the message, and the source if an earlier try failed |
/// | [`Retired`](Self::Retired) | an idle connection was not fit to be used | nothing: the pool uses another connection |
/// | [`Pool`](Self::Pool) | the pool is full or closed | follow the message |
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configured identity cannot be used.
    #[error(transparent)]
    Identity(#[from] credential::ConfigError),
    /// The trusted certificates cannot be read.
    #[error(transparent)]
    TlsConfig(#[from] TlsConfigError),
    /// The identity returned no token.
    #[error("cannot get a token for {server}: {}", source.summary())]
    #[non_exhaustive]
    Token {
        /// `host,port`.
        server: String,
        /// The cause.
        source: TokenError,
    },
    /// The server's name cannot be resolved.
    #[error(
        "the name of {server} cannot be resolved: check its spelling (`az sql server list --query [].fullyQualifiedDomainName` lists the names), and the DNS of this network (for a private endpoint, this network needs the private DNS zone)"
    )]
    #[non_exhaustive]
    Resolve {
        /// `host,port`.
        server: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The server could not be reached.
    #[error(
        "{server} cannot be reached: check the name and the port, the outgoing rules of this network, and the server's network access and firewall"
    )]
    #[non_exhaustive]
    Dial {
        /// `host,port`.
        server: String,
        /// The network error of each address.
        source: io::Error,
    },
    /// The configuration accepts any certificate, but only from a server on this machine, and this
    /// server is not on this machine. No token was sent.
    #[error(
        "{server} is not on this machine, so no token was sent to it: unverified certificates are accepted on loopback only"
    )]
    #[non_exhaustive]
    NotLoopback {
        /// `host,port`.
        server: String,
    },
    /// The connection broke before the login was sent. No token was sent.
    #[error("the connection to {server} broke while {stage}, so no token was sent to it")]
    #[non_exhaustive]
    ConnectionLost {
        /// `host,port`.
        server: String,
        /// The stage in which the connection broke.
        stage: Stage,
        /// The network error.
        source: io::Error,
    },
    /// The server's response violates TDS: usually, the peer is not a TDS server.
    #[error("{server} does not respond like Azure SQL: {problem}")]
    #[non_exhaustive]
    UnexpectedProtocol {
        /// `host,port`.
        server: String,
        /// What is wrong with the response.
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
    /// TLS failed. Usually the certificate is for another name, or its authority is not trusted. No
    /// token was sent.
    #[error(
        "TLS with {server} failed, so no token was sent to it: its certificate must be for '{name}' (HostNameInCertificate) and issued by a trusted authority (TrustServerCertificateCA)"
    )]
    #[non_exhaustive]
    Tls {
        /// `host,port`.
        server: String,
        /// The name that the certificate must have.
        name: String,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// The server refused the login (error 18456).
    #[error(transparent)]
    LoginRefused(Box<LoginRefused>),
    /// The login failed with another server error, or the connection broke.
    #[error("the login to {server} failed{}", advice(server, source))]
    #[non_exhaustive]
    Login {
        /// `host,port`.
        server: String,
        /// The error of the server or of the driver.
        source: LoginError,
    },
    /// The server routed the login too often, or to a host that is not allowed.
    #[error("{server} routes the login to {target}: {problem}")]
    #[non_exhaustive]
    Routing {
        /// `host,port`.
        server: String,
        /// The server to which the login was routed, as `host,port`.
        target: String,
        /// Why the routing is refused.
        problem: &'static str,
    },
    /// The connect timed out.
    #[error(
        "connecting to {server} timed out after {limit:?} (Connect Timeout) while {stage}{}",
        stage.advice()
    )]
    #[non_exhaustive]
    TimedOut {
        /// `host,port`.
        server: String,
        /// The time limit.
        limit: Duration,
        /// The stage that was reached.
        stage: Stage,
        /// The error of an earlier attempt of this connect, if there was one.
        source: Option<Box<Error>>,
    },
    /// The pool returned no connection: it is closed, or its own time limits expired.
    #[error("{}", pool_message(.0))]
    Pool(#[source] Box<PoolError>),
    /// An idle connection is not fit to be used again. The pool uses another connection or opens
    /// one: callers of a pool do not see this error.
    #[error("the connection was retired: {reason}")]
    #[non_exhaustive]
    Retired {
        /// The reason.
        reason: RetireReason,
    },
}

impl Error {
    /// Whether the error is transient: the same call may succeed later without intervention.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Token { source, .. } => source.is_transient(),
            Self::Resolve { .. }
            | Self::Dial { .. }
            | Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::Retired { .. } => true,
            Self::Pool(error) => matches!(**error, PoolError::Timeout(_)),
            Self::Login { source: LoginError::Server(error), .. } => {
                is_transient_code(error.code())
            }
            Self::Login { source: LoginError::Driver(error), .. } => is_transient(error),
            _ => false,
        }
    }

    /// Returns the server's error, if there is one. If the server returned several errors, this is
    /// the most useful one, and its [`source`](std::error::Error::source) is the next one.
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::LoginRefused(refused) => Some(&refused.source),
            Self::Login { source: LoginError::Server(error), .. } => Some(error),
            _ => None,
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error,
            error => Self::Pool(Box::new(error)),
        }
    }
}

impl Failure for Error {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Identity(_) => "identity",
            Self::TlsConfig(_) => "tls_config",
            Self::Token { .. } => "token",
            Self::Resolve { .. } => "resolve",
            Self::Dial { .. } => "dial",
            Self::NotLoopback { .. } => "not_loopback",
            Self::ConnectionLost { .. } => "connection_lost",
            Self::UnexpectedProtocol { .. } => "unexpected_protocol",
            Self::EncryptionDeclined { .. } => "encryption_declined",
            Self::Tls { .. } => "tls",
            Self::LoginRefused(_) => telemetry::LOGIN_REFUSED,
            Self::Login { .. } => "login",
            Self::Routing { .. } => "routing",
            Self::TimedOut { .. } => telemetry::TIMEOUT,
            Self::Retired { .. } => "retired",
            Self::Pool(_) => "pool",
        }
    }

    fn status_code(&self) -> Option<String> {
        self.server_error().map(|error| error.code().to_string())
    }
}

/// Whether the error of a query is transient: the server or the connection is temporarily
/// unavailable (the database moves, the server is busy, the query was a deadlock victim, the
/// session's token has expired). The same query may succeed on another connection of the pool.
///
/// The query may have taken effect: retry only idempotent work. For errors of a checkout, use
/// [`Error::is_transient`].
///
/// A response that took longer than `Command Timeout` (`Io` of kind `TimedOut`) is not transient,
/// as in Microsoft's drivers, because the query would usually take as long again. The server may
/// also have stopped responding, so you may retry a query that is usually quick.
#[must_use]
pub fn is_transient(error: &tiberius::error::Error) -> bool {
    match error {
        tiberius::error::Error::Io { kind, .. } => *kind != io::ErrorKind::TimedOut,
        tiberius::error::Error::Server(error) => is_transient_code(error.code()),
        _ => false,
    }
}

/// The database cannot be opened.
pub(super) const CANNOT_OPEN_DATABASE: u32 = 4060;

/// The login failed.
pub(super) const LOGIN_FAILED: u32 = 18456;

const UNAVAILABLE: &str = "the database is temporarily unavailable, because it is resuming, moving or recovering: set Connect Timeout to 60 or more to wait for it";

const BUSY: &str =
    "the server is busy or at its limit: use fewer connections (Max Pool Size), or a larger tier";

/// The errors that are transient or that the user can fix: their numbers, whether they are
/// transient, and advice, in which `SERVER` and `ADDRESS` are replaced.
///
/// The transient errors are those of Microsoft.Data.SqlClient's logins and of its configurable
/// retry, and of "Troubleshoot common connection issues" on Microsoft Learn; and 3960, the update
/// conflict of snapshot isolation, which is like PostgreSQL's 40001.
const KNOWN: &[(&[u32], bool, &str)] = &[
    (
        &[233, 997, 1204, 1205, 1222, READ_ONLY, 3960, 4221, 10060, TOKEN_EXPIRED, 40143, 40540],
        true,
        "",
    ),
    (&[615, 921, 926, 18401, 40197, 40613, 40971, 42108, 42109], true, UNAVAILABLE),
    (&[10928, 10929, 10930, 10936, 40501, 49918, 49919, 49920], true, BUSY),
    (
        &[CANNOT_OPEN_DATABASE],
        true,
        "the database does not exist, or this identity has no user in it: list the databases with `az sql db list --resource-group GROUP --server SERVER --query [].name`, or run in the database, as the server's Entra administrator: CREATE USER [NAME] FROM EXTERNAL PROVIDER",
    ),
    (&[4064], false, "the login's default database cannot be opened: add Database=…"),
    (
        &[40615],
        false,
        "the server's firewall blocks this address: run `az sql server firewall-rule create --resource-group GROUP --server SERVER --name app --start-ip-address ADDRESS --end-ip-address ADDRESS`, or use a private endpoint",
    ),
    (
        &[40914],
        false,
        "the server's firewall blocks this virtual network's subnet: run `az sql server vnet-rule create --resource-group GROUP --server SERVER --name app --subnet SUBNET-ID`, or use a private endpoint",
    ),
    (&[47073], false, "the server denies public access: connect through a private endpoint"),
    (
        &[40532],
        false,
        "the server does not accept logins under this name: use the Azure host name, not an IP address or an alias",
    ),
];

/// Returns whether a known error is transient, and what to do about it.
pub(super) fn known(code: u32) -> Option<(bool, &'static str)> {
    KNOWN
        .iter()
        .find(|(codes, ..)| codes.contains(&code))
        .map(|(_, transient, advice)| (*transient, *advice))
}

pub(crate) fn is_transient_code(code: u32) -> bool {
    known(code).is_some_and(|(transient, _)| transient)
}

/// Returns the rank of an error among the errors of one login: known errors come first, and "login
/// failed" last, because the server may add it to any other error.
pub(super) fn rank(code: u32) -> u8 {
    match known(code) {
        Some(_) => 0,
        None if code != LOGIN_FAILED => 1,
        None => 2,
    }
}

/// Returns the end of a message: why a login failed, or what to do about it.
fn advice(server: &str, source: &LoginError) -> String {
    let (error, advice) = match source {
        LoginError::Server(error) => (error, known(error.code()).map_or("", |(_, advice)| advice)),
        LoginError::Driver(error) if is_transient(error) => return ": the connection broke".into(),
        LoginError::Driver(_) => return ": the driver returned an error".into(),
    };
    let advice = if advice.is_empty() { "the server returned an error" } else { advice };
    // If the login was routed, the advice is about the configured server.
    let host = server.rsplit("(where ").next().unwrap_or(server);
    let name = host.split('.').next().filter(|_| host.contains(".database.")).unwrap_or("SERVER");
    // Users paste the command into a shell, so only the address is taken from the server's text.
    let address = error.message().split('\'').find_map(|word| word.parse::<IpAddr>().ok());
    let address = address.map_or_else(|| "ADDRESS".to_owned(), |address| address.to_string());
    format!(": {}", advice.replace("SERVER", name).replace("ADDRESS", &address))
}

debug_as_text!(Error);
