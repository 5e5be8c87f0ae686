use std::{error::Error as StdError, io, time::Duration};

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use super::{ConfigError, Stage};
use crate::{TlsConfigError, credential, token::TokenError};

/// Why there is no connection.
///
/// A pool of deadpool's gives a [`PoolError`]; `Error::from` makes one of these
/// of it. [`within`](Self::within) finds one inside another error without
/// taking that apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used. Change it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no root certificates to trust. Look at `sslrootcert`.
    #[error("TLS cannot be set up")]
    TlsConfig(#[from] TlsConfigError),
    /// The identity cannot be set up. Look at `entra_client_id`, or at the
    /// environment.
    #[error("the identity to log in with cannot be set up")]
    Identity(#[from] credential::ConfigError),
    /// There is no token; the source says why and what to do.
    #[error("no token to log in with")]
    Token(#[from] TokenError),
    /// No role was named, and the token names none either. Name it.
    #[error(
        "the token of {principal} does not say which role to log in as: name it as user (as it was given to pgaadauth_create_principal)"
    )]
    #[non_exhaustive]
    NoUser {
        /// Whose token it is.
        principal: String,
    },
    /// No server was reached there. Look at name, port, firewall and network.
    #[error(
        "{server} cannot be reached: check the name, the port (5432, outgoing), and the server's network access and firewall"
    )]
    #[non_exhaustive]
    Dial {
        /// Host and port.
        server: String,
        /// What the machine says.
        source: tokio_postgres::Error,
    },
    /// The server has no TLS, or its certificate was not accepted. No token
    /// was sent.
    #[error(
        "TLS with {server} failed, so the token was not sent: it must be a PostgreSQL server with TLS, and its certificate for that name and of a trusted authority (sslrootcert, else this machine's)"
    )]
    #[non_exhaustive]
    Tls {
        /// Host and port.
        server: String,
        /// What went wrong.
        source: tokio_postgres::Error,
    },
    /// The server refused the login, also with a new token. Its own error is
    /// the source, with its SQLSTATE; the HINT there says what would help.
    #[error("the server refused the login")]
    LoginRefused(#[source] tokio_postgres::Error),
    /// The server, or the connection to it, failed otherwise during the login:
    /// no such database, too many connections, ….
    #[error("the login failed")]
    Login(#[source] tokio_postgres::Error),
    /// The time was up: `connect_timeout`.
    #[error(
        "no connection{} within {limit:?} (connect_timeout); it ended while {stage}",
        if server.is_empty() { String::new() } else { format!(" to {server}") }
    )]
    #[non_exhaustive]
    TimedOut {
        /// What was going on.
        stage: Stage,
        /// Host and port, if there was one already.
        server: String,
        /// The limit.
        limit: Duration,
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
            Self::Config(_)
            | Self::TlsConfig(_)
            | Self::Identity(_)
            | Self::NoUser { .. }
            | Self::LoginRefused(_) => false,
            Self::Token(error) => error.is_transient(),
            Self::Dial { .. } | Self::TimedOut { .. } => true,
            Self::Tls { source, .. } => broke_off(source),
            Self::Login(error) => match error.code() {
                Some(code) => passes(code),
                None => error.is_closed() || broke_off(error),
            },
            Self::Pool(error) => matches!(error, PoolError::Timeout(_)),
        }
    }
}

/// Whether the login was refused for who asks: SQLSTATE class 28, and from
/// older PgBouncer versions, whose protocol violation (08P01) it is when a token is too
/// long for them.
pub(super) fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error
        .code()
        .is_some_and(|code| code.code().starts_with("28") || *code == SqlState::PROTOCOL_VIOLATION)
}

/// Starting up or shutting down (57P), short of connections or memory (53), a
/// connection that failed (08).
fn passes(code: &SqlState) -> bool {
    ["57P", "53", "08"].iter().any(|class| code.code().starts_with(class))
        && *code != SqlState::PROTOCOL_VIOLATION
}

/// Whether the network, not the peer, ended it.
fn broke_off(error: &tokio_postgres::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| {
        use io::ErrorKind as Kind;
        matches!(
            source.kind(),
            Kind::BrokenPipe
                | Kind::ConnectionAborted
                | Kind::ConnectionReset
                | Kind::TimedOut
                | Kind::UnexpectedEof
        )
    })
}

/// Undoes what [`deadpool_postgres::Connect`] needs: an error of ours inside
/// the driver's is taken out again.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let carries = |error: &tokio_postgres::Error| {
            let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            source
                .and_then(io::Error::get_ref)
                .is_some_and(<dyn StdError + Send + Sync>::is::<Self>)
        };
        if !carries(&error) {
            return if is_refusal(&error) { Self::LoginRefused(error) } else { Self::Login(error) };
        }
        let source = error.into_source().and_then(|source| source.downcast::<io::Error>().ok());
        let content = source.and_then(|source| source.into_inner());
        match content.and_then(|content| content.downcast().ok()) {
            Some(ours) => *ours,
            None => unreachable!("its presence was checked"),
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            error => Self::Pool(error),
        }
    }
}

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

    #[tokio::test]
    async fn an_error_of_the_server_is_judged_by_its_sqlstate() {
        for (code, refused, transient) in [
            ("28P01", true, false),
            ("28000", true, false),
            ("08P01", true, false),
            ("3D000", false, false),
            ("42501", false, false),
            ("57P03", false, true),
            ("53300", false, true),
            ("08006", false, true),
        ] {
            let error = server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', "x")]).await;
            let error = Error::from(PoolError::Backend(error));
            assert_eq!(matches!(error, Error::LoginRefused(_)), refused, "{code}");
            assert_eq!(error.is_transient(), transient, "{code}");
        }
    }

    #[test]
    fn a_pool_that_is_full_says_so() {
        let full = Error::from(PoolError::Timeout(TimeoutType::Wait));
        assert!(full.is_transient() && full.to_string().contains("max_size"), "{full}");
        let closed = Error::from(PoolError::Closed);
        assert!(!closed.is_transient() && closed.to_string().contains("closed"), "{closed}");
    }
}
