//! The PostgreSQL part of connecting: one login, and the classification of its errors.

use std::{
    io::{self, ErrorKind as Kind},
    sync::Arc,
    time::Duration,
};

use tokio_postgres::{Client, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, Connection, Error,
    advice::{self, Refusal},
    dial,
    error::{io_kind, is_other_role},
    is_transient,
    link::Link,
    replay,
};
use crate::{
    clock::Clock,
    connect::{self, Attempt, Outlook, Progress, REPEATED, RetryPolicy},
    token::{Scope, Token, TokenError},
};

/// A client, the driver of its connection, and its link.
pub(super) type LoggedIn = (Client, Connection, Arc<Link>);

/// A message with a password has at most 65,535 bytes (`PG_MAX_AUTH_TOKEN_LENGTH` in PostgreSQL's
/// source), including its length and the final zero.
const LONGEST_TOKEN: usize = 65_530;

/// The PostgreSQL part of connecting.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) scope: Scope,
    pub(super) clock: Arc<dyn Clock>,
}

impl connect::Driver for Driver {
    type Connection = LoggedIn;
    type Error = Error;
    /// The login, the advice, and the server's `ErrorResponse`.
    type Refusal = (String, String, Vec<u8>);

    fn servers(&self) -> String {
        self.config.servers()
    }

    /// A server that restarts is available again within seconds.
    fn retry_policy(&self) -> RetryPolicy {
        let [first, longest] = [100, 1_000].map(Duration::from_millis);
        RetryPolicy { first, longest, count: None }
    }

    async fn log_in(&self, token: &Token, attempt: &Attempt<Error>) -> Result<LoggedIn, Error> {
        let user = self.user(token)?;
        let length = token.secret().len();
        if length > LONGEST_TOKEN {
            let text = format!(
                "the token has {length} characters, but a password on PostgreSQL has at most {LONGEST_TOKEN}: use an identity whose tokens have fewer claims (it may be in too many groups)"
            );
            let login = advice::login(&self.servers(), &user);
            let source = replay::from_io(io::Error::new(Kind::InvalidInput, text));
            return Err(Error::of_login(login, source));
        }
        let mut outcome = dial::log_in(self, &user, token, attempt).await;
        let (_, server) = attempt.position();
        match &mut outcome {
            Ok(_) => tracing::debug!(%server, user, "logged in"),
            Err(Error::LoginRefused { source, .. }) => {
                let code = source.code().map(SqlState::code);
                tracing::warn!(%server, user, code, "the server refused the login");
            }
            Err(Error::Login { advice, source, .. })
                if source.code() == Some(&SqlState::INVALID_CATALOG_NAME)
                    && self.config.session.get_dbname().is_none() =>
            {
                *advice = advice::after_reason(advice::NO_DATABASE_NAMED);
            }
            Err(_) => {}
        }
        outcome
    }

    /// Azure's servers look up principals in Entra, which may fail temporarily.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn refusal(&self, error: &Error) -> Option<Self::Refusal> {
        let Error::LoginRefused { login, advice, source } = error else { return None };
        Some((login.clone(), advice.clone(), replay::record(source.as_db_error()?)))
    }

    async fn repeat(&self, (login, advice, response): Self::Refusal) -> Error {
        let source = replay::play(Ok(response));
        Error::LoginRefused { login, advice: format!("{advice} {REPEATED}"), source }
    }

    fn outlook(&self, error: &Error, known: bool) -> Outlook {
        outlook(error, self.config.hosts.len() > 1, known)
    }

    /// Adds advice to the server's error.
    async fn refused(&self, refusal: Error, token: &Token, second_login: &str) -> Error {
        let Error::LoginRefused { login, mut advice, source } = refusal else { return refusal };
        // `user` returned a role before the login, so it does again.
        if let Some((error, user)) = source.as_db_error().zip(self.user(token).ok()) {
            let (login, user) = (&*login, &*user);
            let (scope, now, hosts) = (&self.scope, self.clock.wall(), &*self.config.hosts);
            let refusal = Refusal { error, login, user, hosts, token, scope, now, second_login };
            advice = advice::after_reason(&refusal.advice());
        }
        Error::LoginRefused { login, advice, source }
    }

    fn no_token(&self, source: TokenError) -> Error {
        Error::Token { server: self.config.servers(), source }
    }

    fn timed_out(&self, progress: Progress<Error>, limit: Duration) -> Error {
        let Progress { server, stage, failed, .. } = progress;
        Error::TimedOut { server, limit, stage, source: failed.map(Box::new) }
    }
}

