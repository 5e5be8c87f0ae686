use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, error::SqlState};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Config, ConfigError, Connection, Error, Stage,
    advice::{self, Refusal, SecondTry},
    dial, replay,
    tls::{self, Progress},
};
use crate::{
    clock::{self, Elapsed},
    token::{Connecting, Renewals, Token, TokenCache, TokenReport},
};

/// Dials and logs in, with a token that is good now. No pool.
///
/// Cheap to clone; clones share their counters. [`builder`](super::builder)
/// makes a pool on one; being a [`deadpool_postgres::Connect`], it fits into a
/// [`deadpool_postgres::Manager`] of your own as well.
///
/// For each connection, the token goes as the password onto a copy of the
/// configuration, and to the server when that is verified over TLS. A login
/// that the server refuses is tried once more, with a newer token, if there is
/// one ([`TokenCache::renew`]).
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    config: Config,
    tokens: TokenCache,
    tls: MakeRustlsConnect,
    renewals: Renewals,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    logins: AtomicU64,
    refused: AtomicU64,
    renewed: AtomicU64,
    retired: AtomicU64,
}

/// How a [`Connector`] has fared, and its tokens.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectorReport {
    /// Logins that succeeded.
    pub logins: u64,
    /// Connects that ended in a refused login.
    pub refused: u64,
    /// Logins that were tried again with another token.
    pub renewed: u64,
    /// Connections that its pools have not given out again, because they were
    /// old, closed or not to be cleaned.
    pub retired: u64,
    /// How its tokens stand.
    pub token: TokenReport,
}

