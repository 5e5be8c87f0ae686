use std::{error::Error as StdError, io, time::Duration};

use deadpool_postgres::PoolError;

use super::{
    ConfigError, RetireReason, Stage,
    advice::{self, Meaning, meaning},
};
use crate::{
    TlsConfigError,
    connect::pool_message,
    credential,
    telemetry::{self, Failure},
    token::{TokenError, debug_as_text},
};

/// An error of connecting to PostgreSQL.
///
/// A pool returns a [`PoolError`] that contains this error: `Error::from` extracts it, and
/// [`within`](Self::within) finds it among the causes of any error. Use
/// `pool.get().await.map_err(postgres::Error::from)?` to return this error from `main`, which then
/// prints it without the texts of deadpool-postgres and tokio-postgres around it.
///
/// `Display` states what failed in this layer; [`source`](StdError::source) is the cause. `Debug`
/// prints the messages of the error and of its causes, one per line. The server's error of a login
/// is a [`tokio_postgres::Error`] with its SQLSTATE ([`code`](tokio_postgres::Error::code)) and all
/// its fields ([`as_db_error`](tokio_postgres::Error::as_db_error)): each on one line, at most 400
/// characters long, with parts of the token replaced by `[redacted]`.
/// [`troubleshooting`](crate::manual::troubleshooting) has the messages as its headings.
///
/// | error | cause | what to do |
/// |---|---|---|
/// | [`Config`](Self::Config), [`Identity`](Self::Identity), [`TlsConfig`](Self::TlsConfig) | an invalid setting | correct the setting that the message names |
/// | [`Token`](Self::Token) | the identity returned no token | follow the source's advice |
/// | [`NoUser`](Self::NoUser) | the token of a system-assigned identity or an application does not name a role | set `user` |
/// | [`Resolve`](Self::Resolve) | the server's name cannot be resolved | check its spelling, and DNS (a private endpoint needs a private DNS zone) |
/// | [`Dial`](Self::Dial) | no connection at that address and port | allow outgoing port 5432 (PgBouncer: 6432); check the server's firewall and networking |
/// | [`EncryptionDeclined`](Self::EncryptionDeclined) | the server does not support TLS, or is not a PostgreSQL server | check host and port |
/// | [`Tls`](Self::Tls) | the certificate is for another name, or from another authority | use the name in the certificate; set `sslrootcert` |
/// | [`ConnectionLost`](Self::ConnectionLost) | the connection broke before the login, or the server is older than PostgreSQL 17 with `sslnegotiation=direct` | check firewalls and proxies if retries do not help |
/// | [`LoginRefused`](Self::LoginRefused) 28P01, 28000 | the principal has no role, the token expired or is for another resource, or a firewall rule is missing | follow the message |
/// | [`LoginRefused`](Self::LoginRefused) 08P01 | PgBouncer refuses the token, or cannot accept a token of this length | follow the message; use port 5432 |
/// | [`Login`](Self::Login) 08P01 | PgBouncer: a startup parameter, a missing or disabled database, its limits, its own login | follow the message |
/// | [`Login`](Self::Login) 3D000 | the database does not exist | check `dbname` |
/// | [`Login`](Self::Login) without a SQLSTATE | the connection broke, or the token has more than 65,530 characters, which a password cannot have | see the source |
/// | [`Login`](Self::Login) 57P03, 53300 | the server is starting, or all its connections are in use | use fewer connections, or PgBouncer, if retries do not help |
/// | [`TimedOut`](Self::TimedOut) | the connect timed out | check the stage in the message, and the source if an earlier try failed |
/// | [`Retired`](Self::Retired) | an idle connection was unfit | nothing: the pool uses another one |
/// | [`Pool`](Self::Pool) | the pool is full or closed | follow the message |
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The root certificates cannot be loaded. Check `sslrootcert`.
    #[error(transparent)]
    TlsConfig(#[from] TlsConfigError),
    /// The identity cannot be created. Check `entra_client_id` and the environment.
    #[error(transparent)]
    Identity(#[from] credential::ConfigError),
    /// The identity returned no token. The source has the reason and what to do.
    #[error("cannot get a token for {server}: {}", source.summary())]
    #[non_exhaustive]
    Token {
        /// `host:port`; several are separated by commas.
        server: String,
        /// The cause.
        source: TokenError,
    },
    /// Neither the configuration nor the token names a role. Set `user`.
    #[error(
        "the token of {principal} does not name a role: set user to the name that was given to pgaadauth_create_principal"
    )]
    #[non_exhaustive]
    NoUser {
        /// The principal of the token.
        principal: String,
    },
    /// The server's name cannot be resolved.
    #[error(
        "the name of {server} cannot be resolved: check its spelling (`az postgres flexible-server list --query [].fullyQualifiedDomainName` lists the names), and the DNS of this network (for a private endpoint, this network needs the private DNS zone)"
    )]
    #[non_exhaustive]
    Resolve {
        /// `host:port`.
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
        /// `host:port`.
        server: String,
        /// The network error.
        source: tokio_postgres::Error,
    },
    /// The connection broke before the login was sent. No token was sent.
    #[error("the connection to {server} broke while {stage}, so no token was sent to it")]
    #[non_exhaustive]
    ConnectionLost {
        /// `host:port`.
        server: String,
        /// The stage in which the connection broke.
        stage: Stage,
        /// The network error.
        source: tokio_postgres::Error,
    },
    /// The server does not support TLS, or is not a PostgreSQL server. No token was sent.
    #[error(
        "{server} declines encryption, so no token was sent to it: check that it is a PostgreSQL server, with TLS"
    )]
    #[non_exhaustive]
    EncryptionDeclined {
        /// `host:port`.
        server: String,
    },
    /// TLS failed. Usually the certificate is for another name, or its authority is not trusted. No
    /// token was sent.
    #[error(
        "TLS with {server} failed, so no token was sent to it: its certificate must be for that name and issued by a trusted authority (sslrootcert, otherwise this machine's roots)"
    )]
    #[non_exhaustive]
    Tls {
        /// `host:port`.
        server: String,
        /// The TLS error.
        source: tokio_postgres::Error,
    },
    /// The server refused the login, also with another token if there is one.
    #[error("{login} was refused: {}{advice}", advice::reason(source))]
    #[non_exhaustive]
    LoginRefused {
        /// The server and the role of the login.
        login: String,
        /// What to do, and the facts to compare; starts with a period. May be empty.
        advice: String,
        /// The server's own error, with its SQLSTATE.
        source: tokio_postgres::Error,
    },
    /// The login failed with another error of the server or of the connection, such as a missing
    /// database or too many connections.
    #[error("{login} failed: {}{advice}", advice::reason(source))]
    #[non_exhaustive]
    Login {
        /// The server and the role of the login.
        login: String,
        /// What to do; starts with a period. May be empty.
        advice: String,
        /// The server's error with its SQLSTATE, or the network error.
        source: tokio_postgres::Error,
    },
    /// The connect timed out.
    #[error(
        "connecting to {server} timed out after {limit:?} (connect_timeout) while {stage}{}",
        stage.advice()
    )]
    #[non_exhaustive]
    TimedOut {
        /// `host:port`; several are separated by commas, if none was tried yet.
        server: String,
        /// The time limit; with several hosts or addresses, the share of this address.
        limit: Duration,
        /// The stage that was reached.
        stage: Stage,
        /// The error of the last try that failed within that time, if any.
        source: Option<Box<Error>>,
    },
    /// An idle connection cannot be used again. The pool uses or opens another connection, so
    /// callers of a pool do not get this error.
    #[error("the connection was retired: {reason}")]
    #[non_exhaustive]
    Retired {
        /// The reason.
        reason: RetireReason,
    },
    /// The pool returned no connection: it is closed, or its own time limits expired.
    #[error("{}", pool_message(.0))]
    Pool(#[source] Box<PoolError>),
}

