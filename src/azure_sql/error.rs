use std::{io, net::IpAddr, time::Duration};

use super::{
    ConfigError, LoginError, LoginRefused, RetireReason, ServerError, Stage,
    response::{READ_ONLY, TOKEN_EXPIRED},
};
use crate::{
    TlsConfigError, credential,
    telemetry::{self, Failure},
    token::{TokenError, debug_as_text},
};

/// Why there is no connection to Azure SQL.
///
/// `Display` states what failed in this layer and what to do; [`source`](std::error::Error::source)
/// is the cause. `Debug` is the text of both, one layer per line. The server's error, with its
/// number, is in [`server_error`](Self::server_error). Messages from the server are filtered: see
/// [`ServerError`].
/// [`troubleshooting`](crate::manual::troubleshooting) has the messages as its headings.
///
/// | error | cause | way out |
/// |---|---|---|
/// | [`Config`](Self::Config), [`Identity`](Self::Identity), [`TlsConfig`](Self::TlsConfig) | a setting | the message names it |
/// | [`Token`](Self::Token) | the identity gave no token | the source says who was asked, and what to do |
/// | [`Resolve`](Self::Resolve) | the server's name is unknown | its spelling; DNS, a private endpoint's zone |
/// | [`Dial`](Self::Dial) | nothing answers at that address and port | port 1433 outgoing (and 11000 to 11999 from within Azure), network rules |
/// | [`Tls`](Self::Tls), [`EncryptionDeclined`](Self::EncryptionDeclined), [`UnexpectedProtocol`](Self::UnexpectedProtocol), [`NotLoopback`](Self::NotLoopback) | it is another server than meant, or its certificate is not trusted | `HostNameInCertificate`, `TrustServerCertificateCA` |
/// | [`ConnectionLost`](Self::ConnectionLost), [`Login`](Self::Login) with an I/O error | the connection was cut on the way, or after the login | it is retried; then look at what lies between |
/// | [`LoginRefused`](Self::LoginRefused) (18456) | the identity has no user in the database, or the token is for another tenant or audience | the message has the statements, or what is wrong with the token |
/// | [`Login`](Self::Login) 4060 | no such database, or no user in it | `Database`; `CREATE USER … FROM EXTERNAL PROVIDER` |
/// | [`Login`](Self::Login) 40532 | no server of this name takes the login | the host; a proxy or DNS entry must keep the server's own name |
/// | [`Login`](Self::Login) 40613, 615, 921, 926, 18401, 40197, 40971, 42108, 42109 | the database is paused, moves or recovers | a `Connect Timeout` of 60 s or more waits for it |
/// | [`Login`](Self::Login) 40615, 40914, 47073 | the server's firewall | a rule for the address or the subnet, or a private endpoint |
/// | [`Login`](Self::Login) 10928 to 10930, 10936, 40501, 49918, 49919, 49920 | the database or server is busy | fewer connections, a larger tier |
/// | [`Routing`](Self::Routing) | sent elsewhere too often, or out of the cloud | `Config::allow_routing_to` |
/// | [`TimedOut`](Self::TimedOut) | all that took too long | the stage it ended in; the source, if a try before had failed |
/// | [`Retired`](Self::Retired) | an idle connection was not fit to be used | nothing: the pool takes another |
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string is refused.
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
        /// Why not.
        source: TokenError,
    },
    /// The server's name has no address.
    #[error(
        "the name of {server} cannot be resolved: check its spelling (`az sql server list --query [].fullyQualifiedDomainName` lists the names), and the DNS of this network (a private endpoint needs its zone there)"
    )]
    #[non_exhaustive]
    Resolve {
        /// `host,port`.
        server: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The server could not be reached.
    #[error(
        "{server} cannot be reached: check the name, the port (1433, outgoing), and the server's network access and firewall"
    )]
    #[non_exhaustive]
    Dial {
        /// `host,port`.
        server: String,
        /// What the network said, of each address.
        source: io::Error,
    },
    /// Any certificate would be trusted, but on this machine only, and the server
    /// is elsewhere. No token was sent.
    #[error(
        "{server} is not on this machine, where alone a certificate is trusted unseen: no token was sent to it"
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
        /// What it was doing then.
        stage: Stage,
        /// What the network said.
        source: io::Error,
    },
    /// What answered is no TDS server.
    #[error("{server} does not answer as Azure SQL does: {problem}")]
    #[non_exhaustive]
    UnexpectedProtocol {
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
        source: rustls::Error,
    },
    /// The server refused the login (error 18456).
    #[error(transparent)]
    LoginRefused(Box<LoginRefused>),
    /// The login failed with another error of the server, or the connection broke.
    #[error("the login to {server} failed{}", advice(server, source))]
    #[non_exhaustive]
    Login {
        /// `host,port`.
        server: String,
        /// What the server or the driver said.
        source: LoginError,
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
        "connecting to {server} took longer than {limit:?} (Connect Timeout); it ended while {stage}{}",
        stage.advice()
    )]
    #[non_exhaustive]
    TimedOut {
        /// `host,port`.
        server: String,
        /// The limit.
        limit: Duration,
        /// What it was doing then.
        stage: Stage,
        /// Why the last try within that time failed, if there was one.
        source: Option<Box<Error>>,
    },
    /// An idle connection is not fit to be used again. The pool takes the next,
    /// or makes a new one: callers of a pool do not see this.
    #[error("the connection is retired: {reason}")]
    #[non_exhaustive]
    Retired {
        /// Why.
        reason: RetireReason,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Token { source, .. } => source.is_transient(),
            Self::Resolve { .. }
            | Self::Dial { .. }
            | Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::Retired { .. } => true,
            Self::Login { source: LoginError::Server(error), .. } => {
                is_transient_code(error.code())
            }
            Self::Login { source: LoginError::Driver(error), .. } => is_transient(error),
            _ => false,
        }
    }

    /// The server's error, if the server returned one. Of several, the most useful one; the others
    /// are its [`source`](std::error::Error::source).
    #[must_use]
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::LoginRefused(refused) => Some(&refused.source),
            Self::Login { source: LoginError::Server(error), .. } => Some(error),
            _ => None,
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
        }
    }

    fn status_code(&self) -> Option<String> {
        self.server_error().map(|error| error.code().to_string())
    }
}