impl Connector {
    /// A connector; nothing is dialled and no token asked for yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OtherScope`], if the tokens are not those that the hosts
    /// want, [`Error::TlsConfig`], if `sslrootcert` cannot be read.
    pub fn new(config: Config, tokens: TokenCache) -> Result<Self, Error> {
        match config.token_scope() {
            // The tokens at hand say what an unknown host wants.
            Err(ConfigError::UnknownHost { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(wanted) if wanted == *tokens.scope() => {}
            Ok(wanted) => {
                return Err(
                    ConfigError::OtherScope { wanted, tokens: tokens.scope().clone() }.into()
                );
            }
        }
        if config.client_id.is_some() {
            return Err(ConfigError::keyword(
                "entra_client_id",
                "chooses an identity, but there is one already: leave it out, or use connect",
            )
            .into());
        }
        let tls = tls::make(&config)?;
        Ok(Self(Arc::new(Inner {
            config,
            tokens,
            tls,
            renewals: Renewals::default(),
            counts: Counts::default(),
        })))
    }

    /// Connects and logs in. The [`Connection`] must be polled for the
    /// [`Client`] to get answers: spawn it.
    ///
    /// # Errors
    ///
    /// [`Error`]. Dropping the future ends the attempt, but not a request for a
    /// token that is under way.
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        let progress = Progress::default();
        let clock = self.0.tokens.clock().clone();
        let limit = self.0.config.connect_timeout;
        let connecting = Connecting { began: clock.monotonic(), limit };
        let outcome = clock::timeout(&*clock, limit, self.log_in(&progress, connecting)).await;
        outcome.unwrap_or_else(|Elapsed| {
            Err(match progress.get() {
                (Stage::Token, _) => Error::Token(self.0.tokens.timed_out(limit)),
                (stage, server) => Error::TimedOut { stage, server, limit },
            })
        })
    }

    /// What the connections are made with, for
    /// [`cancel_query`](tokio_postgres::CancelToken::cancel_query).
    #[must_use]
    pub fn tls(&self) -> MakeRustlsConnect {
        self.0.tls.clone()
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }

    /// How things stand.
    #[must_use]
    pub fn report(&self) -> ConnectorReport {
        let counts = &self.0.counts;
        ConnectorReport {
            logins: counts.logins.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            renewed: counts.renewed.load(Relaxed),
            retired: counts.retired.load(Relaxed),
            token: self.0.tokens.report(),
        }
    }

    pub(super) fn count_retired(&self) {
        self.0.counts.retired.fetch_add(1, Relaxed);
    }

    /// With one token, and if that is refused, with another.
    async fn log_in(
        &self,
        progress: &Progress,
        connecting: Connecting,
    ) -> Result<(Client, Connection), Error> {
        let token = self.0.tokens.token().await?;
        let user = self.user(&token)?;
        let refusal = match self.log_in_with(&token, &user, progress).await {
            Err(Error::LoginRefused(refusal)) => refusal,
            Err(Error::Login(error)) => return Err(Error::Login(self.explained(error).await)),
            outcome => return outcome,
        };

        progress.token();
        let other = self.0.renewals.renew(&self.0.tokens, &token, connecting).await;
        let (token, refusal, second_try) = match other {
            Err(error) => (token, refusal, SecondTry::Failed(error)),
            Ok(None) => (token, refusal, SecondTry::NoOther),
            Ok(Some(other)) => {
                self.0.counts.renewed.fetch_add(1, Relaxed);
                match self.log_in_with(&other, &user, progress).await {
                    Err(Error::LoginRefused(refusal)) => (other, refusal, SecondTry::Refused),
                    outcome => return outcome,
                }
            }
        };
        if matches!(second_try, SecondTry::Refused) {
            self.0.renewals.pause(&self.0.tokens);
        }
        self.0.counts.refused.fetch_add(1, Relaxed);
        Err(Error::LoginRefused(self.advised(refusal, &token, &user, &second_try).await))
    }

    async fn log_in_with(
        &self,
        token: &Token,
        user: &str,
        progress: &Progress,
    ) -> Result<(Client, Connection), Error> {
        let outcome = dial::log_in(&self.0.config, &self.0.tls, user, token, progress).await;
        let (_, server) = progress.get();
        match &outcome {
            Ok(_) => {
                self.0.counts.logins.fetch_add(1, Relaxed);
                tracing::debug!(%server, user, "logged in");
            }
            Err(Error::LoginRefused(refusal)) => {
                let code = refusal.code().map(SqlState::code);
                tracing::warn!(%server, user, code, "the server refused the login");
            }
            Err(_) => {}
        }
        outcome
    }

    /// The role to log in as.
    fn user(&self, token: &Token) -> Result<String, Error> {
        if let Some(user) = self.0.config.session.get_user() {
            return Ok(user.to_owned());
        }
        let claims = token.claims().unwrap_or_default();
        match claims.principal_name() {
            Some(name) => Ok(name.to_owned()),
            None => Err(Error::NoUser { principal: advice::principal(&claims) }),
        }
    }

    /// PostgreSQL takes the role's name where no database is named.
    async fn explained(&self, error: tokio_postgres::Error) -> tokio_postgres::Error {
        let unnamed = self.0.config.session.get_dbname().is_none();
        if unnamed && error.code() == Some(&SqlState::INVALID_CATALOG_NAME) {
            let advice = "No database was named, so the role's name was taken: name it (dbname, or the URL's path).";
            return replay::with_hint(error, advice).await;
        }
        error
    }

    /// The server's error, with what to do about it.
    async fn advised(
        &self,
        refusal: tokio_postgres::Error,
        token: &Token,
        user: &str,
        second_try: &SecondTry,
    ) -> tokio_postgres::Error {
        let Some(error) = refusal.as_db_error() else { return refusal };
        let advice = Refusal {
            error,
            user,
            token,
            scope: self.0.tokens.scope(),
            now: self.0.tokens.clock().wall(),
            second_try,
        }
        .advice();
        replay::with_hint(refusal, &advice).await
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The configuration that deadpool hands over is passed by: the connector's
/// own holds.
impl deadpool_postgres::Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async move {
            match Connector::connect(self).await {
                Ok((client, connection)) => Ok((client, tokio::spawn(drive(connection)))),
                Err(Error::LoginRefused(error) | Error::Login(error)) => Err(error),
                Err(error) => Err(replay::carrying(error).await),
            }
        })
    }
}

async fn drive(connection: Connection) {
    if let Err(error) = connection.await {
        tracing::warn!(%error, "a connection ended");
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.0.config)
            .field("scope", self.0.tokens.scope())
            .finish_non_exhaustive()
    }
}