impl Error {
    /// Finds this error inside another error, such as that of a pool, of a framework or of
    /// `anyhow`.
    #[must_use]
    pub fn within<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref() {
                return Some(ours);
            }
            // `source` of an io::Error skips the error that it contains.
            let content = error.downcast_ref().and_then(io::Error::get_ref);
            if let Some(ours) = content.and_then(|content| content.downcast_ref()) {
                return Some(ours);
            }
            next = error.source();
        }
        None
    }

    /// Returns whether the same call may succeed later without intervention.
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
            Self::Login { source, .. } => is_transient(source) || is_other_role(source),
            _ => false,
        }
    }

    /// Returns the error of a failed login. For a refusal, the advice is added later, when it is
    /// known whether another token is also refused.
    pub(super) fn of_login(login: String, source: tokio_postgres::Error) -> Self {
        let advice = match source.as_db_error() {
            Some(error) if meaning(error) == Meaning::Refused => {
                return Self::LoginRefused { login, advice: String::new(), source };
            }
            Some(error) => advice::remedy(error, &login),
            None => String::new(),
        };
        Self::Login { advice: advice::after_reason(&advice), login, source }
    }
}

impl Failure for Error {
    fn error_type(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::TlsConfig(_) => "tls_config",
            Self::Identity(_) => "identity",
            Self::Token { .. } => "token",
            Self::NoUser { .. } => "no_user",
            Self::Resolve { .. } => "resolve",
            Self::Dial { .. } => "dial",
            Self::ConnectionLost { .. } => "connection_lost",
            Self::EncryptionDeclined { .. } => "encryption_declined",
            Self::Tls { .. } => "tls",
            Self::LoginRefused { .. } => telemetry::LOGIN_REFUSED,
            Self::Login { .. } => "login",
            Self::TimedOut { .. } => telemetry::TIMEOUT,
            Self::Retired { .. } => "retired",
            Self::Pool(_) => "pool",
        }
    }

    fn status_code(&self) -> Option<String> {
        match self {
            Self::LoginRefused { source, .. } | Self::Login { source, .. } => {
                source.code().map(|code| code.code().to_owned())
            }
            _ => None,
        }
    }
}

