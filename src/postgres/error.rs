use std::{error::Error as StdError, io, time::Duration};

use deadpool_postgres::{PoolError, TimeoutType};

use super::{
    ConfigError, RetireReason, Stage,
    advice::{self, Meaning, meaning},
};
use crate::{
    TlsConfigError, credential,
    telemetry::{self, Failure},
    token::{TokenError, debug_as_text},
};

/// Why there is no connection to PostgreSQL.
///
/// A pool returns a [`PoolError`], which has one of these inside: `Error::from` takes it out, and
/// [`within`](Self::within) finds it in any error that has it as a cause. So
/// `pool.get().await.map_err(postgres::Error::from)?` returns this error from `main`, which prints
/// it without what deadpool-postgres and tokio-postgres have around it.
///
/// `Display` states what failed in this layer; [`source`](StdError::source) is the cause. `Debug`
/// is the text of both, one layer per line. What the server said of a login is a
/// [`tokio_postgres::Error`] with its SQLSTATE ([`code`](tokio_postgres::Error::code))
/// and all its fields ([`as_db_error`](tokio_postgres::Error::as_db_error)): each on one
/// line, at most 400 characters long, with parts of the token replaced by `[redacted]`. [`troubleshooting`](crate::manual::troubleshooting) has the
/// messages as its headings.
///
/// | error | cause | way out |
/// |---|---|---|
/// | [`Config`](Self::Config), [`Identity`](Self::Identity), [`TlsConfig`](Self::TlsConfig) | a setting | the message names it |
/// | [`Token`](Self::Token) | the identity gave no token | the source says who was asked, and what to do |
/// | [`NoUser`](Self::NoUser) | a system-assigned identity or a group: its token names no role | `user` |
/// | [`Resolve`](Self::Resolve) | the server's name is unknown | its spelling; DNS, a private endpoint's zone |
/// | [`Dial`](Self::Dial) | nothing answers at that address and port | port 5432 (PgBouncer: 6432) outgoing, the server's firewall and networking |
/// | [`EncryptionDeclined`](Self::EncryptionDeclined) | the server has no TLS, or is no PostgreSQL server | host and port |
/// | [`Tls`](Self::Tls) | its certificate is of another name or authority | the host's name as the certificate has it; `sslrootcert` |
/// | [`ConnectionLost`](Self::ConnectionLost) | the connection was cut before the login | it is tried again; then look at what lies between; with `sslnegotiation=direct`, a server before PostgreSQL 17 |
/// | [`LoginRefused`](Self::LoginRefused) 28P01, 28000 | no role for this principal, a token that has expired or is for something else, a firewall rule | the message |
/// | [`LoginRefused`](Self::LoginRefused) 08P01 | PgBouncer refuses the token, or cannot accept so long a token | the message; port 5432 |
/// | [`Login`](Self::Login) 08P01 | PgBouncer: a startup parameter, a missing or disabled database, its limits, its own login | the message |
/// | [`Login`](Self::Login) 3D000 | no such database | `dbname` |
/// | [`Login`](Self::Login) without a SQLSTATE | the connection broke, or the token has more than 65,530 characters, which a password cannot have | the source |
/// | [`Login`](Self::Login) 57P03, 53300 | the server starts, or has no connection left | it is tried again; fewer connections, or PgBouncer |
/// | [`TimedOut`](Self::TimedOut) | all that took too long | the stage it ended in; the source, if a try before had failed |
/// | [`Retired`](Self::Retired) | an idle connection was not fit to be used | nothing: the pool takes another |
/// | [`Pool`](Self::Pool) | the pool is full or closed | the message |
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used. Change it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no root certificates to trust. Look at `sslrootcert`.
    #[error(transparent)]
    TlsConfig(#[from] TlsConfigError),
    /// The identity cannot be set up. Look at `entra_client_id`, or at the
    /// environment.
    #[error(transparent)]
    Identity(#[from] credential::ConfigError),
    /// The identity gave no token; the source says why and what to do.
    #[error("cannot get a token for {server}: {}", source.summary())]
    #[non_exhaustive]
    Token {
        /// `host:port`; all of them, if there are several.
        server: String,
        /// Why not.
        source: TokenError,
    },
    /// No role was named, and the token names none either. Name it.
    #[error(
        "the token of {principal} does not say which role to log in as: name it as user (as it was given to pgaadauth_create_principal)"
    )]
    #[non_exhaustive]
    NoUser {
        /// Whose token it is.
        principal: String,
    },
    /// The server's name has no address.
    #[error(
        "the name of {server} cannot be resolved: check its spelling (`az postgres flexible-server list --query [].fullyQualifiedDomainName` lists the names), and the DNS of this network (a private endpoint needs its zone there)"
    )]
    #[non_exhaustive]
    Resolve {
        /// `host:port`.
        server: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The server could not be reached.
    #[error(
        "{server} cannot be reached: check the name, the port (5432, outgoing), and the server's network access and firewall"
    )]
    #[non_exhaustive]
    Dial {
        /// `host:port`.
        server: String,
        /// What the network said.
        source: tokio_postgres::Error,
    },
    /// The connection broke before the login was sent. No token was sent.
    #[error("the connection to {server} broke while {stage}, so no token was sent to it")]
    #[non_exhaustive]
    ConnectionLost {
        /// `host:port`.
        server: String,
        /// What it was doing then.
        stage: Stage,
        /// What the network said.
        source: tokio_postgres::Error,
    },
    /// The server has no TLS, or is none of PostgreSQL. No token was sent.
    #[error(
        "{server} declines encryption, so no token was sent to it: check that it is a PostgreSQL server, with TLS"
    )]
    #[non_exhaustive]
    EncryptionDeclined {
        /// `host:port`.
        server: String,
    },
    /// TLS failed: most often the certificate is for another name, or of an
    /// authority that is not trusted. No token was sent.
    #[error(
        "TLS with {server} failed, so no token was sent to it: its certificate must be for that name and of a trusted authority (sslrootcert, else this machine's)"
    )]
    #[non_exhaustive]
    Tls {
        /// `host:port`.
        server: String,
        /// What went wrong.
        source: tokio_postgres::Error,
    },
    /// The server refused the login, also with a new token.
    #[error("{login} was refused: {}{advice}", advice::reason(source))]
    #[non_exhaustive]
    LoginRefused {
        /// Where to, and as whom.
        login: String,
        /// What to do, and the facts to compare; begins with a period. May be empty.
        advice: String,
        /// The server's own error, with its SQLSTATE.
        source: tokio_postgres::Error,
    },
    /// The server, or the connection to it, failed otherwise during the login:
    /// no such database, too many connections, ….
    #[error("{login} failed: {}{advice}", advice::reason(source))]
    #[non_exhaustive]
    Login {
        /// Where to, and as whom.
        login: String,
        /// What to do; begins with a period. May be empty.
        advice: String,
        /// The server's own error, with its SQLSTATE, or what the network said.
        source: tokio_postgres::Error,
    },
    /// The time for a connect is over.
    #[error(
        "connecting to {server} took longer than {limit:?} (connect_timeout); it ended while {stage}{}",
        stage.advice()
    )]
    #[non_exhaustive]
    TimedOut {
        /// `host:port`; all of them, if none was being tried yet.
        server: String,
        /// The limit; where there are other hosts or addresses, this one's share.
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
    /// The pool itself had none to give: it is closed, or its own time limits
    /// have passed.
    #[error("{}", pool_says(.0))]
    Pool(#[source] PoolError),
}

impl Error {
    /// The error of this kind inside another, which a pool, a framework or
    /// `anyhow` has around it.
    #[must_use]
    pub fn within<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ours) = error.downcast_ref() {
                return Some(ours);
            }
            // An io::Error's source is its content's source, not its content.
            let content = error.downcast_ref().and_then(io::Error::get_ref);
            if let Some(ours) = content.and_then(|content| content.downcast_ref()) {
                return Some(ours);
            }
            next = error.source();
        }
        None
    }

    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Token { source, .. } => source.is_transient(),
            Self::Resolve { .. }
            | Self::Dial { .. }
            | Self::ConnectionLost { .. }
            | Self::TimedOut { .. }
            | Self::Retired { .. }
            | Self::Pool(PoolError::Timeout(_)) => true,
            Self::Login { source, .. } => is_transient(source) || is_other_role(source),
            _ => false,
        }
    }

    /// The error of a failed login. A refusal gets its advice once it is known whether another
    /// token is refused as well.
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