/// Whether a query's error says that the server, or the connection to it, is away
/// for the time being (it moves, is busy, has chosen a victim of a deadlock, the
/// session's token has expired): the same may succeed on another connection of the
/// pool.
///
/// Whether the query had its effect, nobody knows: repeat what may be repeated.
/// Errors of a checkout have [`Error::is_transient`].
///
/// An answer that took longer than `Command Timeout` (`Io` of kind `TimedOut`) is not
/// transient, as it is not for Microsoft's drivers: as a rule it would take as long again.
/// It may also be that the server is gone without a word; who knows the query to be quick
/// may try it again.
#[must_use]
pub fn is_transient(error: &tiberius::error::Error) -> bool {
    match error {
        tiberius::error::Error::Io { kind, .. } => *kind != io::ErrorKind::TimedOut,
        tiberius::error::Error::Server(error) => is_transient_code(error.code()),
        _ => false,
    }
}

/// Cannot open the database.
pub(super) const CANNOT_OPEN_DATABASE: u32 = 4060;

/// Login failed.
pub(super) const LOGIN_FAILED: u32 = 18456;

const UNAVAILABLE: &str = "the database is not available now, because it resumes, moves or recovers: set Connect Timeout to 60 or more to wait for it";

const BUSY: &str =
    "the server is busy or at its limit: use fewer connections (Max Pool Size), or a larger tier";

/// Errors that are transient, or that the user can do something about: their numbers, whether they
/// are transient, and what to do. `SERVER` and `ADDRESS` are replaced.
///
/// The transient ones are those of Microsoft.Data.SqlClient's logins and of its configurable retry,
/// and of "Troubleshoot common connection issues" on Microsoft Learn.
const KNOWN: &[(&[u32], bool, &str)] = &[
    (&[233, 997, 1204, 1205, 1222, READ_ONLY, 4221, 10060, TOKEN_EXPIRED, 40143, 40540], true, ""),
    (&[615, 921, 926, 18401, 40197, 40613, 40971, 42108, 42109], true, UNAVAILABLE),
    (&[10928, 10929, 10930, 10936, 40501, 49918, 49919, 49920], true, BUSY),
    (
        &[CANNOT_OPEN_DATABASE],
        true,
        "the database does not exist, or this identity has no user in it: list the databases with `az sql db list --resource-group GROUP --server SERVER --query [].name`, or run in the database, as the server's Entra administrator: CREATE USER [NAME] FROM EXTERNAL PROVIDER;",
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

/// Whether an error is transient, and what to do about it.
pub(super) fn known(code: u32) -> Option<(bool, &'static str)> {
    KNOWN
        .iter()
        .find(|(codes, ..)| codes.contains(&code))
        .map(|(_, transient, advice)| (*transient, *advice))
}

pub(crate) fn is_transient_code(code: u32) -> bool {
    known(code).is_some_and(|(transient, _)| transient)
}

/// The place of an error among those of one login: those with advice come first. The server may
/// add that the login failed to any of them.
pub(super) fn rank(code: u32) -> u8 {
    match known(code) {
        Some(_) => 0,
        None if code != LOGIN_FAILED => 1,
        None => 2,
    }
}

/// Why a login failed, or what to do about it.
fn advice(server: &str, source: &LoginError) -> String {
    let (error, advice) = match source {
        LoginError::Server(error) => (error, known(error.code()).map_or("", |(_, advice)| advice)),
        LoginError::Driver(error) if is_transient(error) => return ": the connection broke".into(),
        LoginError::Driver(_) => return ": the driver returned an error".into(),
    };
    let advice = if advice.is_empty() { "the server returned an error" } else { advice };
    // Where the login was routed, the first server is the one that has settings.
    let host = server.rsplit("(where ").next().unwrap_or(server);
    let name = host.split(['.', ',']).next().unwrap_or(host);
    // The command is pasted into a shell: nothing else of the server's text goes into it.
    let address = error.message().split('\'').find_map(|word| word.parse::<IpAddr>().ok());
    let address = address.map_or_else(|| "ADDRESS".to_owned(), |address| address.to_string());
    format!(": {}", advice.replace("SERVER", name).replace("ADDRESS", &address))
}

debug_as_text!(Error);