/// Returns whether the error is a lost connection.
pub(super) fn is_disconnect(error: &tokio_postgres::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        io_kind(error),
        Some(
            Kind::BrokenPipe
                | Kind::ConnectionAborted
                | Kind::ConnectionReset
                | Kind::TimedOut
                | Kind::UnexpectedEof
        )
    )
}

/// Returns whether the server does not match `target_session_attrs`. tokio-postgres uses this kind
/// of error for no other failure of a login.
pub(super) fn is_other_role(error: &tokio_postgres::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::PermissionDenied)
}

pub(super) fn io_kind(error: &tokio_postgres::Error) -> Option<io::ErrorKind> {
    error.source()?.downcast_ref().map(io::Error::kind)
}

/// Returns whether the same transaction may succeed when it is repeated on another connection of
/// the pool: the server or the connection failed temporarily (a restart, a failover, all
/// connections in use), or the transaction conflicted with another transaction (SQLSTATE 40001,
/// `serialization_failure`, and 40P01, `deadlock_detected`).
///
/// If the connection failed, the transaction may have been committed: repeat only idempotent work.
/// For errors of a checkout, use [`Error::is_transient`].
#[must_use]
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    match (error.as_db_error(), Error::within(error)) {
        (Some(error), _) => meaning(error) == Meaning::Transient,
        (None, Some(error)) => error.is_transient(),
        (None, None) => error.is_closed() || is_disconnect(error),
    }
}