/// Whether the network, not the peer, ended it.
pub(super) fn broke_off(error: &tokio_postgres::Error) -> bool {
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

/// Whether the server is not what `target_session_attrs` wants. tokio-postgres has
/// this kind for it, and it occurs in a login for nothing else.
pub(super) fn is_other_role(error: &tokio_postgres::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::PermissionDenied)
}

pub(super) fn io_kind(error: &tokio_postgres::Error) -> Option<io::ErrorKind> {
    error.source()?.downcast_ref().map(io::Error::kind)
}

/// Whether the same transaction may succeed when it is run again, on another connection of the
/// pool: the server or the connection failed for now (a restart, a failover, no connection left), or
/// the transaction lost against another one (SQLSTATE 40001, `serialization_failure`, and 40P01,
/// `deadlock_detected`).
///
/// After a connection that failed, it is not known whether the transaction took effect. Repeat
/// only what may be repeated. An error of a checkout is judged as by [`Error::is_transient`].
#[must_use]
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    match (error.as_db_error(), Error::within(error)) {
        (Some(error), _) => meaning(error) == Meaning::Transient,
        (None, Some(error)) => error.is_transient(),
        (None, None) => error.is_closed() || broke_off(error),
    }
}

/// Takes out the error that [`deadpool_postgres::Connect`] had to return inside the driver's.
impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        let error = match error {
            PoolError::Backend(error) => error,
            error => return Self::Pool(error),
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

fn pool_says(error: &PoolError) -> &'static str {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            "no connection came free in time: all are in use (a larger max_size or shorter use would help)"
        }
        PoolError::Timeout(_) => "the pool's own time limit passed before there was a connection",
        PoolError::Closed => "the pool is closed",
        _ => "the pool gave no connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::replay::server_error;

    #[test]
    fn an_error_of_the_server_is_judged_by_its_sqlstate() {
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
    fn pgbouncers_one_sqlstate_is_classified_by_its_text() {
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
            ("pooler is shutting down", Transient, "starts or stops"),
            ("server login has been failing, try again later", Transient, "cannot log in"),
            (
                "server login has been failing, cached error: database \"a\" does not exist",
                Transient,
                "cannot log in",
            ),
            ("the database system is starting up", Transient, "starts or stops"),
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
    fn where_a_query_failed_is_not_taken_for_a_login() {
        let fields =
            [(b'S', "ERROR"), (b'C', "42501"), (b'M', "x"), (b'W', "PL/pgSQL function f()")];
        let error = Error::from(PoolError::Backend(server_error(&fields)));
        assert!(
            error.to_string().starts_with("the login failed: a permission is missing. Run "),
            "{error}"
        );
    }

    #[test]
    fn a_pool_that_is_full_says_so() {
        let full = Error::from(PoolError::Timeout(TimeoutType::Wait));
        assert!(full.is_transient() && full.to_string().contains("max_size"), "{full}");
        let closed = Error::from(PoolError::Closed);
        assert!(!closed.is_transient() && closed.to_string().contains("closed"), "{closed}");
    }
}