/// Returns whether another login may succeed after this error. `several`: there are several hosts.
/// `known`: the server has responded before.
pub(super) fn outlook(error: &Error, several: bool, known: bool) -> Outlook {
    match error {
        Error::LoginRefused { .. } => Outlook::TokenRefused,
        Error::Login { source, .. } if is_transient(source) => match source.code() {
            Some(_) => Outlook::Transient,
            None => Outlook::MayRecover,
        },
        // With several hosts, a failover may be in progress.
        Error::Login { source, .. } if several && is_other_role(source) => Outlook::MayRecover,
        Error::ConnectionLost { .. } => Outlook::MayRecover,
        Error::Dial { source, .. } => match io_kind(source) {
            Some(Kind::ConnectionRefused) => Outlook::MayRecover,
            // A route or a name server may be unavailable for a moment.
            Some(Kind::HostUnreachable | Kind::NetworkUnreachable) if known => Outlook::MayRecover,
            // A connect that timed out has already used up its time.
            _ => Outlook::Final,
        },
        Error::Resolve { .. } if known => Outlook::MayRecover,
        _ => Outlook::Final,
    }
}

impl Driver {
    /// Returns the role of the login.
    pub(crate) fn user(&self, token: &Token) -> Result<String, Error> {
        if let Some(user) = self.config.session.get_user() {
            return Ok(user.to_owned());
        }
        let claims = token.claims().unwrap_or_default();
        match claims.principal_name() {
            Some(name) => Ok(name.to_owned()),
            None => Err(Error::NoUser { principal: advice::principal(&claims) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{
        Stage,
        replay::{from_io, server_error},
    };

    fn with_code(code: &str) -> Error {
        let source = server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', "x")]);
        Error::of_login("the login".to_owned(), source)
    }

    #[test]
    fn the_error_decides_whether_a_login_is_retried() {
        for (code, expected) in [
            ("57P03", Outlook::Transient),
            ("57P01", Outlook::Transient),
            ("53300", Outlook::Transient),
            ("08006", Outlook::Transient),
            ("3D000", Outlook::Final),
            ("42501", Outlook::Final),
            ("57P04", Outlook::Final),
        ] {
            assert_eq!(outlook(&with_code(code), false, false), expected, "{code}");
        }
        assert_eq!(outlook(&with_code("28P01"), false, false), Outlook::TokenRefused);
        let declined = Error::EncryptionDeclined { server: "h:5432".into() };
        assert_eq!(outlook(&declined, false, false), Outlook::Final);
        for (kind, expected) in [
            (io::ErrorKind::TimedOut, [Outlook::Final; 2]),
            (io::ErrorKind::ConnectionRefused, [Outlook::MayRecover; 2]),
            (io::ErrorKind::HostUnreachable, [Outlook::Final, Outlook::MayRecover]),
            (io::ErrorKind::NetworkUnreachable, [Outlook::Final, Outlook::MayRecover]),
        ] {
            let source = from_io(kind.into());
            let dial = Error::Dial { server: "h:5432".into(), source };
            let outlooks = [false, true].map(|known| outlook(&dial, false, known));
            assert_eq!(outlooks, expected, "{kind}");
        }
        let resolve = Error::Resolve { server: "h:5432".into(), source: io::Error::other("x") };
        let outlooks = [false, true].map(|known| outlook(&resolve, false, known));
        assert_eq!(outlooks, [Outlook::Final, Outlook::MayRecover]);
        let source = from_io(io::ErrorKind::ConnectionReset.into());
        let broken = Error::ConnectionLost { server: "h:5432".into(), stage: Stage::Tls, source };
        assert_eq!(outlook(&broken, false, false), Outlook::MayRecover);
    }

    #[test]
    fn a_read_only_host_is_retried_if_there_are_several_hosts() {
        let source = from_io(io::ErrorKind::PermissionDenied.into());
        let error = Error::of_login("the login".to_owned(), source);
        assert_eq!(outlook(&error, true, false), Outlook::MayRecover);
        assert_eq!(outlook(&error, false, false), Outlook::Final);
    }
}