/// Extracts the error that [`deadpool_postgres::Connect`] had to wrap in the driver's error.
impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        let error = match error {
            PoolError::Backend(error) => error,
            error => return Self::Pool(Box::new(error)),
        };
        if Self::within(&error).is_none() {
            return Self::of_login("the login".to_owned(), error);
        }
        let source = error.into_source().and_then(|source| source.downcast::<io::Error>().ok());
        match source.and_then(|source| source.downcast().ok()) {
            Some(ours) => ours,
            None => unreachable!("its presence was checked"),
        }
    }
}

debug_as_text!(Error);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::replay::server_error;

    #[test]
    fn server_errors_are_classified_by_sqlstate() {
        for (code, refused, transient) in [
            ("28P01", true, false),
            ("28000", true, false),
            ("08P01", true, false),
            ("3D000", false, false),
            ("42501", false, false),
            ("57P03", false, true),
            ("53300", false, true),
            ("08006", false, true),
            ("40001", false, true),
            ("40P01", false, true),
            ("40002", false, false),
            ("25006", false, true),
            ("53100", false, false),
        ] {
            let error = server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', "x")]);
            let error = Error::from(PoolError::Backend(error));
            assert_eq!(matches!(error, Error::LoginRefused { .. }), refused, "{code}");
            assert_eq!(error.is_transient(), transient, "{code}");
        }
    }

    #[test]
    fn pgbouncers_errors_are_classified_by_their_text() {
        use Meaning::{Final, Refused, Transient};
        for (message, meaning, reason) in [
            ("password authentication failed", Refused, "PgBouncer does not accept this token"),
            ("role \"database\" does not exist", Refused, "does not accept this token"),
            ("client sent partial pkt in startup phase", Refused, "does not accept this token"),
            ("no more connections allowed (max_client_conn)", Transient, "PgBouncer is full"),
            ("query_wait_timeout", Transient, "PgBouncer is full"),
            // PgBouncer 1.24 and later.
            (
                "client connections exceeded (max_db_client_connections)",
                Transient,
                "PgBouncer is full",
            ),
            ("bouncer resources exhaustion", Transient, "PgBouncer is full"),
            ("pooler is shutting down", Transient, "starting or stopping"),
            ("server login has been failing, try again later", Transient, "cannot log in"),
            (
                "server login has been failing, cached error: database \"a\" does not exist",
                Transient,
                "cannot log in",
            ),
            ("the database system is starting up", Transient, "starting or stopping"),
            ("unsupported startup parameter: options", Final, "a startup parameter"),
            ("Unsupported startup parameter: options", Final, "a startup parameter"),
            ("database \"x\" does not exist", Final, "the database does not exist"),
            ("no such database: x", Final, "the database does not exist"),
            ("database \"x\" is disabled", Final, "or is disabled"),
        ] {
            let error = server_error(&[(b'S', "FATAL"), (b'C', "08P01"), (b'M', message)]);
            assert_eq!(is_transient(&error), meaning == Transient, "{message}");
            let error = Error::from(PoolError::Backend(error));
            assert_eq!(error.is_transient(), meaning == Transient, "{message}");
            assert_eq!(
                matches!(error, Error::LoginRefused { .. }),
                meaning == Refused,
                "{message}"
            );
            assert!(error.to_string().contains(reason), "{message}: {error}");
        }
    }

    #[test]
    fn the_error_of_a_query_is_not_taken_for_a_refused_login() {
        let fields =
            [(b'S', "ERROR"), (b'C', "42501"), (b'M', "x"), (b'W', "PL/pgSQL function f()")];
        let error = Error::from(PoolError::Backend(server_error(&fields)));
        assert!(
            error.to_string().starts_with("the login failed: a permission is missing. Run "),
            "{error}"
        );
    }

    #[test]
    fn a_full_pool_and_a_closed_pool_have_their_own_messages() {
        let full = Error::from(PoolError::Timeout(deadpool_postgres::TimeoutType::Wait));
        assert!(full.is_transient() && full.to_string().contains("max_size"), "{full}");
        let closed = Error::from(PoolError::Closed);
        assert!(!closed.is_transient() && closed.to_string().contains("closed"), "{closed}");
    }
}
